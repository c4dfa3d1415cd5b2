"""Announces to open pages that an incident changed; they fetch it by an ordinary request.

1. An announcement has no content: access, caching and limits are those of the page. One that is
   lost or doubled does no harm.
2. The table is the truth. A process reads what changed when PostgreSQL notifies it, and each 5 s. A
   write may be committed after one that has a later instant: the last 30 s are read again.
3. Who may see an incident is judged as its stream begins. Once a user loses a right, or an
   incident is hidden, all streams of the process end, and clients come back with a new request. An
   incident that became private is not announced to those who have watched it before.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from random import randint
from typing import Annotated, Final
from uuid import UUID

import anyio
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from postfacta_core.feed import HEADERS, Feed, FeedEvent
from postfacta_postgres import Database

from .db import CHANNEL, Reader
from .incidents.access import CHANGED, Ref, read_incident
from .incidents.model import Visibility
from .principal import Access
from .web.slices import Routes, part

_MOST_KEPT: Final = 1000
_AGAIN: Final = timedelta(seconds=30)  # Longer than any transaction of ours.
_PAUSE: Final = 1.0  # Seconds from one announcement of a stream to the next.
_READ: Final = f"""
select i.id, {CHANGED} as at, i.visibility
  from incidents i
 where {CHANGED} > $1
 order by at desc, i.id
 limit {_MOST_KEPT}"""  # noqa: S608 - only constants of our modules
routes: Final = Routes("incident")


class Announcements:
    """The changes of all incidents, and the streams of this process that are open."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._feed = Feed("incidents", most_kept=_MOST_KEPT)
        self._waiting: set[anyio.CancelScope] = set()
        self._round = 0

    def running(self) -> AbstractAsyncContextManager[None]:
        """Follow the table while the block runs."""
        return self._feed.follow(self._read, wake=self._database.listen(CHANNEL))

    def after(self, act: Callable[[], object]) -> Callable[[], None]:
        """Return a function that acts, and ends all streams that are open."""

        def end() -> None:
            act()
            self._round += 1
            for scope in self._waiting:
                scope.cancel()

        return end

    async def stream(
        self, incident: UUID, visibility: Visibility, last_id: str | None
    ) -> AsyncIterator[bytes]:
        """Return the announcements of one incident, as server-sent events."""

        def may_see(event: FeedEvent) -> bool:
            return event.key == str(incident) and event.data in {visibility, Visibility.INTERNAL}

        begun = self._round
        pieces = self._feed.stream(last_id, may_see=may_see, pause=_PAUSE)
        while begun == self._round:
            piece = b""
            with anyio.CancelScope() as scope:
                self._waiting.add(scope)
                try:
                    piece = await anext(pieces)
                finally:
                    self._waiting.discard(scope)
            if begun == self._round:
                yield piece
        yield b"retry: %d\n\n" % randint(500, 3000)  # noqa: S311 - it spreads clients

    async def _read(self, last_id: str) -> Sequence[FeedEvent]:
        since = datetime.fromtimestamp(0, UTC)
        if last_id:
            since = datetime.fromisoformat(last_id.partition("/")[0]) - _AGAIN
        rows = await self._database.fetch(
            _READ, since, operation="incidents_changed", repeatable=True
        )
        return [
            FeedEvent(
                row["visibility"],
                id=f"{row['at'].isoformat()}/{row['id']}",
                key=str(row["id"]),
                name="changed",
            )
            for row in reversed(rows)
        ]


@routes.page("/incidents/{ref}/events", Access.READ)
async def events(
    q: Reader, ref: Ref, *, request: Request, live: Annotated[Announcements, part(Announcements)]
) -> Response:
    incident = await read_incident(q, ref)
    if request.method == "HEAD":
        return Response(headers=dict(HEADERS))
    pieces = live.stream(incident.id, incident.visibility, request.headers.get("last-event-id"))
    return StreamingResponse(pieces, headers=dict(HEADERS))
