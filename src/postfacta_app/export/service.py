"""Build export documents, each from one snapshot of the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol
from uuid import UUID

from .. import actions as action_items
from ..aside import aside
from ..db import Fetch, Unit
from ..errors import NotFoundError
from ..incidents.model import Incident
from ..incidents.query import IncidentFilters, Key
from ..incidents.service import missing
from ..links.model import IncidentLink
from ..postmortems.model import PostMortem, Revision
from ..principal import Principal
from ..timeline.model import Facts
from ..timeline.rules import build
from .model import Document, Remark, TimelineDocument

__all__ = ["Needs", "Pulled", "Seen", "one", "pull"]

_MOST_BYTES: Final = 8 * 2**20
"""The most bytes of a page, so that a few large incidents do not exhaust memory."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An incident, and the last change of it or anything below it."""

    incident: Incident
    changed: datetime


@dataclass(frozen=True, slots=True)
class Pulled:
    """A page of lines.

    Attributes:
        lines: Documents as JSON, each with its line break.
        last: The position of the last one, if more follow.
        as_of: Every change committed before it is in this page, a later one, or an earlier pull.
    """

    lines: bytes
    last: Key | None
    as_of: datetime


class Store(Protocol):
    """Stores incidents and their annotations."""

    async def find(self, unit: Unit, ref: UUID | int) -> Incident | None:
        """Read one, if the caller may see it."""
        ...

    async def page(
        self, unit: Unit, filters: IncidentFilters, *, after: Key | None, limit: int
    ) -> Sequence[Seen]:
        """List those that the caller may see, least recently changed first."""
        ...

    async def as_of(self, unit: Unit) -> datetime:
        """Return the instant before which the unit misses no change."""
        ...

    async def remarks(self, unit: Unit, incident_id: UUID) -> Sequence[Remark]:
        """Read the annotations of an incident that the unit has read, oldest first."""
        ...


class Timelines(Protocol):
    """Stores the facts of timelines."""

    async def facts_in(self, unit: Unit, incident_id: UUID) -> Facts:
        """Read the facts of an incident that the unit has read."""
        ...


class PostMortems(Protocol):
    """Stores revisions."""

    async def read(
        self, principal: Principal, incident_id: UUID, rev: int | None = None, *, fetch: Fetch | None = None
    ) -> Revision | None:
        """Read one that the caller may see, by default the last."""
        ...


class Links(Protocol):
    """Stores links."""

    async def of(
        self, principal: Principal, incident_id: UUID, *, fetch: Fetch | None = None
    ) -> Sequence[IncidentLink]:
        """Read all of an incident whose other end the caller may see."""
        ...


@dataclass(frozen=True, slots=True)
class Needs:
    """The stores that a document is built from."""

    store: Store
    timelines: Timelines
    postmortems: PostMortems
    links: Links


async def one(unit: Unit, needs: Needs, ref: UUID | int, *, rev: int | None) -> Document:
    """Export one incident, with a given revision of its post-mortem or the last.

    Raises:
        NotFoundError: If the caller may not see it, or there is no such revision.
    """
    incident = await needs.store.find(unit, ref)
    if incident is None:
        raise missing()
    document = await _document(unit, needs, incident, rev=rev)
    if rev is not None and document.postmortem is None:
        raise NotFoundError("No such revision, or none that you may read")
    return document


async def pull(
    unit: Unit, needs: Needs, filters: IncidentFilters, *, after: Key | None, limit: int
) -> Pulled:
    """Export a page of incidents, least recently changed first; one that changes in the meantime is repeated."""
    seen = await needs.store.page(unit, filters, after=after, limit=limit + 1)
    lines, last = bytearray(), None
    for at, each in enumerate(seen):
        if at == limit or len(lines) >= _MOST_BYTES:
            break
        document = await _document(unit, needs, each.incident)
        lines += await aside(document.size, document.__pydantic_serializer__.to_json, document) + b"\n"
        last = (each.changed, each.incident.id) if at + 1 < len(seen) else None
    return Pulled(bytes(lines), last, await needs.store.as_of(unit))


async def _document(unit: Unit, needs: Needs, incident: Incident, *, rev: int | None = None) -> Document:
    who, fetch = unit.principal, unit.fetch
    facts = await needs.timelines.facts_in(unit, incident.id)
    revision = await needs.postmortems.read(who, incident.id, rev, fetch=fetch)
    remarks = await needs.store.remarks(unit, incident.id)
    actions = await action_items.of(unit, incident.id)
    links = await needs.links.of(who, incident.id, fetch=fetch)

    def put_together() -> Document:
        timeline = build(facts)
        return Document(
            incident=incident,
            timeline=TimelineDocument(
                digest=timeline.digest,
                rules=timeline.rules,
                milestones=timeline.milestones,
                entries=timeline.entries,
            ),
            annotations=remarks,
            postmortem=None if revision is None else PostMortem.of(revision, facts, timeline),
            actions=actions,
            links=links,
        )

    return await aside(facts.size, put_together)
