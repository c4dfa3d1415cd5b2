"""Signals: their model, ownership, identity, requests and responses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Final, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    GetJsonSchemaHandler,
    JsonValue,
    StringConstraints,
    computed_field,
)
from pydantic_core import CoreSchema

from ..errors import FieldError
from ..incidents.model import Slug, Slugs
from ..principal import Principal
from ..web.body import Time
from ..web.paging import Listed, Paged


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
        made._value_, made.width, made.rank = name, width, len(cls.__members__)
        return made

    def floor(self, at: int) -> int:
        return at - at % self.width


PRECISIONS: Final = tuple(Precision)  # all of them, by their rank


class Kind(StrEnum):
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

_PAYLOAD_BYTES: Final = 65_536
_LINKS_BYTES: Final = 8192
_REF: Final = r"^(INC-[1-9][0-9]{0,17}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$"


def _stored_bytes(value: object) -> int:
    """Return the longest text that PostgreSQL may store for a JSON value: it expands numbers."""
    text = json.dumps(value, ensure_ascii=False)
    plain = json.loads(text, parse_float=lambda digits: format(Decimal(digits), "f"))
    return len(json.dumps(plain, ensure_ascii=False).encode())


def _small_payload(payload: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if _stored_bytes(payload) > _PAYLOAD_BYTES:
        raise ValueError("must be at most 64 KiB of JSON")
    return payload


def _small_links(links: list[Link]) -> list[Link]:
    if _stored_bytes([link.model_dump() for link in links]) > _LINKS_BYTES:
        raise ValueError("must be at most 8 KiB of JSON")
    return links


class Link(BaseModel, extra="forbid", frozen=True):
    """A link to evidence: only http and https, since people will follow it."""

    url: Annotated[str, StringConstraints(pattern=r"^https?://[!#-\[\]-~]+$", max_length=3900)]
    title: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None


class NewSignal(BaseModel, extra="forbid", frozen=True):
    """A fact reported by a machine or a person."""

    source: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._/-]{0,126}$")] | None = Field(
        None, description="Refines the sender's own source."
    )
    id: Annotated[str, StringConstraints(min_length=1, max_length=300)] | None = Field(
        None, description="Its id within its source; by default the hash of its content."
    )
    kind: Kind
    occurred_at: Time | None = Field(None, description="Default: the time of receipt.")
    precision: Precision = Precision.EXACT
    title: Annotated[str, StringConstraints(min_length=1, max_length=500)]
    body: Annotated[str, StringConstraints(max_length=20_000)] | None = None
    services: Slugs = []
    environment: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = None
    links: Annotated[list[Link], Field(max_length=50), AfterValidator(_small_links)] = []
    sequence: Annotated[str, StringConstraints(max_length=100)] | None = Field(
        None, description="Orders signals of one source with the same time, compared as text."
    )
    known_at: Time | None = Field(None, description="When people learned of it.")
    payload: Annotated[dict[str, JsonValue], AfterValidator(_small_payload)] = {}


class _Described:
    """Documents the item's type but accepts any value: an invalid item does not stop the others."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [handler(NewSignal.__pydantic_core_schema__), {}]}


class Batch(BaseModel, extra="forbid"):
    """Signals, and the incident to attach them to."""

    incident: Annotated[str, StringConstraints(pattern=_REF)] | None = Field(
        None, description="`INC-12` or a UUID; requires the right to write incidents."
    )
    items: Annotated[list[Annotated[JsonValue, _Described]], Field(min_length=1, max_length=500)]


class Attachments(BaseModel, extra="forbid"):
    """Signals to attach to an incident."""

    ids: Annotated[list[UUID], Field(min_length=1, max_length=500)]


MOST_SIGNALS: Final = 100_000
"""The most signals of an incident; detached ones count, since past views still need them."""
MOST_BYTES: Final = 64 * 2**20
"""The most bytes of the titles, links and services of an incident's signals together."""


# Ownership and identity

_PEOPLE: Final = "manual"
_HASHED: Final = (
    "kind", "occurred_at", "precision", "title", "body", "services", "environment", "links", "sequence", "known_at",
    "payload",
)  # fmt: skip
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_AHEAD: Final = timedelta(minutes=2)

Key = tuple[str, str]  # the unique key of a signal: its source, and its id there


def source_of(principal: Principal, refinement: str | None) -> str:
    """Return the caller's source: a token's own, `manual` for people.

    Callers cannot write elsewhere. No token has the source `manual`, `human` or `postfacta`, or one with a slash.
    """
    root = principal.source or _PEOPLE
    return root if refinement is None else f"{root}/{refinement}"


def is_suspect(occurred_at: datetime, received_at: datetime) -> bool:
    """Return whether the sender's clock is suspect: more than two minutes ahead of the receipt."""
    return occurred_at > received_at + _AHEAD


def _hash(content: Mapping[str, object]) -> bytes:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain)
    return hashlib.sha256(text.encode()).digest()


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return (value - _EPOCH) // timedelta(microseconds=1)
    assert isinstance(value, Link)  # noqa: S101 - a signal has no other types
    return value.model_dump()


@dataclass(frozen=True, slots=True)
class Fact:
    """A valid and redacted signal, ready to be stored."""

    index: int  # its position in the request
    source: str
    external_id: str
    new: NewSignal
    # Of its content in canonical JSON: sorted keys, no spaces, times in microseconds. Made once, never from
    # stored data: PostgreSQL formats numbers in its own way.
    sha256: bytes

    @classmethod
    def of(
        cls, index: int, new: NewSignal, principal: Principal, *, content: Mapping[str, object] | None = None
    ) -> Fact:
        """Return a signal with its key and hash; `content` is what to hash, if not the whole signal."""
        sha256 = _hash({name: getattr(new, name) for name in _HASHED} if content is None else content)
        source = source_of(principal, new.source)
        return cls(index, source, new.id or f"sha256:{sha256.hex()}", new, sha256)

    def within(self, ref: str) -> Fact:
        """Return it with a key that cannot collide outside a private incident: no refinement has capitals."""
        root, _, refinement = self.source.partition("/")
        return replace(self, source=f"{root}/{ref}" + (f"/{refinement}" if refinement else ""))

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
        default=False, description="It is more than two minutes in the future: check the sender's clock."
    )
    errors: Sequence[FieldError] = ()
    attached: Attached | None = Field(
        default=None,
        description="Whether it is attached to the request's incident; `full`: stored, but not attached.",
    )


class Ingested(BaseModel):
    """The result of each item, in the order of the request."""

    results: Sequence[ItemResult]
    counts: Mapping[Result, int]
    warnings: Sequence[str] = ()


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
    kind: Kind
    occurred_at: Time
    precision: Precision
    time_basis: str = Field(description="`event`, or `received` if the sender sent no time.")
    known_at: Time | None
    sequence: str | None
    title: str
    services: Sequence[str]
    environment: str | None
    links: Sequence[Link]
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
    payload: dict[str, JsonValue]
    content_sha256: str
    conflicts: Sequence[ConflictingContent]
    incidents: Sequence[IncidentOfSignal]


class SignalPage(Listed[Signal]):
    """A page of signals, latest first."""


Words = Annotated[list[Annotated[str, StringConstraints(min_length=1, max_length=200)]], Field(max_length=20)]


class SignalQuery(Paged, frozen=True):
    """The filters; different ones are joined by "and"."""

    source: Words = Field([], description="The full source, including its refinement.")
    kind: list[Kind] = Field([], max_length=20)
    service: list[Slug] = Field([], max_length=20)
    since: Time | None = Field(None, alias="from", description="Signals that occurred at or after it.")
    until: Time | None = Field(None, alias="to", description="Signals that occurred before it.")
    attached: bool | None = Field(None, description="Whether it is attached to any incident.")
