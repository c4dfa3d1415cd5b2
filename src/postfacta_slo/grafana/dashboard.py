"""Build a Grafana dashboard of a file's objectives, with a row for each."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from ..promise.budget import REPORTED, error_series, span
from ..promise.model import (
    DAY,
    Expression,
    Model,
    Objective,
    Query as Source,
    RatioIndicator,
    Slices,
    ThresholdIndicator,
)
from ..promise.promql import number
from ..rules.recording import recorded
from .boards import Board, Row, Variable, render
from .panels import Kind, Panel, Query, Step

__all__ = ["dashboard_of"]

_LONGEST_UID: Final = 40
_RATE: Final = "$__rate_interval"
_LEFT: Final = (Step("red"), Step("orange", 0.0), Step("yellow", 0.25), Step("green", 0.5))
_SAID: Final = {0: "no", 1: "yes"}


def dashboard_of(model: Model) -> dict[str, Any]:
    """Return a dashboard of all objectives of a model, in Grafana's file format.

    Its queries ask for the series that the generated rules record, and for those that the indicators name.
    """
    names = [service.name for service in model.services]
    titles = " and ".join(service.title for service in model.services)
    rows = [Row("All objectives", _together(names))]
    rows += [Row(f"{one.service.title}: {one.title}", _panels(one)) for one in model.objectives]
    board = Board(
        uid=_uid(names[0]),
        title=f"{titles}: Objectives",
        description="Objectives, their results, and the remaining error budget.",
        tags=[*names, "slo", "generated"],
        rows=rows,
        variables=[Variable(name="service", label="Service", choices=names, default=names[0])],
        links=[
            (f"Runbook of {one.title}", _runbook(one))
            for one in model.objectives
            if _is_address(_runbook(one))
        ],
        events=[("Alert", f'ALERTS{{service=~"{"|".join(names)}",alertstate="firing"}}')],
        span="7d",
    )
    return render(board)


def _uid(service: str) -> str:
    name = f"{service}-slo"
    if len(name) <= _LONGEST_UID:
        return name
    digest = hashlib.sha256(service.encode()).hexdigest()[:8]
    return f"{service[: _LONGEST_UID - 13]}-{digest}-slo"


def _runbook(objective: Objective) -> str:
    service = objective.service
    return service.runbook_url.replace("{alert}", f"{service.alert_prefix}ErrorBudgetBurn")


def _is_address(url: str) -> bool:
    # A path inside a repository is of no use on Grafana's page.
    return url.startswith(("http://", "https://"))


def _together(names: list[str]) -> list[Panel]:
    of = f'service=~"{"|".join(names)}"'
    left = Query(f"slo:period_error_budget_remaining:ratio{{{of}}}", "{{slo}}")
    return [
        Panel(
            title="Budget left",
            description="What is left of each error budget in its period; below zero the objective is missed.",
            unit="percentunit",
            queries=[left],
            kind=Kind.NUMBERS,
            steps=_LEFT,
            width=12,
            height=5,
        ),
        Panel(
            title="Burn rate",
            description="How many times faster than planned each budget is used up at present.",
            unit="none",
            queries=[Query(f"slo:current_burn_rate:ratio{{{of}}}", "{{slo}}")],
            kind=Kind.NUMBERS,
            steps=(Step("green"), Step("yellow", 1), Step("red", 6)),
            width=12,
            height=5,
        ),
    ]


def _panels(objective: Objective) -> list[Panel]:
    panels = [*_figures(objective), _left_over_time(objective), _burn(objective)]
    indicator = objective.indicator
    panels.append(_events(indicator) if isinstance(indicator, RatioIndicator) else _measured(indicator))
    if objective.slices is not None:
        panels.append(_slices(objective, objective.slices))
    if objective.period < DAY:
        panels.append(_periods(objective))
    return panels


def _figures(objective: Objective) -> list[Panel]:
    budget = recorded("slo:error_budget:ratio", objective)
    left = recorded("slo:period_error_budget_remaining:ratio", objective)
    spent = f"max({recorded('slo:period_burn_rate:ratio', objective)}) * max({budget})"
    days, burn = (
        recorded("slo:time_period:days", objective),
        recorded("slo:current_burn_rate:ratio", objective),
    )
    exhausted = f"clamp_min(max({left}), 0) * max({days}) * {DAY} / (max({burn}) > 0)"
    period = span(objective.period)
    return [
        _figure(
            "Promised",
            f"The share of what is good that is aimed at, over {period}.",
            recorded("slo:objective:ratio", objective),
        ),
        _figure(
            "Kept",
            f"The share that was good in the last {period}.",
            f"1 - {spent}",
            steps=(Step("red"), Step("green", objective.target)),
        ),
        _figure(
            "Budget left",
            f"What is left of the {number(objective.budget * 100)} % that may be bad in {period}.",
            left,
            steps=_LEFT,
        ),
        _figure(
            "Budget lasts for",
            "Time until the budget is exhausted at the present rate. Empty while nothing is spent.",
            exhausted,
            unit="s",
            steps=(Step("red"), Step("yellow", DAY), Step("green", 7 * DAY)),
        ),
    ]


def _figure(
    title: str,
    description: str,
    expr: str,
    *,
    unit: str = "percentunit",
    steps: tuple[Step, ...] = (Step("blue"),),
) -> Panel:
    query = Query(expr, title)
    return Panel(
        title=title,
        description=description,
        unit=unit,
        queries=[query],
        kind=Kind.NUMBERS,
        steps=steps,
        width=6,
        height=4,
    )


def _left_over_time(objective: Objective) -> Panel:
    return Panel(
        title="Budget left over time",
        description=f"How the error budget of {span(objective.period)} came to where it is.",
        unit="percentunit",
        queries=[Query(recorded("slo:period_error_budget_remaining:ratio", objective), "left")],
        steps=(Step("red"), Step("green", 0.0)),
        bottom=None,
        top=1,
    )


def _burn(objective: Objective) -> Panel:
    budget = recorded("slo:error_budget:ratio", objective)
    windows = sorted({length for tier in objective.tiers for length in (tier.long, tier.short)} or REPORTED)
    told = "; ".join(
        f"{tier.name}: {number(tier.factor)} over {span(tier.long)} and {span(tier.short)}"
        for tier in objective.tiers
    )
    factors = sorted({tier.factor for tier in objective.tiers})
    return Panel(
        title="Burn rate by window",
        description=f"At 1 the budget lasts just for its period. Alerts fire above: {told or 'none is asked for'}.",
        unit="none",
        queries=[
            Query(
                f"{recorded(error_series(length), objective)} / on() group_left() max({budget})",
                span(length),
            )
            for length in windows
        ],
        steps=(Step("green"), *(Step("red", factor) for factor in factors)),
    )


def _events(indicator: RatioIndicator) -> Panel:
    word = "bad" if indicator.bad else "good"
    return Panel(
        title=f"All and {word}",
        description=indicator.description or f"What counts for the objective, and how much of it is {word}.",
        unit="reqps" if indicator.counts else "short",
        queries=[
            Query(_flow(indicator.total, counter=indicator.counter), "all"),
            Query(_flow(indicator.counted, counter=indicator.counter), word),
        ],
    )


def _flow(source: Source, *, counter: bool) -> str:
    if isinstance(source, Expression):
        return f"sum({source.over(_RATE)})"
    return f"sum({'rate' if counter else 'avg_over_time'}({source}[{_RATE}]))"


def _measured(indicator: ThresholdIndicator) -> Panel:
    if indicator.quantile is not None:
        buckets = f"sum by (le) (rate({indicator.metric}[{_RATE}]))"
        expr, name = (
            f"histogram_quantile({number(indicator.quantile)}, {buckets})",
            f"P{indicator.quantile * 100:g}",
        )
    else:
        metric = indicator.metric
        text = metric.over(_RATE) if isinstance(metric, Expression) else metric
        expr, name = f"{indicator.aggregate}({text})", indicator.aggregate
    good_above = indicator.op in {"gte", "gt"}
    low, high = ("red", "green") if good_above else ("green", "red")
    unit = "s" if all("_seconds" in one.metric for one in indicator.watched) else "none"
    return Panel(
        title="What is measured",
        description=indicator.description or f"It should be {indicator.op} {number(indicator.value)}.",
        unit=unit,
        queries=[Query(expr, name)],
        steps=(Step(low), Step(high, indicator.value)),
    )


def _slices(objective: Objective, slices: Slices) -> Panel:
    return Panel(
        title="Bad slices",
        description=(
            f"Each {span(slices.window)} is good or bad as a whole. Those with too little to judge by "
            "count as good here."
        ),
        unit="none",
        queries=[
            Query(recorded("slo:slice_bad:bool", objective), "bad"),
            Query(recorded("slo:slice_judged:bool", objective), "judged"),
        ],
        kind=Kind.STATES,
        steps=(Step("green"), Step("orange", 1)),
        names=_SAID,
        width=24,
        height=5,
    )


def _periods(objective: Objective) -> Panel:
    return Panel(
        title=f"Was the objective met in each {span(objective.period)}",
        description="The share of the time shown in which the objective was met, by the period that had just passed.",
        unit="percentunit",
        queries=[Query(f"avg_over_time({recorded('slo:period_ok:bool', objective)}[$__range])", "kept")],
        kind=Kind.NUMBERS,
        steps=(Step("red"), Step("orange", 0.95), Step("green", 0.99)),
        width=24,
        height=4,
    )
