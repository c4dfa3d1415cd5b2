"""The facts that a timeline is made of, and the entries that come out; all times are whole microseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final
from uuid import UUID

from pydantic import JsonValue, PlainSerializer

from ..signals.precision import Precision
from ..web.body import format_time

__all__ = [
    "Annotation",
    "Content",
    "Edit",
    "Entry",
    "Facts",
    "Instant",
    "Micros",
    "Milestone",
    "Op",
    "Precision",
    "Signal",
    "StatusChange",
    "micros",
    "moment",
]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_HERE: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - for writing alone: without a zone it takes half the time
_MICROSECOND: Final = timedelta(microseconds=1)


def micros(at: datetime) -> int:
    """Count the microseconds since 1970, exactly."""
    return (at - _EPOCH) // _MICROSECOND


_FIRST: Final = micros(datetime(1, 1, 1, tzinfo=UTC))
_LAST: Final = micros(datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))


def moment(at: int) -> datetime:
    """Turn microseconds since 1970 into a time; a clock offset may not lead out of the years 1 to 9999."""
    return _EPOCH + max(_FIRST, min(at, _LAST)) * _MICROSECOND


def _written(at: int) -> str:
    try:
        return (_EPOCH_HERE + timedelta(0, 0, at)).isoformat(timespec="microseconds") + "Z"
    except OverflowError:
        return format_time(moment(at))


Micros = Annotated[int, PlainSerializer(_written, return_type=str, when_used="json")]
"""Microseconds since 1970, in UTC; in JSON a time as everywhere else."""


class Milestone(StrEnum):
    """A turning point of an incident that people can set."""

    IMPACT_STARTED = "impact_started"
    DETECTED = "detected"
    ACKNOWLEDGED = "acknowledged"
    MITIGATED = "mitigated"
    RESOLVED = "resolved"


class Op(StrEnum):
    """What an edit does."""

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
    """A time as closely as it is known, at the beginning of its precision."""

    t: Micros
    p: Precision


# Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """A signal that was attached once; whether it still is, the edits tell.

    Attributes:
        external_id: Its id within its source.
        content_sha256: The hash of its content as it came, in hexadecimal.
        conflicts: How many other contents came under the same key.
    """

    signal_id: UUID
    source: str
    external_id: str
    kind: str
    occurred_at: int
    precision: Precision
    title: str
    content_sha256: str
    sequence: str | None = None
    known_at: int | None = None
    received_at: int
    time_basis: str
    services: tuple[str, ...] = ()
    environment: str | None = None
    links: tuple[JsonValue, ...] = ()
    conflicts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusChange:
    """A move of the incident; `from_status` is None when it was declared."""

    id: UUID
    at: int
    from_status: str | None
    to_status: str
    outcome: str | None = None
    reason: str | None = None
    occurred_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """One version of what somebody said; `root` is the id of the first one."""

    id: UUID
    root: UUID
    at: int
    kind: str
    state: str | None = None
    body: str
    occurred_at: int | None = None
    retracted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A decision about the timeline.

    Attributes:
        signal_id: What `attach` and `detach` are about.
        source: The source of the entry, or the source alone for `clock_offset`.
        external_id: The entry's id within its source.
        value: As it is stored; None takes back what was set.
    """

    id: UUID
    at: int
    op: Op
    signal_id: UUID | None = None
    source: str | None = None
    external_id: str | None = None
    value: Mapping[str, JsonValue] | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """All that one incident's timeline follows from, in any order."""

    signals: Sequence[Signal] = ()
    changes: Sequence[StatusChange] = ()
    annotations: Sequence[Annotation] = ()
    edits: Sequence[Edit] = ()

    @property
    def size(self) -> int:
        """About how many bytes they have as JSON."""
        return 250 * (len(self.signals) + len(self.changes) + len(self.annotations) + len(self.edits))


@dataclass(frozen=True, slots=True)
class Content:
    """What a signal says besides its title, cut for reading; no rule looks at it."""

    body: str | None
    payload: str | None


# What comes out


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A line of the timeline.

    Attributes:
        t: When it happened, as far as is known now.
        p: How closely that is known.
        sha: The hash of what its fact says.
        occurred_at: When its fact says that it happened, before rounding and corrections.
        original_title: What its fact is called, before corrections.
        known_at: When people knew; None if nothing else than `t` is known.
        tie: Whether another entry has the same `t`: their order is then a convention.
        clock_suspect: Whether it was received more than two minutes before it happened.
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
