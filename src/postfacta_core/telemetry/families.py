"""Make an instrument from the catalogue, and find its series without hashing each label by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter

from .catalogue import INSTRUMENTS
from .exchange import OTHER
from .plain import PlainHistogram, ReadGauge

_OVERFLOWS: Final = "postfacta_metrics_label_overflow_total"


@dataclass(slots=True, eq=False)
class Family:
    """One metric and its series, at most `cap`.

    What is new after that goes to `_OTHER` in the labels at the places `wide`, and `overflow` is called for it.
    """

    metric: Counter | PlainHistogram
    cap: int
    overflow: Callable[[], None]
    wide: tuple[int, ...]
    children: dict[tuple[str, ...], Any] = field(default_factory=dict[tuple[str, ...], Any])

    def child(self, key: tuple[str, ...]) -> Any:
        """Return the series of these label values, or the one that stands in for it."""
        if (known := self.children.get(key)) is not None:
            return known
        if len(self.children) < self.cap:
            return self._add(key)
        self.overflow()
        key = tuple(OTHER if place in self.wide else value for place, value in enumerate(key))
        return self.children.get(key) or self._add(key)

    @property
    def is_full(self) -> bool:
        return len(self.children) >= self.cap

    def known(self) -> list[tuple[tuple[str, ...], Any]]:
        return list(self.children.items())

    def _add(self, key: tuple[str, ...]) -> Any:
        child = self.children[key] = self.metric.labels(*key)
        return child


class Families:
    """Makes families on one registry."""

    def __init__(self, registry: CollectorRegistry, cap: int) -> None:
        self._registry = registry
        self._cap = cap
        about = INSTRUMENTS[_OVERFLOWS]
        self._overflows = Counter(_OVERFLOWS, about.text, about.labels, registry=registry)

    def overflow(self, metric: str) -> Callable[[], None]:
        """Return the counter for an observation of a metric that had too many series."""
        # The bound child is made here: `labels` costs more than the observation itself.
        return self._overflows.labels(metric).inc

    def make(self, name: str) -> Family:
        about, registry = INSTRUMENTS[name], self._registry
        metric = (
            Counter(name, about.text, about.labels, registry=registry)
            if about.kind == "counter"
            else PlainHistogram(name, about.text, about.labels, bounds=about.buckets, registry=registry)
        )
        return Family(metric, self._cap, overflow=self.overflow(name), wide=about.wide)

    def gauge(self, name: str, read: Callable[[], Mapping[tuple[str, ...], float]]) -> None:
        about = INSTRUMENTS[name]
        ReadGauge(name, about.text, about.labels, registry=self._registry, read=read)
