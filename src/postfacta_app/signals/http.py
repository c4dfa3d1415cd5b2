"""The v1 API of signals: read the request, call a use case, respond."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

from pydantic import JsonValue
from starlette.requests import Request
from starlette.responses import Response

from postfacta_core.clock import WALL, Clock

from ..aside import aside
from ..db import Answer, Transactions, Unit
from ..errors import ForbiddenError, InvalidFieldsError
from ..incidents.service import Store as IncidentStore, lock_active, parse_ref, read_ref
from ..principal import Access, Principal
from ..web.body import idempotency_key, parse, read_body, read_json, read_query
from ..web.paging import next_link
from . import service
from .alertmanager import AlertLabels, Webhook, read_alerts
from .model import (
    AttachedPage,
    Attachments,
    Batch,
    Fact,
    ItemResult,
    NewSignal,
    Result,
    SignalPage,
    SignalQuery,
)
from .redaction import without_secrets

__all__ = ["SignalHttp"]


class SignalHttp:
    """The handlers of `/api/v1/signals`, `/api/v1/ingest`, and of the signals of an incident.

    Args:
        transactions: Runs the writes.
        store: Stores signals.
        incidents: Stores incidents.
        secret_keys: Further keys whose values are redacted.
        labels: The labels to read from alerts.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        transactions: Transactions,
        store: service.Store,
        incidents: IncidentStore,
        *,
        secret_keys: Sequence[str] = (),
        labels: AlertLabels | None = None,
        clock: Clock = WALL,
    ) -> None:
        self._transactions = transactions
        self._store = store
        self._incidents = incidents
        keys = frozenset(key.lower().replace("-", "_") for key in secret_keys)
        self._clean: Callable[[JsonValue], JsonValue] = partial(without_secrets, keys=keys)
        self._labels = labels or AlertLabels()
        self._clock = clock

    async def ingest(self, request: Request, principal: Principal) -> Response:
        """POST /api/v1/signals."""
        batch = await read_body(request, Batch)
        if batch.incident is not None and not principal.may(Access.WRITE):
            raise ForbiddenError("Attaching signals to an incident requires the right to write incidents")
        ref = None if batch.incident is None else read_ref(batch.incident)
        size, now = len(await request.body()), self._now()
        items = await aside(size, lambda: [self._item(*it, principal) for it in enumerate(batch.items)])

        async def work(unit: Unit) -> Answer:
            incident = None if ref is None else await lock_active(unit, self._incidents, ref)
            return Answer.of(200, await service.ingest(unit, self._store, items, incident=incident, now=now))

        return await self._transactions.write(request, principal, work)

    async def alertmanager(self, request: Request, principal: Principal) -> Response:
        """POST /api/v1/ingest/alertmanager."""
        webhook = parse(Webhook, await read_json(request))
        size = len(await request.body())
        items = await aside(size, read_alerts, webhook, principal, labels=self._labels, clean=self._clean)
        lost, now = webhook.lost, self._now()

        async def work(unit: Unit) -> Answer:
            done = await service.ingest(unit, self._store, items, now=now)
            if lost:
                warning = f"Alertmanager omitted {lost} alerts: raise max_alerts of this receiver"
                done = done.model_copy(update={"warnings": [warning]})
                unit.counts.append(("postfacta_alertmanager_truncated_total",))
            return Answer.of(200, done)

        return await self._transactions.write(request, principal, work)

    async def page(self, request: Request, principal: Principal) -> Response:
        """GET /api/v1/signals."""
        query = read_query(request, SignalQuery)
        rows = await self._store.page(principal, query)
        items = rows[: query.limit]
        cursor = query.cursor_after(items[-1]) if len(rows) > len(items) else None
        page = SignalPage(items=items, next_cursor=cursor)
        return Answer.of(200, page, next_link(request, cursor)).response()

    async def read(self, request: Request, principal: Principal) -> Response:
        """GET /api/v1/signals/{id}."""
        signal = await self._store.find(principal, _id(request))
        if signal is None:
            raise service.missing()
        return Answer.of(200, signal).response()

    async def attach(self, request: Request, principal: Principal) -> Response:
        """POST /api/v1/incidents/{ref}/signals."""
        ref, wish = parse_ref(request), await read_body(request, Attachments)

        async def work(unit: Unit) -> Answer:
            incident = await lock_active(unit, self._incidents, ref)
            return Answer.of(
                200, AttachedPage(results=await service.attach(unit, self._store, incident, ids=wish.ids))
            )

        return await self._transactions.write(request, principal, work, key=idempotency_key(request))

    async def detach(self, request: Request, principal: Principal) -> Response:
        """DELETE /api/v1/incidents/{ref}/signals/{id}."""
        ref, signal_id = parse_ref(request), _id(request)

        async def work(unit: Unit) -> Answer:
            incident = await lock_active(unit, self._incidents, ref)
            await service.detach(unit, self._store, incident, signal_id=signal_id)
            return Answer(204)

        return await self._transactions.write(request, principal, work)

    def _item(self, index: int, sent: JsonValue, principal: Principal) -> Fact | ItemResult:
        clean = self._clean(sent)
        if isinstance(sent, dict) and isinstance(clean, dict):
            # Keys must not be redacted.
            clean |= {name: sent[name] for name in ("source", "id") if name in sent}
        try:
            return Fact.of(index, parse(NewSignal, clean), principal)
        except InvalidFieldsError as refused:
            return ItemResult(index=index, result=Result.REJECTED, errors=refused.errors)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _id(request: Request) -> UUID:
    try:
        return UUID(request.path_params["id"])
    except ValueError:
        raise service.missing() from None
