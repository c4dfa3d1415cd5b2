"""The records of a timeline; times of facts and entries are whole microseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final, Literal, get_args
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, Field, JsonValue, PlainSerializer, RootModel

from ..incidents.model import Reason, Word
from ..signals.model import EntryTitle, ExternalId, Precision, micros
from ..web.body import WHOLE, Listed, Time, format_time

# Without a zone: that halves the time to format one.
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001
_FIRST: Final = micros(datetime(1, 1, 1, tzinfo=UTC))
_LAST: Final = micros(datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))


def moment(at: int) -> datetime:
    """Return the time of microseconds since 1970, clamped to the years 1 to 9999."""
    return (_EPOCH + timedelta(microseconds=max(_FIRST, min(at, _LAST)))).replace(tzinfo=UTC)


def format_micros(at: int) -> str:
    try:
        return (_EPOCH + timedelta(0, 0, at)).isoformat(timespec="microseconds") + "Z"
    except OverflowError:
        return format_time(moment(at))


Micros = Annotated[int, PlainSerializer(format_micros, return_type=str, when_used="json")]
"""Microseconds since 1970 in UTC, serialized as a time."""


class Milestone(StrEnum):
    """A milestone of an incident that people can set."""

    IMPACT_STARTED = "impact_started"
    DETECTED = "detected"
    ACKNOWLEDGED = "acknowledged"
    MITIGATED = "mitigated"
    RESOLVED = "resolved"


class Op(StrEnum):
    """The operation of an edit."""

    ATTACH = "attach"
    DETACH = "detach"
    SET_TIME = "set_time"
    SET_TITLE = "set_title"
    HIDE = "hide"
    UNHIDE = "unhide"
    PIN = "pin"
    UNPIN = "unpin"
    CLOCK_OFFSET = "clock_offset"
    MILESTONE = "milestone"


UNDOES: Final = {Op.DETACH: Op.ATTACH, Op.UNHIDE: Op.HIDE, Op.UNPIN: Op.PIN}


@dataclass(frozen=True, slots=True)
class Instant:
    """A time with its precision, at the start of that interval."""

    t: Micros
    p: Precision


# Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """A signal that was attached at some time; the edits determine whether it still is."""

    signal_id: UUID
    source: str
    external_id: str  # its id within its source
    kind: str
    occurred_at: int
    precision: Precision
    title: str
    content_sha256: str  # the hash of its original content, in hexadecimal
    sequence: str | None = None
    known_at: int | None = None
    received_at: int
    time_basis: str
    services: tuple[str, ...] = ()
    environment: str | None = None
    links: tuple[JsonValue, ...] = ()
    conflicts: int = 0  # the number of other contents received with the same key


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusChange:
    """A status change of the incident; `from_status` is None for the declaration."""

    id: UUID
    at: int
    from_status: str | None
    to_status: str
    outcome: str | None = None
    reason: str | None = None
    occurred_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """One version of an annotation.

    `root` is the id of the first one, which decides the precision of all.
    """

    id: UUID
    root: UUID
    at: int
    kind: str
    state: str | None = None
    body: str
    occurred_at: int | None = None
    retracted: bool = False
    precision: Precision = Precision.EXACT


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """An edit of the timeline."""

    id: UUID
    at: int
    op: Op
    signal_id: UUID | None = None  # the signal of `attach` and `detach`
    source: str | None = None  # the source of the entry, or of a `clock_offset`
    external_id: str | None = None  # the entry's id within its source
    value: Mapping[str, JsonValue] | None = None  # as stored; None undoes an earlier edit


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts that determine an incident's timeline, in any order."""

    signals: Sequence[Signal] = ()
    changes: Sequence[StatusChange] = ()
    annotations: Sequence[Annotation] = ()
    edits: Sequence[Edit] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An entry of the timeline.

    Attributes:
        t: When it happened, corrections included.
        p: The precision of `t`.
        sha: The hash of its fact's content.
        occurred_at: The time of its fact, before rounding and corrections.
        original_title: The title of its fact, before corrections.
        known_at: When people learned of it; None if not recorded separately from `t`.
        received_at: When it was recorded here.
        tie: Whether another entry has the same `t`; their order is then a convention.
        clock_suspect: Whether it was received more than two minutes before its own time.
    """

    source: str
    id: str
    kind: str
    t: Micros
    p: Precision
    title: str
    sha: str
    pinned: bool
    hidden: bool
    occurred_at: Micros
    original_precision: Precision
    original_title: str
    sequence: str | None = None
    known_at: Micros | None = None
    received_at: Micros | None = None
    time_basis: str = "event"
    clock_suspect: bool = False
    signal_id: UUID | None = None
    services: tuple[str, ...] = ()
    environment: str | None = None
    links: tuple[JsonValue, ...] = ()
    conflicts: int = 0
    tie: bool = False


@dataclass(frozen=True, slots=True)
class Repeats:
    """The signals that one item stands for.

    Equal but for measures in their titles, in one window of time.
    """

    item: int  # the position of the first of them on the page
    count: int
    until: int  # the time of the last of them
    group: str  # selects them
    pattern: str  # their title, with `#` in place of measures
    titles: Sequence[str]  # the first of their distinct titles
    distinct: int  # how many distinct titles they have


# Edits


class EntryRef(BaseModel, extra="forbid"):
    """An entry of the timeline; it need not exist yet."""

    source: Word
    id: ExternalId


class TimeValue(BaseModel, extra="forbid"):
    """The corrected time of an entry, truncated to its precision.

    Clock offsets do not apply to it.
    """

    at: Time
    precision: Precision = Precision.EXACT


class TitleValue(BaseModel, extra="forbid"):
    """The new title of an entry."""

    title: EntryTitle


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
    source: Word
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


MODELS: Final[dict[str, type[NewEdit]]] = {
    op: model for model in get_args(NewEdit) for op in get_args(model.model_fields["op"].annotation)
}
"""The model of edits by their `op`."""


def _allowed_here(op: object) -> object:
    if op == Op.ATTACH:
        raise ValueError("use POST /api/v1/incidents/{ref}/signals")
    if op == Op.DETACH:
        raise ValueError("use DELETE /api/v1/incidents/{ref}/signals/{id}")
    return op


class OpOnly(BaseModel):
    """The discriminator of edits: `op` determines the fields."""

    op: Annotated[
        Literal[
            "set_time", "set_title", "hide", "unhide", "pin", "unpin", "clock_offset", "milestone"
        ],
        BeforeValidator(_allowed_here),
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


# Annotations, on the incident or one of its entries


class AnnotationKind(StrEnum):
    """The kind of an annotation."""

    NOTE = "note"
    DECISION = "decision"
    HYPOTHESIS = "hypothesis"
    QUESTION = "question"


class AnnotationState(StrEnum):
    """The state of a hypothesis or a question."""

    OPEN = "open"
    SUPPORTED = "supported"
    REFUTED = "refuted"
    ANSWERED = "answered"


STATES: Final = {
    AnnotationKind.HYPOTHESIS: (
        AnnotationState.OPEN,
        AnnotationState.SUPPORTED,
        AnnotationState.REFUTED,
    ),
    AnnotationKind.QUESTION: (AnnotationState.OPEN, AnnotationState.ANSWERED),
}
"""The states of each kind; other kinds have none."""
Body = Annotated[str, Field(min_length=1, max_length=10_000)]


class NewAnnotation(BaseModel, extra="forbid"):
    """A new annotation on the incident, or on one entry of its timeline."""

    kind: AnnotationKind
    body: Body
    state: AnnotationState | None = Field(
        None, description="The state of a hypothesis or a question; default `open`."
    )
    entry: EntryRef | None = Field(
        None, description="The entry it is about; such an annotation has no time of its own."
    )
    occurred_at: Time | None = Field(
        None, description="When it happened; makes it an entry of the timeline."
    )
    precision: Precision | None = Field(
        None, description="How exactly that time is known; default `exact`."
    )


class AnnotationChange(BaseModel, extra="forbid"):
    """A new text, a new state, or both; absent fields stay."""

    body: Body = Field(default_factory=str)  # As in incidents.model.Change: never read.
    state: AnnotationState = Field(default_factory=lambda: AnnotationState.OPEN)


class ShownAnnotation(BaseModel, frozen=True):
    """The current version of an annotation; `id` is that of its first version."""

    id: UUID
    kind: AnnotationKind
    state: AnnotationState | None
    body: str
    entry: EntryRef | None
    occurred_at: Time | None
    precision: Precision | None
    author: str = Field(description="The author of the first version.")
    at: Time = Field(description="The time of the first version.")
    changed_at: Time | None
    version: int

    @property
    def etag(self) -> str:
        return f'"ann-{self.version}"'


class AnnotationPage(Listed[ShownAnnotation]):
    """A page of an incident's annotations, without retracted ones, oldest first."""
