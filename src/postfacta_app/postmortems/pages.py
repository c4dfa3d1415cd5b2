"""The pages of a post-mortem: read, edit a section at a time, change status, revisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Final

from starlette.requests import Request

from .. import actions
from ..aside import LARGE
from ..db import Query, Reader, Unit
from ..errors import NotFoundError, PreconditionFailedError
from ..incidents.access import Ref, Share, lock_active, ref_text, seen
from ..incidents.model import Incident
from ..principal import Access
from ..timeline.api import Kept
from ..timeline.model import Entry
from ..timeline.postgres import names as names_of
from ..timeline.query import Wanted
from ..web.body import parse
from ..web.calls import Call, Fields, Fill, Snapshot
from ..web.forms import Typed, fields_of
from ..web.paging import Paged, next_page
from ..web.slices import Page
from . import postgres, reading
from .api import Follows, Rev, number, read_page, read_revision, restore, routes, transition, write
from .content import Category, Content, TriggerKind
from .form import LISTS, MOST_ROWS, SECTIONS, draft, label, rows, shown, typed as typed_form
from .model import MOVES, Restore, RevisionQuery, Stage, Transition, lacks
from .reading import compare

__all__ = ["routes"]

_ONE: Final = "/incidents/{ref}/postmortem"
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
    told = await kept.page(q, ref, Wanted(is_narrative=True), size=reading.MOST)
    incident = told.incident
    last = await postgres.read(q, incident.id)
    content, acted = last.content if last else Content(), await actions.of(q, incident.id)
    moved = (await postgres.compared(q, last)).timeline_changes if last else None
    changed: Sequence[reading.Mention] = reading.changed(moved) if moved else ()
    share(incident.visibility)
    stage = last.status if last else None
    context = {
        "revision": last,
        "content": content,
        "headline": reading.headline(moved) if moved else None,
        "changed": changed[:_MOST_CHANGED],
        "unlisted": len(changed[_MOST_CHANGED:]),
        "cited": await _cited(q, incident, content, kept=kept),
        "narrative": reading.mentions(told.entries),
        "actions": acted,
        "missing": lacks(content, has_owners=all(it.owner for it in acted if it.is_open)),
        "moves": [it for it in MOVES[stage] if it is not Stage.WAIVED],
        "may_waive": Stage.WAIVED in MOVES[stage],
        "transition": fields_of(Transition),
        "names": await names_of(q, {last.author} if last else set()),
    }
    return _page("postmortem.html", q, incident, **context)


@routes.page(f"{_ONE}/revisions", Access.READ)
async def listed(q: Reader, ref: Ref, query: Paged, *, request: Request) -> Page:
    incident = await seen(q, ref)
    page = await read_page(q, incident.id, query)
    names = await names_of(q, {it.author for it in page.items})
    more = next_page(request, page.next_cursor) if page.next_cursor else None
    return _page("revisions.html", q, incident, revisions=page.items, names=names, next_url=more)


@routes.page(f"{_ONE}/revisions/{{rev}}", Access.READ)
async def revision(q: Snapshot, ref: Ref, query: RevisionQuery, *, rev: Rev, kept: Kept) -> Page:
    incident = await seen(q, ref)
    asked = await read_revision(q, incident.id, rev)
    against = query.against and await read_revision(q, incident.id, query.against)
    context = {
        "revision": asked,
        "last": await postgres.read(q, incident.id),
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
        offered = await kept.page(q, ref, Wanted(), size=reading.MOST)
        if offered.after:
            offered = await kept.page(q, ref, Wanted(is_narrative=True), size=reading.MOST)
        incident, entries = offered.incident, offered.entries
        last = await postgres.read(q, incident.id)
    if refusal := typed.refusal:
        form, rev = typed_form(section, typed.fields), number(typed.fields.get("rev", ""))
    else:
        form, rev = shown(section, last.content if last else Content()), last.rev if last else 0
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
        "entries": reading.mentions(entries),
        "errors": refusal.by_field if refusal else {},
        "labels": {name: label(name) for name in refusal.by_field} if refusal else {},
        "kinds": list(TriggerKind),
        "categories": list(Category),
        "sections": SECTIONS,
    }
    return Page("postmortem_edit.html", context, size=LARGE)


@routes.form(f"{_ONE}/edit/{{section}}", Access.WRITE, again=edit)
async def save(unit: Unit, ref: Ref, *, section: Section, fields: Fields, follows: Follows) -> str:
    form, rev = typed_form(section, fields), number(fields.get("rev", ""))
    incident = await lock_active(unit, ref)
    base = await postgres.read(unit, incident.id, rev) if rev else None
    last = await postgres.read(unit, incident.id)
    content = base.content if base else Content()
    if last and (base or not rev) and shown(section, content) == shown(section, last.content):
        content, follows = last.content, _follow_anything  # Others changed other sections only.
    await write(unit, ref, draft(content, section, form, message=fields.get("message", "")), follows=follows)
    path = f"/incidents/{incident.ref}/postmortem"
    return f"{path}/edit/{section}" if "more" in fields else f"{path}#{section}"


@routes.form(f"{_ONE}/moves", Access.WRITE, again=read)
async def move(unit: Unit, ref: Ref, *, fields: Fields, follows: Follows) -> str:
    wish = {"to": fields.get("to", ""), "message": fields.get("message", "").strip() or None}
    incident = await lock_active(unit, ref)
    await transition(unit, ref, parse(Transition, wish), follows=follows)
    return f"/incidents/{incident.ref}/postmortem"


@routes.form(f"{_ONE}/restore", Access.WRITE, again=read)
async def restore_form(unit: Unit, ref: Ref, *, fields: Fields, follows: Follows) -> str:
    wish = parse(Restore, {"rev": number(fields.get("restore", ""))})
    incident = await lock_active(unit, ref)
    await restore(unit, ref, wish, follows=follows)
    return f"/incidents/{incident.ref}/postmortem"


def _follow_anything(_: str | None) -> None:
    """Accept any revision."""


async def _cited(
    q: Query, incident: Incident, content: Content, *, kept: Kept
) -> Mapping[tuple[str, str], reading.Mention]:
    return reading.cited(content, await kept.named(q, incident.id, reading.names(content)))


def _page(template: str, q: Query, incident: Incident, **context: object) -> Page:
    may_write = q.principal.may(Access.WRITE) and incident.archived_at is None
    known = {"here": "incidents", "item": incident, "tab": "postmortem", "may_write": may_write}
    return Page(template, {**known, "sections": SECTIONS, **context}, size=LARGE)
