"""The use cases that write links, each inside one unit of work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from ..db import Fetch, Unit
from ..errors import ConflictError, FieldError, InvalidFieldsError, NotFoundError
from ..incidents.model import Incident
from ..incidents.service import Store as Incidents, lock_active, missing
from ..principal import Principal
from .model import IncidentLink, LinkType, NewLink

__all__ = ["MOST", "Linked", "Needs", "Store", "link", "unlink"]

MOST = 200
"""So many links has an incident, and no more: they are shown together."""


@dataclass(frozen=True, slots=True)
class Linked:
    """A link, and whether it was made just now."""

    link: IncidentLink
    is_new: bool


class Store(Protocol):
    """Where links are kept. Nobody gets one with an end that the asker may not see."""

    async def of(
        self, principal: Principal, incident_id: UUID, *, fetch: Fetch | None = None
    ) -> Sequence[IncidentLink]:
        """Read all of an incident, oldest first."""
        ...

    async def count(self, unit: Unit, incident_id: UUID) -> int:
        """Count all of an incident, whoever may see them."""
        ...

    async def ids(self, unit: Unit, refs: Sequence[UUID | int]) -> Sequence[UUID]:
        """Find the incidents that the asker may see among these, by id."""
        ...

    async def insert(self, unit: Unit, a: UUID, b: UUID, *, new: NewLink) -> bool:
        """Write a new one; tell whether it was not there."""
        ...

    async def delete(self, unit: Unit, a: UUID, b: UUID, *, of: LinkType) -> bool:
        """Take one away; tell whether it was there."""
        ...


@dataclass(frozen=True, slots=True)
class Needs:
    """All that a link is made with."""

    incidents: Incidents
    links: Store


async def link(unit: Unit, needs: Needs, ref: UUID | int, *, to: UUID | int | None, new: NewLink) -> Linked:
    """Join two incidents. If they are joined so already, nothing is written."""
    here, there = await _ends(unit, needs, (ref, to))
    if here is None:
        raise missing()
    if there is None or there.id == here.id:
        code, message = ("unknown", "is no incident") if there is None else ("same", "must be another one")
        raise InvalidFieldsError(f"/to {message}", errors=[FieldError("/to", code, message)])
    is_new = await needs.links.insert(unit, *_ordered(here.id, there.id, new.type), new=new)
    if is_new:
        for end in (here, there):
            if await needs.links.count(unit, end.id) > MOST:
                raise ConflictError(f"{end.ref} has {MOST} links, which is the most")
        await _tell(unit, "link.create", (here, there), of=new.type)
    links = await needs.links.of(unit.principal, here.id, fetch=unit.fetch)
    made = next(
        it for it in links if it.type is new.type and it.incident.id == there.id and it.direction != "in"
    )
    return Linked(made, is_new)


async def unlink(unit: Unit, needs: Needs, ref: UUID | int, *, to: UUID | int, of: LinkType) -> None:
    """Take a link away; both of its incidents must be visible.

    Raises:
        NotFoundError: If there is none.
    """
    here, there = await _ends(unit, needs, (ref, to))
    if here is None or there is None:
        raise missing()
    if not await needs.links.delete(unit, *_ordered(here.id, there.id, of), of=of):
        raise NotFoundError("There is no such link")
    await _tell(unit, "link.delete", (here, there), of=of)


async def _ends(
    unit: Unit, needs: Needs, refs: tuple[UUID | int, UUID | int | None]
) -> Sequence[Incident | None]:
    """Lock both, always in the order of their ids, so that two who join the same ones never wait in a circle."""
    ids = await needs.links.ids(unit, [ref for ref in refs if ref is not None])
    found = [await lock_active(unit, needs.incidents, each) for each in sorted(ids)]
    return [next((it for it in found if ref in (it.id, it.number)), None) for ref in refs]


def _ordered(here: UUID, there: UUID, of: LinkType) -> tuple[UUID, UUID]:
    # Related is the same both ways, and stored once.
    return (min(here, there), max(here, there)) if of is LinkType.RELATED else (here, there)


async def _tell(unit: Unit, action: str, ends: tuple[Incident, Incident], *, of: LinkType) -> None:
    for one, other in (ends, ends[::-1]):
        await unit.stamp(one.id)  # Whoever pulls what has changed meets both again.
        await unit.audit(action, one.ref, incident_id=one.id, detail={"type": of, "with": other.ref})
