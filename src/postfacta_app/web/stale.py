"""Replay earlier responses while the database is unavailable.

A caller gets their own last response to the same URL, marked as stale. A response is
cached only if its handler declares it free of private data, whose visibility can change at any time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
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

from ..errors import AppError
from ..principal import Principal
from .body import if_none_match
from .render import mark_stale

__all__ = ["MAX_AGE", "Kept", "Key", "Shelf", "StaleAnswers", "allow_stale", "is_away"]

MAX_AGE: Final = 900.0
"""The age in seconds up to which responses are replayed."""

_AWAY: Final = (
    CircuitOpenError | DatabaseUnavailableError | PoolTimeoutError | LockTimeoutError | DeadlineExceededError
)
_ALLOWED: Final = "postfacta.stale"
_OK, _NOT_MODIFIED = 200, 304

Key = tuple[Principal, str, bytes]
"""The caller, path and query of a response. Another role or browser session is another caller."""


def is_away(error: ResilienceError, database: str) -> bool:
    """Return whether an error means that this database is unavailable."""
    away = isinstance(error, _AWAY)
    return away and error.policy == database


def allow_stale(request: Request) -> None:
    """Declare that the response shows nothing private, so that it may be cached."""
    request.scope[_ALLOWED] = True


@dataclass(frozen=True, slots=True)
class Kept:
    """A cached response, and the monotonic time of its request."""

    body: bytes
    headers: Mapping[str, str]
    at: float

    def size_bytes(self, key: Key) -> int:
        """Return its approximate size in bytes: response and URL."""
        lines = sum([len(name) + len(text) for name, text in self.headers.items()])
        return len(self.body) + lines + len(key[1]) + len(key[2])


class Shelf:
    """A least-recently-used cache of responses.

    Args:
        max_answers: The most responses.
        max_bytes: Their total size; larger responses are not cached.
    """

    def __init__(self, *, max_answers: int = 1000, max_bytes: int = 32 * 1024 * 1024) -> None:
        self._kept: OrderedDict[Key, tuple[Kept, int]] = OrderedDict()
        self._max_answers = max_answers
        self._max_bytes = max_bytes
        self._bytes = 0

    def put(self, key: Key, kept: Kept) -> None:
        """Store the last response."""
        self.drop(key)
        size = kept.size_bytes(key)
        self._kept[key] = (kept, size)
        self._bytes += size
        while len(self._kept) > self._max_answers or self._bytes > self._max_bytes:
            self.drop(next(iter(self._kept)))

    def get(self, key: Key, now: float) -> Kept | None:
        """Return the cached response unless it is too old."""
        kept, _ = self._kept.get(key, (None, 0))
        if kept is None:
            return None
        if now >= kept.at + MAX_AGE:
            self.drop(key)
            return None
        self._kept.move_to_end(key)
        return kept

    def drop(self, key: Key) -> None:
        """Remove the cached response."""
        _, size = self._kept.pop(key, (None, 0))
        self._bytes -= size

    def clear(self) -> None:
        """Remove all cached responses."""
        self._kept.clear()
        self._bytes = 0


class StaleAnswers:
    """Wraps handlers, and replays cached responses while the database is unavailable.

    Args:
        database: The name in the database's errors.
        shelf: The cache.
        monotonic: The clock for ages.
        wall: The clock for displayed times.
    """

    def __init__(
        self, database: str, *, shelf: Shelf | None = None, monotonic: Clock = MONOTONIC, wall: Clock = WALL
    ) -> None:
        self._database = database
        self._shelf = shelf or Shelf()
        self._monotonic = monotonic
        self._wall = wall
        self._era = 0

    def forget(self) -> None:
        """Drop all cached responses; called when a caller may have lost access to something."""
        self._shelf.clear()
        self._era += 1

    async def answer(
        self,
        request: Request,
        principal: Principal,
        handler: Callable[[Request, Principal], Awaitable[Response]],
    ) -> Response:
        """Call the handler; if the database is unavailable, replay the last response."""
        key = (principal, request.scope["path"], request.scope["query_string"])
        began, era = self._monotonic(), self._era
        try:
            response = await handler(request, principal)
        except AppError:
            self._shelf.drop(key)  # Such as 404: it is gone or hidden.
            raise
        except ResilienceError as error:
            now = self._monotonic()
            kept = self._shelf.get(key, now) if is_away(error, self._database) else None
            if kept is None:
                raise
            return self._again(request, kept, int(now - kept.at))
        if era == self._era:  # A response read before a revocation must not be cached after it.
            self._note(key, request, response, began=began)
        return response

    def _note(self, key: Key, request: Request, response: Response, *, began: float) -> None:
        headers = {name: text for name, text in response.headers.items() if name != "content-length"}
        if _ALLOWED not in request.scope:
            self._shelf.drop(key)
        elif response.status_code == _OK:
            self._shelf.put(key, Kept(bytes(response.body), headers, began))
        elif (
            response.status_code == _NOT_MODIFIED
            and (kept := self._shelf.get(key, began))
            and headers.get("etag") == kept.headers.get("etag", "")
        ):
            self._shelf.put(key, replace(kept, at=began))
        else:
            self._shelf.drop(key)

    def _again(self, request: Request, kept: Kept, age: int) -> Response:
        # RFC 9211, 2.2: never fresh, so stale since it was stored.
        headers = {
            **kept.headers,
            "age": str(age),
            "cache-status": f"postfacta; hit; ttl={-age}; detail=database-unavailable",
            "cache-control": "no-store",
        }
        etag = headers.get("etag")
        if etag is not None and if_none_match(request, etag):
            return Response(status_code=_NOT_MODIFIED, headers=headers)
        body = kept.body
        if headers.get("content-type", "").startswith("text/html"):
            body = mark_stale(body, datetime.fromtimestamp(self._wall() - age, UTC))
        return Response(body, headers=headers)
