create function slugs_ok(s text[]) returns boolean
language sql immutable as $$
  select cardinality(s) <= 50
     and array_position(s, null) is null
     and coalesce((select bool_and(x ~ '^[a-z0-9][a-z0-9-]{0,62}$') from unnest(s) x), true)
$$

create function append_only() returns trigger
language plpgsql as $$
begin
  raise exception '% is append-only', tg_table_name using errcode = '23001';
end
$$

create table users (
  id uuid primary key,
  external_sub text unique,  -- '<iss> <sub>' of the JWT; null = local user
  email text not null check (email = lower(email) and char_length(email) between 3 and 320),
  display_name text not null check (char_length(display_name) between 1 and 100),
  role text not null check (role in ('viewer','responder','admin')),
  password_hash text,
  disabled_at timestamptz,
  version int not null default 1,
  created_at timestamptz not null default now(),
  check (external_sub is null or password_hash is null)
)

create unique index users_local_email on users (email) where external_sub is null

create table tokens (  -- sessions, bearer tokens, API tokens: hashed secrets
  id uuid primary key,
  kind text not null check (kind in ('session','bearer','api')),
  secret_sha256 bytea not null unique check (octet_length(secret_sha256) = 32),
  user_id uuid references users,
  name text,
  prefix text unique,
  scopes text[] not null default '{}'
    check (scopes <@ array['signals:write','incidents:read','incidents:write']),
  source text
    check (source ~ '^[a-z0-9][a-z0-9._-]{0,62}$' and source not in ('postfacta','human','manual')),
  created_by uuid references users,
  created_at timestamptz not null default now(),
  last_used_at timestamptz,
  expires_at timestamptz not null,
  revoked_at timestamptz,
  check ((kind = 'api') = (prefix is not null)),
  check ((kind = 'api') = (user_id is null)),
  check ((kind = 'api') = (name is not null)),
  check ((kind = 'api') = (cardinality(scopes) > 0)),
  check (('signals:write' = any (scopes)) = (source is not null))
)

create index tokens_user on tokens (user_id)

create table incidents (
  id uuid primary key,
  number bigint generated always as identity unique,  -- INC-<number>; gaps are fine
  title text not null check (char_length(title) between 3 and 200),
  description text not null check (char_length(description) between 10 and 2000),
  kind text not null default 'incident' check (kind in ('incident','near_miss','exercise')),
  severity text not null check (severity in ('LOW','MEDIUM','HIGH','CRITICAL')),
  status text not null default 'OPEN'
    check (status in ('OPEN','IN_PROGRESS','RESOLVED','CLOSED')),
  outcome text
    check (outcome in (
      'fixed','workaround','self_recovered','false_alarm','duplicate','external','wont_fix')),
  reporter text not null check (char_length(reporter) between 2 and 100),
  owner text check (char_length(owner) between 1 and 100),
  services text[] not null default '{}' check (slugs_ok(services)),
  teams text[] not null default '{}' check (slugs_ok(teams)),
  visibility text not null default 'internal' check (visibility in ('internal','private')),
  members uuid[] not null default '{}'  -- who may see a private incident
    check (cardinality(members) <= 100),
  declared_at timestamptz not null,
  ended_at timestamptz,
  archived_at timestamptz,
  v0_notes_null boolean not null default true,  -- v0: initial_notes null or []
  version int not null default 1,  -- of the incident's own fields and status: its ETag
  timeline_at timestamptz not null,  -- last instant given to a fact of this incident
  created_by text not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  search tsvector
    generated always as (to_tsvector('simple', title || ' ' || description)) stored,
  check ((status in ('RESOLVED','CLOSED')) = (ended_at is not null)),
  check ((status = 'CLOSED') = (outcome is not null))
)

create index incidents_list on incidents (declared_at desc, id desc)

create index incidents_changed on incidents (greatest(updated_at, timeline_at), id)

create index incidents_search on incidents using gin (search)

create index incidents_services on incidents using gin (services)

create index incidents_teams on incidents using gin (teams)

create table status_changes (  -- append-only
  id uuid primary key,
  incident_id uuid not null references incidents,
  from_status text  -- null: declared
    check (from_status in ('OPEN','IN_PROGRESS','RESOLVED','CLOSED')),
  to_status text not null check (to_status in ('OPEN','IN_PROGRESS','RESOLVED','CLOSED')),
  outcome text,
  reason text check (char_length(reason) <= 2000),
  occurred_at timestamptz not null,
  at timestamptz not null,
  actor text not null,
  check (from_status is distinct from to_status),
  check ((to_status = 'CLOSED') = (outcome is not null))
)

create index status_changes_incident on status_changes (incident_id, at)

create table signals (  -- append-only
  id uuid primary key,
  source text not null check (char_length(source) between 1 and 200),
  external_id text not null check (char_length(external_id) between 1 and 300),
  kind text not null
    check (kind in (
      'change','alert_firing','alert_resolved','page','metric','log','action','note','other')),
  occurred_at timestamptz not null,
  known_at timestamptz,
  sequence text check (char_length(sequence) <= 100),
  precision text not null default 'exact'
    check (precision in ('day','hour','minute','second','exact')),
  time_basis text not null check (time_basis in ('event','received')),
  title text not null check (char_length(title) between 1 and 500),
  body text check (char_length(body) <= 20000),
  services text[] not null default '{}' check (slugs_ok(services)),
  environment text check (char_length(environment) <= 100),
  links jsonb not null default '[]'
    check (jsonb_typeof(links) = 'array' and octet_length(links::text) <= 8192),
  payload jsonb not null default '{}' check (octet_length(payload::text) <= 65536),
  content_sha256 bytea not null check (octet_length(content_sha256) = 32),
  received_at timestamptz not null default now(),
  received_by text not null,
  unique (source, external_id)
)

create index signals_time on signals (occurred_at desc, id desc)

create table signal_conflicts (  -- append-only: same key, other content
  signal_id uuid not null references signals,
  content_sha256 bytea not null check (octet_length(content_sha256) = 32),
  content jsonb not null,
  received_at timestamptz not null default now(),
  received_by text not null,
  primary key (signal_id, content_sha256)
)

create table edits (  -- append-only: everything people decide about a timeline
  id uuid primary key,
  incident_id uuid not null references incidents,
  at timestamptz not null,
  op text not null
    check (op in (
      'attach','detach',
      'set_time','set_title','hide','unhide','pin','unpin',
      'clock_offset','milestone')),
  -- The signal; or the entry; or the source alone.
  signal_id uuid references signals,
  source text,
  external_id text,
  value jsonb,
  reason text check (char_length(reason) between 1 and 2000),
  actor text not null,
  check ((op in ('attach','detach')) = (signal_id is not null)),
  check (
    (op in ('set_time','set_title','hide','unhide','pin','unpin')) = (external_id is not null)),
  check (
    (op in ('set_time','set_title','hide','unhide','pin','unpin','clock_offset'))
    = (source is not null)),
  check (op not in ('set_time','hide','clock_offset') or reason is not null),
  check (op <> 'milestone' or coalesce(
    value->>'name' in ('impact_started','detected','acknowledged','mitigated','resolved'), false))
)

create index edits_incident on edits (incident_id, at, id)

create index edits_signal on edits (signal_id, incident_id, at, id) where signal_id is not null

create table annotations (  -- append-only: an edit is a new row that supersedes one, once
  id uuid primary key,
  root uuid not null references annotations,
  supersedes uuid unique references annotations,
  incident_id uuid not null references incidents,
  kind text not null check (kind in ('note','decision','hypothesis','question')),
  state text check (state in ('open','supported','refuted','answered')),
  -- v0 notes may be empty or long; v1 allows 1 to 10,000 characters.
  body text not null check (octet_length(body) <= 1048576),
  -- The timeline entry it explains, if any.
  entry_source text,
  entry_id text,
  occurred_at timestamptz,
  retracted boolean not null default false,
  -- v0: place in initial_notes and the timestamp to echo.
  v0_position int,
  v0_time text,
  author text not null,
  at timestamptz not null,
  check ((supersedes is null) = (root = id)),
  check ((kind in ('hypothesis','question')) = (state is not null)),
  check ((entry_source is null) = (entry_id is null)),
  check (entry_id is null or occurred_at is null),
  check ((v0_position is null) = (v0_time is null))
)

create index annotations_incident on annotations (incident_id, at)

create table postmortem_revisions (  -- append-only; the highest rev is the post-mortem
  incident_id uuid not null references incidents,
  rev int not null check (rev >= 1),
  previous int generated always as (nullif(rev - 1, 0)) stored,
  status text not null check (status in ('draft','in_review','published','waived')),
  schema_version int not null,
  content jsonb not null
    check (jsonb_typeof(content) = 'object' and octet_length(content::text) <= 524288),
  timeline_digest text not null,
  timeline_at timestamptz not null,
  rules int not null,
  message text check (char_length(message) <= 500),
  restored_from int,
  author text not null,
  at timestamptz not null default now(),
  primary key (incident_id, rev),
  foreign key (incident_id, previous) references postmortem_revisions (incident_id, rev),
  check (status <> 'waived' or coalesce(char_length(message), 0) > 0)
)

create table action_items (
  id uuid primary key,
  incident_id uuid not null references incidents,
  type text not null check (type in ('prevent','detect','mitigate','respond','learn')),
  title text not null check (char_length(title) between 3 and 200),
  factor text check (char_length(factor) <= 63),
  owner text check (char_length(owner) between 1 and 100),
  priority smallint check (priority between 1 and 4),
  due_on date,
  status text not null default 'open' check (status in ('open','in_progress','done','wont_do')),
  url text check (char_length(url) <= 2000),
  closed_at timestamptz,
  closed_reason text check (char_length(closed_reason) between 1 and 2000),
  version int not null default 1,
  created_by text not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  check ((status in ('done','wont_do')) = (closed_at is not null)),
  check (status <> 'wont_do' or closed_reason is not null)
)

create index action_items_incident on action_items (incident_id)

create index action_items_open on action_items (due_on, id) where closed_at is null

create table incident_links (
  a uuid not null references incidents,
  b uuid not null references incidents,
  type text not null check (type in ('related','duplicate_of','follows')),
  note text check (char_length(note) <= 500),
  created_by text not null,
  created_at timestamptz not null default now(),
  primary key (a, b, type),
  check (a <> b),
  check (type <> 'related' or a < b)
)

create index incident_links_b on incident_links (b)

create table idempotency_keys (
  principal text not null,
  key text not null check (char_length(key) between 1 and 255),
  request_sha256 bytea not null,
  status int,
  headers jsonb,
  body bytea,
  created_at timestamptz not null default now(),
  primary key (principal, key)
)

create index idempotency_keys_age on idempotency_keys (created_at)

create table audit_log (  -- append-only
  seq bigint generated always as identity primary key,
  at timestamptz not null default now(),
  actor text not null,
  action text not null,
  object text not null,
  incident_id uuid,
  detail jsonb,
  request_id text,
  client inet
)

create index audit_log_incident on audit_log (incident_id, seq)

do $$
declare t text;
begin
  foreach t in array array[
    'status_changes','signals','signal_conflicts','edits','annotations','postmortem_revisions',
    'audit_log'
  ] loop
    execute format('create trigger append_only before update or delete on %I'
                   ' for each row execute function append_only()', t);
    execute format('create trigger no_truncate before truncate on %I'
                   ' for each statement execute function append_only()', t);
  end loop;
end
$$
