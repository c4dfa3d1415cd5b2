"""The API of signals: they are stored with a result for each, and attached to incidents."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence, Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from typing import Annotated, Final
from uuid import UUID

from pydantic import JsonValue

from postfacta_core.telemetry.redaction import REDACTED, redact, redact_text

from ..aside import aside
from ..db import Reader, Unit
from ..errors import ForbiddenError, InvalidFieldsError, NotFoundError
from ..incidents.access import Ref, lock_active, read_ref
from ..incidents.model import Incident, Visibility
from ..principal import Access, Principal
from ..web.body import parse, read_body, read_json
from ..web.calls import Call, Fill, Now
from ..web.routes import RouteClass
from ..web.slices import Routes
from . import model, postgres
from .alertmanager import AlertLabels, Webhook, read_alerts
from .model import Attached, Batch, Fact, Ingested, ItemResult, Result

_ALL: Final = "/api/v1/signals"
_OF_INCIDENT: Final = "/api/v1/incidents/{ref}/signals"
_DEPLOYED: Final = {"succeeded", "failed", "rolled_back"}
routes: Final = Routes("signal")


# What is received


class Intake:
    """How received signals are read: further keys whose values are redacted, and the labels of alerts."""

    def __init__(self, secret_keys: Sequence[str], labels: AlertLabels) -> None:
        keys = frozenset(key.lower().replace("-", "_") for key in secret_keys)
        self.clean: Callable[[JsonValue], JsonValue] = partial(without_secrets, keys=keys)
        self.labels = labels


@dataclass(frozen=True, slots=True)
class Received:
    """The items of a request in their order, each valid or rejected; read before the transaction begins."""

    items: Sequence[Fact | ItemResult]
    ref: UUID | int | None = None  # the incident to attach them to
    lost: int = 0  # how many alerts Alertmanager omitted


async def _batch(call: Call, _: str) -> Received:
    batch = await read_body(call.request, Batch)
    if batch.incident is not None and not call.principal.may(Access.WRITE):
        raise ForbiddenError("Attaching signals to an incident requires the right to write incidents")
    intake, size = call.tools.part(Intake), len(await call.request.body())
    items = await aside(
        size, lambda: [_item(*it, call.principal, intake=intake) for it in enumerate(batch.items)]
    )
    return Received(items, None if batch.incident is None else read_ref(batch.incident))


async def _alerts(call: Call, _: str) -> Received:
    webhook = parse(Webhook, await read_json(call.request))
    intake, size = call.tools.part(Intake), len(await call.request.body())
    read = partial(read_alerts, webhook, call.principal, labels=intake.labels, clean=intake.clean)
    return Received(await aside(size, read), lost=webhook.lost)


def _item(index: int, sent: JsonValue, principal: Principal, *, intake: Intake) -> Fact | ItemResult:
    clean = intake.clean(sent)
    if isinstance(sent, dict) and isinstance(clean, dict):
        # Keys must not be redacted.
        clean |= {name: sent[name] for name in ("source", "id") if name in sent}
    try:
        return Fact.of(index, parse(model.NewSignal, clean), principal)
    except InvalidFieldsError as refused:
        return ItemResult(index=index, result=Result.REJECTED, errors=refused.errors)


Items = Annotated[Received, Fill(_batch)]
Alerts = Annotated[Received, Fill(_alerts)]


# API


@routes.api(
    f"POST {_ALL}", Access.INGEST, "Store signals, with a result for each",
    status=200, kind=RouteClass.INGEST, reads=Batch, problems=("conflict", "not-found"),
)  # fmt: skip
async def ingest(unit: Unit, received: Items, *, now: Now) -> Ingested:
    incident = None if received.ref is None else await lock_active(unit, received.ref)
    return await store(unit, received.items, incident=incident, now=now)


@routes.api(
    "POST /api/v1/ingest/alertmanager", Access.INGEST, "Store the alerts of an Alertmanager notification",
    status=200, kind=RouteClass.INGEST, reads=Webhook, only_5xx=True,
)  # fmt: skip
async def alertmanager(unit: Unit, received: Alerts, *, now: Now) -> Ingested:
    done = await store(unit, received.items, now=now)
    if received.lost:
        warning = f"Alertmanager omitted {received.lost} alerts: raise max_alerts of this receiver"
        done = done.model_copy(update={"warnings": [warning]})
        unit.counts.append(("postfacta_alertmanager_truncated_total",))
    return done


@routes.api(f"GET {_ALL}", Access.READ, "List signals")
async def page(q: Reader, query: model.SignalQuery) -> model.SignalPage:
    rows = await postgres.page(q, query)
    return query.page(model.SignalPage, rows, postgres.ORDER, key=lambda it: (it.occurred_at, it.id))


@routes.api(f"GET {_ALL}/{{id}}", Access.READ, "Read a signal, its conflicts and its incidents")
async def read(q: Reader, id: UUID) -> model.SignalDetail:
    if (signal := await postgres.find(q, id)) is None:
        raise missing()
    return signal


@routes.api(f"POST {_OF_INCIDENT}", Access.WRITE, "Attach signals to an incident", status=200, once=True)
async def attach(unit: Unit, ref: Ref, wish: model.Attachments) -> model.AttachedPage:
    return model.AttachedPage(results=await _attach(unit, await lock_active(unit, ref), wish.ids))


@routes.api(f"DELETE {_OF_INCIDENT}/{{id}}", Access.WRITE, "Detach a signal")
async def detach(unit: Unit, ref: Ref, id: UUID) -> None:
    incident = await lock_active(unit, ref)
    if not (await postgres.attached(unit, incident.id, [id])).get(id):
        raise missing()
    await postgres.edit(unit, "detach", incident_id=incident.id, ids=[id])
    await unit.audit("signal.detach", incident.ref, incident_id=incident.id, detail={"signals": [id]})


# Rules


async def store(
    unit: Unit, items: Sequence[Fact | ItemResult], *, incident: Incident | None = None, now: datetime
) -> Ingested:
    """Store new signals, attach valid ones to an incident that this unit has locked; return the results."""
    if incident is not None and incident.visibility is Visibility.PRIVATE:
        items = [item.within(incident.ref) if isinstance(item, Fact) else item for item in items]
    first: dict[model.Key, Fact] = {}
    for item in items:
        if isinstance(item, Fact):
            first.setdefault(item.key, item)
    created = await postgres.insert(unit, list(first.values()))
    stored = dict(await postgres.stored(unit, [key for key in first if key not in created]))
    stored |= {key: (signal_id, first[key].sha256, True) for key, signal_id in created.items()}
    results = [
        item
        if isinstance(item, ItemResult)
        else _result(item, stored, is_new=item.key in created and item is first[item.key], now=now)
        for item in items
    ]
    conflicts = {
        (stored[item.key][0], item.sha256): item
        for item, done in zip(items, results, strict=True)
        if isinstance(item, Fact) and done.result is Result.CONFLICT
    }
    kept = await postgres.keep(unit, conflicts)
    counts = Counter(result.result for result in results)
    if created or kept:
        detail = {"created": len(created), "conflicts_kept": kept}
        await unit.audit("signal.ingest", f"source:{model.source_of(unit.principal, None)}", detail=detail)
    warnings: list[str] = []
    if incident is not None and stored:
        ids = list(dict.fromkeys(stored[key][0] for key in first))
        attachments = await _attach(unit, incident, ids, came_with=set(created.values()))
        became = {it.id: it.result for it in attachments}
        results = [
            done.model_copy(update={"attached": became[done.signal_id]}) if done.signal_id else done
            for done in results
        ]
        warnings = [full(incident)] if Attached.FULL in became.values() else []
    _count(unit, items, results)
    return Ingested(results=results, counts={it: counts[it] for it in Result}, warnings=warnings)


async def _attach(
    unit: Unit, incident: Incident, ids: Sequence[UUID], *, came_with: AbstractSet[UUID] = frozenset()
) -> Sequence[model.Attachment]:
    """Attach signals to an incident that this unit has locked; attached ones write nothing.

    Those sent with the incident stay as private as it is; the visibility of others does not change.
    """
    known = await postgres.visible(unit, ids)
    before = await postgres.attached(unit, incident.id, ids)
    wanted = [it for it in dict.fromkeys(ids) if it in known and not before.get(it)]
    never = [it for it in wanted if it not in before]
    refused = set(never) - await postgres.room(unit, incident.id, never) if never else set[UUID]()
    new = [it for it in wanted if it not in refused]
    if new:
        await postgres.edit(unit, "attach", incident_id=incident.id, ids=new, new=came_with)
        await unit.audit("signal.attach", incident.ref, incident_id=incident.id, detail={"signals": new})
    results: list[model.Attachment] = []
    waiting = set(new)
    for signal_id in ids:
        result = Attached.ALREADY if signal_id in known else Attached.UNKNOWN
        if signal_id in waiting:
            waiting.remove(signal_id)
            result = Attached.ATTACHED
        elif signal_id in refused:
            result = Attached.FULL
        results.append(model.Attachment(id=signal_id, result=result))
    return results


def _result(fact: Fact, stored: postgres.Stored, *, is_new: bool, now: datetime) -> ItemResult:
    signal_id, sha256, is_seen = stored[fact.key]
    same = Result.CREATED if is_new else Result.DUPLICATE
    return ItemResult(
        index=fact.index,
        result=same if sha256 == fact.sha256 else Result.CONFLICT,
        signal_id=signal_id if is_seen else None,
        clock_suspect=fact.new.occurred_at is not None and model.is_suspect(fact.new.occurred_at, now),
    )


def _count(unit: Unit, items: Sequence[Fact | ItemResult], results: Sequence[ItemResult]) -> None:
    for item, done in zip(items, results, strict=True):
        # Rejected items may have any name.
        kind = item.new.kind if isinstance(item, Fact) else "unknown"
        unit.counts.append(("postfacta_signals_ingested_total", kind, done.result))
        if isinstance(item, Fact) and done.result is Result.CREATED and kind == model.Kind.CHANGE:
            outcome = item.new.payload.get("outcome")
            if isinstance(outcome, str) and outcome in _DEPLOYED:
                environment = item.new.environment or "unknown"
                unit.counts.append(("postfacta_deployments_total", environment, outcome))


def full(incident: Incident) -> str:
    """Return why an incident accepts no more signals, and what to do."""
    return (
        f"{incident.ref} is at the limit of signals per incident ({model.MOST_SIGNALS:,}, or {model.MOST_BYTES >> 20} MiB of"
        " titles, links and services): items marked `full` are stored, and can be attached to another incident"
    )


def missing() -> NotFoundError:
    """Return the one error for what does not exist and for what the caller may not see."""
    return NotFoundError("No such signal")


_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def without_secrets(value: JsonValue, keys: frozenset[str] = frozenset()) -> JsonValue:
    """Redact the values of secret keys, and secrets in any text, at any depth.

    A key is secret if the service's own log would redact it: `password`, `X-Api-Key`, `accessToken`; or if it
    is one of `keys`, which are in lower case, with `_` for `-`. The value is not nested beyond Python's
    recursion limit.
    """
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, list):
        return [without_secrets(item, keys) for item in value]
    if isinstance(value, dict):
        return {
            name: REDACTED if item is not None and _is_secret(name, keys) else without_secrets(item, keys)
            for name, item in value.items()
        }
    return value


# The same few names occur in every signal.
@lru_cache(maxsize=1024)
def _is_secret(name: str, keys: frozenset[str]) -> bool:
    plain = _CAMEL.sub("_", name).lower().replace("-", "_")
    return plain in keys or redact({plain: "x"})[plain] == REDACTED
