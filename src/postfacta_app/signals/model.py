"""Signals: their model, ownership, identity, requests and responses."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Final, Self, TypeVar
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    Json,
    JsonValue,
    PlainValidator,
    RootModel,
    computed_field,
)
from pydantic_core import to_json

from ..errors import FieldError
from ..incidents.model import Many, Slug, Slugs, Word
from ..principal import Principal
from ..web.body import Listed, Paged, Time

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
T = TypeVar("T")


def micros(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


class Precision(StrEnum):
    """The precision of a time, coarsest first."""

    width: int  # the length of a time of this precision in microseconds, from its start
    rank: int  # of equal times, the coarser sorts first

    DAY = "day", 86_400_000_000
    HOUR = "hour", 3_600_000_000
    MINUTE = "minute", 60_000_000
    SECOND = "second", 1_000_000
    EXACT = "exact", 1

    def __new__(cls, name: str, width: int = 0) -> Self:
        made = str.__new__(cls, name)
        made._value_ = name
        made.width = width
        made.rank = len(cls.__members__)
        return made

    def floor(self, at: int) -> int:
        return at - at % self.width


PRECISIONS: Final = tuple(Precision)  # all of them, by their rank


class SignalKind(StrEnum):
    """The kind of a signal."""

    CHANGE = "change"
    ALERT_FIRING = "alert_firing"
    ALERT_RESOLVED = "alert_resolved"
    PAGE = "page"
    METRIC = "metric"
    LOG = "log"
    ACTION = "action"
    NOTE = "note"
    OTHER = "other"


# What callers send

_REF: Final = (
    r"^(INC-[1-9][0-9]{0,17}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$"
)


_EXPONENT: Final = re.compile(rb"\de")  # Each number that has one is expanded.


def _at_most(kib: int) -> AfterValidator:
    """Refuse values of which PostgreSQL may store a longer text: it expands numbers."""

    def checked(value: T) -> T:
        sent = to_json(value)
        # Blanks after separators at most double it.
        if 2 * len(sent) <= kib * 1024 and not _EXPONENT.search(sent):
            return value
        plain = json.loads(sent, parse_float=lambda digits: format(Decimal(digits), "f"))
        if len(json.dumps(plain, ensure_ascii=False).encode()) > kib * 1024:
            raise ValueError(f"must be at most {kib} KiB of JSON")
        return value

    return AfterValidator(checked)


ExternalId = Annotated[str, Field(min_length=1, max_length=300)]  # within its source
EntryTitle = Annotated[str, Field(min_length=1, max_length=500)]


# A default that is made costs a tenth of one that is copied: a fifth of a signal in a batch.
_NONE: Final[dict[str, JsonValue]] = {"default": []}


class Link(BaseModel, extra="forbid", frozen=True):
    """A link to evidence: only http and https, since people will follow it."""

    url: Annotated[str, Field(pattern=r"^https?://[!#-\[\]-~]+$", max_length=3900)]
    title: Word | None = None


class NewSignal(BaseModel, extra="forbid", frozen=True):
    """A fact reported by a machine or a person."""

    source: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._/-]{0,126}$")] | None = Field(
        None, description="Refines the sender's own source."
    )
    id: ExternalId | None = Field(
        None, description="Its id within its source; by default the hash of its content."
    )
    kind: SignalKind
    occurred_at: Time | None = Field(None, description="Default: the time of receipt.")
    precision: Precision = Precision.EXACT
    title: EntryTitle
    body: Annotated[str, Field(max_length=20_000)] | None = None
    services: Slugs = Field(default_factory=list[str], json_schema_extra=_NONE)
    environment: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    links: Annotated[list[Link], Field(max_length=50), _at_most(8)] = Field(
        default_factory=list[Link], json_schema_extra=_NONE
    )
    sequence: Annotated[str, Field(max_length=100)] | None = Field(
        None, description="Orders signals of one source with the same time, compared as text."
    )
    known_at: Time | None = Field(None, description="When people learned of it.")
    payload: Annotated[dict[str, Any], _at_most(64)] = Field(
        default_factory=dict[str, Any], json_schema_extra={"default": {}}
    )


class Batch(BaseModel, extra="forbid"):
    """Signals, and the incident to attach them to."""

    incident: Annotated[str, Field(pattern=_REF)] | None = Field(
        None, description="`INC-12` or a UUID; requires the right to write incidents."
    )
    # Any value is accepted: an invalid item does not stop the others.
    items: Annotated[
        list[
            Annotated[
                JsonValue,
                PlainValidator(lambda item: item, json_schema_input_type=NewSignal | Any),
            ]
        ],
        Field(min_length=1, max_length=500),
    ]


class AnyJson(RootModel[JsonValue]):
    """What a sender sends by itself; a mapping makes signals of it."""


class Attachments(BaseModel, extra="forbid"):
    """Signals to attach to an incident."""

    ids: Annotated[list[UUID], Field(min_length=1, max_length=500)]


MOST_SIGNALS: Final = 100_000
"""The most signals of an incident; detached ones count, since past views still need them."""
MOST_BYTES: Final = 64 * 2**20
"""The most bytes of the titles, links and services of an incident's signals together."""


# Ownership and identity

_AHEAD: Final = timedelta(minutes=2)

Key = tuple[str, str]  # the unique key of a signal: its source, and its id there


def source_of(principal: Principal, refinement: str | None) -> str:
    """Return the caller's source: a token's own, `manual` for people.

    Callers cannot write elsewhere. No token has the source `manual`, `human` or `postfacta`, or one
    with a slash.
    """
    root = principal.source or "manual"
    return root if refinement is None else f"{root}/{refinement}"


def is_suspect(occurred_at: datetime, received_at: datetime) -> bool:
    """Return whether the sender's clock is suspect: more than two minutes ahead of the receipt."""
    return occurred_at > received_at + _AHEAD


def _plain(value: datetime | Link) -> object:
    return micros(value) if isinstance(value, datetime) else value.model_dump()


_CANONICAL: Final = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain
)


@dataclass(frozen=True, slots=True)
class Fact:
    """A valid and redacted signal, ready to be stored."""

    index: int  # its position in the request
    source: str
    external_id: str
    new: NewSignal
    # Of its content in canonical JSON: sorted keys, no spaces, times in microseconds. Made once,
    # never from stored data: PostgreSQL formats numbers in its own way.
    sha256: bytes

    @classmethod
    def of(
        cls,
        index: int,
        new: NewSignal,
        principal: Principal,
        *,
        content: Mapping[str, object] | None = None,
    ) -> Fact:
        """Return a signal with its key and hash.

        `content` is what to hash, if not the whole signal.
        """
        if content is None:
            content = dict(vars(new))
            del content["source"], content["id"]
        text = _CANONICAL.encode(content)
        sha256 = hashlib.sha256(text.encode()).digest()
        source = source_of(principal, new.source)
        return cls(index, source, new.id or f"sha256:{sha256.hex()}", new, sha256)

    def within(self, ref: str) -> Fact:
        """Return the signal with a key that cannot collide outside a private incident.

        No refinement has capitals, as the reference has.
        """
        root, _, refinement = self.source.partition("/")
        suffix = f"/{refinement}" if refinement else ""
        return replace(self, source=f"{root}/{ref}{suffix}")

    @property
    def key(self) -> Key:
        return self.source, self.external_id


# What callers get


class Result(StrEnum):
    """The result of an item."""

    CREATED = "created"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    REJECTED = "rejected"


class Attached(StrEnum):
    """The result of attaching a signal; `full` if the incident is at its limit."""

    ATTACHED = "attached"
    ALREADY = "already"
    UNKNOWN = "unknown"
    FULL = "full"


class ItemResult(BaseModel):
    """The result of one item, with errors if it was rejected."""

    index: int = Field(description="Its position in the request, from 0.")
    result: Result
    signal_id: UUID | None = None
    clock_suspect: bool = Field(
        default=False,
        description="It is more than two minutes in the future: check the sender's clock.",
    )
    errors: tuple[FieldError, ...] = ()
    attached: Attached | None = Field(
        default=None,
        description=(
            "Whether it is attached to the request's incident; `full`: stored, but not attached."
        ),
    )


class Ingested(BaseModel):
    """The result of each item, in the order of the request."""

    results: list[ItemResult]
    counts: dict[Result, int]
    warnings: list[str] = []


class Attachment(BaseModel):
    """The result of one id."""

    id: UUID
    result: Attached


class AttachedPage(BaseModel):
    """The result of each id, in the order of the request."""

    results: Sequence[Attachment]


class Signal(BaseModel, frozen=True):
    """A stored signal, without its long fields."""

    id: UUID
    source: str
    external_id: str
    kind: SignalKind
    occurred_at: Time
    precision: Precision
    time_basis: str = Field(description="`event`, or `received` if the sender sent no time.")
    known_at: Time | None
    sequence: str | None
    title: str
    services: Sequence[str]
    environment: str | None
    links: Json[Sequence[Link]]
    received_at: Time
    received_by: str

    @computed_field
    def clock_suspect(self) -> bool:
        """Whether it was received more than two minutes before its own time."""
        return is_suspect(self.occurred_at, self.received_at)


class ConflictingContent(BaseModel):
    """Different content received under the key of a signal; the first content stays."""

    content: dict[str, JsonValue]
    content_sha256: str
    received_at: Time
    received_by: str


class IncidentOfSignal(BaseModel):
    """An incident that a signal is attached to."""

    id: UUID
    ref: str
    title: str


class SignalDetail(Signal, frozen=True):
    """A stored signal with all fields, conflicts and incidents."""

    body: str | None
    payload: Json[dict[str, JsonValue]]
    content_sha256: str
    conflicts: Json[Sequence[ConflictingContent]]
    incidents: Json[Sequence[IncidentOfSignal]]


class SignalPage(Listed[Signal]):
    """A page of signals, latest first."""


class SignalQuery(Paged, frozen=True):
    """The filters; different ones are joined by "and"."""

    source: Many[Word] = Field([], description="The full source, including its refinement.")
    kind: Many[SignalKind] = Field([])
    service: Many[Slug] = Field([])
    since: Time | None = Field(
        None, alias="from", description="Signals that occurred at or after it."
    )
    until: Time | None = Field(None, alias="to", description="Signals that occurred before it.")
    attached: bool | None = Field(None, description="Whether it is attached to any incident.")
