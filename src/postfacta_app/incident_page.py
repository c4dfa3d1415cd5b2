"""The page of one incident with its forms, and its history."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from math import inf
from typing import Annotated, Any, Final
from urllib.parse import urlencode
from uuid import UUID

from pydantic import Field, JsonValue
from starlette.requests import Request

from . import labels, links
from .aside import LARGE
from .db import Unit
from .durations import durations, marks, turns
from .errors import ConflictError, InvalidFieldsError, NotFoundError, invalid
from .incidents import api as incidents
from .incidents.access import Ref, Share, lock_active, missing, read_incident, read_ref
from .incidents.model import MOVES, Incident, Move, Outcome, Severity
from .principal import Access
from .signals import api as signals
from .signals.model import Attached, Attachments, Precision, SignalQuery, micros
from .timeline import api as timeline, model
from .timeline.kept import NumberedPage, Short, Wanted
from .timeline.model import AnnotationChange
from .timeline.view import Line, anchor, chart, clock, days, lines, stamp
from .web.body import Paged, format_time, next_page, parse, parse_time
from .web.forms import formed, read_typed_time, tidy_time
from .web.merging import any_version, merged
from .web.routes import Call
from .web.slices import Fields, Fill, Now, Page, Routes, Snapshot

_INCIDENT: Final = "/incidents/{ref}"
_SIGNAL: Final = re.compile(r"signal-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_SECONDS: Final = re.compile(r"\d:\d\d:\d\d(\.)?|\d ?s(?:ec(?:ond)?s?)?(?: ?ago)?$", re.ASCII)
_OFFSET: Final = re.compile(r"[+-]?\d{1,6}(\.\d{1,3})?", re.ASCII)
_PAGE: Final = 100  # the most entries of one page
_MOST_ANNOTATIONS: Final = _PAGE + 100  # of a page; the API lists all
_LETTERS: Final = 2000  # Characters of a signal's text and payload; a link leads to the rest.
_BEFORE: Final = timedelta(hours=1)  # The search for signals begins this long before the incident.
routes: Final = Routes("note")


class View(Wanted, frozen=True):
    """Which entries to show, which one to edit, which signals to search."""

    service: Short = ""
    source: Short = ""
    since: Short | None = Field(None, alias="from")
    until: Short = Field("", alias="to")
    added: UUID | None = None  # the note that was just recorded


async def _search(
    unit: Unit, incident: Incident, view: View, *, now: datetime
) -> Mapping[str, object]:
    """Return the search form of signals, and its results once it was sent."""
    until = incident.ended_at or now
    fields = {
        "service": view.service,
        "source": view.source,
        "from": view.since or f"{incident.declared_at - _BEFORE:%Y-%m-%d %H:%M}",
        "to": view.until or f"{until + _BEFORE:%Y-%m-%d %H:%M}",
    }
    context: dict[str, object] = {"fields": fields, "found": None, "errors": ()}
    if view.since is not None:
        try:
            query = formed(SignalQuery, {**fields, "attached": False}, now)
            context["found"] = (await signals.rows(unit, query))[: query.limit]
        except InvalidFieldsError as refusal:
            context["errors"] = refusal.errors
    return context


def _link(incident: Incident, view: View, /, **changes: str) -> str:
    """Return the URL of this page with other parameters; an empty value removes one."""
    parameters = {**view.model_dump(mode="json", by_alias=True, exclude_defaults=True), **changes}
    present = {
        name: "true" if value is True else value for name, value in parameters.items() if value
    }
    return f"/incidents/{incident.ref}" + (f"?{urlencode(present)}" if present else "")


def _back(call: Call, _: str) -> Callable[..., str]:
    path = f"/incidents/{call.request.path_params['ref']}"
    parameters = call.request.query_params.multi_items()

    def address(place: str, **more: str) -> str:
        query = [(name, text) for name, text in parameters if name != "added"]
        # An entry may be on another page now.
        if place.startswith("e-") and "page" in call.request.query_params:
            query = [(name, text) for name, text in query if name != "page"]
            query.append(("entry", place))
        query += more.items()
        page = f"{path}?{urlencode(query)}" if query else path
        return f"{page}#{place}" if place else page

    return address


# Returns the address of the page as it was, at a place.
Back = Annotated[Callable[..., str], Fill(_back)]


@routes.page(_INCIDENT, Access.READ, stale=True)
async def show(
    q: Snapshot, ref: Ref, view: View, *, timelines: timeline.Timelines, now: Now, share: Share
) -> Page:
    page = await timelines.page(q, ref, view, size=_PAGE)
    incident = page.incident
    entries = page.entries
    links_of_incident = await links.of(q, incident.id)
    labels_of_incident = await labels.of(q, incident.id)
    share(incident.visibility, *(far.incident.visibility for far in links_of_incident))
    annotations = await timeline.remarks_on(
        q, incident.id, entries, also=view.added, limit=_MOST_ANNOTATIONS + 1
    )
    if view.known_as_of is not None:
        # What is written about an entry, or about the whole, may be hindsight.
        annotations = [
            note
            for note in annotations
            if note.occurred_at is not None or note.at <= view.known_as_of
        ]
    edits = await timeline.decided(q, incident.id, entries)
    signal_ids = [entry.signal_id for entry in entries if entry.signal_id]
    timeline_lines = lines(
        entries,
        edits=edits,
        remarks=annotations,
        reasons=page.reasons,
        contents=await timeline.contents(q, signal_ids, _LETTERS),
        repeats=page.repeats,
    )
    versions: Mapping[UUID, Sequence[Mapping[str, Any]]] = {}
    if view.known_as_of is None:
        versions = await timeline.versions(
            q, incident.id, letters=_LETTERS, limit=_MOST_ANNOTATIONS
        )
    authors = {note.author for note in annotations}
    authors |= {version["author"] for note in versions.values() for version in note}
    editors = {edit.actor for line in timeline_lines for edit in line.decided}
    general_notes = [
        note for note in annotations if note.entry is None and note.occurred_at is None
    ]
    may_decide = q.principal.may(Access.WRITE)
    context = {
        "item": incident,
        "view": view,
        "shown": page,
        "lines": timeline_lines,
        "notes": general_notes[:_MOST_ANNOTATIONS],
        "versions": versions,
        "retracted": [note for note in versions.values() if note[0]["retracted"]],
        "is_cut": len(annotations) > _MOST_ANNOTATIONS,
        "names": await timeline.names(q, authors | editors),
        "labelled": labels_of_incident,
        "joined": links_of_incident,
        "link_types": list(links.LinkType),
        "moves": MOVES[incident.status],
        "outcomes": list(Outcome),
        "severities": [*reversed(Severity)],
        "milestones": list(model.Milestone),
        "states": model.STATES,
        "kinds": [kind for kind in model.AnnotationKind if kind != "decision" or may_decide],
        "added": next((note for note in annotations if note.id == view.added), None),
        "length": ((incident.ended_at or now) - incident.declared_at).total_seconds(),
        "search": await _search(q, incident, view, now=now),
        "link": partial(_link, incident, view),
        "anchor": anchor,
        "stamp": stamp,
        "clock": clock,
        "moment": model.moment,
    }
    return Page(
        "incident.html", context, size=LARGE, more=partial(_laid_out, page, timeline_lines, view)
    )


def _laid_out(
    page: NumberedPage, timeline_lines: Sequence[Line], view: View
) -> Mapping[str, object]:
    milestones = marks(page.marks)
    milestone_lines = turns(milestones)
    has_before = page.page < page.pages if page.newest_first else page.page > 1
    begin = page.entries[0].t if has_before else -inf
    end = page.after[0].t if page.after else inf
    until = micros(view.known_as_of) if view.known_as_of is not None else inf
    within = [line for line in milestone_lines if begin <= line.t < end and line.t <= until]
    shown = days(timeline_lines, within)
    if page.newest_first:
        shown = [(day, items[::-1]) for day, items in reversed(shown)]
    lengths = durations(milestones, is_open=page.is_open)
    return {
        "days": shown,
        "chart": chart(timeline_lines, within),
        "turns": milestone_lines,
        # While it is open, those that are not known yet are no news.
        "measured": {
            phase: length
            for phase, length in lengths.items()
            if not page.is_open or length.seconds is not None
        },
    }


@routes.form(f"{_INCIDENT}/moves", Access.WRITE, again=show)
async def move(unit: Unit, ref: Ref, change: Move, *, now: Now, back: Back) -> str:
    await incidents.transition(unit, ref, change, now=now)
    return back("")


# Annotations


def _new_note(call: Call, _: str) -> model.NewAnnotation:
    fields = call.fields
    entry = {"source": fields["source"], "id": fields.get("id", "")} if "source" in fields else None
    when = fields.get("occurred_at", "").strip()
    precision = precision_of(when) if when else None
    when = f"{when} 00:00" if precision is Precision.DAY else when
    members = {**fields, "entry": entry, "occurred_at": when, "precision": precision}
    return formed(model.NewAnnotation, members, call.received)


NewNote = Annotated[model.NewAnnotation, Fill(_new_note)]


@routes.form(f"{_INCIDENT}/notes", Access.ANNOTATE, again=show)
async def note(unit: Unit, ref: Ref, new: NewNote, *, now: Now, back: Back) -> str:
    added = await timeline.add_annotation(unit, ref, new, now=now)
    if new.entry is not None:
        return back(anchor(new.entry.source, new.entry.id))
    return back("capture-body", added=str(added.id))


@routes.form(f"{_INCIDENT}/notes/{{root}}", Access.ANNOTATE, again=show)
async def renote(
    unit: Unit,
    ref: Ref,
    root: UUID,
    *,
    fields: Fields,
    back: Back,
) -> str:
    incident = await lock_active(unit, ref)
    if fields.get("op") == "restore":
        await timeline.restore(unit, incident, root)
        return back("timeline")
    incident_id, current = await timeline.find(unit, root)
    if incident_id != incident.id:
        raise NotFoundError("No such annotation")
    is_retracted = fields.get("op") == "retract"
    reason = fields.get("reason", "").strip()
    if is_retracted and not reason:
        raise invalid("/reason", "required", "is required to retract a note")
    stored = {"body": current.body, "state": current.state}
    sent = await merged(
        unit,
        fields,
        stored,
        incident_id=incident.id,
        of=incident.ref,
        annotation=str(root),
        whole=is_retracted,
    )
    if is_retracted:
        await timeline.withdraw(unit, root, reason[:_LETTERS], matches=any_version)
        return back("timeline")
    change = parse(AnnotationChange, sent)
    changed = await timeline.change(unit, root, change, matches=any_version)
    return back(f"r-{changed.id}")


# Edits


def read_instant(text: str, now: datetime | None = None, day: str = "") -> dict[str, JsonValue]:
    precision = precision_of(text)
    text = text.strip()
    at = read_typed_time(f"{text} 00:00" if precision is Precision.DAY else text, now, day=day)
    return {"at": format_time(at), "precision": precision}


def precision_of(text: str) -> Precision:
    """Return how exactly a typed time is known.

    `now` is exact, `-30s` to the second, `-5m` and `10:04` to the minute.
    """
    text = tidy_time(text)
    if _DAY.fullmatch(text):
        return Precision.DAY
    if text == "now":
        return Precision.EXACT
    seconds = _SECONDS.search(text)
    if seconds is None:
        return Precision.MINUTE
    return Precision.EXACT if seconds[1] else Precision.SECOND


def read_edit(fields: Mapping[str, str], now: datetime | None = None) -> model.NewEdit:
    """Parse an edit from the fields of a form.

    An empty time or title undoes one, offsets are in seconds.
    """
    op = fields.get("op", "")
    if op not in model.MODELS:
        raise invalid("/op", "unknown", "is not an edit: reload the page and try again")
    try:
        value = _value(model.Op(op), fields, now)
    except ValueError as error:
        raise invalid("/value", "value", str(error)) from None
    entry = {"source": fields.get("source", ""), "id": fields.get("id", "")}
    return formed(model.MODELS[op], {**fields, "entry": entry, "value": value})


def _value(op: model.Op, fields: Mapping[str, str], now: datetime | None) -> JsonValue:
    typed = fields.get("value", "")
    if op is model.Op.SET_TIME:
        # A bare `10:04` is of the day on which the entry is shown.
        day = fields.get("day", "")
        return read_instant(typed, now, day) if typed.strip() else None
    if op is model.Op.SET_TITLE:
        return {"title": typed} if typed.strip() else None
    if op is model.Op.MILESTONE:
        at: dict[str, JsonValue] = read_instant(typed, now) if typed.strip() else {"at": None}
        return {"name": fields.get("name", ""), **at}
    if op is model.Op.CLOCK_OFFSET:
        if _OFFSET.fullmatch(typed.strip()) is None:
            raise ValueError("must be a number of seconds, such as 120 or -90.5")
        return {"ms": round(float(typed) * 1000)}
    return None


def _change(call: Call, _: str) -> model.NewEdit | Attachments | UUID:
    """Return the edit, the signals to attach, or the signal to detach."""
    fields = call.fields
    if fields.get("op") == model.Op.ATTACH:
        ids = [UUID(name.removeprefix("signal-")) for name in fields if _SIGNAL.fullmatch(name)]
        if not ids:
            raise invalid("/", "required", "choose at least one signal")
        return Attachments(ids=ids)
    if fields.get("op") == model.Op.DETACH:
        try:
            return UUID(fields.get("signal", ""))
        except ValueError:
            raise signals.missing() from None
    return read_edit(fields, call.received)


Change = Annotated[model.NewEdit | Attachments | UUID, Fill(_change)]


@routes.form(f"{_INCIDENT}/edits", Access.WRITE, again=show)
async def edit(
    unit: Unit, ref: Ref, change: Change, *, fields: Fields, now: Now, back: Back
) -> str:
    if isinstance(change, Attachments):
        done = await signals.attach(unit, ref, change)
        if any(result.result is Attached.FULL for result in done.results):
            raise ConflictError(f"Not attached: {signals.full(await lock_active(unit, ref))}")
        return back("timeline")
    if isinstance(change, UUID):
        await signals.detach(unit, ref, change)
        return back("timeline")
    await timeline.add_edit(unit, ref, change, now=now)
    has_entry = {"source", "id"} <= fields.keys() and change.op != "hide"
    return back(anchor(fields["source"], fields["id"]) if has_entry else "timeline")


@routes.form(f"{_INCIDENT}/links", Access.WRITE, again=show)
async def link(unit: Unit, ref: Ref, new: links.NewLink, *, fields: Fields, back: Back) -> str:
    to = new.to.strip().upper()
    if fields.get("op") != "unlink":
        await links.link(unit, ref, new.model_copy(update={"to": to}))
        return back("")
    other_ref = read_ref(to)
    if other_ref is None:
        raise missing()
    ends = (other_ref, ref) if fields.get("direction") == "in" else (ref, other_ref)
    await links.unlink(unit, *ends, type=new.type)
    return back("")


@routes.form(f"{_INCIDENT}/labels", Access.WRITE, again=show)
async def label(unit: Unit, ref: Ref, *, fields: Fields, back: Back) -> str:
    incident = await lock_active(unit, ref)
    stored = {"labels": (await labels.of(unit, ref)).labels}
    sent = await merged(unit, fields, stored, incident_id=incident.id, of=incident.ref)
    if "labels" in sent:
        text = sent["labels"] or list[str]()  # An emptied field removes all.
        new = formed(labels.Labels, {"labels": text})
        await labels.replace(unit, ref, new, matches=any_version)
    return back("")


# The history, newest first: edits, notes, changes of status, revisions and, for administrators,
# what else the audit log has

_MOST_EVENTS: Final = 200  # the most events of a page
# Signals that were attached together are one event. `$3` and `$4` say whether the caller writes,
# and is an administrator.
_EVENTS: Final = r"""
select at, kind, id, actor, source, external_id, why, count,
       case when kind in ('timeline', 'note') then value end as value,
       (select coalesce(t.original, t.title)
          from timeline_entries t
         where t.incident_id = $1
           and t.present
           and t.source = e.source collate "C"
           and t.id = e.external_id collate "C") as title,
       case kind when 'audit' then regexp_replace(
         concat_ws(', ', what || ' ' || source, (
           select string_agg(
                    name || ': ' || case jsonb_typeof(v)
                      when 'array' then jsonb_array_length(v)::text
                      else v #>> '{}' end,
                    ', ' order by n)
             from jsonb_each(value::jsonb) with ordinality d(name, v, n)
            where v <> 'null')),
         '\y([0-9a-f]{8})(-[0-9a-f]{4}){3}-[0-9a-f]{12}\y', '\1', 'g')
       else what end as what
  from (
    select *
      from (
        select e.at, 'timeline' as kind, min(e.id::text) as id, e.actor, e.op as what,
               min(e.source) as source, min(e.external_id) as external_id,
               min(e.value::text) as value, e.reason as why, count(*)::int as count
          from edits e
         where e.incident_id = $1
         group by e.at, e.op, e.actor, e.reason,
                  case when e.op not in ('attach', 'detach') then e.id end
        union all
        select r.at, 'post-mortem', lpad(r.rev::text, 10, '0'), r.author, r.status,
               r.restored_from::text, null, null, r.message, r.rev
          from postmortem_revisions r
         where r.incident_id = $1
           and ($3::boolean or r.status in ('in_review', 'published'))
        union all
        select c.at, 'status', c.id::text, c.actor,
               case
                 when c.from_status is null then 'Declared'
                 else 'Moved to ' || lower(replace(c.to_status, '_', ' '))
               end,
               null, null, null, c.reason, 1
          from status_changes c
         where c.incident_id = $1
        union all
        select a.at, 'note', a.id::text, a.author,
               case
                 when a.retracted then 'Retracted'
                 when p.id is null then 'Added'
                 when p.retracted then 'Restored'
                 else 'Changed'
               end,
               a.kind, null,
               json_build_object(
                 'text', left(a.body, 200),
                 'was', nullif(left(p.body, 200), left(a.body, 200)))::text,
               a.reason, 1
          from annotations a
          left join annotations p on p.id = a.supersedes
         where a.incident_id = $1
        union all
        select a.at, 'audit', lpad(a.seq::text, 20, '0'), a.actor, a.action, a.object, null,
               a.detail::text, null, 1
          from audit_log a
         where a.incident_id = $1
           and $4::boolean
           and a.action !~ '^(annotation|postmortem|timeline)\.'
           and a.action not in (
             'incident.create', 'incident.move', 'signal.attach', 'signal.detach')) e
     where $5::timestamptz is null
        or (at, kind, id) < ($5, $6::text, $7::text)
     order by at desc, kind desc, id desc
     limit $2) e
 order by at desc, kind desc, id desc"""


@routes.page("/incidents/{ref}/history", Access.READ)
async def history(q: Snapshot, ref: Ref, place: Paged, *, request: Request) -> Page:
    incident = await read_incident(q, ref)
    caller = q.principal
    place = place.model_copy(update={"limit": _MOST_EVENTS})
    order = str(incident.id)
    after = place.after(order, datetime, str, str) or (None, None, None)
    args = (incident.id, place.limit + 1, caller.may(Access.WRITE), caller.is_admin, *after)
    events = await q.fetch(_EVENTS, *args, operation="history")
    rows, older = place.cut(events, order, lambda row: (row["at"], row["kind"], row["id"]))
    context = {
        "item": incident,
        "events": [*map(_event, rows)],
        "names": await timeline.names(q, {row["actor"] for row in rows}),
        "next_url": next_page(request, older) if older else None,
    }
    return Page("history.html", context, size=LARGE)


def _event(row: Any) -> Mapping[str, object]:
    """Return an event for the template; of an edit also its value, and its time as it is typed."""
    value: Mapping[str, Any] = json.loads(row["value"] or "null") or {}
    to = ""
    if value.get("at"):
        to = stamp(micros(parse_time(value["at"])), Precision(value["precision"]))
    return {**row, "value": value, "to": to.removesuffix(".000000")}
