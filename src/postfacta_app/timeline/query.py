"""Filters and cursors of timelines, edits, annotations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Literal, Self, cast
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field, StringConstraints

from ..incidents.model import Incident
from ..web.body import Time
from ..web.paging import decode_cursor, encode_cursor, filters_hash
from .model import Entry, Instant, Milestone, Repeats, Stretch
from .rules import RULES, Place, sort_key

Text = Annotated[str, StringConstraints(min_length=1, max_length=200)]

EntryKind = Literal[
    "change", "alert_firing", "alert_resolved", "page", "metric", "log", "status", "action", "note", "other",
]  # fmt: skip


WIDTHS: Final = {
    "1m": 60_000_000, "5m": 300_000_000, "15m": 900_000_000, "1h": 3_600_000_000, "6h": 21_600_000_000,
    "1d": 86_400_000_000, "1w": 604_800_000_000,
}  # fmt: skip
"""The windows of time within which repeats are folded, in microseconds; each begins at a multiple since 1970."""
Width = Literal["1m", "5m", "15m", "1h", "6h", "1d", "1w"]


def span_of(group: str) -> tuple[int, int, int]:
    """Return what the entries of a group have in common, and the ends of its window; raise if it names no group."""
    alike, start, width = (int(part) for part in group.split("."))
    if max(abs(alike), abs(start), abs(start + width)) >= 2**63:
        raise ValueError("names no group")
    return alike, start, start + width


def _checked(group: str) -> str:
    span_of(group)
    return group


Group = Annotated[
    str, StringConstraints(pattern=r"^-?[0-9]{1,19}(\.-?[0-9]{1,19}){2}$"), AfterValidator(_checked)
]
"""The name of a group of repeats."""


class TimelineQuery(BaseModel, extra="forbid", frozen=True):
    """The view of a timeline, and filters of its entries; different ones are joined by "and"."""

    as_of: Time | None = Field(None, description="Only what had been recorded by then.")
    known_as_of: Time | None = Field(None, description="Only what people knew by then.")
    include_hidden: bool = False
    kind: Annotated[list[EntryKind], Field(max_length=20)] = []
    source: Annotated[list[Text], Field(max_length=20)] = []
    pinned: bool | None = None
    text: Annotated[Text | None, Field(description="Only entries whose title has this text.")] = None
    fold: Annotated[
        Width | None, Field(description="Show equal signals as one item, within windows of this width.")
    ] = None
    group: Annotated[Group | None, Field(description="Only the signals of this group of `repeats`.")] = None
    digest: Annotated[bool, Field(description="Compute the digest even of more than 10,000 entries.")] = False
    limit: int = Field(500, ge=1, le=2000)
    # The cursor holds source, sequence and id: 600 characters of up to four bytes.
    cursor: Annotated[str, StringConstraints(max_length=4000)] | None = None

    def cursor_after(self, incident_id: UUID, entry: Entry) -> str:
        return encode_cursor(str(incident_id), sort_key(entry), filters_hash(self))


class TimelinePage(BaseModel):
    """A page of a timeline; `digest` and `milestones` are those of the whole timeline."""

    digest: str | None
    why: str | None = Field(None, description="Why there is no digest.")
    rules: int
    milestones: dict[Milestone, Instant] = Field(description="Milestones that people have set.")
    items: Sequence[Entry]
    repeats: Sequence[Repeats] = Field((), description="With `fold`: which items stand for several signals.")
    next_cursor: str | None

    @classmethod
    def of(
        cls,
        found: Sequence[Entry],
        query: TimelineQuery,
        incident_id: UUID,
        *,
        digest: str | None,
        milestones: Mapping[Milestone, Instant],
        repeats: Sequence[Repeats] = (),
    ) -> Self:
        """Return the page of the entries after the cursor; one more than its limit leads to the next."""
        items = found[: query.limit]
        more = len(found) > len(items)
        return cls(
            digest=digest,
            why="more than 10,000 entries: ask with digest=true" if digest is None else None,
            rules=RULES,
            milestones=dict(milestones),
            items=items,
            repeats=[it for it in repeats if it.item < len(items)],
            next_cursor=query.cursor_after(incident_id, items[-1]) if more else None,
        )


@dataclass(frozen=True, slots=True)
class Slice:
    """A page of a timeline, with its incident from the same snapshot, and the instant up to which it goes."""

    incident: Incident
    page: TimelinePage
    etag: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A numbered page of the present."""

    page: int = 1
    known_as_of: datetime | None = None
    include_hidden: bool = False
    is_narrative: bool = False
    # Given source and id: the page has the first for which it holds.
    entry: Callable[[str, str], bool] | None = None
    names: Collection[tuple[str, str]] | None = None  # only the entries with these sources and ids
    text: str = ""  # only the entries whose title has it, in either case
    group: str | None = None  # only the entries of this group of repeats
    fold: bool = False  # whether repeats are one line, if there are more entries than the page holds


@dataclass(frozen=True, slots=True)
class NumberedPage:
    """A numbered page, with what else it shows of its incident, from one snapshot."""

    incident: Incident
    entries: Sequence[Entry]
    after: Sequence[Entry]  # the entry after the page, if there is one
    page: int
    count: int  # how many lines the view has
    hidden: int  # how many are hidden
    marks: Mapping[str, tuple[int, int, str]]  # the milestones by name: time, rank of the precision, basis
    is_open: bool
    reasons: Mapping[str, str | None]  # why it was moved, by the id of the status change
    total: int  # how many entries the view has
    repeats: Sequence[Repeats] = ()  # which lines stand for several entries
    stretches: Sequence[Stretch] = ()  # where the whole view has entries, if it has more than the page


def place(query: TimelineQuery, incident_id: UUID) -> Place | None:
    if query.cursor is None:
        return None
    kinds = (int, int, int, str, bool, str, str)
    return cast("Place", decode_cursor(query.cursor, str(incident_id), filters_hash(query), *kinds))
