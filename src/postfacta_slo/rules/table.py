"""Write the objectives of a file, and the severities of their alerts, as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from ..promise.model import (
    Indicator,
    Model,
    Objective,
    RatioIndicator,
    Service,
    in_words,
    percent,
    span,
)
from ..promise.promql import number

_OPERATORS: Final = {"lte": "≤", "lt": "<", "gte": "≥", "gt": ">"}


_PAGE: Final = """\
# Objectives of {title}

Generated from the file of objectives; a change here would be lost.

| SLO | target | window | counted in | budget | indicator |
|---|---|---|---|---|---|
{promises}
{texts}
## What is measured

{indicators}
"""
_INDICATOR: Final = """\
{text}

```promql
{query}
```
"""
_ALERTS: Final = """
## Alert `{alert}`

It fires when both windows are above the threshold. The last column is the time from a total outage to the
alert; scrapes, evaluations and the slice in which the outage begins come on top, about a minute in all.

| SLO | tier | severity | windows | burn rate | threshold | for | budget spent | total outage |
|---|---|---|---|---|---|---|---|---|
{tiers}"""  # noqa: E501 - Markdown


def table_of(model: Model) -> str:
    """Return a Markdown page of all objectives; the same model gives the same page."""
    return "\n".join(_service(model, service) for service in model.services)


def _service(model: Model, service: Service) -> str:
    objectives = model.of(service)
    texts = (
        f"**{objective.title}** (`{objective.name}`). {objective.description}".rstrip()
        for objective in objectives
    )
    indicators = (
        _INDICATOR.format(
            text=f"**`{indicator.name}`** {indicator.description}".rstrip(),
            query="\n".join(_queries(indicator)),
        )
        for indicator in dict.fromkeys(objective.indicator for objective in objectives)
    )
    page = _PAGE.format(
        title=service.title,
        promises=_rows(map(_promise, objectives)),
        texts="".join(f"{text}\n\n" for text in texts).removesuffix("\n"),
        indicators="\n".join(indicators).removesuffix("\n"),
    )
    tiers = [row for objective in objectives for row in _tiers(objective)]
    if not tiers:
        return page
    alert = f"{service.alert_prefix}ErrorBudgetBurn"
    return page + _ALERTS.format(alert=alert, tiers=_rows(tiers))


def _rows(rows: Iterable[Sequence[str]]) -> str:
    lines: list[str] = []
    for row in rows:
        cells = " | ".join(cell.replace("|", "\\|") for cell in row)
        lines.append(f"| {cells} |\n")
    return "".join(lines)


def _promise(objective: Objective) -> tuple[str, ...]:
    """Return the row of an objective in the table of objectives."""
    counted = objective.unit
    budget = f"{percent(objective.budget)} of them"
    if objective.slices:
        counted = (
            f"{span(objective.slices.window)} slices, bad above {percent(objective.slices.budget)}"
        )
        budget = in_words(objective.period * objective.budget)
    if objective.slices and objective.slices.min_requests:
        counted += f", judged from {objective.slices.min_requests} requests on"
    name = f"`{objective.indicator.name}`"
    return (
        f"`{objective.name}`",
        f"{percent(objective.target)} good",
        span(objective.period),
        counted,
        budget,
        name,
    )


def _queries(indicator: Indicator) -> Iterable[str]:
    if isinstance(indicator, RatioIndicator):
        yield f"# {'bad' if indicator.bad else 'good'}"
        yield str(indicator.counted)
        yield "# of all"
        yield str(indicator.total)
    else:
        quantile = (
            f"quantile {number(indicator.quantile)}" if indicator.quantile else indicator.aggregate
        )
        yield f"# good while the {quantile} is {_OPERATORS[indicator.op]} {number(indicator.value)}"
        yield str(indicator.metric)


def _tiers(objective: Objective) -> Iterable[Sequence[str]]:
    for tier in objective.tiers:
        floor = f", ≥ {tier.min_failures} failures" if tier.min_failures else ""
        yield (
            f"`{objective.name}`",
            tier.name,
            tier.severity,
            f"{span(tier.long)}, {span(tier.short)}",
            number(tier.factor),
            f"{percent(objective.threshold(tier))}{floor}",
            span(tier.hold),
            percent(objective.spent_at(tier)),
            in_words(objective.fires_after(tier, failing=1)),
        )
