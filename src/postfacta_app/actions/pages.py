"""The page of an incident's action items: list, add, change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from postfacta_core.clock import WALL, Clock

from ..db import Answer, Transactions, Unit
from ..errors import FieldError, PreconditionFailedError
from ..incidents import service as incidents
from ..incidents.http import parse_ref
from ..principal import Access, Principal
from ..web.body import parse as parse_body
from ..web.forms import Refusal, attempt, new_key, parse, read_form
from ..web.render import Pages
from . import service
from .board import line, order
from .model import Action, ActionChange, ActionType, NewAction

__all__ = ["ActionPages"]

_CHANGEABLE = ("status", "closed_reason", "owner", "due_on")
_OTHERS = "This action item was changed by someone else in the meantime. Check its current state, then repeat your change."
_LABELS = {
    "title": "Title",
    "type": "Type",
    "closed_reason": "Reason",
    "due_on": "Due date",
    "url": "Tracker link",
}


class ActionPages:
    """The page `/incidents/{ref}/actions` and its forms.

    Args:
        transactions: Runs the writes.
        needs: Where actions and their incidents are.
        pages: Renders templates.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, transactions: Transactions, needs: service.Needs, pages: Pages, *, clock: Clock = WALL
    ) -> None:
        self._transactions = transactions
        self._needs = needs
        self._pages = pages
        self._clock = clock

    async def show(self, request: Request, principal: Principal) -> Response:
        """GET /incidents/{ref}/actions."""
        return await self._page(request, principal)

    async def add(self, request: Request, principal: Principal) -> Response:
        """POST /incidents/{ref}/actions."""
        ref, fields = parse_ref(request), await read_form(request, principal)
        priority = fields.get("priority", "")
        new = parse(
            NewAction, {**fields, "priority": int(priority) if priority in {"1", "2", "3", "4"} else priority}
        )
        if isinstance(new, tuple):
            return await self._page(request, principal, refusal=Refusal(errors=new), fields=fields)

        async def work(unit: Unit) -> Answer:
            action = await service.add(unit, self._needs, ref, new=new)
            return Answer(303, {"Location": f"/incidents/{action.incident}/actions#a-{action.id}"})

        done = await attempt(self._transactions.write(request, principal, work, key=fields.get("key")))
        return (
            await self._page(request, principal, refusal=done, fields=fields)
            if isinstance(done, Refusal)
            else done
        )

    async def change(self, request: Request, principal: Principal) -> Response:
        """POST /incidents/{ref}/actions/{id}: change the fields of the form; an empty field is cleared."""
        ref, action_id = parse_ref(request), _id(request)
        fields = await read_form(request, principal)

        def matches(etag: str) -> None:
            if etag != f'"act-{fields.get("version", "")}"':
                raise PreconditionFailedError(_OTHERS)

        async def work(unit: Unit) -> Answer:
            wish = parse_body(
                ActionChange, {it: fields[it].strip() or None for it in _CHANGEABLE if it in fields}
            )
            incident = await incidents.lock_active(unit, self._needs.incidents, ref)
            action = await self._needs.actions.find(unit.principal, action_id, fetch=unit.fetch)
            if action is None or action.incident_id != incident.id:
                raise service.missing()
            await service.change(unit, self._needs, action_id, wish=wish, matches=matches, now=self._now())
            return Answer(303, {"Location": f"/incidents/{incident.ref}/actions#a-{action_id}"})

        done = await attempt(self._transactions.write(request, principal, work, key=fields.get("key")))
        if not isinstance(done, Refusal):
            return done
        # Each action item has its own form, so field names carry its id.
        errors = [FieldError(f"{it.pointer}-{action_id}", it.code, it.message) for it in done.errors]
        return await self._page(
            request, principal, refusal=replace(done, errors=errors), fields=fields, about=action_id
        )

    async def _page(
        self,
        request: Request,
        principal: Principal,
        *,
        refusal: Refusal | None = None,
        fields: Mapping[str, str] | None = None,
        about: UUID | None = None,
    ) -> Response:
        """Show all action items, and the input of the form that was refused."""
        fields = fields or {}
        is_away = refusal is not None and refusal.status >= 500  # noqa: PLR2004 - then reads fail too
        incident = None if is_away else await self._needs.incidents.find(principal, parse_ref(request))
        if incident is None and not is_away:
            raise incidents.missing()
        actions: Sequence[Action] = await self._needs.actions.of(principal, incident.id) if incident else []
        sent_key = None if refusal is None or refusal.is_spent else fields.get("key")
        context = {
            "here": "incidents",
            "item": incident,
            "tab": "actions",
            "ref": incident.ref if incident else request.path_params["ref"],
            "lines": order([line(it, self._now()) for it in actions]),
            "may_write": principal.may(Access.WRITE) and (incident is None or incident.archived_at is None),
            "types": list(ActionType),
            "about": about,
            "form": fields,
            "refusal": refusal,
            "errors": refusal.by_field if refusal else {},
            "labels": {name: _label(name) for name in refusal.by_field} if refusal else {},
            "sent_key": sent_key,
            "new_key": new_key,
        }
        status, headers = (refusal.status, refusal.headers) if refusal else (200, None)
        return self._pages.page("actions.html", context, principal=principal, status=status, headers=headers)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _id(request: Request) -> UUID:
    try:
        return UUID(request.path_params["id"])
    except ValueError:
        raise service.missing() from None


def _label(name: str) -> str:
    own = name.partition("-")[0]
    return _LABELS.get(own, own.capitalize())
