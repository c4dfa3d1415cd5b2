"""Queries with expected results, written as promtool's unit tests are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from ..promise.budget import span

__all__ = ["Assertion", "Scraped", "Test", "Verdicts", "firing", "silence", "test"]

Scraped = dict[str, str]  # The samples of each series, in promtool's notation.
Test = dict[str, Any]  # One of promtool's tests, as plain mappings and lists.
# By tier, whether it fires at each evaluation; None where that depends on rounding.
Verdicts = Mapping[str, Sequence[bool | None]]

# Enough to see an alert flap; more would only repeat it.
_MOST_TURNS: Final = 24


@dataclass(frozen=True, slots=True)
class Assertion:
    """A query and its expected result."""

    expression: str  # The query.
    sample: int  # At which sample it is asked.
    # The values by label set, as Prometheus writes it; nothing may be found if it is empty.
    found: Mapping[str, float]


def test(name: str, scraped: Scraped, checks: Iterable[Assertion], *, interval: int, compress: int) -> Test:
    return {
        "name": name,
        "interval": span(interval, compress),
        "input_series": [{"series": series, "values": values} for series, values in scraped.items()],
        "promql_expr_test": [
            {
                "expr": check.expression,
                "eval_time": span(check.sample * interval, compress),
                "exp_samples": [
                    {"labels": labels, "value": float(value)} for labels, value in check.found.items()
                ],
            }
            for check in checks
        ],
    }


def silence(alerts: str, sample: int, whole: str) -> Assertion:
    return Assertion(f'count_over_time(ALERTS{{alertstate="firing",{alerts}}}[{whole}])', sample, {})


def firing(alerts: str, said: Verdicts, severities: Mapping[str, str], *, every: int) -> list[Assertion]:
    """Return the checks that just these tiers fire at each turning point."""
    checks: list[Assertion] = []
    for place in _turns(said):
        sure = [tier for tier, verdict in said.items() if verdict[place] is not None]
        some = "" if len(sure) == len(said) else f',burnrate_tier=~"{"|".join(sure)}"'
        if sure:
            expression = f'count by (burnrate_tier, severity) (ALERTS{{alertstate="firing",{alerts}{some}}})'
            fires = {_labels(tier, severities[tier]): 1.0 for tier in sure if said[tier][place]}
            checks.append(Assertion(expression, place * every, fires))
    return checks


def _labels(tier: str, severity: str) -> str:
    known = [("burnrate_tier", tier), ("severity", severity)]
    return "{" + ", ".join(f'{name}="{value}"' for name, value in known if value) + "}"


def _turns(said: Verdicts) -> list[int]:
    """The evaluations just before and at each change, and the last one."""
    found = sorted({place for verdict in said.values() for place in _changes(verdict)})
    last = [len(verdict) - 1 for verdict in said.values()][:1]
    return [*found[:_MOST_TURNS], *(place for place in last if place not in found[:_MOST_TURNS])]


def _changes(verdict: Sequence[bool | None]) -> Iterator[int]:
    known = [place for place, said in enumerate(verdict) if said is not None]
    for one, other in pairwise(known):
        if verdict[one] is not verdict[other]:
            yield one
            yield other
