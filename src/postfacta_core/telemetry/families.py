"""Make an instrument from the catalogue, and find its series without hashing each label by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.metrics import MetricWrapperBase

from .catalogue import INSTRUMENTS, Instrument
from .exchange import OTHER
from .plain import PlainGauge, PlainHistogram

__all__ = ["Families", "Family"]

_Metric = MetricWrapperBase | PlainGauge | PlainHistogram
_OVERFLOWS: Final = "postfacta_metrics_label_overflow_total"


class Family:
    """One metric and its series.

    Args:
        metric: The instrument.
        cap: The most sets of labels.
        overflow: Called for each observation that was sent to `_OTHER`.
        wide: The places of the labels that may be replaced; all others are closed sets.
    """

    def __init__(
        self, metric: _Metric, cap: int, *, overflow: Callable[[], None], wide: tuple[int, ...]
    ) -> None:
        self._metric = metric
        self._cap = cap
        self._overflow = overflow
        self._wide = wide
        self._children: dict[tuple[str, ...], Any] = {}

    def child(self, key: tuple[str, ...]) -> Any:
        """Return the series of these label values, or the one that stands in for it."""
        if (known := self._children.get(key)) is not None:
            return known
        if len(self._children) < self._cap:
            return self._add(key)
        self._overflow()
        key = tuple(OTHER if place in self._wide else value for place, value in enumerate(key))
        return self._children.get(key) or self._add(key)

    @property
    def is_full(self) -> bool:
        """Whether new sets of labels are sent to `_OTHER`."""
        return len(self._children) >= self._cap

    def refresh_by(self, refresh: Callable[[], object]) -> None:
        """Have a plain gauge brought up to date by a function before it is read."""
        if not isinstance(self._metric, PlainGauge):
            raise TypeError("prometheus-client's own instruments are set, not refreshed")
        self._metric.refresh = refresh

    def known(self) -> list[tuple[str, ...]]:
        """Return the label values that it has so far."""
        return list(self._children)

    def _add(self, key: tuple[str, ...]) -> Any:
        child = self._children[key] = self._metric.labels(*key)
        return child


class Families:
    """Makes families on one registry.

    Args:
        registry: Where they are registered.
        cap: The most sets of labels that each takes.
    """

    def __init__(self, registry: CollectorRegistry, cap: int) -> None:
        self._registry = registry
        self._cap = cap
        about = INSTRUMENTS[_OVERFLOWS]
        self._overflows = Counter(_OVERFLOWS, about.text, about.labels, registry=registry)

    def overflow(self, metric: str) -> Callable[[], None]:
        """Return the counter for an observation of a metric that had too many series."""
        # The bound child is made here: `labels` costs more than the observation itself.
        return self._overflows.labels(metric).inc

    def make(self, name: str, *, read: Callable[[float], float] = float) -> Family:
        """Make the one that the catalogue has under this name.

        Args:
            name: Of the metric, in full.
            read: Of a plain gauge: turns its number into what is shown.
        """
        about = INSTRUMENTS[name]
        metric = self._metric(name, about, read)
        return Family(metric, self._cap, overflow=self.overflow(name), wide=about.wide)

    def _metric(self, name: str, about: Instrument, read: Callable[[float], float]) -> _Metric:
        if about.kind == "histogram":
            return PlainHistogram(
                name, about.text, about.labels, bounds=about.buckets, registry=self._registry
            )
        if about.kind == "plain gauge":
            return PlainGauge(name, about.text, about.labels, registry=self._registry, read=read)
        kind = Gauge if about.kind == "gauge" else Counter
        return kind(name, about.text, about.labels, registry=self._registry)
