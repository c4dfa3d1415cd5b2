"""Signals from any JSON: a file says which member of a body becomes which field of a signal.

* A template is text with `{a.b}` for a member of an item. One that is nothing else is its value.
* A field is left out if all members that its template names are absent.
* `words` replaces the text of a field, or of a member of `payload`; `*` stands for any other.
* A time is RFC 3339, or a number of seconds or milliseconds since 1970.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping as Lookup, Sequence
from datetime import UTC, datetime
from pathlib import Path
from string import Formatter
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, Field, JsonValue, TypeAdapter, ValidationError

from ..errors import FieldError, InvalidFieldsError, NotFoundError
from ..principal import Principal
from ..settings import Settings, SettingsError, variable
from ..web.body import format_time
from .intake import LONGEST_BODY, LONGEST_TITLE, MOST_ITEMS, Intake, is_address, read_item, slug
from .model import Fact, ItemResult

# In seconds the year 5138, in milliseconds 1973: no signal is of either.
_FIRST_MILLISECOND: Final = 100_000_000_000
_TIMES: Final = ("occurred_at", "known_at")
_FIELDS: Final = ("kind", "title", "id", "body", "environment", "sequence", *_TIMES)
_LONGEST: Final = {"title": LONGEST_TITLE, "body": LONGEST_BODY}


def _checked(template: str) -> str:
    for _, _, specification, conversion in Formatter().parse(template):
        if specification or conversion:
            raise ValueError("names members as {a.b}, without a format")
    return template


Template = Annotated[str, AfterValidator(_checked)]


class Mapping(BaseModel, extra="forbid", frozen=True):
    """How the JSON of one sender becomes signals: templates of their fields."""

    items: str | None = None  # the path of a list of items; by default the body is the one item
    kind: Template
    title: Template
    id: Template = ""
    occurred_at: Template = ""
    known_at: Template = ""
    sequence: Template = ""
    body: Template = ""
    environment: Template = ""
    services: list[Template] = []
    links: dict[str, Template] = {}  # addresses by their titles
    payload: dict[str, Template] = {}
    words: dict[str, dict[str, str]] = {}  # by field: what replaces its text


_FILE: Final = TypeAdapter(dict[Annotated[str, Field(pattern="^[a-z0-9-]{1,63}$")], Mapping])


class Mappings:
    """The mappings of the file in the settings; `SettingsError` says what is wrong with it."""

    def __init__(self, settings: Settings) -> None:
        file = settings.signal_mappings
        self._by_name: Lookup[str, Mapping] = _read(file) if file else {}

    def find(self, name: str) -> Mapping:
        if name not in self._by_name:
            raise NotFoundError(f"No mapping is named {name}")
        return self._by_name[name]


def _read(file: Path) -> Lookup[str, Mapping]:
    place = f"{variable('signal_mappings')}: {file}"
    try:
        return _FILE.validate_python(tomllib.loads(file.read_text()))
    except ValidationError as invalid:
        error = invalid.errors()[0]
        raise SettingsError(f"{place}: {error['loc']}: {error['msg']}") from None
    except (OSError, ValueError) as error:
        raise SettingsError(f"{place}: {error}") from None


def read_mapped(
    mapping: Mapping, body: JsonValue, *, principal: Principal, intake: Intake, source: str
) -> Sequence[Fact | ItemResult]:
    """Return the signal of each item of a body, or why it is rejected.

    `source` refines that of people, as their items may come from several senders.
    """
    items = [body] if mapping.items is None else _member(body, mapping.items)
    if not isinstance(items, list) or len(items) > MOST_ITEMS:
        pointer = f"/{mapping.items or ''}".replace(".", "/")
        error = FieldError(pointer, "list", f"must be a list of at most {MOST_ITEMS} items")
        raise InvalidFieldsError("Correct the mapping, or what is sent", errors=[error])
    results: list[Fact | ItemResult] = []
    for index, item in enumerate(items):
        fields = _fields(mapping, intake.clean(item))
        if "id" in fields:
            fields["id"] = _text(_fill(mapping.id, item))  # Keys must not be redacted.
        if principal.source is None:
            fields["source"] = source
        results.append(read_item(index, fields, principal=principal, intake=intake))
    return results


def _fields(mapping: Mapping, item: JsonValue) -> dict[str, JsonValue]:
    def worded(name: str, value: JsonValue) -> JsonValue:
        words = mapping.words.get(name, {})
        return words.get(_text(value), words.get("*", value))

    fields: dict[str, JsonValue] = {}
    for name in _FIELDS:
        value = _fill(getattr(mapping, name), item)
        if value is not None:
            text = _text(worded(name, value))[: _LONGEST.get(name)]
            fields[name] = _time(text) if name in _TIMES else text
    services = [_fill(template, item) for template in mapping.services]
    fields["services"] = [slug(_text(name)) for name in services if name is not None]
    links = [(title, _fill(template, item)) for title, template in mapping.links.items()]
    fields["links"] = [{"title": title, "url": url} for title, url in links if is_address(url)]
    payload = {name: _fill(template, item) for name, template in mapping.payload.items()}
    fields["payload"] = {
        name: worded(name, value) for name, value in payload.items() if value is not None
    }
    return fields


def _fill(template: str, item: JsonValue) -> JsonValue:
    """Return the value or the text of a template; None if all that it names is absent."""
    parts = list(Formatter().parse(template))
    values = [None if path is None else _member(item, path) for _, path, _, _ in parts]
    names_members = any(path is not None for _, path, _, _ in parts)
    if not parts or (names_members and not any(value is not None for value in values)):
        return None
    if len(parts) == 1 and template == f"{{{parts[0][1]}}}":
        return values[0]
    return "".join(part[0] + _text(value) for part, value in zip(parts, values, strict=True))


def _member(value: JsonValue, path: str) -> JsonValue:
    for part in filter(None, path.split(".")):
        if isinstance(value, list):
            value = value[int(part)] if part.isdecimal() and int(part) < len(value) else None
        else:
            value = value.get(part) if isinstance(value, dict) else None
    return value


def _text(value: JsonValue) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


def _time(text: str) -> str:
    try:
        number = float(text)
        seconds = number / 1000 if abs(number) >= _FIRST_MILLISECOND else number
        return format_time(datetime.fromtimestamp(seconds, UTC))
    except (ValueError, OverflowError, OSError):
        return text  # RFC 3339, or what the signal's own check names
