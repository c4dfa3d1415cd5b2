"""The history page of an incident."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from ..aside import LARGE, aside
from ..identity.model import AuditEntry, AuditQuery
from ..incidents import service as incidents
from ..incidents.http import parse_ref
from ..incidents.model import Incident
from ..principal import Principal
from ..timeline.edits import ShownEdit
from ..timeline.model import Facts
from ..timeline.rules import build
from ..web.body import Time, format_time, read_query
from ..web.paging import next_page
from ..web.render import Pages
from . import service
from .history import MOST, Source, merge, of_audit, of_edits, of_revisions

__all__ = ["HistoryPage"]

Edits = Callable[[UUID, datetime | None, int], Awaitable[Sequence[ShownEdit]]]
"""Lists the edits of an incident before an instant, newest first."""
Read = Callable[[Principal, UUID | int], Awaitable[tuple[Incident, Facts] | None]]
"""Reads an incident, if the caller may see it, and the facts of its timeline."""
Audit = Callable[[AuditQuery, int | None], Awaitable[Sequence[AuditEntry]]]
"""Lists one entry more than requested, newest first."""


class _Before(BaseModel):
    """Where a page of the history begins, under the usual parameter name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cursor: Time | None = Field(None, description="Only events before this instant.")


class HistoryPage:
    """The page `/incidents/{ref}/history`.

    Args:
        revisions: Stores revisions of post-mortems.
        pages: Renders templates.
        read: Reads the incident and the titles of its entries.
        edits: Lists edits of the timeline.
        audit: Lists the audit log, for administrators only.
        names: Returns the display names of actors.
    """

    def __init__(
        self,
        revisions: service.Store,
        pages: Pages,
        *,
        read: Read,
        edits: Edits,
        audit: Audit,
        names: service.Names,
    ) -> None:
        self._revisions = revisions
        self._pages = pages
        self._read = read
        self._edits = edits
        self._audit = audit
        self._names = names

    async def show(self, request: Request, principal: Principal) -> Response:
        """GET /incidents/{ref}/history."""
        before = read_query(request, _Before, is_page=True).cursor
        found = await self._read(principal, parse_ref(request))
        if found is None:
            raise incidents.missing()
        incident, facts = found
        titles = await aside(facts.size, _titles, facts)
        edits = await self._edits(incident.id, before, MOST)
        revisions = await self._revisions.page(principal, incident.id, before=None, limit=MOST)
        written = [it for it in revisions if before is None or it.at < before]
        sources = [
            Source(of_edits(edits, titles), edits[-1].at if len(edits) == MOST else None),
            Source(of_revisions(written), revisions[-1].at if len(revisions) == MOST else None),
        ]
        if principal.is_admin:
            query = AuditQuery.model_validate({"incident": incident.id, "to": before, "limit": MOST})
            entries = await self._audit(query, None)
            sources.append(Source(of_audit(entries), entries[-1].at if len(entries) > MOST else None))
        events, older = merge(sources)
        context = {
            "here": "incidents",
            "item": incident,
            "tab": "history",
            "events": events,
            "names": await self._names({it.actor for it in events}),
            "next_url": next_page(request, format_time(older)) if older else None,
        }
        return await aside(LARGE, self._pages.page, "history.html", context, principal=principal)


def _titles(facts: Facts) -> Mapping[tuple[str, str], str]:
    return {(it.source, it.id): it.original_title for it in build(facts, include_hidden=True).entries}
