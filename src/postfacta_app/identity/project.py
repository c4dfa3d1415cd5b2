"""The Supabase project over HTTP: a client that is bounded in time and size."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, cast

import httpx2
from pydantic import JsonValue

from postfacta_adapters.httpx import Outgoing, refusal_in
from postfacta_core.events import Observer, ignore
from postfacta_core.guards import Guard, Pipeline

from ..errors import slow_down
from ..settings import Settings

_MOST_BYTES: Final = 65_536
_OK, _TOO_MANY_REQUESTS, _SERVER_ERROR = 200, 429, 500


class Reply(NamedTuple):
    """The status of a complete response, and its JSON object; empty if it is anything else, such as HTML."""

    status_code: int
    said: Mapping[str, JsonValue]


class Client(httpx2.AsyncClient):
    """Requests paths below `/auth/v1` of the project, through the guards, outermost first."""

    def __init__(
        self, name: str, current: Callable[[], Settings], *guards: Guard, observer: Observer = ignore
    ) -> None:
        self.name: str = name
        self._pipeline = Pipeline(*guards)
        self._current = current
        outgoing = Outgoing(name, tell=False, observer=observer)
        super().__init__(
            base_url=f"{current().db_url}/auth/v1/",
            # A compressed response could expand a thousandfold.
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            transport=outgoing.transport(httpx2.AsyncHTTPTransport(trust_env=False)),
            follow_redirects=False,
            timeout=None,  # The guards' timeout is for the whole call.
            trust_env=False,
        )

    async def ask(self, method: str, path: str, body: Mapping[str, JsonValue] | None = None) -> Reply:
        """Send a request and read the whole response, of at most 64 KiB and a status below 500.

        Raise `RateLimitedError` for a 429, else `ResilienceError`, `httpx2.HTTPError` or `ValueError`.
        """
        return await self._pipeline.call(self._ask, method, path, body)

    async def key_set(self) -> Mapping[str, JsonValue]:
        """Return the project's public keys, for a `Jwks`; raise as `ask`."""
        reply = await self.ask("GET", ".well-known/jwks.json")
        if reply.status_code != _OK:
            raise ValueError(f"status {reply.status_code}")
        return reply.said

    async def _ask(self, method: str, path: str, body: Mapping[str, JsonValue] | None) -> Reply:
        key = self._current().db_key
        headers = {"apikey": key.get_secret_value() if key else ""}
        async with self.stream(method, path, json=body, headers=headers) as response:
            read = bytearray()
            async for part in response.aiter_raw():
                read += part
                if len(read) > _MOST_BYTES:
                    raise ValueError(f"longer than {_MOST_BYTES} bytes")
        refusal = refusal_in(response, self.name)
        if response.status_code == _TOO_MANY_REQUESTS:
            raise slow_down((refusal and refusal.retry_after) or 1)
        if refusal is not None:
            raise refusal
        if response.status_code >= _SERVER_ERROR:
            response.raise_for_status()
        return Reply(response.status_code, _members(bytes(read)))


def _members(body: bytes) -> Mapping[str, JsonValue]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, JsonValue]", found) if isinstance(found, dict) else {}
