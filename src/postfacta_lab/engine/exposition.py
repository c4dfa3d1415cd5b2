"""Metrics as services expose them for Prometheus: read, and compared with what they were."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

__all__ = ["Series", "growth", "parse"]

_LINE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Series:
    """A name with its labels."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()

    def says(self, value: str) -> bool:
        """Whether a label has this value, in any case."""
        return any(value.lower() == text.lower() for _, text in self.labels)


def parse(text: str) -> dict[Series, float]:
    """Return each series with its value; lines that are none are passed over."""
    found: dict[Series, float] = {}
    for line in text.splitlines():
        match = None if line.startswith("#") else _LINE.match(line)
        if match is None:
            continue
        try:
            found[Series(match[1], tuple(sorted(_LABEL.findall(match[2] or ""))))] = float(match[3])
        except ValueError:
            continue
    return found


def growth(before: Mapping[Series, float], after: Mapping[Series, float]) -> Iterator[tuple[Series, float]]:
    """Yield each series that went up, and by how much."""
    for series, value in after.items():
        if value > (was := before.get(series, 0.0)):
            yield series, value - was
