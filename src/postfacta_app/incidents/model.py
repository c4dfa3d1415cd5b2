"""Incidents: their model, status transitions, requests and responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final, TypeVar
from uuid import UUID

from pydantic import BaseModel, Field, StringConstraints

from ..errors import IllegalTransitionError, invalid
from ..web.body import Listed, Paged, Time


class Status(StrEnum):
    """The status of an incident."""

    OPEN = "OPEN"
    IN_PROGRESS = "IN_PROGRESS"
    RESOLVED = "RESOLVED"
    CLOSED = "CLOSED"


class Severity(StrEnum):
    """The severity, lowest first."""

    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"
    CRITICAL = "CRITICAL"


class IncidentKind(StrEnum):
    """The kind of event."""

    INCIDENT = "incident"
    NEAR_MISS = "near_miss"
    EXERCISE = "exercise"


class Outcome(StrEnum):
    """How a closed incident ended."""

    FIXED = "fixed"
    WORKAROUND = "workaround"
    SELF_RECOVERED = "self_recovered"
    FALSE_ALARM = "false_alarm"
    DUPLICATE = "duplicate"
    EXTERNAL = "external"
    WONT_FIX = "wont_fix"


class Visibility(StrEnum):
    """Who may see it: all signed-in users, or members and administrators."""

    INTERNAL = "internal"
    PRIVATE = "private"


# Lengths count code points without trimming: three spaces are a title.
Title = Annotated[str, StringConstraints(min_length=3, max_length=200)]
Description = Annotated[str, StringConstraints(min_length=10, max_length=2000)]
Reporter = Annotated[str, StringConstraints(min_length=2, max_length=100)]
Owner = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=2000)]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Slugs = Annotated[list[Slug], Field(max_length=50)]
Members = Annotated[list[UUID], Field(max_length=100)]


# What an incident has for a description until it has one; version 0 promises ten characters.
UNDESCRIBED: Final = "Not described yet."


class NewIncident(BaseModel, extra="forbid"):
    """A new incident."""

    title: Title
    description: Description = UNDESCRIBED
    severity: Severity
    kind: IncidentKind = IncidentKind.INCIDENT
    reporter: Reporter | None = None
    owner: Owner | None = None
    services: Slugs = []
    teams: Slugs = []
    visibility: Visibility = Visibility.INTERNAL
    members: Members = []
    declared_at: Time | None = None


class Change(BaseModel, extra="forbid"):
    """A JSON Merge Patch (RFC 7396): absent fields stay.

    Null clears the owner, the only optional one.
    """

    # A factory makes a field optional without allowing null, and without a default in the
    # schema. Its value is never read: only sent fields are.
    title: Title = Field(default_factory=str)
    description: Description = Field(default_factory=str)
    severity: Severity = Field(default_factory=lambda: Severity.LOW)
    reporter: Reporter = Field(default_factory=str)
    owner: Owner | None = None
    services: Slugs = Field(default_factory=list[str])
    teams: Slugs = Field(default_factory=list[str])
    visibility: Visibility = Field(default_factory=lambda: Visibility.INTERNAL)
    members: Members = Field(default_factory=list[UUID])


class Move(BaseModel, extra="forbid"):
    """A requested status transition of an incident."""

    to: Status
    occurred_at: Time | None = None
    outcome: Outcome | None = None
    reason: Reason | None = None


class Incident(BaseModel, frozen=True):
    """An incident as it is stored and returned."""

    id: UUID
    number: int
    title: str
    description: str
    kind: IncidentKind
    severity: Severity
    status: Status
    outcome: Outcome | None
    reporter: str
    owner: str | None
    services: list[str]
    teams: list[str]
    visibility: Visibility
    members: list[UUID]
    declared_at: Time
    ended_at: Time | None
    archived_at: Time | None
    version: int
    created_by: str
    created_at: Time
    updated_at: Time

    @property
    def ref(self) -> str:
        """Its reference, such as `INC-12`."""
        return f"INC-{self.number}"

    @property
    def etag(self) -> str:
        """The version of its own fields and status. New notes do not change it."""
        return f'"inc-{self.version}"'


class IncidentPage(Listed[Incident]):
    """A page of incidents, and the cursor of the next one."""

    as_of: Time = Field(
        description="Use it as the next `updated_since`: rows may repeat, none is missed."
    )


# The allowed transitions. Staying in a status is always allowed, and is not a transition.
MOVES: Mapping[Status, Sequence[Status]] = {
    Status.OPEN: (Status.IN_PROGRESS, Status.RESOLVED, Status.CLOSED),
    Status.IN_PROGRESS: (Status.RESOLVED, Status.CLOSED),
    Status.RESOLVED: (Status.IN_PROGRESS, Status.CLOSED),
    Status.CLOSED: (Status.IN_PROGRESS,),
}
_ENDED = (Status.RESOLVED, Status.CLOSED)


def move(
    status: Status, wish: Move, *, ended_at: datetime | None, occurred_at: datetime
) -> Mapping[str, object] | None:
    """Return what a transition sets, None if the incident has that status already.

    Raise if it is not allowed.
    """
    if wish.to == status:
        return None
    allowed = MOVES[status]
    if wish.to not in allowed:
        detail = f"An incident that is {status} cannot become {wish.to}"
        raise IllegalTransitionError(detail, extra={"allowed": list(allowed)})
    if wish.to == Status.CLOSED and wish.outcome is None:
        raise invalid("/outcome", "required", "CLOSED requires an outcome")
    if wish.to != Status.CLOSED and wish.outcome is not None:
        raise invalid("/outcome", "forbidden", "only CLOSED may have an outcome")
    if status in _ENDED and wish.to == Status.IN_PROGRESS and wish.reason is None:
        raise invalid("/reason", "required", "reopening an incident requires a reason")
    end = (ended_at or occurred_at) if wish.to in _ENDED else None
    return {"status": wish.to, "ended_at": end, "outcome": wish.outcome}


_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_AHEAD = timedelta(minutes=5)  # Clocks differ; the future is not a fact.


def check_time(pointer: str, when: datetime, now: datetime) -> datetime:
    """Refuse a time before 1970 or more than five minutes in the future."""
    if not _EARLIEST <= when <= now + _AHEAD:
        raise invalid(
            pointer, "out_of_range", "the time must be between 1970 and five minutes from now"
        )
    return when


class Sort(StrEnum):
    """The order of a list; ties are broken by id."""

    NEWEST = "-declared_at"
    OLDEST = "declared_at"
    CHANGED = "changed"


T = TypeVar("T")
Many = Annotated[list[T], Field(max_length=20)]  # A repeated parameter means "or".
Word = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class IncidentFilters(BaseModel, extra="forbid", frozen=True):
    """Filters of incidents; different ones are joined by "and"."""

    since: Time | None = Field(
        None, alias="from", description="Incidents that ended at or after it, or are open."
    )
    until: Time | None = Field(None, alias="to", description="Incidents declared before it.")
    kind: Many[IncidentKind] = []
    service: Many[Slug] = []
    team: Many[Slug] = []
    label: Many[Slug] = []
    severity: Many[Severity] = []
    severity_gte: Severity | None = None
    status: Many[Status] = []
    outcome: Many[Outcome] = []
    owner: Many[Owner] = []
    has_postmortem: bool | None = None
    updated_since: Time | None = None
    q: Many[Word] = []


class IncidentQuery(IncidentFilters, Paged, frozen=True):
    """The filters, the order, and the position in it."""

    sort: Sort = Sort.NEWEST
