"""Read the timelines that the database keeps, for the present or any past.

The rules of a read:

* One statement reads the incident and its entries, so both come from one snapshot.
* Triggers keep the entries of the present. A past differs from it in entries that were changed or
  whose source's clock was corrected since: `timeline_seen` makes those anew, the index gives the
  rest.
* A condition on the entries that people knew decides what a tie is. Filters only select from them.
* Entries leave the database as JSON in parts of 250, in the order of `sort_key`.
* The digest of a version never changes, so it is computed once for each version.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import anyio
from pydantic import BaseModel, Field, StringConstraints, TypeAdapter

from ..aside import aside
from ..db import VISIBLE, Query, Unit, Where, sees
from ..incidents.access import COLUMNS, incident_of, not_kept, read_incident, ref_of, ref_text
from ..incidents.model import Incident, Many, Word
from ..signals.model import micros
from ..web.body import Time, decode_cursor, encode_cursor, filters_hash
from . import statements
from .model import Entry, Instant, Milestone, Repeats
from .rules import RULES, sort_key

Short = Annotated[str, StringConstraints(max_length=200)]

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

Group = Annotated[str, StringConstraints(pattern=r"^-?[0-9]{1,19}\.-?[0-9]{1,18}\.[0-9]{1,18}$")]
"""The name of a group of repeats.

What they have in common, and the start and width of their window.
"""


class TimelineQuery(BaseModel, extra="forbid", frozen=True):
    """The view of a timeline, and filters of its entries; different ones are joined by "and"."""

    as_of: Time | None = Field(None, description="Only what had been recorded by then.")
    known_as_of: Time | None = Field(None, description="Only what people knew by then.")
    include_hidden: bool = False
    kind: Many[EntryKind] = []
    source: Many[Word] = []
    pinned: bool | None = None
    text: Annotated[Word | None, Field(description="Only entries whose title has this text.")] = (
        None
    )
    digest: Annotated[
        bool, Field(description="Compute the digest even of more than 10,000 entries.")
    ] = False
    limit: int = Field(500, ge=1, le=2000)
    # The cursor holds source, sequence and id: 600 characters of up to four bytes.
    cursor: Annotated[str, StringConstraints(max_length=4000)] | None = None

    def cursor_after(self, ref: UUID | int, entry: Entry) -> str:
        return encode_cursor(ref_text(ref), sort_key(entry), filters_hash(self))

    def after(self, ref: UUID | int) -> tuple[Any, ...] | None:
        """Return the place of the cursor, which belongs to this reference of the incident."""
        if self.cursor is None:
            return None
        kinds = (int, int, int, str, bool, str, str)
        return decode_cursor(self.cursor, ref_text(ref), filters_hash(self), *kinds)


class TimelinePage(BaseModel):
    """A page of a timeline; `digest` and `milestones` are those of the whole timeline."""

    digest: str | None
    why: str | None = Field(None, description="Why there is no digest.")
    rules: int
    milestones: dict[Milestone, Instant] = Field(description="Milestones that people have set.")
    items: Sequence[Entry]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Slice:
    """A page of a timeline, with its incident from the same snapshot; it goes up to `at`."""

    incident: Incident
    page: TimelinePage
    etag: str
    at: datetime


class Wanted(BaseModel, extra="forbid", frozen=True):
    """A numbered page of the present.

    `entry` and `edit` are anchors of entries, and select the page that has one.
    """

    view: Literal["all", "narrative"] = "all"
    include_hidden: bool = Field(default=False, alias="hidden")
    known_as_of: Time | None = None
    text: Short = ""  # only the entries whose title has it, in either case
    edit: Short = ""
    page: int = Field(default=1, ge=1, le=10_000)
    # One line for repeats, if there are more entries than the page holds.
    repeats: Literal["folded", "each"] = "folded"
    group: Group | None = None  # only the entries of this group of repeats
    entry: Short = ""
    # By default the newest first while the incident is open.
    order: Literal["newest", "oldest"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedPage:
    """A numbered page, with what else it shows of its incident, from one snapshot."""

    incident: Incident
    entries: Sequence[Entry]
    after: Sequence[Entry]  # the entry after the page in time, if there is one
    newest_first: bool  # whether page 1 is the latest; the entries of a page go forward in time
    page: int
    count: int  # how many lines the view has
    hidden: int  # how many are hidden
    # The milestones by name: time, rank of the precision, basis.
    marks: Mapping[str, tuple[int, int, str]]
    is_open: bool
    reasons: Mapping[str, str | None]  # why it was moved, by the id of the status change
    total: int  # how many entries the view has
    repeats: Sequence[Repeats] = ()  # which lines stand for several entries
    size: int  # the most lines of a page
    pages: int


COMPLETE: Final = 10_000  # the most entries of an incident for which every answer has the digest

_MOST_DIGESTS: Final = 10_000
ENTRIES: Final = TypeAdapter(Sequence[Entry])

Key = tuple[UUID, datetime, int | None, bool]
Names = Collection[tuple[str, str]]


async def _read(q: Query, ref: UUID | int, sql: str, *args: object, operation: str) -> Any:
    """Run a query for one row.

    Raise if the caller may see no such incident, or `migrate` has not kept its timeline yet.
    """
    for row in await q.fetch(sql, *args, operation=operation):
        return row
    await read_incident(q, ref)
    raise not_kept()


class KeptTimelines:
    """Reads slices, pages and digests; it holds digests by version."""

    def __init__(self) -> None:
        self._digests: OrderedDict[Key, str] = OrderedDict()
        self._turns = anyio.Semaphore(2)  # The work of a digest is PostgreSQL's.

    async def slice(self, q: Query, ref: UUID | int, query: TimelineQuery) -> Slice:
        """Read the matching entries of an incident.

        Raise `NotFoundError` if the caller may not see it.
        """
        is_known, matches = _conditions(query, *sees(q.principal), *ref_of(ref), query.as_of, RULES)
        matches.add("e.kind = any ({}::text[])", query.kind)
        matches.add("e.source = any ({}::text[])", query.source)
        matches.add("e.pinned = {}::boolean", query.pinned)
        matches.add(statements.BEYOND, *query.after(ref) or [None])
        if not query.include_hidden:  # What the timeline is, and so what a tie is.
            is_known = f"not e.hidden and {is_known}"
        tie = statements.TIE.format(
            kept=statements.OF_ROWS.format(e="x"), is_known=is_known.replace("e.", "x.")
        )
        statement = statements.SLICE.format(
            incident=COLUMNS,
            visible=VISIBLE,
            columns=statements.COLUMNS,
            kept=statements.OF_ROWS.format(e="e"),
            matches=matches,
            is_known=is_known,
            key=statements.KEY,
            limit=matches.bind(query.limit + 1, "int"),
            entry=statements.ENTRY.format(tie=tie),
        )
        row = await _read(q, ref, statement, *matches.args, operation="timeline_slice")
        incident = incident_of(row)
        conflicts = row["conflicts"]
        known_as_of = None if query.known_as_of is None else micros(query.known_as_of)
        key = (incident.id, row["until"], known_as_of, query.include_hidden)
        is_complete = query.digest or row["entries"] <= COMPLETE
        digest = await self.digest(q, key) if is_complete else self._digests.get(key)
        entries = await aside(sum(map(len, row["page"])), _entries, row["page"])
        items = entries[: query.limit]
        milestones = json.loads(row["milestones"])
        page = TimelinePage(
            digest=digest,
            why="more than 10,000 entries: ask with digest=true" if digest is None else None,
            rules=RULES,
            milestones={name: milestones[name] for name in Milestone if name in milestones},
            items=items,
            next_cursor=query.cursor_after(ref, items[-1]) if len(entries) > len(items) else None,
        )
        version = f'W/"{micros(row["timeline_at"])}-{conflicts}"'
        etag = f'"{digest[:32]}-{conflicts}"' if digest else version
        return Slice(incident, page, etag, row["until"])

    async def page(
        self, q: Query, ref: UUID | int, query: Wanted, *, size: int, names: Names | None = None
    ) -> NumberedPage:
        """Read a page of the present, of these sources and ids only if some are named.

        A number after the last page gives the last one. Raise `NotFoundError` if the caller may not
        see the incident.
        """
        is_known, matches = _conditions(query, *sees(q.principal), *ref_of(ref), RULES)
        matches.add(statements.NARRATIVE if query.view == "narrative" else "true")
        matches.add(statements.OF_GROUP, query.group)
        if names is not None:
            matches.add(statements.NAMED, *([name[part] for name in names] for part in (0, 1)))
        at = matches.bind(query.page - 1, "int")
        anchor = query.entry or query.edit
        selects_one = bool(anchor or query.group)
        orders = {"newest": "true", "oldest": "false", None: "i.ended_at is null"}
        newest_first = orders[query.order]
        fold = query.repeats == "folded" and query.view == "all" and not selects_one
        if anchor:
            at = statements.PLACE.format(
                key=statements.KEY,
                size=size,
                anchor=matches.bind(anchor, "text"),
                at=at,
                newest_first=newest_first,
            )
        tie = statements.TIE_NOW.format(is_known=is_known.replace("e.", "x."))
        lines = statements.FOLDED.format(size=size) if fold else statements.MATCHING
        statement = statements.PAGE.format(
            incident=COLUMNS,
            visible=VISIBLE,
            matches=matches,
            is_known=is_known,
            key=statements.KEY,
            at=at,
            newest_first=newest_first,
            size=size,
            annotated=statements.ANNOTATED,
            lines=lines,
            entry=statements.ENTRY.format(tie=tie),
            repeats=statements.REPEATS if fold else "null",
        )
        row = await _read(q, ref, statement, *matches.args, operation="timeline_page")
        entries = await aside(sum(map(len, row["page"])), _entries, row["page"])
        marks, reasons, repeats = (
            json.loads(row[column] or "{}") for column in ("marks", "reasons", "repeats")
        )
        shown = min(size, row["count"] - row["at"] * size)
        return NumberedPage(
            incident=incident_of(row),
            entries=entries[:shown],
            after=entries[shown:],
            newest_first=row["newest_first"],
            page=row["at"] + 1,
            size=size,
            count=row["count"],
            pages=-(-row["count"] // size),
            hidden=row["hidden"],
            total=row["entries"],
            is_open=row["is_open"],
            repeats=[Repeats(*repeat) for repeat in repeats],
            marks=marks,
            reasons=reasons,
        )

    async def named(self, q: Query, ref: UUID, names: Names) -> Sequence[Entry]:
        """Read the entries with these sources and ids, without hidden ones."""
        if not names:
            return ()
        page = await self.page(q, ref, Wanted(repeats="each"), size=len(names), names=names)
        return page.entries

    async def digest(self, q: Query, key: Key) -> str:
        """Return the digest of a version of a timeline, which never changes."""
        if key not in self._digests:
            async with self._turns:
                if key not in self._digests:
                    rows = await q.fetch(statements.DIGEST, *key, operation="timeline_digest")
                    self._digests[key] = rows[0][0]
        self._digests.move_to_end(key)
        while len(self._digests) > _MOST_DIGESTS:
            self._digests.popitem(last=False)
        return self._digests[key]


async def digest_in(unit: Unit, incident_id: UUID) -> str:
    """Return the digest of the timeline as the unit sees it, which may still change."""
    args = (incident_id, None, None, None)
    rows = await unit.fetch(statements.DIGEST, *args, operation="timeline_digest")
    return str(rows[0][0])


def _conditions(query: TimelineQuery | Wanted, *args: object) -> tuple[str, Where]:
    """Return which entries were known then, and which of them match the query.

    The statement has `args` before theirs.
    """
    matches = Where(*args)
    is_known = "true"
    if query.known_as_of is not None:
        known_as_of = matches.bind(micros(query.known_as_of), "bigint")
        is_known = f"coalesce(e.known_at, e.t) <= {known_as_of}"
    matches.add(is_known)
    matches.add("true" if query.include_hidden else "not e.hidden")
    matches.add("strpos(lower(e.title), lower({}::text)) > 0", query.text or None)
    return is_known, matches


def _entries(texts: Sequence[str]) -> list[Entry]:
    return [entry for text in texts for entry in ENTRIES.validate_json(text)]
