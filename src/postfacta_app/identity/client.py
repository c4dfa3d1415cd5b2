"""An HTTP client for the Supabase project, bounded in time and size."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, cast

import httpx2
from pydantic import JsonValue

from postfacta_core.events import Observer, ignore
from postfacta_core.guards import Guard, Pipeline
from postfacta_core.guards.outgoing import Outgoing, refusal_in

from ..errors import RateLimitedError
from ..settings import Settings

_MOST_BYTES: Final = 65_536
_TOO_MANY_REQUESTS, _SERVER_ERROR = 429, 500


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete response."""

    status_code: int
    headers: Mapping[str, str]
    body: bytes

    def members(self) -> Mapping[str, JsonValue]:
        """Return its JSON object; empty if it is anything else, such as HTML."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return cast("dict[str, JsonValue]", found) if isinstance(found, dict) else {}


class Client:
    """Requests paths below `/auth/v1` of the project. Follows no redirects and uses no proxy.

    Args:
        name: Its name in errors and metrics.
        settings: Where the project is, and its key.
        guards: Around each call and its whole response, outermost first. There is no timeout but theirs.
        current: Returns the settings with the current key; by default it stays.
        observer: Called with each call.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        *guards: Guard,
        current: Callable[[], Settings] | None = None,
        observer: Observer = ignore,
    ) -> None:
        self.name: str = name
        self._pipeline = Pipeline(*guards)
        outgoing = Outgoing(name, tell=False, observer=observer)
        self._current = current or (lambda: settings)
        self._http = httpx2.AsyncClient(
            base_url=f"{settings.db_url}/auth/v1/",
            # A compressed response could expand a thousandfold.
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            transport=outgoing.transport(httpx2.AsyncHTTPTransport(trust_env=False)),
            follow_redirects=False,
            timeout=None,  # The guards' timeout is for the whole call.
            trust_env=False,
        )

    async def ask(self, method: str, path: str, body: Mapping[str, JsonValue] | None = None) -> Reply:
        """Send a request and read the whole response.

        Raises:
            RateLimitedError: If the project responds with 429.
            ResilienceError: If a guard rejects or ends it, or the project responds 503 with `Retry-After`.
            httpx2.HTTPError: If it responds with any other 5xx, or not completely.
            ValueError: If the response is longer than 64 KiB.
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
        reply = Reply(response.status_code, response.headers, bytes(read))
        refusal = refusal_in(reply, self.name)
        if reply.status_code == _TOO_MANY_REQUESTS:
            wait = math.ceil(refusal.retry_after or 1) if refusal else 1
            raise RateLimitedError(
                "Too many attempts; wait before the next one", headers={"Retry-After": str(max(1, wait))}
            )
        if refusal is not None:
            raise refusal
        if reply.status_code >= _SERVER_ERROR:
            response.raise_for_status()
        return reply

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()
