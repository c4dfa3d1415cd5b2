"""Build a Grafana dashboard of a file's objectives, with a row for each."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from ..promise.model import (
    DAY,
    REPORTED,
    Model,
    Objective,
    RatioIndicator,
    ThresholdIndicator,
    span,
)
from ..promise.promql import Expression, Query as Source, number
from ..rules.recording import error_share, recorded
from .boards import Board, Kind, Panel, Query, Row, Step, Variable, render

_LONGEST: Final = 36  # Grafana takes 40 letters, digits, `-` and `_`, and four of them are ours.
_RATE: Final = "$__rate_interval"
_LEFT: Final = (Step("red"), Step("orange", 0.0), Step("yellow", 0.25), Step("green", 0.5))
_YES_OR_NO: Final = {0: "no", 1: "yes"}


def dashboard_of(model: Model) -> dict[str, Any]:
    """Return a dashboard of all objectives of a model, in Grafana's file format.

    Its queries ask for the series that the generated rules record, and for those that the
    indicators name.
    """
    names = [service.name for service in model.services]
    titles = " and ".join(service.title for service in model.services)
    rows = [Row("All objectives", _overview(names))]
    rows += [
        Row(f"{objective.service.title}: {objective.title}", _panels(objective))
        for objective in model.objectives
    ]
    board = Board(
        uid=_uid(names[0]),
        title=f"{titles}: Objectives",
        description="Objectives, their results, and the remaining error budget.",
        tags=[*names, "slo", "generated"],
        rows=rows,
        variables=[Variable(name="service", label="Service", choices=names, default=names[0])],
        links=[
            (f"Runbook of {objective.title}", url)
            for objective in model.objectives
            if (url := _runbook(objective))
        ],
        events=[("Alert", f'ALERTS{{service=~"{"|".join(names)}",alertstate="firing"}}')],
        span="7d",
    )
    return render(board)


def _uid(service: str) -> str:
    if len(service) <= _LONGEST and "." not in service:
        return f"{service}-slo"
    digest = hashlib.sha256(service.encode()).hexdigest()[:8]
    return f"{service[: _LONGEST - 9].replace('.', '-')}-{digest}-slo"


def _runbook(objective: Objective) -> str:
    service = objective.service
    url = service.runbook_url.replace("{alert}", f"{service.alert_prefix}ErrorBudgetBurn")
    # A path inside a repository is of no use on Grafana's page.
    return url if url.startswith(("http://", "https://")) else ""


def _panel(
    title: str, description: str, unit: str, *queries: tuple[str, str], **more: Any
) -> Panel:
    targets = [Query(expr, legend) for expr, legend in queries]
    return Panel(title=title, description=description, unit=unit, queries=targets, **more)


def _overview(names: list[str]) -> list[Panel]:
    """Return the panels of all objectives together."""
    matcher = f'service=~"{"|".join(names)}"'
    size: dict[str, Any] = {"kind": Kind.NUMBERS, "width": 12, "height": 5}
    left = "What is left of each error budget in its period; below zero the objective is missed."
    burn = "How many times faster than planned each budget is used up at present."
    return [
        _panel(
            "Budget left",
            left,
            "percentunit",
            (f"slo:period_error_budget_remaining:ratio{{{matcher}}}", "{{slo}}"),
            steps=_LEFT,
            **size,
        ),
        _panel(
            "Burn rate",
            burn,
            "none",
            (f"slo:current_burn_rate:ratio{{{matcher}}}", "{{slo}}"),
            steps=(Step("green"), Step("yellow", 1), Step("red", 6)),
            **size,
        ),
    ]


def _panels(objective: Objective) -> list[Panel]:
    """Return the panels of an objective, from its figures to its slices."""
    indicator = objective.indicator
    slices = objective.slices
    period = span(objective.period)
    panels = [*_figures(objective), *_courses(objective)]
    panels.append(
        _events(indicator) if isinstance(indicator, RatioIndicator) else _measured(indicator)
    )
    if slices:
        description = (
            f"Each {span(slices.window)} is good or bad as a whole. Those with too little to judge"
            " by count as good here."
        )
        series = [
            (recorded(f"slo:slice_{word}:bool", objective), word) for word in ("bad", "judged")
        ]
        panels.append(
            _panel(
                "Bad slices",
                description,
                "none",
                *series,
                kind=Kind.STATES,
                steps=(Step("green"), Step("orange", 1)),
                names=_YES_OR_NO,
                width=24,
                height=5,
            )
        )
    if objective.period < DAY:
        description = (
            "The share of the time shown in which the objective was met, by the period that had"
            " just passed."
        )
        met_share = f"avg_over_time({recorded('slo:period_ok:bool', objective)}[$__range])"
        steps = (Step("red"), Step("orange", 0.95), Step("green", 0.99))
        panels.append(
            _panel(
                f"Was the objective met in each {period}",
                description,
                "percentunit",
                (met_share, "kept"),
                kind=Kind.NUMBERS,
                steps=steps,
                width=24,
                height=4,
            )
        )
    return panels


def _figures(objective: Objective) -> list[Panel]:
    """Return the four numbers of an objective: promised, kept, left, and for how long."""
    budget, left, burned, days, burn, aim = (
        recorded(f"slo:{name}", objective)
        for name in (
            *(
                "error_budget:ratio",
                "period_error_budget_remaining:ratio",
                "period_burn_rate:ratio",
            ),
            *("time_period:days", "current_burn_rate:ratio", "objective:ratio"),
        )
    )
    lasts = f"clamp_min(max({left}), 0) * max({days}) * {DAY} / (max({burn}) > 0)"
    good_share = f"1 - max({burned}) * max({budget})"
    period = span(objective.period)
    share = number(objective.budget * 100)
    met = (Step("red"), Step("green", objective.target))
    enough = (Step("red"), Step("yellow", DAY), Step("green", 7 * DAY))
    empty = "Time until the budget is exhausted at the present rate. Empty while nothing is spent."
    return [
        _panel(
            title,
            description,
            unit,
            (expr, title),
            kind=Kind.NUMBERS,
            steps=steps,
            width=6,
            height=4,
        )
        for title, description, unit, expr, steps in (
            (
                "Promised",
                f"The share of what is good that is aimed at, over {period}.",
                "percentunit",
                aim,
                (Step("blue"),),
            ),
            (
                "Kept",
                f"The share that was good in the last {period}.",
                "percentunit",
                good_share,
                met,
            ),
            (
                "Budget left",
                f"What is left of the {share} % that may be bad in {period}.",
                "percentunit",
                left,
                _LEFT,
            ),
            ("Budget lasts for", empty, "s", lasts, enough),
        )
    ]


def _courses(objective: Objective) -> list[Panel]:
    """Return the budget and the burn rates over time."""
    left, budget = (
        recorded(f"slo:{name}:ratio", objective)
        for name in ("period_error_budget_remaining", "error_budget")
    )
    windows = sorted(
        {length for tier in objective.tiers for length in (tier.long, tier.short)} or REPORTED
    )
    rates = (
        f"{error_share(objective, length)} / on() group_left() max({budget})" for length in windows
    )
    alerts = [
        f"{tier.name}: {number(tier.factor)} over {span(tier.long)} and {span(tier.short)}"
        for tier in objective.tiers
    ]
    factors = sorted({tier.factor for tier in objective.tiers})
    above = [Step("red", factor) for factor in factors]
    return [
        _panel(
            "Budget left over time",
            f"How the error budget of {span(objective.period)} came to where it is.",
            "percentunit",
            (left, "left"),
            steps=(Step("red"), Step("green", 0.0)),
            bottom=None,
            top=1,
        ),
        _panel(
            "Burn rate by window",
            "At 1 the budget lasts just for its period. Alerts fire above:"
            f" {'; '.join(alerts) or 'none is asked for'}.",
            "none",
            *zip(rates, map(span, windows), strict=True),
            steps=(Step("green"), *above),
        ),
    ]


def _events(indicator: RatioIndicator) -> Panel:
    word = "bad" if indicator.bad else "good"
    described = f"What counts for the objective, and how much of it is {word}."
    flows = [
        (_flow(source, counter=indicator.counter), name)
        for source, name in (
            (indicator.total, "all"),
            (indicator.counted, word),
        )
    ]
    unit = "reqps" if indicator.counts else "short"
    return _panel(f"All and {word}", indicator.description or described, unit, *flows)


def _flow(source: Source, *, counter: bool) -> str:
    if isinstance(source, Expression):
        return f"sum({source.over(_RATE)})"
    return f"sum({'rate' if counter else 'avg_over_time'}({source}[{_RATE}]))"


def _measured(indicator: ThresholdIndicator) -> Panel:
    metric = indicator.metric
    if indicator.quantile is not None:
        buckets = f"sum by (le) (rate({metric}[{_RATE}]))"
        query = (
            f"histogram_quantile({number(indicator.quantile)}, {buckets})",
            f"P{indicator.quantile * 100:g}",
        )
    else:
        text = metric.over(_RATE) if isinstance(metric, Expression) else metric
        query = f"{indicator.aggregate}({text})", indicator.aggregate
    low, high = ("red", "green") if indicator.op in {"gte", "gt"} else ("green", "red")
    unit = "s" if all("_seconds" in series.metric for series in indicator.watched) else "none"
    described = indicator.description or f"It should be {indicator.op} {number(indicator.value)}."
    steps = (Step(low), Step(high, indicator.value))
    return _panel("What is measured", described, unit, query, steps=steps)
