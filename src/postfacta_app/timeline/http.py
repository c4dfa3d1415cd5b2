"""The v1 API of timelines, edits, annotations: read the request, call a use case, respond."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol, TypeVar
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from postfacta_core.clock import WALL, Clock

from ..aside import aside
from ..db import Answer, Transactions, Unit
from ..errors import NotFoundError
from ..incidents import service
from ..incidents.access import seen
from ..incidents.model import Incident
from ..incidents.service import allow_stale_incidents, parse_ref
from ..principal import Principal
from ..web.body import idempotency_key, if_match, if_none_match, parse, read_body, read_json, read_query
from ..web.paging import next_link
from . import annotations as remarks, edits
from .annotations import AnnotationChange, AnnotationPage, NewAnnotation, ShownAnnotation
from .edits import EditPage, OpOnly, ShownEdit, model_of
from .model import Facts, micros
from .query import Paging, RowKey, Slice, TimelinePage, TimelineQuery, cut
from .rules import build

__all__ = ["Store", "TimelineHttp", "root_of"]

Row = TypeVar("Row", ShownEdit, ShownAnnotation)


class Store(edits.Store, remarks.Store, Protocol):
    """Stores the facts of timelines, edits and annotations."""

    async def slice(self, principal: Principal, ref: UUID | int, query: TimelineQuery) -> Slice | None:
        """Read a page of an incident; None if the caller may not see it, or it is not kept yet."""
        ...

    async def facts(self, principal: Principal, ref: UUID | int) -> tuple[Incident, Facts] | None:
        """Read an incident, if the caller may see it, and all its facts."""
        ...

    async def edits(self, incident_id: UUID, after: RowKey | None, limit: int) -> Sequence[ShownEdit]:
        """List edits, oldest first."""
        ...

    async def annotations(
        self, incident_id: UUID, after: RowKey | None, limit: int
    ) -> Sequence[ShownAnnotation]:
        """List annotations, oldest first."""
        ...


class TimelineHttp:
    """The handlers of timelines, edits and annotations.

    Args:
        transactions: Runs the writes.
        incidents: Stores incidents.
        store: Stores their facts.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, transactions: Transactions, incidents: service.Store, store: Store, *, clock: Clock = WALL
    ) -> None:
        self._transactions = transactions
        self._incidents = incidents
        self._store = store
        self._clock = clock

    async def timeline(self, request: Request, principal: Principal) -> Response:
        """GET /api/v1/incidents/{ref}/timeline."""
        query = read_query(request, TimelineQuery)
        if (kept := await self._store.slice(principal, parse_ref(request), query)) is not None:
            allow_stale_incidents(request, [kept.incident])
            size = 500 * len(kept.page.items)
            return await aside(size, _slice, request, kept.page, kept.etag)
        found = await self._store.facts(principal, parse_ref(request))
        if found is None:
            raise service.missing()
        incident, facts = found
        allow_stale_incidents(request, [incident])

        def slice_of() -> Response:
            timeline = build(
                facts,
                as_of=None if query.as_of is None else micros(query.as_of),
                known_as_of=None if query.known_as_of is None else micros(query.known_as_of),
                include_hidden=query.include_hidden,
            )
            return _slice(request, cut(timeline, query, incident.id), timeline.etag)

        return await aside(facts.size, slice_of)

    async def edits(self, request: Request, principal: Principal) -> Response:
        """GET /api/v1/incidents/{ref}/edits."""
        query, incident = read_query(request, Paging), await self._incident(request, principal)
        rows = await self._store.edits(incident.id, query.after(incident.id), query.limit + 1)
        items, cursor = _page(rows, query, incident)
        page = EditPage(items=items, next_cursor=cursor)
        return Answer.of(200, page, next_link(request, cursor)).response()

    async def add_edit(self, request: Request, principal: Principal) -> Response:
        """POST /api/v1/incidents/{ref}/edits."""
        ref, first = parse_ref(request), await read_body(request, OpOnly)
        new = parse(model_of(first.op), await read_json(request))

        async def work(unit: Unit) -> Answer:
            added = await edits.add(unit, self._incidents, self._store, ref=ref, new=new, now=self._now())
            return Answer.of(201, added)

        return await self._transactions.write(request, principal, work, key=idempotency_key(request))

    async def annotations(self, request: Request, principal: Principal) -> Response:
        """GET /api/v1/incidents/{ref}/annotations."""
        query, incident = read_query(request, Paging), await self._incident(request, principal)
        rows = await self._store.annotations(incident.id, query.after(incident.id), query.limit + 1)
        items, cursor = _page(rows, query, incident)
        page = AnnotationPage(items=items, next_cursor=cursor)
        return Answer.of(200, page, next_link(request, cursor)).response()

    async def annotate(self, request: Request, principal: Principal) -> Response:
        """POST /api/v1/incidents/{ref}/annotations."""
        ref, new = parse_ref(request), await read_body(request, NewAnnotation)

        async def work(unit: Unit) -> Answer:
            return _annotation(
                201,
                await remarks.add(unit, self._incidents, self._store, ref=ref, new=new, now=self._now()),
            )

        return await self._transactions.write(request, principal, work, key=idempotency_key(request))

    async def annotation(self, request: Request, principal: Principal) -> Response:
        """GET /api/v1/annotations/{root}."""
        root = root_of(request)

        async def look(unit: Unit) -> Answer:
            incident_id = await self._store.incident_of(unit, root)
            said = await self._store.annotation(unit, root)
            if incident_id is None or said is None:
                raise remarks.missing()
            try:
                await seen(unit, incident_id)
            except NotFoundError:
                raise remarks.missing() from None
            return _annotation(200, said)

        return (await self._transactions.read(principal, look)).response()

    async def change(self, request: Request, principal: Principal) -> Response:
        """PUT /api/v1/annotations/{root}."""
        root, wish = root_of(request), await read_body(request, AnnotationChange)

        async def work(unit: Unit) -> Answer:
            return _annotation(
                200,
                await remarks.change(
                    unit, self._incidents, self._store, root=root, wish=wish, matches=_matches(request)
                ),
            )

        return await self._transactions.write(request, principal, work)

    async def retract(self, request: Request, principal: Principal) -> Response:
        """DELETE /api/v1/annotations/{root}."""
        root = root_of(request)

        async def work(unit: Unit) -> Answer:
            await remarks.retract(unit, self._incidents, self._store, root=root, matches=_matches(request))
            return Answer(204)

        return await self._transactions.write(request, principal, work)

    async def _incident(self, request: Request, principal: Principal) -> Incident:
        return await seen(self._transactions.reader(principal), parse_ref(request))

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _slice(request: Request, page: TimelinePage, etag: str) -> Response:
    headers = {"ETag": etag}
    if if_none_match(request, etag):
        return Response(status_code=304, headers=headers)
    return Answer.of(200, page, headers | next_link(request, page.next_cursor)).response()


def _page(rows: Sequence[Row], query: Paging, incident: Incident) -> tuple[Sequence[Row], str | None]:
    items = rows[: query.limit]
    if len(rows) == len(items):
        return items, None
    return items, query.cursor_after(incident.id, (items[-1].at, items[-1].id))


def root_of(request: Request) -> UUID:
    """Return the annotation that a path names; anything but a UUID is not found."""
    try:
        return UUID(request.path_params["root"])
    except ValueError:
        raise NotFoundError("No such annotation") from None


def _matches(request: Request) -> Callable[[str], None]:
    return lambda etag: if_match(request, etag)


def _annotation(status: int, annotation: ShownAnnotation) -> Answer:
    return Answer.of(status, annotation, {"ETag": annotation.etag})
