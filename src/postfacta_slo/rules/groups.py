"""Arrange the rules and alerts of a file in groups, as Prometheus loads them."""

from __future__ import annotations

from typing import Any, Final

from ..promise.budget import span
from ..promise.model import Model, SloError
from .alerts import burn_alerts, period_alerts, service_alerts
from .recording import Rule, period_rules, sli_rules

__all__ = ["rules_of"]

# How often the longest windows are added up, in seconds; Prometheus forgets a sample after 300.
_SLOW: Final = 60
_FASTEST: Final = 100  # Milliseconds between two evaluations, below which Prometheus does not keep pace.


def rules_of(model: Model, *, compress: int = 1) -> dict[str, Any]:
    interval = model.source.evaluation_interval
    if compress < 1 or interval * 1_000 < _FASTEST * compress:
        most = interval * 1_000 // _FASTEST
        raise SloError(
            f"compresses 1 to {most} times, not {compress}: an evaluation takes a tenth of a second"
        )
    groups: list[dict[str, Any]] = []

    def add(name: str, every: int, rules: list[Rule]) -> None:
        groups.append({"name": f"slo:{name}", "interval": span(every, compress), "rules": rules})

    for service in model.services:
        add(service.name, interval, service_alerts(model, service, compress))
        for one in model.of(service):
            name = f"{service.name}:{one.name}"
            add(name, interval, sli_rules(one, compress) + burn_alerts(one, compress))
            slow = period_rules(one, compress) + period_alerts(one, compress)
            add(f"{name}:period", max(_SLOW, interval), slow)
    return {"groups": groups}
