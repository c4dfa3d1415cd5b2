"""Put documents together, each from one moment of the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol
from uuid import UUID

from ..actions.model import Action
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
"""A page of lines ends after this many, so that a few large incidents do not fill the memory."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An incident, and when it or what belongs to it changed last."""

    incident: Incident
    changed: datetime


@dataclass(frozen=True, slots=True)
class Pulled:
    """A page of lines.

    Attributes:
        lines: Documents as JSON, each with its line break.
        last: The place of the last one, if more follow.
        as_of: All that was committed before it is in this page and those that follow, or had not changed since.
    """

    lines: bytes
    last: Key | None
    as_of: datetime


class Store(Protocol):
    """Where incidents are, and what was said about them."""

    async def find(self, unit: Unit, ref: UUID | int) -> Incident | None:
        """Read one, if the asker may see it."""
        ...

    async def page(
        self, unit: Unit, filters: IncidentFilters, *, after: Key | None, limit: int
    ) -> Sequence[Seen]:
        """List those that the asker may see, what changed longest ago first."""
        ...

    async def as_of(self, unit: Unit) -> datetime:
        """Tell the instant before which no change is missing from what the unit sees."""
        ...

    async def remarks(self, unit: Unit, incident_id: UUID) -> Sequence[Remark]:
        """Read what was said about an incident that the unit has seen, oldest first."""
        ...


class Timelines(Protocol):
    """Where the facts of timelines are."""

    async def facts_in(self, unit: Unit, incident_id: UUID) -> Facts:
        """Read the facts of an incident that the unit has seen."""
        ...


class PostMortems(Protocol):
    """Where revisions are."""

    async def read(
        self, principal: Principal, incident_id: UUID, rev: int | None = None, *, fetch: Fetch | None = None
    ) -> Revision | None:
        """Read one that the asker may see, by default the last."""
        ...


class Actions(Protocol):
    """Where actions are."""

    async def of(
        self, principal: Principal, incident_id: UUID, *, fetch: Fetch | None = None
    ) -> Sequence[Action]:
        """Read all of an incident."""
        ...


class Links(Protocol):
    """Where links are."""

    async def of(
        self, principal: Principal, incident_id: UUID, *, fetch: Fetch | None = None
    ) -> Sequence[IncidentLink]:
        """Read all of an incident whose other end the asker may see."""
        ...


@dataclass(frozen=True, slots=True)
class Needs:
    """All that a document is put together from."""

    store: Store
    timelines: Timelines
    postmortems: PostMortems
    actions: Actions
    links: Links


async def one(unit: Unit, needs: Needs, ref: UUID | int, *, rev: int | None) -> Document:
    """Take out one incident, with its post-mortem as of a revision, or the last.

    Raises:
        NotFoundError: If the asker may not see it, or there is no such revision.
    """
    incident = await needs.store.find(unit, ref)
    if incident is None:
        raise missing()
    document = await _document(unit, needs, incident, rev=rev)
    if rev is not None and document.postmortem is None:
        raise NotFoundError("There is no such revision, or none that you may read")
    return document


async def pull(
    unit: Unit, needs: Needs, filters: IncidentFilters, *, after: Key | None, limit: int
) -> Pulled:
    """Take out a page of incidents, what changed longest ago first: one that changes meanwhile comes again."""
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
    actions = await needs.actions.of(who, incident.id, fetch=fetch)
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
