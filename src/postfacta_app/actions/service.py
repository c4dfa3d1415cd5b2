"""The use cases that write actions, each inside one unit of work.

They lock the incident first, as everything does that belongs to one, and stamp it, so that whoever pulls what has
changed meets it again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol
from uuid import UUID

from ..db import Fetch, Unit
from ..errors import ConflictError, NotFoundError
from ..incidents import service as incidents
from ..principal import Principal
from .model import Action, ActionChange, ActionQuery, NewAction, change as changed

__all__ = ["MOST", "Needs", "Store", "add", "change", "missing"]

MOST = 200
"""So many actions has an incident, and no more: they are shown together."""


class Store(Protocol):
    """Where actions are kept. Nobody gets one of an incident that the asker may not see."""

    async def page(
        self, principal: Principal, query: ActionQuery, after: tuple[date, UUID] | None
    ) -> Sequence[Action]:
        """Read one more than a page holds, by due day."""
        ...

    async def find(
        self, principal: Principal, action_id: UUID, *, fetch: Fetch | None = None
    ) -> Action | None:
        """Read one."""
        ...

    async def of(
        self, principal: Principal, incident_id: UUID, *, fetch: Fetch | None = None
    ) -> Sequence[Action]:
        """Read all of an incident, oldest first."""
        ...

    async def insert(self, unit: Unit, incident_id: UUID, new: NewAction) -> Action:
        """Write a new one."""
        ...

    async def update(self, unit: Unit, new: Action) -> Action:
        """Write what a change may change, as the next version."""
        ...


@dataclass(frozen=True, slots=True)
class Needs:
    """All that an action is written with."""

    incidents: incidents.Store
    actions: Store


async def add(unit: Unit, needs: Needs, ref: UUID | int, *, new: NewAction) -> Action:
    """Write down an action of an incident."""
    incident = await incidents.lock_active(unit, needs.incidents, ref)
    if len(await needs.actions.of(unit.principal, incident.id, fetch=unit.fetch)) >= MOST:
        raise ConflictError(f"{incident.ref} has {MOST} actions, which is the most")
    action = await needs.actions.insert(unit, incident.id, new)
    await unit.stamp(incident.id)
    await unit.audit("action.create", f"action:{action.id}", incident_id=incident.id)
    return action


async def change(
    unit: Unit,
    needs: Needs,
    action_id: UUID,
    *,
    wish: ActionChange,
    matches: Callable[[str], None],
    now: datetime,
) -> Action:
    """Change what was sent, if the caller knows the present version; what is already so changes nothing."""
    seen = await needs.actions.find(unit.principal, action_id, fetch=unit.fetch)
    if seen is None:
        raise missing()
    await incidents.lock_active(unit, needs.incidents, seen.incident_id)
    old = await needs.actions.find(
        unit.principal, action_id, fetch=unit.fetch
    )  # Now nobody else can change it.
    if old is None:
        raise missing()
    matches(old.etag)
    new = changed(old, wish, now)
    if new == old:
        return old
    before, after = (it.model_dump(mode="json", include=wish.model_fields_set) for it in (old, new))
    detail = {name: [before[name], after[name]] for name in after if before[name] != after[name]}
    new = await needs.actions.update(unit, new)
    await unit.stamp(new.incident_id)
    await unit.audit("action.change", f"action:{new.id}", incident_id=new.incident_id, detail=detail)
    return new


def missing() -> NotFoundError:
    """Make the answer for what is not there, and for what belongs to a hidden incident: the same."""
    return NotFoundError("There is no such action item")
