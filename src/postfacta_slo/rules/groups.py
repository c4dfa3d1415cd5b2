"""Arrange the rules and alerts of a file in groups, as Prometheus loads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ..promise.budget import span
from ..promise.model import Model, Objective, Service, SloError
from .alerts import burn_alerts, period_alerts, service_alerts
from .recording import Rule, period_rules, sli_rules

__all__ = ["rules_of"]

# How often the longest windows are added up, in seconds; Prometheus forgets a sample after 300.
_SLOW: Final = 60
_FASTEST: Final = 100  # Milliseconds between two evaluations, below which Prometheus does not keep pace.


def rules_of(model: Model, *, compress: int = 1) -> dict[str, Any]:
    """Return the whole content of the rule file."""
    interval = model.source.evaluation_interval
    if compress < 1 or interval * 1_000 < _FASTEST * compress:
        most = interval * 1_000 // _FASTEST
        raise SloError(
            f"compresses 1 to {most} times, not {compress}: an evaluation takes a tenth of a second"
        )
    groups: list[_Group] = []
    for service in model.services:
        groups.append(_service_group(model, service, compress))
        for objective in model.of(service):
            groups += _objective_groups(model, objective, compress)
    return {
        "groups": [
            {"name": one.name, "interval": span(one.interval, compress), "rules": one.rules} for one in groups
        ]
    }


@dataclass(frozen=True, slots=True)
class _Group:
    name: str
    interval: int
    rules: list[Rule]


def _service_group(model: Model, service: Service, compress: int) -> _Group:
    rules = service_alerts(model, service, compress)
    return _Group(f"slo:{service.name}", model.source.evaluation_interval, rules)


def _objective_groups(model: Model, objective: Objective, compress: int) -> list[_Group]:
    name, interval = f"slo:{objective.service.name}:{objective.name}", model.source.evaluation_interval
    fast = sli_rules(objective, compress) + burn_alerts(objective, compress)
    slow = period_rules(objective, compress) + period_alerts(objective, compress)
    return [_Group(name, interval, fast), _Group(f"{name}:period", max(_SLOW, interval), slow)]
