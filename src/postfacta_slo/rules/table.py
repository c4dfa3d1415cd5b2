"""Write the objectives of a file, and the severities of their alerts, as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..promise.budget import allowed_seconds, fires_after, in_words, percent, span, spent_at, threshold, unit
from ..promise.model import Model, Objective, RatioIndicator, Service, ThresholdIndicator, Tier
from ..promise.promql import number

__all__ = ["table_of"]

_OPERATORS = {"lte": "≤", "lt": "<", "gte": "≥", "gt": ">"}


def table_of(model: Model) -> str:
    """Return a Markdown page of all objectives; the same model gives the same page."""
    return "\n".join(line for service in model.services for line in _service(model, service))


def _service(model: Model, service: Service) -> Iterable[str]:
    objectives = model.of(service)
    yield f"# Objectives of {service.title}"
    yield ""
    yield "Generated from the file of objectives; a change here would be lost."
    yield ""
    yield from _table(
        ("SLO", "target", "window", "counted in", "budget", "indicator"), map(_promise, objectives)
    )
    for one in objectives:
        yield f"**{one.title}** (`{one.name}`). {one.description}".rstrip()
        yield ""
    yield from _measured(objectives)
    yield from _alerts(service, [(one, tier) for one in objectives for tier in one.tiers])


def _measured(objectives: Iterable[Objective]) -> Iterable[str]:
    yield "## What is measured"
    yield ""
    for indicator in dict.fromkeys(one.indicator for one in objectives):
        yield f"**`{indicator.name}`** {indicator.description}".rstrip()
        yield ""
        yield "```promql"
        yield from _queries(indicator)
        yield "```"
        yield ""


def _alerts(service: Service, pairs: Sequence[tuple[Objective, Tier]]) -> Iterable[str]:
    if not pairs:
        return
    yield f"## Alert `{service.alert_prefix}ErrorBudgetBurn`"
    yield ""
    yield "It fires when both windows are above the threshold. The last column is the time from a total outage to the"
    yield "alert; scrapes, evaluations and the slice in which the outage begins come on top, about a minute in all."
    yield ""
    heads = (
        "SLO",
        "tier",
        "severity",
        "windows",
        "burn rate",
        "threshold",
        "for",
        "budget spent",
        "total outage",
    )
    yield from _table(heads, (_tier(*pair) for pair in pairs))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    yield _row(heads)
    yield "|---" * len(heads) + "|"
    for row in rows:
        yield _row(row)
    yield ""


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _promise(one: Objective) -> tuple[str, ...]:
    counted, budget = unit(one), f"{percent(one.budget)} of them"
    if one.slices:
        counted = f"{span(one.slices.window)} slices, bad above {percent(one.slices.budget)}"
        budget = in_words(allowed_seconds(one))
    if one.slices and one.slices.min_requests:
        counted += f", judged from {one.slices.min_requests} requests on"
    name = f"`{one.indicator.name}`"
    return f"`{one.name}`", f"{percent(one.target)} good", span(one.period), counted, budget, name


def _queries(indicator: RatioIndicator | ThresholdIndicator) -> Iterable[str]:
    if isinstance(indicator, RatioIndicator):
        yield f"# {'bad' if indicator.bad else 'good'}"
        yield str(indicator.counted)
        yield "# of all"
        yield str(indicator.total)
    else:
        quantile = f"quantile {number(indicator.quantile)}" if indicator.quantile else indicator.aggregate
        yield f"# good while the {quantile} is {_OPERATORS[indicator.op]} {number(indicator.value)}"
        yield str(indicator.metric)


def _tier(one: Objective, tier: Tier) -> tuple[str, ...]:
    floor = f", ≥ {tier.min_failures} failures" if tier.min_failures else ""
    return (
        f"`{one.name}`",
        tier.name,
        tier.severity,
        f"{span(tier.long)}, {span(tier.short)}",
        number(tier.factor),
        f"{percent(threshold(one, tier))}{floor}",
        span(tier.hold),
        percent(spent_at(one, tier)),
        in_words(fires_after(one, tier, failing=1)),
    )
