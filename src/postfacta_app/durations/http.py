"""The v1 API of durations: of one incident, or of all that match the filters of the list."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final, Protocol
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from ..aside import aside
from ..db import Answer
from ..incidents import service
from ..incidents.http import allow_stale_incidents, parse_ref
from ..incidents.model import Incident, Kind
from ..incidents.query import IncidentFilters
from ..principal import Principal
from ..timeline.model import Facts, micros
from ..web.body import read_query
from .model import IncidentDurations, Measured, aggregate, durations, marks

__all__ = ["EACH", "DurationHttp", "Store", "measure_all"]

EACH: Final = 500
"""Approximate JSON bytes of the durations of one incident."""


class Store(Protocol):
    """Stores the facts of timelines."""

    async def facts(self, principal: Principal, ref: UUID | int) -> tuple[Incident, Facts] | None:
        """Read an incident, if the caller may see it, and all its facts."""
        ...

    def all_facts(
        self, principal: Principal, filters: IncidentFilters
    ) -> AsyncIterator[Sequence[tuple[Incident, Facts]]]:
        """Read in batches all matching incidents that the caller may see, with the facts that durations need."""
        ...


class DurationHttp:
    """The handlers of durations.

    Args:
        store: Where the facts of timelines are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def one(self, request: Request, principal: Principal) -> Response:
        """GET /api/v1/incidents/{ref}/durations."""
        found = await self._store.facts(principal, parse_ref(request))
        if found is None:
            raise service.missing()
        incident, facts = found
        allow_stale_incidents(request, [incident])
        known, is_open = await aside(facts.size, marks, facts)
        measured = durations(known, is_open=is_open)
        body = IncidentDurations(incident=incident.ref, milestones=dict(known), durations=measured)
        return Answer.of(200, body).response()

    async def all(self, request: Request, principal: Principal) -> Response:
        """GET /api/v1/durations."""
        filters = read_query(request, IncidentFilters)
        shown, measured = await measure_all(self._store, principal, filters)
        allow_stale_incidents(request, shown)
        return await aside(EACH * len(measured), lambda: Answer.of(200, aggregate(measured)).response())


async def measure_all(
    store: Store, principal: Principal, filters: IncidentFilters
) -> tuple[list[Incident], list[Measured]]:
    """Measure all matching incidents that the caller may see; without a kind, near misses and exercises do not match."""
    if not filters.kind:
        filters = filters.model_copy(update={"kind": [Kind.INCIDENT]})
    shown: list[Incident] = []
    measured: list[Measured] = []
    async for batch in store.all_facts(principal, filters):
        shown += [incident for incident, _ in batch]
        size = sum(EACH + facts.size for _, facts in batch)
        measured += await aside(size, _measured, batch)
    return shown, measured


def _measured(batch: Sequence[tuple[Incident, Facts]]) -> list[Measured]:
    measured: list[Measured] = []
    for incident, facts in batch:
        known, is_open = marks(facts)
        lengths = durations(known, is_open=is_open)
        measured.append(Measured(incident.ref, micros(incident.declared_at), lengths))
    return measured
