"""The v1 API of action items: read the request, call a use case, respond."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from functools import partial
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from postfacta_core.clock import WALL, Clock

from ..db import Answer, Transactions, Unit
from ..incidents import service as incidents
from ..incidents.http import parse_ref
from ..principal import Principal
from ..web.body import idempotency_key, if_match, read_body, read_query
from ..web.paging import decode_cursor, encode_cursor, filters_hash, next_link
from . import service
from .model import Action, ActionChange, ActionList, ActionPage, ActionQuery, NewAction

__all__ = ["ActionHttp"]

_SORT = "due_on"


class ActionHttp:
    """The handlers of action items.

    Args:
        transactions: Runs the writes.
        needs: Where actions and their incidents are.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        transactions: Transactions,
        needs: service.Needs,
        *,
        clock: Clock = WALL,
    ) -> None:
        self._transactions = transactions
        self._needs = needs
        self._store = needs.actions
        self._clock = clock

    async def of_incident(self, request: Request, principal: Principal) -> Response:
        """GET /api/v1/incidents/{ref}/action-items."""
        incident = await self._needs.incidents.find(principal, parse_ref(request))
        if incident is None:
            raise incidents.missing()
        return Answer.of(200, ActionList(items=await self._store.of(principal, incident.id))).response()

    async def add(self, request: Request, principal: Principal) -> Response:
        """POST /api/v1/incidents/{ref}/action-items."""
        ref, new = parse_ref(request), await read_body(request, NewAction)

        async def work(unit: Unit) -> Answer:
            action = await service.add(unit, self._needs, ref, new=new)
            return _action(201, action)

        return await self._transactions.write(request, principal, work, key=idempotency_key(request))

    async def page(self, request: Request, principal: Principal) -> Response:
        """GET /api/v1/action-items."""
        query = read_query(request, ActionQuery)
        rows = await self._store.page(principal, query, _after(query))
        items, cursor = rows[: query.limit], None
        if len(rows) > len(items):
            due = datetime.combine(items[-1].due_on or date.max, time(), UTC)
            cursor = encode_cursor(_SORT, (due, items[-1].id), filters_hash(query))
        page = ActionPage(items=items, next_cursor=cursor)
        return Answer.of(200, page, next_link(request, cursor)).response()

    async def change(self, request: Request, principal: Principal) -> Response:
        """PATCH /api/v1/action-items/{id}."""
        action_id, wish = _id(request), await read_body(request, ActionChange)

        async def work(unit: Unit) -> Answer:
            now, matches = datetime.fromtimestamp(self._clock(), UTC), partial(if_match, request)
            action = await service.change(unit, self._needs, action_id, wish=wish, matches=matches, now=now)
            return _action(200, action)

        return await self._transactions.write(request, principal, work)


def _after(query: ActionQuery) -> tuple[date, UUID] | None:
    if query.cursor is None:
        return None
    due, last = decode_cursor(query.cursor, _SORT, filters_hash(query))
    return due.date(), last


def _id(request: Request) -> UUID:
    try:
        return UUID(request.path_params["id"])
    except ValueError:
        raise service.missing() from None


def _action(status: int, action: Action) -> Answer:
    return Answer.of(status, action, {"ETag": action.etag})
