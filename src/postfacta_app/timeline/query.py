"""Filters and cursors of timelines, edits, annotations."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ..errors import InvalidCursorError
from ..web.body import Time
from ..web.paging import decode_cursor, decode_members, encode_cursor, encode_members, filters_hash
from .model import Entry, Instant, Milestone
from .rules import Place, Timeline, sort_key

__all__ = ["Paging", "RowKey", "TimelinePage", "TimelineQuery", "cut"]

RowKey = tuple[datetime, UUID]
"""The position of a record among those of its incident: its instant and id."""

EntryKind = Literal[
    "change",
    "alert_firing",
    "alert_resolved",
    "page",
    "metric",
    "log",
    "status",
    "action",
    "note",
    "other",
]


class Paging(BaseModel):
    """Which page of an incident's edits or annotations, oldest first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(50, ge=1, le=200)
    cursor: Annotated[str, StringConstraints(max_length=1000)] | None = None

    def after(self, incident_id: UUID) -> RowKey | None:
        """Return the position that the cursor holds.

        Raises:
            InvalidCursorError: If it is damaged, or was issued for another incident.
        """
        return (
            None if self.cursor is None else decode_cursor(self.cursor, str(incident_id), filters_hash(self))
        )

    def cursor_after(self, incident_id: UUID, key: RowKey) -> str:
        """Return the cursor of the page after this position."""
        return encode_cursor(str(incident_id), key, filters_hash(self))


class TimelineQuery(BaseModel):
    """The view of a timeline, and filters of its entries; different ones are joined by "and"."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    as_of: Time | None = Field(None, description="Only what had been recorded by then.")
    known_as_of: Time | None = Field(None, description="Only what people knew by then.")
    include_hidden: bool = False
    kind: Annotated[list[EntryKind], Field(max_length=20)] = []
    source: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=200)]], Field(max_length=20)
    ] = []
    pinned: bool | None = None
    limit: int = Field(500, ge=1, le=2000)
    # The cursor holds source, sequence and id: 600 characters of up to four bytes.
    cursor: Annotated[str, StringConstraints(max_length=4000)] | None = None

    def shows(self, entry: Entry) -> bool:
        """Return whether an entry matches the filters."""
        return (
            (not self.kind or entry.kind in self.kind)
            and (not self.source or entry.source in self.source)
            and (self.pinned is None or entry.pinned == self.pinned)
        )


class TimelinePage(BaseModel):
    """A page of a timeline; `digest` and `milestones` are those of the whole timeline."""

    digest: str
    rules: int
    milestones: dict[Milestone, Instant] = Field(description="Milestones that people have set.")
    items: list[Entry]
    next_cursor: str | None


def cut(timeline: Timeline, query: TimelineQuery, incident_id: UUID) -> TimelinePage:
    """Return one page of the matching entries.

    Raises:
        InvalidCursorError: If the cursor is damaged, or was issued for other filters or another incident.
    """
    after = _place(query, incident_id)
    asked = [it for it in timeline.entries if query.shows(it) and (after is None or sort_key(it) > after)]
    items = asked[: query.limit]
    more = len(asked) > len(items)
    return TimelinePage(
        digest=timeline.digest,
        rules=timeline.rules,
        milestones=dict(timeline.milestones),
        items=items,
        next_cursor=encode_members(str(incident_id), sort_key(items[-1]), filters_hash(query))
        if more
        else None,
    )


def _place(query: TimelineQuery, incident_id: UUID) -> Place | None:
    if query.cursor is None:
        return None
    match decode_members(query.cursor, str(incident_id), filters_hash(query)):
        case [int(t), int(precision), int(kind), str(source), bool(unnumbered), str(sequence), str(identity)]:
            return (t, precision, kind, source, unnumbered, sequence, identity)
        case _:
            raise InvalidCursorError("Start again without a cursor")
