"""What the page of one incident shows: its state, its timeline, what is typed into its forms."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Final, Literal, Protocol
from urllib.parse import urlencode
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from postfacta_core.clock import WALL, Clock

from .durations.model import durations, marks
from .durations.view import strip, turns
from .errors import FieldError
from .incidents import service
from .incidents.http import allow_stale_incidents, parse_ref
from .incidents.model import MOVES, Incident, Outcome
from .links import service as links
from .links.model import LinkType
from .principal import Access, Principal
from .signals import service as signals
from .signals.model import Signal, SignalQuery
from .timeline import annotations as remarks, http as timeline
from .timeline.annotations import AnnotationKind, ShownAnnotation
from .timeline.lanes import chart
from .timeline.model import Content, Facts, Milestone, micros
from .timeline.rules import build
from .timeline.view import Line, days, is_narrative, lines, stamp
from .web.body import Time, read_query
from .web.forms import Refusal, new_key, parse
from .web.render import Pages

__all__ = ["IncidentView", "Needs", "Store", "Typed", "Visit", "visit_of"]

Word = Annotated[str, StringConstraints(max_length=200)]
_MOST: Final = 5000  # Of edits and of remarks: who and why of what comes after is in the history alone.
_LETTERS: Final = 2000  # Of a signal's text and payload; all of it is a link away.
_SHORT: Final = 100
_BEFORE: Final = timedelta(hours=1)  # Signals are looked for from so long before the incident.
# What a link is, seen from either end.
_JOINED: Final = {
    "related": "Related to",
    "duplicate_of out": "Duplicate of",
    "duplicate_of in": "Has a duplicate,",
    "follows out": "Follows",
    "follows in": "Is followed by",
}


class Store(timeline.Store, Protocol):
    """Where the facts of timelines are kept, what signals say, and who signed them."""

    async def contents(self, signals: Sequence[UUID], letters: int) -> Mapping[UUID, Content]:
        """Read the beginnings of what signals say."""
        ...

    async def names(self, actors: Collection[str]) -> Mapping[str, str]:
        """Tell what people call those who signed facts."""
        ...


class View(BaseModel):
    """Which entries are shown, which one is edited, and for which signals to look."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    view: Literal["all", "narrative"] = "all"
    hidden: bool = False
    known_as_of: Time | None = None
    edit: Word = ""
    service: Word = ""
    source: Word = ""
    since: Word | None = Field(None, alias="from")
    until: Word = Field("", alias="to")


@dataclass(frozen=True, slots=True)
class Typed:
    """A form that was not saved, as it was sent; without a refusal there is none.

    Attributes:
        form: Its name on the page.
    """

    form: str = ""
    fields: Mapping[str, str] = field(default_factory=dict[str, str])
    refusal: Refusal | None = None

    def value(self, form: str, name: str, default: str) -> str:
        """Give what was typed into a field."""
        return self.fields.get(name, "") if form == self.form else default

    def wrong(self, form: str, name: str) -> str:
        """Tell which rule a field breaks, if it does."""
        return self.refusal.by_field.get(name, "") if self.refusal and form == self.form else ""

    def key(self, form: str) -> str:
        """Give the idempotency key of a form: what is sent again has one effect."""
        is_same = form == self.form and self.refusal is not None and not self.refusal.is_spent
        return (self.fields.get("key") if is_same else None) or new_key()


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of an incident: its entries, what was said about it as a whole, how many entries are hidden."""

    lines: Sequence[Line]
    notes: Sequence[ShownAnnotation]
    hidden: int

    @property
    def is_short(self) -> bool:
        """Whether every entry has its forms on the page; else each leads to them, and the page stays light."""
        return len(self.lines) <= _SHORT

    @property
    def actors(self) -> set[str]:
        """Whoever signed something that is shown."""
        remarks = [*self.notes, *(it for line in self.lines for it in (*line.beneath, line.remark) if it)]
        decided = [edit.actor for line in self.lines for edit in line.decided]
        return {*decided, *(it.author for it in remarks)}


@dataclass(frozen=True, slots=True)
class Search:
    """A search for signals that no incident has."""

    fields: Mapping[str, str]
    found: Sequence[Signal] | None = None
    errors: Sequence[FieldError] = ()


@dataclass(frozen=True, slots=True)
class Visit:
    """Somebody who asks for the page, and how it is to be shown."""

    request: Request
    principal: Principal
    view: View

    @property
    def ref(self) -> UUID | int:
        """Which incident it is."""
        return parse_ref(self.request)


@dataclass(frozen=True, slots=True)
class Needs:
    """Where incidents are, the facts of their timelines, signals, and what joins incidents."""

    incidents: service.Store
    timelines: Store
    signals: signals.Store
    links: links.Store


class IncidentView:
    """Shows the page of one incident.

    Args:
        needs: What it reads.
        pages: Renders.
        clock: Seconds since the epoch.
    """

    def __init__(self, needs: Needs, pages: Pages, *, clock: Clock = WALL) -> None:
        self._needs = needs
        self._pages = pages
        self._clock = clock

    async def page(
        self, visit: Visit, typed: Typed, *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Show all of it, and in the form that was not saved what was typed."""
        principal, view = visit.principal, visit.view
        found = await self._needs.timelines.facts(principal, visit.ref)
        if found is None:
            raise service.missing()
        incident, facts = found
        joined = await self._needs.links.of(principal, incident.id)
        allow_stale_incidents(visit.request, [incident, *(it.incident for it in joined)])
        told = await self._told(incident, facts, view)
        shown = [line for line in told.lines if view.view == "all" or is_narrative(line)]
        known, is_open = marks(facts)
        until = None if view.known_as_of is None else micros(view.known_as_of)
        across = [turn for turn in turns(known) if until is None or turn.t <= until]
        is_now = until is None and incident.archived_at is None
        context = {
            "here": "incidents",
            "tab": "timeline",
            "item": incident,
            "view": view,
            "typed": typed,
            "told": told,
            "days": days(shown, across),
            "chart": chart(shown, across),
            "turns": turns(known),
            "strip": strip(durations(known, is_open=is_open)),
            "names": await self._needs.timelines.names(told.actors),
            "joined": joined,
            "joins": _JOINED,
            "link_types": list(LinkType),
            "moves": MOVES[incident.status],
            "outcomes": list(Outcome),
            "milestones": list(Milestone),
            "states": remarks.STATES,
            "kinds": [kind for kind in AnnotationKind if kind != "decision" or principal.may(Access.WRITE)],
            "search": await self._search(visit, incident),
            "may_write": is_now and principal.may(Access.WRITE),
            "may_note": is_now and principal.may(Access.ANNOTATE),
            "link": partial(_link, incident, view),
            "query": "".join(_link(incident, view, edit="").partition("?")[1:]),
            "stamp": stamp,
        }
        return self._pages.page("incident.html", context, principal=principal, status=status, headers=headers)

    async def _told(self, incident: Incident, facts: Facts, view: View) -> Told:
        until = None if view.known_as_of is None else micros(view.known_as_of)
        entries = build(facts, known_as_of=until, include_hidden=True).entries
        shown = [entry for entry in entries if view.hidden or not entry.hidden]
        said = await self._needs.timelines.annotations(incident.id, None, _MOST)
        made = lines(
            shown,
            edits=await self._needs.timelines.edits(incident.id, None, _MOST),
            remarks=said,
            moves=facts.changes,
            contents=await self._needs.timelines.contents(
                [it.signal_id for it in shown if it.signal_id], _LETTERS
            ),
        )
        loose = [it for it in said if it.entry is None and it.occurred_at is None]
        return Told(made, loose, sum(entry.hidden for entry in entries))

    async def _search(self, visit: Visit, incident: Incident) -> Search:
        view = visit.view
        until = incident.ended_at or self._now()
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
        return Search(fields, (await self._needs.signals.page(visit.principal, query))[: query.limit])

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def visit_of(request: Request, principal: Principal) -> Visit:
    """Read how the page is to be shown."""
    return Visit(request, principal, read_query(request, View))


def _link(incident: Incident, shown: View, /, **changes: str) -> str:
    """Give the address of this page with another view of it; an empty value takes a filter away."""
    given = {**shown.model_dump(mode="json", by_alias=True, exclude_defaults=True), **changes}
    kept = {name: "true" if value is True else value for name, value in given.items() if value}
    return f"/incidents/{incident.ref}" + (f"?{urlencode(kept)}" if kept else "")
