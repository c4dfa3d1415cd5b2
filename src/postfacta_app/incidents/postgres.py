"""All SQL of the incidents slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID, uuid4

import asyncpg

from postfacta_postgres import Database

from ..db import VISIBLE, Reader, Unit, sees
from ..errors import NotFoundError
from ..principal import Access, Principal
from .access import COLUMNS, lock, ref_of, seen
from .model import Incident, Kind, Move, NewIncident, Severity, State
from .query import FollowUp, IncidentFilters, IncidentQuery, Rows, Sort

__all__ = ["COLUMNS", "PostgresIncidents", "Where", "incident_of", "ref_of", "where_of"]

_INSERT = f"""
insert into incidents as i (id, title, description, kind, severity, reporter, owner, services, teams,
  visibility, members, declared_at, created_by, timeline_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, clock_timestamp())
returning {COLUMNS}, i.timeline_at"""  # noqa: S608 - only constants of this module
_UPDATE = f"""
update incidents i set title = $2, description = $3, severity = $4, reporter = $5, owner = $6, services = $7,
  teams = $8, visibility = $9, members = $10, version = i.version + 1, updated_at = clock_timestamp()
 where i.id = $1 returning {COLUMNS}"""  # noqa: S608 - only constants of this module
_MOVE = f"""
update incidents i set status = $2, ended_at = $3, outcome = $4, version = i.version + 1,
  updated_at = clock_timestamp()
 where i.id = $1 returning {COLUMNS}"""  # noqa: S608 - only constants of this module
_ARCHIVE = """
update incidents set archived_at = clock_timestamp(), version = version + 1, updated_at = clock_timestamp()
 where id = $1"""
_STATUS_CHANGE = """
insert into status_changes (id, incident_id, from_status, to_status, outcome, reason, occurred_at, at, actor)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9)"""
# Only writers see drafts and waivers.
_FOLLOW_UPS = f"""
select i.id, (select r.status from postmortem_revisions r where r.incident_id = i.id
    and ($3::boolean or r.status in ('in_review', 'published')) order by r.rev desc limit 1) as postmortem,
  (select count(*) from action_items a where a.incident_id = i.id and a.closed_at is null) as open_actions
  from incidents i where {VISIBLE} and i.id = any ($4::uuid[])"""  # noqa: S608 - only constants of this module and db.py
_USERS = "select id from users where id = any ($1::uuid[])"

_CHANGED = "greatest(i.updated_at, i.timeline_at)"
_ORDERS = {
    Sort.NEWEST: ("i.declared_at", "desc", "<"),
    Sort.OLDEST: ("i.declared_at", "asc", ">"),
    Sort.CHANGED: (_CHANGED, "asc", ">"),
}
# The lateral join returns a row even when the list is empty: `as_of` and the rows come from one snapshot.
_PAGE = """
select s.as_of, p.* from (select now() - interval '15 seconds' as as_of) s left join lateral (
  select {columns}, {key} as sort_key from incidents i where {where} order by {key} {order}, i.id {order}
   limit {limit}) p on true
 order by p.sort_key {order}, p.id {order}"""


class PostgresIncidents:
    """Reads incidents through the database, writes them inside a unit of work."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, principal: Principal, query: IncidentQuery) -> Rows:
        """Read one page of what the caller may see, and whether more follow."""
        key, order, beyond = _ORDERS[query.sort]
        where = where_of(principal, query)
        if (after := query.after()) is not None:
            where.add(f"({key}, i.id) {beyond} ({{}}::timestamptz, {{}}::uuid)", *after)
        limit = where.bind(query.limit + 1)
        sql = _PAGE.format(columns=COLUMNS, key=key, order=order, where=where, limit=limit)
        rows = await self._database.fetch(sql, *where.args, operation="incident_list", repeatable=True)
        found = [row for row in rows if row["id"] is not None]
        kept = found[: query.limit]
        last = (kept[-1]["sort_key"], kept[-1]["id"]) if len(found) > len(kept) else None
        return Rows([incident_of(row) for row in kept], last, rows[0]["as_of"])

    async def follow_ups(self, principal: Principal, incidents: Sequence[UUID]) -> Mapping[UUID, FollowUp]:
        """Return the follow-up of each of these that the caller may see."""
        args = (*sees(principal), principal.may(Access.WRITE), list(incidents))
        rows = await self._database.fetch(_FOLLOW_UPS, *args, operation="follow_ups", repeatable=True)
        return {row["id"]: FollowUp(row["postmortem"], row["open_actions"]) for row in rows}

    async def find(self, principal: Principal, ref: UUID | int) -> Incident | None:
        """Read one, if the caller may see it."""
        try:
            return await seen(Reader(self._database, principal), ref)
        except NotFoundError:
            return None

    async def lock(self, unit: Unit, ref: UUID | int) -> Incident | None:
        """Read one if the caller may see it, locked until the unit ends."""
        try:
            return await lock(unit, ref)
        except NotFoundError:
            return None

    async def insert(self, unit: Unit, new: NewIncident, *, reporter: str, declared_at: datetime) -> Incident:
        """Write a new one with its first status change."""
        row = await unit.fetchrow(
            _INSERT,
            uuid4(),
            *(
                new.title,
                new.description,
                new.kind,
                new.severity,
                reporter,
                new.owner,
                new.services,
                new.teams,
            ),
            *(new.visibility, new.members, declared_at, unit.principal.actor),
            operation="incident_insert",
        )
        assert row is not None  # noqa: S101 - an insert returns its row or raises
        incident = incident_of(row)
        change = (incident.id, None, incident.status, None, None, declared_at, row["timeline_at"])
        await unit.execute(_STATUS_CHANGE, uuid4(), *change, unit.principal.actor, operation="status_change")
        return incident

    async def update(self, unit: Unit, new: Incident) -> Incident:
        """Write the changeable fields as the next version."""
        row = await unit.fetchrow(
            _UPDATE,
            *(new.id, new.title, new.description, new.severity, new.reporter, new.owner),
            *(new.services, new.teams, new.visibility, new.members),
            operation="incident_update",
        )
        assert row is not None  # noqa: S101 - the unit holds its lock
        return incident_of(row)

    async def move(
        self, unit: Unit, old: Incident, new: State, *, wish: Move, occurred_at: datetime
    ) -> Incident:
        """Write a transition and its status change."""
        at = await unit.stamp(old.id)
        row = await unit.fetchrow(
            _MOVE, old.id, new.status, new.ended_at, new.outcome, operation="incident_move"
        )
        assert row is not None  # noqa: S101 - the unit holds its lock
        change = (old.id, old.status, new.status, new.outcome, wish.reason, occurred_at, at)
        await unit.execute(_STATUS_CHANGE, uuid4(), *change, unit.principal.actor, operation="status_change")
        return incident_of(row)

    async def archive(self, unit: Unit, incident: Incident) -> None:
        """Remove it from all lists."""
        await unit.execute(_ARCHIVE, incident.id, operation="incident_archive")

    async def unknown_users(self, unit: Unit, users: Sequence[UUID]) -> set[UUID]:
        """Return those of these ids that are not users."""
        rows = await unit.fetch(_USERS, list(users), operation="users_known")
        return set(users) - {row["id"] for row in rows}


def incident_of(row: asyncpg.Record) -> Incident:
    """Build an incident from a row that has its columns, among others."""
    return Incident.model_validate(dict(row.items()))


class Where:
    """Joins conditions with "and"; values become arguments, never part of the text."""

    def __init__(self, principal: Principal) -> None:
        self.args: list[object] = [*sees(principal)]
        self._conditions = [VISIBLE, "i.archived_at is null"]

    def bind(self, value: object) -> str:
        """Add an argument and return its placeholder."""
        self.args.append(value)
        return f"${len(self.args)}"

    def add(self, condition: str, *values: object) -> None:
        """Add a condition with a `{}` for each value; skip it if the values are empty."""
        if all(value is not None and value != [] for value in values):
            self._conditions.append(condition.format(*map(self.bind, values)))

    def __str__(self) -> str:
        return " and ".join(self._conditions)


def where_of(principal: Principal, query: IncidentFilters) -> Where:
    """Select the matching incidents that the caller may see, never archived ones."""
    where = Where(principal)
    where.add("i.kind = any ({}::text[])", query.kind or [Kind.INCIDENT, Kind.NEAR_MISS])
    where.add("greatest(i.declared_at, coalesce(i.ended_at, now())) >= {}::timestamptz", query.since)
    where.add("i.declared_at < {}::timestamptz", query.until)
    where.add("i.services && {}::text[]", query.service)
    where.add("i.teams && {}::text[]", query.team)
    where.add("i.severity = any ({}::text[])", query.severity)
    if query.severity_gte:
        ranks = list(Severity)
        where.add("i.severity = any ({}::text[])", ranks[ranks.index(query.severity_gte) :])
    where.add("i.status = any ({}::text[])", query.status)
    where.add("i.outcome = any ({}::text[])", query.outcome)
    where.add("i.owner = any ({}::text[])", query.owner)
    where.add(
        "exists (select from postmortem_revisions r where r.incident_id = i.id) = {}", query.has_postmortem
    )
    where.add(f"{_CHANGED} >= {{}}::timestamptz", query.updated_since)
    if query.q:
        words = " or ".join("i.search @@ plainto_tsquery('simple', {})" for _ in query.q)
        where.add(f"({words})", *query.q)
    return where
