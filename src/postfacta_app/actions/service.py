"""The use cases that write action items, each inside one unit of work.

They lock the incident first, as all writes below an incident do, and stamp it, so that an incremental
pull sees the change.
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
"""The most action items of an incident; they are shown on one page."""


class Store(Protocol):
    """Stores action items; returns only those of incidents that the caller may see."""

    async def page(
        self, principal: Principal, query: ActionQuery, after: tuple[date, UUID] | None
    ) -> Sequence[Action]:
        """Read one more than a page holds, by due date."""
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
        """Write the changed fields as the next version."""
        ...


@dataclass(frozen=True, slots=True)
class Needs:
    """The stores that writing an action item needs."""

    incidents: incidents.Store
    actions: Store


async def add(unit: Unit, needs: Needs, ref: UUID | int, *, new: NewAction) -> Action:
    """Create an action item of an incident."""
    incident = await incidents.lock_active(unit, needs.incidents, ref)
    if len(await needs.actions.of(unit.principal, incident.id, fetch=unit.fetch)) >= MOST:
        raise ConflictError(f"{incident.ref} has {MOST} action items, which is the maximum")
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
    """Apply a change if the caller names the current version; write nothing if it changes nothing."""
    seen = await needs.actions.find(unit.principal, action_id, fetch=unit.fetch)
    if seen is None:
        raise missing()
    await incidents.lock_active(unit, needs.incidents, seen.incident_id)
    old = await needs.actions.find(
        unit.principal, action_id, fetch=unit.fetch
    )  # From here on the row is locked.
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
    """Return the one error for what does not exist and for what belongs to a hidden incident."""
    return NotFoundError("No such action item")
