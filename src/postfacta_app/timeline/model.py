"""The facts and entries of a timeline; all times are whole microseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final
from uuid import UUID

from pydantic import Field, JsonValue, PlainSerializer

from ..signals.model import Precision
from ..web.body import format_time

__all__ = [
    "Annotation", "Content", "Edit", "Entry", "Facts", "Instant", "Micros", "Milestone", "Op", "Precision", "Repeats",
    "Signal", "StatusChange", "Stretch", "format_micros", "micros", "moment",
]  # fmt: skip

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_HERE: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - for formatting only: without a zone it takes half the time
_MICROSECOND: Final = timedelta(microseconds=1)


def micros(at: datetime) -> int:
    """Return the exact microseconds since 1970."""
    return (at - _EPOCH) // _MICROSECOND


_FIRST: Final = micros(datetime(1, 1, 1, tzinfo=UTC))
_LAST: Final = micros(datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))


def moment(at: int) -> datetime:
    """Return the time of microseconds since 1970, clamped to the years 1 to 9999."""
    return _EPOCH + max(_FIRST, min(at, _LAST)) * _MICROSECOND


def format_micros(at: int) -> str:
    """Format microseconds since 1970 as a time in UTC."""
    try:
        return (_EPOCH_HERE + timedelta(0, 0, at)).isoformat(timespec="microseconds") + "Z"
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
    """One version of an annotation; `root` is the id of the first one, which decides the precision of all."""

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


@dataclass(frozen=True, slots=True)
class Content:
    """The truncated text and payload of a signal, for display only."""

    body: str | None
    payload: str | None


# Results


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
    """The signals that one item stands for: equal but for numbers in their titles, in one window of time."""

    item: Annotated[int, Field(description="The position of the first of them in `items`.")]
    count: int
    until: Annotated[Micros, Field(description="The time of the last of them.")]
    group: Annotated[str, Field(description="As a parameter, selects them.")]


@dataclass(frozen=True, slots=True)
class Stretch:
    """A time in which entries of one kind are near to each other; without a lane it is that of other sources."""

    lane: str
    kind: str
    start: int
    until: int
    count: int
