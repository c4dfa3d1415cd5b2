"""The form of one section of a post-mortem: from stored content to text fields, and back.

A list is a text with one item per line; a line that begins with a space continues the item above. Rows
(quantities, factors) are numbered fields, `factors-0-slug`; empty rows are omitted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import getitem
from typing import Any, Final, cast

from pydantic import JsonValue

from ..errors import FieldError, InvalidFieldsError, MalformedError
from ..web.body import parse, parse_json
from .model import Content, Draft

Form = Mapping[str, str]

SECTIONS: Final[Mapping[str, str]] = {
    "summary": "Summary",
    "impact": "Impact",
    "detection": "Detection",
    "trigger": "Trigger",
    "response": "Response",
    "factors": "Contributing factors",
    "went_well": "What went well",
    "went_poorly": "What went poorly",
    "got_lucky": "Where we got lucky",
    "surprises": "Surprises",
    "open_questions": "Open questions",
}
"""The sections in reading order, and their titles."""

LISTS: Final = ("went_well", "went_poorly", "got_lucky", "surprises", "open_questions")
MOST_ROWS: Final = 50  # the most rows of a section

_FIELDS: Final[Mapping[str, Sequence[str]]] = {
    "impact": ("impact-description", "impact-users_affected"),
    "detection": ("detection-how", "detection-could_be_sooner"),
    "trigger": ("trigger-kind", "trigger-description", "trigger-entry"),
    "factors": ("factors_none_found",),
}
_ROWS: Final[Mapping[str, tuple[str, Sequence[str]]]] = {
    "impact": ("impact-quantities", ("name", "value", "unit")),
    "factors": ("factors", ("slug", "category", "statement", "safeguard", "why_it_made_sense", "evidence")),
}
_LABELS: Final[Mapping[str, str]] = {
    "slug": "Short name",
    "category": "Category",
    "statement": "Description",
    "safeguard": "Safeguard that failed",
    "why_it_made_sense": "Why it made sense at the time",
    "kind": "Kind",
    "how": "How it was detected",
    "could_be_sooner": "Could it have been sooner",
    "value": "Number",
    "message": "Reason for the change",
    "factors_none_found": "We looked and found none",
}
_ROW_FIELD: Final = re.compile(r".*-(\d+)-([a-z_]+)")
_ENTRY_WORDS: Final = "must be the source of an entry, a space and its id"
_SLUG_WORDS: Final = "must be lowercase letters, digits and hyphens, such as no-canary"


def typed(section: str, fields: Form) -> Form:
    form = {name: fields.get(name, "").strip() for name in _FIELDS.get(section, (section,))}
    return form | _numbered(section, rows(section, fields))


def rows(section: str, form: Form) -> Sequence[Mapping[str, str]]:
    if section not in _ROWS:
        return []
    prefix, names = _ROWS[section]
    found = [
        {name: text for name in names if (text := form.get(f"{prefix}-{n}-{name}", "").strip())}
        for n in range(MOST_ROWS)
    ]
    return [row for row in found if row]


def _numbered(section: str, of_rows: Sequence[Mapping[str, str]]) -> dict[str, str]:
    if section not in _ROWS:
        return {}
    prefix, _ = _ROWS[section]
    return {f"{prefix}-{n}-{name}": text for n, row in enumerate(of_rows) for name, text in row.items()}


# From stored content


def shown(section: str, content: Content) -> Form:
    stored = content.model_dump(mode="json")
    if section in LISTS:
        return {section: "\n".join(item.replace("\n", "\n  ") for item in stored[section])}
    form = {name: _text(_part(stored, name)) for name in _FIELDS.get(section, (section,))}
    if section not in _ROWS:
        return form
    prefix, names = _ROWS[section]
    return form | _numbered(section, [{it: _text(row[it]) for it in names} for row in _part(stored, prefix)])


def _part(stored: Any, name: str) -> Any:
    return reduce(getitem, name.split("-"), stored)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(map(_text, cast("list[object]", value)))
    if isinstance(value, dict):
        return entry_text(*cast("dict[str, str]", value).values())
    if value is None or isinstance(value, bool):
        return "yes" if value else ""
    return value if isinstance(value, str) else repr(value).removesuffix(".0")


def entry_text(source: str, identity: str) -> str:
    """Return a timeline entry as form text; unusual names are JSON, so that each can be parsed."""
    if source.isprintable() and identity.isprintable() and " " not in source and not source.startswith("["):
        return f"{source} {identity}"
    return json.dumps([source, identity], ensure_ascii=False)


# To stored content


def draft(base: Content, section: str, form: Form, *, message: str) -> Draft:
    """Replace a section by the input of its form; errors have the names of form fields as pointers."""
    content = base.model_dump(mode="json") | _value(section, form)
    try:
        return parse(Draft, {"content": content, "message": message.strip() or None})
    except InvalidFieldsError as refusal:
        raise InvalidFieldsError(
            "Some fields are invalid", errors=[_named(section, error) for error in refusal.errors]
        ) from None


def label(name: str) -> str:
    row = _ROW_FIELD.fullmatch(name)
    own = row[2] if row else name.rpartition("-")[2]
    words = _LABELS.get(own) or SECTIONS.get(own) or own.replace("_", " ").capitalize()
    return f"{words} (no. {int(row[1]) + 1})" if row else words


def _value(section: str, form: Form) -> dict[str, JsonValue]:
    if section in LISTS:
        return {section: [*_items(form[section])]}
    given = {name: _read(name, form[name]) for name in _FIELDS.get(section, (section,))}
    if section in _ROWS:
        found = rows(section, form)
        given[_ROWS[section][0]] = [{name: _read(name, text) for name, text in row.items()} for row in found]
    if not all(name.startswith(f"{section}-") for name in given):
        return given
    return {section: {name.removeprefix(f"{section}-"): value for name, value in given.items()}}


def _read(name: str, text: str) -> JsonValue:
    """Read a field. What cannot be read stays text, so that the model reports what it expected."""
    match name.rpartition("-")[2]:
        case "users_affected" | "value":
            return _number(text) if text else None
        case "entry":
            return _entry(text) if text else None
        case "evidence":
            return [_entry(line) for line in text.split("\n") if line.strip()]
        case "factors_none_found":
            return bool(text)
        case _:
            return text


def _items(text: str) -> Sequence[str]:
    items: list[str] = []
    for line in text.split("\n"):
        if items and line[:1].isspace():
            items[-1] += "\n" + line.strip()
        elif line.strip():
            items.append(line.strip())
    return [item.strip() for item in items]


def _number(text: str) -> JsonValue:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def _entry(text: str) -> JsonValue:
    text = text.strip()
    if text.startswith("["):
        try:
            match parse_json(text.encode()):
                case [str(source), str(identity)]:
                    return {"source": source, "id": identity}
                case _:
                    return text
        except MalformedError:
            return text
    source, _, identity = text.partition(" ")
    return {"source": source, "id": identity.strip()}


def _named(section: str, error: FieldError) -> FieldError:
    _, _, *parts = error.pointer.split("/")
    message = error.message
    if error.pointer == "/message":
        parts = ["message"]
    elif "evidence" in parts:
        parts, message = parts[:3], _ENTRY_WORDS
    elif parts[:2] == ["trigger", "entry"]:
        parts, message = parts[:2], _ENTRY_WORDS
    elif parts[-1:] == ["slug"]:
        message = _SLUG_WORDS
    elif section in LISTS and parts[1:]:
        parts, message = parts[:1], f"item {int(parts[1]) + 1} {message}"
    return FieldError("-".join(parts) or section, error.code, message)
