"""Action items: their model, status rules, requests and responses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Final
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from ..errors import FieldError, InvalidFieldsError
from ..incidents.model import Owner, Reason, Slug, Title
from ..web.body import WHOLE, Time

__all__ = [
    "Action",
    "ActionChange",
    "ActionList",
    "ActionPage",
    "ActionQuery",
    "ActionStatus",
    "ActionType",
    "NewAction",
    "change",
]


class ActionType(StrEnum):
    """What an action item is for."""

    PREVENT = "prevent"
    DETECT = "detect"
    MITIGATE = "mitigate"
    RESPOND = "respond"
    LEARN = "learn"


class ActionStatus(StrEnum):
    """The status of an action item."""

    OPEN = "open"
    IN_PROGRESS = "in_progress"
    DONE = "done"
    WONT_DO = "wont_do"


_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def _day(value: object) -> object:
    if isinstance(value, str) and _DAY.fullmatch(value):
        return date.fromisoformat(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    raise ValueError("must be a date, such as 2026-02-07")


Day = Annotated[date, BeforeValidator(_day)]
Priority = Annotated[int, Field(strict=True, ge=1, le=4), WHOLE]
# RFC 3986 has no other character, and none of these can end a link in HTML or Markdown.
Url = Annotated[str, StringConstraints(pattern=r"^https?://[!#-;=?-\[\]_a-z~]+$", max_length=2000)]


class NewAction(BaseModel):
    """A new action item."""

    model_config = ConfigDict(extra="forbid")

    type: ActionType
    title: Title
    factor: Slug | None = Field(None, description="The slug of the contributing factor it addresses.")
    owner: Owner | None = None
    priority: Priority | None = Field(None, description="1 is the most urgent.")
    due_on: Day | None = None
    url: Url | None = Field(None, description="Its page in an issue tracker.")


class ActionChange(BaseModel):
    """A JSON Merge Patch (RFC 7396): absent fields stay, null clears optional ones."""

    model_config = ConfigDict(extra="forbid")

    # See incidents.model.Change: a factory makes a field optional; its value is never read.
    type: ActionType = Field(default_factory=lambda: ActionType.LEARN)
    title: Title = Field(default_factory=str)
    factor: Slug | None = None
    owner: Owner | None = None
    priority: Priority | None = None
    due_on: Day | None = None
    url: Url | None = None
    status: ActionStatus = Field(default_factory=lambda: ActionStatus.OPEN)
    closed_reason: Reason | None = None


class Action(BaseModel):
    """An action item as it is stored and returned."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    incident_id: UUID
    incident: str = Field(description="The reference of its incident, such as `INC-12`.")
    type: ActionType
    title: str
    factor: str | None
    owner: str | None
    priority: int | None
    due_on: date | None
    url: str | None
    status: ActionStatus
    closed_at: Time | None
    closed_reason: str | None
    version: int
    created_by: str
    created_at: Time
    updated_at: Time

    @property
    def etag(self) -> str:
        """Its version, which a change must name."""
        return f'"act-{self.version}"'

    @property
    def is_open(self) -> bool:
        """Whether it is not closed yet."""
        return self.status not in _CLOSED


class ActionList(BaseModel):
    """All action items of one incident, oldest first."""

    items: Sequence[Action]


class ActionPage(BaseModel):
    """Action items of many incidents by due date (none last), and the cursor of the next page."""

    items: Sequence[Action]
    next_cursor: str | None


class ActionQuery(BaseModel):
    """The filters; different ones are joined by "and"."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: Annotated[list[ActionStatus], Field(max_length=20)] = []
    owner: Annotated[list[Owner], Field(max_length=20)] = []
    overdue: bool | None = Field(None, description="Whether it is open after its due date, in UTC.")
    limit: int = Field(50, ge=1, le=200)
    cursor: Annotated[str, StringConstraints(max_length=1000)] | None = None


_CLOSED = (ActionStatus.DONE, ActionStatus.WONT_DO)


def change(old: Action, wish: ActionChange, now: datetime) -> Action:
    """Apply a change to an action item; return the same object if nothing changes.

    Closing it again drops the earlier reason; reopening drops the reason and the time.

    Raises:
        InvalidFieldsError: If it is closed as `wont_do` without a reason, or is open and has one.
    """
    wanted = {name: getattr(wish, name) for name in wish.model_fields_set}
    status = wanted.get("status", old.status)
    kept = old if status == old.status else old.model_copy(update={"closed_at": now, "closed_reason": None})
    if status not in _CLOSED:
        if wanted.get("closed_reason") is not None:
            raise _refusal("forbidden", "only a closed action item may have a reason")
        wanted |= {"closed_at": None, "closed_reason": None}
    new = kept.model_copy(update=wanted)
    if status is ActionStatus.WONT_DO and new.closed_reason is None:
        raise _refusal("required", "closing as won't do requires a reason")
    return new


def _refusal(code: str, message: str) -> InvalidFieldsError:
    return InvalidFieldsError(message, errors=(FieldError("/closed_reason", code, message),))
