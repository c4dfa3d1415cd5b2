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
from dataclasses import asdict, dataclass, field, replace

from ..verdict import FEWEST, Verdict, nothing_measured
from .arrivals import Sample

__all__ = [
    "Limits",
    "Outcome",
    "Row",
    "Run",
    "Verdict",
    "figures",
    "judge",
    "judge_overload",
    "keeps_up",
    "percentile",
]


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
    """The verdict, why, and the figures behind it.

    Attributes:
        verdict: The exit code.
        reasons: Why it is not 0.
        rows: All requests, then each route.
        dropped: Arrivals that were not sent.
        achieved: The share of the planned rate that was sent.
        errors: How often each came.
        offered: Arrivals a second.
        goodput: Good answers a second within the time of `Limits.p99`.
        in_flight: Requests under way, on average (Little: arrivals a second, times the mean latency).
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    rows: tuple[Row, ...]
    dropped: int
    achieved: float
    errors: dict[str, int] = field(default_factory=dict[str, int])
    offered: float = 0.0
    goodput: float = 0.0
    in_flight: float = 0.0

    def as_json(self) -> dict[str, object]:
        return {**asdict(self), "verdict": self.verdict.name.lower(), "exit_code": int(self.verdict)}

    def as_found(self) -> Outcome:
        """Keep the figures, and judge nothing by them; a run that measured nothing stays one."""
        return self if self.verdict is Verdict.NOTHING else replace(self, verdict=Verdict.PASS)

    def also(self, faults: Sequence[str]) -> Outcome:
        """Add faults that other figures show."""
        if not faults:
            return self
        verdict = Verdict.FAIL if self.verdict is Verdict.PASS else self.verdict
        return replace(self, verdict=verdict, reasons=(*self.reasons, *faults))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of them does not exceed; 0 of none."""
    if not values:
        return 0.0
    return sorted(values)[max(math.ceil(share * len(values)), 1) - 1]


def judge(run: Run, limits: Limits) -> Outcome:
    """Return the verdict; an invalid run is invalid whatever its figures say."""
    outcome = _measured(run, limits)
    flaws = _flaws(run, limits, outcome)
    faults = _faults(outcome.rows, limits)
    if outcome.verdict is Verdict.NOTHING:
        return outcome
    if flaws:
        return replace(outcome, verdict=Verdict.INVALID, reasons=(*flaws, *faults))
    return replace(outcome, verdict=Verdict.FAIL if faults else Verdict.PASS, reasons=tuple(faults))


def judge_overload(run: Run, limits: Limits, *, least: float) -> Outcome:
    """Judge a run that offers more than can be served: what counts is how many good answers there were.

    Args:
        run: What was done.
        limits: What a good answer is, and how late the generator may be.
        least: Good answers a second that are needed.
    """
    outcome = _measured(run, limits)
    if outcome.verdict is Verdict.NOTHING:
        return outcome
    if outcome.achieved < limits.rate and not outcome.dropped:
        flaw = f"{outcome.achieved:.1%} of the planned rate achieved, {limits.rate:.1%} needed"
        return replace(outcome, verdict=Verdict.INVALID, reasons=(flaw,))
    if outcome.goodput < least:
        fault = f"{outcome.goodput:.1f} good answers a second, at least {least:.1f} needed"
        return replace(outcome, verdict=Verdict.FAIL, reasons=(fault,))
    return outcome


def keeps_up(run: Run, limits: Limits) -> bool:
    """Return whether the service met the limits; a request that has no end yet is one that is too late."""
    good = sorted(sample.latency for sample in run.samples if not sample.error)
    return all(
        sum(latency <= most for latency in good) >= share * run.planned
        for share, most in ((1 - limits.failed, math.inf), (0.95, limits.p95), (0.99, limits.p99))
    )


def _measured(run: Run, limits: Limits) -> Outcome:
    """Return the figures, with the verdict that they are enough or nothing."""
    samples = [sample for sample in run.samples if sample.intended >= run.warm_up]
    errors = _errors(samples)
    # A service that was there in the warm-up is there.
    nothing = nothing_measured(len(run.samples) if samples else 0, _errors(run.samples))
    seconds = max(run.seconds - run.warm_up, 1e-9)
    dropped = sum(at >= run.warm_up for at in run.dropped)
    return Outcome(
        verdict=Verdict.NOTHING if nothing else Verdict.PASS,
        reasons=(nothing,) if nothing else (),
        rows=tuple(figures(samples)),
        dropped=dropped,
        achieved=_achieved(run),
        errors=errors,
        offered=(len(samples) + dropped + run.unfinished) / seconds,
        goodput=sum(not it.error and it.latency <= limits.p99 for it in samples) / seconds,
        in_flight=sum(it.latency for it in samples) / seconds,
    )


def figures(samples: Sequence[Sample]) -> list[Row]:
    """Compute the figures of all samples, then of each route; failed ones count with the time they took."""
    routes: dict[str, list[Sample]] = {}
    for sample in samples:
        routes.setdefault(sample.route, []).append(sample)
    return [_row("all", samples), *(_row(route, routes[route]) for route in sorted(routes))]


def _row(route: str, samples: Sequence[Sample]) -> Row:
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


def _achieved(run: Run) -> float:
    """Return the share of the planned rate that was really sent: late and dropped starts both lower it."""
    if not run.samples or not run.planned:
        return 0.0
    length = max(run.seconds, *(sample.began for sample in run.samples))
    return (len(run.samples) + run.unfinished) / run.planned * run.seconds / length


def _flaws(run: Run, limits: Limits, outcome: Outcome) -> list[str]:
    flaws: list[str] = []
    measured, dropped = outcome.rows[0].count, outcome.dropped
    arrivals = measured + dropped
    if measured < limits.count:
        flaws.append(f"{measured} requests measured, at least {limits.count} needed")
    if arrivals and dropped / arrivals > limits.dropped:
        flaws.append(f"{dropped} of {arrivals} arrivals dropped: too many were in flight")
    if outcome.achieved < limits.rate:
        flaws.append(f"{outcome.achieved:.1%} of the planned rate achieved, {limits.rate:.1%} needed")
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
