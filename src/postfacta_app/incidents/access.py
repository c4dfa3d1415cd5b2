"""How other slices reach an incident: as a reader, or locked to be changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Annotated, Protocol
from uuid import UUID

from ..db import VISIBLE, Query, Sql, Unit, row
from ..errors import ConflictError, NotFoundError
from ..web.slices import Call, Fill
from ..web.stale import allow_stale
from .model import Incident, Visibility

__all__ = [
    "COLUMNS", "Ref", "Share", "lock", "lock_active", "missing", "read_ref", "ref_of", "ref_text", "seen",
]  # fmt: skip

_NUMBER = re.compile(r"INC-([1-9][0-9]{0,17})", re.ASCII)  # 18 digits always fit a bigint
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)

# Spelled out, never `*`: a column added by a migration must not break a prepared statement.
COLUMNS = """i.id, i.number, i.title, i.description, i.kind, i.severity, i.status, i.outcome, i.reporter, i.owner,
  i.services, i.teams, i.visibility, i.members, i.declared_at, i.ended_at, i.archived_at, i.version,
  i.created_by, i.created_at, i.updated_at"""
"""The columns of the incident `i` that are read as an `Incident`."""
_FIND = f"""
select {COLUMNS} from incidents i
 where {VISIBLE} and (i.id = $3::uuid or i.number = $4::bigint)"""  # noqa: S608 - only constants of this module and db.py
_SEEN = Sql("incident_get", _FIND)
_LOCKED = Sql("incident_lock", f"{_FIND} for update")


def read_ref(text: str) -> UUID | int | None:
    """Return the incident that a text names; None if it is neither `INC-12` nor a UUID."""
    if number := _NUMBER.fullmatch(text):
        return int(number[1])
    return UUID(text) if _UUID.fullmatch(text) else None


def ref_of(ref: UUID | int) -> tuple[UUID | None, int | None]:
    """Return the two arguments that select an incident by id or number."""
    return (ref, None) if isinstance(ref, UUID) else (None, ref)


def ref_text(ref: UUID | int) -> str:
    """Return what `read_ref` reads."""
    return str(ref) if isinstance(ref, UUID) else f"INC-{ref}"


def missing() -> NotFoundError:
    """Return the one error for what does not exist and for what the caller may not see."""
    return NotFoundError("No such incident")


def _in_path(call: Call, name: str) -> UUID | int:
    ref = read_ref(call.request.path_params[name])
    if ref is None:
        raise missing()
    return ref


class Shown(Protocol):
    """An incident, or a view of it."""

    @property
    def visibility(self) -> Visibility:
        """Who may see it."""
        ...


def _share(call: Call, _: str) -> Callable[[Iterable[Shown]], None]:
    def share(shown: Iterable[Shown]) -> None:
        if call.typed.refusal is None and Visibility.PRIVATE not in [it.visibility for it in shown]:
            allow_stale(call.request)

    return share


Ref = Annotated[UUID | int, Fill(_in_path)]
"""The incident that this part of the path names: `INC-12` or a UUID."""
Share = Annotated[Callable[[Iterable[Shown]], None], Fill(_share)]
"""Lets the response be repeated while the database is away, unless one of these incidents is private."""


async def seen(q: Query, ref: UUID | int) -> Incident:
    """Read one that the caller may see.

    Raises:
        NotFoundError: If there is none.
    """
    incident = await row(q, Incident, _SEEN, *ref_of(ref))
    if incident is None:
        raise missing()
    return incident


async def lock(unit: Unit, ref: UUID | int) -> Incident:
    """Read one; it and everything below it stay locked until the unit ends.

    Raises:
        NotFoundError: If the caller may not see it.
    """
    incident = await row(unit, Incident, _LOCKED, *ref_of(ref))
    if incident is None:
        raise missing()
    unit.about.add(incident.id)
    return incident


async def lock_active(unit: Unit, ref: UUID | int) -> Incident:
    """Lock one to change it, or what is below it.

    Raises:
        ConflictError: If it is archived.
    """
    incident = await lock(unit, ref)
    check_active(incident)
    return incident


def check_active(incident: Incident) -> None:
    """Refuse a change of an archived one."""
    if incident.archived_at is not None:
        raise ConflictError(f"{incident.ref} is archived")
