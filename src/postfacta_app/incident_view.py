"""The content of an incident's page: its status, its timeline, the input of its forms."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Final, Literal, Protocol, Self
from urllib.parse import urlencode
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from postfacta_core.clock import WALL, Clock

from . import links
from .aside import LARGE, aside
from .db import Transactions
from .durations.model import Mark, durations, marks
from .durations.view import strip, turns
from .errors import FieldError
from .incidents import service
from .incidents.model import MOVES, Incident, Outcome
from .incidents.service import allow_stale_incidents, parse_ref
from .principal import Access, Principal
from .signals import service as signals
from .signals.model import Signal, SignalQuery
from .timeline import annotations as remarks, http as timeline
from .timeline.annotations import AnnotationKind, ShownAnnotation
from .timeline.edits import ShownEdit
from .timeline.lanes import chart
from .timeline.model import Content, Entry, Facts, Milestone, micros
from .timeline.query import NumberedPage, Wanted
from .timeline.rules import build
from .timeline.view import Line, Turn, anchor, days, is_narrative, lines, stamp
from .web.body import Time, read_query
from .web.forms import Refusal, new_key, parse
from .web.render import Pages

__all__ = ["IncidentView", "Needs", "Store", "Typed", "Visit", "visit_of"]

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


class Store(timeline.Store, Protocol):
    """Stores the facts of timelines, the content of signals, and names of actors."""

    async def page(
        self, principal: Principal, ref: UUID | int, wanted: Wanted, *, size: int
    ) -> NumberedPage | None:
        """Read a page; None if the caller may not see the incident, or its timeline is not kept yet."""
        ...

    async def decided(self, incident_id: UUID, entries: Sequence[Entry]) -> Sequence[ShownEdit]:
        """List the effective edits of these entries."""
        ...

    async def said(
        self, incident_id: UUID, entries: Sequence[Entry], limit: int
    ) -> Sequence[ShownAnnotation]:
        """List annotations on these entries or on the incident as a whole, oldest first."""
        ...

    async def contents(self, signals: Sequence[UUID], letters: int) -> Mapping[UUID, Content]:
        """Read the beginnings of the signals' contents."""
        ...

    async def names(self, actors: Collection[str]) -> Mapping[str, str]:
        """Return the display names of actors."""
        ...


class View(BaseModel):
    """Which entries to show, which one to edit, which signals to search; `entry` selects its page."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    view: Literal["all", "narrative"] = "all"
    hidden: bool = False
    known_as_of: Time | None = None
    edit: Word = ""
    page: int = Field(1, ge=1, le=10_000)
    entry: Word = ""
    service: Word = ""
    source: Word = ""
    since: Word | None = Field(None, alias="from")
    until: Word = Field("", alias="to")


@dataclass(frozen=True, slots=True)
class Typed:
    """The input of a form that was not saved; without a refusal there is none.

    Attributes:
        form: Its name on the page.
    """

    form: str = ""
    fields: Mapping[str, str] = field(default_factory=dict[str, str])
    refusal: Refusal | None = None

    def value(self, form: str, name: str, default: str) -> str:
        """Return the input of a field."""
        return self.fields.get(name, "") if form == self.form else default

    def wrong(self, form: str, name: str) -> str:
        """Return the error message of a field, if any."""
        return self.refusal.by_field.get(name, "") if self.refusal and form == self.form else ""

    def key(self, form: str) -> str:
        """Return the idempotency key of a form, so that sending it again has one effect."""
        is_same = form == self.form and self.refusal is not None and not self.refusal.is_spent
        return (self.fields.get("key") if is_same else None) or new_key()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One page of a timeline.

    Attributes:
        entries: The entries of this page.
        page: Its number, from 1.
        count: How many entries the view has.
        hidden: How many entries are hidden.
        known: The milestones of the incident.
        turns: The milestones within this page.
        is_open: Whether the incident is open.
    """

    entries: Sequence[Entry]
    page: int
    count: int
    hidden: int
    known: Mapping[str, Mark]
    turns: Sequence[Turn]
    is_open: bool

    @classmethod
    def kept(cls, page: NumberedPage, view: View) -> Self:
        """Return the page that was read."""
        known = {name: Mark.of(*mark) for name, mark in page.marks.items()}
        return cls(
            entries=page.entries,
            page=page.page,
            count=page.count,
            hidden=page.hidden,
            known=known,
            turns=_turns(known, view, entries=page.entries, after=page.after, is_first=page.page == 1),
            is_open=page.is_open,
        )

    @classmethod
    def of(cls, facts: Facts, view: View) -> Self:
        """Build the timeline and select the page."""
        whole = build(facts, include_hidden=True)
        until = None if view.known_as_of is None else micros(view.known_as_of)
        then = whole if until is None else build(facts, known_as_of=until, include_hidden=True)
        shown = [
            it
            for it in then.entries
            if (view.hidden or not it.hidden) and (view.view == "all" or is_narrative(it))
        ]
        at = view.page - 1
        if turned := view.entry or view.edit:
            places = (n for n, it in enumerate(shown) if anchor(it.source, it.id) == turned)
            at = next(places, at * _PAGE) // _PAGE
        at = min(at, max(0, len(shown) - 1) // _PAGE)
        entries, after = shown[at * _PAGE : (at + 1) * _PAGE], shown[(at + 1) * _PAGE :]
        known, is_open = marks(facts, whole)
        return cls(
            entries=entries,
            page=at + 1,
            count=len(shown),
            hidden=sum(it.hidden for it in then.entries),
            known=known,
            turns=_turns(known, view, entries=entries, after=after, is_first=at == 0),
            is_open=is_open,
        )


def _turns(
    known: Mapping[str, Mark], view: View, *, entries: Sequence[Entry], after: Sequence[Entry], is_first: bool
) -> list[Turn]:
    """Return the milestones within a page."""
    until = None if view.known_as_of is None else micros(view.known_as_of)
    return [
        it
        for it in turns(known)
        if (until is None or it.t <= until)
        and (is_first or it.t >= entries[0].t)
        and (not after or it.t < after[0].t)
    ]


@dataclass(frozen=True, slots=True)
class Told:
    """The lines of a page, and the annotations on the incident as a whole."""

    seen: Seen
    lines: Sequence[Line]
    notes: Sequence[ShownAnnotation]
    is_cut: bool

    @property
    def is_short(self) -> bool:
        """Whether the page holds the forms of all entries; else each entry links to them."""
        return self.seen.count <= _PAGE

    @property
    def first(self) -> int:
        """The number of the first entry of the page, from 1."""
        return (self.seen.page - 1) * _PAGE + 1

    @property
    def pages(self) -> int:
        """How many pages there are."""
        return -(-self.seen.count // _PAGE)

    @property
    def actors(self) -> set[str]:
        """The actors of everything shown."""
        remarks = [*self.notes, *(it for line in self.lines for it in (*line.beneath, line.remark) if it)]
        decided = [edit.actor for line in self.lines for edit in line.decided]
        return {*decided, *(it.author for it in remarks)}


@dataclass(frozen=True, slots=True)
class Search:
    """A search for unassigned signals."""

    fields: Mapping[str, str]
    found: Sequence[Signal] | None = None
    errors: Sequence[FieldError] = ()


@dataclass(frozen=True, slots=True)
class Visit:
    """The caller, and the requested view of the page."""

    request: Request
    principal: Principal
    view: View

    @property
    def ref(self) -> UUID | int:
        """The incident's id or number."""
        return parse_ref(self.request)


@dataclass(frozen=True, slots=True)
class Needs:
    """The stores of incidents, timelines and signals."""

    incidents: service.Store
    timelines: Store
    signals: signals.Store


class IncidentView:
    """Shows the page of one incident.

    Args:
        transactions: Reads.
        needs: The stores it reads.
        pages: Renders templates.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, transactions: Transactions, needs: Needs, pages: Pages, *, clock: Clock = WALL
    ) -> None:
        self._transactions = transactions
        self._needs = needs
        self._pages = pages
        self._clock = clock

    async def page(
        self, visit: Visit, typed: Typed, *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Show the page, with the input of a form that was not saved."""
        principal, view = visit.principal, visit.view
        kept = await self._needs.timelines.page(principal, visit.ref, _wanted(view), size=_PAGE)
        if kept is not None:
            incident, reasons, seen = kept.incident, kept.reasons, Seen.kept(kept, view)
        elif (found := await self._needs.timelines.facts(principal, visit.ref)) is not None:
            incident, facts = found
            reasons = {f"{it.id}": it.reason for it in facts.changes}
            seen = await aside(facts.size, Seen.of, facts, view)
        else:
            raise service.missing()
        joined = await links.of(self._transactions.reader(principal), incident.id)
        allow_stale_incidents(visit.request, [incident, *(it.incident for it in joined)])
        told = await self._told(incident, reasons, seen)
        names = await self._needs.timelines.names(told.actors)
        search = await self._search(visit, incident)
        is_now = view.known_as_of is None and incident.archived_at is None
        here = str(seen.page) if told.pages > 1 else ""

        def draw() -> Response:
            context = {
                "here": "incidents",
                "tab": "timeline",
                "item": incident,
                "view": view,
                "typed": typed,
                "shown": told,
                "days": days(told.lines, seen.turns),
                "chart": chart(told.lines, seen.turns),
                "turns": turns(seen.known),
                "strip": strip(durations(seen.known, is_open=seen.is_open)),
                "names": names,
                "joined": joined[:_MOST_JOINED],
                "unlisted": len(joined[_MOST_JOINED:]),
                "joins": _JOINED,
                "link_types": list(links.LinkType),
                "moves": MOVES[incident.status],
                "outcomes": list(Outcome),
                "milestones": list(Milestone),
                "states": remarks.STATES,
                "kinds": [it for it in AnnotationKind if it != "decision" or principal.may(Access.WRITE)],
                "search": search,
                "may_write": is_now and principal.may(Access.WRITE),
                "may_note": is_now and principal.may(Access.ANNOTATE),
                "link": partial(_link, incident, view),
                "query": "".join(_link(incident, view, edit="", entry="", page=here).partition("?")[1:]),
                "stamp": stamp,
            }
            return self._pages.page(
                "incident.html", context, principal=principal, status=status, headers=headers
            )

        return await aside(LARGE, draw)

    async def _told(self, incident: Incident, reasons: Mapping[str, str | None], seen: Seen) -> Told:
        timelines, entries = self._needs.timelines, seen.entries
        said = await timelines.said(incident.id, entries, _MOST_SAID + 1)
        made = lines(
            entries,
            edits=await timelines.decided(incident.id, entries),
            remarks=said,
            reasons=reasons,
            contents=await timelines.contents([it.signal_id for it in entries if it.signal_id], _LETTERS),
        )
        loose = [it for it in said if it.entry is None and it.occurred_at is None]
        return Told(seen, made, loose[:_MOST_SAID], len(said) > _MOST_SAID)

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


def _wanted(view: View) -> Wanted:
    turned = view.entry or view.edit
    return Wanted(
        page=view.page,
        known_as_of=view.known_as_of,
        include_hidden=view.hidden,
        is_narrative=view.view == "narrative",
        entry=(lambda source, identity: anchor(source, identity) == turned) if turned else None,
    )


def visit_of(request: Request, principal: Principal) -> Visit:
    """Return the requested view of the page."""
    return Visit(request, principal, read_query(request, View, is_page=True))


def _link(incident: Incident, shown: View, /, **changes: str) -> str:
    """Return the URL of this page with other parameters; an empty value removes one."""
    given = {**shown.model_dump(mode="json", by_alias=True, exclude_defaults=True), **changes}
    kept = {name: "true" if value is True else value for name, value in given.items() if value}
    return f"/incidents/{incident.ref}" + (f"?{urlencode(kept)}" if kept else "")
