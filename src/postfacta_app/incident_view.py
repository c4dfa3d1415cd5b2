"""The content of an incident's page: its status and its timeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Final, Literal
from urllib.parse import urlencode
from uuid import UUID

from pydantic import BaseModel, Field, StringConstraints

from . import links
from .db import Unit
from .durations.model import Mark, durations
from .durations.view import strip, turns
from .errors import FieldError
from .incidents.model import MOVES, Incident, Outcome
from .principal import Access, Principal
from .signals import postgres as signals
from .signals.model import Signal, SignalQuery
from .timeline import postgres as timelines
from .timeline.annotations import STATES, AnnotationKind, ShownAnnotation
from .timeline.kept import KeptTimelines
from .timeline.lanes import chart
from .timeline.model import Milestone, micros
from .timeline.query import Group, NumberedPage, Wanted
from .timeline.view import Line, anchor, clock, days, lines, stamp
from .web.body import Time
from .web.forms import parse

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What was read for a page of the timeline; `notes` are annotations on the incident as a whole."""

    view: View
    page: NumberedPage
    lines: Sequence[Line]
    notes: Sequence[ShownAnnotation]
    is_cut: bool
    names: Mapping[str, str]
    search: Search

    @property
    def is_short(self) -> bool:
        """Whether the page holds the forms of all entries; else each entry links to them."""
        return self.page.total <= _PAGE

    @property
    def is_folded(self) -> bool:
        """Whether some lines stand for several entries."""
        return self.page.total > self.page.count

    @property
    def first(self) -> int:
        """The number of the first entry of the page, from 1."""
        return (self.page.page - 1) * _PAGE + 1

    @property
    def pages(self) -> int:
        return -(-self.page.count // _PAGE)


async def read_page(unit: Unit, ref: UUID | int, view: View, *, kept: KeptTimelines) -> NumberedPage:
    return await kept.page(unit, ref, _wanted(view), size=_PAGE)


async def read_shown(unit: Unit, view: View, *, page: NumberedPage, now: datetime) -> Shown:
    incident, entries = page.incident, page.entries
    said = await timelines.said(unit, incident.id, entries, limit=_MOST_SAID + 1)
    if view.known_as_of is not None:  # What is written about an entry, or about the whole, may be hindsight.
        said = [it for it in said if it.occurred_at is not None or it.at <= view.known_as_of]
    made = lines(
        entries,
        edits=await timelines.decided(unit, incident.id, entries),
        remarks=said,
        reasons=page.reasons,
        contents=await timelines.contents(unit, [it.signal_id for it in entries if it.signal_id], _LETTERS),
        repeats=page.repeats,
    )
    actors = {*(it.author for it in said), *(edit.actor for line in made for edit in line.decided)}
    return Shown(
        view=view, page=page, lines=made, is_cut=len(said) > _MOST_SAID,
        notes=[it for it in said if it.entry is None and it.occurred_at is None][:_MOST_SAID],
        names=await timelines.names(unit, actors), search=await _search(unit, incident, view, now=now),
    )  # fmt: skip


def context(
    shown: Shown, joined: Sequence[links.IncidentLink], *, principal: Principal
) -> Mapping[str, object]:
    view, page, incident = shown.view, shown.page, shown.page.incident
    known = {name: Mark.of(*mark) for name, mark in page.marks.items()}
    within = [it for it in turns(known) if _is_within(it.t, page, view)]
    is_now = view.known_as_of is None and incident.archived_at is None
    here = str(page.page) if shown.pages > 1 else ""
    return {
        "item": incident,
        "view": view,
        "shown": shown,
        "days": days(shown.lines, within),
        "chart": chart(shown.lines, within, page.stretches),
        "turns": turns(known),
        "strip": strip(durations(known, is_open=page.is_open)),
        "names": shown.names,
        "joined": joined[:_MOST_JOINED],
        "unlisted": len(joined[_MOST_JOINED:]),
        "joins": _JOINED,
        "link_types": list(links.LinkType),
        "moves": MOVES[incident.status],
        "outcomes": list(Outcome),
        "milestones": list(Milestone),
        "states": STATES,
        "kinds": [it for it in AnnotationKind if it != "decision" or principal.may(Access.WRITE)],
        "search": shown.search,
        "may_write": is_now and principal.may(Access.WRITE),
        "may_note": is_now and principal.may(Access.ANNOTATE),
        "link": partial(_link, incident, view),
        "query": "".join(_link(incident, view, edit="", entry="", page=here).partition("?")[1:]),
        "stamp": stamp,
        "clock": clock,
    }


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
    query = parse(SignalQuery, {**fields, "attached": False})
    if isinstance(query, tuple):
        return Search(fields, errors=query)
    return Search(fields, (await signals.page(unit, query))[: query.limit])


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
