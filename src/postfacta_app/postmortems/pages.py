"""The pages of a post-mortem: read, edit a section at a time, change status, revisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import unified_diff
from typing import Annotated, Final

from pydantic import BaseModel, Field
from starlette.requests import Request

from .. import actions
from ..aside import LARGE
from ..db import Query, Reader, Unit
from ..errors import NotFoundError, PreconditionFailedError
from ..incidents.access import Ref, Share, lock_active, ref_text, seen
from ..incidents.model import Incident
from ..principal import Access
from ..timeline.api import Kept, names as names_of
from ..timeline.kept import Wanted
from ..timeline.model import Entry, EntryRef, moment
from ..timeline.view import anchor, clock
from ..web.body import parse
from ..web.forms import Typed, fields_of
from ..web.paging import Paged, next_page
from ..web.slices import Call, Fields, Fill, Page, Snapshot
from . import api, model
from .api import Follows, Rev, number, read_revision, restore, routes, transition, write
from .form import LISTS, MOST_ROWS, SECTIONS, draft, entry_text, label, rows, shown, typed as typed_form

_ONE: Final = "/incidents/{ref}/postmortem"
_MOST: Final = 500  # Entries that a page lists or a form offers.
_MOST_CHANGED: Final = 100  # Entries that a page lists; the API lists all.


def _section(call: Call, name: str) -> str:
    section: str = call.request.path_params[name]
    if section not in SECTIONS:
        raise NotFoundError("No such section of a post-mortem")
    return section


Section = Annotated[str, Fill(_section)]


@routes.page(_ONE, Access.READ, stale=True)
async def read(q: Snapshot, ref: Ref, *, typed: Typed, share: Share, kept: Kept) -> Page:
    if typed.is_away:
        return Page("postmortem_unsaved.html", {"here": "incidents", "ref": ref_text(ref)})
    told = await kept.page(q, ref, Wanted(is_narrative=True), size=_MOST)
    incident = told.incident
    last = await api.find(q, incident.id)
    content, acted = last.content if last else model.Content(), await actions.of(q, incident.id)
    moved = (await api.compared(q, last)).timeline_changes if last else None
    differing = _changed(moved) if moved else ()
    share(incident.visibility)
    stage = last.status if last else None
    context = {
        "revision": last,
        "content": content,
        "headline": _headline(moved) if moved else None,
        "changed": differing[:_MOST_CHANGED],
        "unlisted": len(differing[_MOST_CHANGED:]),
        "cited": await _cited(q, incident, content, kept=kept),
        "narrative": [_mention(it) for it in told.entries],
        "actions": acted,
        "missing": model.lacks(content, has_owners=all(it.owner for it in acted if it.is_open)),
        "moves": [it for it in model.MOVES[stage] if it is not model.Stage.WAIVED],
        "may_waive": model.Stage.WAIVED in model.MOVES[stage],
        "transition": fields_of(model.Transition),
        "names": await names_of(q, {last.author} if last else set()),
    }
    return _page("postmortem.html", q, incident, **context)


@routes.page(f"{_ONE}/revisions", Access.READ)
async def listed(q: Reader, ref: Ref, query: Paged, *, request: Request) -> Page:
    incident = await seen(q, ref)
    page = await api.revisions(q, incident.id, query)
    names = await names_of(q, {it.author for it in page.items})
    more = next_page(request, page.next_cursor) if page.next_cursor else None
    return _page("revisions.html", q, incident, revisions=page.items, names=names, next_url=more)


class RevisionQuery(BaseModel, extra="forbid", frozen=True):
    """What to compare a revision with."""

    against: int | None = Field(None, ge=1, le=2**31 - 1)


@routes.page(f"{_ONE}/revisions/{{rev}}", Access.READ)
async def revision(q: Snapshot, ref: Ref, query: RevisionQuery, *, rev: Rev, kept: Kept) -> Page:
    incident = await seen(q, ref)
    asked = await read_revision(q, incident.id, rev)
    against = query.against and await read_revision(q, incident.id, query.against)
    context = {
        "revision": asked,
        "last": await api.find(q, incident.id),
        "against": against,
        "differences": compare(against.content, asked.content) if against else None,
        "cited": await _cited(q, incident, asked.content, kept=kept),
        "names": await names_of(q, {asked.author}),
    }
    return _page("revision.html", q, incident, **context)


@routes.page(f"{_ONE}/edit/{{section}}", Access.WRITE)
async def edit(q: Snapshot, ref: Ref, *, section: Section, typed: Typed, kept: Kept) -> Page:
    entries: Sequence[Entry] = ()
    incident, last = None, None
    if not typed.is_away:
        offered = await kept.page(q, ref, Wanted(), size=_MOST)
        if offered.after:
            offered = await kept.page(q, ref, Wanted(is_narrative=True), size=_MOST)
        incident, entries = offered.incident, offered.entries
        last = await api.find(q, incident.id)
    if refusal := typed.refusal:
        form, rev = typed_form(section, typed.fields), number(typed.fields.get("rev", ""))
    else:
        form, rev = shown(section, last.content if last else model.Content()), last.rev if last else 0
    is_outdated = refusal is not None and (
        refusal.status == PreconditionFailedError.status or refusal.is_spent
    )
    there = last.content if last and is_outdated else None
    context = {
        "here": "incidents",
        "ref": incident.ref if incident else ref_text(ref),
        "section": section,
        "title": SECTIONS[section],
        "is_list": section in LISTS,
        "form": {**form, "message": typed.fields.get("message", "")},
        "count": min(len(rows(section, form)) + 1, MOST_ROWS),
        "rev": (last.rev if last else 0) if is_outdated and incident else rev,
        "there": there,
        "cited": await _cited(q, incident, there, kept=kept) if there and incident else {},
        "entries": [_mention(it) for it in entries],
        "errors": refusal.by_field if refusal else {},
        "labels": {name: label(name) for name in refusal.by_field} if refusal else {},
        "kinds": list(model.TriggerKind),
        "categories": list(model.Category),
        "sections": SECTIONS,
    }
    return Page("postmortem_edit.html", context, size=LARGE)


@routes.form(f"{_ONE}/edit/{{section}}", Access.WRITE, again=edit)
async def save(unit: Unit, ref: Ref, *, section: Section, fields: Fields, follows: Follows) -> str:
    form, rev = typed_form(section, fields), number(fields.get("rev", ""))
    incident = await lock_active(unit, ref)
    base = await api.find(unit, incident.id, rev) if rev else None
    last = await api.find(unit, incident.id)
    content = base.content if base else model.Content()
    if last and (base or not rev) and shown(section, content) == shown(section, last.content):
        content, follows = last.content, _follow_anything  # Others changed other sections only.
    await write(unit, ref, draft(content, section, form, message=fields.get("message", "")), follows=follows)
    path = f"/incidents/{incident.ref}/postmortem"
    return f"{path}/edit/{section}" if "more" in fields else f"{path}#{section}"


@routes.form(f"{_ONE}/moves", Access.WRITE, again=read)
async def move(unit: Unit, ref: Ref, *, fields: Fields, follows: Follows) -> str:
    wish = {"to": fields.get("to", ""), "message": fields.get("message", "").strip() or None}
    incident = await lock_active(unit, ref)
    await transition(unit, ref, parse(model.Transition, wish), follows=follows)
    return f"/incidents/{incident.ref}/postmortem"


@routes.form(f"{_ONE}/restore", Access.WRITE, again=read)
async def restore_form(unit: Unit, ref: Ref, *, fields: Fields, follows: Follows) -> str:
    wish = parse(model.Restore, {"rev": number(fields.get("restore", ""))})
    incident = await lock_active(unit, ref)
    await restore(unit, ref, wish, follows=follows)
    return f"/incidents/{incident.ref}/postmortem"


def _follow_anything(_: str | None) -> None:
    """Accept any revision."""


async def _cited(
    q: Query, incident: Incident, content: model.Content, *, kept: Kept
) -> Mapping[tuple[str, str], Mention]:
    """Return the cited entries by source and id; those not on the timeline have no time."""
    found = await kept.named(q, incident.id, _named(content))
    there = {(it.source, it.id): it for it in found}
    words = {key: entry_text(*key) for key in _named(content)}
    return {key: _mention(there[key]) if key in there else Mention(it, it) for key, it in words.items()}


def _page(template: str, q: Query, incident: Incident, **context: object) -> Page:
    may_write = q.principal.may(Access.WRITE) and incident.archived_at is None
    known = {"here": "incidents", "item": incident, "tab": "postmortem", "may_write": may_write}
    return Page(template, {**known, "sections": SECTIONS, **context}, size=LARGE)


# What is shown of entries that changed or are cited

_KINDS: Final = {"added": "added", "moved": "moved", "retitled": "renamed", "removed": "removed"}


@dataclass(frozen=True, slots=True)
class Mention:
    """An entry of the timeline in one line."""

    title: str
    typed: str  # its text in a form
    at: datetime | None = None  # when it happened; None if there is no such entry now
    clock: str = ""  # its time of day, to its precision
    place: str | None = None  # its anchor on the incident's page; None if it has none
    how: str = ""  # how it changed, in a word


def _headline(changes: model.TimelineChanges) -> str:
    kinds = [word for name, word in _KINDS.items() if getattr(changes, name)]
    count = len({(it.source, it.id) for name in _KINDS for it in getattr(changes, name)})
    if not count:
        return "Pins or milestones of the timeline changed since this version"
    return f"{count} {'entry' if count == 1 else 'entries'} {' or '.join(kinds)} since this version"


def _changed(changes: model.TimelineChanges) -> Sequence[Mention]:
    return [
        _mention(it, how=word, is_there=name != "removed")
        for name, word in _KINDS.items()
        for it in getattr(changes, name)
    ]


def _named(content: model.Content) -> Sequence[tuple[str, str]]:
    named: list[EntryRef] = [ref for factor in content.factors for ref in factor.evidence]
    if content.trigger.entry is not None:
        named.append(content.trigger.entry)
    return [(ref.source, ref.id) for ref in named]


def _mention(entry: Entry | model.ChangedEntry, *, how: str = "", is_there: bool = True) -> Mention:
    return Mention(
        title=entry.title,
        typed=entry_text(entry.source, entry.id),
        at=moment(entry.t),
        clock=clock(entry.t, entry.p),
        place=anchor(entry.source, entry.id) if is_there else None,
        how=how,
    )


# What differs between revisions

_MOST_LINES: Final = 500  # A longer section is shown whole, before and after: matching takes quadratic time.
_MARKS: Final = {" ": "kept", "-": "removed", "+": "added"}


@dataclass(frozen=True, slots=True)
class SectionDifference:
    """A section that differs, with its lines: each is kept, removed or added."""

    section: str
    title: str
    lines: Sequence[tuple[str, str]]


def compare(before: model.Content, after: model.Content) -> Sequence[SectionDifference]:
    differing: list[SectionDifference] = []
    for section, title in SECTIONS.items():
        old, new = _lines(section, before), _lines(section, after)
        if old != new:
            differing.append(SectionDifference(section, title, _matched(old, new)))
    return differing


def _lines(section: str, content: model.Content) -> Sequence[str]:
    lines: list[str] = []
    for name, text in shown(section, content).items():
        if text:
            lines += text.split("\n") if name == section else f"{label(name)}: {text}".split("\n")
    return lines


def _matched(old: Sequence[str], new: Sequence[str]) -> Sequence[tuple[str, str]]:
    if max(len(old), len(new)) > _MOST_LINES:
        return [*(("removed", text) for text in old), *(("added", text) for text in new)]
    _, _, _, *lines = unified_diff(old, new, n=_MOST_LINES, lineterm="")  # Without the names and the place.
    return [(_MARKS[line[0]], line[1:]) for line in lines]
