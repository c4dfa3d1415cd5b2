"""Show the business metrics.

Incidents, how long they take, what machines report, and who signs in.
"""

from __future__ import annotations

from typing import Final

from postfacta_slo.grafana.boards import Kind, Panel, Query, Row, Step

from .queries import chosen, per_second

__all__ = ["rows"]

_AUTH: Final = "postfacta_auth_attempts_total"
_DURATION: Final = "postfacta_incident_duration"


def rows() -> list[Row]:
    """Return all rows."""
    return [
        Row("Incidents", _incidents()),
        Row("How long they take", _durations()),
        Row("Signals", _signals()),
        Row("Sign-ins, secrets, schema", _access()),
    ]


def _largest(metric: str, by: str, more: str = "") -> str:
    # Each instance tells the same number, read from the same database: their sum would count
    # incidents twice.
    return f"max by ({by}) ({chosen(metric, more)})"


def _in_span(metric: str, by: str, more: str = "") -> str:
    return f"sum by ({by}) (increase({chosen(metric, more)}[$__range]))"


def _incidents() -> list[Panel]:
    incidents = "postfacta_incidents"
    moves = "postfacta_incident_transitions_total"
    live = 'status=~"OPEN|IN_PROGRESS"'
    return [
        Panel(
            title="Incidents under way",
            description="Unresolved incidents by severity.",
            unit="short",
            queries=[
                Query(
                    f"sum by (severity) ({_largest(incidents, 'severity, status', live)})",
                    "{{severity}}",
                )
            ],
            kind=Kind.NUMBERS,
            steps=(Step("green"), Step("orange", 1)),
        ),
        Panel(
            title="Incidents by status",
            description="All incidents that are kept, by status.",
            unit="short",
            queries=[
                Query(f"sum by (status) ({_largest(incidents, 'severity, status')})", "{{status}}")
            ],
            stacked=True,
        ),
        Panel(
            title="Age of these numbers",
            description=(
                "How long ago the database was asked. Old numbers mean that it is away or busy."
            ),
            unit="s",
            queries=[Query(chosen("postfacta_business_metrics_age_seconds"), "{{instance}}")],
            steps=(Step("green"), Step("red", 600)),
        ),
        Panel(
            title="Opened",
            description="Incidents opened in the time shown, by severity.",
            unit="short",
            queries=[
                Query(_in_span("postfacta_incidents_opened_total", "severity"), "{{severity}}")
            ],
            kind=Kind.NUMBERS,
            width=12,
        ),
        Panel(
            title="Moves",
            description="Moves of incidents from status to status, a second.",
            unit="ops",
            queries=[
                Query(
                    per_second(moves, by="from_status, to_status"),
                    "{{from_status}} → {{to_status}}",
                )
            ],
            width=12,
        ),
    ]


def _durations() -> list[Panel]:
    known = _largest(f"{_DURATION}_samples", "phase, status", 'status="ok"')
    every = _largest(f"{_DURATION}_samples", "phase, status")
    return [
        Panel(
            title="Time to detect, acknowledge, mitigate, resolve",
            description=(
                "Median and ninth decile over 30 days. Read them with the number of incidents that"
                " they rest on, which stands beside. Below 5 incidents there is no median, below 10"
                " no ninth decile."
            ),
            unit="s",
            queries=[Query(_largest(f"{_DURATION}_seconds", "phase, stat"), "{{phase}} {{stat}}")],
            width=12,
        ),
        Panel(
            title="Incidents that these rest on",
            description=(
                "By phase and by how well its moments are known. Only `ok` is in the durations."
            ),
            unit="short",
            queries=[Query(every, "{{phase}} {{status}}")],
            stacked=True,
            width=6,
        ),
        Panel(
            title="Share that is known",
            description=(
                "Incidents with known moments among all. What is missing is unknown, and not zero."
            ),
            unit="percentunit",
            queries=[
                Query(f"sum by (phase) ({known}) / (sum by (phase) ({every}) > 0)", "{{phase}}"),
            ],
            kind=Kind.NUMBERS,
            steps=(Step("red"), Step("green", 0.9)),
            width=6,
        ),
    ]


def _signals() -> list[Panel]:
    signals = "postfacta_signals_ingested_total"
    return [
        Panel(
            title="Signals by what became of them",
            description=(
                "Signals a second. Duplicates are resent ones, and no harm; conflicts contradict"
                " what is stored, and rejected ones broke a rule: look at who sends them."
            ),
            unit="ops",
            queries=[Query(per_second(signals, by="result"), "{{result}}")],
            stacked=True,
        ),
        Panel(
            title="New signals by kind",
            description="Signals that were stored in the time shown, by kind.",
            unit="short",
            queries=[Query(_in_span(signals, "kind", 'result="created"'), "{{kind}}")],
            kind=Kind.NUMBERS,
        ),
        Panel(
            title="Deployments",
            description=(
                "Deployments that were reported in the time shown, by environment and outcome."
            ),
            unit="short",
            queries=[
                Query(
                    _in_span("postfacta_deployments_total", "environment, outcome"),
                    "{{environment}} {{outcome}}",
                )
            ],
            kind=Kind.NUMBERS,
        ),
        Panel(
            title="Notifications that were cut short",
            description=(
                "Notifications from which Alertmanager left alerts out, since they were more than"
                " `max_alerts`. Those alerts are not kept here: group them otherwise, or allow"
                " more."
            ),
            unit="short",
            queries=[
                Query(
                    f"sum (increase({chosen('postfacta_alertmanager_truncated_total')}[$__range]))",
                    "cut short",
                )
            ],
            kind=Kind.NUMBERS,
            steps=(Step("green"), Step("orange", 1)),
        ),
    ]


def _access() -> list[Panel]:
    return [
        Panel(
            title="Sign-ins and tokens",
            description=(
                "Attempts a second by outcome. Many `bad_credentials` indicate password guessing."
            ),
            unit="ops",
            queries=[Query(per_second(_AUTH, by="mode, outcome"), "{{mode}} {{outcome}}")],
            stacked=True,
        ),
        Panel(
            title="Age of secrets",
            description=(
                "How old the oldest secret of each kind is that is in use. Old ones are to be"
                " changed."
            ),
            unit="s",
            queries=[Query(_largest("postfacta_secret_age_seconds", "secret"), "{{secret}}")],
        ),
        Panel(
            title="Schema",
            description=(
                "Whether the database has the schema that each program needs. If not, a migration"
                " is missing."
            ),
            unit="none",
            queries=[Query(chosen("postfacta_schema_revision_mismatch"), "{{instance}}")],
            kind=Kind.STATES,
            steps=(Step("green"), Step("red", 1)),
            names={0: "fits", 1: "does not fit"},
        ),
    ]
