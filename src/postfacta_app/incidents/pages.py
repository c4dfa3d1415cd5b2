"""Incidents for people: the list, and one of them."""

from __future__ import annotations

from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ..errors import AppError, FieldError
from ..principal import Principal
from ..web.body import read_query
from ..web.paging import next_page
from ..web.render import Pages
from . import service
from .http import allow_stale_incidents, parse_ref
from .model import Severity, Status
from .query import IncidentQuery

__all__ = ["IncidentPages"]

_FILTERS = ("q", "status", "severity_gte", "service")


class IncidentPages:
    """The pages below `/incidents`.

    Args:
        store: Where incidents are.
        pages: Renders.
    """

    def __init__(self, store: service.Store, pages: Pages) -> None:
        self._store = store
        self._pages = pages

    async def list(self, request: Request, principal: Principal) -> Response:
        """GET /incidents: every view of the list is an address."""
        if any(not value for _, value in request.query_params.multi_items()):
            # A form sends its empty fields too; the shared address is shorter without them.
            given = [(name, value) for name, value in request.query_params.multi_items() if value]
            return RedirectResponse(f"/incidents?{urlencode(given)}" if given else "/incidents", 303)
        errors: tuple[FieldError, ...] = ()
        try:
            query = read_query(request, IncidentQuery)
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
            "next_url": more,
            "errors": errors,
            "form": {name: request.query_params.get(name, "") for name in _FILTERS},
            "filtered": bool(request.query_params),
            "statuses": list(Status),
            "severities": list(Severity)[::-1],
        }
        return self._pages.page("incidents.html", context, principal=principal, status=400 if errors else 200)

    async def one(self, request: Request, principal: Principal) -> Response:
        """GET /incidents/{ref}."""
        incident = await self._store.find(principal, parse_ref(request))
        if incident is None:
            raise service.missing()
        allow_stale_incidents(request, [incident])
        return self._pages.page("incident.html", {"here": "incidents", "item": incident}, principal=principal)
