"""Judges a run of load: pass, fail, invalid, or nothing measured.

It is invalid if the generator did not offer what it was asked to: then its figures flatter the
service. A run with only failures can never be 0. Percentiles are exact: the smallest sample that at
least this share of all samples does not exceed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

from ..verdict import FEWEST, Verdict, nothing_measured

__all__ = [
    "Limits",
    "Row",
    "Run",
    "Sample",
    "Verdict",
    "judge",
    "judge_overload",
    "percentile",
    "row",
]

_SHOWN = ("name", "reasons", "achieved", "errors", "offered", "goodput", "in_flight")


@dataclass(frozen=True, slots=True)
class Sample:
    """One request that was sent; times are seconds of the run's clock."""

    route: str
    intended: float
    began: float
    ended: float
    error: str = ""  # such as ``503`` or ``TimeoutError``

    @property
    def latency(self) -> float:
        """What a user felt: from the intended start."""
        return self.ended - self.intended


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What must hold, over all routes and for each route.

    Times are seconds, shares lie between 0 and 1.
    """

    failed: float = 0.001
    p95: float = 0.2
    p99: float = 0.5
    dropped: float = 0.001  # the largest share of arrivals that the generator did not send
    rate: float = 0.98  # the smallest share of the planned rate that was achieved
    count: int = FEWEST  # the fewest requests that a verdict can rest on


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one route, or of all; failed requests count with the time they took."""

    route: str
    count: int
    failed: int
    p50: float
    p95: float
    p99: float
    p999: float
    most: float

    def faults(self, limits: Limits) -> list[str]:
        faults: list[str] = []
        if self.failed > limits.failed * self.count:
            faults.append(f"{self.failed} of {self.count} failed ({self.failed / self.count:.2%})")
        if self.p95 > limits.p95:
            faults.append(f"p95 is {self.p95:.3f} s, above {limits.p95:g} s")
        if self.p99 > limits.p99:
            faults.append(f"p99 is {self.p99:.3f} s, above {limits.p99:g} s")
        return [f"{self.route}: {fault}" for fault in faults]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a generator did; once it is judged, the verdict and why.

    Times are seconds of the generator's clock.
    """

    name: str = "load"
    samples: Sequence[Sample]
    planned: int  # arrivals in the schedule
    dropped: Sequence[float] = ()  # when arrivals came that were not sent
    start: float = 0.0
    seconds: float  # the length of the schedule
    warm_up: float = 0.0  # seconds from the start that are not judged
    verdict: Verdict = Verdict.NOTHING
    reasons: Sequence[str] = ()
    goodput: float = 0.0  # good answers a second within the time of `Limits.p99`

    @cached_property
    def judged(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.intended >= self.start + self.warm_up]

    @property
    def lost(self) -> list[float]:
        """When arrivals came that were not sent, after the warm-up."""
        return [at for at in self.dropped if at >= self.start + self.warm_up]

    @cached_property
    def rows(self) -> list[Row]:
        """The figures of all requests, then of each route."""
        routes: dict[str, list[Sample]] = {}
        for sample in self.judged:
            routes.setdefault(sample.route, []).append(sample)
        rows = [row("all", self.judged)]
        rows += [row(route, routes[route]) for route in sorted(routes)]
        return rows

    @property
    def errors(self) -> dict[str, int]:
        return _errors(self.judged)

    @property
    def unfinished(self) -> int:
        """Requests that had no end when the generator gave up waiting."""
        return self.planned - len(self.samples) - len(self.dropped)

    @property
    def achieved(self) -> float:
        """The share of the planned rate that was really sent.

        Late and dropped starts both lower it.
        """
        if not self.samples or not self.planned:
            return 0.0
        last = max(sample.began for sample in self.samples)
        length = max(self.seconds, last - self.start)
        sent = (self.planned - len(self.dropped)) / self.planned
        return sent * self.seconds / length

    @property
    def _length(self) -> float:
        return max(self.seconds - self.warm_up, 1e-9)

    @property
    def offered(self) -> float:
        """Arrivals a second."""
        return (len(self.judged) + len(self.lost) + self.unfinished) / self._length

    @property
    def in_flight(self) -> float:
        """Requests under way, on average (Little: arrivals a second, times the mean latency)."""
        return sum(sample.latency for sample in self.judged) / self._length

    def within(self, limit: float) -> float:
        """Return the good answers a second that came in a time."""
        return (
            sum(not sample.error and sample.latency <= limit for sample in self.judged)
            / self._length
        )

    def as_json(self) -> dict[str, object]:
        return {
            **{name: getattr(self, name) for name in _SHOWN},
            "verdict": self.verdict.name.lower(),
            "exit_code": int(self.verdict),
            "rows": [asdict(figures) for figures in self.rows],
            "dropped": len(self.lost),
        }


def judge(run: Run, limits: Limits, *, faults: Sequence[str] = ()) -> Run:
    """Give a run its verdict; an invalid one is invalid whatever its figures say.

    `faults` are those of other figures.
    """
    measured = len(run.judged)
    lost = len(run.lost)
    most = limits.dropped * (measured + lost)
    flaws = {
        f"{measured} requests measured, at least {limits.count} needed": measured < limits.count,
        f"{lost} of {measured + lost} arrivals dropped: too many were in flight": lost > most,
        _lag(run, limits): run.achieved < limits.rate,
        f"{run.unfinished} requests had no end": run.unfinished > 0,
    }
    route_faults = [fault for figures in run.rows for fault in figures.faults(limits)]
    judged = replace(run, goodput=run.within(limits.p99))
    return _decided(judged, flaws, [*route_faults, *faults])


def judge_overload(run: Run, limits: Limits, *, least: float = 0.0) -> Run:
    """Judge a run that offers more than can be served.

    What counts is how many good answers a second there were.
    """
    goodput = run.within(limits.p99)
    flaws = {_lag(run, limits): run.achieved < limits.rate and not run.lost}
    fault = f"{goodput:.1f} good answers a second, at least {least:.1f} needed"
    return _decided(replace(run, goodput=goodput), flaws, [fault] if goodput < least else [])


def _decided(run: Run, flaws: Mapping[str, bool], faults: Sequence[str]) -> Run:
    """Give a run its verdict, and its reasons: of the flaws, those that are so."""
    true_flaws = [flaw for flaw, is_true in flaws.items() if is_true]
    reasons = [*true_flaws, *faults]
    verdict = Verdict.FAIL if faults else Verdict.PASS
    if true_flaws:
        verdict = Verdict.INVALID
    # A service that was there in the warm-up is there.
    count = len(run.samples) if run.judged else 0
    if nothing := nothing_measured(count, _errors(run.samples)):
        verdict = Verdict.NOTHING
        reasons = [nothing]
    return replace(run, verdict=verdict, reasons=reasons)


def _lag(run: Run, limits: Limits) -> str:
    return f"{run.achieved:.1%} of the planned rate achieved, {limits.rate:.1%} needed"


def _errors(samples: Sequence[Sample]) -> dict[str, int]:
    return dict(Counter(sample.error for sample in samples if sample.error).most_common())


def row(route: str, samples: Sequence[Sample]) -> Row:
    latencies = sorted(sample.latency for sample in samples)
    failed = sum(bool(sample.error) for sample in samples)
    return Row(
        route=route,
        count=len(samples),
        failed=failed,
        p50=percentile(latencies, 0.50),
        p95=percentile(latencies, 0.95),
        p99=percentile(latencies, 0.99),
        p999=percentile(latencies, 0.999),
        most=percentile(latencies, 1.0),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of them does not exceed; 0 of none."""
    if not values:
        return 0.0
    rank = max(math.ceil(share * len(values)), 1)
    return sorted(values)[rank - 1]
