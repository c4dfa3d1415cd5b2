"""Edits of a timeline: their model."""

from __future__ import annotations

from typing import Annotated, Final, Literal, get_args
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, Field, JsonValue, RootModel, StringConstraints

from ..incidents.model import Reason
from ..web.body import WHOLE, Time
from ..web.paging import Listed
from .model import Milestone, Op, Precision

Source = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class EntryRef(BaseModel, extra="forbid"):
    """An entry of the timeline; it need not exist yet."""

    source: Source
    id: Annotated[str, StringConstraints(min_length=1, max_length=300)]


class TimeValue(BaseModel, extra="forbid"):
    """The corrected time of an entry, truncated to its precision; clock offsets do not apply to it."""

    at: Time
    precision: Precision = Precision.EXACT


class TitleValue(BaseModel, extra="forbid"):
    """The new title of an entry."""

    title: Annotated[str, StringConstraints(min_length=1, max_length=500)]


class OffsetValue(BaseModel, extra="forbid"):
    """The offset of a source's clock in milliseconds; 0 removes it."""

    ms: Annotated[int, Field(strict=True, ge=-86_400_000, le=86_400_000), WHOLE]


class MilestoneValue(BaseModel, extra="forbid"):
    """The time of a milestone; null removes it."""

    name: Milestone
    at: Time | None
    precision: Precision = Precision.EXACT


class SetTime(BaseModel, extra="forbid"):
    """Correct the time of an entry; null undoes the correction."""

    op: Literal["set_time"]
    entry: EntryRef
    value: TimeValue | None
    reason: Reason


class SetTitle(BaseModel, extra="forbid"):
    """Change the title of an entry; null undoes the change."""

    op: Literal["set_title"]
    entry: EntryRef
    value: TitleValue | None
    reason: Reason | None = None


class Hide(BaseModel, extra="forbid"):
    """Hide an entry; it stays on record."""

    op: Literal["hide"]
    entry: EntryRef
    reason: Reason


class Flag(BaseModel, extra="forbid"):
    """Unhide an entry, or pin it to or unpin it from the narrative."""

    op: Literal["unhide", "pin", "unpin"]
    entry: EntryRef
    reason: Reason | None = None


class ClockOffset(BaseModel, extra="forbid"):
    """Correct the clock of a source, for all its entries without a corrected time."""

    op: Literal["clock_offset"]
    source: Source
    value: OffsetValue
    reason: Reason


class SetMilestone(BaseModel, extra="forbid"):
    """Set a milestone."""

    op: Literal["milestone"]
    value: MilestoneValue
    reason: Reason | None = None


NewEdit = SetTime | SetTitle | Hide | Flag | ClockOffset | SetMilestone


class AnyEdit(RootModel[Annotated[NewEdit, Field(discriminator="op")]]):
    """An edit; `op` determines its fields."""


_ELSEWHERE: Final = {
    "attach": "use POST /api/v1/incidents/{ref}/signals",
    "detach": "use DELETE /api/v1/incidents/{ref}/signals/{id}",
}
MODELS: Final[dict[str, type[NewEdit]]] = {
    op: model for model in get_args(NewEdit) for op in get_args(model.model_fields["op"].annotation)
}
"""The model of edits by their `op`."""


def _here(op: object) -> object:
    if isinstance(op, str) and op in _ELSEWHERE:
        raise ValueError(_ELSEWHERE[op])
    return op


class OpOnly(BaseModel):
    """The discriminator of edits: `op` determines the fields."""

    op: Annotated[
        Literal["set_time", "set_title", "hide", "unhide", "pin", "unpin", "clock_offset", "milestone"],
        BeforeValidator(_here),
    ]


class ShownEdit(BaseModel):
    """A stored edit, with its author, time and reason."""

    id: UUID
    at: Time
    op: Op
    signal_id: UUID | None = None
    entry: EntryRef | None = None
    source: str | None = Field(None, description="Of `clock_offset`.")
    value: dict[str, JsonValue] | None = None
    reason: str | None = None
    actor: str


class EditPage(Listed[ShownEdit]):
    """A page of an incident's edits, oldest first."""


class AddedEdit(BaseModel):
    """A new edit, and the resulting digest of the timeline."""

    edit: ShownEdit
    digest: str
