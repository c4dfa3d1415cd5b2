"""The pages of a post-mortem: read, edit a section at a time, change status, revisions.

In the form of a section a list is a text with one item per line; a line that begins with a space
continues the item above. Rows (quantities, factors) are numbered fields, `factors-0-slug`; empty
rows are omitted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import unified_diff
from typing import Annotated, Final, cast

from pydantic import BaseModel, Field, JsonValue
from starlette.requests import Request

from postfacta_web import strict_json

from .. import actions
from ..aside import LARGE
from ..db import Query, Reader, Unit
from ..errors import FieldError, InvalidFieldsError, NotFoundError, PreconditionFailedError
from ..incidents.access import Ref, Share, lock_active, read_incident, ref_text
from ..incidents.model import Incident
from ..principal import Access
from ..timeline.api import Kept, names as names_of
from ..timeline.kept import Wanted
from ..timeline.model import Entry, moment
from ..timeline.view import anchor, clock
from ..web.body import Paged, next_page, parse
from ..web.forms import Typed, fields_of
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
from .model import Content, Draft

Form = Mapping[str, str]

_ONE: Final = "/incidents/{ref}/postmortem"
_MOST: Final = 500  # Entries that a page lists or a form offers.
_KINDS: Final = {"added": "added", "moved": "moved", "retitled": "renamed", "removed": "removed"}
SECTIONS: Final = [name for name in Content.model_fields if name != "factors_none_found"]
"""The sections in reading order."""


def _section(call: Call, name: str) -> str:
    section: str = call.request.path_params[name]
    if section not in SECTIONS:
        raise NotFoundError("No such section of a post-mortem")
    return section


Section = Annotated[str, Fill(_section)]


@routes.page(_ONE, Access.READ, stale=True)
async def read(q: Snapshot, ref: Ref, *, typed: Typed, share: Share, timelines: Kept) -> Page:
    if typed.is_away:
        return Page("postmortem_unsaved.html", {"ref": ref_text(ref)})
    page = await timelines.page(q, ref, Wanted(view="narrative"), size=_MOST)
    incident = page.incident
    revision = await api.find(q, incident.id)
    action_items = await actions.of(q, incident.id)
    content = revision.content if revision else Content()
    timeline_changes = (await api.compared(q, revision)).timeline_changes if revision else None
    changed_entries = [
        (word, entry)
        for name, word in _KINDS.items()
        for entry in getattr(timeline_changes, name, ())
    ]
    has_owners = all(action.owner for action in action_items if action.is_open)
    share(incident.visibility)
    context = {
        "revision": revision,
        "content": content,
        "moved": timeline_changes,
        "changed": changed_entries,
        "count": len({(entry.source, entry.id) for _, entry in changed_entries}),
        "cited": await _cited(q, revision, timelines=timelines),
        "narrative": page.entries,
        "actions": action_items,
        "missing": model.lacks(content, has_owners=has_owners),
        "moves": model.MOVES[revision.status if revision else None],
        "transition": fields_of(model.Transition),
        "names": await names_of(q, {revision.author} if revision else set()),
    }
    return _page("postmortem.html", incident, **context)


@routes.page(f"{_ONE}/revisions", Access.READ)
async def listed(q: Reader, ref: Ref, query: Paged, *, request: Request) -> Page:
    incident = await read_incident(q, ref)
    page = await api.revisions(q, incident.id, query)
    names = await names_of(q, {revision.author for revision in page.items})
    next_url = next_page(request, page.next_cursor) if page.next_cursor else None
    return _page("revisions.html", incident, revisions=page.items, names=names, next_url=next_url)


class RevisionQuery(BaseModel, extra="forbid", frozen=True):
    """What to compare a revision with."""

    against: int | None = Field(None, ge=1, le=2**31 - 1)


@routes.page(f"{_ONE}/revisions/{{rev}}", Access.READ)
async def revision(
    q: Snapshot, ref: Ref, query: RevisionQuery, *, rev: Rev, timelines: Kept
) -> Page:
    incident = await read_incident(q, ref)
    revision = await read_revision(q, incident.id, rev)
    base = query.against and await read_revision(q, incident.id, query.against)
    context = {
        "revision": revision,
        "last": await api.find(q, incident.id),
        "against": base,
        "differences": compare(base.content, revision.content) if base else None,
        "cited": await _cited(q, revision, timelines=timelines),
        "names": await names_of(q, {revision.author}),
    }
    return _page("revision.html", incident, **context)


@routes.page(f"{_ONE}/edit/{{section}}", Access.WRITE)
async def edit(q: Snapshot, ref: Ref, *, section: Section, typed: Typed, timelines: Kept) -> Page:
    """Show the form of a section; again with its input, if that was not saved.

    If someone else wrote a revision since, the page also shows the current version.
    """
    incident = None
    last = None
    refusal = typed.refusal
    entries: Sequence[Entry] = ()
    if not typed.is_away:
        page = await timelines.page(q, ref, Wanted(repeats="each"), size=_MOST)
        if page.after:
            page = await timelines.page(q, ref, Wanted(view="narrative"), size=_MOST)
        incident = page.incident
        entries = page.entries
        last = await api.find(q, incident.id)
    is_outdated = refusal is not None and (
        refusal.slug == PreconditionFailedError.slug or refusal.is_spent
    )
    rev = last.rev if last else 0
    if refusal:
        form = typed_form(section, typed.fields)
        rev = rev if is_outdated else number(typed.fields.get("rev", ""))
    else:
        form = shown(section, last.content if last else Content())
    newer = last if is_outdated else None
    errors = refusal.by_field if refusal else {}
    context = {
        "ref": incident.ref if incident else ref_text(ref),
        "section": section,
        "is_list": section in LISTS,
        "form": {**form, "message": typed.fields.get("message", "")},
        "count": min(len(rows(section, form)) + 1, MOST_ROWS),
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


@routes.form(f"{_ONE}/edit/{{section}}", Access.WRITE, again=edit)
async def save(unit: Unit, ref: Ref, *, section: Section, fields: Fields, follows: Follows) -> str:
    form = typed_form(section, fields)
    rev = number(fields.get("rev", ""))
    incident = await lock_active(unit, ref)
    base = await api.find(unit, incident.id, rev) if rev else None
    last = await api.find(unit, incident.id)
    content = base.content if base else Content()
    if last and (base or not rev) and shown(section, content) == shown(section, last.content):
        # Since then only other sections were changed: save on top of that.
        content = last.content
        follows = _accept_any
    new_draft = draft(content, section, form, message=fields.get("message", ""))
    await write(unit, ref, new_draft, follows=follows)
    path = _ONE.format(ref=incident.ref)
    return f"{path}/edit/{section}" if "more" in fields else f"{path}#{section}"


def _accept_any(etag: str | None) -> None:
    """Accept a write that starts from any revision."""


@routes.form(f"{_ONE}/moves", Access.WRITE, again=read)
async def move(unit: Unit, ref: Ref, *, fields: Fields, follows: Follows) -> str:
    members = {"to": fields.get("to", ""), "message": fields.get("message", "").strip() or None}
    await transition(unit, ref, parse(model.Transition, members), follows=follows)
    return _ONE.format(ref=ref_text(ref))


@routes.form(f"{_ONE}/restore", Access.WRITE, again=read)
async def restore_form(unit: Unit, ref: Ref, *, fields: Fields, follows: Follows) -> str:
    request = parse(model.Restore, {"rev": number(fields.get("restore", ""))})
    await restore(unit, ref, request, follows=follows)
    return _ONE.format(ref=ref_text(ref))


async def _cited(
    q: Query, revision: model.Revision | None, *, timelines: Kept
) -> Mapping[tuple[str, str], Entry]:
    """Return the entries of the timeline that it refers to, by source and id."""
    if revision is None:
        return {}
    references = [ref for factor in revision.content.factors for ref in factor.evidence]
    if revision.content.trigger.entry is not None:
        references.append(revision.content.trigger.entry)
    keys = [(ref.source, ref.id) for ref in references]
    entries = await timelines.named(q, revision.incident_id, keys)
    return {(entry.source, entry.id): entry for entry in entries}


def _page(template: str, incident: Incident | None, **context: object) -> Page:
    names = {"moment": moment, "clock": clock, "anchor": anchor, "entry_text": entry_text}
    return Page(template, {"item": incident, "sections": SECTIONS, **names, **context}, size=LARGE)


# From stored content to text fields

LISTS: Final = ("went_well", "went_poorly", "got_lucky", "surprises", "open_questions")
MOST_ROWS: Final = 50  # the most rows of a section
_ROWS: Final[Mapping[str, tuple[str, Sequence[str]]]] = {
    "impact": ("impact-quantities", tuple(model.Quantity.model_fields)),
    "factors": ("factors", tuple(model.Factor.model_fields)),
}
_row_field = re.compile(r".*-(\d+)-([a-z_]+)").fullmatch


def typed_form(section: str, fields: Form) -> Form:
    """Return the fields of a section as they were typed, with its rows numbered anew."""
    prefix, _ = _ROWS.get(section, (section, ()))
    form = {name: fields.get(name, "").strip() for name in shown(section, Content())}
    for n, row in enumerate(rows(section, fields)):
        form |= {f"{prefix}-{n}-{name}": text for name, text in row.items()}
    return form


def rows(section: str, form: Form) -> Sequence[Mapping[str, str]]:
    """Return the rows of a form that are not empty, each with its fields that are not."""
    prefix, names = _ROWS.get(section, (section, ()))
    filled: list[Mapping[str, str]] = []
    for n in range(MOST_ROWS):
        texts = {name: form.get(f"{prefix}-{n}-{name}", "").strip() for name in names}
        row = {name: text for name, text in texts.items() if text}
        if row:
            filled.append(row)
    return filled


def shown(section: str, content: Content) -> Form:
    # Whether there are no factors is a field beside them.
    stored = content.model_dump(mode="json", include={section, f"{section}_none_found"})
    return dict(field for name, value in stored.items() for field in _fields(name, value))


def _fields(name: str, value: JsonValue) -> Iterator[tuple[str, str]]:
    match value:
        case {"source": str(source), "id": str(identity)}:
            yield name, entry_text(source, identity)
        case dict():
            for key, part in value.items():
                yield from _fields(f"{name}-{key}", part)
        case list() if name in ("impact-quantities", "factors"):
            yield from _fields(name, {str(n): row for n, row in enumerate(value)})
        case list():
            items = [text for item in value for _, text in _fields(name, item)]
            yield name, "\n".join(item.replace("\n", "\n  ") for item in items)
        case None | bool():
            yield name, "yes" if value else ""
        case _:
            yield name, value if isinstance(value, str) else repr(value).removesuffix(".0")


def entry_text(source: str, identity: str) -> str:
    """Return a timeline entry as form text; unusual names are JSON, so that each can be parsed."""
    is_printable = source.isprintable() and identity.isprintable()
    if is_printable and " " not in source and not source.startswith("["):
        return f"{source} {identity}"
    return json.dumps([source, identity], ensure_ascii=False)


# And back

_ENTRY_WORDS: Final = "must be the source of an entry, a space and its id"
_LABELS: Final[Mapping[str, str]] = {
    "slug": "Short name",
    "statement": "Description",
    "safeguard": "Safeguard that failed",
    "why_it_made_sense": "Why it made sense at the time",
    "how": "How it was detected",
    "could_be_sooner": "Could it have been sooner",
    "message": "Reason for the change",
    "factors_none_found": "We looked and found none",
}


def draft(base: Content, section: str, form: Form, *, message: str) -> Draft:
    """Replace a section by the input of its form.

    Errors have the names of form fields as pointers.
    """
    content = base.model_dump(mode="json") | _value(section, form)
    try:
        return parse(Draft, {"content": content, "message": message.strip() or None})
    except InvalidFieldsError as refusal:
        field_errors = [_named(section, error) for error in refusal.errors]
        raise InvalidFieldsError("Some fields are invalid", errors=field_errors) from None


def label(name: str) -> str:
    row = _row_field(name)
    field_name = row[2] if row else name.rpartition("-")[2]
    words = _LABELS.get(field_name) or field_name.replace("_", " ").capitalize()
    return f"{words} (no. {int(row[1]) + 1})" if row else words


def _value(section: str, form: Form) -> dict[str, JsonValue]:
    values = {name: _read(name, text) for name, text in form.items() if not _row_field(name)}
    if section in _ROWS:
        prefix, _ = _ROWS[section]
        values[prefix] = [
            {name: _read(name, text) for name, text in row.items()} for row in rows(section, form)
        ]
    if section in values:
        return values
    return {section: {name.partition("-")[2]: text for name, text in values.items()}}


def _read(name: str, text: str) -> JsonValue:
    """Read a field. What cannot be read stays text, so that the model reports what it expected."""
    value: JsonValue = text
    match name.rpartition("-")[2]:
        case "users_affected" | "value":
            value = text or None
            for kind in (float, int):
                with suppress(ValueError):
                    value = kind(text)
        case "entry":
            value = _entry(text) if text else None
        case "evidence":
            value = [_entry(line) for line in text.split("\n") if line.strip()]
        case "factors_none_found":
            value = bool(text)
        case field_name if field_name in LISTS:
            # A line that begins with no space begins an item.
            items = [item.split("\n") for item in re.split(r"\n(?=\S)", text) if item.strip()]
            value = ["\n".join(map(str.strip, lines)).strip() for lines in items]
        case _:
            pass
    return value


def _entry(text: str) -> JsonValue:
    source, _, identity = text.strip().partition(" ")
    if not source.startswith("["):
        return {"source": source, "id": identity.strip()}
    with suppress(ValueError):
        source, identity = cast("list[str]", strict_json.parse(text.encode()))
        return {"source": source, "id": identity}
    return text


def _named(section: str, error: FieldError) -> FieldError:
    parts = error.pointer.removeprefix("/content").split("/")[1:]
    message = error.message
    if "evidence" in parts:
        parts = parts[:3]
        message = _ENTRY_WORDS
    elif parts[:2] == ["trigger", "entry"]:
        parts = parts[:2]
        message = _ENTRY_WORDS
    elif parts[-1:] == ["slug"]:
        message = "must be lowercase letters, digits and hyphens, such as no-canary"
    elif section in LISTS and parts[1:]:
        message = f"item {int(parts[1]) + 1} {message}"
        parts = parts[:1]
    return FieldError("-".join(parts) or section, error.code, message)


# What differs between revisions

# A longer section is shown whole, before and after: matching takes quadratic time.
_MOST_LINES: Final = 500


def compare(before: Content, after: Content) -> Mapping[str, Sequence[str]]:
    """Return the lines of each section that differs.

    Those of both begin with a space, others with - or +.
    """
    lines = {name: (_lines(name, before), _lines(name, after)) for name in SECTIONS}
    return {name: _matched(old, new) for name, (old, new) in lines.items() if old != new}


def _lines(section: str, content: Content) -> Sequence[str]:
    lines: list[str] = []
    for name, text in shown(section, content).items():
        if text:
            labelled = text if name == section else f"{label(name)}: {text}"
            lines += labelled.split("\n")
    return lines


def _matched(old: Sequence[str], new: Sequence[str]) -> Sequence[str]:
    if max(len(old), len(new)) > _MOST_LINES:
        return [*(f"-{text}" for text in old), *(f"+{text}" for text in new)]
    diff = [*unified_diff(old, new, n=_MOST_LINES, lineterm="")]
    return diff[3:]  # Without the names and the place.
