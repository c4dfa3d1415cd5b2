"""The API of incidents, and the pages that list, record or edit them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import urlencode
from uuid import UUID, uuid4

from pydantic import BaseModel
from starlette.datastructures import QueryParams
from starlette.requests import Request

from ..db import Reader, Unit, insert, update
from ..errors import (
    AppError,
    ConflictError,
    FieldError,
    ForbiddenError,
    InvalidCursorError,
    InvalidFieldsError,
    invalid,
)
from ..principal import Access
from ..web.body import Listed, next_page, read_query
from ..web.forms import Typed, fields_of, formed, read_typed_time
from ..web.routes import RouteClass
from ..web.slices import Fields, Fill, Matches, Now, Page, Reply, Routes
from . import access, model
from .access import COLUMNS, Ref, Share, check_active, lock, seen
from .model import Change, Incident, Kind, NewIncident, Visibility

M = TypeVar("M", bound=BaseModel)
L = TypeVar("L", bound=Listed[Any])
READ = Access.READ
WRITE = Access.WRITE
routes: Final = Routes("incident")
_MOST_MEMBERS: Final = 100

Hide = Annotated[
    Callable[[], None], Fill(lambda it, _: partial(it.afterwards.append, it.tools.stale.forget))
]
"""Forgets the responses kept for outages, since an incident's visibility may have been reduced."""

_INSERT: Final = f"""
with i as (
  insert into incidents ({{names}}, timeline_at)
  values ({{places}}, clock_timestamp())
  on conflict (id) do nothing
  returning *),
moved as (
  insert into status_changes (id, incident_id, to_status, occurred_at, at, actor)
  select gen_random_uuid(), i.id, i.status, i.declared_at, i.timeline_at, i.created_by
    from i)
select {COLUMNS}
  from i"""  # noqa: S608 - only constants of this package
_STRANGERS: Final = """
select m.nth
  from unnest($1::uuid[]) with ordinality m(id, nth)
 where not exists (select from users u where u.id = m.id)
 order by m.nth"""


@routes.api("GET /api/v1/incidents", READ, "List incidents", stale=True)
async def page(q: Reader, query: model.IncidentQuery, *, share: Share) -> model.IncidentPage:
    found = await access.page(q, query)
    share(*(it.visibility for it in found.items))
    return found


@routes.api("POST /api/v1/incidents", WRITE, "Record an incident", status=201, once=True)
async def create(unit: Unit, new: NewIncident, *, now: Now) -> Reply[Incident]:
    declared_at = model.check_time("/declared_at", new.declared_at or now, now)
    await _check_members(unit, new.members)
    members = _with_asker(unit, new.members)
    who = unit.principal
    _check_private(unit, new.visibility, members)
    # Names may have one character, reporters need two.
    reporter = new.reporter or (who.name[:100] if len(who.name) > 1 else who.actor)
    given = {"reporter": reporter, "members": members, "declared_at": declared_at}
    incident = await declare(unit, id=uuid4(), **{**dict(new), **given})
    return Reply(incident, 201, {"Location": f"/api/v1/incidents/{incident.id}"})


async def declare(unit: Unit, **values: object) -> Incident:
    """Write a new incident with its first status change."""
    values["created_by"] = unit.principal.actor
    places = ", ".join(f"${n}" for n, _ in enumerate(values, 1))
    sql = _INSERT.format(names=", ".join(values), places=places)
    rows = await unit.fetch(sql, *values.values(), operation="incident_insert")
    if not rows:
        raise ConflictError("Incident with the same ID already exists: incident conflict")
    incident = access.incident_of(rows[0])
    await unit.audit("incident.create", incident.ref, incident_id=incident.id)
    if _is_counted(incident):
        unit.counts.append(("postfacta_incidents_opened_total", incident.severity))
    return incident


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
    detail = {
        name: [getattr(old, name), it] for name, it in wanted.items() if it != getattr(old, name)
    }
    values = {name: getattr(new, name) for name in Change.model_fields}
    row = await update(unit, "incidents", new.id, columns=COLUMNS, **values)
    await _note_changes(unit, old, new)
    await unit.audit("incident.change", new.ref, incident_id=new.id, detail=detail)
    return access.incident_of(row)


async def _note_changes(unit: Unit, old: Incident, new: Incident) -> None:
    severities = old.severity.capitalize(), new.severity.capitalize()
    changes = ("severity", *severities), ("owner", old.owner, new.owner)
    told = [
        f"{name}: {was or 'none'} to {now or 'none'}" for name, was, now in changes if was != now
    ]
    if body := "; ".join(told):
        at = await unit.stamp(new.id)
        note = uuid4()
        body = body[0].upper() + body[1:]
        same = {"incident_id": new.id, "kind": "note", "author": unit.principal.actor}
        await insert(
            unit, "annotations", id=note, root=note, body=body, occurred_at=at, at=at, **same
        )


@routes.api("DELETE /api/v1/incidents/{ref}", WRITE, "Archive an incident")
async def archive(unit: Unit, ref: Ref, *, matches: Matches, now: Now) -> None:
    incident = await lock(unit, ref)
    if not (unit.principal.is_admin or incident.kind == Kind.EXERCISE):
        raise ForbiddenError("Only administrators may archive anything but exercises")
    matches(incident.etag)
    if incident.archived_at is None:
        await update(unit, "incidents", incident.id, archived_at=now)
        await unit.audit("incident.archive", incident.ref, incident_id=incident.id)


@routes.api(
    "POST /api/v1/incidents/{ref}/transitions",
    WRITE,
    "Change the status of an incident",
    status=(200, 201),
    once=True,
    problems=("illegal-transition",),
)
async def transition(unit: Unit, ref: Ref, wish: model.Move, *, now: Now) -> Reply[Incident]:
    old = await lock(unit, ref)
    occurred_at = model.check_time("/occurred_at", wish.occurred_at or now, now)
    new = model.move(old.status, wish, ended_at=old.ended_at, occurred_at=occurred_at)
    if new is None:
        return Reply(old)
    check_active(old)
    at = await unit.stamp(old.id)
    actor = unit.principal.actor
    row = await update(unit, "incidents", old.id, columns=COLUMNS, **new)
    moved = {
        "from_status": old.status,
        "to_status": wish.to,
        "outcome": wish.outcome,
        "reason": wish.reason,
    }
    same = {"incident_id": old.id, "occurred_at": occurred_at, "at": at, "actor": actor}
    await insert(unit, "status_changes", id=uuid4(), **moved, **same)
    detail = {"from": old.status, "to": wish.to, "outcome": wish.outcome}
    await unit.audit("incident.move", old.ref, incident_id=old.id, detail=detail)
    incident = access.incident_of(row)
    if _is_counted(incident):
        unit.counts.append(
            ("postfacta_incident_transitions_total", old.status, wish.to, old.severity)
        )
    return Reply(incident, 201)


def _is_counted(incident: Incident) -> bool:
    # Readers of the metrics may not be members.
    return incident.kind != Kind.EXERCISE and incident.visibility is Visibility.INTERNAL


async def _check_members(unit: Unit, members: Sequence[UUID]) -> None:
    rows = await unit.fetch(_STRANGERS, members, operation="users_known") if members else ()
    errors = [FieldError(f"/members/{row['nth'] - 1}", "unknown", "is not a user") for row in rows]
    if errors:
        raise InvalidFieldsError("Members must be users of this service", errors=errors)


def _with_asker(unit: Unit, members: Sequence[UUID]) -> list[UUID]:
    asker = unit.principal.user_id
    return list(dict.fromkeys([*members, *([asker] if asker else [])]))


def _check_private(unit: Unit, visibility: Visibility, members: Sequence[UUID]) -> None:
    if len(members) > _MOST_MEMBERS:
        raise invalid(
            "/members", "too_long", f"at most {_MOST_MEMBERS} members, including yourself"
        )
    if visibility == Visibility.PRIVATE and unit.principal.user_id is None:
        raise invalid("/visibility", "forbidden", "an API token cannot make an incident private")
    if visibility == Visibility.PRIVATE and not members:
        raise invalid("/members", "too_short", "a private incident needs at least one member")


# Pages

_FILTERS = (
    "q",
    "status",
    "severity_gte",
    "service",
    "team",
    "label",
    "kind",
    "has_postmortem",
    "from",
    "to",
)
_LISTS = ("status", "service", "team", "label", "kind")  # Of several values, a comma between each.


@routes.page("/incidents", READ, kind=RouteClass.SEARCH, stale=True)
async def listed(q: Reader, *, request: Request, share: Share) -> Page:
    rows, shown = await found(request, model.IncidentQuery, partial(access.page, q))
    share(*(it.visibility for it in rows.items))
    shown["after"] = await access.follow_ups(q, [incident.id for incident in rows.items])
    return Page("incidents.html", shown, status=400 if shown["errors"] else 200)


@routes.page("/incidents/new", WRITE)
async def blank(q: Reader, *, typed: Typed) -> Page:
    return Page(
        "new_incident.html", {"new": fields_of(NewIncident), "reporter": q.principal.name[:100]}
    )


@routes.form("/incidents/new", WRITE, again=blank)
async def record(unit: Unit, new: NewIncident, *, now: Now) -> str:
    return f"/incidents/{(await create(unit, new, now=now)).value.ref}"


@routes.page("/incidents/{ref}/edit", WRITE)
async def editing(q: Reader, ref: Ref) -> Page:
    return Page("edit_incident.html", {"item": await seen(q, ref), "changed": fields_of(Change)})


@routes.form("/incidents/{ref}/edit", WRITE, again=editing)
async def edit(unit: Unit, ref: Ref, *, fields: Fields, matches: Matches, hide: Hide) -> str:
    empty: Mapping[str, list[str]] = {
        "services": [],
        "teams": [],
    }  # An emptied field clears what it shows.
    sent = {
        name: fields[name].strip() or empty.get(name)
        for name in Change.model_fields
        if name in fields
    }
    changed = await change(unit, ref, formed(Change, sent), matches=matches, hide=hide)
    return f"/incidents/{changed.ref}"


def asked(request: Request, of: type[M]) -> tuple[M, Sequence[FieldError]]:
    """Return the filters of a page; if some are invalid, none, and why."""
    try:
        return read_query(QueryParams(meant(request)), of, is_page=True), ()
    except AppError as refusal:
        return of.model_validate({}), refusal.errors


async def found(
    request: Request,
    of: type[M],
    page: Callable[[M], Awaitable[L]],
    *,
    names: Sequence[str] = _FILTERS,
) -> tuple[L, dict[str, object]]:
    """Return the page of a list that is asked for, and what its template shows.

    If a filter or the cursor is invalid, it is the first page, and says why.
    """
    query, errors = asked(request, of)
    try:
        rows = await page(query)
    except InvalidCursorError as refusal:
        rows = await page(of.model_validate({}))
        errors = [FieldError("?", refusal.slug, refusal.detail)]
    more = None if errors or rows.next_cursor is None else next_page(request, rows.next_cursor)
    return rows, {**filter_form(request, errors, names), "items": rows.items, "next_url": more}


def meant(request: Request) -> list[tuple[str, str]]:
    """Return the filters of a page.

    A form also sends empty ones, several values in one, and typed times.
    """
    given: list[tuple[str, str]] = []
    for name, value in request.query_params.multi_items():
        texts = [each.strip() for each in value.split(",")] if name in _LISTS else [value]
        given += [
            (name, _instant(text) if name in {"from", "to"} else text) for text in texts if text
        ]
    return given


def _instant(text: str) -> str:
    for typed in (text, f"{text} 00:00"):
        try:
            return f"{read_typed_time(typed):%Y-%m-%dT%H:%M:%SZ}"
        except ValueError:
            continue
    return text


def filter_form(
    request: Request, errors: Sequence[FieldError], names: Sequence[str] = _FILTERS
) -> dict[str, object]:
    """Return the template context of the filter form, which has fields of these names."""
    given = [(name, value) for name, value in meant(request) if name != "cursor"]
    form: dict[str, str] = dict.fromkeys(names, "")
    more: list[tuple[str, str]] = []  # What has no field of its own, but must not be lost.
    for name, value in given:
        if name in _LISTS and form.get(name):
            form[name] += f",{value}"
        elif form.get(name) == "":
            form[name] = value
        else:
            more.append((name, value))
    return {
        "form": form,
        "more": more,
        "errors": errors,
        "filtered": bool(given),
        "query": urlencode(given),
        "statuses": list(model.Status),
        "severities": list(model.Severity)[::-1],
        "kinds": list(Kind),
    }
