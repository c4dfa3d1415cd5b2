"""What a list of incidents can be asked for, and where its next page begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ..web.body import Time
from ..web.paging import decode_cursor, encode_cursor, filters_hash
from .model import Incident, Kind, Outcome, Owner, Severity, Slug, Status

__all__ = ["FollowUp", "IncidentFilters", "IncidentQuery", "Key", "Rows", "Sort"]


class Sort(StrEnum):
    """The order of a list; the id decides between equals."""

    NEWEST = "-declared_at"
    OLDEST = "declared_at"
    CHANGED = "changed"


Key = tuple[datetime, UUID]
"""The place of one incident in a list: its instant by the list's order, and its id."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A page as the store reads it.

    Attributes:
        items: At most as many as asked for.
        last: The place of the last one, if more follow.
        as_of: All that was committed before it is in here, or had not changed since.
    """

    items: Sequence[Incident]
    last: Key | None
    as_of: datetime


@dataclass(frozen=True, slots=True)
class FollowUp:
    """What has come of an incident: the status of its post-mortem, if the asker may see one, and its open actions."""

    postmortem: str | None
    open_actions: int


T = TypeVar("T")
Many = Annotated[list[T], Field(max_length=20)]  # A parameter sent again means "or".
Word = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class IncidentFilters(BaseModel):
    """Which incidents; different filters are joined by "and"."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    since: Time | None = Field(
        None, alias="from", description="Incidents that ended at or after it, or are open."
    )
    until: Time | None = Field(None, alias="to", description="Incidents declared before it.")
    kind: Many[Kind] = []
    service: Many[Slug] = []
    team: Many[Slug] = []
    severity: Many[Severity] = []
    severity_gte: Severity | None = None
    status: Many[Status] = []
    outcome: Many[Outcome] = []
    owner: Many[Owner] = []
    has_postmortem: bool | None = None
    updated_since: Time | None = None
    q: Many[Word] = []


class IncidentQuery(IncidentFilters):
    """The filters, the order, and the place in it."""

    sort: Sort = Sort.NEWEST
    limit: int = Field(50, ge=1, le=200)
    cursor: Annotated[str, StringConstraints(max_length=1000)] | None = None

    def after(self) -> Key | None:
        """Read the cursor.

        Raises:
            InvalidCursorError: If it is damaged, or was made for other filters or another order.
        """
        return None if self.cursor is None else decode_cursor(self.cursor, self.sort, filters_hash(self))

    def cursor_after(self, key: Key) -> str:
        """Write the cursor of the page that follows this place."""
        return encode_cursor(self.sort, key, filters_hash(self))
