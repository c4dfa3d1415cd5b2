"""Values of JSON and YAML, of which the shape is not known."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

__all__ = ["as_dict", "as_dicts", "as_list", "at_pointer"]


def as_dict(value: Any) -> dict[str, Any]:
    """Return a mapping, empty if it is none."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """Return a list, empty if it is none."""
    return list(cast("Iterable[Any]", value)) if isinstance(value, list) else []


def as_dicts(value: Any) -> list[dict[str, Any]]:
    """Return the mappings of a list, none if it is none."""
    return [as_dict(entry) for entry in as_list(value) if isinstance(entry, dict)]


def at_pointer(value: Any, pointer: str) -> Any:
    """Return what a JSON pointer points to; None if there is nothing."""
    for key in pointer.strip("/").split("/"):
        entries = dict(enumerate(as_list(value)))
        value = entries.get(int(key)) if entries and key.isdigit() else as_dict(value).get(key)
    return value
