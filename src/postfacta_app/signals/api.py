"""The API of signals: they are stored with a result for each, and attached to incidents."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic_core import to_json

from ..aside import aside
from ..db import AUDIT_COLUMNS, VISIBLE, Query, Reader, Unit, Where, new_id, row, sees
from ..errors import AppError, ForbiddenError, NotFoundError
from ..incidents.access import Ref, lock_active, not_kept, read_ref
from ..incidents.model import Incident, Visibility
from ..principal import Access
from ..reliability.about import About
from ..web.body import parse, read_body, read_json
from ..web.routes import Call, RouteClass
from ..web.slices import Fill, Now, Routes
from . import model
from .intake import Intake, Webhook, read_alerts, read_item
from .mapping import Mappings, read_mapped
from .model import AnyJson, Attached, Batch, Fact, Ingested, ItemResult, Key, Result, Signal

_ALL: Final = "/api/v1/signals"
_OF_INCIDENT: Final = "/api/v1/incidents/{ref}/signals"
_DEPLOYED: Final = {"succeeded", "failed", "rolled_back"}
_ORDER: Final = "-occurred_at"
_COUNTER: Final = "postfacta_signals_ingested_total"
routes: Final = Routes("signal")

Change = Literal["attach", "detach"]
Stored = Mapping[Key, tuple[UUID, bytes, bool]]
"""The id and the hash of stored signals, and whether the caller may see them."""


# The incidents of the signal `s` that the caller may see; the last edit in each decides.
_INCIDENTS: Final = f"""
(select distinct on (e.incident_id)
        e.incident_id,
        e.op
   from edits e
  where e.signal_id = s.id
  order by e.incident_id, e.at desc, e.id desc) a
  join incidents i
    on i.id = a.incident_id
   and a.op = 'attach'
   and {VISIBLE}"""  # noqa: S608 - only constants of db.py
_ATTACHED_TO: Final = f"exists (select from {_INCIDENTS})"
# A signal is visible to all, unless it was sent with an incident: then to those who see that one,
# or one that it is attached to, and to its sender. Signals that were visible before they were
# attached are marked, and stay visible.
_VISIBLE: Final = f"""
(s.received_by = $3
  or {_ATTACHED_TO}
  or coalesce((
    select bool_or({VISIBLE})
      from edits e
      join incidents i on i.id = e.incident_id
     where e.signal_id = s.id
       and e.op = 'attach'
       and e.value is null), true))"""  # noqa: S608 - only constants of this module and db.py
_COLUMNS: Final = """
s.id, s.source, s.external_id, s.kind, s.occurred_at, s.precision, s.time_basis, s.known_at,
s.sequence, s.title, s.services, s.environment, s.links::text, s.received_at, s.received_by"""
_PAGE: Final = f"""
select {_COLUMNS}
  from signals s
 where {_VISIBLE}
   and {{where}}
 order by s.occurred_at desc, s.id desc
 limit {{limit}}"""  # noqa: S608 - only constants of this module
_FIND: Final = f"""
select {_COLUMNS},
       s.body,
       s.payload::text,
       encode(s.content_sha256, 'hex') as content_sha256,
       (select coalesce(
                 json_agg(
                   json_build_object(
                     'content', content,
                     'content_sha256', encode(content_sha256, 'hex'),
                     'received_at', received_at,
                     'received_by', received_by)
                   order by received_at, content_sha256),
                 '[]')::text
          from signal_conflicts
         where signal_id = s.id) as conflicts,
       (select coalesce(
                 json_agg(
                   json_build_object('id', i.id, 'ref', 'INC-' || i.number, 'title', i.title)
                   order by i.number),
                 '[]')::text
          from {_INCIDENTS}) as incidents
  from signals s
 where s.id = $4
   and {_VISIBLE}"""  # noqa: S608 - only constants of this module

# Sorted by code point, so that two batches with the same keys cannot deadlock.
# If all of them are new, the audit row is written by the same statement: one round trip less.
_INSERT: Final = f"""
with created as (
insert into signals (
  id, source, external_id, kind, occurred_at, time_basis, known_at, sequence, precision, title,
  body, services, environment, links, payload, content_sha256, received_by)
select r.id,
       r.source,
       r.external_id,
       r.kind,
       coalesce(r.occurred_at, now()),
       case when r.occurred_at is null then 'received' else 'event' end,
       r.known_at,
       r.sequence,
       r.precision,
       r.title,
       r.body,
       r.services,
       r.environment,
       r.links,
       r.payload,
       decode(r.sha256, 'hex'),
       $3
  from jsonb_to_recordset($1::text::jsonb) as r(
         id uuid,
         source text,
         external_id text,
         kind text,
         occurred_at timestamptz,
         known_at timestamptz,
         sequence text,
         precision text,
         title text,
         body text,
         services text[],
         environment text,
         links jsonb,
         payload jsonb,
         sha256 text)
 order by r.source collate "C", r.external_id collate "C"
on conflict (source, external_id) do nothing
returning id, source, external_id
), audited as (
insert into audit_log ({AUDIT_COLUMNS})
select $3, $4, $5, $6::uuid, $7::text::jsonb, $8, $9::text::inet
  from created
having count(*) = $2)
select * from created"""  # noqa: S608 - only constants of db.py
_STORED: Final = f"""
select s.id, s.source, s.external_id, s.content_sha256, {_VISIBLE} as is_seen
  from signals s
  join unnest($4::text[], $5::text[]) k(source, external_id)
 using (source, external_id)"""  # noqa: S608 - only constants of this module
# Facts cannot be locked, since they cannot be updated; so writers of conflicts lock the source.
_ONE_BY_ONE: Final = """
select pg_advisory_xact_lock(hashtextextended(k.source, 0))
  from (select source from unnest($1::text[]) source order by source collate "C") k"""
_KEEP: Final = """
insert into signal_conflicts (signal_id, content_sha256, content, received_by)
select n.signal_id, decode(n.sha256, 'hex'), n.content, $2
  from (
    select r.*,
           row_number() over (partition by r.signal_id order by r.place) as nth
      from jsonb_to_recordset($1::text::jsonb) as r(
             place int,
             signal_id uuid,
             sha256 text,
             content jsonb)
     where not exists (
       select
         from signal_conflicts c
        where c.signal_id = r.signal_id
          and c.content_sha256 = decode(r.sha256, 'hex'))) n
 where n.nth
       + (select count(*) from signal_conflicts c where c.signal_id = n.signal_id)
       <= 20
returning true"""
# What becomes of signals that the caller may see, in their order: those that the incident had once
# have their place in it. Nothing, if its timeline is not kept yet.
_BECOMING: Final = f"""
select id,
       case
         when op = 'attach' then 'already'
         when op is not null or fits then 'attached'
         when not fits then 'full'
       end as result
  from (
    select s.id,
           k.place,
           e.op,
           m.signals + count(*) filter (where e.op is null) over w <= $6
             and m.bytes
               + sum(
                   octet_length(s.title)
                   + octet_length(s.links::text)
                   + octet_length(array_to_string(s.services, ' ')))
                 filter (where e.op is null) over w
               <= $7 as fits
      from unnest($4::uuid[]) with ordinality k(id, place)
      join signals s on s.id = k.id
      left join (
        select distinct on (signal_id)
               signal_id,
               op
          from edits
         where incident_id = $5
           and signal_id = any ($4::uuid[])
         order by signal_id, at desc, id desc) e on e.signal_id = s.id
      left join incident_measures m on m.incident_id = $5
     where {_VISIBLE}
    window w as (order by k.place)) s
 order by place"""  # noqa: S608 - only constants of this module
_IS_ATTACHED: Final = """
select
  from (
    select op
      from edits
     where incident_id = $1
       and signal_id = $2
     order by at desc, id desc
     limit 1) e
 where op = 'attach'"""
_EDIT: Final = """
insert into edits (id, incident_id, at, op, signal_id, value, actor)
select s.edit,
       $1,
       $2,
       $3,
       s.id,
       case when not s.id = any ($5::uuid[]) then '{"lay_open": true}'::jsonb end,
       $6
  from unnest($4::uuid[], $7::uuid[]) s(id, edit)"""


async def _batch(call: Call, _: str) -> tuple[Batch, Sequence[Fact | ItemResult]]:
    batch = await read_body(call.request, Batch)
    if batch.incident is not None and not call.principal.may(Access.WRITE):
        raise ForbiddenError(
            "Attaching signals to an incident requires the right to write incidents"
        )

    def read(**by: Any) -> Sequence[Fact | ItemResult]:
        return [read_item(index, item, **by) for index, item in enumerate(batch.items)]

    return batch, await _read(call, read)


async def _alerts(call: Call, _: str) -> tuple[Webhook, Sequence[Fact | ItemResult]]:
    webhook = parse(Webhook, await read_json(call.request))
    return webhook, await _read(call, partial(read_alerts, webhook))


async def _mapped(call: Call, _: str) -> Sequence[Fact | ItemResult]:
    name = call.request.path_params["mapping"]
    mapping = call.tools.part(Mappings).find(name)
    body: Any = await read_json(call.request)
    return await _read(call, partial(read_mapped, mapping, body, source=name))


async def _read(
    call: Call, read: Callable[..., Sequence[Fact | ItemResult]]
) -> Sequence[Fact | ItemResult]:
    """Read the items of a request.

    What is rejected is noted for the page of operators: before a transaction that may repeat.
    """
    size = len(await call.request.body())
    items = await aside(
        size, lambda: read(principal=call.principal, intake=call.tools.part(Intake))
    )
    source = model.source_of(call.principal, None)
    for item in items:
        if isinstance(item, ItemResult):
            call.tools.part(About).rejections.note(source, item.errors[0].pointer)
    return items


# A request with its items in their order, each valid or rejected: read before the transaction
# begins.
Items = Annotated[tuple[Batch, Sequence[Fact | ItemResult]], Fill(_batch)]
Alerts = Annotated[tuple[Webhook, Sequence[Fact | ItemResult]], Fill(_alerts)]
Mapped = Annotated[Sequence[Fact | ItemResult], Fill(_mapped)]


@routes.api(
    f"POST {_ALL}",
    Access.INGEST,
    "Store signals, with a result for each",
    status=200,
    kind=RouteClass.INGEST,
    reads=Batch,
    problems=("conflict", "not-found"),
    operation="send_signals",
)
async def ingest(unit: Unit, received: Items, *, now: Now) -> Ingested:
    batch, items = received
    ref = read_ref(batch.incident or "")
    return await store(unit, items, incident=await lock_active(unit, ref) if ref else None, now=now)


@routes.api(
    "POST /api/v1/ingest/alertmanager",
    Access.INGEST,
    "Store the alerts of an Alertmanager notification",
    status=200,
    kind=RouteClass.INGEST,
    reads=Webhook,
    only_5xx=True,
    operation="send_alerts",
)
async def alertmanager(unit: Unit, received: Alerts, *, now: Now) -> Ingested:
    webhook, items = received
    done = await store(unit, items, now=now)
    if webhook.lost:
        done.warnings = [
            f"Alertmanager omitted {webhook.lost} alerts: raise max_alerts of this receiver"
        ]
        unit.counts.append(("postfacta_alertmanager_truncated_total",))
    return done


@routes.api(
    "POST /api/v1/ingest/mapped/{mapping}",
    Access.INGEST,
    "Store signals made of any JSON by a mapping",
    status=200,
    kind=RouteClass.INGEST,
    reads=AnyJson,
    operation="send_mapped_signals",
)
async def ingest_mapped(unit: Unit, items: Mapped, *, now: Now) -> Ingested:
    return await store(unit, items, now=now)


@routes.api(f"GET {_ALL}", Access.READ, "List signals")
async def page(q: Reader, query: model.SignalQuery) -> model.SignalPage:
    signals = await rows(q, query)

    def place(signal: Signal) -> tuple[datetime, UUID]:
        return signal.occurred_at, signal.id

    return query.page(model.SignalPage, signals, _ORDER, key=place)


@routes.api(f"GET {_ALL}/{{id}}", Access.READ, "Read a signal, its conflicts and its incidents")
async def read(q: Reader, id: UUID) -> model.SignalDetail:
    signal = await row(q, model.SignalDetail, _FIND, q.principal.actor, id, operation="signal_get")
    if signal is None:
        raise missing()
    return signal


@routes.api(
    f"POST {_OF_INCIDENT}",
    Access.WRITE,
    "Attach signals to an incident",
    status=200,
    once=True,
    operation="attach_signals",
)
async def attach(unit: Unit, ref: Ref, wish: model.Attachments) -> model.AttachedPage:
    became = dict(await _attach(unit, await lock_active(unit, ref), wish.ids))
    results: list[model.Attachment] = []
    for signal_id in wish.ids:
        result = became.get(signal_id, Attached.UNKNOWN)
        results.append(model.Attachment(id=signal_id, result=result))
        if result is Attached.ATTACHED:
            became[signal_id] = Attached.ALREADY
    return model.AttachedPage(results=results)


@routes.api(
    f"DELETE {_OF_INCIDENT}/{{id}}", Access.WRITE, "Detach a signal", operation="detach_signal"
)
async def detach(unit: Unit, ref: Ref, id: UUID) -> None:
    incident = await lock_active(unit, ref)
    if not await unit.fetch(_IS_ATTACHED, incident.id, id, operation="signal_attached"):
        raise missing()
    await _edit(unit, incident, "detach", ids=[id])


async def rows(q: Query, query: model.SignalQuery) -> Sequence[Signal]:
    """List one more than requested of what the caller may see, latest first."""
    where = Where(*_seen_by(q))
    where.add("s.source = any ({}::text[])", query.source)
    where.add("s.kind = any ({}::text[])", query.kind)
    where.add("s.services && {}::text[]", query.service)
    where.add("s.occurred_at >= {}::timestamptz", query.since)
    where.add("s.occurred_at < {}::timestamptz", query.until)
    where.add(f"{_ATTACHED_TO} = {{}}::boolean", query.attached)
    where.add("(s.occurred_at, s.id) < ({}::timestamptz, {}::uuid)", *query.after(_ORDER) or [None])
    sql = _PAGE.format(where=where, limit=where.bind(query.limit + 1))
    records = await q.fetch(sql, *where.args, operation="signal_list")
    return [Signal.model_validate(dict(record.items())) for record in records]


def _seen_by(q: Query) -> tuple[bool, UUID | None, str]:
    return *sees(q.principal), q.principal.actor


# Storing


async def store(
    unit: Unit,
    items: Sequence[Fact | ItemResult],
    *,
    incident: Incident | None = None,
    now: datetime,
) -> Ingested:
    """Store new signals, attach valid ones to an incident that this unit has locked.

    Return the result of each item.

    * Of items with the same key the first is stored; the others are duplicates or conflicts.
    * Content that differs from what is stored under its key is kept as a conflict.
    * Signals sent with a private incident get keys of their own, so that no caller learns from
      a conflict which keys it has.
    """
    if incident is not None and incident.visibility is Visibility.PRIVATE:
        items = [item.within(incident.ref) if isinstance(item, Fact) else item for item in items]
    facts = [item for item in items if isinstance(item, Fact)]
    first = dict[Key, Fact]()
    for fact in facts:
        first.setdefault(fact.key, fact)
    created = await _insert(unit, list(first.values()), most=len(facts))
    stored = await _stored(unit, [key for key in first if key not in created])
    stored |= {key: (signal_id, first[key].sha256, True) for key, signal_id in created.items()}
    conflict_count = await _keep_conflicts(unit, _conflicts(facts, stored))
    if (created or conflict_count) and len(created) < len(facts):
        await unit.audit(*_audited(unit), detail=_detail(len(created), conflict_count))
    new = {key: first[key] for key in created}
    results = [_result(unit, item, stored, new=new, now=now) for item in items]
    warnings = list[str]()
    if incident is not None and stored:
        ids = [stored[key][0] for key in first]
        became = await _attach(unit, incident, ids, came_with=created.values())
        for result in results:
            if result.signal_id is not None:
                result.attached = became.get(result.signal_id, Attached.UNKNOWN)
        warnings = [full(incident)] if Attached.FULL in became.values() else []
    count = Counter(item.result for item in results)
    counts = {result: count[result] for result in Result}
    return Ingested(results=results, counts=counts, warnings=warnings)


def _audited(unit: Unit) -> tuple[str, str]:
    return "signal.ingest", f"source:{model.source_of(unit.principal, None)}"


def _detail(created: int, conflicts: int) -> Mapping[str, object]:
    return {"created": created, "conflicts_kept": conflicts}


async def _insert(unit: Unit, facts: Sequence[Fact], *, most: int) -> Mapping[Key, UUID]:
    """Write the signals whose keys are new, and return their ids; the keys are distinct.

    Wait for concurrent writers of the same keys. If these are as many as `most`, all that was
    sent, the audit row is written as well.
    """
    if not facts:
        return {}
    size = 2_000 * len(facts)
    texts = await aside(
        size, lambda: to_json([_row(fact) for fact in facts]).decode(), has_lock=True
    )
    audit = unit.audit_row(*_audited(unit), detail=_detail(most, 0))
    rows = await unit.fetch(_INSERT, texts, most, *audit, operation="signal_insert")
    return {(row["source"], row["external_id"]): row["id"] for row in rows}


def _row(fact: Fact) -> dict[str, Any]:
    named = {"id": new_id().hex, "source": fact.source, "external_id": fact.external_id}
    return {**_content(fact), **named, "sha256": fact.sha256.hex()}


def _content(fact: Fact) -> dict[str, Any]:
    return fact.new.model_dump(mode="json", exclude={"source", "id"})


async def _stored(unit: Unit, keys: Sequence[Key]) -> dict[Key, tuple[UUID, bytes, bool]]:
    if not keys:
        return {}
    args = (*_seen_by(unit), *([key[part] for key in keys] for part in (0, 1)))
    rows = await unit.fetch(_STORED, *args, operation="signal_stored")
    return {
        (source, name): (signal_id, sha256, is_visible)
        for signal_id, source, name, sha256, is_visible in rows
    }


def _conflicts(facts: Sequence[Fact], stored: Stored) -> Mapping[tuple[UUID, bytes], Fact]:
    """Return the facts whose content differs from what is stored under their key."""
    conflicts: dict[tuple[UUID, bytes], Fact] = {}
    for fact in facts:
        signal_id, sha256, _ = stored[fact.key]
        if fact.sha256 != sha256:
            conflicts[signal_id, fact.sha256] = fact
    return conflicts


async def _keep_conflicts(unit: Unit, conflicts: Mapping[tuple[UUID, bytes], Fact]) -> int:
    """Write contents that differ from the stored ones, at most 20 a signal; return the count."""
    if not conflicts:
        return 0
    sources = list({fact.source for fact in conflicts.values()})
    await unit.execute(_ONE_BY_ONE, sources, operation="signal_conflict_lock")
    contents = [
        {
            "place": place,
            "signal_id": str(signal_id),
            "sha256": sha256.hex(),
            "content": _content(fact),
        }
        for place, ((signal_id, sha256), fact) in enumerate(conflicts.items())
    ]
    args = (json.dumps(contents), unit.principal.actor)
    return len(await unit.fetch(_KEEP, *args, operation="signal_conflict_insert"))


def _result(
    unit: Unit, item: Fact | ItemResult, stored: Stored, *, new: Mapping[Key, Fact], now: datetime
) -> ItemResult:
    """Return the result of an item, and count it."""
    if isinstance(item, ItemResult):
        unit.counts.append((_COUNTER, "unknown", item.result))  # It may have any name for its kind.
        return item
    sent = item.new
    signal_id, sha256, is_visible = stored[item.key]
    result = Result.CONFLICT
    if sha256 == item.sha256:
        result = Result.CREATED if new.get(item.key) is item else Result.DUPLICATE
    unit.counts.append((_COUNTER, sent.kind, result))
    outcome = sent.payload.get("outcome") if sent.kind is model.SignalKind.CHANGE else None
    if result is Result.CREATED and isinstance(outcome, str) and outcome in _DEPLOYED:
        unit.counts.append(("postfacta_deployments_total", sent.environment or "unknown", outcome))
    return ItemResult(
        index=item.index,
        result=result,
        signal_id=signal_id if is_visible else None,
        clock_suspect=sent.occurred_at is not None and model.is_suspect(sent.occurred_at, now),
    )


# Attaching


async def _attach(
    unit: Unit, incident: Incident, ids: Sequence[UUID], *, came_with: Collection[UUID] = ()
) -> Mapping[UUID, Attached]:
    """Attach signals to an incident that this unit has locked.

    Return what became of those that the caller may see.

    Attached ones write nothing. Those sent with the incident stay as private as it is; the
    visibility of others does not change.
    """
    args = (list(dict.fromkeys(ids)), incident.id, model.MOST_SIGNALS, model.MOST_BYTES)
    rows = await unit.fetch(_BECOMING, *_seen_by(unit), *args, operation="signal_becoming")
    if any(row["result"] is None for row in rows):
        raise not_kept()
    became = {row["id"]: Attached(row["result"]) for row in rows}
    new = [signal_id for signal_id, result in became.items() if result is Attached.ATTACHED]
    if new:
        await _edit(unit, incident, "attach", ids=new, came_with=came_with)
    return became


async def _edit(
    unit: Unit,
    incident: Incident,
    op: Change,
    *,
    ids: Sequence[UUID],
    came_with: Collection[UUID] = (),
) -> None:
    """Write the edit of each signal at the next instant of the timeline.

    Those in `came_with` were sent with the incident, and stay as private as it is.
    """
    at = await unit.stamp(incident.id)
    edits = [new_id() for _ in ids]
    args = (incident.id, at, op, ids, list(came_with), unit.principal.actor, edits)
    await unit.execute(_EDIT, *args, operation="signal_edit")
    await unit.audit(f"signal.{op}", incident.ref, incident_id=incident.id, detail={"signals": ids})


def full(incident: Incident) -> str:
    """Return why an incident accepts no more signals, and what to do."""
    return (
        f"{incident.ref} is at the limit of signals per incident ({model.MOST_SIGNALS:,}, or"
        f" {model.MOST_BYTES >> 20} MiB of titles, links and services): items marked `full` are"
        " stored, and can be attached to another incident"
    )


def missing() -> AppError:
    """Return the one error for what does not exist and for what the caller may not see."""
    return NotFoundError("No such signal")
