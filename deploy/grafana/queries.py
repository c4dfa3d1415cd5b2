"""Words for the queries that all dashboards here have in common."""

from __future__ import annotations

from typing import Final

from postfacta_slo.grafana.boards import Variable

__all__ = [
    "DURATIONS",
    "LAG",
    "LIMITED",
    "REQUESTS",
    "chosen",
    "faster_than",
    "mean",
    "per_second",
    "share",
    "variables",
]

REQUESTS: Final = "http_server_requests_total"
DURATIONS: Final = "http_server_request_duration_seconds"
LAG: Final = "postfacta_event_loop_lag_seconds"

# What users sent, and what counts for them: no probe, no scrape, and the traffic that the reader
# chose.
LIMITED: Final = 'traffic="$traffic",http_route!~"/healthz.*|/metrics"'

_WINDOW: Final = "$__rate_interval"


def chosen(metric: str, more: str = "") -> str:
    """Select a metric of the job and the instances that the reader chose, narrowed by more matchers."""
    return f'{metric}{{job="$job",instance=~"$instance"{"," + more if more else ""}}}'


def per_second(metric: str, more: str = "", *, by: str = "") -> str:
    """Ask how fast a counter grows, in all instances together, by some labels."""
    return f"sum{_by(by)} (rate({chosen(metric, more)}[{_WINDOW}]))"


def share(part: str, whole: str) -> str:
    """Divide two rates: 0 while there is no such part, and nothing while there is no whole."""
    return f"({part} or {whole} * 0) / ({whole} > 0)"


def faster_than(quantile: float, histogram: str, more: str = "", *, by: str = "") -> str:
    """Ask how many seconds the given share of observations took at most, by some labels."""
    buckets = per_second(f"{histogram}_bucket", more, by=f"le, {by}" if by else "le")
    return f"histogram_quantile({quantile:g}, {buckets})"


def mean(histogram: str, more: str = "", *, by: str = "") -> str:
    """Ask how many seconds an observation took on average, by some labels."""
    seconds, count = (per_second(f"{histogram}_{what}", more, by=by) for what in ("sum", "count"))
    return f"{seconds} / ({count} > 0)"


def variables(job: str, *, metric: str = "postfacta_build_info") -> list[Variable]:
    """Return what the reader chooses on each dashboard.

    The job, at first the given one, and instances of it.
    """
    return [
        Variable(name="job", label="Job", query=f"label_values({metric}, job)", default=job),
        Variable(
            name="instance",
            label="Instance",
            query=f'label_values({metric}{{job="$job"}}, instance)',
            several=True,
        ),
    ]


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""
