"""The v1 API of incidents: read the request, call a use case, respond."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from postfacta_core.clock import WALL, Clock

from ..db import Answer, Transactions, Unit
from ..principal import Principal
from ..web.body import idempotency_key, if_match, if_none_match, read_body, read_query
from ..web.paging import next_link
from ..web.stale import allow_stale
from . import service
from .access import read_ref
from .model import Change, Incident, IncidentPage, Move, NewIncident, Visibility
from .query import IncidentQuery

__all__ = ["IncidentHttp", "allow_stale_incidents", "parse_ref", "read_ref"]


class IncidentHttp:
    """The handlers of `/api/v1/incidents`.

    Args:
        transactions: Runs the writes.
        store: Stores incidents.
        forget: Called when an incident's visibility may have been reduced.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        transactions: Transactions,
        store: service.Store,
        *,
        forget: Callable[[], None],
        clock: Clock = WALL,
    ) -> None:
        self._transactions = transactions
        self._store = store
        self._forget = forget
        self._clock = clock

    async def page(self, request: Request, principal: Principal) -> Response:
        """GET /api/v1/incidents."""
        query = read_query(request, IncidentQuery)
        rows = await self._store.page(principal, query)
        allow_stale_incidents(request, rows.items)
        cursor = None if rows.last is None else query.cursor_after(rows.last)
        page = IncidentPage(items=rows.items, next_cursor=cursor, as_of=rows.as_of)
        return Answer.of(200, page, next_link(request, cursor)).response()

    async def create(self, request: Request, principal: Principal) -> Response:
        """POST /api/v1/incidents."""
        new = await read_body(request, NewIncident)

        async def work(unit: Unit) -> Answer:
            incident = await service.create(unit, self._store, new, now=self._now())
            location = f"{request.url.path.rstrip('/')}/{incident.id}"
            return _incident(201, incident, {"Location": location})

        return await self._transactions.write(request, principal, work, key=idempotency_key(request))

    async def read(self, request: Request, principal: Principal) -> Response:
        """GET /api/v1/incidents/{ref}."""
        incident = await self._store.find(principal, parse_ref(request))
        if incident is None:
            raise service.missing()
        allow_stale_incidents(request, [incident])
        if if_none_match(request, incident.etag):
            return Response(status_code=304, headers={"ETag": incident.etag})
        return _incident(200, incident).response()

    async def change(self, request: Request, principal: Principal) -> Response:
        """PATCH /api/v1/incidents/{ref}."""
        ref, wish = parse_ref(request), await read_body(request, Change)

        async def work(unit: Unit) -> Answer:
            matches = _matches(request)
            return _incident(200, await service.change(unit, self._store, ref, wish=wish, matches=matches))

        try:
            return await self._transactions.write(request, principal, work)
        finally:  # Also after a failure: the outcome may be unknown, and the change committed.
            if "visibility" in wish.model_fields_set:
                self._forget()

    async def archive(self, request: Request, principal: Principal) -> Response:
        """DELETE /api/v1/incidents/{ref}."""
        ref = parse_ref(request)

        async def work(unit: Unit) -> Answer:
            await service.archive(unit, self._store, ref, matches=_matches(request))
            return Answer(204)

        return await self._transactions.write(request, principal, work)

    async def move(self, request: Request, principal: Principal) -> Response:
        """POST /api/v1/incidents/{ref}/transitions."""
        ref, wish = parse_ref(request), await read_body(request, Move)

        async def work(unit: Unit) -> Answer:
            moved = await service.transition(unit, self._store, ref, wish=wish, now=self._now())
            return _incident(201 if moved.is_new else 200, moved.incident)

        return await self._transactions.write(request, principal, work, key=idempotency_key(request))

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def parse_ref(request: Request, name: str = "ref") -> UUID | int:
    """Return the incident that this part of the path names: `INC-12` or a UUID."""
    ref = read_ref(request.path_params[name])
    if ref is None:
        raise service.missing()
    return ref


class Shown(Protocol):
    """An incident, or a view of it."""

    @property
    def visibility(self) -> Visibility:
        """Who may see it."""
        ...


def allow_stale_incidents(request: Request, shown: Iterable[Shown]) -> None:
    """Allow the response to be cached for database outages unless one of these is private."""
    if all(incident.visibility is Visibility.INTERNAL for incident in shown):
        allow_stale(request)


def _matches(request: Request) -> Callable[[str], None]:
    return lambda etag: if_match(request, etag)


def _incident(status: int, incident: Incident, headers: dict[str, str] | None = None) -> Answer:
    return Answer.of(status, incident, {"ETag": incident.etag, **(headers or {})})
