"""Write the recording rules.

What fails over each window, how slices are judged, what is left of the budget.

1. Nothing failing is 0, and nothing happening is no sample: a ratio without a divisor would be a
   number made up.
2. A window of two hours or less reads the service's own series. A longer one adds up what was
   recorded of five minutes each, so that busy hours weigh more than quiet ones; a mean of ratios
   would count them alike.
3. A slice slides: it is judged at each evaluation for the time just before. That is the same share
   as of slices side by side, without depending on where they begin; and promtool evaluates all
   rules alike, so what it proves is what runs.
4. An expression of the file's author is asked for each window if it has a place for it. If not, it
   is a sample at each evaluation, and each window adds up what was recorded of it.
5. Rules of one objective stand in one group, each after what it reads: Prometheus evaluates a group
   in order. Windows longer than three days, which no alert waits for, have a slower group of their
   own.
"""

from __future__ import annotations

from typing import Any, Final

from ..promise.model import (
    DAY,
    PRESENT,
    Objective,
    RatioIndicator,
    ThresholdIndicator,
    error_series,
    span,
)
from ..promise.promql import Expression, Query, number

Rule = dict[str, Any]  # One rule as Prometheus reads it.

_LONGEST_FROM_SOURCE: Final = 7_200
_LONGEST_FOR_ALERTS: Final = 3 * DAY
# What the value must be to be bad.
_BREACH: Final = {"lte": ">", "lt": ">=", "gte": "<", "gt": "<="}


def recorded(series: str, objective: Objective) -> str:
    return f'{series}{{service="{objective.service.name}",slo="{objective.name}"}}'


def error_share(objective: Objective, window: int) -> str:
    return recorded(error_series(window), objective)


def sli_rules(objective: Objective, compress: int = 1) -> list[Rule]:
    """Return the rules that the alerts on the burn rate read, in order."""
    windows = [window for window in objective.windows if window <= _LONGEST_FOR_ALERTS]
    return [
        *_judged(objective, compress),
        *_error_rules(objective, windows, compress),
        *_failures_rules(objective, compress),
        _rule("slo:current_burn_rate:ratio", _share_of_budget(objective, PRESENT), objective),
        *_constants(objective),
    ]


def period_rules(objective: Objective, compress: int = 1) -> list[Rule]:
    """Return the rules about the longest windows and the whole period, in order."""
    windows = [window for window in objective.windows if window > _LONGEST_FOR_ALERTS]
    burn = "slo:period_burn_rate:ratio"
    error = error_share(objective, objective.period)
    return [
        *_error_rules(objective, windows, compress),
        _rule(burn, _share_of_budget(objective, objective.period), objective),
        _rule(
            "slo:period_error_budget_remaining:ratio", f"1 - {recorded(burn, objective)}", objective
        ),
        _rule("slo:period_ok:bool", f"{error} <= bool {number(objective.budget)}", objective),
    ]


def _rule(name: str, expression: str, objective: Objective, **labels: str) -> Rule:
    own_labels = {"service": objective.service.name, "slo": objective.name}
    return {"record": name, "expr": expression, "labels": own_labels | labels}


def _constants(objective: Objective) -> list[Rule]:
    values = {
        "slo:objective:ratio": objective.target,
        "slo:error_budget:ratio": objective.budget,
        "slo:time_period:days": objective.period / DAY,
    }
    method = "Timeslices" if objective.slices else "Occurrences"
    return [
        *(_rule(name, f"vector({number(value)})", objective) for name, value in values.items()),
        _rule(
            "slo:info",
            "vector(1)",
            objective,
            title=objective.title,
            method=method,
            period=span(objective.period),
            indicator=objective.indicator.name,
        ),
    ]


def _share_of_budget(objective: Objective, window: int) -> str:
    return f"{error_share(objective, window)} / {number(objective.budget)}"


def _judged(objective: Objective, compress: int) -> list[Rule]:
    indicator = objective.indicator
    slices = objective.slices
    rules: list[Rule] = []
    if isinstance(indicator, ThresholdIndicator):
        window = min(PRESENT, slices.window) if slices else PRESENT
        rules = [_rule("slo:point_bad:bool", _breach(indicator, span(window, compress)), objective)]
    elif not slices or _is_sampled(indicator):
        present = f"rate {span(PRESENT, compress)}"
        bad, total = _sampled(indicator)
        rules = [
            _rule(bad, _bad(indicator, present), objective),
            _rule(total, _total(indicator, present), objective),
        ]
    return rules + _slice_rules(objective, compress)


def _breach(indicator: ThresholdIndicator, window: str) -> str:
    if indicator.quantile is None:
        value = f"{indicator.aggregate}({indicator.metric})"
        if isinstance(indicator.metric, Expression):
            value = f"({indicator.aggregate}({indicator.metric.over(window)}) >= -Inf)"
    else:
        rate = f"sum by (le) (rate({indicator.metric}[{window}]))"
        # Without any traffic a quantile is not a number, and that is neither good nor bad.
        value = f"(histogram_quantile({number(indicator.quantile)}, {rate}) >= -Inf)"
    return f"{value} {_BREACH[indicator.op]} bool {number(indicator.value)}"


def _is_sampled(indicator: RatioIndicator) -> bool:
    queries = (indicator.counted, indicator.total)
    return any(isinstance(query, Expression) and not query.has_window for query in queries)


def _sampled(indicator: RatioIndicator) -> tuple[str, str]:
    """Return the series of what was bad and of all, which windows add up."""
    unit = "sample" if indicator.is_expression else f"rate{span(PRESENT)}"
    return f"slo:sli_bad:{unit}", f"slo:sli_total:{unit}"


def _events(indicator: RatioIndicator, series: Query, over: str) -> str:
    """Add up events; `over` is the function and the window, such as `rate 5m`."""
    function, window = over.split()
    if isinstance(series, Expression):
        # One that is not a number would be part of each longer sum.
        return f"(sum({series.over(window)}) >= 0)"
    return f"sum({function if indicator.counter else 'sum_over_time'}({series}[{window}]))"


def _total(indicator: RatioIndicator, over: str) -> str:
    return _events(indicator, indicator.total, over)


def _bad(indicator: RatioIndicator, over: str) -> str:
    total = _total(indicator, over)
    counted = _events(indicator, indicator.counted, over)
    if indicator.bad is not None:
        return f"({counted}\n or {total} * 0)"
    # Two rates may differ by a last bit, and a negative error share would be read as a gain.
    return f"clamp_min({total} - ({counted}\n or {total} * 0), 0)"


def _error_rules(objective: Objective, windows: list[int], compress: int) -> list[Rule]:
    rules: list[Rule] = []
    for window in windows:
        slices = (
            f"avg_over_time({recorded('slo:slice_bad:bool', objective)}[{span(window, compress)}])"
        )
        share = slices if objective.slices else _share(objective, window, compress)
        rules.append(_rule(error_series(window), share, objective))
    return rules


def _share(objective: Objective, window: int, compress: int) -> str:
    """The share of bad events or samples in a window."""
    indicator = objective.indicator
    length = span(window, compress)
    if isinstance(indicator, ThresholdIndicator):
        return f"avg_over_time({recorded('slo:point_bad:bool', objective)}[{length}])"
    if _is_sampled(indicator) or (window > _LONGEST_FROM_SOURCE and not objective.slices):
        bad, total = (
            f"sum_over_time({recorded(name, objective)}[{length}])" for name in _sampled(indicator)
        )
    else:
        bad = _bad(indicator, f"rate {length}")
        total = _total(indicator, f"rate {length}")
    return f"{bad}\n/\n({total} > 0)"


def _failures_rules(objective: Objective, compress: int) -> list[Rule]:
    indicator = objective.indicator
    guarded = {tier.long for tier in objective.tiers if tier.min_failures}
    return [
        _rule(
            error_series(window, "increase"),
            _bad(indicator, f"increase {span(window, compress)}"),
            objective,
        )
        for window in sorted(guarded)
        if isinstance(indicator, RatioIndicator)
    ]


def _slice_rules(objective: Objective, compress: int) -> list[Rule]:
    """Return the rules that judge each slice: whether it is bad, and whether it is judged."""
    slices = objective.slices
    if not slices:
        return []
    error = recorded("slo:slice_error:ratio", objective)
    judged = error
    if slices.min_requests and isinstance(objective.indicator, RatioIndicator):
        total = _total(objective.indicator, f"increase {span(slices.window, compress)}")
        judged = f"({error} and on() ({total} >= {slices.min_requests}))"
    bad_terms = [f"(sum({judged} > bool {number(slices.budget)}) or vector(0))"]
    judged_terms = [f"(count({judged}) or vector(0))"]
    if slices.probe:
        bad_terms.append(f"(max(1 - {slices.probe}) or vector(0))")
        judged_terms.append(f"(count({slices.probe}) or vector(0))")
    if slices.needs_instance:
        down = f"(sum(absent({objective.service.up} == 1)) or vector(0))"
        bad_terms.append(down)
        judged_terms.append(down)
    return [
        _rule("slo:slice_error:ratio", _share(objective, slices.window, compress), objective),
        _rule("slo:slice_bad:bool", _any_of(bad_terms), objective),
        _rule("slo:slice_judged:bool", _any_of(judged_terms), objective),
    ]


def _any_of(terms: list[str]) -> str:
    return "clamp_max(\n  " + "\n+ ".join(terms) + ", 1)"
