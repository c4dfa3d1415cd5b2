"""Replay earlier responses while the database is unavailable.

A caller gets their own last response to the same URL, marked as stale. A response is
cached only if its handler declares it free of private data, whose visibility can change at any time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from postfacta_core.clock import MONOTONIC, WALL, Clock
from postfacta_core.errors import (
    CircuitOpenError,
    DatabaseUnavailableError,
    DeadlineExceededError,
    LockTimeoutError,
    PoolTimeoutError,
    ResilienceError,
)
from postfacta_core.guards._kept import LastValues

from ..errors import AppError
from ..principal import Principal
from .body import if_none_match
from .render import mark_stale

MAX_AGE: Final = 900.0
"""The age in seconds up to which responses are replayed."""

_MAX_ANSWERS: Final = 1000
_MAX_BYTES: Final = 32 * 1024 * 1024
_AWAY: Final = (
    CircuitOpenError | DatabaseUnavailableError | PoolTimeoutError | LockTimeoutError | DeadlineExceededError
)
_ALLOWED: Final = "postfacta.stale"
_OK, _NOT_MODIFIED = 200, 304

Key = tuple[Principal, str, bytes]
"""The caller, path and query of a response. Another role or browser session is another caller."""


def is_away(error: ResilienceError, database: str) -> bool:
    return isinstance(error, _AWAY) and error.policy == database


def allow_stale(request: Request) -> None:
    """Declare that the response shows nothing private, so that it may be cached."""
    request.scope[_ALLOWED] = True


Kept = tuple[bytes, Mapping[str, str]]
"""The body of a response, and its headers."""


class StaleAnswers:
    """Wraps handlers, and replays cached responses while the database of this name is unavailable."""

    def __init__(self, database: str, *, monotonic: Clock = MONOTONIC, wall: Clock = WALL) -> None:
        self._database = database
        self._kept = LastValues[Kept](MAX_AGE, _MAX_ANSWERS, _MAX_BYTES)
        self._monotonic = monotonic
        self._wall = wall

    def forget(self) -> None:
        """Drop all cached responses; called when a caller may have lost access to something."""
        self._kept.clear()

    async def answer(
        self,
        request: Request,
        principal: Principal,
        handler: Callable[[Request, Principal], Awaitable[Response]],
    ) -> Response:
        """Call the handler; if the database is unavailable, replay the last response."""
        key = (principal, request.scope["path"], request.scope["query_string"])
        # A response read before a revocation must not be cached after it.
        began, generation = self._monotonic(), self._kept.generation
        try:
            response = await handler(request, principal)
        except AppError:
            self._kept.drop(key)  # Such as 404: it is gone or hidden.
            raise
        except ResilienceError as error:
            kept = self._kept.find(key, self._monotonic()) if is_away(error, self._database) else None
            if kept is None:
                raise
            return self._again(request, *kept)
        new = self._keepable(request, response, key=key, now=began)
        if new is None:
            self._kept.drop(key)
        else:
            size = len(new[0]) + sum(map(len, (*key[1:], *new[1].keys(), *new[1].values())))
            self._kept.keep(key, new, began, generation, size)
        return response

    def _keepable(self, request: Request, response: Response, *, key: Key, now: float) -> Kept | None:
        """Return what is cached of a response: that of a 304 stays what it is."""
        if _ALLOWED not in request.scope:
            return None
        if response.status_code == _OK:
            lines = [(name.decode("latin-1"), text.decode("latin-1")) for name, text in response.raw_headers]
            return bytes(response.body), dict(lines)
        kept = self._kept.find(key, now) if response.status_code == _NOT_MODIFIED else None
        etag = response.headers.get("etag")
        return kept[0] if kept and etag == kept[0][1].get("etag", "") else None

    def _again(self, request: Request, kept: Kept, seconds: float) -> Response:
        body, age = kept[0], int(seconds)
        # RFC 9211, 2.2: never fresh, so stale since it was stored.
        headers = {
            **{name: text for name, text in kept[1].items() if name != "content-length"},
            "age": str(age),
            "cache-status": f"postfacta; hit; ttl={-age}; detail=database-unavailable",
            "cache-control": "no-store",
        }
        etag = headers.get("etag")
        if etag is not None and if_none_match(request, etag):
            return Response(status_code=_NOT_MODIFIED, headers=headers)
        if headers.get("content-type", "").startswith("text/html"):
            body = mark_stale(body, datetime.fromtimestamp(self._wall() - age, UTC))
        return Response(body, headers=headers)
