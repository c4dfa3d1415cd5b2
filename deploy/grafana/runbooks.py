"""Lead from a panel to the runbook of the alert that watches what it shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from postfacta_slo.grafana.boards import Panel, Row

__all__ = ["ALERTS", "linked"]

ALERTS: Final[Mapping[str, tuple[str, ...]]] = {
    "Error budget left": ("PostfactaErrorBudgetExhausted",),
    "Burn rate now": ("PostfactaErrorBudgetBurn",),
    "Failures by route and reason": ("PostfactaErrorBudgetBurn", "PostfactaUnhandledExceptions"),
    "Requests by route": ("PostfactaSLIMetricAbsent",),
    "Database connections": ("PostfactaPoolSaturated",),
    "Failed waits": ("PostfactaPoolTimeouts",),
    "Shed": ("PostfactaLoadShedding",),
    "Share of shed requests": ("PostfactaLoadShedding",),
    "Lateness": ("PostfactaDependencySlow",),
    "Event loop lag": ("PostfactaEventLoopLag",),
    "P99 of the lag": ("PostfactaEventLoopLag",),
    "Out of time by stage": ("PostfactaDeadlineExceeded",),
    "Out of time": ("PostfactaDeadlineExceeded",),
    "Checks": ("PostfactaDatabaseUnavailable",),
    "Open circuits": ("PostfactaBreakerOpen",),
    "Circuits": ("PostfactaBreakerOpen",),
    "Scraped": ("PostfactaDown", "PostfactaInstanceDown"),
    "Up for": ("PostfactaCrashLoop",),
    "Starts": ("PostfactaCrashLoop",),
    "Sessions by state": ("PostgresConnectionsHigh",),
    "Longest transaction": ("PostgresLongTransaction",),
    "Replication lag": ("PostgresReplicationLag",),
    "Share of limited requests": ("PostfactaRateLimitedSurge",),
    "Shared store": ("PostfactaRateLimitStoreDegraded",),
    "Share of memory in use": ("PostfactaMemoryNearLimit",),
    "Open files": ("PostfactaOpenFilesNearLimit",),
    "Crashes of handlers": ("PostfactaUnhandledExceptions",),
    "Crashes of background tasks": ("PostfactaUnhandledExceptions",),
    "Lost traces and log lines": ("PostfactaTelemetryLoss",),
    "Labels replaced": ("PostfactaTelemetryLoss",),
    "Age of these numbers": ("PostfactaBusinessMetricsStale",),
    "Age of secrets": ("PostfactaSecretTooOld",),
    "Schema": ("PostfactaSchemaMismatch",),
    "Sign-ins and tokens": ("PostfactaAuthFailureSurge",),
}
"""Alerts by the title of the panel that shows what they watch."""


def linked(rows: list[Row], runbooks: str) -> list[Row]:
    """Add links to each panel; the runbook of an alert is the file of its name."""
    return [Row(row.title, [_linked(panel, runbooks) for panel in row.panels]) for row in rows]


def _linked(panel: Panel, runbooks: str) -> Panel:
    links = [
        (f"Runbook: {alert}", f"{runbooks}/{alert}.md") for alert in ALERTS.get(panel.title, ())
    ]
    return replace(panel, links=links)
