"""Fields of forms, as the bounds of a model give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, cast

from pydantic import BaseModel

__all__ = ["Field", "fields_of"]

_TIME: Final = 40
_DAY: Final = 10
_WORD: Final = 63  # The longest short name, and the default of what has no bound of its own.
_LONG: Final = 1000  # A text that may have more characters gets several lines.

JSON = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Field:
    """An input of a form."""

    most: int  # the most characters
    options: Sequence[str]  # what can be chosen; none for text
    is_required: bool  # whether it must be filled
    is_long: bool  # whether it has several lines


@cache
def fields_of(model: type[BaseModel]) -> Mapping[str, Field]:
    schema = model.model_json_schema()
    required, kinds = schema.get("required", ()), schema.get("$defs", {})
    return {
        name: _field(_plain(of, kinds), kinds, is_required=name in required)
        for name, of in schema["properties"].items()
    }


def _field(of: JSON, kinds: JSON, *, is_required: bool) -> Field:
    options = of.get("enum") or ()
    if of.get("type") == "integer":
        options = tuple(str(each) for each in range(of["minimum"], of["maximum"] + 1))
    most = _most(of)
    if of.get("type") == "array":
        most = of.get("maxItems", 1) * (_most(_plain(of["items"], kinds)) + len(", "))
    return Field(
        most, options, is_required, most > _LONG and of.get("type") != "array" and "pattern" not in of
    )


def _most(of: JSON) -> int:
    by_format = {"date-time": _TIME, "date": _DAY}.get(of.get("format", ""), _WORD)
    return int(of.get("maxLength", by_format))


def _plain(of: JSON, kinds: JSON) -> JSON:
    """Return the schema of a value that is there, by itself."""
    given = next((it for it in of.get("anyOf", ()) if it != {"type": "null"}), of)
    return cast("JSON", kinds[given["$ref"].rpartition("/")[2]]) if "$ref" in given else cast("JSON", given)
