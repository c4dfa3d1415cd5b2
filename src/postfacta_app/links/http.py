"""The v1 API of links: read the request, call a use case, respond."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from ..db import Answer, Transactions, Unit
from ..errors import NotFoundError
from ..incidents import service as incidents
from ..incidents.http import parse_ref, read_ref
from ..principal import Principal
from ..web.body import idempotency_key, read_body
from . import service
from .model import LinkList, LinkType, NewLink

__all__ = ["LinkHttp"]


class LinkHttp:
    """The handlers of `/api/v1/incidents/{ref}/links`.

    Args:
        transactions: Runs the writes.
        needs: The stores of links and incidents.
    """

    def __init__(self, transactions: Transactions, needs: service.Needs) -> None:
        self._transactions = transactions
        self._needs = needs
        self._store = needs.links

    async def of_incident(self, request: Request, principal: Principal) -> Response:
        """GET /api/v1/incidents/{ref}/links."""
        incident = await self._needs.incidents.find(principal, parse_ref(request))
        if incident is None:
            raise incidents.missing()
        return Answer.of(200, LinkList(items=await self._store.of(principal, incident.id))).response()

    async def link(self, request: Request, principal: Principal) -> Response:
        """POST /api/v1/incidents/{ref}/links."""
        ref, new = parse_ref(request), await read_body(request, NewLink)

        async def work(unit: Unit) -> Answer:
            to = read_ref(new.to)
            linked = await service.link(unit, self._needs, ref, to=to, new=new)
            return Answer.of(201 if linked.is_new else 200, linked.link)

        return await self._transactions.write(request, principal, work, key=idempotency_key(request))

    async def unlink(self, request: Request, principal: Principal) -> Response:
        """DELETE /api/v1/incidents/{ref}/links/{other}/{type}."""
        ref, to = parse_ref(request), parse_ref(request, "other")
        try:
            of = LinkType(request.path_params["type"])
        except ValueError:
            raise NotFoundError("No such link") from None

        async def work(unit: Unit) -> Answer:
            await service.unlink(unit, self._needs, ref, to=to, of=of)
            return Answer(204)

        return await self._transactions.write(request, principal, work)
