"""The pages of the incident list and of the form for a new incident."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from postfacta_core.clock import WALL, Clock

from ..db import Answer, Transactions, Unit
from ..errors import AppError, FieldError
from ..principal import Access, Principal
from ..web.body import read_query
from ..web.forms import Refusal, attempt, new_key, parse, read_form, read_typed_time
from ..web.paging import next_page
from ..web.render import Pages
from . import service
from .http import allow_stale_incidents
from .model import Kind, NewIncident, Severity, Status, Visibility
from .query import IncidentQuery

__all__ = ["IncidentPages", "filter_form", "tidied"]

_FILTERS = ("q", "status", "severity_gte", "service", "team", "kind", "has_postmortem", "from", "to")
_LABELS = {"declared_at": "Started (UTC)", "reporter": "Reported by", "visibility": "Visibility"}


class IncidentPages:
    """The pages below `/incidents`.

    Args:
        transactions: Runs the writes.
        store: Stores incidents.
        pages: Renders templates.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, transactions: Transactions, store: service.Store, pages: Pages, *, clock: Clock = WALL
    ) -> None:
        self._transactions = transactions
        self._store = store
        self._pages = pages
        self._clock = clock

    async def list(self, request: Request, principal: Principal) -> Response:
        """GET /incidents: every view of the list has its own URL."""
        if (target := tidied(request)) is not None:
            return RedirectResponse(target, 303)
        errors: tuple[FieldError, ...] = ()
        try:
            query = read_query(request, IncidentQuery, is_page=True)
            rows = await self._store.page(principal, query)
        except AppError as refusal:
            errors = refusal.errors or (FieldError("?", refusal.slug, refusal.detail),)
            query = IncidentQuery.model_validate({})
            rows = await self._store.page(principal, query)
        allow_stale_incidents(request, rows.items)
        more = None
        if rows.last is not None and not errors:
            more = next_page(request, query.cursor_after(rows.last))
        context = {
            "here": "incidents",
            "items": rows.items,
            "after": await self._store.follow_ups(principal, [incident.id for incident in rows.items]),
            "next_url": more,
            "may_record": principal.may(Access.WRITE),
            **filter_form(request, errors),
        }
        return self._pages.page("incidents.html", context, principal=principal, status=400 if errors else 200)

    async def blank(self, request: Request, principal: Principal) -> Response:
        """GET /incidents/new."""
        defaults = {
            "reporter": principal.name[:100],
            "kind": Kind.INCIDENT,
            "visibility": Visibility.INTERNAL,
        }
        return self._form(principal, defaults)

    async def record(self, request: Request, principal: Principal) -> Response:
        """POST /incidents/new: record an incident and show it."""
        fields = await read_form(request, principal)
        new = parse(NewIncident, fields)
        if isinstance(new, tuple):
            return self._form(principal, fields, Refusal(errors=new))

        async def work(unit: Unit) -> Answer:
            now = datetime.fromtimestamp(self._clock(), UTC)
            incident = await service.create(unit, self._store, new, now=now)
            return Answer(303, {"Location": f"/incidents/{incident.ref}"})

        done = await attempt(self._transactions.write(request, principal, work, key=fields.get("key")))
        return self._form(principal, fields, done) if isinstance(done, Refusal) else done

    def _form(self, principal: Principal, fields: dict[str, str], refusal: Refusal | None = None) -> Response:
        context = {
            "here": "incidents",
            "form": fields,
            "refusal": refusal,
            "labels": _LABELS,
            "errors": refusal.by_field if refusal else {},
            "key": new_key() if refusal is None or refusal.is_spent else fields.get("key") or new_key(),
            "severities": list(Severity)[::-1],
            "kinds": list(Kind),
            "visibilities": list(Visibility),
        }
        status, headers = (refusal.status, refusal.headers) if refusal else (200, None)
        return self._pages.page(
            "new_incident.html", context, principal=principal, status=status, headers=headers
        )


def tidied(request: Request) -> str | None:
    """Return the canonical URL of a submitted filter form; None if it is canonical already.

    A form also sends empty fields, and times in input format.
    """
    given = request.query_params.multi_items()
    meant = [(name, _instant(value) if name in {"from", "to"} else value) for name, value in given if value]
    path: str = request.scope["path"]
    return None if meant == given else f"{path}?{urlencode(meant)}" if meant else path


def _instant(text: str) -> str:
    for typed in (text, f"{text} 00:00"):
        try:
            return f"{read_typed_time(typed):%Y-%m-%dT%H:%M:%SZ}"
        except ValueError:
            continue
    return text


def filter_form(request: Request, errors: Sequence[FieldError]) -> dict[str, object]:
    """Return the template context of the filter form."""
    form = {name: request.query_params.get(name, "") for name in _FILTERS}
    return {
        "form": form,
        "errors": errors,
        "filtered": bool(request.query_params),
        "query": urlencode([(name, value) for name, value in form.items() if value]),
        "statuses": list(Status),
        "severities": list(Severity)[::-1],
        "kinds": list(Kind),
    }
