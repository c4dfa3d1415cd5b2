"""Compare kept timelines with their facts, and write those entries again that differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from postfacta_postgres import Connection, Database

from ..db import Unit
from ..principal import ANONYMOUS
from .kept import digest_in
from .postgres import facts_in
from .rules import RULES, build

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
