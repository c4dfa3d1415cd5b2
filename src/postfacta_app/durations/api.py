"""The API of durations: of one incident, or of all that match the filters of the list."""

from __future__ import annotations

from typing import Annotated, Final

from starlette.requests import Request
from starlette.responses import Response

from ..db import Reader
from ..incidents.access import Ref, Share
from ..incidents.model import IncidentFilters
from ..principal import Access
from ..web.routes import RouteClass
from ..web.slices import Routes
from ..web.stale import allow_stale
from . import postgres
from .model import Aggregates, IncidentDurations, durations

routes: Final = Routes("incident")


@routes.api(
    "GET /api/v1/incidents/{ref}/durations", Access.READ, "Read the durations of an incident", stale=True
)  # fmt: skip
async def one(q: Reader, ref: Ref, *, share: Share) -> IncidentDurations:
    incident, known, is_open = await postgres.one(q, ref)
    share(incident.visibility)
    measured = durations(known, is_open=is_open)
    return IncidentDurations(incident=incident.ref, milestones=dict(known), durations=measured)


@routes.api(
    "GET /api/v1/durations", Access.READ, "Read aggregated durations of incidents",
    kind=RouteClass.SEARCH, status=200, stale=True,
)  # fmt: skip
async def all_of(q: Reader, filters: IncidentFilters, *, request: Request) -> Annotated[Response, Aggregates]:
    text, is_private = await postgres.every(q, filters)
    if not is_private:
        allow_stale(request)
    return Response(text, media_type="application/json")
