"""Replay earlier responses while the database is unavailable.

A caller gets their own last response to the same URL, marked as stale; another role or browser session is another
caller. A response is cached only if its handler declares it free of private data, whose visibility can change at any time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from itertools import chain
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from postfacta_core.clock import MONOTONIC, WALL, Clock
from postfacta_core.errors import DeadlineExceededError, ReadOnlyDatabaseError, RejectedError, ResilienceError
from postfacta_core.guards._kept import LastValues

from ..errors import AppError
from ..principal import Principal
from .body import if_none_match
from .render import mark_stale

MAX_AGE: Final = 900.0  # the age in seconds up to which responses are replayed

_MAX_ANSWERS: Final = 1000
_MAX_BYTES: Final = 32 * 1024 * 1024
_ALLOWED: Final = "postfacta.stale"
_OK, _NOT_MODIFIED = 200, 304


def is_away(error: ResilienceError, database: str) -> bool:
    """Return whether this database could not be read; while it is read-only, it can."""
    is_refused = isinstance(error, RejectedError | DeadlineExceededError) and error.policy == database
    return is_refused and not isinstance(error, ReadOnlyDatabaseError)


def allow_stale(request: Request) -> None:
    """Declare that the response shows nothing private, so that it may be cached."""
    request.scope[_ALLOWED] = True


class StaleAnswers:
    """Wraps handlers, and replays cached responses while the database of this name is unavailable."""

    def __init__(self, database: str, *, monotonic: Clock = MONOTONIC, wall: Clock = WALL) -> None:
        self._database = database
        self._kept = LastValues[tuple[bytes, Headers]](MAX_AGE, _MAX_ANSWERS, _MAX_BYTES)
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
        new = None
        if response.status_code == _OK:
            new = bytes(response.body), Headers(raw=[*response.raw_headers])
        elif response.status_code == _NOT_MODIFIED and (kept := self._kept.find(key, began)):
            # What is cached stays what it is.
            new = kept[0] if kept[0][1].get("etag") == response.headers.get("etag") else None
        if new is None or _ALLOWED not in request.scope:
            self._kept.drop(key)
        else:
            size = len(new[0]) + sum(map(len, (*key[1:], *chain(*new[1].raw))))
            self._kept.keep(key, new, began, generation, size)
        return response

    def _again(self, request: Request, kept: tuple[bytes, Headers], seconds: float) -> Response:
        (body, before), age = kept, int(seconds)
        # RFC 9211, 2.2: never fresh, so stale since it was stored.
        headers = {
            **{name: text for name, text in before.items() if name != "content-length"},
            "age": str(age),
            "cache-status": f"postfacta; hit; ttl={-age}; detail=database-unavailable",
            "cache-control": "no-store",
        }
        if "etag" in headers and if_none_match(request, headers["etag"]):
            return Response(status_code=_NOT_MODIFIED, headers=headers)
        if headers.get("content-type", "").startswith("text/html"):
            body = mark_stale(body, datetime.fromtimestamp(self._wall() - age, UTC))
        return Response(body, headers=headers)
