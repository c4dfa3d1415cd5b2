"""The v1 API of durations: of one incident, or of all that match the filters of the list."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from ..aside import aside
from ..db import Answer
from ..incidents import service
from ..incidents.http import allow_stale_incidents, parse_ref
from ..incidents.query import IncidentFilters
from ..principal import Principal
from ..timeline.postgres import TimelineStore
from ..web.body import read_query
from ..web.stale import allow_stale
from .model import IncidentDurations, durations, marks
from .postgres import DurationStore

__all__ = ["DurationHttp"]


class DurationHttp:
    """The handlers of durations.

    Args:
        store: Where durations are kept.
        timelines: Where the facts of timelines are.
    """

    def __init__(self, store: DurationStore, timelines: TimelineStore) -> None:
        self._store = store
        self._timelines = timelines

    async def one(self, request: Request, principal: Principal) -> Response:
        """GET /api/v1/incidents/{ref}/durations."""
        ref = parse_ref(request)
        if (kept := await self._store.one(principal, ref)) is not None:
            incident, known, is_open = kept
        elif (found := await self._timelines.facts(principal, ref)) is not None:
            incident, facts = found
            known, is_open = await aside(facts.size, marks, facts)
        else:
            raise service.missing()
        allow_stale_incidents(request, [incident])
        measured = durations(known, is_open=is_open)
        body = IncidentDurations(incident=incident.ref, milestones=dict(known), durations=measured)
        return Answer.of(200, body).response()

    async def all(self, request: Request, principal: Principal) -> Response:
        """GET /api/v1/durations."""
        text, is_private = await self._store.all(principal, read_query(request, IncidentFilters))
        if not is_private:
            allow_stale(request)
        return Response(text, media_type="application/json")
