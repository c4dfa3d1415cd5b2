create table if not exists incident_labels (
  incident_id uuid not null references incidents,
  label text not null check (label ~ '^[a-z0-9][a-z0-9-]{0,38}$'),
  created_by text not null,
  created_at timestamptz not null default now(),
  primary key (incident_id, label)
)

create index if not exists incident_labels_label on incident_labels (label)
