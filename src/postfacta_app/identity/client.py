"""An HTTP client for the Supabase project, bounded in time and size."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, NamedTuple, Self, cast

import httpx2
from pydantic import JsonValue

from postfacta_core.events import Observer, ignore
from postfacta_core.guards import Guard, Pipeline
from postfacta_core.guards.outgoing import Outgoing, refusal_in

from ..errors import slow_down
from ..settings import Settings

_MOST_BYTES: Final = 65_536
_TOO_MANY_REQUESTS, _SERVER_ERROR = 429, 500


class Reply(NamedTuple):
    """The status of a complete response, and its JSON object; empty if it is anything else, such as HTML."""

    status_code: int
    said: Mapping[str, JsonValue]


class Client:
    """Requests paths below `/auth/v1` of the project. Follows no redirects and uses no proxy.

    Args:
        name: Its name in errors and metrics.
        current: Returns the settings: where the project is, and its current key.
        guards: Around each call and its whole response, outermost first. There is no timeout but theirs.
        observer: Called with each call.
    """

    def __init__(
        self,
        name: str,
        current: Callable[[], Settings],
        *guards: Guard,
        observer: Observer = ignore,
    ) -> None:
        self.name: str = name
        self._pipeline = Pipeline(*guards)
        outgoing = Outgoing(name, tell=False, observer=observer)
        self._current = current
        self._http = httpx2.AsyncClient(
            base_url=f"{current().db_url}/auth/v1/",
            # A compressed response could expand a thousandfold.
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            transport=outgoing.transport(httpx2.AsyncHTTPTransport(trust_env=False)),
            follow_redirects=False,
            timeout=None,  # The guards' timeout is for the whole call.
            trust_env=False,
        )

    async def ask(self, method: str, path: str, body: Mapping[str, JsonValue] | None = None) -> Reply:
        """Send a request and read the whole response.

        Raise `RateLimitedError` for a 429, else `ResilienceError`, `httpx2.HTTPError` or `ValueError` if there is no
        complete answer below 500 of at most 64 KiB.
        """
        return await self._pipeline.call(self._ask, method, path, body)

    async def _ask(self, method: str, path: str, body: Mapping[str, JsonValue] | None) -> Reply:
        key = self._current().db_key
        headers = {"apikey": key.get_secret_value() if key else ""}
        async with self._http.stream(method, path, json=body, headers=headers) as response:
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

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()


def _members(body: bytes) -> Mapping[str, JsonValue]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, JsonValue]", found) if isinstance(found, dict) else {}
