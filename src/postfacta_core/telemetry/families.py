"""The series of one counter or histogram, counted in plain numbers."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from operator import add

from prometheus_client.samples import Exemplar

from .catalogue import CLOSED, About
from .exchange import OTHER


class HistogramSeries:
    """One series of a histogram; that of a counter has one bucket, and its total is what it counts.

    Attributes:
        bounds: Of its buckets, upwards, without the infinite one.
        counts: The values in each bucket, `total` their sum.
        moment: When the newest of them began, if that is of interest.
        exemplars: The newest value of each bucket whose trace is stored, or None.
    """

    __slots__ = ("bounds", "counts", "exemplars", "moment", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds: Sequence[float] = bounds
        self.counts: list[int] = [0] * (len(bounds) + 1)
        self.total: float = 0.0
        self.moment: float = 0.0
        self.exemplars: list[Exemplar | None] = [None] * len(self.counts)

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add(self, series: HistogramSeries) -> None:
        """Add what another series of the same bounds has counted.

        Of two exemplars the newer stays.
        """
        self.total += series.total
        self.counts = [*map(add, self.counts, series.counts)]
        pairs = zip(self.exemplars, series.exemplars, strict=True)
        self.exemplars = [max(pair, key=_moment) for pair in pairs]


def _moment(exemplar: Exemplar | None) -> float:
    if exemplar is None:
        return -math.inf
    return float(exemplar.timestamp or 0)


class Family(dict[tuple[str, ...], HistogramSeries]):
    """The series of one counter or histogram.

    Above `cap`, new values become `_OTHER`, except of `CLOSED` labels.
    """

    def __init__(self, about: About, cap: int) -> None:
        super().__init__()
        self.about: About = about
        self.cap: int = cap
        self.overflows: int = 0  # How often that was.

    def __missing__(self, key: tuple[str, ...]) -> HistogramSeries:
        if self.is_full:
            self.overflows += 1
            pairs = zip(self.about.labels, key, strict=True)
            key = tuple(value if label in CLOSED else OTHER for label, value in pairs)
        return self.setdefault(key, HistogramSeries(self.about.buckets))

    @property
    def is_full(self) -> bool:
        return len(self) >= self.cap
