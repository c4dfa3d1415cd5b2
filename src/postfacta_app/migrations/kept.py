"""The kept timeline: one row per entry in the order of the rules, kept by triggers in the transaction of the fact.

* A look-up of `signals` or `edits` by a text of a "C" column says `collate "default"`, or it finds no index.
* `lateral (... offset 0)` and `(incident_id = x) is true` keep the planner from the index by incident.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from postfacta_postgres.connecting import RawConnection

_INDEXES: Final = {
    "edits_entry": "(source, external_id, incident_id, at, id) where external_id is not null",
    "edits_clock": "(incident_id, source, at, id) where op = 'clock_offset'",
    "edits_milestone": "(incident_id, at, id) where op = 'milestone'",
    "edits_said": "(incident_id) where external_id is not null",
}

WORDS: Final = {
    "signal": """s.source, s.external_id as id, s.id as signal_id, s.kind, timeline_us(s.occurred_at) as occurred, s.precision as pn,
         s.sequence, s.title, encode(s.content_sha256, 'hex') as sha, timeline_us(s.known_at) as known_at,
         a.op = 'attach' as present, a.first_at, a.at""",
    "columns": """source, id, signal_id, kind, t, p, k, shift, unnumbered, sequence, occurred, known_at, title, original, sha,
  pinned, hidden, present, first_at, since, alike""",
    "types": """source text, id text, signal_id uuid, kind text, t bigint, p smallint, k smallint, shift bigint,
  unnumbered boolean, sequence text, occurred bigint, known_at bigint, title text, original text, sha text,
  pinned boolean, hidden boolean, present boolean, first_at timestamptz, since timestamptz, alike bigint""",
    "excluded": """excluded.t, excluded.p, excluded.shift, excluded.title, excluded.original, excluded.sha, excluded.pinned, excluded.hidden, excluded.present, excluded.first_at, excluded.since, excluded.alike""",
    "planned": "set plan_cache_mode = force_custom_plan set jit = off",
    "owned": "security definer set search_path = public, pg_temp",
}
"""What the file of SQL says more than once, by its name there."""

_OWNER_ONLY: Final = "timeline_rebuild(uuid), timeline_refresh(uuid, text[], text[]), timeline_measures(uuid)"  # With its rights.

# Each waits for writes; the declaration's is last: an incident it marks as kept has had the others from its first fact on.
_TRIGGERS: Final = {"edits": "edits", "annotations": "notes", "status_changes": "changes"}


async def upgrade_kept(connection: RawConnection, statements: Sequence[str]) -> None:
    """Add all of it, outside of a transaction; each step can be repeated."""
    run = connection.execute
    await run("set statement_timeout = 0")
    await run("set lock_timeout = '30s'")
    for name, of in _INDEXES.items():
        invalid = "select from pg_index where indexrelid = to_regclass($1) and not indisvalid"
        if await connection.fetchrow(invalid, name) is not None:
            await run(f"drop index concurrently {name}")
        await run(f"create index concurrently if not exists {name} on edits {of}")
    await run("set lock_timeout = '1s'")
    for statement in statements:
        await run(statement)
    await run(f"revoke execute on function {_OWNER_ONLY} from public")
    for table, what in _TRIGGERS.items():
        await run(
            f"create or replace trigger timeline after insert on {table} referencing new table as new_rows"
            f" for each statement execute function timeline_keep_{what}()"
        )
    await run("set statement_timeout = '5s'")
