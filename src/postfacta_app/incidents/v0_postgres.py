"""The SQL behind v0."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from starlette.requests import Request
from starlette.responses import Response

from postfacta_postgres import Database

from ..aside import aside
from ..db import Answer, Transactions, Unit
from ..errors import ConflictError
from ..principal import Principal
from ..web.body import format_time, read_moment
from .v0 import Listing, Note, V0Incident

__all__ = ["PostgresV0"]

# v0 shows no private, archived or exercise incidents, to any caller.
_COLUMNS = """
select id, title, description, severity, status, reporter, owner, declared_at, ended_at, v0_notes_null
  from incidents where visibility = 'internal' and archived_at is null and kind <> 'exercise'"""
_LIST = f"""{_COLUMNS} and (declared_at, id) <
   (coalesce($1::timestamptz, 'infinity'), coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
 order by declared_at desc, id desc limit $3"""
_GET = f"{_COLUMNS} and id = $1"
# Initial notes are as sent. An additional one has its last version at the position of its first.
_NOTES = """
select a.incident_id, a.v0_position, a.v0_time, a.body, coalesce(a.occurred_at, a.at) as shown
  from annotations a join annotations first on first.id = a.root
 where a.incident_id = any ($1::uuid[]) and (a.v0_position is not null or (
   a.kind = 'note' and a.entry_id is null and not a.retracted and first.v0_position is null
   and not exists (select from annotations later where later.supersedes = a.id)))
 order by a.v0_position, first.at, first.id"""
_INSERT = """
insert into incidents (id, title, description, severity, reporter, owner, declared_at, v0_notes_null,
  created_by, timeline_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, clock_timestamp())
on conflict (id) do nothing returning number, timeline_at"""
_STATUS_CHANGE = """
insert into status_changes (id, incident_id, to_status, occurred_at, at, actor)
values ($1, $2, 'OPEN', $3, $4, $5)"""
_INSERT_NOTES = """
insert into annotations (id, root, incident_id, kind, body, occurred_at, v0_position, v0_time, author, at)
select n.id, n.id, $1, 'note', n.body, n.occurred_at, n.position - 1, n.time, $2, $3
  from unnest($4::uuid[], $5::text[], $6::timestamptz[], $7::text[])
    with ordinality as n (id, body, occurred_at, time, position)"""


class PostgresV0:
    """Stores the incidents of v0 in the tables of v1.

    Args:
        database: For reads.
        transactions: For writes.
        limit: The most incidents of a list.
    """

    def __init__(self, database: Database, transactions: Transactions, *, limit: int = 1000) -> None:
        self._database = database
        self._transactions = transactions
        self._limit = limit

    async def list(self, before: tuple[datetime, UUID] | None) -> Listing:
        """Read the newest ones before this start time and id."""
        at, last = before or (None, None)
        rows = await self._database.fetch(
            _LIST, at, last, self._limit + 1, operation="v0_list", repeatable=True
        )
        shown = [dict(row.items()) for row in reversed(rows[: self._limit])]
        return Listing(await self._with_notes(shown), len(rows) > self._limit)

    async def get(self, incident_id: UUID) -> V0Incident | None:
        """Read one."""
        rows = await self._database.fetch(_GET, incident_id, operation="v0_get", repeatable=True)
        return next(iter(await self._with_notes([dict(row.items()) for row in rows])), None)

    async def _with_notes(self, rows: Sequence[Mapping[str, object]]) -> Sequence[V0Incident]:
        ids = [row["id"] for row in rows]
        notes = await self._database.fetch(_NOTES, ids, operation="v0_notes", repeatable=True) if ids else []
        return await aside(300 * (len(rows) + len(notes)), _noted, rows, notes)

    async def start(
        self, request: Request, principal: Principal, incident: V0Incident, *, answer: Answer, key: str | None
    ) -> Response:
        """Write it with its first status change, its notes, and an audit row."""

        async def work(unit: Unit) -> Answer:
            await _insert(unit, incident)
            return answer

        return await self._transactions.write(request, principal, work, key=key)


def _noted(rows: Sequence[Mapping[str, Any]], notes: Sequence[Any]) -> Sequence[V0Incident]:
    initial: dict[object, list[Note]] = defaultdict(list)
    additional: dict[object, list[Note]] = defaultdict(list)
    for row in notes:
        if row["v0_position"] is None:
            shown = read_moment(format_time(row["shown"])).text
            additional[row["incident_id"]].append(Note(shown, row["body"]))
        else:
            initial[row["incident_id"]].append(Note(row["v0_time"], row["body"]))
    return [_incident(row, initial[row["id"]], additional[row["id"]]) for row in rows]


def _incident(row: Mapping[str, object], initial: Sequence[Note], additional: Sequence[Note]) -> V0Incident:
    fields = dict(row)
    start_time, end_time = fields.pop("declared_at"), fields.pop("ended_at")
    notes = None if fields.pop("v0_notes_null") else initial
    return V0Incident(
        **fields,  # type: ignore[arg-type] # the columns of the same names
        start_time=start_time,  # type: ignore[arg-type] # a timestamptz
        end_time=end_time,  # type: ignore[arg-type] # a timestamptz or null
        initial_notes=notes,
        additional_notes=additional,
    )


async def _insert(unit: Unit, new: V0Incident) -> None:
    row = await unit.fetchrow(
        _INSERT,
        *(new.id, new.title, new.description, new.severity, new.reporter, new.owner, new.start_time),
        *(new.initial_notes is None, unit.principal.actor),
        operation="v0_start",
    )
    if row is None:
        raise ConflictError("This id is taken")
    at, actor = row["timeline_at"], unit.principal.actor
    await unit.execute(_STATUS_CHANGE, uuid4(), new.id, new.start_time, at, actor, operation="status_change")
    if notes := new.initial_notes:
        await unit.execute(
            _INSERT_NOTES,
            *(new.id, actor, at, [uuid4() for _ in notes], [note.message for note in notes]),
            *([note.instant for note in notes], [note.timestamp for note in notes]),
            operation="v0_notes_insert",
        )
    await unit.audit("incident.create", f"INC-{row['number']}", incident_id=new.id)
    unit.counts.append(("postfacta_incidents_opened_total", new.severity))
