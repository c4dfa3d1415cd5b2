"""Count in plain numbers, and show them at the scrape, with those that policies count.

An observation of prometheus-client takes a lock or two and walks over the buckets; here it is a step of one number: 0.2
microseconds in place of 1.5. One thread writes, the event loop's, and any may read: between two steps a sum is one
observation ahead of its count, or behind it, as with prometheus-client. A policy announces itself once by `PolicyCreated`.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any, Final, cast

from prometheus_client.core import (
    CounterMetricFamily,
    Exemplar,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ..events import PolicyCreated, Sample, Tally, weakly
from .catalogue import CLOSED, INSTRUMENTS, POLICY_METRICS, RUNTIME_METRICS, Instrument
from .exchange import OTHER

_LOG: Final = logging.getLogger("postfacta")
_METRICS: Final = {**INSTRUMENTS, **POLICY_METRICS, **RUNTIME_METRICS}
_OVERFLOWS: Final = "postfacta_metrics_label_overflow_total"


class Buckets:
    """One series of a histogram; that of a counter has one bucket, and its total is what it counts.

    Attributes:
        bounds: Of its buckets, upwards, without the infinite one.
        counts: The values in each bucket, `total` their sum.
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
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def exemplify(self, value: float, labels: dict[str, str], at: float) -> None:
        """Set an observed value as the example of its bucket; labels are at most 128 characters (OpenMetrics)."""
        self.exemplars[bisect_left(self.bounds, value)] = Exemplar(labels, value, at)


@dataclass(slots=True, eq=False)
class Family:
    """One counter or histogram, and at most `cap` series: then new labels, if not `CLOSED`, become `_OTHER`."""

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
            pairs = zip(self.about.labels, key, strict=True)
            key = tuple(value if label in CLOSED else OTHER for label, value in pairs)
        return self.series.setdefault(key, Buckets(self.about.buckets))

    @property
    def is_full(self) -> bool:
        return len(self.series) >= self.cap


class Numbers(Collector):
    """All numbers of one `Metrics`: what it counts itself in `families`, its gauges, and those of policies.

    A policy that raises, or gives a number that is none, costs its own numbers, and is logged once. A policy above the cap
    is counted as an overflow: their names are from the code, so that more of them are a mistake.
    """

    def __init__(self, cap: int, gauges: Tally) -> None:
        self._most = cap + 1
        self._asked: dict[tuple[int, int], tuple[str, Callable[[], Tally | None]]] = {
            (0, 0): ("metrics", lambda: gauges)
        }
        self._broken: set[str] = set()
        self.families: dict[str, Family] = {
            name: Family(about, cap, partial(self._overflow, name))
            for name, about in INSTRUMENTS.items()
            if about.buckets or name.endswith("_total")
        }
        overflows = self.families[_OVERFLOWS]
        overflows.cap = float("inf")
        for name in (*self.families, "policies"):
            overflows.child((name,))

    def _overflow(self, metric: str) -> None:
        self.families[_OVERFLOWS].child((metric,)).observe(1)

    def add(self, event: PolicyCreated) -> None:
        """Read this one too from now on, while it exists. Adding it again changes nothing."""
        tally = event.tally
        key = (id(getattr(tally, "__self__", None)), id(getattr(tally, "__func__", tally)))
        if key in self._asked and self._asked[key][1]() is not None:
            return
        if len(self._asked) >= self._most:
            self._living()  # forgets the dead ones, such as one at whose address this one is
        if len(self._asked) < self._most:
            self._asked[key] = event.policy, weakly(tally)
        else:
            self._overflow("policies")

    def describe(self) -> Iterator[Metric]:
        return map(_empty, _METRICS)

    def collect(self) -> Iterator[Metric]:
        # Ours are shown without a series too, so that a rule's names can be looked up before there is one.
        numbers: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in INSTRUMENTS}
        for name, family in self.families.items():
            if family.about.buckets:
                yield _histogram(name, family)
                del numbers[name]
            else:
                numbers[name] = {labels: series.total for labels, series in tuple(family.series.items())}
        for policy, tally in self._living():
            for sample in self._read(policy, tally):
                of_metric, labels = numbers.setdefault(sample.metric, {}), tuple(sample.labels)
                known = of_metric.get(labels)
                merge = _METRICS[sample.metric].merge
                of_metric[labels] = sample.value if known is None else merge(known, sample.value)
        for name, values in numbers.items():
            shown = _empty(name)
            for labels, value in values.items():
                shown.add_metric(labels, value)
            yield shown

    def _living(self) -> list[tuple[str, Tally]]:
        living: list[tuple[str, Tally]] = []
        for key, (policy, find) in tuple(self._asked.items()):
            if (tally := find()) is None:
                self._asked.pop(key, None)
            else:
                living.append((policy, tally))
        return living

    def _read(self, policy: str, tally: Tally) -> list[Sample]:
        # A policy with a fault of its own must not take the scrape of all others with it.
        try:
            samples = [sample for sample in tally() if sample.metric in _METRICS]
            bad = [sample for sample in samples if not _can_be_shown(sample)]
        except Exception as error:  # noqa: BLE001 - a tally is foreign code, and may raise anything
            samples, bad, why = [], [], repr(error)
        else:
            why = f"its labels must be texts and its value a number: {bad[0]!r}" if bad else ""
        if why and policy not in self._broken:
            self._broken.add(policy)
            _LOG.error("metrics.policy_failed", extra={"policy": policy, "error": why})
        return [sample for sample in samples if sample not in bad]


def _can_be_shown(sample: Sample) -> bool:
    labels, value = cast("tuple[object, ...]", sample.labels), cast("object", sample.value)
    about = _METRICS[sample.metric]
    return (
        len(labels) == len(about.labels)
        and not about.buckets
        and all(isinstance(label, str) for label in labels)
        and isinstance(value, int | float)
    )


def _empty(name: str) -> Any:
    """Make the family of a metric, without series."""
    about = _METRICS[name]
    plain = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
    return (HistogramMetricFamily if about.buckets else plain)(name, about.text, labels=about.labels)


def _histogram(name: str, family: Family) -> Metric:
    shown = _empty(name)
    bounds = [*(repr(float(bound)) for bound in family.about.buckets), "+Inf"]
    for labels, series in tuple(family.series.items()):
        counts = zip(bounds, accumulate(series.counts), strict=True)
        buckets = [(bound, count, series.exemplars.get(place)) for place, (bound, count) in enumerate(counts)]
        shown.add_metric(labels, buckets, series.total)
    return cast("Metric", shown)
