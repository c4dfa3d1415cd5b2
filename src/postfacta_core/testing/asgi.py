"""Send a request to an application without a server."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio

from ..asgi._types import ASGIApp, Message


@dataclass(slots=True)
class AsgiResponse:
    """An application's answer.

    Attributes:
        status: 0 if no response was started.
        headers: As sent: names in lower case, in order.
        body: All chunks joined.
        messages: Every message the application sent.
        error: What it raised, if `raise_errors` was false.
        scope: The scope as the application left it.
    """

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list[tuple[bytes, bytes]])
    body: bytes = b""
    messages: list[Message] = field(default_factory=list[Message])
    error: Exception | None = None
    scope: Message = field(default_factory=dict[str, Any])

    def header(self, name: str) -> str | None:
        """Return a header's value, or None."""
        field = name.lower().encode()
        return next(
            (value.decode("latin-1") for key, value in self.headers if key.lower() == field), None
        )

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


async def call_asgi(
    app: ASGIApp,
    method: str = "GET",
    path: str = "/",
    *,
    headers: Sequence[tuple[str, str]] = (),
    body: bytes | Sequence[bytes] = b"",
    query: str = "",
    root_path: str = "",
    scope: Mapping[str, object] | None = None,
    disconnect_after: int | None = None,
    raise_errors: bool = True,
) -> AsgiResponse:
    """Send one request to an application as a server does, on asyncio or trio.

    `path` is decoded, `query` without `?`, and `root_path` where the server says the application is
    mounted. Names of headers are lowered, as servers do. The body is sent in one message, or one
    for each chunk. Keys of `scope` win.

    After `disconnect_after` messages from the application the client is gone: `receive` returns a
    disconnect, and `send` raises OSError; 0: once the body is read. What the application raises is
    raised here, or kept in `error`.
    """
    full: Message = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "surrogatepass"),
        "query_string": query.encode(),
        "root_path": root_path,
        "headers": [
            (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers
        ],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 80),
        "state": {},
        **(scope or {}),
    }
    exchange = _Exchange([body] if isinstance(body, bytes) else list(body), disconnect_after, full)
    try:
        await app(full, exchange.receive, exchange.send)
    except Exception as error:
        if raise_errors:
            raise
        exchange.response.error = error
    return exchange.response


class _Exchange:
    """The server's end of one request."""

    def __init__(self, chunks: list[bytes], disconnect_after: int | None, scope: Message) -> None:
        self.response = AsgiResponse(scope=scope)
        self._chunks = chunks
        self._disconnect_after = disconnect_after
        self._finished = anyio.Event()

    async def receive(self) -> Message:
        if self._chunks:
            chunk = self._chunks.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(self._chunks)}
        if not self._is_gone() and self._disconnect_after is None:
            await self._finished.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self._is_gone():
            raise OSError("the client is gone")
        response = self.response
        response.messages.append(message)
        if message["type"] == "http.response.start":
            response.status = message["status"]
            response.headers = list(message.get("headers", ()))
        elif message["type"] == "http.response.body":
            response.body += message.get("body", b"")
            if not message.get("more_body", False):
                self._finished.set()

    def _is_gone(self) -> bool:
        after = self._disconnect_after
        return after is not None and not self._chunks and len(self.response.messages) >= after
