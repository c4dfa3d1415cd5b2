"""The SQL of the reads of kept timelines, and the conditions that it joins.

`e` is an entry of the timeline, `i` the incident. The parts in braces are set by `kept`.
"""

from __future__ import annotations

from typing import Final

from ..signals.model import Precision
from .rules import AHEAD

# The windows of time within which repeats are folded, in microseconds; each begins at a multiple
# since 1970. All with one pattern share the least width of which `WINDOWS` cover them, so what else
# is on the timeline moves none, and a pattern takes at most one line more than that below the
# widest.
WINDOWS: Final = 6
WIDTHS: Final = (
    60_000_000,
    300_000_000,
    900_000_000,
    3_600_000_000,
    21_600_000_000,
    86_400_000_000,
    604_800_000_000,
)
KEY: Final = (
    'e.t, e.p, e.k, e.source collate "C", e.unnumbered, e.sequence collate "C", e.id collate "C"'
)
COLUMNS: Final = """
e.source, e.id, e.signal_id, e.kind, e.t, e.p, e.k, e.unnumbered, e.sequence, e.occurred,
e.known_at, e.title, e.original, e.sha, e.pinned, e.hidden, e.first_at, e.alike"""
ENTRY: Final = f"""
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
ANNOTATED: Final = """
annotated as (
  select a.entry_source collate "C", a.entry_id collate "C"
    from i
    join annotations a on a.incident_id = i.id
   where a.entry_source is not null)"""
# The first entry of each group of repeats, and entries that stand alone. Nothing is folded before
# more than a page could be.
FOLDED: Final = f"""
select *
  from (
    select e.*,
           count(*) over w as repeats,
           max(e.t) over w as until,
           row_number() over (w order by {KEY}) as nth
      from (
        select e.*,
               e.t - (e.t % e.width + e.width) % e.width as start,
               case
                 when e.foldable > {{size}} and (e.source, e.id) not in (select * from annotated)
                 then e.alike
               end as alike_group
          from (
            select e.*,
                   count(e.alike) over () as foldable,
                   (array{[*WIDTHS]}::bigint[])[1 + width_bucket(
                     max(e.t) over p - min(e.t) over p - 1,
                     array{[WINDOWS * width for width in WIDTHS[:-1]]}::bigint[])] as width
              from matching e
            window p as (partition by e.alike)) e) e
    window w as (
      partition by
        e.alike_group,
        e.start,
        case when e.alike_group is null then e.source end,
        case when e.alike_group is null then e.id end)) e
 where e.nth = 1"""  # noqa: S608 - only constants of this module
SHOWN: Final = 5  # the most distinct titles of a line
REPEATS: Final = f"""
(select json_agg(
          json_build_array(
            e.item,
            e.repeats,
            e.until,
            e.alike_group || '.' || e.start || '.' || e.width,
            timeline_pattern(e.title),
            h.titles,
            h.count)
          order by e.item)
   from (select e.*, row_number() over (order by {KEY}) - 1 as item from page e) e
   join (
     select g.alike_group,
            g.start,
            max(g.nth) as count,
            json_agg(g.title order by g.nth) filter (where g.nth <= {SHOWN}) as titles
       from (
         select f.alike_group,
                f.start,
                e.title,
                row_number() over (
                  partition by f.alike_group, f.start order by min(e.t), e.title) as nth
           from page f
           join matching e
             on e.alike = f.alike_group
            and e.t >= f.start
            and e.t < f.start + f.width
          where f.repeats > 1
            and (e.source, e.id) not in (select * from annotated)
          group by f.alike_group, f.start, e.title) g
      group by g.alike_group, g.start) h
     on h.alike_group = e.alike_group and h.start = e.start
  where e.repeats > 1)"""  # noqa: S608 - only constants of this module
OF_GROUP: Final = """
e.alike::text = split_part({0}::text, '.', 1)
  and e.t >= split_part({0}, '.', 2)::bigint
  and e.t < split_part({0}, '.', 2)::bigint + split_part({0}, '.', 3)::bigint
  and (e.source, e.id) not in (select * from annotated)"""
# Of what is kept and of what was changed no more than the page, which the index gives in its order.
SLICE: Final = """
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
      (select {columns}
         from timeline_entries e
        where {kept}
          and {matches}
        order by {key}
        limit {limit})
      union all
      (select {columns}
         from changed e
        where {matches}
        order by {key}
        limit {limit})) e
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
BEYOND: Final = f"""
({KEY}) > (
    {{0}}::bigint,
    {{1}}::smallint,
    {{2}}::smallint,
    {{3}}::text collate "C",
    {{4}}::boolean,
    {{5}}::text collate "C",
    {{6}}::text collate "C")
  and e.t >= {{0}}::bigint"""
# As it was at the end: what was changed since, and whose clock was, is in `changed` instead.
TIE_NOW: Final = """
exists (
  select
    from timeline_entries x
   where x.incident_id = (select id from i)
     and x.present
     and x.t = e.t
     and {is_known}
     and (x.source, x.id) <> (e.source, e.id))"""
# What people wrote, did and decided, and what they pinned. What they import is a machine's fact.
NARRATIVE: Final = "(e.pinned or e.kind in ('action', 'note', 'status'))"
NAMED: Final = """
(e.source, e.id) in (
  select n.source collate "C", n.id collate "C"
    from unnest({}::text[], {}::text[]) n(source, id))"""
OF_ROWS: Final = """
{e}.incident_id = (select id from i)
  and {e}.present
  and {e}.since <= (select until from i)
  and ({e}.shift is null
    or {e}.source <> all ((
      select array(
        select m.source
          from i, timeline_moved(i.id, i.until) m
         where i.until < i.timeline_at))::text[]))"""
TIE: Final = """
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
# A page by its number, of the present. With the newest first, pages are counted from the end, and
# each is in the order of the timeline too.
PAGE: Final = """
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
  select least({at}, greatest(0, count - 1) / {size}) as at, {newest_first} as newest_first
    from counted, i),
page as materialized (
  select *
    from lines e
   order by {key}
   limit (select least({size}, count - at * {size}) + 1 from counted, place)
  offset (select case
                   when newest_first then greatest(0, count - (at + 1) * {size})
                   else at * {size}
                 end
            from counted, place))
select i.*,
       place.at,
       place.newest_first,
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
PLACE: Final = """
coalesce((
  select case
           when (select {newest_first} from i) then (select count from counted) - 1 - n
           else n
         end / {size}
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
DIGEST: Final = (
    "select timeline_digest($1, coalesce($2::timestamptz, 'infinity'), $3, coalesce($4, false))"
)
MATCHING: Final = f"select {COLUMNS} from matching e"  # noqa: S608 - only a constant
