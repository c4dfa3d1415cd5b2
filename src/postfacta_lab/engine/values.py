"""What services say, whatever its shape.

Values of JSON or YAML, and metrics as they are exposed for Prometheus.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

Fields = Mapping[str, Any]  # of an object of JSON or YAML, not checked yet
Headers = Mapping[str, str]
_LINE = re.compile(r'([a-zA-Z_:][\w:]*)(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})?\s+(\S+)')
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


# PyYAML recurses for each level, and its time grows with their square.
_MOST_LEVELS = 100


def read_yaml(text: str) -> list[Any]:
    """Return the documents of a text of YAML; `ValueError` if it is none, or nested too deeply."""
    import yaml  # noqa: PLC0415 - it takes longer than a command's start may

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    try:
        for event in yaml.parse(text, loader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _MOST_LEVELS:
                raise ValueError(f"nested by more than {_MOST_LEVELS} levels")
        return list(yaml.load_all(text, loader))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def as_dict(value: Any) -> dict[str, Any]:
    """Return a mapping, empty if it is none."""
    if not isinstance(value, dict):
        return {}
    return cast("dict[str, Any]", value)


def as_list(value: Any) -> list[Any]:
    """Return a list, empty if it is none."""
    if not isinstance(value, list):
        return []
    return list(cast("Iterable[Any]", value))


def as_dicts(value: Any) -> list[dict[str, Any]]:
    """Return the mappings of a list, none if it is none."""
    return [as_dict(entry) for entry in as_list(value) if isinstance(entry, dict)]


def at_pointer(value: Any, pointer: str) -> Any:
    """Return what a JSON pointer points to; None if there is nothing."""
    for key in pointer.strip("/").split("/"):
        items = as_list(value)
        if items and key.isdigit():
            place = int(key)
            value = items[place] if place < len(items) else None
        else:
            value = as_dict(value).get(key)
    return value


@dataclass(frozen=True, slots=True)
class Series:
    """A name with its labels."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()

    def says(self, value: str) -> bool:
        texts = [text.lower() for _, text in self.labels]
        return value.lower() in texts


def parse(text: str) -> dict[Series, float]:
    """Return each series with its value; lines that are none are passed over."""
    values: dict[Series, float] = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if not match:  # a comment
            continue
        labels = sorted(_LABEL.findall(match[2] or ""))
        series = Series(match[1], tuple(labels))
        with suppress(ValueError):
            values[series] = float(match[3])
    return values


def growth(
    before: Mapping[Series, float], after: Mapping[Series, float]
) -> Iterator[tuple[Series, float]]:
    """Yield each series that went up, and by how much."""
    for series, value in after.items():
        rise = value - before.get(series, 0.0)
        if rise > 0:
            yield series, rise
