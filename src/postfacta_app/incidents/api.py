"""The API of incidents: list, record, read, change, archive, and change of status."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Annotated, Final
from uuid import UUID, uuid4

from ..db import Reader, Unit, insert, update
from ..errors import ConflictError, FieldError, ForbiddenError, InvalidFieldsError, invalid
from ..principal import Access
from ..web.slices import Fill, Matches, Now, Reply, Routes, made
from . import access, model
from .access import COLUMNS, Ref, Share, check_active, lock, seen
from .model import Change, Incident, Kind, Visibility, check_time

READ, WRITE = Access.READ, Access.WRITE
routes: Final = Routes("incident")
_MOST_MEMBERS: Final = 100


Hide = Annotated[
    Callable[[], None], Fill(lambda call, _: partial(call.afterwards.append, call.tools.stale.forget))
]
"""Forgets the responses kept for outages, since an incident's visibility may have been reduced."""


_INSERT: Final = f"""
insert into incidents as i ({{names}}, timeline_at) values ({{places}}, clock_timestamp())
on conflict (id) do nothing returning {COLUMNS}, i.timeline_at"""  # noqa: S608 - only constants of this package
_ARCHIVE: Final = """
update incidents set archived_at = clock_timestamp(), version = version + 1, updated_at = clock_timestamp()
 where id = $1"""
_USERS: Final = "select id from users where id = any ($1::uuid[])"


@routes.api("GET /api/v1/incidents", READ, "List incidents", stale=True)
async def page(q: Reader, query: model.IncidentQuery, *, share: Share) -> model.IncidentPage:
    found = await access.page(q, query)
    share(*(it.visibility for it in found.items))
    return found


@routes.api("POST /api/v1/incidents", WRITE, "Record an incident", status=201, once=True)
async def create(unit: Unit, new: model.NewIncident, *, now: Now) -> Reply[Incident]:
    declared_at = check_time("/declared_at", new.declared_at, now) if new.declared_at else now
    await _check_members(unit, new.members)
    members, who = _with_asker(unit, new.members), unit.principal
    _check_private(unit, new.visibility, members)
    # Names may have one character, reporters need two.
    reporter = new.reporter or (who.name[:100] if len(who.name) > 1 else who.actor)
    given = {"reporter": reporter, "members": members, "declared_at": declared_at}
    incident, _ = await declare(unit, id=uuid4(), **{**dict(new), **given})
    return Reply(incident, 201, {"Location": f"/api/v1/incidents/{incident.id}"})


async def declare(unit: Unit, **values: object) -> tuple[Incident, datetime]:
    """Write a new incident with its first status change; also return the first instant of its timeline."""
    values["created_by"] = unit.principal.actor
    places = ", ".join(f"${n}" for n, _ in enumerate(values, 1))
    sql = _INSERT.format(names=", ".join(values), places=places)
    rows = await unit.fetch(sql, *values.values(), operation="incident_insert")
    if not rows:
        raise ConflictError("Incident with the same ID already exists: incident conflict")
    incident, at = access.incident_of(rows[0]), rows[0]["timeline_at"]
    facts = {"to_status": incident.status, "occurred_at": incident.declared_at, "at": at}
    same = {"incident_id": incident.id, "actor": unit.principal.actor}
    await insert(unit, "status_changes", id=uuid4(), **same, **facts)
    await unit.audit("incident.create", incident.ref, incident_id=incident.id)
    if _is_counted(incident):
        unit.counts.append(("postfacta_incidents_opened_total", incident.severity))
    return incident, at


@routes.api("GET /api/v1/incidents/{ref}", READ, "Read an incident", conditional=True, stale=True)
async def read(q: Reader, ref: Ref, *, share: Share) -> Incident:
    incident = await seen(q, ref)
    share(incident.visibility)
    return incident


@routes.api("PATCH /api/v1/incidents/{ref}", WRITE, "Change an incident by JSON Merge Patch")
async def change(unit: Unit, ref: Ref, wish: Change, *, matches: Matches, hide: Hide) -> Incident:
    if "visibility" in wish.model_fields_set:
        hide()
    old = await lock(unit, ref)
    matches(old.etag)
    check_active(old)
    wanted = {name: getattr(wish, name) for name in wish.model_fields_set}
    if "members" in wanted:
        await _check_members(unit, wish.members)
        wanted["members"] = list(dict.fromkeys(wish.members))
    if wish.visibility == Visibility.PRIVATE and old.visibility != Visibility.PRIVATE:
        wanted["members"] = _with_asker(unit, wanted.get("members", old.members))
    new = old.model_copy(update=wanted)
    if new == old:
        return old
    _check_private(unit, new.visibility, new.members)
    before, after = (it.model_dump(mode="json", include=set(wanted)) for it in (old, new))
    detail = {name: [before[name], after[name]] for name in wanted if before[name] != after[name]}
    values = {name: getattr(new, name) for name in Change.model_fields}
    row = await update(unit, "incidents", new.id, columns=COLUMNS, **values)
    await _note_changes(unit, old, new)
    await unit.audit("incident.change", new.ref, incident_id=new.id, detail=detail)
    return access.incident_of(row)


async def _note_changes(unit: Unit, old: Incident, new: Incident) -> None:
    changes = (
        ("severity", old.severity.capitalize(), new.severity.capitalize()),
        ("owner", old.owner, new.owner),
    )
    told = "; ".join(
        f"{name}: {was or 'none'} to {now or 'none'}" for name, was, now in changes if was != now
    )
    if told:
        at, note, body = await unit.stamp(new.id), uuid4(), told[0].upper() + told[1:]
        same = {"incident_id": new.id, "kind": "note", "author": unit.principal.actor}
        await insert(unit, "annotations", id=note, root=note, body=body, occurred_at=at, at=at, **same)


@routes.api("DELETE /api/v1/incidents/{ref}", WRITE, "Archive an incident")
async def archive(unit: Unit, ref: Ref, *, matches: Matches) -> None:
    incident = await lock(unit, ref)
    if not (unit.principal.is_admin or incident.kind == Kind.EXERCISE):
        raise ForbiddenError("Only administrators may archive anything but exercises")
    matches(incident.etag)
    if incident.archived_at is None:
        await unit.execute(_ARCHIVE, incident.id, operation="incident_archive")
        await unit.audit("incident.archive", incident.ref, incident_id=incident.id)


@routes.api(
    "POST /api/v1/incidents/{ref}/transitions", WRITE, "Change the status of an incident",
    status=(200, 201), once=True, problems=("illegal-transition",),
)  # fmt: skip
async def transition(unit: Unit, ref: Ref, wish: model.Move, *, now: Now) -> Reply[Incident]:
    old = await lock(unit, ref)
    occurred_at = check_time("/occurred_at", wish.occurred_at, now) if wish.occurred_at else now
    new = model.move(model.State(old.status, old.ended_at, old.outcome), wish, occurred_at)
    if new is None:
        return made(old, is_new=False)
    check_active(old)
    at, actor = await unit.stamp(old.id), unit.principal.actor
    row = await update(unit, "incidents", old.id, columns=COLUMNS, **asdict(new))
    facts = {
        "from_status": old.status,
        "to_status": new.status,
        "outcome": new.outcome,
        "reason": wish.reason,
    }
    when = {"occurred_at": occurred_at, "at": at, "actor": actor}
    await insert(unit, "status_changes", id=uuid4(), incident_id=old.id, **facts, **when)
    detail = {"from": old.status, "to": new.status, "outcome": new.outcome}
    await unit.audit("incident.move", old.ref, incident_id=old.id, detail=detail)
    incident = access.incident_of(row)
    if _is_counted(incident):
        unit.counts.append(("postfacta_incident_transitions_total", old.status, new.status, old.severity))
    return made(incident, is_new=True)


def _is_counted(incident: Incident) -> bool:
    # Readers of the metrics may not be members.
    return incident.kind != Kind.EXERCISE and incident.visibility is Visibility.INTERNAL


async def _check_members(unit: Unit, members: Sequence[UUID]) -> None:
    rows = await unit.fetch(_USERS, list(members), operation="users_known") if members else ()
    known = {row["id"] for row in rows}
    errors = [
        FieldError(f"/members/{at}", "unknown", "is not a user") for at, who in enumerate(members) if who not in known
    ]  # fmt: skip
    if errors:
        raise InvalidFieldsError("Members must be users of this service", errors=errors)


def _with_asker(unit: Unit, members: Sequence[UUID]) -> list[UUID]:
    asker = unit.principal.user_id
    return list(dict.fromkeys([*members, *([asker] if asker else [])]))


def _check_private(unit: Unit, visibility: Visibility, members: Sequence[UUID]) -> None:
    if len(members) > _MOST_MEMBERS:
        raise invalid("/members", "too_long", f"at most {_MOST_MEMBERS} members, including yourself")
    if visibility == Visibility.PRIVATE and unit.principal.user_id is None:
        raise invalid("/visibility", "forbidden", "an API token cannot make an incident private")
    if visibility == Visibility.PRIVATE and not members:
        raise invalid("/members", "too_short", "a private incident needs at least one member")
