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
"""The most links of an incident; they are shown on one page."""


@dataclass(frozen=True, slots=True)
class Linked:
    """A link, and whether it is new."""

    link: IncidentLink
    is_new: bool


class Store(Protocol):
    """Stores links; returns only those whose ends the caller may see."""

    async def of(
        self, principal: Principal, incident_id: UUID, *, fetch: Fetch | None = None
    ) -> Sequence[IncidentLink]:
        """Read all of an incident, oldest first."""
        ...

    async def count(self, unit: Unit, incident_id: UUID) -> int:
        """Count all links of an incident, visible to the caller or not."""
        ...

    async def ids(self, unit: Unit, refs: Sequence[UUID | int]) -> Sequence[UUID]:
        """Return the incidents that the caller may see among these, by id."""
        ...

    async def insert(self, unit: Unit, a: UUID, b: UUID, *, new: NewLink) -> bool:
        """Write a new one; return False if it existed."""
        ...

    async def delete(self, unit: Unit, a: UUID, b: UUID, *, of: LinkType) -> bool:
        """Remove one; return whether it existed."""
        ...


@dataclass(frozen=True, slots=True)
class Needs:
    """The stores that a link needs."""

    incidents: Incidents
    links: Store


async def link(unit: Unit, needs: Needs, ref: UUID | int, *, to: UUID | int | None, new: NewLink) -> Linked:
    """Link two incidents. If the link exists, write nothing."""
    here, there = await _ends(unit, needs, (ref, to))
    if here is None:
        raise missing()
    if there is None or there.id == here.id:
        code, message = ("unknown", "no such incident") if there is None else ("same", "must be another one")
        raise InvalidFieldsError(f"/to {message}", errors=[FieldError("/to", code, message)])
    is_new = await needs.links.insert(unit, *_ordered(here.id, there.id, new.type), new=new)
    if is_new:
        for end in (here, there):
            if await needs.links.count(unit, end.id) > MOST:
                raise ConflictError(f"{end.ref} has {MOST} links, which is the maximum")
        await _tell(unit, "link.create", (here, there), of=new.type)
    links = await needs.links.of(unit.principal, here.id, fetch=unit.fetch)
    made = next(
        it for it in links if it.type is new.type and it.incident.id == there.id and it.direction != "in"
    )
    return Linked(made, is_new)


async def unlink(unit: Unit, needs: Needs, ref: UUID | int, *, to: UUID | int, of: LinkType) -> None:
    """Remove a link; both of its incidents must be visible.

    Raises:
        NotFoundError: If there is none.
    """
    here, there = await _ends(unit, needs, (ref, to))
    if here is None or there is None:
        raise missing()
    if not await needs.links.delete(unit, *_ordered(here.id, there.id, of), of=of):
        raise NotFoundError("No such link")
    await _tell(unit, "link.delete", (here, there), of=of)


async def _ends(
    unit: Unit, needs: Needs, refs: tuple[UUID | int, UUID | int | None]
) -> Sequence[Incident | None]:
    """Lock both in the order of their ids, so that concurrent links cannot deadlock."""
    ids = await needs.links.ids(unit, [ref for ref in refs if ref is not None])
    found = [await lock_active(unit, needs.incidents, each) for each in sorted(ids)]
    return [next((it for it in found if ref in (it.id, it.number)), None) for ref in refs]


def _ordered(here: UUID, there: UUID, of: LinkType) -> tuple[UUID, UUID]:
    # `related` is symmetric, and stored once.
    return (min(here, there), max(here, there)) if of is LinkType.RELATED else (here, there)


async def _tell(unit: Unit, action: str, ends: tuple[Incident, Incident], *, of: LinkType) -> None:
    for one, other in (ends, ends[::-1]):
        await unit.stamp(one.id)  # So that an incremental pull sees both.
        await unit.audit(action, one.ref, incident_id=one.id, detail={"type": of, "with": other.ref})
