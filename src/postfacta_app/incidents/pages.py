"""The pages of the incident list and of the form for a new incident."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar
from urllib.parse import urlencode

from pydantic import BaseModel
from starlette.datastructures import QueryParams
from starlette.requests import Request

from ..db import Reader, Unit
from ..errors import AppError, FieldError, InvalidCursorError
from ..principal import Access
from ..web.body import read_query
from ..web.forms import Typed, fields_of, formed, read_typed_time
from ..web.paging import next_page
from ..web.routes import RouteClass
from ..web.slices import Fields, Matches, Now, Page
from .access import Ref, Share, follow_ups, page, seen
from .api import Hide, change, create, routes
from .model import Change, IncidentQuery, Kind, NewIncident, Severity, Status

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

_FILTERS = ("q", "status", "severity_gte", "service", "team", "label", "kind", "has_postmortem", "from", "to")
_LISTS = ("status", "service", "team", "label", "kind")  # Of several values, a comma between each.
_LABELS = {"declared_at": "Started (UTC)", "reporter": "Reported by", "visibility": "Visibility"}


@routes.page("/incidents", Access.READ, kind=RouteClass.SEARCH, stale=True)
async def listed(q: Reader, *, request: Request, share: Share) -> Page:
    rows, errors = await found(request, IncidentQuery, partial(page, q))
    share(*(it.visibility for it in rows.items))
    more = None if errors else rows.next_cursor
    context = {
        "here": "incidents",
        "items": rows.items,
        "after": await follow_ups(q, [incident.id for incident in rows.items]),
        "next_url": next_page(request, more) if more else None,
        "may_record": q.principal.may(Access.WRITE),
        **filter_form(request, errors),
    }
    return Page("incidents.html", context, status=400 if errors else 200)


@routes.page("/incidents/new", Access.WRITE)
async def blank(q: Reader, *, typed: Typed) -> Page:
    context = {
        "here": "incidents",
        "new": fields_of(NewIncident),
        "reporter": q.principal.name[:100],
        "labels": _LABELS,
        "severities": list(Severity)[::-1],
    }
    return Page("new_incident.html", context)


@routes.form("/incidents/new", Access.WRITE, again=blank)
async def record(unit: Unit, new: NewIncident, *, now: Now) -> str:
    return f"/incidents/{(await create(unit, new, now=now)).value.ref}"


@routes.page("/incidents/{ref}/edit", Access.WRITE)
async def editing(q: Reader, ref: Ref) -> Page:
    context = {
        "here": "incidents",
        "item": await seen(q, ref),
        "changed": fields_of(Change),
        "labels": _LABELS,
        "severities": list(Severity)[::-1],
    }
    return Page("edit_incident.html", context)


@routes.form("/incidents/{ref}/edit", Access.WRITE, again=editing)
async def edit(unit: Unit, ref: Ref, *, fields: Fields, matches: Matches, hide: Hide) -> str:
    empty: Mapping[str, list[str]] = {"services": [], "teams": []}  # An emptied field clears what it shows.
    sent = {name: fields[name].strip() or empty.get(name) for name in Change.model_fields if name in fields}
    changed = await change(unit, ref, formed(Change, sent), matches=matches, hide=hide)
    return f"/incidents/{changed.ref}"


def asked(request: Request, model: type[M]) -> tuple[M, Sequence[FieldError]]:
    """Return the filters of a page; if some are invalid, none, and why."""
    try:
        return read_query(QueryParams(meant(request)), model, is_page=True), ()
    except AppError as refusal:
        return model.model_validate({}), refusal.errors


async def found(
    request: Request, model: type[M], page: Callable[[M], Awaitable[T]]
) -> tuple[T, Sequence[FieldError]]:
    """Return the page of a list that is asked for; if a filter or the cursor is invalid, the first, and why."""
    query, errors = asked(request, model)
    try:
        return await page(query), errors
    except InvalidCursorError as refusal:
        return await page(model.model_validate({})), (FieldError("?", refusal.slug, refusal.detail),)


def meant(request: Request) -> list[tuple[str, str]]:
    """Return the filters of a page: a form also sends empty ones, several values in one, and typed times."""
    given = request.query_params.multi_items()
    return [(name, each) for name, value in given for each in _meant(name, value) if each]


def _meant(name: str, value: str) -> Sequence[str]:
    if name in _LISTS:
        return [each.strip() for each in value.split(",")]
    return [_instant(value) if name in {"from", "to"} else value]


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
        "statuses": list(Status),
        "severities": list(Severity)[::-1],
        "kinds": list(Kind),
    }
