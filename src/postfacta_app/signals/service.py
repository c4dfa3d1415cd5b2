"""The use cases that store or attach signals, each inside one unit of work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set as AbstractSet
from datetime import datetime
from typing import Final, Literal, Protocol
from uuid import UUID

from ..db import Unit
from ..errors import NotFoundError
from ..incidents.model import Incident, Visibility
from ..principal import Principal
from .model import (
    MOST_BYTES,
    MOST_SIGNALS,
    Attached,
    Attachment,
    Fact,
    Ingested,
    ItemResult,
    Key,
    Kind,
    Result,
    Signal,
    SignalDetail,
    SignalQuery,
    is_suspect,
    source_of,
)

__all__ = ["Conflicts", "Store", "Stored", "attach", "detach", "full", "ingest", "missing"]

Stored = Mapping[Key, tuple[UUID, bytes]]
"""The id and the hash of stored signals."""

Conflicts = Mapping[tuple[UUID, bytes], Fact]
"""Other contents of stored signals, by signal and hash."""

_DEPLOYED: Final = {"succeeded", "failed", "rolled_back"}


class Store(Protocol):
    """Stores signals. One that was sent with a private incident is as private, except for its sender."""

    async def page(self, principal: Principal, query: SignalQuery) -> Sequence[Signal]:
        """List one more than requested, latest first."""
        ...

    async def find(self, principal: Principal, signal_id: UUID) -> SignalDetail | None:
        """Read one."""
        ...

    async def insert(self, unit: Unit, facts: Sequence[Fact]) -> Mapping[Key, UUID]:
        """Write those with new keys; the given keys are distinct."""
        ...

    async def stored(self, unit: Unit, keys: Sequence[Key]) -> Stored:
        """Look up stored signals, visible to the caller or not."""
        ...

    async def keep(self, unit: Unit, conflicts: Conflicts) -> int:
        """Write new conflicting contents, at most 20 per signal; return the count."""
        ...

    async def visible(self, unit: Unit, ids: Sequence[UUID]) -> AbstractSet[UUID]:
        """Return those of these that the caller may see."""
        ...

    async def attached(self, unit: Unit, incident_id: UUID, ids: Sequence[UUID]) -> Mapping[UUID, bool]:
        """Return those of these that an incident ever had, and whether it has them now."""
        ...

    async def room(self, unit: Unit, incident_id: UUID, ids: Sequence[UUID]) -> AbstractSet[UUID]:
        """Return those of these, in order, that still fit into an incident."""
        ...

    async def edit(
        self,
        unit: Unit,
        op: Literal["attach", "detach"],
        *,
        incident_id: UUID,
        ids: Sequence[UUID],
        new: AbstractSet[UUID] = frozenset(),
    ) -> None:
        """Write the edit of each at the next instant of the timeline; `new` ones were sent with the incident."""
        ...


async def ingest(
    unit: Unit,
    store: Store,
    items: Sequence[Fact | ItemResult],
    *,
    incident: Incident | None = None,
    now: datetime,
) -> Ingested:
    """Store new signals, attach valid ones to an incident, and return the result of each item.

    Args:
        unit: The transaction.
        store: Stores signals.
        items: In the order of the request; invalid ones are already rejected.
        incident: Locked by this unit.
        now: The time of receipt.
    """
    if incident is not None and incident.visibility is Visibility.PRIVATE:
        items = [item.within(incident.ref) if isinstance(item, Fact) else item for item in items]
    first: dict[Key, Fact] = {}
    for item in items:
        if isinstance(item, Fact):
            first.setdefault(item.key, item)
    created = await store.insert(unit, list(first.values()))
    stored = dict(await store.stored(unit, [key for key in first if key not in created]))
    known = await store.visible(unit, [signal_id for signal_id, _ in stored.values()]) | set(created.values())
    stored |= {key: (signal_id, first[key].sha256) for key, signal_id in created.items()}
    results = [
        item
        if isinstance(item, ItemResult)
        else _told(item, stored, known, is_new=item.key in created and item is first[item.key], now=now)
        for item in items
    ]
    conflicts = {
        (stored[item.key][0], item.sha256): item
        for item, told in zip(items, results, strict=True)
        if isinstance(item, Fact) and told.result is Result.CONFLICT
    }
    kept = await store.keep(unit, conflicts)
    counts = Counter(result.result for result in results)
    if created or kept:
        detail = {"created": len(created), "conflicts_kept": kept}
        await unit.audit("signal.ingest", f"source:{source_of(unit.principal, None)}", detail=detail)
    warnings: list[str] = []
    if incident is not None and stored:
        ids = list(dict.fromkeys(stored[key][0] for key in first))
        done = await attach(unit, store, incident, ids=ids, came_with=set(created.values()))
        became = {it.id: it.result for it in done}
        results = [
            told.model_copy(update={"attached": became[told.signal_id]}) if told.signal_id else told
            for told in results
        ]
        warnings = [full(incident)] if Attached.FULL in became.values() else []
    _count(unit, items, results)
    return Ingested(results=results, counts={it: counts[it] for it in Result}, warnings=warnings)


def _told(fact: Fact, stored: Stored, known: AbstractSet[UUID], *, is_new: bool, now: datetime) -> ItemResult:
    signal_id, sha256 = stored[fact.key]
    same = Result.CREATED if is_new else Result.DUPLICATE
    return ItemResult(
        index=fact.index,
        result=same if sha256 == fact.sha256 else Result.CONFLICT,
        signal_id=signal_id if signal_id in known else None,
        clock_suspect=fact.new.occurred_at is not None and is_suspect(fact.new.occurred_at, now),
    )


def _count(unit: Unit, items: Sequence[Fact | ItemResult], results: Sequence[ItemResult]) -> None:
    for item, told in zip(items, results, strict=True):
        # Rejected items may have any name.
        kind = item.new.kind if isinstance(item, Fact) else "unknown"
        unit.counts.append(("postfacta_signals_ingested_total", kind, told.result))
        if isinstance(item, Fact) and told.result is Result.CREATED and kind == Kind.CHANGE:
            outcome = item.new.payload.get("outcome")
            if isinstance(outcome, str) and outcome in _DEPLOYED:
                environment = item.new.environment or "unknown"
                unit.counts.append(("postfacta_deployments_total", environment, outcome))


async def attach(
    unit: Unit,
    store: Store,
    incident: Incident,
    *,
    ids: Sequence[UUID],
    came_with: AbstractSet[UUID] = frozenset(),
) -> Sequence[Attachment]:
    """Attach signals to an incident that this unit has locked; attached ones write nothing.

    Those sent with the incident stay as private as it is; the visibility of others does not change.
    """
    known = await store.visible(unit, ids)
    before = await store.attached(unit, incident.id, ids)
    wanted = [it for it in dict.fromkeys(ids) if it in known and not before.get(it)]
    never = [it for it in wanted if it not in before]
    refused = set(never) - await store.room(unit, incident.id, never) if never else set[UUID]()
    new = [it for it in wanted if it not in refused]
    if new:
        await store.edit(unit, "attach", incident_id=incident.id, ids=new, new=came_with)
        detail = {"signals": new}
        await unit.audit("signal.attach", incident.ref, incident_id=incident.id, detail=detail)
    results: list[Attachment] = []
    waiting = set(new)
    for signal_id in ids:
        result = Attached.ALREADY if signal_id in known else Attached.UNKNOWN
        if signal_id in waiting:
            waiting.remove(signal_id)
            result = Attached.ATTACHED
        elif signal_id in refused:
            result = Attached.FULL
        results.append(Attachment(id=signal_id, result=result))
    return results


async def detach(unit: Unit, store: Store, incident: Incident, *, signal_id: UUID) -> None:
    """Detach a signal from an incident that this unit has locked.

    Raises:
        NotFoundError: If the incident does not have it.
    """
    if not (await store.attached(unit, incident.id, [signal_id])).get(signal_id):
        raise missing()
    await store.edit(unit, "detach", incident_id=incident.id, ids=[signal_id])
    detail = {"signals": [signal_id]}
    await unit.audit("signal.detach", incident.ref, incident_id=incident.id, detail=detail)


def full(incident: Incident) -> str:
    """Return why an incident accepts no more signals, and what to do."""
    return (
        f"{incident.ref} is at the limit of signals per incident ({MOST_SIGNALS:,}, or {MOST_BYTES >> 20} MiB of"
        " titles, links and services): items marked `full` are stored, and can be attached to another incident"
    )


def missing() -> NotFoundError:
    """Return the one error for what does not exist and for what the caller may not see."""
    return NotFoundError("No such signal")
