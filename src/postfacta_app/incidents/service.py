"""The use cases that change incidents, each inside one unit of work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from ..db import Unit
from ..errors import ConflictError, FieldError, ForbiddenError, InvalidFieldsError
from ..principal import Principal
from .access import missing
from .model import Change, Incident, Kind, Move, NewIncident, State, Visibility, check_time, move
from .query import FollowUp, IncidentQuery, Rows

__all__ = ["Matches", "Moved", "Store", "archive", "change", "create", "lock_active", "missing", "transition"]

Matches = Callable[[str], None]
"""Raises if the caller did not start from the version with this ETag."""

_MOST_MEMBERS = 100


@dataclass(frozen=True, slots=True)
class Moved:
    """An incident after a transition, and whether its status changed."""

    incident: Incident
    is_new: bool


class Store(Protocol):
    """Stores incidents; returns only those that the caller may see."""

    async def page(self, principal: Principal, query: IncidentQuery) -> Rows:
        """Read a page of a list."""
        ...

    async def follow_ups(self, principal: Principal, incidents: Sequence[UUID]) -> Mapping[UUID, FollowUp]:
        """Return the follow-up of each of these."""
        ...

    async def find(self, principal: Principal, ref: UUID | int) -> Incident | None:
        """Read one."""
        ...

    async def lock(self, unit: Unit, ref: UUID | int) -> Incident | None:
        """Read one, locked until the unit ends."""
        ...

    async def insert(self, unit: Unit, new: NewIncident, *, reporter: str, declared_at: datetime) -> Incident:
        """Write a new one with its first status change."""
        ...

    async def update(self, unit: Unit, new: Incident) -> Incident:
        """Write the changeable fields as the next version."""
        ...

    async def move(
        self, unit: Unit, old: Incident, new: State, *, wish: Move, occurred_at: datetime
    ) -> Incident:
        """Write a transition and its status change."""
        ...

    async def archive(self, unit: Unit, incident: Incident) -> None:
        """Remove it from all lists."""
        ...

    async def unknown_users(self, unit: Unit, users: Sequence[UUID]) -> set[UUID]:
        """Return those of these ids that are not users."""
        ...


async def create(unit: Unit, store: Store, new: NewIncident, *, now: datetime) -> Incident:
    """Record an incident; its creator becomes a member."""
    declared_at = check_time("/declared_at", new.declared_at, now) if new.declared_at else now
    await _check_members(unit, store, new.members)
    members = _with_asker(unit, new.members)
    _check_private(unit, new.visibility, members)
    who = unit.principal
    # Names may have one character, reporters need two.
    reporter = new.reporter or (who.name[:100] if len(who.name) > 1 else who.actor)
    new = new.model_copy(update={"members": members})
    incident = await store.insert(unit, new, reporter=reporter, declared_at=declared_at)
    await unit.audit("incident.create", incident.ref, incident_id=incident.id)
    if _is_counted(incident):
        unit.counts.append(("postfacta_incidents_opened_total", incident.severity))
    return incident


async def change(unit: Unit, store: Store, ref: UUID | int, *, wish: Change, matches: Matches) -> Incident:
    """Apply a change if the caller names the current version; write nothing if it changes nothing."""
    old = await _locked(unit, store, ref)
    matches(old.etag)
    _check_active(old)
    wanted = {name: getattr(wish, name) for name in wish.model_fields_set}
    if "members" in wanted:
        await _check_members(unit, store, wish.members)
        wanted["members"] = list(dict.fromkeys(wish.members))
    if wish.visibility == Visibility.PRIVATE and old.visibility != Visibility.PRIVATE:
        wanted["members"] = _with_asker(unit, wanted.get("members", old.members))
    new = old.model_copy(update=wanted)
    if new == old:
        return old
    _check_private(unit, new.visibility, new.members)
    before, after = (it.model_dump(mode="json", include=set(wanted)) for it in (old, new))
    detail = {name: [before[name], after[name]] for name in wanted if before[name] != after[name]}
    new = await store.update(unit, new)
    await unit.audit("incident.change", new.ref, incident_id=new.id, detail=detail)
    return new


async def transition(unit: Unit, store: Store, ref: UUID | int, *, wish: Move, now: datetime) -> Moved:
    """Change its status. If it has that status already, write nothing."""
    old = await _locked(unit, store, ref)
    occurred_at = check_time("/occurred_at", wish.occurred_at, now) if wish.occurred_at else now
    state = move(State(old.status, old.ended_at, old.outcome), wish, occurred_at)
    if state is None:
        return Moved(old, is_new=False)
    _check_active(old)
    new = await store.move(unit, old, state, wish=wish, occurred_at=occurred_at)
    detail = {"from": old.status, "to": new.status, "outcome": new.outcome}
    await unit.audit("incident.move", new.ref, incident_id=new.id, detail=detail)
    if _is_counted(new):
        unit.counts.append(("postfacta_incident_transitions_total", old.status, new.status, new.severity))
    return Moved(new, is_new=True)


async def archive(unit: Unit, store: Store, ref: UUID | int, *, matches: Matches) -> None:
    """Archive it; archiving again changes nothing. Responders may archive only exercises."""
    incident = await _locked(unit, store, ref)
    if not (unit.principal.is_admin or incident.kind == Kind.EXERCISE):
        raise ForbiddenError("Only administrators may archive anything but exercises")
    matches(incident.etag)
    if incident.archived_at is None:
        await store.archive(unit, incident)
        await unit.audit("incident.archive", incident.ref, incident_id=incident.id)


def _is_counted(incident: Incident) -> bool:
    # Readers of the metrics may not be members.
    return incident.kind != Kind.EXERCISE and incident.visibility is Visibility.INTERNAL


async def lock_active(unit: Unit, store: Store, ref: UUID | int) -> Incident:
    """Read one; it and everything below it stay locked until the unit ends.

    Raises:
        NotFoundError: If the caller may not see it.
        ConflictError: If it is archived.
    """
    incident = await _locked(unit, store, ref)
    _check_active(incident)
    return incident


async def _locked(unit: Unit, store: Store, ref: UUID | int) -> Incident:
    incident = await store.lock(unit, ref)
    if incident is None:
        raise missing()
    return incident


def _check_active(incident: Incident) -> None:
    if incident.archived_at is not None:
        raise ConflictError(f"{incident.ref} is archived")


async def _check_members(unit: Unit, store: Store, members: Sequence[UUID]) -> None:
    if members and (unknown := await store.unknown_users(unit, members)):
        errors = [
            FieldError(f"/members/{at}", "unknown", "is not a user")
            for at, who in enumerate(members)
            if who in unknown
        ]
        raise InvalidFieldsError("Members must be users of this service", errors=errors)


def _with_asker(unit: Unit, members: Sequence[UUID]) -> list[UUID]:
    asker = unit.principal.user_id
    return list(dict.fromkeys([*members, *([asker] if asker else [])]))


def _check_private(unit: Unit, visibility: Visibility, members: Sequence[UUID]) -> None:
    if len(members) > _MOST_MEMBERS:
        raise _refusal("/members", "too_long", f"at most {_MOST_MEMBERS} members, including yourself")
    if visibility == Visibility.PRIVATE and unit.principal.user_id is None:
        raise _refusal("/visibility", "forbidden", "an API token cannot make an incident private")
    if visibility == Visibility.PRIVATE and not members:
        raise _refusal("/members", "too_short", "a private incident needs at least one member")


def _refusal(pointer: str, code: str, message: str) -> InvalidFieldsError:
    return InvalidFieldsError(message, errors=(FieldError(pointer, code, message),))
