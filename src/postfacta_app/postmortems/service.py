"""The use cases that write revisions, each inside one unit of work.

They lock the incident first, so of two concurrent writers the second sees the first one's revision. Their stamp
orders the revision among the facts: the timeline as of it is what its author could see.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from .. import actions
from ..db import Fetch, Unit
from ..errors import FieldError, InvalidFieldsError, NotFoundError, NotPublishableError
from ..incidents.model import Incident
from ..incidents.query import IncidentFilters
from ..incidents.service import Store as Incidents, lock_active
from ..principal import Principal
from ..timeline.model import Facts
from ..timeline.rules import RULES
from .content import SCHEMA_VERSION, Content
from .model import (
    Draft,
    FactorCount,
    Restore,
    Revision,
    RevisionSummary,
    Stage,
    Transition,
    lacks,
    move,
    next_stage,
)

__all__ = ["Matches", "Names", "Needs", "Store", "Written", "missing", "restore", "transition", "write"]

Matches = Callable[[str | None], None]
"""Raises if the caller did not start from the revision with this ETag; None is before the first one."""
Names = Callable[[Collection[str]], Awaitable[Mapping[str, str]]]
"""Returns the display names of actors; those without one are omitted."""


@dataclass(frozen=True, slots=True)
class Written:
    """The post-mortem's last revision, and whether it is new."""

    revision: Revision
    is_new: bool


class Store(Protocol):
    """Stores revisions; returns only those whose incident and status the caller may see."""

    async def read(
        self, principal: Principal, incident_id: UUID, rev: int | None = None, *, fetch: Fetch | None = None
    ) -> Revision | None:
        """Read one, by default the last."""
        ...

    async def page(
        self, principal: Principal, incident_id: UUID, *, before: int | None, limit: int
    ) -> Sequence[RevisionSummary]:
        """List them, newest first."""
        ...

    async def append(self, unit: Unit, revision: Revision) -> Revision | None:
        """Write the next one; None if its content is too large."""
        ...

    async def factors(self, principal: Principal, filters: IncidentFilters) -> Sequence[FactorCount]:
        """Count the factors of published post-mortems."""
        ...


class Timelines(Protocol):
    """Stores the facts of timelines."""

    async def facts(self, principal: Principal, ref: UUID | int) -> tuple[Incident, Facts] | None:
        """Read an incident and its facts, if the caller may see it."""
        ...

    async def digest_in(self, unit: Unit, incident_id: UUID) -> str:
        """Return the digest of the timeline of an incident that the unit has locked."""
        ...


@dataclass(frozen=True, slots=True)
class Needs:
    """The stores that a post-mortem needs."""

    incidents: Incidents
    revisions: Store
    timelines: Timelines


async def write(unit: Unit, needs: Needs, ref: UUID | int, *, wish: Draft, matches: Matches) -> Written:
    """Write new content as the next revision; equal content writes nothing."""
    base = await _locked(unit, needs, ref, matches=matches)
    if base.last is not None and base.last.content == wish.content:
        return Written(base.last, is_new=False)
    stage = next_stage(base.stage)
    return await _append(unit, needs, base, status=stage, content=wish.content, message=wish.message)


async def transition(
    unit: Unit, needs: Needs, ref: UUID | int, *, wish: Transition, matches: Matches
) -> Written:
    """Change its status, as a revision with the same content.

    Raises:
        NotPublishableError: With all that is missing.
    """
    base = await _locked(unit, needs, ref, matches=matches)
    if not move(base.stage, wish) and base.last is not None:
        return Written(base.last, is_new=False)
    content = Content() if base.last is None else base.last.content
    if wish.to is Stage.PUBLISHED:
        await _check_publishable(unit, needs, base.incident.id, content=content)
    return await _append(unit, needs, base, status=wish.to, content=content, message=wish.message)


async def restore(unit: Unit, needs: Needs, ref: UUID | int, *, wish: Restore, matches: Matches) -> Written:
    """Write the content of an older revision as the next one; equal content writes nothing."""
    base = await _locked(unit, needs, ref, matches=matches)
    source = await needs.revisions.read(unit.principal, base.incident.id, wish.rev, fetch=unit.fetch)
    if base.last is None or source is None:
        raise InvalidFieldsError(
            "/rev is not a revision", errors=[FieldError("/rev", "unknown", "is not a revision")]
        )
    if base.last.content == source.content:
        return Written(base.last, is_new=False)
    stage = next_stage(base.stage)
    return await _append(unit, needs, base, status=stage, content=source.content, restored_from=source.rev)


def missing() -> NotFoundError:
    """Return the one error for what is not written and for what the caller may not read yet."""
    return NotFoundError("No post-mortem, or none that you may read")


@dataclass(frozen=True, slots=True)
class _Base:
    """The base of a new revision: the locked incident and the previous revision."""

    incident: Incident
    last: Revision | None

    @property
    def stage(self) -> Stage | None:
        return None if self.last is None else self.last.status


async def _locked(unit: Unit, needs: Needs, ref: UUID | int, *, matches: Matches) -> _Base:
    incident = await lock_active(unit, needs.incidents, ref)
    last = await needs.revisions.read(unit.principal, incident.id, fetch=unit.fetch)
    matches(None if last is None else last.etag)
    return _Base(incident, last)


async def _check_publishable(unit: Unit, needs: Needs, incident_id: UUID, *, content: Content) -> None:
    unowned = [
        action for action in await actions.of(unit, incident_id) if action.is_open and action.owner is None
    ]
    if lacking := lacks(content, has_owners=not unowned):
        detail = f"Before it can be published, add: {', '.join(lacking)}"
        extra = {"missing": lacking, "actions_without_owner": [str(action.id) for action in unowned]}
        raise NotPublishableError(detail, extra=extra)


async def _append(
    unit: Unit,
    needs: Needs,
    base: _Base,
    *,
    status: Stage,
    content: Content,
    message: str | None = None,
    restored_from: int | None = None,
) -> Written:
    incident, last = base.incident, base.last
    at = await unit.stamp(incident.id)
    revision = await needs.revisions.append(
        unit,
        Revision(
            incident_id=incident.id,
            rev=1 if last is None else last.rev + 1,
            status=status,
            schema_version=SCHEMA_VERSION,
            content=content,
            timeline_digest=await needs.timelines.digest_in(unit, incident.id),
            timeline_at=at,
            rules=RULES,
            message=message,
            restored_from=restored_from,
            author=unit.principal.actor,
            at=at,
        ),
    )
    if revision is None:
        error = FieldError("/content", "too_long", "must be at most 512 KiB in total")
        raise InvalidFieldsError("Shorten the post-mortem, or move parts of it elsewhere", errors=[error])
    detail = {"rev": revision.rev, "from": base.stage, "to": status}
    await unit.audit("postmortem.write", incident.ref, incident_id=incident.id, detail=detail)
    return Written(revision, is_new=True)
