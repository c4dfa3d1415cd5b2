"""Write a first file of objectives, for a service whose metrics have well-known names."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from string import Template
from typing import Final

from .model import Service, SloError

__all__ = ["METRICS", "starter"]

# Of each way to measure HTTP services: the counter of requests, the histogram of their seconds and its edges, the
# conditions that leave out probes and scrapes, that an answer failed, and that it did not if the histogram tells.
METRICS: Final[Mapping[str, Mapping[str, str]]] = {
    "postfacta": {
        "counter": "http_server_request_duration_seconds_count",
        "histogram": "http_server_request_duration_seconds",
        "edges": "0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10",
        "users": 'http_route!~"/healthz.*|/metrics"',
        "bad": 'error_type!=""',
        "answered": ',error_type=""',
    },
    "fastapi-instrumentator": {
        "counter": "http_requests_total",
        "histogram": "http_request_duration_seconds",
        "edges": "0.1, 0.5, 1",
        "users": 'handler!="/metrics"',
        "bad": 'status="5xx"',
        "answered": "",
    },
}


def starter(service: str, job: str, metrics: str) -> str:
    """Return a file of objectives in YAML: 99.5 % of requests succeed, and 99 % take half a second or less.

    It is for a service whose series have this label `job` in Prometheus, and are measured by one of `METRICS`.
    """
    Service(name=service, job=job)
    if not job.isprintable() or set(job) & set("\"\\'{}"):
        raise SloError(f"needs a job without quotes, braces and backslashes: {job!r}")
    template = files("postfacta_slo.promise").joinpath("starter.openslo.yaml").read_text(encoding="utf-8")
    known = METRICS[metrics]
    users = f'job="{job}",{known["users"]}'
    return Template(template).substitute(known, service=service, job=job, users=users)
