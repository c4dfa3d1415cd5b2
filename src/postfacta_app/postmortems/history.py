"""The history of an incident, newest first: edits, revisions and, for administrators, the audit log."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pydantic import JsonValue
from starlette.requests import Request

from ..aside import LARGE
from ..incidents.access import Ref, seen
from ..principal import Access
from ..signals.model import Precision
from ..timeline.api import Kept, names as names_of
from ..timeline.model import Op, micros
from ..timeline.view import stamp
from ..web.body import parse_time
from ..web.calls import Snapshot
from ..web.paging import Paged, decode_cursor, encode_cursor, next_page
from ..web.slices import Page, Routes

routes: Final = Routes("incident")
_MOST: Final = 200
"""The most events of a page."""
_UUID: Final = re.compile(r"\b([0-9a-f]{8})(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.ASCII)

# Signals that were attached together are one event. `$3` and `$4` say whether the caller writes, and is an administrator.
_EVENTS: Final = """
select * from (
  select e.at, 'timeline' as kind, min(e.id::text) as id, e.actor, e.op as what, min(e.source) as source,
         min(e.external_id) as external_id, min(e.value::text) as value, e.reason as why, count(*)::int as count
    from edits e where e.incident_id = $1
   group by e.at, e.op, e.actor, e.reason, case when e.op not in ('attach', 'detach') then e.id end
  union all
  select r.at, 'post-mortem', lpad(r.rev::text, 10, '0'), r.author, r.status, r.restored_from::text, null, null,
         r.message, r.rev
    from postmortem_revisions r
   where r.incident_id = $1 and ($3::boolean or r.status in ('in_review', 'published'))
  union all
  select a.at, 'audit', lpad(a.seq::text, 20, '0'), a.actor, a.action, a.object, null, a.detail::text, null, 1
    from audit_log a where a.incident_id = $1 and $4::boolean) e
 where $5::timestamptz is null or (at, kind, id) < ($5, $6::text, $7::text)
 order by at desc, kind desc, id desc limit $2"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One action in the history."""

    at: datetime
    actor: str
    kind: str  # `timeline`, `post-mortem` or `audit`
    what: str  # A description of the action
    why: str | None = None  # the given reason or message
    rev: int | None = None  # the resulting revision


@routes.page("/incidents/{ref}/history", Access.READ)
async def history(q: Snapshot, ref: Ref, place: Paged, *, request: Request, kept: Kept) -> Page:
    incident = await seen(q, ref)
    who = q.principal
    order, kinds = str(incident.id), (datetime, str, str)
    after = decode_cursor(place.cursor, order, "", *kinds) if place.cursor is not None else (None, None, None)
    args = (incident.id, _MOST + 1, who.may(Access.WRITE), who.is_admin, *after)
    found = await q.fetch(_EVENTS, *args, operation="history")
    names = {
        (row["source"], row["external_id"])
        for row in found
        if row["kind"] == "timeline" and row["external_id"]
    }
    about = await kept.named(q, incident.id, names, hidden=True)
    titles = {(it.source, it.id): it.original_title for it in about}
    events = [_event(row, titles) for row in found[:_MOST]]
    key = ("at", "kind", "id")
    older = encode_cursor(order, [found[_MOST - 1][it] for it in key], "") if len(found) > _MOST else None
    context = {
        "here": "incidents",
        "item": incident,
        "tab": "history",
        "events": events,
        "names": await names_of(q, {it.actor for it in events}),
        "next_url": next_page(request, older) if older else None,
    }
    return Page("history.html", context, size=LARGE)


# Descriptions

_DONE: Final[Mapping[Op, str]] = {
    Op.ATTACH: "Attached",
    Op.DETACH: "Detached",
    Op.SET_TIME: "Set the time of",
    Op.SET_TITLE: "Renamed",
    Op.CLOCK_OFFSET: "Shifted the clock of",
    Op.MILESTONE: "Set the milestone",
    Op.HIDE: "Hid",
    Op.UNHIDE: "Unhid",
    Op.PIN: "Pinned",
    Op.UNPIN: "Unpinned",
}


def _event(row: Any, titles: Mapping[tuple[str, str], str]) -> Event:
    rev = None
    match row["kind"]:
        case "timeline":
            what = _edited(row, titles)
        case "post-mortem":
            rev = row["count"]
            what = f"Wrote revision {rev}, {row['what'].replace('_', ' ')}"
            what += f", from revision {row['source']}" if row["source"] else ""
        case _:
            done = f"{row['what']} {row['source']}"
            what = _UUID.sub(r"\1", ", ".join([done, *_details(json.loads(row["value"] or "{}"))]))
    return Event(at=row["at"], actor=row["actor"], kind=row["kind"], what=what, why=row["why"], rev=rev)


def _edited(row: Any, titles: Mapping[tuple[str, str], str]) -> str:
    op, count = Op(row["what"]), row["count"]
    value: Mapping[str, JsonValue] = json.loads(row["value"] or "null") or {}
    key = (row["source"] or "", row["external_id"] or "")
    entry = f"“{titles[key]}”" if key in titles else " ".join(key)
    match op:
        case Op.ATTACH | Op.DETACH:
            about = f"{count} {'signal' if count == 1 else 'signals'}"
        case Op.SET_TIME:
            about = f"{entry} to {_when(value) if value else 'the time of its source'}"
        case Op.SET_TITLE:
            about = f"{entry} to “{value['title']}”" if value else f"{entry} to its original title"
        case Op.CLOCK_OFFSET:
            about = f"{row['source']} by {float(str(value['ms'])) / 1000:+g} s"
        case Op.MILESTONE:
            name = str(value["name"]).replace("_", " ")
            about = f"“{name}” to {_when(value) if value.get('at') else 'unknown'}"
        case _:
            about = entry
    return f"{_DONE[op]} {about}"


def _when(value: Mapping[str, JsonValue]) -> str:
    at, precision = parse_time(str(value["at"])), Precision(str(value["precision"]))
    return stamp(micros(at), precision).removesuffix(".000000")


def _details(detail: Mapping[str, JsonValue]) -> Iterator[str]:
    for name, value in detail.items():
        if isinstance(value, list):
            yield f"{name}: {len(value)}"
        elif value is not None:
            words = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)
            yield f"{name}: {words}"
