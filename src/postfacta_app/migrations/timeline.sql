-- The kept timeline: one row per entry in the order of the rules, kept by triggers in the
-- transaction of the fact. A look-up of `signals` or `edits` by a text of a "C" column says
-- `collate "default"`, or it finds no index; `lateral (... offset 0)` and
-- `(incident_id = x) is true` keep the planner from the index by incident.
-- A migration applies this file again when it changed: first the functions at once, then each
-- trigger.

-- Not immutable: would not be inlined.
create or replace function timeline_us(at timestamptz) returns bigint
language sql stable parallel safe
return (extract(epoch from at) * 1000000)::bigint

create or replace function timeline_width(p text) returns bigint
language sql immutable parallel safe
return case p
  when 'exact' then 1
  when 'second' then 1000000
  when 'minute' then 60000000
  when 'hour' then 3600000000
  else 86400000000
end

create or replace function timeline_floor(t bigint, p text) returns bigint
language sql immutable parallel safe
return t - ((t % timeline_width(p)) + timeline_width(p)) % timeline_width(p)

create or replace function timeline_rank(p text) returns smallint
language sql immutable parallel safe
return (case p
  when 'day' then 0
  when 'hour' then 1
  when 'minute' then 2
  when 'second' then 3
  else 4
end)::smallint

create or replace function timeline_kind(k text) returns smallint
language sql immutable parallel safe
return (case k
  when 'change' then 10
  when 'alert_firing' then 20
  when 'page' then 25
  when 'metric' then 30
  when 'log' then 30
  when 'status' then 40
  when 'action' then 50
  when 'note' then 60
  when 'alert_resolved' then 70
  else 80
end)::smallint

-- A title without its measures: numbers with a unit, and numbers after the noun of a measure that
-- are no HTTP status. Digits inside of a word or a name stay.
create or replace function timeline_pattern(title text) returns text
language sql immutable parallel safe
return regexp_replace(
  regexp_replace(
    title,
    '(\A|(?<=[ (\[<>=~]))-?[0-9]+([.,][0-9]+)*'
    '(?= ?(%|°C|[nuµm]?s|sec|seconds?|m|min|minutes?|h|hours?|d|days?'
    '|[kKMGT]i?B|B|bytes?|[kKMG]?bps|[kKMGT]?i?B/s|[rq]ps|[kMG]?Hz|x)'
    '[.,:;!?]?([ )\]]|\Z))',
    '#', 'g'),
  '((\A|[ (\[])(age|backlog|connections|count|cpu|depth|duration|lag|latency|length|load|memory'
  '|rate|restarts|retries|size|throughput|total|usage|utili[sz]ation|value)'
  '( ?[:=<>]=? ?| (is |at |of |above |over |below |under )?))'
  '(?![1-5][0-9]{2}(?![0-9]|[.,][0-9]))-?[0-9]+([.,][0-9]+)*(?=[.,:;!?]?([ )\]]|\Z))',
  '\1#', 'gi')

create or replace function timeline_alike(
  source text, kind text, services text[], title text) returns bigint
language sql stable parallel safe
return hashtextextended(
  source || E'\x01' || kind || E'\x01' || array_to_string(services, ' ') || E'\x01'
    || timeline_pattern(title), 0)

create or replace function timeline_clocks(inc uuid, until timestamptz)
returns table (source text, shift bigint, at timestamptz)
language sql stable as $$
  select distinct on (e.source)
         e.source,
         coalesce((e.value ->> 'ms')::bigint, 0) * 1000,
         e.at
    from edits e
   where e.incident_id = inc
     and e.op = 'clock_offset'
     and e.at <= until
   order by e.source, e.at desc, e.id desc
$$

-- The rules: the named entries, or all of an incident, as recorded until an instant.
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
           s.services,
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
           s.services,
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
           null,
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
           null,
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
           then timeline_alike(f.source, f.kind, f.services, f.title)
         end
    from facts f
    left join last l on l.source = f.source and l.external_id = f.id
    left join timeline_clocks(inc, until) c on c.source = f.source;
end
$$

-- Those whose clock stands elsewhere than it did, and those that changed since, as they were.
create or replace function timeline_seen(inc uuid, until timestamptz)
returns table (
  source text, id text, signal_id uuid, kind text,
  t bigint, p smallint, k smallint, shift bigint,
  unnumbered boolean, sequence text, occurred bigint, known_at bigint,
  title text, original text, sha text,
  pinned boolean, hidden boolean, present boolean,
  first_at timestamptz, since timestamptz, alike bigint)
language plpgsql stable set plan_cache_mode = force_custom_plan set jit = off as $$
#variable_conflict use_column
declare
  sources text[];
  ids text[];
begin
  if until = 'infinity' then
    return;
  end if;
  return query
  select e.source, id, signal_id, kind,
         t - e.shift + c.shift, p, k, c.shift,
         unnumbered, sequence, occurred, known_at,
         title, original, sha,
         pinned, hidden, present,
         first_at, since, alike
    from timeline_moved(inc, until) c
    join timeline_entries e on e.incident_id = inc and e.source = c.source collate "C"
   where e.present
     and e.shift is not null
     and e.since <= until;
  select array_agg(e.source), array_agg(e.id)
    into sources, ids
    from timeline_entries e
   where e.incident_id = inc
     and e.since > until
     and e.first_at <= until;
  if sources is not null then
    return query
    select * from timeline_rows(inc, until, sources, ids) r where r.present;
  end if;
end
$$

create or replace function timeline_moved(inc uuid, until timestamptz)
returns table (source text, shift bigint)
language sql stable as $$
  select n.source, coalesce(o.shift, 0)
    from timeline_clocks(inc, 'infinity') n
    left join timeline_clocks(inc, until) o using (source)
   where n.at > until
     and n.shift <> coalesce(o.shift, 0)
$$

-- Kept rows that are as they were, and the others. Its order is that of the index, so a page reads
-- only its rows.
create or replace function timeline_at(inc uuid, until timestamptz)
returns table (
  source text, id text, signal_id uuid, kind text,
  t bigint, p smallint, k smallint, shift bigint,
  unnumbered boolean, sequence text, occurred bigint, known_at bigint,
  title text, original text, sha text,
  pinned boolean, hidden boolean, present boolean,
  first_at timestamptz, since timestamptz, alike bigint)
language sql stable as $$
  select source, id, signal_id, kind,
         t, p, k, shift,
         unnumbered, sequence, occurred, known_at,
         title, original, sha,
         pinned, hidden, present,
         first_at, since, alike
    from timeline_entries e
   where e.incident_id = inc
     and e.present
     and e.since <= until
     and (e.shift is null or e.source <> all ((
       select array(select m.source from timeline_moved(inc, until) m))::text[]))
  union all
  select source, id, signal_id, kind,
         t, p, k, shift,
         unnumbered, sequence, occurred, known_at,
         title, original, sha,
         pinned, hidden, present,
         first_at, since, alike
    from timeline_seen(inc, until)
$$

create or replace function timeline_refresh(inc uuid, sources text[], ids text[]) returns void
language plpgsql security definer
set search_path = public, pg_temp set plan_cache_mode = force_custom_plan set jit = off as $$
declare
  new record;
begin
  with kept as (
    insert into timeline_entries as e (
      incident_id,
      source, id, signal_id, kind,
      t, p, k, shift,
      unnumbered, sequence, occurred, known_at,
      title, original, sha,
      pinned, hidden, present,
      first_at, since, alike)
    select inc,
           source, id, signal_id, kind,
           t, p, k, shift,
           unnumbered, sequence, occurred, known_at,
           title, original, sha,
           pinned, hidden, present,
           first_at, since, alike
      from timeline_rows(inc, 'infinity', sources, ids)
    on conflict (incident_id, source, id) do update
    set (
      t, p, shift,
      title, original, sha,
      pinned, hidden, present,
      first_at, since, alike
    ) = row (
      excluded.t, excluded.p, excluded.shift,
      excluded.title, excluded.original, excluded.sha,
      excluded.pinned, excluded.hidden, excluded.present,
      excluded.first_at, excluded.since, excluded.alike
    )
    where (
      e.t, e.p, e.shift,
      e.title, e.original, e.sha,
      e.pinned, e.hidden, e.present,
      e.first_at, e.since, e.alike
    ) is distinct from (
      excluded.t, excluded.p, excluded.shift,
      excluded.title, excluded.original, excluded.sha,
      excluded.pinned, excluded.hidden, excluded.present,
      excluded.first_at, excluded.since, excluded.alike
    )
    returning xmax = 0 as is_new, signal_id)
  select count(*) as entries,
         count(k.signal_id) as signals,
         coalesce(sum(s.bytes), 0) as bytes
    into new
    from kept k
    left join lateral (
      select octet_length(s.title)
               + octet_length(s.links::text)
               + octet_length(array_to_string(s.services, ' ')) as bytes
        from signals s
       where s.id = k.signal_id
      offset 0) s on true
   where k.is_new;
  if new.entries > 0 then
    update incident_measures
       set entries = entries + new.entries,
           signals = signals + new.signals,
           bytes = bytes + new.bytes
     where incident_id = inc;
  end if;
end
$$

create or replace function timeline_measure(
  a jsonb, b jsonb, is_open boolean, out status text, out seconds float8)
language plpgsql immutable as $$
declare
  names text[] := array['day', 'hour', 'minute', 'second', 'exact'];
  took bigint := (b ->> 0)::bigint - (a ->> 0)::bigint;
  coarse bigint := timeline_width(names[least((a ->> 1)::int, (b ->> 1)::int) + 1]);
begin
  if a is null or b is null then
    status := case when is_open and b is null then 'pending' else 'missing' end;
  elsif took + timeline_width(names[(b ->> 1)::int + 1]) <= 0 then
    status := 'invalid_order';
  elsif coarse > 1 and took < coarse then
    status := 'imprecise';
  else
    status := 'ok';
    seconds := took::float8 / 1e6;
  end if;
end
$$

-- Only of an incident that has a row: the declaration makes it, or the backfill.
create or replace function timeline_measures(inc uuid) returns void
language plpgsql security definer
set search_path = public, pg_temp set plan_cache_mode = force_custom_plan set jit = off as $$
declare
  found_marks jsonb := '{}';
  opened boolean := true;
  ending jsonb;
  r record;
  st text[] := '{}';
  se float8[] := '{}';
begin
  -- Those that follow from status changes.
  for r in
    select c.to_status, jsonb_build_array(e.t, e.p, 'derived') as mark
      from status_changes c
      join timeline_entries e
        on e.incident_id = inc and e.source = 'postfacta' and e.id = 'status:' || c.id
     where c.incident_id = inc
     order by c.at, c.id
  loop
    if not found_marks ? 'declared' then
      found_marks := jsonb_build_object('declared', r.mark, 'detected', r.mark);
    end if;
    if r.to_status = 'IN_PROGRESS' and not found_marks ? 'acknowledged' then
      found_marks := found_marks || jsonb_build_object('acknowledged', r.mark);
    end if;
    opened := r.to_status not in ('RESOLVED', 'CLOSED');
    ending := case when not opened then coalesce(ending, r.mark) end;
  end loop;
  if ending is not null then
    found_marks := found_marks || jsonb_build_object('resolved', ending);
  end if;
  -- An alert that fired before the declaration detected it.
  select e.t, e.p
    into r
    from timeline_entries e
   where e.incident_id = inc
     and e.kind = 'alert_firing'
     and e.present
     and not e.hidden
   order by e.t, e.p
   limit 1;
  if found and r.t <= coalesce((found_marks -> 'declared' ->> 0)::bigint, r.t) then
    found_marks := found_marks
      || jsonb_build_object('detected', jsonb_build_array(r.t, r.p, 'derived'));
  end if;
  -- What people have set counts instead of what was derived.
  for r in
    select distinct on (value ->> 'name')
           value ->> 'name' as name,
           (value ->> 'at')::timestamptz as at,
           value ->> 'precision' as p
      from edits
     where incident_id = inc
       and op = 'milestone'
     order by value ->> 'name', edits.at desc, id desc
  loop
    if r.at is not null then
      found_marks := found_marks || jsonb_build_object(
        r.name,
        jsonb_build_array(
          timeline_floor(timeline_us(r.at), r.p), timeline_rank(r.p), 'given'));
    end if;
  end loop;
  for r in
    select m.*
      from (values
        ('impact_started', 'detected'),
        ('detected', 'acknowledged'),
        ('impact_started', 'mitigated'),
        ('impact_started', 'resolved'),
        ('declared', 'resolved')) ends(a, b)
     cross join lateral timeline_measure(found_marks -> ends.a, found_marks -> ends.b, opened) m
  loop
    st := st || r.status;
    se := se || r.seconds;
  end loop;
  update incident_measures
     set is_open = opened,
         marks = found_marks,
         status = st,
         seconds = se
   where incident_id = inc;
end
$$

-- The backfill of one incident, whose row the caller has locked; also the repair.
create or replace function timeline_rebuild(inc uuid) returns void
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  delete from timeline_entries where incident_id = inc;
  delete from incident_measures where incident_id = inc;
  insert into incident_measures (incident_id, rules) values (inc, 2);
  perform timeline_refresh(inc, null, null);
  perform timeline_measures(inc);
end
$$

create or replace function timeline_milestones(inc uuid, until timestamptz) returns text
language sql stable as $$
  select '{' || coalesce(
           string_agg(
             '"' || n || '":{"p":"' || (v ->> 'precision') || '","t":'
               || timeline_floor(timeline_us((v ->> 'at')::timestamptz), v ->> 'precision') || '}',
             ',' order by n collate "C"),
           '') || '}'
    from (
      select distinct on (value ->> 'name')
             value ->> 'name' as n,
             value as v
        from edits
       where incident_id = inc
         and op = 'milestone'
         and at <= until
       order by value ->> 'name', at desc, id desc) m
   where v ->> 'at' is not null
$$

create or replace function timeline_digest(
  inc uuid, until timestamptz, known bigint, with_hidden boolean) returns text
language plpgsql stable set plan_cache_mode = force_custom_plan set jit = off as $$
declare
  content text;
begin
  select string_agg(
           '{"hidden":' || hidden
             || ',"id":' || to_json(id)
             || ',"kind":"' || kind
             || '","p":"' || (array['day', 'hour', 'minute', 'second', 'exact'])[p + 1]
             || '","pinned":' || pinned
             || ',"sha":"' || sha
             || '","source":' || to_json(source)
             || ',"t":' || t
             || ',"title":' || to_json(title) || '}',
           ',' order by
             t, p, k, source collate "C", unnumbered, sequence collate "C", id collate "C")
    into content
    from timeline_at(inc, until)
   where (with_hidden or not hidden)
     and (known is null or coalesce(known_at, t) <= known);
  return encode(sha256(convert_to(
    '{"entries":[' || coalesce(content, '')
      || '],"milestones":' || timeline_milestones(inc, until)
      || ',"rules":2}', 'UTF8')), 'hex');
end
$$

create or replace function timeline_keep_edits() returns trigger
language plpgsql security definer
set search_path = public, pg_temp set plan_cache_mode = force_custom_plan set jit = off as $$
declare
  i record;
begin
  for i in
    select distinct incident_id, source from new_rows where op = 'clock_offset'
  loop
    update timeline_entries e
       set t = e.t - e.shift + c.shift,
           shift = c.shift
      from timeline_clocks(i.incident_id, 'infinity') c
     where c.source = i.source
       and e.incident_id = i.incident_id
       and e.source = i.source collate "C"
       and e.shift <> c.shift;
  end loop;
  for i in
    select n.incident_id,
           array_remove(array_agg(n.source), null) as sources,
           array_remove(array_agg(n.id), null) as ids
      from (
        select w.incident_id, s.source, s.external_id as id
          from new_rows w
         cross join lateral (
           select s.source, s.external_id from signals s where s.id = w.signal_id offset 0) s
        union
        select incident_id, source, external_id from new_rows where external_id is not null
        union
        select incident_id, null, null from new_rows) n
     group by n.incident_id
  loop
    perform timeline_refresh(i.incident_id, i.sources, i.ids), timeline_measures(i.incident_id);
  end loop;
  return null;
end
$$

create or replace function timeline_keep_changes() returns trigger
language plpgsql security definer
set search_path = public, pg_temp set plan_cache_mode = force_custom_plan set jit = off as $$
declare
  i record;
begin
  insert into incident_measures (incident_id, rules)
  select incident_id, 2 from new_rows where from_status is null
  on conflict do nothing;
  for i in
    select incident_id,
           array_agg('postfacta'::text) as sources,
           array_agg('status:' || id) as ids
      from new_rows
     group by 1
  loop
    perform timeline_refresh(i.incident_id, i.sources, i.ids), timeline_measures(i.incident_id);
  end loop;
  return null;
end
$$

create or replace function timeline_keep_notes() returns trigger
language plpgsql security definer
set search_path = public, pg_temp set plan_cache_mode = force_custom_plan set jit = off as $$
declare
  i record;
begin
  for i in
    select incident_id,
           array_agg('human'::text) as sources,
           array_agg('annotation:' || root) as ids
      from new_rows
     where occurred_at is not null
     group by 1
  loop
    perform timeline_refresh(i.incident_id, i.sources, i.ids);
  end loop;
  return null;
end
$$

revoke execute on function
  timeline_rebuild(uuid),
  timeline_refresh(uuid, text[], text[]),
  timeline_measures(uuid)
from public

-- Each waits for writes; the declaration's is last: an incident it marks as kept has had the others
-- from its first fact on.
create or replace trigger timeline
after insert on edits referencing new table as new_rows
for each statement execute function timeline_keep_edits()

create or replace trigger timeline
after insert on annotations referencing new table as new_rows
for each statement execute function timeline_keep_notes()

create or replace trigger timeline
after insert on status_changes referencing new table as new_rows
for each statement execute function timeline_keep_changes()
