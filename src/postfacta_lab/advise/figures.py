"""Read the figures of a service from a scrape of its metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

__all__ = ["Histogram", "Point", "Points", "growth", "histograms", "read"]

_COUNTED = ("_bucket", "_count", "_sum", "_total")


class Point(NamedTuple):
    """A series: its name and its labels."""

    name: str
    labels: frozenset[tuple[str, str]]


Points = Mapping[Point, float]
"""Each series with its value."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many took at most so long: upper bounds in seconds, upwards to infinity, with counts.

    Raises:
        ValueError: If the counts fall, or no bound is infinite.
    """

    counts: Sequence[tuple[float, float]]

    def __post_init__(self) -> None:
        values = [count for _, count in self.counts]
        if values != sorted(values) or self.counts[-1][0] != math.inf:
            raise ValueError("the counts of its buckets fall, or its last bucket is missing")

    @property
    def count(self) -> int:
        return round(self.counts[-1][1])

    def percentile(self, share: float) -> float:
        """Return the lowest bound that at least this share does not exceed."""
        needed = share * self.count
        return next(bound for bound, count in self.counts if count >= needed)


def read(text: str, names: Sequence[str]) -> dict[Point, float]:
    """Return the series of a text in Prometheus's format whose names begin with one of these.

    `ValueError` if it is another text, or one of these series is no number from 0 up.
    """
    points: dict[Point, float] = {}
    families: Any = text_string_to_metric_families(text)
    try:
        samples = [sample for family in families for sample in family.samples]
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"is no text of Prometheus's metrics: {str(error)[:100]}") from None
    for sample in samples:
        if not sample.name.startswith(tuple(names)):
            continue
        if not 0 <= sample.value < math.inf:
            raise ValueError(f"{sample.name} is {sample.value}, and no number from 0 up")
        points[Point(sample.name, frozenset(sample.labels.items()))] = sample.value
    return points


def growth(before: Points, after: Points) -> dict[Point, float]:
    """Return how much each counter grew, and every gauge as it is after.

    `ValueError` if one fell, as it does by a restart.
    """
    grown = dict(after)
    for point, former in before.items():
        if point.name.endswith(_COUNTED):
            grown[point] = grown.get(point, 0.0) - former
            if grown[point] < 0:
                raise ValueError(
                    f"{point.name} fell: the service was restarted between the two scrapes, so take"
                    " both from one run"
                )
    return grown


def histograms(
    points: Points, name: str, *, by: Sequence[str], admit: Callable[[Mapping[str, str]], bool]
) -> dict[tuple[str, ...], Histogram]:
    """Add up the histograms of a name whose labels are admitted, by the values of some labels."""
    tables: dict[tuple[str, ...], dict[float, float]] = {}
    for point, count in points.items():
        labels = dict(point.labels)
        if point.name != f"{name}_bucket" or not admit(labels):
            continue
        key = tuple(labels.get(label, "") for label in by)
        table = tables.setdefault(key, {})
        bound = _bound(name, labels)
        table[bound] = table.get(bound, 0.0) + count
    sums: dict[tuple[str, ...], Histogram] = {}
    for key, table in sorted(tables.items()):
        try:
            sums[key] = Histogram(sorted(table.items()))
        except ValueError as error:
            raise ValueError(f"{name} of {' '.join(key)}: {error}") from None
    return sums


def _bound(name: str, labels: Mapping[str, str]) -> float:
    text = labels.get("le", "none")
    try:
        bound = float(text)
    except ValueError:
        bound = math.nan
    if math.isnan(bound):
        raise ValueError(f"{name} has a bucket whose bound is {text[:40]}, and no number")
    return bound
