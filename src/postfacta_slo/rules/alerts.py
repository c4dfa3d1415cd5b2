"""Write the alerts, and arrange them with the recording rules in groups, as Prometheus loads them.

1. A budget burns if the error share is above the tier's threshold over both its windows: the long
   one says that it is worth an alert, the short one that it still goes on. Where there is little
   traffic, a floor of failed events keeps a single failed request from paging.
2. All tiers share one alert name. A louder tier silences the quieter ones of its objective: in
   Alertmanager.
3. Silence is an alert of its own, since every other one is silent without data. It watches the
   metric whatever its labels but `job` are: a fresh process has served no user yet.
"""

from __future__ import annotations

from typing import Any, Final

from ..promise.model import Model, Objective, Service, Tier, error_series, in_words, percent, span
from ..promise.promql import Selector, SloError, number
from .recording import Rule, error_share, period_rules, recorded, sli_rules

# How many seconds an alert waits that is none on the burn rate: an outage is to be known within
# five minutes, and a rolling restart leaves a metric out for less.
HOLDS: Final = {"Down": 60, "SLIMetricAbsent": 180, "ErrorBudgetExhausted": 300}
# How often the longest windows are added up, in seconds; Prometheus forgets a sample after 300.
_SLOW: Final = 60
_FASTEST: Final = (
    100  # Milliseconds between two evaluations, below which Prometheus does not keep pace.
)


def rules_of(model: Model, *, compress: int = 1) -> dict[str, Any]:
    """Return the rules of a model in groups, as a rule file of Prometheus.

    Raise `SloError` if they are compressed below what Prometheus can evaluate.
    """
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
        for objective in model.of(service):
            name = f"{service.name}:{objective.name}"
            add(name, interval, sli_rules(objective, compress) + burn_alerts(objective, compress))
            slow = period_rules(objective, compress) + period_alerts(objective, compress)
            add(f"{name}:period", max(_SLOW, interval), slow)
    return {"groups": groups}


def burn_alerts(objective: Objective, compress: int = 1) -> list[Rule]:
    return [_burn(objective, tier, compress) for tier in objective.tiers]


def period_alerts(objective: Objective, compress: int = 1) -> list[Rule]:
    if objective.exhausted_severity is None:
        return []
    left = recorded("slo:period_error_budget_remaining:ratio", objective)
    texts = {
        "summary": (
            f"{_title(objective)}: the error budget of {in_words(objective.period)} is spent"
        ),
        "description": (
            f"Of all {objective.unit} more than {percent(objective.budget)} failed in the last"
            f" {in_words(objective.period)}. Of the budget {{{{ $value | humanizePercentage }}}} is"
            " left. The error-budget policy says what may still be changed."
        ),
    }
    labels = {"severity": objective.exhausted_severity}
    kind = "ErrorBudgetExhausted"
    hold = span(HOLDS[kind], compress)
    return [_alert(objective, kind, f"{left} <= 0", hold=hold, texts=texts, labels=labels)]


def service_alerts(model: Model, service: Service, compress: int = 1) -> list[Rule]:
    """Return the alerts of the whole service: no instance is up, no data arrives."""
    texts = {
        "summary": f"{_plain(service.title)}: no instance is up",
        "description": "Prometheus cannot scrape any instance. Clients get no answer.",
    }
    labels = {"severity": service.down_severity}
    hold = span(HOLDS["Down"], compress)
    down = _alert(
        service, "Down", f"absent({service.up} == 1)", hold=hold, texts=texts, labels=labels
    )
    absences = [
        _absent(service, series, severity=severity, compress=compress)
        for series, severity in watched(model, service)
    ]
    return [down, *absences]


def watched(model: Model, service: Service) -> dict[tuple[Selector, str], None]:
    """Return what must not fall silent, and the severity of the alert if it does."""
    return dict.fromkeys(
        (series.of_job, tier.severity)
        for objective in model.of(service)
        for series in objective.indicator.watched
        for tier in objective.tiers
        if tier.when_no_data
    )


def _burn(objective: Objective, tier: Tier, compress: int) -> Rule:
    """Return the alert of a tier."""
    above = f"> {number(objective.threshold(tier))}"
    terms = [f"{error_share(objective, window)} {above}" for window in (tier.long, tier.short)]
    if tier.min_failures:
        terms.append(
            f"{recorded(error_series(tier.long, 'increase'), objective)} >= {tier.min_failures}"
        )
    spent = percent(objective.spent_at(tier))
    texts = {
        "summary": (
            f"{_title(objective)}: the error budget burns {number(tier.factor)} times too fast"
        ),
        "description": (
            f"More than {percent(objective.threshold(tier))} of all {objective.unit} failed over"
            f" the last {span(tier.long)} and over the last {span(tier.short)}: {{{{ $value |"
            f" humanizePercentage }}}} over {span(tier.long)}. At such a rate {spent} of the budget"
            f" go in {span(tier.long)}, and all of it in"
            f" {in_words(objective.period / tier.factor)}."
        ),
    }
    labels = {"severity": tier.severity, "burnrate_tier": tier.name}
    hold = span(tier.hold, compress)
    kind = "ErrorBudgetBurn"
    return _alert(objective, kind, "\nand\n".join(terms), hold=hold, texts=texts, labels=labels)


def _absent(service: Service, series: Selector, *, severity: str, compress: int) -> Rule:
    texts = {
        "summary": f"{_plain(service.title)}: {series.metric} is not there",
        "description": (
            "What objectives are measured by has no series, so that no alert on them can fire. "
            "The service is gone, is not scraped, or was changed in its metrics."
        ),
    }
    labels = {"severity": severity, "metric": series.metric}
    hold = span(HOLDS["SLIMetricAbsent"], compress)
    return _alert(
        service, "SLIMetricAbsent", f"absent({series})", hold=hold, texts=texts, labels=labels
    )


def _alert(
    owner: Service | Objective,
    kind: str,
    expr: str,
    *,
    hold: str,
    texts: dict[str, str],
    labels: dict[str, str],
) -> Rule:
    """Write an alert of an objective, or of a service as a whole."""
    service: Service
    own_labels: dict[str, str] = {}
    if isinstance(owner, Service):
        service = owner
        more_labels = dict(owner.labels)
    else:
        service = owner.service
        own_labels["slo"] = owner.name
        more_labels = owner.alert_labels
    name = service.alert_prefix + kind
    urls = {
        "runbook_url": service.runbook_url.replace("{alert}", name),
        "dashboard_url": service.dashboard_url.replace("{slo}", own_labels.get("slo", "")),
    }
    links = {annotation: url for annotation, url in urls.items() if url}
    return {
        "alert": name,
        "expr": expr,
        "for": hold,
        # Series have these labels too; on the rule they also tell one objective's alert from
        # another's.
        "labels": (
            labels
            | {"service": service.name}
            | own_labels
            | {"component": "slo"}
            | _all_plain(more_labels)
        ),
        "annotations": texts | _all_plain(links),
    }


def _all_plain(texts: dict[str, str]) -> dict[str, str]:
    return {name: _plain(text) for name, text in texts.items()}


def _plain(text: str) -> str:
    return text.replace("{{", '{{ "{{" }}')


def _title(objective: Objective) -> str:
    return _plain(f"{objective.service.title}, {objective.title}")
