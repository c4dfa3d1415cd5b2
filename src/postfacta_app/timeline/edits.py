"""What people decide about a timeline: what they send, what is kept, and how it is written."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final, Literal, Protocol
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, RootModel, StringConstraints

from ..aside import aside_locked
from ..db import Unit
from ..incidents import service
from ..incidents.model import Reason, check_time
from ..web.body import WHOLE, Time
from .model import Facts, Milestone, Op, Precision
from .rules import build

__all__ = [
    "AddedEdit",
    "AnyEdit",
    "EditPage",
    "EntryRef",
    "NewEdit",
    "OpOnly",
    "ShownEdit",
    "Store",
    "add",
    "model_of",
]

Source = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class _Sent(BaseModel):
    model_config = ConfigDict(extra="forbid")


class EntryRef(_Sent):
    """An entry of the timeline; it need not be there yet."""

    source: Source
    id: Annotated[str, StringConstraints(min_length=1, max_length=300)]


class TimeValue(_Sent):
    """When an entry really happened; it is cut to its precision, and no clock offset moves it."""

    at: Time
    precision: Precision = Precision.EXACT


class TitleValue(_Sent):
    """How an entry is to be called."""

    title: Annotated[str, StringConstraints(min_length=1, max_length=500)]


class OffsetValue(_Sent):
    """By how many milliseconds a source's clock is put forward; 0 ends it."""

    ms: Annotated[int, Field(strict=True, ge=-86_400_000, le=86_400_000), WHOLE]


class MilestoneValue(_Sent):
    """When the incident came to a turning point; null takes it back."""

    name: Milestone
    at: Time | None
    precision: Precision = Precision.EXACT


class SetTime(_Sent):
    """Correct the time of an entry; null takes the correction back."""

    op: Literal["set_time"]
    entry: EntryRef
    value: TimeValue | None
    reason: Reason


class SetTitle(_Sent):
    """Call an entry something else; null takes it back."""

    op: Literal["set_title"]
    entry: EntryRef
    value: TitleValue | None
    reason: Reason | None = None


class Hide(_Sent):
    """Leave an entry out of what is shown; it stays on record."""

    op: Literal["hide"]
    entry: EntryRef
    reason: Reason


class Flag(_Sent):
    """Show an entry again, or make it part of the narrative, or no more."""

    op: Literal["unhide", "pin", "unpin"]
    entry: EntryRef
    reason: Reason | None = None


class ClockOffset(_Sent):
    """Put the clock of a source right, for all its entries whose time nobody has set."""

    op: Literal["clock_offset"]
    source: Source
    value: OffsetValue
    reason: Reason


class SetMilestone(_Sent):
    """Say when the incident came to a turning point."""

    op: Literal["milestone"]
    value: MilestoneValue
    reason: Reason | None = None


NewEdit = SetTime | SetTitle | Hide | Flag | ClockOffset | SetMilestone


class AnyEdit(RootModel[Annotated[NewEdit, Field(discriminator="op")]]):
    """An edit; `op` says which fields it has."""


_ELSEWHERE: Final = {
    "attach": "is done by POST /api/v1/incidents/{ref}/signals",
    "detach": "is done by DELETE /api/v1/incidents/{ref}/signals/{id}",
}
_MODELS: Final[dict[str, type[NewEdit]]] = {
    "set_time": SetTime,
    "set_title": SetTitle,
    "hide": Hide,
    "unhide": Flag,
    "pin": Flag,
    "unpin": Flag,
    "clock_offset": ClockOffset,
    "milestone": SetMilestone,
}


def _here(op: object) -> object:
    if isinstance(op, str) and op in _ELSEWHERE:
        raise ValueError(_ELSEWHERE[op])
    return op


class OpOnly(BaseModel):
    """The first look at an edit: what it does says which fields it has."""

    op: Annotated[
        Literal["set_time", "set_title", "hide", "unhide", "pin", "unpin", "clock_offset", "milestone"],
        BeforeValidator(_here),
    ]


def model_of(op: str) -> type[NewEdit]:
    """Give the model of an edit that does this."""
    return _MODELS[op]


class ShownEdit(BaseModel):
    """An edit as it is kept: what was decided, by whom, when and why."""

    id: UUID
    at: Time
    op: Op
    signal_id: UUID | None = None
    entry: EntryRef | None = None
    source: str | None = Field(None, description="Of `clock_offset`.")
    value: dict[str, JsonValue] | None = None
    reason: str | None = None
    actor: str


class EditPage(BaseModel):
    """A page of an incident's edits, oldest first."""

    items: Sequence[ShownEdit]
    next_cursor: str | None


class AddedEdit(BaseModel):
    """A new edit, and the digest of the timeline with it."""

    edit: ShownEdit
    digest: str


class Store(Protocol):
    """Where the facts of timelines are kept."""

    async def facts_in(self, unit: Unit, incident_id: UUID) -> Facts:
        """Read the facts of an incident that the unit has locked."""
        ...

    async def add_edit(self, unit: Unit, incident_id: UUID, new: NewEdit) -> ShownEdit:
        """Write an edit at the next instant of the incident."""
        ...


async def add(
    unit: Unit, incidents: service.Store, store: Store, *, ref: UUID | int, new: NewEdit, now: datetime
) -> AddedEdit:
    """Write an edit down, and tell the digest that follows."""
    if isinstance(new, SetTime | SetMilestone) and new.value is not None and new.value.at is not None:
        check_time("/value/at", new.value.at, now)
    incident = await service.lock_active(unit, incidents, ref)
    edit = await store.add_edit(unit, incident.id, new)
    await unit.audit(
        "timeline.edit", incident.ref, incident_id=incident.id, detail={"edit": edit.id, "op": edit.op}
    )
    facts = await store.facts_in(unit, incident.id)
    return AddedEdit(edit=edit, digest=(await aside_locked(facts.size, build, facts)).digest)
