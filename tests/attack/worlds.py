"""The largest things that the service lets a user make, written by SQL.

To send them would take minutes.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from postfacta_app.postmortems.form import LISTS

__all__ = ["MARKS", "STORM", "Largest", "fill", "postmortem"]

STORM = 10_000
MARKS = "[" * 1_990
"""As many marks as a text may have and still be rendered."""
_INCIDENT = """
insert into incidents (id, title, description, severity, reporter, declared_at, timeline_at, created_by)
values ($1, $2, $3, 'HIGH', 'somebody', now() - interval '1 day', now() - interval '1 day', $4) returning number"""
_SIGNALS = """
insert into signals (id, source, external_id, kind, occurred_at, precision, time_basis, known_at, sequence, title, body,
  services, environment, links, payload, content_sha256, received_by)
select gen_random_uuid(), 'ci/' || (n % 12), $1 || ':' || n,
  (array['alert_firing', 'alert_resolved', 'metric', 'change'])[1 + n % 4], now() - interval '1 day' + n * interval '1 second',
  'exact', 'event', now(), n::text, repeat('<Latency>', $4) || n, repeat('"x" & ', 3000), array['checkout', 'payments'],
  'production', $3::text::jsonb, $5::text::jsonb, decode(md5(n::text) || md5(n::text), 'hex'), 'token:x'
  from generate_series(1, $2::int) n"""
_ATTACH = """
insert into edits (id, incident_id, at, op, signal_id, actor)
select gen_random_uuid(), $1, now() - interval '1 hour', 'attach', s.id, $3 from signals s where s.external_id like $2 || ':%'"""
_EDITS = """
insert into edits (id, incident_id, at, op, source, external_id, value, reason, actor)
select gen_random_uuid(), $1::uuid, now() - interval '30 minutes' + n * interval '1 microsecond', 'set_title', 'ci/' || (n % 12),
  $1::uuid::text || ':' || n, jsonb_build_object('title', repeat('&', 480) || n), repeat('why ', 500), $2
  from generate_series(1, $3::int) n"""
_NOTES = """
insert into annotations (id, root, incident_id, at, author, kind, body, occurred_at)
select id, id, $1, now() - interval '20 minutes' + n * interval '1 microsecond', $2, 'note', repeat('<b>*_[', 1666),
  case when n % 2 = 0 then now() - interval '1 day' + n * interval '1 minute' end
  from (select gen_random_uuid() as id, n from generate_series(1, $3::int) n) m"""
_MOVE = """
insert into status_changes (id, incident_id, to_status, occurred_at, at, actor)
values (gen_random_uuid(), $1, 'OPEN', now() - interval '1 day', now() - interval '1 day', $2)"""
_REVISION = """
insert into postmortem_revisions (incident_id, rev, status, schema_version, content, timeline_digest, timeline_at, rules, author)
values ($1, $2, 'draft', 1, $3::text::jsonb, repeat('0', 64), now() - interval '2 hours', 2, $4)"""


@dataclass(frozen=True, slots=True)
class Largest:
    """What is there: an incident in a storm, its number, a signal and a remark of it, and who may ask."""

    incident: UUID
    number: int
    signal: UUID
    remark: UUID
    action: UUID
    admin: UUID
    headers: dict[str, str]


def postmortem(text: str) -> dict[str, Any]:
    """Make a content of almost 512 KiB, of as many texts as there may be."""
    count = min(50, 500_000 // (5 * len(json.dumps(text))))
    texts = [f"{n} {text}" for n in range(count)]
    return {"summary": text, **dict.fromkeys(LISTS, texts)}


async def fill(
    database: asyncpg.Connection[Any], *, storm: int = STORM, others: int = 200
) -> Largest:
    """Write it all."""
    admin, incident = uuid4(), uuid4()
    actor = f"user:{admin}"
    secret = secrets.token_urlsafe(32)
    await database.execute(
        "insert into users (id, email, display_name, role) values ($1, $2, 'Admin', 'admin')",
        *(admin, f"{admin}@example.org"),
    )
    await database.execute(
        "insert into tokens (id, kind, secret_sha256, user_id, expires_at) values ($1, 'bearer', $2, $3, now() + interval '1 day')",
        *(uuid4(), hashlib.sha256(secret.encode()).digest(), admin),
    )
    number = await database.fetchval(
        _INCIDENT, incident, "<Storm> " * 20, "A storm & more " * 100, actor
    )
    links = json.dumps([{"url": "https://example.org/" + "x" * 200, "title": "<evidence>"}] * 2)
    payload = json.dumps({f"label{n}": "<v>" * 60 for n in range(12)})
    await database.execute(_SIGNALS, str(incident), storm, links, 20, payload)
    await database.execute(_ATTACH, incident, str(incident), actor)
    await database.execute(_EDITS, incident, actor, min(storm, 2_000))
    await database.execute(_NOTES, incident, actor, min(storm, 400))
    await database.execute(_MOVE, incident, actor)
    lines = "\n".join("ab"[n % 3 == 0] for n in range(190))
    for rev, text in enumerate(("old\n" + lines, "new\n" + lines[2:], MARKS), 1):
        await database.execute(_REVISION, incident, rev, json.dumps(postmortem(text)), actor)
    action = uuid4()
    for n in range(300):
        await database.execute(
            "insert into action_items (id, incident_id, type, title, created_by) values ($1, $2, 'learn', $3, $4)",
            *(action if n == 0 else uuid4(), incident, f"<Ask> {n} " * 20, actor),
        )
    for n in range(others):
        other = uuid4()
        await database.execute(_INCIDENT, other, f"Incident {n} & more", "x" * 2_000, actor)
        await database.execute(_MOVE, other, actor)
        a, b = sorted((incident, other))
        await database.execute(
            "insert into incident_links (a, b, type, note, created_by) values ($1, $2, 'related', $3, $4)",
            *(a, b, "<note>" * 80, actor),
        )
    await database.execute("analyze")
    signal = await database.fetchval("select id from signals limit 1")
    remark = await database.fetchval("select id from annotations limit 1")
    headers = {"Authorization": f"Bearer {secret}"}
    return Largest(incident, number, signal, remark, action, admin, headers)
