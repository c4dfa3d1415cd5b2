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
from ..incidents.access import COLUMNS, incident_of, not_kept, ref_of, ref_text, seen
from ..incidents.model import Incident, Many, Word
from ..signals.model import Precision, micros
from ..web.body import Time, decode_cursor, encode_cursor, filters_hash
from .model import Entry, Instant, Milestone, Repeats
from .rules import AHEAD, RULES, sort_key

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

# The windows of time within which repeats are folded, in microseconds; each begins at a multiple
# since 1970.
WIDTHS: Final = (
    60_000_000,
    300_000_000,
    900_000_000,
    3_600_000_000,
    21_600_000_000,
    86_400_000_000,
    604_800_000_000,
)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedPage:
    """A numbered page, with what else it shows of its incident, from one snapshot."""

    incident: Incident
    entries: Sequence[Entry]
    after: Sequence[Entry]  # the entry after the page, if there is one
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
_KEY: Final = (
    'e.t, e.p, e.k, e.source collate "C", e.unnumbered, e.sequence collate "C", e.id collate "C"'
)
_COLUMNS: Final = """
e.source, e.id, e.signal_id, e.kind, e.t, e.p, e.k, e.unnumbered, e.sequence, e.occurred,
e.known_at, e.title, e.original, e.sha, e.pinned, e.hidden, e.first_at, e.alike"""
ENTRIES: Final = TypeAdapter(Sequence[Entry])
_ENTRY: Final = f"""
json_build_object(
  'source', e.source,
  'id', e.id,
  'kind', e.kind,
  't', e.t,
  'p', (array{[precision.value for precision in Precision]})[e.p + 1],
  'title', e.title,
  'sha', e.sha,
  'pinned', e.pinned,
  'hidden', e.hidden,
  'occurred_at', e.occurred,
  'original_precision', coalesce(
    s.precision,
    (select a.precision
       from annotations a
      where a.id = case when e.source = 'human' then split_part(e.id, ':', 2)::uuid end),
    'exact'),
  'original_title', coalesce(e.original, e.title),
  'sequence', case when not e.unnumbered then e.sequence end,
  'known_at', e.known_at,
  'received_at', timeline_us(coalesce(s.received_at, e.first_at)),
  'time_basis', coalesce(s.time_basis, 'event'),
  'signal_id', e.signal_id,
  'clock_suspect', coalesce(e.occurred > timeline_us(s.received_at) + {AHEAD}, false),
  'services', coalesce(s.services, '{{{{}}}}'),
  'environment', s.environment,
  'links', coalesce(s.links, '[]'),
  'conflicts', (select count(*) from signal_conflicts c where c.signal_id = e.signal_id),
  'tie', {{tie}})"""  # noqa: S608 - only constants of our modules
# What has an annotation is never folded.
_ANNOTATED: Final = """
annotated as (
  select a.entry_source collate "C", a.entry_id collate "C"
    from i
    join annotations a on a.incident_id = i.id
   where a.entry_source is not null)"""
# The first entry of each group of repeats, and entries that stand alone.
_FOLDED: Final = f"""
select *
  from (
    select e.*,
           count(*) over w as repeats,
           max(e.t) over w as until,
           row_number() over (w order by {_KEY}) as nth
      from (
        select e.*,
               e.t - (e.t % f.width + f.width) % f.width as start,
               f.width,
               case
                 when f.width > 0 and (e.source, e.id) not in (select * from annotated) then e.alike
               end as alike_group
          from ({{entries}}) e, ({{width}}) f(width)) e
    window w as (
      partition by
        e.alike_group,
        e.start,
        case when e.alike_group is null then e.source end,
        case when e.alike_group is null then e.id end)) e
 where e.nth = 1"""  # noqa: S608 - only constants of this module
_REPEATS: Final = f"""
(select json_agg(
          json_build_array(
            e.item,
            e.repeats,
            e.until,
            e.alike_group || '.' || e.start || '.' || e.width)
          order by e.item)
   from (select e.*, row_number() over (order by {_KEY}) - 1 as item from page e) e
  where e.repeats > 1)"""  # noqa: S608 - only constants of this module
_OF_GROUP: Final = """
e.alike::text = split_part({0}::text, '.', 1)
  and e.t >= split_part({0}, '.', 2)::bigint
  and e.t < split_part({0}, '.', 2)::bigint + split_part({0}, '.', 3)::bigint
  and (e.source, e.id) not in (select * from annotated)"""
# Of what is kept and of what was changed no more than the page, which the index gives in its order.
_SLICE: Final = """
with i as materialized (
  select {incident},
         i.timeline_at,
         least($5::timestamptz, i.timeline_at) as until,
         m.entries
    from incidents i
    join incident_measures m on m.incident_id = i.id and m.rules = $6
   where {visible}
     and (i.id = $3::uuid or i.number = $4::bigint)),
changed as materialized (
  select e.*
    from i,
         timeline_seen(
           i.id, case when i.until < i.timeline_at then i.until else 'infinity' end) e),
page as materialized (
  select *
    from (
      (select {columns} from timeline_entries e where {kept} and {matches} order by {key} limit {limit})
      union all
      (select {columns} from changed e where {matches} order by {key} limit {limit})) e
   order by {key}
   limit {limit})
select i.*,
       array(
         select json_agg(f.entry)::text
           from (
             select {entry} as entry,
                    row_number() over (order by {key}) / 250 as part
               from page e
               left join signals s on s.id = e.signal_id
              order by {key}) f
          group by f.part
          order by f.part) as page,
       (select count(*)
          from signal_conflicts c
          join (select e.* from timeline_entries e where {kept}) e on e.signal_id = c.signal_id
         where {is_known})
         + (select count(*)
              from signal_conflicts c
              join changed e on e.signal_id = c.signal_id
             where {is_known}) as conflicts,
       timeline_milestones(i.id, i.until) as milestones
  from i"""
# The second condition lets the range of the index begin there in any plan.
_BEYOND: Final = f"""
({_KEY}) > (
    {{0}}::bigint,
    {{1}}::smallint,
    {{2}}::smallint,
    {{3}}::text collate "C",
    {{4}}::boolean,
    {{5}}::text collate "C",
    {{6}}::text collate "C")
  and e.t >= {{0}}::bigint"""
# As it was at the end: what was changed since, and whose clock was, is in `changed` instead.
_TIE_NOW: Final = """
exists (
  select
    from timeline_entries x
   where x.incident_id = (select id from i)
     and x.present
     and x.t = e.t
     and {is_known}
     and (x.source, x.id) <> (e.source, e.id))"""
# As `is_narrative` of the page.
_NARRATIVE: Final = """
(e.pinned
  or e.kind = 'action'
  or e.source in ('human', 'postfacta')
  or e.source >= 'manual/' and e.source < 'manual0')"""
_NAMED: Final = """
(e.source, e.id) in (
  select n.source collate "C", n.id collate "C"
    from unnest({}::text[], {}::text[]) n(source, id))"""
_KEPT: Final = """
{e}.incident_id = (select id from i)
  and {e}.present
  and {e}.since <= (select until from i)
  and ({e}.shift is null
    or {e}.source <> all ((
      select array(
        select m.source
          from i, timeline_moved(i.id, i.until) m
         where i.until < i.timeline_at))::text[]))"""
_TIE: Final = """
(exists (
   select
     from timeline_entries x
    where {kept}
      and x.t = e.t
      and {is_known}
      and (x.source, x.id) <> (e.source, e.id))
 or exists (
   select
     from changed x
    where x.t = e.t
      and {is_known}
      and (x.source, x.id) <> (e.source, e.id)))"""
# Above a page, the least width of which thirty cover the view; so there are at most thirty lines of
# a kind.
_WIDTH: Final = f"""
select min(w)
  from unnest(array{[*WIDTHS]}::bigint[]) w,
       (select count(*) as entries, max(t) - min(t) as length from matching) o
 where o.entries > {{size}}
   and (o.length <= 30 * w or w = {max(WIDTHS)})"""  # noqa: S608 - only constants of our modules
# A page by its number, of the present.
_PAGE: Final = """
with i as materialized (
  select {incident},
         i.timeline_at,
         m.marks::text as marks,
         m.is_open
    from incidents i
    join incident_measures m on m.incident_id = i.id and m.rules = $5
   where {visible}
     and (i.id = $3::uuid or i.number = $4::bigint)),
{annotated},
matching as (
  select e.*
    from timeline_entries e
   where e.incident_id = (select id from i)
     and e.present
     and {matches}),
lines as ({lines}),
counted as materialized (
  select count(*) as count from lines),
place as materialized (
  select least({at}, greatest(0, count - 1) / {size}) as at from counted),
page as materialized (
  select *
    from lines e
   order by {key}
   limit {limit}
  offset (select at * {size} from place))
select i.*,
       place.at,
       counted.count,
       (select count(*) from matching) as entries,
       (select count(*)
          from timeline_entries e
         where e.incident_id = (select id from i)
           and e.present
           and e.hidden
           and {is_known}) as hidden,
       array(
         select json_agg(f.entry)::text
           from (
             select {entry} as entry,
                    row_number() over (order by {key}) / 250 as part
               from page e
               left join signals s on s.id = e.signal_id
              order by {key}) f
          group by f.part
          order by f.part) as page,
       {repeats}::text as repeats,
       (select json_object_agg(c.id, c.reason)
          from status_changes c
         where c.incident_id = i.id)::text as reasons
  from i, place, counted"""
# As `anchor` in view.py.
_PLACE: Final = """
coalesce((
  select n / {size}
    from (
      select row_number() over (order by {key}) - 1 as n,
             e.source,
             e.id
        from lines e) e
   where 'e-' || left(
           encode(
             sha256(convert_to(length(e.source) || ' ' || e.source || ' ' || e.id, 'UTF8')),
             'hex'),
           12) = {anchor}),
  {at})"""
_DIGEST: Final = (
    "select timeline_digest($1, coalesce($2::timestamptz, 'infinity'), $3, coalesce($4, false))"
)
_MATCHING: Final = f"select {_COLUMNS} from matching e"  # noqa: S608 - only constants of this module

Key = tuple[UUID, datetime, int | None, bool]
Names = Collection[tuple[str, str]]


async def _read(q: Query, ref: UUID | int, sql: str, *args: object, operation: str) -> Any:
    """Run a query for one row.

    Raise if the caller may see no such incident, or `migrate` has not kept its timeline yet.
    """
    for row in await q.fetch(sql, *args, operation=operation):
        return row
    await seen(q, ref)
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
        matches.add(_BEYOND, *query.after(ref) or [None])
        if not query.include_hidden:  # What the timeline is, and so what a tie is.
            is_known = f"not e.hidden and {is_known}"
        tie = _TIE.format(kept=_KEPT.format(e="x"), is_known=is_known.replace("e.", "x."))
        statement = _SLICE.format(
            incident=COLUMNS,
            visible=VISIBLE,
            columns=_COLUMNS,
            kept=_KEPT.format(e="e"),
            matches=matches,
            is_known=is_known,
            key=_KEY,
            limit=matches.bind(query.limit + 1, "int"),
            entry=_ENTRY.format(tie=tie),
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
        matches.add(_NARRATIVE if query.view == "narrative" else "true")
        matches.add(_OF_GROUP, query.group)
        if names is not None:
            matches.add(_NAMED, *([name[part] for name in names] for part in (0, 1)))
        limit = matches.bind(size + 1, "int")
        at = matches.bind(query.page - 1, "int")
        anchor = query.entry or query.edit
        selects_one = bool(anchor or query.group)
        fold = query.repeats == "folded" and query.view == "all" and not selects_one
        if anchor:
            at = _PLACE.format(key=_KEY, size=size, anchor=matches.bind(anchor, "text"), at=at)
        tie = _TIE_NOW.format(is_known=is_known.replace("e.", "x."))
        lines = (
            _FOLDED.format(entries=_MATCHING, width=_WIDTH.format(size=size)) if fold else _MATCHING
        )
        statement = _PAGE.format(
            incident=COLUMNS,
            visible=VISIBLE,
            matches=matches,
            is_known=is_known,
            key=_KEY,
            limit=limit,
            at=at,
            size=size,
            annotated=_ANNOTATED,
            lines=lines,
            entry=_ENTRY.format(tie=tie),
            repeats=_REPEATS if fold else "null",
        )
        row = await _read(q, ref, statement, *matches.args, operation="timeline_page")
        entries = await aside(sum(map(len, row["page"])), _entries, row["page"])
        marks, reasons, repeats = (
            json.loads(row[column] or "{}") for column in ("marks", "reasons", "repeats")
        )
        return NumberedPage(
            incident=incident_of(row),
            entries=entries[:size],
            after=entries[size:],
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
                    rows = await q.fetch(_DIGEST, *key, operation="timeline_digest")
                    self._digests[key] = rows[0][0]
        self._digests.move_to_end(key)
        while len(self._digests) > _MOST_DIGESTS:
            self._digests.popitem(last=False)
        return self._digests[key]


async def digest_in(unit: Unit, incident_id: UUID) -> str:
    """Return the digest of the timeline as the unit sees it, which may still change."""
    args = (incident_id, None, None, None)
    rows = await unit.fetch(_DIGEST, *args, operation="timeline_digest")
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
