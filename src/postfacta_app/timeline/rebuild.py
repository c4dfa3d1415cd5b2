"""Compare kept timelines, and the digests of revisions, with the facts; write kept entries again that differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile
from pydantic import TypeAdapter

from postfacta_postgres import Connection, Database

from ..db import Query, Reader, Unit
from ..principal import ANONYMOUS
from .kept import digest_in
from .model import Facts
from .rules import RULES, build

# Facts

_FACTS: Final = TypeAdapter(Facts)
_READ: Final = """
select json_build_object('signals', (select coalesce(json_agg(f), '[]') from (
    select s.id as signal_id, s.source, s.external_id, s.kind, timeline_us(s.occurred_at) as occurred_at, s.precision,
           s.title, encode(s.content_sha256, 'hex') as content_sha256, s.sequence, timeline_us(s.known_at) as known_at,
           timeline_us(s.received_at) as received_at, s.time_basis, s.services, s.environment, s.links,
           (select count(*) from signal_conflicts c where c.signal_id = s.id) as conflicts
      from signals s where s.id in (select signal_id from edits where incident_id = $1 and op = 'attach')) f),
  'changes', (select coalesce(json_agg(f), '[]') from (
    select id, timeline_us(at) as at, from_status, to_status, outcome, reason, timeline_us(occurred_at) as occurred_at
      from status_changes where incident_id = $1) f),
  'annotations', (select coalesce(json_agg(f), '[]') from (
    select a.id, a.root, timeline_us(a.at) as at, a.kind, a.state, a.body, timeline_us(a.occurred_at) as occurred_at,
           a.retracted, coalesce(first.precision, 'exact') as precision
      from annotations a join annotations first on first.id = a.root
     where a.incident_id = $1 and a.occurred_at is not null) f),
  'edits', (select coalesce(json_agg(f), '[]') from (
    select id, timeline_us(at) as at, op, signal_id, source, external_id, value from edits where incident_id = $1) f))::text"""


async def facts_in(q: Query, incident_id: UUID) -> Facts:
    """Read the facts of an incident in one statement, so from one snapshot."""
    rows = await q.fetch(_READ, incident_id, operation="timeline_facts")
    return _FACTS.validate_json(rows[0][0])


# Revisions

_REVISIONS: Final = """
select i.id, 'INC-' || i.number as incident, r.rev, r.timeline_digest as digest, timeline_us(r.timeline_at) as at, r.rules
  from postmortem_revisions r join incidents i on i.id = r.incident_id order by i.id, r.rev"""

Verified = Mapping[str, Sequence[Any]]
"""The revisions by result: `equal`, `fault`, or `other_rules`, which were not compared."""


async def verify(database: Database) -> Verified:
    """Rebuild the timeline of each post-mortem revision from the facts of its incident and compare the digests."""
    found: dict[str, list[Any]] = {"equal": [], "fault": [], "other_rules": []}
    q = Reader(database, ANONYMOUS)
    rows = await q.fetch(_REVISIONS, operation="revisions")
    for incident_id, revisions in groupby(rows, itemgetter("id")):
        facts = await facts_in(q, incident_id)
        for it in revisions:
            is_comparable = it["rules"] == RULES
            is_equal = is_comparable and build(facts, as_of=it["at"]).digest == it["digest"]
            found["equal" if is_equal else "fault" if is_comparable else "other_rules"].append(it)
    return found


def write_metrics(result: Verified, file: Path, *, now: float) -> None:
    registry = CollectorRegistry()
    told = "Post-mortem revisions whose timeline was rebuilt, by result."
    revisions = Gauge("postfacta_timeline_revisions", told, ["result"], registry=registry)
    for name, found in result.items():
        revisions.labels(name).set(len(found))
    when = Gauge(
        "postfacta_timeline_verified_timestamp_seconds", "Time of the last verification.", registry=registry
    )
    when.set(now)
    write_to_textfile(str(file), registry)


# Kept timelines

_STEP: Final = 1000
"""The most entries that are written while writers of their incident wait."""

_INCIDENTS: Final = """
select i.id, i.number from incidents i where $1::bigint[] is null or i.number = any ($1) order by i.number"""
_COLUMNS: Final = """signal_id, kind, t, p, k, shift, unnumbered, sequence collate "C", occurred, known_at, title, original, sha,
  pinned, hidden, present, first_at, since, alike"""
_DIFFERENCES: Final = f"""
select coalesce(e.source, f.source) as source, coalesce(e.id, f.id) as id,
       case when e.id is null then 'missing' when f.id is null then 'left over' else 'different' end as fault
  from (select source, id, row({_COLUMNS}) as entry from timeline_entries where incident_id = $1) e
  full join (select source collate "C" as source, id collate "C" as id, row({_COLUMNS}) as entry
               from timeline_rows($1, 'infinity', null, null)) f on f.source = e.source and f.id = e.id
 where e.entry is distinct from f.entry order by 1, 2"""  # noqa: S608 - only constants of this module
# A statement of its own: what the next one reads begins after the lock.
_LOCK: Final = "select from incidents where id = $1 for no key update"
_REMOVE: Final = """
delete from timeline_entries where incident_id = $1 and (source, id) in (select * from unnest($2::text[], $3::text[]))"""
_WRITE: Final = "select timeline_refresh($1, $2, $3)"
_MEASURES: Final = "select to_jsonb(m)::text from incident_measures m where incident_id = $1"
_ADD: Final = "insert into incident_measures (incident_id, rules) values ($1, $2) on conflict do nothing"
_COUNT: Final = """
update incident_measures set (rules, entries, signals, bytes) = (
  select $2::int, count(*), count(s.id), coalesce(sum(octet_length(s.title) + octet_length(s.links::text)
      + octet_length(array_to_string(s.services, ' '))), 0)
    from timeline_entries e left join signals s on s.id = e.signal_id where e.incident_id = $1) where incident_id = $1"""
_MEASURE: Final = "select timeline_measures($1)"


class _UndoneError(Exception):
    """Ends a transaction without a trace."""


@dataclass(frozen=True, slots=True)
class Compared:
    """What was found of one incident."""

    ref: str
    faults: Mapping[str, int]  # how many entries by what was wrong; `measures` for its sums and durations
    is_built: bool  # whether its timeline is that of the rules now


async def compare(
    database: Database, numbers: Collection[int] = (), *, repair: bool
) -> AsyncIterator[Compared]:
    """Compare the kept timelines of these incidents, or of all, with what the facts give; repair them if asked.

    Readers never wait, and writers of an incident only for a thousand of its entries at a time. The database
    is reached as the owner of the tables.
    """
    incidents = await database.fetch(_INCIDENTS, list(numbers) or None, operation="rebuild_incidents")
    for incident, number in incidents:
        rows = await database.fetch(_DIFFERENCES, incident, operation="rebuild_differences")
        faults = Counter[str](row["fault"] for row in rows)
        for first in range(0, len(rows) if repair else 0, _STEP):
            async with database.transaction() as connection:
                await _write(connection, incident, rows[first : first + _STEP])
        with suppress(_UndoneError):
            async with database.transaction() as connection:
                faults["measures"] += await _measure(connection, incident)
                if not repair:
                    raise _UndoneError
        async with database.transaction(isolation="repeatable read") as connection:
            unit = Unit(connection, ANONYMOUS, None)
            is_built = await digest_in(unit, incident) == build(await facts_in(unit, incident)).digest
        yield Compared(f"INC-{number}", +faults, is_built)


async def _write(connection: Connection, incident: UUID, rows: Sequence[Any]) -> None:
    await connection.execute(_LOCK, incident, operation="rebuild_lock")
    await connection.execute(
        _REMOVE,
        *_names(incident, [row for row in rows if row["fault"] == "left over"]),
        operation="rebuild_remove",
    )
    await connection.execute(_WRITE, *_names(incident, rows), operation="rebuild_write")


def _names(incident: UUID, rows: Sequence[Any]) -> tuple[UUID, list[str], list[str]]:
    return incident, [row["source"] for row in rows], [row["id"] for row in rows]


async def _measure(connection: Connection, incident: UUID) -> bool:
    """Write the sums and durations of an incident; return whether they were different."""
    await connection.execute(_LOCK, incident, operation="rebuild_lock")
    before = await connection.fetchval(_MEASURES, incident, operation="rebuild_measures")
    await connection.execute(_ADD, incident, RULES, operation="rebuild_measures")
    await connection.execute(_COUNT, incident, RULES, operation="rebuild_measures")
    await connection.execute(_MEASURE, incident, operation="rebuild_measures")
    return bool(before != await connection.fetchval(_MEASURES, incident, operation="rebuild_measures"))
