"""Judges a run of load: pass, fail, invalid, or nothing measured.

* 0, pass: users would have noticed nothing.
* 1, fail: too many failures, or too slow.
* 2, invalid: the generator did not offer what it was asked to, so the figures flatter the service.
* 3, nothing: no request was measured, there was no answer, or what was asked for is not there.

A run with only failures can never be 0. Percentiles are exact: the smallest sample that at least this share of all
samples does not exceed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from loadtests.arrivals import Sample
from postfacta_lab.verdict import FEWEST, Verdict, nothing_measured

__all__ = ["Limits", "Outcome", "Row", "Run", "Verdict", "judge", "percentile", "summary"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What must hold. Times are seconds, shares lie between 0 and 1.

    Attributes:
        failed: Largest share of failed requests.
        p95: Largest 95th percentile, over all routes and for each route.
        p99: Largest 99th percentile, likewise.
        dropped: Largest share of arrivals that the generator did not send.
        rate: Smallest share of the planned rate that was achieved.
        count: Fewest requests that a verdict can rest on.
    """

    failed: float = 0.001
    p95: float = 0.2
    p99: float = 0.5
    dropped: float = 0.001
    rate: float = 0.98
    count: int = FEWEST


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a generator did; times are seconds from its start.

    Attributes:
        samples: All that was sent and ended.
        planned: Arrivals in the schedule.
        dropped: When arrivals came that were not sent.
        seconds: Length of the schedule.
        unfinished: Requests that had not ended when the generator gave up waiting.
        warm_up: What was meant to begin before it is not judged.
    """

    samples: Sequence[Sample]
    planned: int
    seconds: float
    dropped: Sequence[float] = ()
    unfinished: int = 0
    warm_up: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The figures of one route, or of all."""

    route: str
    count: int
    failed: int
    p50: float
    p95: float
    p99: float
    most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The verdict, why, and the figures behind it."""

    verdict: Verdict
    reasons: tuple[str, ...]
    rows: tuple[Row, ...]
    dropped: int
    achieved: float
    errors: dict[str, int] = field(default_factory=dict[str, int])

    def as_json(self) -> dict[str, object]:
        """Return it as plain data."""
        return {**asdict(self), "verdict": self.verdict.name.lower(), "exit_code": int(self.verdict)}


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of them does not exceed; 0 of none."""
    if not values:
        return 0.0
    return sorted(values)[max(math.ceil(share * len(values)), 1) - 1]


def judge(run: Run, limits: Limits) -> Outcome:
    """Return the verdict; an invalid run is invalid whatever its figures say."""
    samples = [sample for sample in run.samples if sample.intended >= run.warm_up]
    dropped = sum(at >= run.warm_up for at in run.dropped)
    rows = (summary("all", samples), *_by_route(samples))
    achieved = _achieved(run)
    flaws = _flaws(run, limits, measured=len(samples), dropped=dropped, achieved=achieved)
    faults = _faults(rows, limits)
    # A service that was there in the warm-up is there.
    if nothing := nothing_measured(len(run.samples) if samples else 0, _errors(run.samples)):
        verdict, reasons = Verdict.NOTHING, [nothing]
    elif flaws:
        verdict, reasons = Verdict.INVALID, [*flaws, *faults]
    else:
        verdict, reasons = (Verdict.FAIL if faults else Verdict.PASS), faults
    return Outcome(
        verdict=verdict,
        reasons=tuple(reasons),
        rows=rows,
        dropped=dropped,
        achieved=achieved,
        errors=_errors(samples),
    )


def summary(route: str, samples: Sequence[Sample]) -> Row:
    """Compute the figures of some samples; failed ones count with the time they took."""
    latencies = sorted(sample.latency for sample in samples)
    return Row(
        route=route,
        count=len(samples),
        failed=sum(bool(sample.error) for sample in samples),
        p50=percentile(latencies, 0.50),
        p95=percentile(latencies, 0.95),
        p99=percentile(latencies, 0.99),
        most=latencies[-1] if latencies else 0.0,
    )


def _errors(samples: Sequence[Sample]) -> dict[str, int]:
    return dict(Counter(sample.error for sample in samples if sample.error).most_common())


def _by_route(samples: Sequence[Sample]) -> list[Row]:
    routes: dict[str, list[Sample]] = {}
    for sample in samples:
        routes.setdefault(sample.route, []).append(sample)
    return [summary(route, routes[route]) for route in sorted(routes)]


def _achieved(run: Run) -> float:
    """Return the share of the planned rate that was really sent: late and dropped starts both lower it."""
    if not run.samples or not run.planned:
        return 0.0
    length = max(run.seconds, *(sample.began for sample in run.samples))
    return (len(run.samples) + run.unfinished) / run.planned * run.seconds / length


def _flaws(run: Run, limits: Limits, *, measured: int, dropped: int, achieved: float) -> list[str]:
    flaws: list[str] = []
    arrivals = measured + dropped
    if measured < limits.count:
        flaws.append(f"{measured} requests measured, at least {limits.count} needed")
    if arrivals and dropped / arrivals > limits.dropped:
        flaws.append(f"{dropped} of {arrivals} arrivals dropped: too many were in flight")
    if achieved < limits.rate:
        flaws.append(f"{achieved:.1%} of the planned rate achieved, {limits.rate:.1%} needed")
    if run.unfinished:
        flaws.append(f"{run.unfinished} requests had no end")
    return flaws


def _faults(rows: Sequence[Row], limits: Limits) -> list[str]:
    faults: list[str] = []
    for row in rows:
        if row.count and row.failed / row.count > limits.failed:
            faults.append(f"{row.route}: {row.failed} of {row.count} failed ({row.failed / row.count:.2%})")
        faults.extend(
            f"{row.route}: {name} is {found:.3f} s, above {allowed:g} s"
            for name, found, allowed in (("p95", row.p95, limits.p95), ("p99", row.p99, limits.p99))
            if found > allowed
        )
    return faults
