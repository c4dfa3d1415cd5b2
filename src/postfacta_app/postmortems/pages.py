"""The pages of a post-mortem: read, edit a section at a time, change status, revisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Final

from pydantic import BaseModel, Field
from starlette.requests import Request

from .. import actions
from ..aside import LARGE
from ..db import Query, Reader, Unit
from ..errors import NotFoundError, PreconditionFailedError
from ..incidents.access import Ref, Share, lock_active, read_incident, ref_text
from ..incidents.model import Incident
from ..principal import Access
from ..timeline.api import Timelines, names as names_of
from ..timeline.kept import NumberedPage, Wanted
from ..timeline.model import Entry, moment
from ..timeline.view import anchor, clock
from ..web.body import Paged, next_page, parse
from ..web.forms import Typed, fields_of
from ..web.merging import any_version, passed
from ..web.routes import Call
from ..web.slices import Fields, Fill, Page, Snapshot
from . import api, model
from .api import (
    Follows,
    Rev,
    number,
    read_revision,
    restore,
    routes,
    transition,
    write,
)
from .form import (
    LISTS,
    MOST_ROWS,
    SECTIONS,
    check_references,
    compare,
    draft,
    entry_text,
    label,
    merge_section,
    rows,
    shown,
    typed_form,
)
from .model import Content

_POSTMORTEM: Final = "/incidents/{ref}/postmortem"
_MOST: Final = 500  # Entries that a page lists or a form offers.
_KINDS: Final = {"added": "added", "moved": "moved", "retitled": "renamed", "removed": "removed"}


def _section(call: Call, name: str) -> str:
    section: str = call.request.path_params[name]
    if section not in SECTIONS:
        raise NotFoundError("No such section of a post-mortem")
    return section


Section = Annotated[str, Fill(_section)]


@routes.page(_POSTMORTEM, Access.READ, stale=True)
async def read(q: Snapshot, ref: Ref, *, typed: Typed, share: Share, timelines: Timelines) -> Page:
    if typed.is_away:
        return Page("postmortem_unsaved.html", {"ref": ref_text(ref)})
    page = await timelines.page(q, ref, Wanted(view="narrative"), size=_MOST)
    incident = page.incident
    revision = await api.find(q, incident.id)
    action_items = await actions.of(q, incident.id)
    content = revision.content if revision else Content()
    timeline_changes = None
    if revision:
        compared = await api.compared(q, revision)
        timeline_changes = compared.timeline_changes
    changed_entries = _changed_entries(timeline_changes)
    ids_of_changed = {(entry.source, entry.id) for _, entry in changed_entries}
    has_owners = all(action.owner for action in action_items if action.is_open)
    cited = await _cited(q, revision, timelines=timelines)
    has_evidence = all((ref.source, ref.id) in cited for ref in model.references(content))
    share(incident.visibility)
    context = {
        "revision": revision,
        "content": content,
        "moved": timeline_changes,
        "changed": changed_entries,
        "count": len(ids_of_changed),
        "cited": cited,
        "narrative": page.entries,
        "actions": action_items,
        "missing": model.lacks(content, has_owners=has_owners, has_evidence=has_evidence),
        "moves": model.MOVES[revision.status if revision else None],
        "transition": fields_of(model.Transition),
        "names": await names_of(q, {revision.author} if revision else set()),
    }
    return _page("postmortem.html", incident, **context)


def _changed_entries(
    changes: model.TimelineChanges | None,
) -> Sequence[tuple[str, model.ChangedEntry]]:
    """Return each entry of the timeline that changed, after the word for its change."""
    changed_entries: list[tuple[str, model.ChangedEntry]] = []
    for name, word in _KINDS.items():
        entries = getattr(changes, name, ())
        changed_entries.extend((word, entry) for entry in entries)
    return changed_entries


@routes.page(f"{_POSTMORTEM}/revisions", Access.READ)
async def listed(q: Reader, ref: Ref, query: Paged, *, request: Request) -> Page:
    incident = await read_incident(q, ref)
    page = await api.revisions(q, incident.id, query)
    names = await names_of(q, {revision.author for revision in page.items})
    next_url = next_page(request, page.next_cursor) if page.next_cursor else None
    return _page("revisions.html", incident, revisions=page.items, names=names, next_url=next_url)


class RevisionQuery(BaseModel, extra="forbid", frozen=True):
    """What to compare a revision with."""

    against: int | None = Field(None, ge=1, le=2**31 - 1)


@routes.page(f"{_POSTMORTEM}/revisions/{{rev}}", Access.READ)
async def revision(
    q: Snapshot, ref: Ref, query: RevisionQuery, *, rev: Rev, timelines: Timelines
) -> Page:
    incident = await read_incident(q, ref)
    revision = await read_revision(q, incident.id, rev)
    base = None
    differences = None
    if query.against:
        base = await read_revision(q, incident.id, query.against)
        differences = compare(base.content, revision.content)
    context = {
        "revision": revision,
        "last": await api.find(q, incident.id),
        "against": base,
        "differences": differences,
        "cited": await _cited(q, revision, timelines=timelines),
        "names": await names_of(q, {revision.author}),
    }
    return _page("revision.html", incident, **context)


@routes.page(f"{_POSTMORTEM}/edit/{{section}}", Access.WRITE)
async def edit(
    q: Snapshot, ref: Ref, *, section: Section, typed: Typed, timelines: Timelines
) -> Page:
    """Show the form of a section; again with its input, if that was not saved.

    If someone else wrote a revision since, the page also shows the current version.
    """
    incident = None
    last = None
    refusal = typed.refusal
    entries: Sequence[Entry] = ()
    if not typed.is_away:
        page = await _offered(q, ref, timelines)
        incident = page.incident
        entries = page.entries
        last = await api.find(q, incident.id)
    newer = None
    errors: Mapping[str, str] = {}
    rev = last.rev if last else 0
    if refusal is None:
        form = shown(section, last.content if last else Content())
    else:
        form = typed_form(section, typed.fields)
        errors = refusal.by_field
        if refusal.slug == PreconditionFailedError.slug or refusal.is_spent:
            newer = last
        if not refusal.is_spent:
            rev = number(typed.fields.get("rev", ""))
    row_count = len(rows(section, form)) + 1
    context = {
        "ref": incident.ref if incident else ref_text(ref),
        "section": section,
        "is_list": section in LISTS,
        "form": {**form, "message": typed.fields.get("message", "")},
        "count": min(row_count, MOST_ROWS),
        "rev": rev,
        "newer": newer,
        "cited": await _cited(q, newer, timelines=timelines),
        "entries": entries,
        "errors": errors,
        "labels": {name: label(name) for name in errors},
        "kinds": list(model.TriggerKind),
        "categories": list(model.Category),
    }
    return _page("postmortem_edit.html", incident, **context)


async def _offered(q: Query, ref: Ref, timelines: Timelines) -> NumberedPage:
    """Return the entries to refer to: all, or those of the narrative if there are too many."""
    page = await timelines.page(q, ref, Wanted(repeats="each"), size=_MOST)
    if page.after:
        page = await timelines.page(q, ref, Wanted(view="narrative"), size=_MOST)
    return page


@routes.form(f"{_POSTMORTEM}/edit/{{section}}", Access.WRITE, again=edit)
async def save(unit: Unit, ref: Ref, *, section: Section, fields: Fields, follows: Follows) -> str:
    form = typed_form(section, fields)
    rev = number(fields.get("rev", ""))
    incident = await lock_active(unit, ref)
    base = await api.find(unit, incident.id, rev) if rev else None
    last = await api.find(unit, incident.id)
    content = base.content if base else Content()
    has_base = base is not None or not rev
    if last and has_base:
        form, clashes = merge_section(section, fields, form, was=content, now=last.content)
        if clashes:
            fields["rev"] = str(last.rev)
            names = await names_of(unit, {last.author})
            author = f"{names.get(last.author, last.author)}, {last.at:%H:%M}"
            field_errors = [passed(name, text, author) for name, text in clashes.items()]
            raise PreconditionFailedError(api.NEWER, errors=field_errors)
        content = last.content
        follows = any_version
    new_draft = draft(content, section, form, message=fields.get("message", ""))
    before = {(ref.source, ref.id) for ref in model.references(content)}
    lost = await api.unknown(unit, incident.id, new_draft.content)
    check_references(new_draft.content, lost - before)
    await write(unit, ref, new_draft, follows=follows)
    path = _POSTMORTEM.format(ref=incident.ref)
    return f"{path}/edit/{section}" if "more" in fields else f"{path}#{section}"


@routes.form(f"{_POSTMORTEM}/moves", Access.WRITE, again=read)
async def move(unit: Unit, ref: Ref, *, fields: Fields, follows: Follows) -> str:
    message = fields.get("message", "").strip()
    members = {"to": fields.get("to", ""), "message": message or None}
    request = parse(model.Transition, members)
    await transition(unit, ref, request, follows=follows)
    return _POSTMORTEM.format(ref=ref_text(ref))


@routes.form(f"{_POSTMORTEM}/restore", Access.WRITE, again=read)
async def restore_form(unit: Unit, ref: Ref, *, fields: Fields, follows: Follows) -> str:
    rev = number(fields.get("restore", ""))
    request = parse(model.Restore, {"rev": rev})
    await restore(unit, ref, request, follows=follows)
    return _POSTMORTEM.format(ref=ref_text(ref))


async def _cited(
    q: Query, revision: model.Revision | None, *, timelines: Timelines
) -> Mapping[tuple[str, str], Entry]:
    """Return the entries of the timeline that it refers to, by source and id."""
    if revision is None:
        return {}
    content = revision.content
    keys = [(ref.source, ref.id) for ref in model.references(content)]
    entries = await timelines.named(q, revision.incident_id, keys)
    return {(entry.source, entry.id): entry for entry in entries}


def _page(template: str, incident: Incident | None, **context: object) -> Page:
    common = {
        "item": incident,
        "sections": SECTIONS,
        "moment": moment,
        "clock": clock,
        "anchor": anchor,
        "entry_text": entry_text,
    }
    return Page(template, {**common, **context}, size=LARGE)
