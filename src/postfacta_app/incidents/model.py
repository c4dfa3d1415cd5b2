"""What an incident is, which moves it can make, what callers send and get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ..errors import FieldError, IllegalTransitionError, InvalidFieldsError
from ..web.body import Time

__all__ = [
    "Change",
    "Incident",
    "IncidentPage",
    "Kind",
    "Move",
    "NewIncident",
    "Outcome",
    "Severity",
    "Slug",
    "State",
    "Status",
    "Visibility",
    "check_time",
    "move",
]


class Status(StrEnum):
    """Where an incident stands."""

    OPEN = "OPEN"
    IN_PROGRESS = "IN_PROGRESS"
    RESOLVED = "RESOLVED"
    CLOSED = "CLOSED"


class Severity(StrEnum):
    """How bad it is, least first."""

    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"
    CRITICAL = "CRITICAL"


class Kind(StrEnum):
    """What sort of event it was."""

    INCIDENT = "incident"
    NEAR_MISS = "near_miss"
    EXERCISE = "exercise"


class Outcome(StrEnum):
    """How a closed incident came to its end."""

    FIXED = "fixed"
    WORKAROUND = "workaround"
    SELF_RECOVERED = "self_recovered"
    FALSE_ALARM = "false_alarm"
    DUPLICATE = "duplicate"
    EXTERNAL = "external"
    WONT_FIX = "wont_fix"


class Visibility(StrEnum):
    """Who may see it: everybody signed in, or members and administrators."""

    INTERNAL = "internal"
    PRIVATE = "private"


# Lengths count code points, and nothing is trimmed: three spaces are a title.
Title = Annotated[str, StringConstraints(min_length=3, max_length=200)]
Description = Annotated[str, StringConstraints(min_length=10, max_length=2000)]
Reporter = Annotated[str, StringConstraints(min_length=2, max_length=100)]
Owner = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=2000)]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Slugs = Annotated[list[Slug], Field(max_length=50)]
Members = Annotated[list[UUID], Field(max_length=100)]


class NewIncident(BaseModel):
    """What it takes to record an incident."""

    model_config = ConfigDict(extra="forbid")

    title: Title
    description: Description
    severity: Severity
    kind: Kind = Kind.INCIDENT
    reporter: Reporter | None = None
    owner: Owner | None = None
    services: Slugs = []
    teams: Slugs = []
    visibility: Visibility = Visibility.INTERNAL
    members: Members = []
    declared_at: Time | None = None


class Change(BaseModel):
    """A JSON Merge Patch (RFC 7396): what is absent stays; only the owner can be taken away, by null."""

    model_config = ConfigDict(extra="forbid")

    # A factory makes a field optional without making null one of its values, and without a default in the
    # schema. What it makes is never read: only what was sent is.
    title: Title = Field(default_factory=str)
    description: Description = Field(default_factory=str)
    severity: Severity = Field(default_factory=lambda: Severity.LOW)
    reporter: Reporter = Field(default_factory=str)
    owner: Owner | None = None
    services: Slugs = Field(default_factory=list[str])
    teams: Slugs = Field(default_factory=list[str])
    visibility: Visibility = Field(default_factory=lambda: Visibility.INTERNAL)
    members: Members = Field(default_factory=list[UUID])


class Move(BaseModel):
    """A wish to bring an incident to another state."""

    model_config = ConfigDict(extra="forbid")

    to: Status
    occurred_at: Time | None = None
    outcome: Outcome | None = None
    reason: Reason | None = None


class Incident(BaseModel):
    """An incident as it is stored, and as it is answered."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    number: int
    title: str
    description: str
    kind: Kind
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
        """What people call it."""
        return f"INC-{self.number}"

    @property
    def etag(self) -> str:
        """The version of its own fields and status. New notes do not move it."""
        return f'"inc-{self.version}"'


class IncidentPage(BaseModel):
    """A page of incidents, and where the next one begins."""

    items: Sequence[Incident]
    next_cursor: str | None
    as_of: Time = Field(
        description="Use it as the next `updated_since`: rows may come twice, none is missed."
    )


# What may follow a state. To stay where one is is no move, and is always allowed.
MOVES: Mapping[Status, Sequence[Status]] = {
    Status.OPEN: (Status.IN_PROGRESS, Status.RESOLVED, Status.CLOSED),
    Status.IN_PROGRESS: (Status.RESOLVED, Status.CLOSED),
    Status.RESOLVED: (Status.IN_PROGRESS, Status.CLOSED),
    Status.CLOSED: (Status.IN_PROGRESS,),
}
_ENDED = (Status.RESOLVED, Status.CLOSED)


@dataclass(frozen=True, slots=True)
class State:
    """The part of an incident that only a move changes."""

    status: Status
    ended_at: datetime | None
    outcome: Outcome | None


def move(state: State, wish: Move, occurred_at: datetime) -> State | None:
    """Tell which state follows, or None if the incident is already there.

    Raises:
        IllegalTransitionError: If no such move leads away from where it is.
        InvalidFieldsError: If the move needs an outcome or a reason, or cannot have one.
    """
    if wish.to == state.status:
        return None
    allowed = MOVES[state.status]
    if wish.to not in allowed:
        detail = f"An incident that is {state.status} cannot become {wish.to}"
        raise IllegalTransitionError(detail, extra={"allowed": list(allowed)})
    _check_needs(state, wish)
    if wish.to not in _ENDED:
        return State(wish.to, None, None)
    return State(wish.to, state.ended_at or occurred_at, wish.outcome)


def _check_needs(state: State, wish: Move) -> None:
    if wish.to == Status.CLOSED and wish.outcome is None:
        raise _refusal("/outcome", "required", "CLOSED needs an outcome")
    if wish.to != Status.CLOSED and wish.outcome is not None:
        raise _refusal("/outcome", "forbidden", "only CLOSED has an outcome")
    if state.status in _ENDED and wish.to == Status.IN_PROGRESS and wish.reason is None:
        raise _refusal("/reason", "required", "to reopen an incident needs a reason")


_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_AHEAD = timedelta(minutes=5)  # Clocks disagree; a plan is no fact.


def check_time(pointer: str, when: datetime, now: datetime) -> datetime:
    """Refuse a time before 1970 or more than five minutes in the future.

    Raises:
        InvalidFieldsError: If it is one.
    """
    if not _EARLIEST <= when <= now + _AHEAD:
        raise _refusal(pointer, "out_of_range", "must lie between 1970 and five minutes from now")
    return when


def _refusal(pointer: str, code: str, message: str) -> InvalidFieldsError:
    return InvalidFieldsError(message, errors=(FieldError(pointer, code, message),))
