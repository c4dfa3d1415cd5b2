"""How slices reach incidents: one to read, one locked to be changed, or those that match filters.

* What the caller may not see does not exist: both give `missing`.
* A query with `VISIBLE` takes `*sees(principal)` as its first two arguments.
* A change of an incident, or of what belongs to it, locks its row first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any
from uuid import UUID

from postfacta_web.stale import allow_stale

from ..db import VISIBLE, Query, Unit, Where, row, sees
from ..errors import AppError, ConflictError, NotFoundError, SchemaMissingError
from ..principal import Access, Principal
from ..web.routes import Call
from ..web.slices import Fill
from .model import (
    Incident,
    IncidentFilters,
    IncidentKind,
    IncidentPage,
    IncidentQuery,
    Severity,
    Sort,
    Visibility,
)

_NUMBER = re.compile(r"INC-([1-9][0-9]{0,17})", re.ASCII)  # 18 digits always fit a bigint
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)

# Spelled out, never `*`: a column added by a migration must not break a prepared statement.
COLUMNS = ", ".join(f"i.{name}" for name in Incident.model_fields)
"""The columns of the incident `i` that are read as an `Incident`."""
_FIND = f"""
select {COLUMNS}
  from incidents i
 where {VISIBLE}
   and (i.id = $3::uuid or i.number = $4::bigint)"""  # noqa: S608 - only constants of our modules


def read_ref(text: str) -> UUID | int | None:
    """Return the incident that a text names; None if it is neither `INC-12` nor a UUID."""
    if number := _NUMBER.fullmatch(text):
        return int(number[1])
    return UUID(text) if _UUID.fullmatch(text) else None


def ref_of(ref: UUID | int) -> tuple[UUID | None, int | None]:
    """Return the two arguments that select an incident by id or number."""
    return (ref, None) if isinstance(ref, UUID) else (None, ref)


def ref_text(ref: UUID | int) -> str:
    """Return what `read_ref` reads."""
    return str(ref) if isinstance(ref, UUID) else f"INC-{ref}"


def missing() -> AppError:
    """Return the one error for what does not exist and for what the caller may not see."""
    return NotFoundError("No such incident")


def not_kept() -> AppError:
    """Return the error for an incident whose timeline `migrate` has not kept yet."""
    return SchemaMissingError("This timeline is not kept yet", headers={"Retry-After": "10"})


def _in_path(call: Call, name: str) -> UUID | int:
    ref = read_ref(call.request.path_params[name])
    if ref is None:
        raise missing()
    return ref


def _share(call: Call, _: str) -> Callable[..., None]:
    def share(*shown: Visibility) -> None:
        if call.typed.refusal is None and Visibility.PRIVATE not in shown:
            allow_stale(call.request)

    return share


Ref = Annotated[UUID | int, Fill(_in_path)]
"""The incident that this part of the path names: `INC-12` or a UUID."""
Share = Annotated[Callable[..., None], Fill(_share)]
"""Lets the response be repeated while the database is away, unless a visibility is private."""


async def read_incident(q: Query, ref: UUID | int, *, is_locked: bool = False) -> Incident:
    """Read an incident; raise `NotFoundError` if there is none that the caller may see."""
    lock, operation = (" for update", "incident_lock") if is_locked else ("", "incident_get")
    incident = await row(q, Incident, _FIND + lock, *ref_of(ref), operation=operation)
    if incident is None:
        raise missing()
    return incident


async def lock(unit: Unit, ref: UUID | int) -> Incident:
    """Read an incident; it and everything below it stay locked until the unit ends."""
    incident = await read_incident(unit, ref, is_locked=True)
    unit.about.add(incident.id)
    return incident


async def lock_active(unit: Unit, ref: UUID | int) -> Incident:
    """Lock an incident to change it, or what is below it; `ConflictError` if it is archived."""
    incident = await lock(unit, ref)
    check_active(incident)
    return incident


def check_active(incident: Incident) -> None:
    if incident.archived_at is not None:
        raise ConflictError(f"{incident.ref} is archived")


# Only writers see drafts and waivers.
_FOLLOW_UPS = f"""
select i.id,
       (select r.status
          from postmortem_revisions r
         where r.incident_id = i.id
           and ($3::boolean or r.status in ('in_review', 'published'))
         order by r.rev desc
         limit 1) as postmortem,
       (select count(*)
          from action_items a
         where a.incident_id = i.id
           and a.closed_at is null) as open_actions
  from incidents i
 where {VISIBLE}
   and i.id = any ($4::uuid[])"""  # noqa: S608 - only constants of this module and db.py

CHANGED = "greatest(i.updated_at, i.timeline_at)"
_ORDERS = {
    Sort.NEWEST: ("i.declared_at", "desc", "<"),
    Sort.OLDEST: ("i.declared_at", "asc", ">"),
    Sort.CHANGED: (CHANGED, "asc", ">"),
}
# The lateral join returns a row even when the list is empty: `as_of` and the rows come from one
# snapshot. No write transaction lives for 15 seconds.
_PAGE = """
select s.as_of, p.*
  from (select now() - interval '15 seconds' as as_of) s
  left join lateral (
    select {columns}, {key} as sort_key
      from incidents i
     where {where}
     order by {key} {order}, i.id {order}
     limit {limit}) p on true
 order by p.sort_key {order}, p.id {order}"""


async def page(q: Query, query: IncidentQuery) -> IncidentPage:
    """Read a page of the incidents that the caller may see.

    Its `as_of` is the instant from which a later pull misses none.
    """
    key, order, beyond = _ORDERS[query.sort]
    where = where_of(q.principal, query)
    after = query.after(query.sort) or [None]
    where.add(f"({key}, i.id) {beyond} ({{}}::timestamptz, {{}}::uuid)", *after)
    limit = where.bind(query.limit + 1)
    sql = _PAGE.format(columns=COLUMNS, key=key, order=order, where=where, limit=limit)
    rows = await q.fetch(sql, *where.args, operation="incident_list")
    incidents = [row for row in rows if row["id"] is not None]
    shown, cursor = query.cut(incidents, query.sort, lambda row: (row["sort_key"], row["id"]))
    items = [incident_of(row) for row in shown]
    return IncidentPage(items=items, next_cursor=cursor, as_of=rows[0]["as_of"])


async def follow_ups(q: Query, incidents: Sequence[UUID]) -> Mapping[UUID, Mapping[str, Any]]:
    """Return each post-mortem's status and open action items, as far as the caller may see them."""
    args = (*sees(q.principal), q.principal.may(Access.WRITE), list(incidents))
    rows = await q.fetch(_FOLLOW_UPS, *args, operation="follow_ups")
    return {row["id"]: dict(row.items()) for row in rows}


def incident_of(row: Any) -> Incident:
    return Incident.model_validate(dict(row.items()))


def where_of(
    principal: Principal,
    query: IncidentFilters,
    kinds: Sequence[IncidentKind] = (IncidentKind.INCIDENT, IncidentKind.NEAR_MISS),
) -> Where:
    """Select the matching incidents of these kinds that the caller may see; no archived ones."""
    where = Where(*sees(principal))
    where.add(f"{VISIBLE} and i.archived_at is null")
    where.add("i.kind = any ({}::text[])", query.kind or kinds)
    where.add(
        "greatest(i.declared_at, coalesce(i.ended_at, now())) >= {}::timestamptz", query.since
    )
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
    has_postmortem = "exists (select from postmortem_revisions r where r.incident_id = i.id)"
    where.add(f"{has_postmortem} = {{}}", query.has_postmortem)
    where.add(f"{CHANGED} >= {{}}::timestamptz", query.updated_since)
    if query.q:
        words = " or ".join("i.search @@ plainto_tsquery('simple', {})" for _ in query.q)
        where.add(f"({words})", *query.q)
    return where
