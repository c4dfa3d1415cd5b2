"""The page of one incident with its forms: status changes, annotations, timeline edits, signals, links, labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Final, Literal
from urllib.parse import urlencode
from uuid import UUID

from pydantic import BaseModel, Field, JsonValue, StringConstraints

from . import labels, links
from .aside import LARGE
from .db import Unit
from .durations import durations, marks, strip, turns
from .errors import ConflictError, FieldError, InvalidFieldsError, NotFoundError
from .incidents import api as incidents
from .incidents.access import Ref, Share, lock_active, missing, read_ref
from .incidents.model import MOVES, Incident, Move, Outcome
from .principal import Access
from .signals import api as signals
from .signals.model import Attached, Attachments, Precision, Signal, SignalQuery
from .timeline import api as timeline
from .timeline.kept import Group, NumberedPage, Wanted
from .timeline.model import (
    MODELS,
    STATES,
    AnnotationChange,
    AnnotationKind,
    Milestone,
    NewAnnotation,
    NewEdit,
    Op,
    micros,
)
from .timeline.view import Line, anchor, chart, clock, days, lines, stamp
from .web.body import Time, format_time
from .web.calls import Call, Fields, Fill, Matches, Now, Snapshot
from .web.forms import formed, read_typed_time
from .web.slices import Page, Routes

_ONE: Final = "/incidents/{ref}"
_SIGNAL: Final = re.compile(r"signal-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_SECONDS: Final = re.compile(r"\d:\d\d:\d\d(\.)?|-\d+ ?s$", re.ASCII)
_OFFSET: Final = re.compile(r"[+-]?\d{1,6}(\.\d{1,3})?", re.ASCII)
Word = Annotated[str, StringConstraints(max_length=200)]
_PAGE: Final = 100
"""The most entries of one page."""
_MOST_SAID: Final = _PAGE + 100  # Annotations; the API lists all.
_MOST_JOINED: Final = 100
_LETTERS: Final = 2000  # Characters of a signal's text and payload; a link leads to the rest.
_BEFORE: Final = timedelta(hours=1)  # The search for signals begins this long before the incident.
# A link in words, from either end.
_JOINED: Final = {
    "related": "Related to",
    "duplicate_of out": "Duplicate of",
    "duplicate_of in": "Has a duplicate,",
    "follows out": "Follows",
    "follows in": "Is followed by",
}
routes: Final = Routes("note")


# The page


class View(BaseModel, extra="forbid", frozen=True):
    """Which entries to show, which one to edit, which signals to search; `entry` selects its page."""

    view: Literal["all", "narrative"] = "all"
    hidden: bool = False
    known_as_of: Time | None = None
    text: Word = ""
    edit: Word = ""
    page: int = Field(1, ge=1, le=10_000)
    repeats: Literal["folded", "each"] = "folded"
    group: Group | None = None
    entry: Word = ""
    service: Word = ""
    source: Word = ""
    since: Word | None = Field(None, alias="from")
    until: Word = Field("", alias="to")


@dataclass(frozen=True, slots=True)
class Search:
    """A search for unassigned signals."""

    fields: Mapping[str, str]
    found: Sequence[Signal] | None = None
    errors: Sequence[FieldError] = ()


def _is_within(t: int, page: NumberedPage, view: View) -> bool:
    is_known = view.known_as_of is None or t <= micros(view.known_as_of)
    is_after = page.page == 1 or t >= page.entries[0].t
    return is_known and is_after and (not page.after or t < page.after[0].t)


async def _search(unit: Unit, incident: Incident, view: View, *, now: datetime) -> Search:
    until = incident.ended_at or now
    fields = {
        "service": view.service,
        "source": view.source,
        "from": view.since or f"{incident.declared_at - _BEFORE:%Y-%m-%d %H:%M}",
        "to": view.until or f"{until + _BEFORE:%Y-%m-%d %H:%M}",
    }
    if view.since is None:
        return Search(fields)
    try:
        query = formed(SignalQuery, {**fields, "attached": False})
    except InvalidFieldsError as refusal:
        return Search(fields, errors=refusal.errors)
    return Search(fields, (await signals.rows(unit, query))[: query.limit])


def _wanted(view: View) -> Wanted:
    turned = view.entry or view.edit
    return Wanted(
        page=view.page, known_as_of=view.known_as_of, include_hidden=view.hidden, is_narrative=view.view == "narrative",
        text=view.text, group=view.group, fold=view.repeats == "folded" and view.view == "all" and not (turned or view.group),
        entry=(lambda source, identity: anchor(source, identity) == turned) if turned else None,
    )  # fmt: skip


def _link(incident: Incident, shown: View, /, **changes: str) -> str:
    """Return the URL of this page with other parameters; an empty value removes one."""
    given = {**shown.model_dump(mode="json", by_alias=True, exclude_defaults=True), **changes}
    kept = {name: "true" if value is True else value for name, value in given.items() if value}
    return f"/incidents/{incident.ref}" + (f"?{urlencode(kept)}" if kept else "")


def _back(call: Call, _: str) -> Callable[[str], str]:
    path, given = f"/incidents/{call.request.path_params['ref']}", call.request.query_params.multi_items()

    def back(place: str) -> str:
        shown = given
        if place.startswith("e-") and "page" in call.request.query_params:  # It may be on another page now.
            shown = [(name, text) for name, text in given if name != "page"] + [("entry", place)]
        page = f"{path}?{urlencode(shown)}" if shown else path
        return f"{page}#{place}" if place else page

    return back


Back = Annotated[Callable[[str], str], Fill(_back)]
"""Returns the address of the page as it was, at a place."""


@routes.page(_ONE, Access.READ, stale=True)
async def show(q: Snapshot, ref: Ref, view: View, *, kept: timeline.Kept, now: Now, share: Share) -> Page:
    page = await kept.page(q, ref, _wanted(view), size=_PAGE)
    incident, entries = page.incident, page.entries
    joined, labelled = await links.of(q, incident.id), await labels.of(q, incident.id)
    share(incident.visibility, *(it.incident.visibility for it in joined))
    said = await timeline.said(q, incident.id, entries, limit=_MOST_SAID + 1)
    if view.known_as_of is not None:  # What is written about an entry, or about the whole, may be hindsight.
        said = [it for it in said if it.occurred_at is not None or it.at <= view.known_as_of]
    made = lines(
        entries,
        edits=await timeline.decided(q, incident.id, entries),
        remarks=said,
        reasons=page.reasons,
        contents=await timeline.contents(q, [it.signal_id for it in entries if it.signal_id], _LETTERS),
        repeats=page.repeats,
    )
    actors = {*(it.author for it in said), *(edit.actor for line in made for edit in line.decided)}
    is_now = view.known_as_of is None and incident.archived_at is None
    here = str(page.page) if page.pages > 1 else ""
    context = {
        "here": "incidents",
        "tab": "timeline",
        "item": incident,
        "view": view,
        "shown": page,
        "lines": made,
        "notes": [it for it in said if it.entry is None and it.occurred_at is None][:_MOST_SAID],
        "is_cut": len(said) > _MOST_SAID,
        "names": await timeline.names(q, actors),
        "labelled": labelled,
        "joined": joined[:_MOST_JOINED],
        "unlisted": len(joined[_MOST_JOINED:]),
        "joins": _JOINED,
        "link_types": list(links.LinkType),
        "moves": MOVES[incident.status],
        "outcomes": list(Outcome),
        "milestones": list(Milestone),
        "states": STATES,
        "kinds": [it for it in AnnotationKind if it != "decision" or q.principal.may(Access.WRITE)],
        "search": await _search(q, incident, view, now=now),
        "may_write": is_now and q.principal.may(Access.WRITE),
        "may_note": is_now and q.principal.may(Access.ANNOTATE),
        "link": partial(_link, incident, view),
        "query": "".join(_link(incident, view, edit="", entry="", page=here).partition("?")[1:]),
        "stamp": stamp,
        "clock": clock,
    }
    return Page("incident.html", context, size=LARGE, more=partial(_laid_out, page, made, view))


def _laid_out(page: NumberedPage, made: Sequence[Line], view: View) -> Mapping[str, object]:
    known = marks(page.marks)
    within = [it for it in turns(known) if _is_within(it.t, page, view)]
    return {
        "days": days(made, within),
        "chart": chart(made, within, page.stretches),
        "turns": turns(known),
        "strip": strip(durations(known, is_open=page.is_open)),
    }


@routes.form(f"{_ONE}/moves", Access.WRITE, again=show)
async def move(unit: Unit, ref: Ref, wish: Move, *, now: Now, back: Back) -> str:
    await incidents.transition(unit, ref, wish, now=now)
    return back("")


# Annotations


def _new_note(call: Call, _: str) -> NewAnnotation:
    fields = call.fields
    entry = {"source": fields["source"], "id": fields.get("id", "")} if "source" in fields else None
    when = fields.get("occurred_at", "").strip()
    precision = precision_of(when) if when else None
    when = f"{when} 00:00" if precision is Precision.DAY else when
    given = {**fields, "entry": entry, "occurred_at": when, "precision": precision}
    return formed(NewAnnotation, given, call.now)


NewNote = Annotated[NewAnnotation, Fill(_new_note)]


@routes.form(f"{_ONE}/notes", Access.ANNOTATE, again=show)
async def note(unit: Unit, ref: Ref, new: NewNote, *, now: Now, back: Back) -> str:
    added = await timeline.add_annotation(unit, ref, new, now=now)
    if new.entry is not None:
        return back(anchor(new.entry.source, new.entry.id))
    return back(anchor("human", f"annotation:{added.id}") if new.occurred_at else "notes")


@routes.form(f"{_ONE}/notes/{{root}}", Access.ANNOTATE, again=show)
async def renote(
    unit: Unit, ref: Ref, root: UUID, *, wish: AnnotationChange, fields: Fields, matches: Matches, back: Back
) -> str:
    incident, found = await lock_active(unit, ref), await timeline.find(unit, root)
    if found[0] != incident.id:
        raise NotFoundError("No such annotation")
    if fields.get("op") == "retract":
        await timeline.retract(unit, root, matches=matches)
        return back("timeline")
    return back(f"r-{(await timeline.change(unit, root, wish, matches=matches)).id}")


# Edits


def read_instant(text: str, now: datetime | None = None) -> dict[str, JsonValue]:
    text, precision = text.strip(), precision_of(text)
    at = read_typed_time(f"{text} 00:00" if precision is Precision.DAY else text, now)
    return {"at": format_time(at), "precision": precision}


def precision_of(text: str) -> Precision:
    """Return how exactly a typed time is known: `now` is exact, `-30s` to the second, `-5m` and `10:04` to the minute."""
    text = text.strip().lower()
    if _DAY.fullmatch(text):
        return Precision.DAY
    if text == "now":
        return Precision.EXACT
    seconds = _SECONDS.search(text)
    return Precision.MINUTE if seconds is None else Precision.EXACT if seconds[1] else Precision.SECOND


def read_edit(fields: Mapping[str, str], now: datetime | None = None) -> NewEdit:
    """Parse an edit from the fields of a form.

    `op` is the operation; `source` and `id` name the entry, `value` is the input. An empty time or title undoes the
    correction. Clock offsets are in seconds.
    """
    if (op := fields.get("op", "")) not in MODELS:
        raise _wrong("/op", "unknown", "is not an edit: reload the page and try again")
    try:
        value = _value(Op(op), fields, now)
    except ValueError as error:
        raise _wrong("/value", "value", str(error)) from None
    entry = {"source": fields.get("source", ""), "id": fields.get("id", "")}
    return formed(MODELS[op], {**fields, "entry": entry, "value": value})


def _value(op: Op, fields: Mapping[str, str], now: datetime | None) -> JsonValue:
    typed = fields.get("value", "")
    if op is Op.SET_TIME:
        # Without `now`: a bare `10:04` would move an entry of another day to today.
        return read_instant(typed) if typed.strip() else None
    if op is Op.SET_TITLE:
        return {"title": typed} if typed.strip() else None
    if op is Op.MILESTONE:
        at: dict[str, JsonValue] = read_instant(typed, now) if typed.strip() else {"at": None}
        return {"name": fields.get("name", ""), **at}
    if op is Op.CLOCK_OFFSET:
        if _OFFSET.fullmatch(typed.strip()) is None:
            raise ValueError("must be a number of seconds, such as 120 or -90.5")
        return {"ms": round(float(typed) * 1000)}
    return None


def _wish(call: Call, _: str) -> NewEdit | Attachments | UUID:
    """Return the edit, the signals to attach, or the signal to detach."""
    fields = call.fields
    if fields.get("op") == Op.ATTACH:
        ids = [UUID(name.removeprefix("signal-")) for name in fields if _SIGNAL.fullmatch(name)]
        if not ids:
            raise _wrong("/", "required", "choose at least one signal")
        return Attachments(ids=ids)
    if fields.get("op") == Op.DETACH:
        try:
            return UUID(fields.get("signal", ""))
        except ValueError:
            raise signals.missing() from None
    return read_edit(fields, call.now)


def _wrong(pointer: str, code: str, message: str) -> InvalidFieldsError:
    return InvalidFieldsError("Some fields are invalid", errors=[FieldError(pointer, code, message)])


Wish = Annotated[NewEdit | Attachments | UUID, Fill(_wish)]


@routes.form(f"{_ONE}/edits", Access.WRITE, again=show)
async def edit(unit: Unit, ref: Ref, wish: Wish, *, fields: Fields, now: Now, back: Back) -> str:
    if isinstance(wish, Attachments):
        done = await signals.attach(unit, ref, wish)
        if any(it.result is Attached.FULL for it in done.results):
            raise ConflictError(f"Not attached: {signals.full(await lock_active(unit, ref))}")
        return back("timeline")
    if isinstance(wish, UUID):
        await signals.detach(unit, ref, wish)
        return back("timeline")
    await timeline.add_edit(unit, ref, wish, now=now)
    has_entry = {"source", "id"} <= fields.keys() and wish.op != "hide"
    return back(anchor(fields["source"], fields["id"]) if has_entry else "timeline")


# Links


@routes.form(f"{_ONE}/links", Access.WRITE, again=show)
async def link(unit: Unit, ref: Ref, new: links.NewLink, *, fields: Fields, back: Back) -> str:
    to = new.to.strip().upper()
    if fields.get("op") != "unlink":
        await links.link(unit, ref, new.model_copy(update={"to": to}))
    elif (there := read_ref(to)) is None:
        raise missing()
    else:
        ends = (there, ref) if fields.get("direction") == "in" else (ref, there)
        await links.unlink(unit, *ends, type=new.type)
    return back("")


# Labels


@routes.form(f"{_ONE}/labels", Access.WRITE, again=show)
async def label(unit: Unit, ref: Ref, *, fields: Fields, matches: Matches, back: Back) -> str:
    given = fields.get("labels", "").strip() or list[str]()  # An emptied field removes all.
    await labels.replace(unit, ref, formed(labels.Labels, {"labels": given}), matches=matches)
    return back("")
