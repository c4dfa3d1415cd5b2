"""Query the state of objectives from a Prometheus that runs the generated rules.

Nearly everything is read from recorded series, for all objectives at once: that needs no file of objectives, and
shows what the alerts and dashboards see. The report, the gate of deployments and a service's own page all use this.

1. All figures are of one window, by default of 30 days, also those of an objective by the hour.
2. Time that was not recorded counts neither as good nor as bad; `coverage` is the recorded share.
3. The burn rate is the share that was bad, over the share that may be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import accumulate
from typing import Final

from ..promise.budget import error_series, span
from ..promise.model import DAY, PRESENT, Matcher, Objective, RatioIndicator, SloError
from .prometheus import Prometheus

__all__ = ["ENOUGH", "MONTH", "Hours", "SloStatus", "Unit", "query_status"]

# The share of a window that must be recorded; with less, its figures would claim more than is known.
ENOUGH: Final = 0.9

_PRESENT: Final = "6h"  # The burn that is taken for the present one: that of an hour swings with each minute.


class Unit(StrEnum):
    """What a budget is counted in."""

    MINUTES = "minutes"
    EVENTS = "events"


@dataclass(frozen=True, slots=True)
class Hours:
    """In how many hours of a window an objective by the hour was met, and of how many that is known."""

    met: float
    known: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SloStatus:
    """One objective over one window."""

    service: str  # Whose it is.
    slo: str  # Its name.
    objective: float  # The share of good minutes or events that is aimed at, above 0 and below 1.
    window: float  # Seconds.
    unit: Unit  # What `total` counts.
    coverage: float  # The share of the window that was recorded, from 0 to 1.
    # The share of bad minutes or events in what was recorded; None if there were none to judge.
    error: float | None
    # All minutes or events of the window; None if only shares of them were recorded.
    total: float | None = None
    # The share of slices with enough events to judge them; None if there are no slices.
    judged: float | None = None
    # By the length of a window that ends now: how many times faster than allowed the budget is spent. A
    # window without events is missing.
    burn: Mapping[str, float] = field(default_factory=dict[str, float])
    hours: Hours | None = None  # How many hours met the objective; None if it is not one by the hour.
    # The share of the budget spent up to a moment, in seconds since the epoch; in order, for a plot.
    spent: Sequence[tuple[float, float]] = ()
    routes: Sequence[tuple[str, float]] = ()  # Those with most failures and how many each, if that is known.

    @property
    def allowed(self) -> float:
        return round(1 - self.objective, 12)

    @property
    def is_known(self) -> bool:
        """Whether enough was recorded for `achieved` and what is left of the budget to mean anything."""
        return self.coverage >= ENOUGH and self.error is not None

    @property
    def achieved(self) -> float:
        return 1 - (self.error or 0.0)

    @property
    def remaining(self) -> float:
        """The share of the budget that is left; below 0 if it is overspent."""
        return 1 - (self.error or 0.0) / self.allowed

    @property
    def exhausted_in(self) -> float | None:
        """Seconds until nothing is left, if it goes on as in the last six hours; None for never, or if that is not known.

        What falls out of the window meanwhile is left aside, so that it is the earliest moment, not the likeliest.
        """
        if self.remaining <= 0:
            return 0.0
        present = self.burn.get(_PRESENT, 0.0)
        return self.remaining * self.window / present if present > 0 else None


MONTH: Final = 30 * DAY  # Seconds of the window that is taken by default.

_HOUR: Final = 3_600
_MINUTE: Final = 60
_BURN: Final = {"1h": _HOUR, "6h": 6 * _HOUR, "3d": 3 * DAY}
_POINTS: Final = 120
_MOST_ROUTES: Final = 5

_Key = tuple[str, str]
_Values = Mapping[_Key, float]
_Curve = Sequence[tuple[float, float]]

# As `rules` records them: of an objective by time whether it was bad, of one by events how many there were a second.
_SLICE, _POINT, _BAD, _TOTAL, _BAD_SAMPLE, _SAMPLE = (
    f"slo:{name}{{which}}"
    for name in (
        *("slice_bad:bool", "point_bad:bool", "sli_bad:rate5m", "sli_total:rate5m"),
        # Of an expression, which says how many there were of all and of bad ones, but not how many there were a second.
        *("sli_bad:sample", "sli_total:sample"),
    )
)


def query_status(
    source: Prometheus,
    *,
    at: float,
    window: int = MONTH,
    service: str = "",
    slo: str = "",
    objectives: Sequence[Objective] = (),
    by: str = "http_route",
) -> list[SloStatus]:
    """Query the state of objectives at a moment."""
    if window < _HOUR:
        raise SloError(
            f"a window has an hour or more, and not {window} s: shorter ones say nothing of a budget"
        )
    asker = _Asker(source, at, window, _which(service, slo))
    aims = asker.values("slo:objective:ratio{which}")
    if not aims:
        return []
    answers = _Answers.of(asker)
    indicators = {(one.service.name, one.name): one.indicator for one in objectives}
    statuses: list[SloStatus] = []
    for key, aim in sorted(aims.items()):
        indicator = indicators.get(key)
        routes = (
            asker.failing(indicator, by)
            if isinstance(indicator, RatioIndicator) and not indicator.is_expression
            else []
        )
        statuses.append(replace(_status(asker, answers, key, aim=aim), routes=routes))
    return statuses


def _which(service: str, slo: str) -> str:
    given = {"service": service, "slo": slo}
    return f"{{{','.join(str(Matcher(label, '=', value)) for label, value in given.items() if value)}}}"


@dataclass(frozen=True, slots=True)
class _Asker:
    """Queries all objectives; `{which}` and `{window}` in an expression are filled in."""

    source: Prometheus
    at: float
    window: int
    which: str

    def values(self, query: str) -> dict[_Key, float]:
        points = self.source.instant(self._written(query, self.window), at=self.at)
        return {_key(point.labels): point.value for point in points}

    def curves(self, query: str) -> dict[_Key, _Curve]:
        step = max(PRESENT, self.window // _POINTS)
        start = self.at - self.window + step
        lines = self.source.over_time(self._written(query, step), start=start, end=self.at, step=step)
        return {_key(line.labels): line.points for line in lines}

    def failing(self, indicator: RatioIndicator, by: str) -> list[tuple[str, float]]:
        total, bad, good = (
            f"sum by ({by}) (increase({series}[{span(self.window)}]))"
            for series in (indicator.total, indicator.bad, indicator.good)
        )
        failed = bad if indicator.bad else f"{total} - ({good} or {total} * 0)"
        points = self.source.instant(f"topk({_MOST_ROUTES}, ({failed}) > 0)", at=self.at)
        found = [(point.labels.get(by, ""), point.value) for point in points]
        return sorted(found, key=lambda one: (-one[1], one[0]))

    def _written(self, query: str, window: int) -> str:
        return query.replace("{which}", self.which).replace("{window}", span(window))


def _key(labels: Mapping[str, str]) -> _Key:
    return labels.get("service", ""), labels.get("slo", "")


@dataclass(frozen=True, slots=True)
class _Answers:
    """What was recorded of all objectives."""

    times: _Values
    events: _Values
    totals: _Values
    points: _Values
    judged: _Values
    periods: _Values
    met: _Values
    hours: _Values
    burn: Mapping[str, _Values]
    curves: Mapping[_Key, _Curve]

    @classmethod
    def of(cls, asker: _Asker) -> _Answers:
        def each(function: str, *series: str, step: str = "") -> str:
            return " or ".join(f"{function}({one}[{{window}}{step}])" for one in series)

        bad, total = each("sum_over_time", _BAD, _BAD_SAMPLE), each("sum_over_time", _TOTAL, _SAMPLE)
        rates = f"({bad}) / (({total}) > 0)"
        hourly = "slo:period_ok:bool{which}"
        return cls(
            times=asker.values(each("avg_over_time", _SLICE, _POINT)),
            events=asker.values(rates),
            totals=asker.values(each("avg_over_time", _TOTAL)),
            # A recorded value is the present one for five minutes.
            points=asker.values(
                each("count_over_time", _SLICE, _POINT, _TOTAL, _SAMPLE, step=f":{span(PRESENT)}")
            ),
            judged=asker.values(each("avg_over_time", "slo:slice_judged:bool{which}")),
            periods=asker.values("slo:time_period:days{which}"),
            met=asker.values(each("sum_over_time", hourly, step=":1h")),
            hours=asker.values(each("count_over_time", hourly, step=":1h")),
            burn={name: asker.values(error_series(length) + "{which}") for name, length in _BURN.items()},
            curves=asker.curves(each("avg_over_time", _SLICE, _POINT, _BAD, _BAD_SAMPLE)),
        )


def _status(asker: _Asker, answers: _Answers, key: _Key, *, aim: float) -> SloStatus:
    is_by_time = key in answers.times
    rate = answers.totals.get(key)
    is_by_hour = key in answers.hours and round(answers.periods.get(key, 0.0) * DAY) == _HOUR
    one = SloStatus(
        service=key[0],
        slo=key[1],
        objective=aim,
        window=asker.window,
        unit=Unit.MINUTES if is_by_time else Unit.EVENTS,
        # Whether the point at a window's very beginning counts depends on Prometheus's version.
        coverage=min(1.0, answers.points.get(key, 0.0) * PRESENT / asker.window),
        error=answers.times.get(key, answers.events.get(key)),
        total=asker.window / _MINUTE if is_by_time else None if rate is None else rate * asker.window,
        judged=answers.judged.get(key),
        burn={name: values[key] / (1 - aim) for name, values in answers.burn.items() if key in values},
        hours=Hours(answers.met[key], answers.hours[key]) if is_by_hour else None,
    )
    return replace(one, spent=_spent(one, answers.curves.get(key, ()), asker.at - asker.window))


def _spent(one: SloStatus, curve: _Curve, start: float) -> list[tuple[float, float]]:
    """Add up the bad share over time, from nothing to the total that was spent."""
    if not one.is_known or not curve:
        return []
    sums = list(accumulate(bad for _, bad in curve))
    scale = (1 - one.remaining) / sums[-1] if sums[-1] else 0.0
    return [(start, 0.0), *((at, bad * scale) for (at, _), bad in zip(curve, sums, strict=True))]
