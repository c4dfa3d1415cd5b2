"""Requests of other clients in the shape that `Outgoing` reads, with the names of their errors.

No client is imported: of requests and aiohttp the objects come from the caller, and the classes of
their errors from the modules that made these. `Outgoing` reads a request as httpx has it: `method`,
`url` with `scheme`, `host`, `port` and `path`, `headers`, `stream`, `extensions`, and `content`,
which raises if the body can be sent once only.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import anyio

__all__ = ["GuardedAdapter", "Handler", "SessionRequest", "TaskRequest", "names_of"]


@dataclass(frozen=True, slots=True)
class Names:
    """How a client calls its errors.

    Attributes:
        stalled: The class for a response that stands still.
        late: For a call without time left.
        base: For each error of a guard.
        waited: Its time-outs.
        lost: What happens on the wire.
        unsent: Of that, what happens before anything is sent.
    """

    stalled: str
    late: str
    base: str
    waited: frozenset[str]
    lost: frozenset[str]
    unsent: frozenset[str]


_HTTPX: Final = Names(
    "ReadTimeout",
    "TimeoutException",
    "TransportError",
    waited=frozenset({"TimeoutException"}),
    lost=frozenset({"TransportError"}),
    unsent=frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout"}),
)
_NAMES: Final = {
    "aiohttp": Names(
        "SocketTimeoutError",
        "ServerTimeoutError",
        "ClientError",
        waited=frozenset({"TimeoutError"}),
        lost=frozenset({"ClientConnectionError", "ClientPayloadError", "TimeoutError"}),
        unsent=frozenset({"ClientConnectorError", "ConnectionTimeoutError"}),
    ),
    # The last two are of urllib3: the reason of a `ConnectionError`.
    "requests": Names(
        "ReadTimeout",
        "Timeout",
        "RequestException",
        waited=frozenset({"Timeout"}),
        lost=frozenset({"ChunkedEncodingError", "ConnectionError", "Timeout"}),
        unsent=frozenset({"ConnectTimeout", "NewConnectionError", "ConnectTimeoutError"}),
    ),
}


def names_of(request: Any) -> tuple[Names, Any]:
    """Return how the client of a request calls its errors, and the module that has them."""
    for kind in type(getattr(request, "origin", request)).__mro__:
        root = kind.__module__.partition(".")[0]
        names = _NAMES.get(root, _HTTPX)
        if hasattr(sys.modules.get(root), names.base):
            return names, sys.modules[root]
    return _HTTPX, None


class _Address(NamedTuple):
    """Where a request goes."""

    scheme: str
    host: str
    port: int | None
    path: str


class _Request:
    """A request of another client.

    Attributes:
        origin: What the client has made.
    """

    def __init__(
        self, method: str, url: Any, *, headers: Any, stream: Any, extensions: Any
    ) -> None:
        self.method: str = method
        self.url: Any = url
        self.headers: Any = headers
        self.stream: Any = stream
        self.extensions: Any = extensions
        self.origin: Any = stream

    @property
    def content(self) -> object:
        """The body, if it can be sent again."""
        body = self.origin.body
        if self.is_read(body):
            raise TypeError("a body that is read while it is sent")
        return body

    def is_read(self, body: Any) -> bool:
        """Return whether a body cannot be read a second time."""
        raise NotImplementedError


class SessionRequest(_Request):
    """A prepared request of a session of `requests`, with the options of its sending."""

    def is_read(self, body: Any) -> bool:
        """Only what is whole in memory can be read again."""
        return not (body is None or isinstance(body, bytes | str))


class GuardedAdapter:
    """An adapter of a session of `requests`, around another one."""

    def __init__(self, inner: Any, send: Callable[[Any, SessionRequest], Any]) -> None:
        self._inner = inner
        self._send = send

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def send(self, request: Any, *, timeout: Any = None, **options: Any) -> Any:
        """Send a prepared request through the guards."""
        waits: Any = timeout
        if not isinstance(timeout, tuple):
            waits = (timeout, timeout)
        if not all(wait is None or isinstance(wait, int | float) for wait in waits):
            raise TypeError(
                "a session with Outgoing.adapter needs its timeout in seconds, a number or a pair"
                f" of (connect, read), not {timeout!r}"
            )
        url: str = request.url
        address = urlsplit(url)
        call = SessionRequest(
            request.method,
            _Address(address.scheme, address.hostname or "", address.port, address.path),
            headers=request.headers,
            stream=request,
            extensions={
                "timeout": dict(zip(("connect", "read"), waits, strict=True)),
                "options": options,
            },
        )
        return self._send(self, call)

    def handle_request(self, request: SessionRequest) -> Any:
        """Send a request by the adapter inside."""
        prepared = request.origin.copy()
        prepared.headers = request.headers
        waits = request.extensions["timeout"]
        timeout = (waits["connect"], waits["read"])
        return self._inner.send(prepared, timeout=timeout, **request.extensions["options"])

    def close(self) -> None:
        """Close the adapter inside."""
        self._inner.close()


class TaskResponse:
    """A response of `aiohttp`, as `Outgoing` and `is_failure` read it."""

    def __init__(self, response: Any) -> None:
        self.response: Any = response
        self.status_code: int = response.status
        self.headers: Any = response.headers

    async def aclose(self) -> None:
        """Give its connection back, or close it if something is left to read."""
        self.response.release()


class TaskRequest(_Request):
    """A request of a session of `aiohttp`."""

    def is_read(self, body: Any) -> bool:
        """A payload knows whether it was used up."""
        return bool(getattr(body, "consumed", False))


class Handler:
    """What is inside of a middleware of a session of `aiohttp`."""

    def __init__(self, handler: Callable[[Any], Awaitable[Any]]) -> None:
        self._handler = handler

    async def handle_async_request(self, request: TaskRequest) -> TaskResponse:
        """Send a request by the handler inside."""
        request.origin.headers.update(request.headers)
        waits = request.extensions.get("timeout", {}).values()
        with anyio.fail_after(min(waits, default=None)):
            return TaskResponse(await self._handler(request.origin))
