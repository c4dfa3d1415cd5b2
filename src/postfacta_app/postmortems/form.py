"""The form of a section of a post-mortem: its content as text fields, and back.

A list is a text with one item per line; a line that begins with a space continues the item above.
Rows (quantities, factors) are numbered fields, `factors-0-slug`; empty rows are omitted. Whatever
content is stored, its form sent back unchanged gives the same content.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import unified_diff
from typing import Final, cast

from pydantic import JsonValue

from postfacta_web import strict_json

from ..errors import FieldError, InvalidFieldsError
from ..timeline.model import EntryRef
from ..web.body import parse
from ..web.merging import merge
from . import model
from .model import Content, Draft

Form = Mapping[str, str]

SECTIONS: Final = [name for name in Content.model_fields if name != "factors_none_found"]
"""The sections in reading order."""
LISTS: Final = ("went_well", "went_poorly", "got_lucky", "surprises", "open_questions")
MOST_ROWS: Final = 50  # the most rows of a section
_ROWS: Final[Mapping[str, tuple[str, Sequence[str]]]] = {
    "impact": ("impact-quantities", tuple(model.Quantity.model_fields)),
    "factors": ("factors", tuple(model.Factor.model_fields)),
}
_row_field = re.compile(r".*-(\d+)-([a-z_]+)").fullmatch

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


# Two forms of one section


def merge_section(
    section: str, fields: dict[str, str], form: Form, *, was: Content, now: Content
) -> tuple[Form, Mapping[str, str]]:
    """Merge a form with what others changed; return it, and what they made of the same fields.

    If there is such a field, the input starts from what is stored now. All rows are one field.
    """
    typed = _joined(section, form)
    stored = _joined(section, shown(section, now))
    sent, clashes = merge(_joined(section, shown(section, was)), typed, stored)
    if clashes:
        for name in filter(_row_field, [*fields]):
            del fields[name]
        mine = {name: typed[name] for name in [*sent, *clashes]}
        fields |= _parted(section, {**stored, **mine})
    prefix, _ = _ROWS.get(section, ("", ()))
    texts = {name: "as above" if name == prefix else stored[name] for name in clashes}
    return _parted(section, {**stored, **sent}), texts


def _joined(section: str, form: Form) -> dict[str, str]:
    """Return a form with its rows as one text."""
    fields = {name: text for name, text in form.items() if not _row_field(name)}
    if section in _ROWS:
        prefix, _ = _ROWS[section]
        fields[prefix] = json.dumps(rows(section, form))
    return fields


def _parted(section: str, fields: Form) -> Form:
    prefix, _ = _ROWS.get(section, ("", ()))
    form = {name: text for name, text in fields.items() if name != prefix}
    for n, row in enumerate(json.loads(fields.get(prefix, "[]"))):
        form |= {f"{prefix}-{n}-{name}": text for name, text in row.items()}
    return form


# From stored content to text fields


def shown(section: str, content: Content) -> Form:
    """Return the fields of a section's form, filled from its content."""
    # Whether there are no factors is a field beside them.
    members = {section, f"{section}_none_found"}
    stored = content.model_dump(mode="json", include=members)
    form: dict[str, str] = {}
    for name, value in stored.items():
        form.update(_fields(name, value))
    return form


def _fields(name: str, value: JsonValue) -> Iterator[tuple[str, str]]:
    match value:
        case {"source": str(source), "id": str(identity)}:
            yield name, entry_text(source, identity)
        case dict():
            for key, part in value.items():
                yield from _fields(f"{name}-{key}", part)
        case list() if name in ("impact-quantities", "factors"):
            for n, row in enumerate(value):
                yield from _fields(f"{name}-{n}", row)
        case list():
            yield name, _list_text(name, value)
        case None | bool():
            yield name, "yes" if value else ""
        case str():
            yield name, value
        case _:
            yield name, repr(value).removesuffix(".0")


def _list_text(name: str, items: Sequence[JsonValue]) -> str:
    """Return one line per item; further lines of an item are indented."""
    lines: list[str] = []
    for item in items:
        for _, text in _fields(name, item):
            lines.append(text.replace("\n", "\n  "))
    return "\n".join(lines)


def entry_text(source: str, identity: str) -> str:
    """Return a timeline entry as form text; unusual names are JSON, so that each can be parsed."""
    is_printable = source.isprintable() and identity.isprintable()
    if is_printable and " " not in source and not source.startswith("["):
        return f"{source} {identity}"
    return json.dumps([source, identity], ensure_ascii=False)


def label(name: str) -> str:
    """Return what a field is called on the page; a field of a row has the row's number."""
    row = _row_field(name)
    field_name = row[2] if row else name.rpartition("-")[2]
    words = _LABELS.get(field_name) or field_name.replace("_", " ").capitalize()
    if not row:
        return words
    row_number = int(row[1]) + 1
    return f"{words} (no. {row_number})"


# What was typed


def typed_form(section: str, fields: Form) -> Form:
    """Return the fields of a section as they were typed, with its rows numbered anew."""
    form = {name: fields.get(name, "").strip() for name in shown(section, Content())}
    if section in _ROWS:
        prefix, _ = _ROWS[section]
        for n, row in enumerate(rows(section, fields)):
            for name, text in row.items():
                form[f"{prefix}-{n}-{name}"] = text
    return form


def rows(section: str, form: Form) -> Sequence[Mapping[str, str]]:
    """Return the rows of a form that are not empty, each with its fields that are not."""
    if section not in _ROWS:
        return []
    prefix, names = _ROWS[section]
    filled: list[Mapping[str, str]] = []
    for n in range(MOST_ROWS):
        row: dict[str, str] = {}
        for name in names:
            text = form.get(f"{prefix}-{n}-{name}", "").strip()
            if text:
                row[name] = text
        if row:
            filled.append(row)
    return filled


# And back


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


def _value(section: str, form: Form) -> dict[str, JsonValue]:
    """Return the members of the content that a section's form gives."""
    plain = {name: text for name, text in form.items() if not _row_field(name)}
    values = _read_all(plain)
    if section in _ROWS:
        prefix, _ = _ROWS[section]
        values[prefix] = [_read_all(row) for row in rows(section, form)]
    if section in values:
        return values
    members = {name.partition("-")[2]: value for name, value in values.items()}
    return {section: members}


def _read_all(fields: Form) -> dict[str, JsonValue]:
    return {name: _read(name, text) for name, text in fields.items()}


def _read(name: str, text: str) -> JsonValue:
    """Read a field. What cannot be read stays text, so that the model reports what it expected."""
    value: JsonValue = text
    match name.rpartition("-")[2]:
        case "users_affected" | "value":
            value = _number(text)
        case "entry":
            value = _entry(text) if text else None
        case "evidence":
            value = [_entry(line) for line in text.split("\n") if line.strip()]
        case "factors_none_found":
            value = bool(text)
        case field_name if field_name in LISTS:
            value = _items(text)
        case _:
            pass
    return value


def _number(text: str) -> JsonValue:
    value: JsonValue = text or None
    for kind in (float, int):
        with suppress(ValueError):
            value = kind(text)
    return value


def _items(text: str) -> list[JsonValue]:
    """Split a list at each line that begins with no space; such a line begins an item."""
    items: list[JsonValue] = []
    for item in re.split(r"\n(?=\S)", text):
        lines = [line.strip() for line in item.split("\n")]
        joined = "\n".join(lines).strip()
        if joined:
            items.append(joined)
    return items


def _entry(text: str) -> JsonValue:
    source, _, identity = text.strip().partition(" ")
    if not source.startswith("["):
        return {"source": source, "id": identity.strip()}
    with suppress(ValueError):
        source, identity = cast("list[str]", strict_json.parse(text.encode()))
        return {"source": source, "id": identity}
    return text


def _named(section: str, error: FieldError) -> FieldError:
    """Point an error at the field of the form, in place of the member of the content."""
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
        item_number = int(parts[1]) + 1
        message = f"item {item_number} {message}"
        parts = parts[:1]
    return FieldError("-".join(parts) or section, error.code, message)


def check_references(content: Content, lost: Collection[tuple[str, str]]) -> None:
    """Refuse the fields that name one of these entries, which are not on the timeline."""
    named: list[tuple[str, EntryRef]] = []
    for n, factor in enumerate(content.factors):
        named += [(f"factors-{n}-evidence", ref) for ref in factor.evidence]
    if content.trigger.entry is not None:
        named.append(("trigger-entry", content.trigger.entry))
    field_errors = [
        FieldError(name, "unknown", f"{entry_text(ref.source, ref.id)} is not on the timeline")
        for name, ref in named
        if (ref.source, ref.id) in lost
    ]
    if field_errors:
        raise InvalidFieldsError("Some fields are invalid", errors=field_errors)


# What differs between revisions

# A longer section is shown whole, before and after: matching takes quadratic time.
_MOST_LINES: Final = 500


def compare(before: Content, after: Content) -> Mapping[str, Sequence[str]]:
    """Return the lines of each section that differs.

    Those of both begin with a space, others with - or +.
    """
    differences: dict[str, Sequence[str]] = {}
    for name in SECTIONS:
        old = _lines(name, before)
        new = _lines(name, after)
        if old != new:
            differences[name] = _matched(old, new)
    return differences


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
