alter table annotations
  add column if not exists precision text
    check (precision in ('day','hour','minute','second','exact'))

-- As in 0002, but for the precision of notes: that of the first version, which the program before
-- does not repeat.
create or replace function timeline_rows(inc uuid, until timestamptz, sources text[], ids text[])
returns table (
  source text, id text, signal_id uuid, kind text,
  t bigint, p smallint, k smallint, shift bigint,
  unnumbered boolean, sequence text, occurred bigint, known_at bigint,
  title text, original text, sha text,
  pinned boolean, hidden boolean, present boolean,
  first_at timestamptz, since timestamptz, alike bigint)
language plpgsql stable set plan_cache_mode = force_custom_plan set jit = off as $$
#variable_conflict use_column
begin
  return query
  with attached as (  -- the signals that were ever attached, each with its last edit of that kind
    select e.signal_id,
           min(e.at) as first_at,
           max(e.at) as at,
           (array_agg(e.op order by e.at desc, e.id desc))[1] as op
      from edits e
     where sources is null
       and e.incident_id = inc
       and e.signal_id is not null
       and e.at <= until
     group by e.signal_id
    union all
    select s.id, l.first_at, l.at, l.op
      from unnest(sources, ids) w(source, id)
     cross join lateral (
       select s.id
         from signals s
        where s.source = w.source collate "default"
          and s.external_id = w.id collate "default"
       offset 0) s
     cross join lateral (
       select min(e.at) as first_at,
              max(e.at) as at,
              (array_agg(e.op order by e.at desc, e.id desc))[1] as op
         from edits e
        where e.signal_id = s.id
          and (e.incident_id = inc) is true
          and e.at <= until
       having count(*) > 0) l),
  facts as (
    -- Signals, by name.
    select s.source,
           s.external_id as id,
           s.id as signal_id,
           s.kind,
           timeline_us(s.occurred_at) as occurred,
           s.precision as pn,
           s.sequence,
           s.title,
           encode(s.content_sha256, 'hex') as sha,
           timeline_us(s.known_at) as known_at,
           a.op = 'attach' as present,
           a.first_at,
           a.at
      from attached a
     cross join lateral (
       select * from signals s where s.id = a.signal_id and sources is not null offset 0) s
    union all
    -- Signals, all of them.
    select s.source,
           s.external_id as id,
           s.id as signal_id,
           s.kind,
           timeline_us(s.occurred_at) as occurred,
           s.precision as pn,
           s.sequence,
           s.title,
           encode(s.content_sha256, 'hex') as sha,
           timeline_us(s.known_at) as known_at,
           a.op = 'attach' as present,
           a.first_at,
           a.at
      from attached a
      join signals s on s.id = a.signal_id
     where sources is null
    union all
    -- Status changes.
    select 'postfacta',
           'status:' || c.id,
           null,
           'status',
           timeline_us(c.occurred_at),
           'exact',
           null,
           case
             when c.from_status is null then 'Declared'
             else 'Moved to ' || lower(replace(c.to_status, '_', ' '))
           end || coalesce(': ' || lower(replace(c.outcome, '_', ' ')), ''),
           encode(sha256(convert_to(
             '{' || '"outcome":' || coalesce(to_json(c.outcome)::text, 'null')
               || ',"reason":' || coalesce(to_json(c.reason)::text, 'null')
               || ',"to":' || to_json(c.to_status) || '}', 'UTF8')), 'hex'),
           null,
           true,
           c.at,
           c.at
      from status_changes c
     where c.incident_id = inc
       and c.at <= until
       and (sources is null or 'status:' || c.id = any (ids))
    union all
    -- Annotations with a time of their own: the title is the first line, stripped as Python does.
    select 'human',
           'annotation:' || n.root,
           null,
           'note',
           timeline_us(n.occurred_at),
           coalesce(n.precise, 'exact'),
           null,
           coalesce(
             nullif(left(split_part(btrim(
               n.body,
               E' \t\n\v\f\r\x1c\x1d\x1e\x1f\u0085\u00a0\u1680'
               '\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a'
               '\u2028\u2029\u202f\u205f\u3000'), E'\n', 1), 200), ''),
             n.kind),
           encode(sha256(convert_to(
             '{' || '"kind":' || to_json(n.kind)
               || ',"state":' || coalesce(to_json(n.state)::text, 'null')
               || ',"text":' || to_json(n.body) || '}', 'UTF8')), 'hex'),
           null,
           not n.retracted,
           n.first_at,
           n.at
      from (
        select distinct on (a.root)
               a.*,
               min(a.at) over (partition by a.root) as first_at,
               max(a.precision) over (partition by a.root) as precise
          from annotations a
         where a.incident_id = inc
           and a.at <= until
           and a.occurred_at is not null
           and (sources is null or 'annotation:' || a.root = any (ids))
         order by a.root, a.at desc, a.id desc) n),
  last as (  -- of each family the last edit counts
    select l.source,
           l.external_id,
           max(l.at) as at,
           (array_agg(l.value) filter (where l.family = 'title'))[1] ->> 'title' as title,
           max(timeline_us((l.value ->> 'at')::timestamptz))
             filter (where l.family = 'time') as t,
           max(l.value ->> 'precision')
             filter (where l.family = 'time' and l.value ->> 'at' is not null) as pn,
           bool_or(l.op = 'hide') as hidden,
           bool_or(l.op = 'pin') as pinned
      from (
        select distinct on (f.family, e.source, e.external_id)
               f.family, e.source, e.external_id, e.op, e.value, e.at
          from (
            select *
              from edits e
             where sources is null
               and e.incident_id = inc
               and e.external_id is not null
               and e.at <= until
            union all
            select e.*
              from unnest(sources, ids) w(source, id)
             cross join lateral (
               select *
                 from edits e
                where e.source = w.source collate "default"
                  and e.external_id = w.id collate "default"
                  and e.external_id is not null
                  and (e.incident_id = inc) is true
                  and e.at <= until
               offset 0) e
             where exists (
               select from edits x where x.incident_id = inc and x.external_id is not null)) e
         cross join lateral (
           select case
                    when e.op in ('hide', 'unhide') then 'hidden'
                    when e.op in ('pin', 'unpin') then 'pinned'
                    when e.op = 'set_time' then 'time'
                    else 'title'
                  end as family) f
         order by f.family, e.source, e.external_id, e.at desc, e.id desc) l
     group by l.source, l.external_id)
  select f.source,
         f.id,
         f.signal_id,
         f.kind,
         case
           when l.t is not null then timeline_floor(l.t, l.pn)
           else timeline_floor(f.occurred, f.pn) + coalesce(c.shift, 0)
         end,
         timeline_rank(coalesce(l.pn, f.pn)),
         timeline_kind(f.kind),
         case when l.t is null then coalesce(c.shift, 0) end,
         f.sequence is null,
         coalesce(f.sequence, ''),
         f.occurred,
         f.known_at,
         coalesce(l.title, f.title),
         nullif(f.title, coalesce(l.title, f.title)),
         f.sha,
         coalesce(l.pinned, false),
         coalesce(l.hidden, false),
         f.present,
         f.first_at,
         greatest(f.at, l.at),
         case
           when f.signal_id is not null and l.source is null
           then timeline_alike(f.source, f.kind, f.title)
         end
    from facts f
    left join last l on l.source = f.source and l.external_id = f.id
    left join timeline_clocks(inc, until) c on c.source = f.source;
end
$$
