"""Write a first file of objectives, for a service whose metrics have well-known names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .model import Service, SloError

__all__ = ["METRICS", "starter"]


@dataclass(frozen=True, slots=True)
class _Metrics:
    """The series of one way to measure HTTP services."""

    counter: str  # Of requests.
    histogram: str  # Of durations in seconds.
    edges: tuple[float, ...]  # Its buckets' upper edges.
    users: str  # Conditions that leave out probes and scrapes.
    bad: str  # The condition of answers that failed.
    answered: str  # The condition of those that did not, if the histogram tells: a quick failure is no speed.


# What `slo init` knows: a service hardened by this library, or one with prometheus-fastapi-instrumentator.
METRICS: Final[Mapping[str, _Metrics]] = {
    "postfacta": _Metrics(
        "http_server_request_duration_seconds_count",
        "http_server_request_duration_seconds",
        (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
        'http_route!~"/healthz.*|/metrics"',
        'error_type!=""',
        ',error_type=""',
    ),
    "fastapi-instrumentator": _Metrics(
        "http_requests_total",
        "http_request_duration_seconds",
        (0.1, 0.5, 1),
        'handler!="/metrics"',
        'status="5xx"',
        "",
    ),
}

# Name, severity, threshold, long window, short window, hold: chapter 5 of Google's SRE workbook, for thirty days.
_TIERS: Final = (
    ("fast", "page", "14.4", "1h", "5m", "2m"),
    ("medium", "page", "6", "6h", "30m", "15m"),
    ("slow", "ticket", "3", "1d", "2h", "1h"),
    ("long", "ticket", "1", "3d", "6h", "3h"),
)


def starter(service: str, job: str, metrics: str) -> str:
    """Return a file of objectives in YAML: 99.5 % of requests succeed, and 99 % take half a second or less."""
    Service(
        name=service,
        title=service,
        description="",
        job=job,
        runbook_url="",
        dashboard_url="",
        down_severity="page",
    )
    if not job.isprintable() or set(job) & set("\"\\'{}"):
        raise SloError(f"needs a job without quotes, braces and backslashes: {job!r}")
    known = METRICS[metrics]
    users = f'job="{job}",{known.users}'
    answered = f"{users}{known.answered}"
    policies = ", ".join(f"{{alertPolicyRef: {tier[0]}}}" for tier in _TIERS)
    return "---\n".join(
        [
            _SOURCE.format(histogram=known.histogram, edges=", ".join(f"{edge:g}" for edge in known.edges)),
            _SERVICE.format(service=service, job=job),
            *(_TARGET.format(name=name) for name in ("page", "ticket")),
            *(_policy(*tier) for tier in _TIERS),
            _slo("requests-succeed", "Requests succeed", service, policies=policies, target="0.995").format(
                counted="bad",
                query=f"{known.counter}{{{users},{known.bad}}}",
                total=f"{known.counter}{{{users}}}",
            ),
            _slo(
                "requests-are-quick", "Requests are quick", service, policies=policies, target="0.99"
            ).format(
                counted="good",
                query=f'{known.histogram}_bucket{{{answered},le="0.5"}}',
                total=f"{known.histogram}_count{{{answered}}}",
            ),
        ]
    )


_HEAD: Final = "apiVersion: openslo/v1\nkind: "
_SOURCE: Final = (
    _HEAD
    + """DataSource
metadata: {{name: prometheus}}
spec:
  type: Prometheus
  connectionDetails:
    # Those of your Prometheus.
    scrapeInterval: 15s
    evaluationInterval: 15s
    histograms:
      {histogram}: [{edges}]
"""
)
_SERVICE: Final = (
    _HEAD
    + """Service
metadata:
  name: {service}
  annotations:
    prometheus/job: "{job}"
    # Where an alert leads; both may be left out.
    # prometheus/runbook-url: https://wiki.example.org/runbooks/{{alert}}
    # prometheus/dashboard-url: https://grafana.example.org/d/{service}-slo
spec: {{}}
"""
)
_TARGET: Final = _HEAD + "AlertNotificationTarget\nmetadata: {{name: {name}}}\nspec: {{target: {name}}}\n"
_POLICY: Final = (
    _HEAD
    + """AlertPolicy
metadata: {{name: {name}}}
spec:
  alertWhenBreaching: true
  alertWhenNoData: {silence}
  conditions:
    - metadata:
        name: {name}
        annotations: {{prometheus/tier: {name}, prometheus/short-window: {short}}}
      spec:
        severity: {severity}
        condition: {{kind: burnrate, threshold: {threshold}, lookbackWindow: {long}, alertAfter: {hold}}}
  notificationTargets: [{{targetRef: {severity}}}]
"""
)
_SLO: Final = (
    _HEAD
    + """SLO
metadata: {{name: NAME, displayName: TITLE}}
spec:
  service: SERVICE
  indicator:
    metadata: {{name: NAME}}
    spec:
      ratioMetric:
        counter: true
        {counted}:
          metricSource:
            metricSourceRef: prometheus
            spec: {{query: '{query}'}}
        total:
          metricSource:
            metricSourceRef: prometheus
            spec: {{query: '{total}'}}
  timeWindow: [{{duration: 30d, isRolling: true}}]
  budgetingMethod: Occurrences
  objectives: [{{target: TARGET}}]
  alertPolicies: [POLICIES]
"""
)


def _policy(*tier: str) -> str:
    name, severity, threshold, long, short, hold = tier
    silence = "true" if name == _TIERS[0][0] else "false"
    return _POLICY.format(
        name=name, severity=severity, threshold=threshold, long=long, short=short, hold=hold, silence=silence
    )


def _slo(name: str, title: str, service: str, *, policies: str, target: str) -> str:
    text = _SLO.replace("NAME", name).replace("TITLE", title).replace("SERVICE", service)
    # The braces of the policies are the document's, and not those of a template.
    shown = policies.replace("{", "{{").replace("}", "}}")
    return text.replace("TARGET", target).replace("POLICIES", shown)
