"""All SQL of the incidents slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg

from ..db import VISIBLE, Query, sees
from ..principal import Access, Principal
from .access import COLUMNS, ref_of
from .model import Incident, IncidentPage, Kind, Severity
from .query import IncidentFilters, IncidentQuery, Sort

__all__ = [
    "COLUMNS", "Where", "follow_ups", "incident_of", "page", "ref_of", "where_of",
]  # fmt: skip

# Only writers see drafts and waivers.
_FOLLOW_UPS = f"""
select i.id, (select r.status from postmortem_revisions r where r.incident_id = i.id
    and ($3::boolean or r.status in ('in_review', 'published')) order by r.rev desc limit 1) as postmortem,
  (select count(*) from action_items a where a.incident_id = i.id and a.closed_at is null) as open_actions
  from incidents i where {VISIBLE} and i.id = any ($4::uuid[])"""  # noqa: S608 - only constants of this module and db.py

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


async def page(q: Query, query: IncidentQuery) -> IncidentPage:
    """Read one page of what the caller may see."""
    key, order, beyond = _ORDERS[query.sort]
    where = where_of(q.principal, query)
    if (after := query.after(query.sort)) is not None:
        where.add(f"({key}, i.id) {beyond} ({{}}::timestamptz, {{}}::uuid)", *after)
    limit = where.bind(query.limit + 1)
    sql = _PAGE.format(columns=COLUMNS, key=key, order=order, where=where, limit=limit)
    rows = await q.fetch(sql, *where.args, operation="incident_list")
    found = [row for row in rows if row["id"] is not None]
    kept, cursor = query.cut(found, query.sort, lambda row: (row["sort_key"], row["id"]))
    items = [incident_of(row) for row in kept]
    return IncidentPage(items=items, next_cursor=cursor, as_of=rows[0]["as_of"])


async def follow_ups(q: Query, incidents: Sequence[UUID]) -> Mapping[UUID, Mapping[str, Any]]:
    """Return the post-mortem's status and the open action items of each of these, as far as the caller may see them."""
    args = (*sees(q.principal), q.principal.may(Access.WRITE), list(incidents))
    rows = await q.fetch(_FOLLOW_UPS, *args, operation="follow_ups")
    return {row["id"]: dict(row.items()) for row in rows}


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
    labelled = "select l.incident_id from incident_labels l where l.label = any ({}::text[])"
    where.add(f"i.id in ({labelled})", query.label)
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
