"""Query the state of objectives from a Prometheus that runs the generated rules.

Nearly everything is read from recorded series, for all objectives at once: that needs no file of
objectives, and shows what the alerts and dashboards see. The report, the gate of deployments and a
service's own page all use this.

1. All figures are of one window, by default of 30 days, also those of an objective by the hour.
2. Time that was not recorded counts neither as good nor as bad; `coverage` is the recorded share.
3. The burn rate is the share that was bad, over the share that may be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Final, Literal

from ..promise.model import DAY, PRESENT, Indicator, Objective, RatioIndicator, error_series, span
from ..promise.promql import Matcher, SloError
from .prometheus import Prometheus

# The share of a window that must be recorded; with less, its figures would claim more than is
# known.
ENOUGH: Final = 0.9

# The burn that is taken for the present one: that of an hour swings with each minute.
_PRESENT: Final = "6h"


@dataclass(frozen=True, slots=True, kw_only=True)
class SloStatus:
    """One objective over one window."""

    service: str  # Whose it is.
    slo: str  # Its name.
    objective: float  # The share of good minutes or events that is aimed at, above 0 and below 1.
    window: float  # Seconds.
    unit: Literal["minutes", "events"]  # What `total` counts.
    coverage: float  # The share of the window that was recorded, from 0 to 1.
    # The share of bad minutes or events in what was recorded; None if there were none to judge.
    error: float | None
    # All minutes or events of the window; None if only shares of them were recorded.
    total: float | None = None
    # The share of slices with enough events to judge them; None if there are no slices.
    judged: float | None = None
    # By the length of a window that ends now: how many times faster than allowed the budget is
    # spent. A window without events is missing.
    burn: Mapping[str, float] = field(default_factory=dict[str, float])
    # In how many hours the objective was met, and of how many that is known; None if it is not one
    # by the hour.
    hours: tuple[float, float] | None = None
    # The share of the budget spent up to a moment, in seconds since the epoch; in order, for a
    # plot.
    spent: Sequence[tuple[float, float]] = ()
    # Those with most failures and how many each, if that is known.
    routes: Sequence[tuple[str, float]] = ()

    @property
    def allowed(self) -> float:
        return round(1 - self.objective, 12)

    @property
    def is_known(self) -> bool:
        """Whether enough was recorded for `achieved` and the budget to mean anything."""
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
        """Seconds until nothing is left, if it goes on as in the last six hours.

        None for never, or if that is not known.

        What falls out of the window meanwhile is left aside, so that it is the earliest moment, not
        the likeliest.
        """
        if self.remaining <= 0:
            return 0.0
        present = self.burn.get(_PRESENT, 0.0)
        if present <= 0:
            return None
        return self.remaining * self.window / present


MONTH: Final = 30 * DAY  # Seconds of the window that is taken by default.

_HOUR: Final = 3_600
_MINUTE: Final = 60
_POINTS: Final = 120  # That a plot of the budget has.
_MOST_ROUTES: Final = 5  # That are shown with their failures.

_Key = tuple[str, str]
_Curve = Sequence[tuple[float, float]]


def _over_each(function: str, *series: str, step: str = "") -> str:
    return " or ".join(f"{function}(slo:{name}{{which}}[{{window}}{step}])" for name in series)


# As `rules` records them: of an objective by time whether it was bad, of one by events how many
# there were a second.
_TIMED: Final = ("slice_bad:bool", "point_bad:bool")
_BAD = "sli_bad:rate5m"
_TOTAL = "sli_total:rate5m"
# Of an expression, which says how many there were of all and of bad ones, but not how many there
# were a second.
_BAD_SAMPLE = "sli_bad:sample"
_SAMPLE = "sli_total:sample"
_BURN: Final = {"1h": _HOUR, "6h": 6 * _HOUR, "3d": 3 * DAY}
_QUERIES: Final = {
    "bad time": _over_each("avg_over_time", *_TIMED),
    "bad events": (
        f"({_over_each('sum_over_time', _BAD, _BAD_SAMPLE)}) /"
        f" (({_over_each('sum_over_time', _TOTAL, _SAMPLE)}) > 0)"
    ),
    "events a second": _over_each("avg_over_time", _TOTAL),
    # A recorded value is the present one for five minutes.
    "points": _over_each("count_over_time", *_TIMED, _TOTAL, _SAMPLE, step=f":{span(PRESENT)}"),
    "judged": _over_each("avg_over_time", "slice_judged:bool"),
    "days": "slo:time_period:days{which}",
    "hours met": _over_each("sum_over_time", "period_ok:bool", step=":1h"),
    "hours": _over_each("count_over_time", "period_ok:bool", step=":1h"),
    **{name: f"{error_series(length)}{{which}}" for name, length in _BURN.items()},
}
_CURVE: Final = _over_each("avg_over_time", *_TIMED, _BAD, _BAD_SAMPLE)


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
            f"a window has an hour or more, and not {window} s: shorter ones say nothing of a"
            " budget"
        )
    labels = {"service": service, "slo": slo}
    matchers = [str(Matcher(label, "=", value)) for label, value in labels.items() if value]
    selector = f"{{{','.join(matchers)}}}"

    def values(query: str) -> dict[_Key, float]:
        written = query.replace("{which}", selector).replace("{window}", span(window))
        points = source.instant(written, at=at)
        return {_key(point.labels): point.value for point in points}

    aims = values("slo:objective:ratio{which}")
    if not aims:
        return []
    answers = {name: values(query) for name, query in _QUERIES.items()}
    step = max(PRESENT, window // _POINTS)
    curve = _CURVE.replace("{which}", selector).replace("{window}", span(step))
    lines = source.over_time(curve, start=at - window + step, end=at, step=step)
    curves = {_key(line.labels): line.points for line in lines}
    indicators = {
        (objective.service.name, objective.name): objective.indicator for objective in objectives
    }
    statuses: list[SloStatus] = []
    for key, aim in sorted(aims.items()):
        figures = {name: by_key[key] for name, by_key in answers.items() if key in by_key}
        status = _status(key, aim, window, figures=figures)
        spent = _spent(status, curves.get(key, ()), at - window)
        routes = _failing(source, indicators.get(key), by, at=at, window=window)
        statuses.append(replace(status, spent=spent, routes=routes))
    return statuses


def _key(labels: Mapping[str, str]) -> _Key:
    return labels.get("service", ""), labels.get("slo", "")


def _status(key: _Key, aim: float, window: int, *, figures: Mapping[str, float]) -> SloStatus:
    """Make the status of an objective from the figures that were queried of it, by their names."""
    is_by_time = "bad time" in figures
    total: float | None = None
    if is_by_time:
        total = window / _MINUTE
    elif "events a second" in figures:
        total = figures["events a second"] * window
    period = round(figures.get("days", 0.0) * DAY)
    is_by_hour = "hours" in figures and period == _HOUR
    return SloStatus(
        service=key[0],
        slo=key[1],
        objective=aim,
        window=window,
        unit="minutes" if is_by_time else "events",
        # Whether the point at a window's very beginning counts depends on Prometheus's version.
        coverage=min(1.0, figures.get("points", 0.0) * PRESENT / window),
        error=figures.get("bad time", figures.get("bad events")),
        total=total,
        judged=figures.get("judged"),
        burn={name: figures[name] / (1 - aim) for name in _BURN if name in figures},
        hours=(figures["hours met"], figures["hours"]) if is_by_hour else None,
    )


def _failing(
    source: Prometheus, indicator: Indicator | None, by: str, *, at: float, window: int
) -> list[tuple[str, float]]:
    if not isinstance(indicator, RatioIndicator) or indicator.is_expression:
        return []
    total, counted = (
        f"sum by ({by}) (increase({series}[{span(window)}]))"
        for series in (indicator.total, indicator.counted)
    )
    failed = counted if indicator.bad else f"{total} - ({counted} or {total} * 0)"
    points = source.instant(f"topk({_MOST_ROUTES}, ({failed}) > 0)", at=at)
    failures = [(point.labels.get(by, ""), point.value) for point in points]
    # The most failures first.
    return sorted(failures, key=lambda failure: (-failure[1], failure[0]))


def _spent(status: SloStatus, curve: _Curve, start: float) -> list[tuple[float, float]]:
    """Add up the bad share over time, from nothing to the total that was spent."""
    if not status.is_known or not curve:
        return []
    sums = list(accumulate(bad for _, bad in curve))
    scale = (1 - status.remaining) / sums[-1] if sums[-1] else 0.0
    moments = [at for at, _ in curve]
    return [
        (start, 0.0),
        *((at, bad * scale) for at, bad in zip(moments, sums, strict=True)),
    ]
