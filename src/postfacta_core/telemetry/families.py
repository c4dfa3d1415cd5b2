"""Count in plain numbers, and show them at the scrape.

An observation of prometheus-client takes a lock or two and walks over the buckets; here it is a step of one number.
For what happens at each request or statement, that is the difference between 1.5 and 0.2 microseconds.

The numbers are written by one thread, the event loop's, and may be read by any. A scrape that comes in between two
steps sees a sum that is one observation ahead of its count, or behind it, as it does with prometheus-client.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, Exemplar, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from .catalogue import INSTRUMENTS, Instrument
from .exchange import OTHER

MetricFamily = CounterMetricFamily | GaugeMetricFamily
_OVERFLOWS: Final = "postfacta_metrics_label_overflow_total"


class Buckets:
    """One series of a histogram; that of a counter has one bucket, and its total is what it counts.

    Attributes:
        bounds: Of its buckets, upwards, without the infinite one.
        counts: The values in each bucket.
        total: Their sum.
        moment: When the newest of them began, if that is of interest.
        exemplars: By the place of their bucket.
    """

    __slots__ = ("bounds", "counts", "exemplars", "moment", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds: Sequence[float] = bounds
        self.counts: list[int] = [0] * (len(bounds) + 1)
        self.total: float = 0.0
        self.moment: float = 0.0
        self.exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float) -> None:
        """Count a value in the first bucket whose bound is not below it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def exemplify(self, value: float, labels: dict[str, str], at: float) -> None:
        """Set an observed value as the example of its bucket; labels are at most 128 characters (OpenMetrics)."""
        self.exemplars[bisect_left(self.bounds, value)] = Exemplar(labels, value, at)


@dataclass(slots=True, eq=False)
class Family:
    """One counter or histogram and its series, at most `cap`.

    What is new after that goes to `_OTHER` in the labels at the places `wide`, and `overflow` is called for it.
    """

    about: Instrument
    cap: float
    overflow: Callable[[], object]
    series: dict[tuple[str, ...], Buckets] = field(default_factory=dict[tuple[str, ...], Buckets])

    def child(self, key: tuple[str, ...]) -> Buckets:
        """Return the series of these label values, or the one that stands in for it."""
        if (known := self.series.get(key)) is not None:
            return known
        if self.is_full:
            self.overflow()
            key = tuple(OTHER if place in self.about.wide else value for place, value in enumerate(key))
        return self.series.setdefault(key, Buckets(self.about.buckets))

    @property
    def is_full(self) -> bool:
        return len(self.series) >= self.cap


class Families(Collector):
    """All counters and histograms of one `Metrics`. It is a collector of prometheus-client."""

    def __init__(self, cap: int) -> None:
        self._cap = cap
        overflows = self._overflows = Family(INSTRUMENTS[_OVERFLOWS], float("inf"), lambda: None)
        self._families: dict[str, Family] = {_OVERFLOWS: overflows}

    def overflow(self, metric: str) -> Callable[[], object]:
        """Return the counter for an observation of a metric that had too many series."""
        counter = self._overflows.child((metric,))
        return lambda: counter.observe(1)

    def make(self, name: str) -> Family:
        family = self._families[name] = Family(INSTRUMENTS[name], self._cap, self.overflow(name))
        return family

    def describe(self) -> Iterator[MetricFamily | HistogramMetricFamily]:
        for name, family in self._families.items():
            if family.about.buckets:
                yield HistogramMetricFamily(name, family.about.text, labels=family.about.labels)
            else:
                yield empty(name, family.about)

    def collect(self) -> Iterator[MetricFamily | HistogramMetricFamily]:
        for shown, family in zip(self.describe(), self._families.values(), strict=True):
            names = [*(repr(float(bound)) for bound in family.about.buckets), "+Inf"]
            for labels, series in tuple(family.series.items()):
                if isinstance(shown, HistogramMetricFamily):
                    counts = zip(names, accumulate(series.counts), strict=True)
                    told: Any = [
                        (name, count, series.exemplars.get(place))
                        for place, (name, count) in enumerate(counts)
                    ]
                    shown.add_metric(labels, told, series.total)
                else:
                    shown.add_metric(labels, series.total)
            yield shown


def empty(name: str, about: Instrument) -> MetricFamily:
    """Make the family of a counter or gauge, without series."""
    kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
    return kind(name, about.text, labels=about.labels)
