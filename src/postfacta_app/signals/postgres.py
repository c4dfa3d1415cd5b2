"""All SQL of the signals slice."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set as AbstractSet
from typing import Any, Final, Literal
from uuid import UUID

import asyncpg

from ..aside import aside_locked
from ..db import VISIBLE, Query, Reader, Unit, Where, new_id, sees
from . import model
from .model import Fact, Key, Signal, SignalDetail

Stored = Mapping[Key, tuple[UUID, bytes, bool]]
"""The id and the hash of stored signals, and whether the caller may see them."""
Conflicts = Mapping[tuple[UUID, bytes], Fact]
"""Other contents of stored signals, by signal and hash."""

# The incidents of the signal `s` that the caller may see; the last edit in each decides.
_INCIDENTS = f"""
(select distinct on (e.incident_id) e.incident_id, e.op from edits e where e.signal_id = s.id
  order by e.incident_id, e.at desc, e.id desc) a
  join incidents i on i.id = a.incident_id and a.op = 'attach' and {VISIBLE}"""  # noqa: S608 - only constants of db.py
_ATTACHED_TO = f"exists (select from {_INCIDENTS})"
# A signal is visible to all, unless it was sent with an incident: then to those who see that one, or one that it is
# attached to, and to its sender. Signals that were visible before they were attached are marked, and stay visible.
_SEEN = f"""
(s.received_by = $3 or {_ATTACHED_TO} or coalesce((select bool_or({VISIBLE}) from edits e
  join incidents i on i.id = e.incident_id where e.signal_id = s.id and e.op = 'attach' and e.value is null), true))"""  # noqa: S608 - only constants of this module and db.py
_COLUMNS = """s.id, s.source, s.external_id, s.kind, s.occurred_at, s.precision, s.time_basis, s.known_at, s.sequence,
  s.title, s.services, s.environment, s.links::text, s.received_at, s.received_by"""
_PAGE = f"""
select {_COLUMNS} from signals s
 where {_SEEN} and {{where}} order by s.occurred_at desc, s.id desc limit {{limit}}"""  # noqa: S608 - only constants of this module
_FIND = f"""
select {_COLUMNS}, s.body, s.payload::text, encode(s.content_sha256, 'hex') as content_sha256
  from signals s where s.id = $4 and {_SEEN}"""  # noqa: S608 - only constants of this module
_CONFLICTS = """
select content::text, encode(content_sha256, 'hex') as content_sha256, received_at, received_by
  from signal_conflicts where signal_id = $1 order by received_at, content_sha256"""
_INCIDENTS_OF = f"""
select i.id, 'INC-' || i.number as ref, i.title from signals s cross join lateral {_INCIDENTS}
 where s.id = $3 order by i.number"""  # noqa: S608 - only constants of this module

# Sorted by code point, so that two batches with the same keys cannot deadlock.
_INSERT = """
insert into signals (id, source, external_id, kind, occurred_at, time_basis, known_at, sequence, precision, title,
  body, services, environment, links, payload, content_sha256, received_by)
select r.id, r.source, r.external_id, r.kind, coalesce(r.occurred_at, now()),
       case when r.occurred_at is null then 'received' else 'event' end, r.known_at, r.sequence, r.precision,
       r.title, r.body, r.services, r.environment, r.links, r.payload, decode(r.sha256, 'hex'), $2
  from jsonb_to_recordset($1::text::jsonb) as r(id uuid, source text, external_id text, kind text,
       occurred_at timestamptz, known_at timestamptz, sequence text, precision text, title text, body text,
       services text[], environment text, links jsonb, payload jsonb, sha256 text)
 order by r.source collate "C", r.external_id collate "C"
on conflict (source, external_id) do nothing returning id, source, external_id"""
_STORED = f"""
select s.id, s.source, s.external_id, s.content_sha256, {_SEEN} as is_seen
  from signals s join unnest($4::text[], $5::text[]) k(source, external_id) using (source, external_id)"""  # noqa: S608 - only constants of this module
# Facts cannot be locked, since they cannot be updated; so writers of conflicts lock the source.
_ONE_BY_ONE = """
select pg_advisory_xact_lock(hashtextextended(k.source, 0))
  from (select source from unnest($1::text[]) source order by source collate "C") k"""
_KEEP = """
insert into signal_conflicts (signal_id, content_sha256, content, received_by)
select n.signal_id, decode(n.sha256, 'hex'), n.content, $2 from (
  select r.*, row_number() over (partition by r.signal_id order by r.place) as nth
    from jsonb_to_recordset($1::text::jsonb) as r(place int, signal_id uuid, sha256 text, content jsonb)
   where not exists (select from signal_conflicts c where c.signal_id = r.signal_id
                       and c.content_sha256 = decode(r.sha256, 'hex'))) n
 where n.nth + (select count(*) from signal_conflicts c where c.signal_id = n.signal_id) <= 20
returning true"""
_VISIBLE_OF = f"select s.id from signals s where s.id = any ($4::uuid[]) and {_SEEN}"  # noqa: S608 - only constants of this module
_ATTACHED = """
select distinct on (signal_id) signal_id, op = 'attach' as is_attached
  from edits where incident_id = $1 and signal_id = any ($2::uuid[]) order by signal_id, at desc, id desc"""
_SIZE = "octet_length(s.title) + octet_length(s.links::text) + octet_length(array_to_string(s.services, ' '))"
_ROOM = f"""
with new as (select s.id, row_number() over (order by k.place) as signals, sum({_SIZE}) over (order by k.place) as bytes
   from unnest($2::uuid[]) with ordinality k(id, place) join signals s on s.id = k.id)
 select new.id from new, incident_measures held
  where held.incident_id = $1 and held.signals + new.signals <= $3 and held.bytes + new.bytes <= $4"""  # noqa: S608 - only constants of this module
_EDIT = """
insert into edits (id, incident_id, at, op, signal_id, value, actor)
select s.edit, $1, $2, $3, s.id, case when not s.id = any ($5::uuid[]) then '{"lay_open": true}'::jsonb end, $6
  from unnest($4::uuid[], $7::uuid[]) s(id, edit)"""


ORDER: Final = "-occurred_at"


async def page(q: Query, query: model.SignalQuery) -> Sequence[Signal]:
    """List one more than requested of what the caller may see, latest first."""
    where = Where(*sees(q.principal), q.principal.actor)
    where.add("s.source = any ({}::text[])", query.source)
    where.add("s.kind = any ({}::text[])", query.kind)
    where.add("s.services && {}::text[]", query.service)
    where.add("s.occurred_at >= {}::timestamptz", query.since)
    where.add("s.occurred_at < {}::timestamptz", query.until)
    where.add(f"{_ATTACHED_TO} = {{}}::boolean", query.attached)
    where.add("(s.occurred_at, s.id) < ({}::timestamptz, {}::uuid)", *query.after(ORDER) or [None])
    sql = _PAGE.format(where=where, limit=where.bind(query.limit + 1))
    rows = await q.fetch(sql, *where.args, operation="signal_list")
    return [Signal.model_validate(_decoded(row)) for row in rows]


async def find(q: Reader, signal_id: UUID) -> SignalDetail | None:
    """Read one if the caller may see it, with the incidents that they may see."""
    seen_by = sees(q.principal)
    found = await q.fetch(_FIND, *seen_by, q.principal.actor, signal_id, operation="signal_get")
    if not found:
        return None
    conflicts = await q.fetch(_CONFLICTS, signal_id, operation="signal_conflicts")
    incidents = await q.fetch(_INCIDENTS_OF, *seen_by, signal_id, operation="signal_incidents")
    return SignalDetail.model_validate(
        {
            **_decoded(found[0]),
            "conflicts": [model.ConflictingContent.model_validate(_decoded(it)) for it in conflicts],
            "incidents": [model.IncidentOfSignal.model_validate(dict(it)) for it in incidents],
        }
    )


async def insert(unit: Unit, facts: Sequence[Fact]) -> Mapping[Key, UUID]:
    """Write those with new keys, which are distinct; wait for concurrent writers of the same keys."""
    if not facts:
        return {}
    texts = await aside_locked(2_000 * len(facts), lambda: json.dumps([_row(fact) for fact in facts]))
    rows = await unit.fetch(_INSERT, texts, unit.principal.actor, operation="signal_insert")
    return {(row["source"], row["external_id"]): row["id"] for row in rows}


async def stored(unit: Unit, keys: Sequence[Key]) -> Stored:
    """Look up stored signals, visible to the caller or not."""
    if not keys:
        return {}
    args = (*sees(unit.principal), unit.principal.actor, *([key[part] for key in keys] for part in (0, 1)))
    rows = await unit.fetch(_STORED, *args, operation="signal_stored")
    return {(source, name): (signal_id, sha256, seen) for signal_id, source, name, sha256, seen in rows}


async def keep(unit: Unit, conflicts: Conflicts) -> int:
    """Write new conflicting contents, at most 20 per signal; return the count."""
    if not conflicts:
        return 0
    sources = list({fact.source for fact in conflicts.values()})
    await unit.execute(_ONE_BY_ONE, sources, operation="signal_conflict_lock")
    contents = [
        {"place": place, "signal_id": str(signal_id), "sha256": sha256.hex(), "content": _content(fact)}
        for place, ((signal_id, sha256), fact) in enumerate(conflicts.items())
    ]
    args = (json.dumps(contents), unit.principal.actor)
    return len(await unit.fetch(_KEEP, *args, operation="signal_conflict_insert"))


async def visible(unit: Unit, ids: Sequence[UUID]) -> AbstractSet[UUID]:
    """Return those of these that the caller may see."""
    seen_by = (*sees(unit.principal), unit.principal.actor)
    return {row["id"] for row in await unit.fetch(_VISIBLE_OF, *seen_by, ids, operation="signal_visible")}


async def attached(unit: Unit, incident_id: UUID, ids: Sequence[UUID]) -> Mapping[UUID, bool]:
    """Return those of these that an incident ever had, and whether it has them now."""
    rows = await unit.fetch(_ATTACHED, incident_id, ids, operation="signal_attached")
    return {row["signal_id"]: row["is_attached"] for row in rows}


async def room(unit: Unit, incident_id: UUID, ids: Sequence[UUID]) -> AbstractSet[UUID]:
    """Return those of these, in order, that still fit into an incident."""
    args = (incident_id, ids, model.MOST_SIGNALS, model.MOST_BYTES)
    return {row["id"] for row in await unit.fetch(_ROOM, *args, operation="signal_room")}


async def edit(
    unit: Unit,
    op: Literal["attach", "detach"],
    *,
    incident_id: UUID,
    ids: Sequence[UUID],
    new: AbstractSet[UUID] = frozenset(),
) -> None:
    """Write the edit of each at the next instant of the timeline; `new` ones were sent with the incident."""
    at = await unit.stamp(incident_id)
    args = (incident_id, at, op, ids, list(new), unit.principal.actor, [new_id() for _ in ids])
    await unit.execute(_EDIT, *args, operation="signal_edit")


def _content(fact: Fact) -> dict[str, Any]:
    return fact.new.model_dump(mode="json", exclude={"source", "id"})


def _row(fact: Fact) -> dict[str, Any]:
    named = {"id": str(new_id()), "source": fact.source, "external_id": fact.external_id}
    return {**_content(fact), **named, "sha256": fact.sha256.hex()}


def _decoded(row: asyncpg.Record) -> dict[str, Any]:
    """Return a row with its JSON columns parsed."""
    columns = dict(row.items())
    return columns | {
        name: json.loads(columns[name]) for name in ("links", "payload", "content") if name in columns
    }
