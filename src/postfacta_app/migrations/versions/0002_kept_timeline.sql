-- The tables of the kept timeline; what fills them is in `timeline.sql`.
set statement_timeout = 0

set lock_timeout = '30s'

create index concurrently if not exists edits_entry
    on edits (source, external_id, incident_id, at, id) where external_id is not null

create index concurrently if not exists edits_clock
    on edits (incident_id, source, at, id) where op = 'clock_offset'

create index concurrently if not exists edits_milestone
    on edits (incident_id, at, id) where op = 'milestone'

create index concurrently if not exists edits_said
    on edits (incident_id) where external_id is not null

set lock_timeout = '1s'

-- Derived: no foreign keys, whose checks cost more than the rows.
create table if not exists timeline_entries (
  incident_id uuid not null,
  source text collate "C" not null,
  id text collate "C" not null,
  signal_id uuid,
  kind text not null,
  -- The order: time, ranks of its precision and kind.
  t bigint not null,
  p smallint not null,
  k smallint not null,
  shift bigint,  -- the part of t that is its source's clock; null: set by hand, no clock moves it
  unnumbered boolean not null,
  sequence text collate "C" not null,
  occurred bigint not null,
  known_at bigint,
  title text not null,
  original text,  -- of the fact; null: as the title
  sha text not null,
  pinned boolean not null,
  hidden boolean not null,
  present boolean not null,  -- false: detached or retracted; the past needs it
  first_at timestamptz not null,  -- before it, it was not there
  since timestamptz not null,  -- since then it is as it is, clocks aside
  alike bigint,  -- equal for repeats; null: never folded
  primary key (incident_id, source, id)
)

create index if not exists timeline_order
    on timeline_entries (incident_id, t, p, k, source, unnumbered, sequence, id) where present

create index if not exists timeline_since on timeline_entries (incident_id, since)

create index if not exists timeline_signal
    on timeline_entries (signal_id) where signal_id is not null

create index if not exists timeline_alerts
    on timeline_entries (incident_id, t, p)
 where kind = 'alert_firing' and present and not hidden

-- Derived; its row says that the incident's entries are kept.
create table if not exists incident_measures (
  incident_id uuid primary key,
  rules int not null,
  -- Rows, also of what left.
  entries int not null default 0,
  signals int not null default 0,
  bytes bigint not null default 0,
  is_open boolean not null default true,
  marks jsonb not null default '{}',  -- by name: time, rank of the precision, basis
  -- Each in this order: detect, acknowledge, mitigate, resolve, open.
  status text[] not null default '{}',
  seconds float8[] not null default '{}'
)

set statement_timeout = '5s'
