"""A real Prometheus reads what a service shows, and its exemplars lead to traces that are stored."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from postfacta_core.asgi.metrics import merge
from postfacta_core.context import RequestContext
from postfacta_core.events import (
    ConnectionAcquired,
    HealthChecked,
    HttpCallFinished,
    LogsSuppressed,
    PolicyCreated,
    QueryFinished,
    TaskCrashed,
)
from postfacta_core.telemetry.exchange import Exchange
from postfacta_core.telemetry.metrics import Metrics
from postfacta_postgres._leases import sizes
from tests.ops.prometheus import Prometheus, needs, scrape_config
from tests.servers.serving import BIND
from tests.servers.test_traces import ask, collector, service, spans
from tests.servers.test_workers import running, until, workers

# The convention's name for a gauge; it is not ours to change.
KNOWN = "db_client_connection_count non-histogram and non-summary metrics should not have"


def full() -> Metrics:
    """Make a page on which each kind of metric has a series."""
    metrics = Metrics()
    exchange = Exchange(RequestContext("an-id-of-some-kind", 0.0), "GET", "/i")
    exchange.status, exchange.route, exchange.error, exchange.error_type = (
        500,
        "/i",
        ValueError(),
        "ValueError",
    )
    for record in (metrics.begin, metrics.answered, metrics.end):
        record(exchange)
    for event in (
        QueryFinished("main", "postgresql", "SELECT", "incidents", 0.1),
        PolicyCreated(
            "main", lambda: sizes("main", idle=1, used=2, most=10, oldest=0.0, waiting=3)
        ),
        ConnectionAcquired("main", 0.1, "PoolTimeoutError"),
        HttpCallFinished("billing", "GET", "billing.example", 443, 200, 0.1),
        HealthChecked("database", critical=True, passed=True, up=True, seconds=0.1),
        LogsSuppressed("retry.scheduled", 7),
        TaskCrashed("poller", ValueError()),
    ):
        metrics(event)
    return metrics


@needs("promtool")
def test_promtool_finds_fault_with_one_name_alone_which_is_the_conventions() -> None:
    pages = [full().render(labels={"worker": worker}).body for worker in ("0", "1")]
    for page in (full().render().body, merge(pages)):
        done = subprocess.run(
            ["promtool", "check", "metrics"],  # noqa: S607 - found on PATH
            input=page,
            capture_output=True,
            timeout=30,
            check=False,
        )
        found = [line for line in (done.stdout + done.stderr).decode().splitlines() if line.strip()]
        assert [line for line in found if not line.startswith(KNOWN)] == []


@needs("prometheus")
def test_an_exemplar_in_prometheus_leads_to_a_trace_that_the_collector_has(
    database_dsn: str, tmp_path: Path
) -> None:
    with collector(tmp_path) as (_, url), service(database_dsn, url, tmp_path) as (_, port):
        with Prometheus(
            tmp_path / "prometheus", scrape_config({"traces": [f"{BIND}:{port}"]})
        ) as prometheus:
            for _ in range(5):
                assert ask(port, "/order")[0] == 200
            name = "http_server_request_duration_seconds"
            prometheus.wait_for(f'{name}_count{{http_route="/order"}} >= 5', within=60)
            now = time.time()  # noqa: TID251 - Prometheus asks for the time of day
            given = {"query": f"{name}_bucket", "start": f"{now - 300}", "end": f"{now + 60}"}
            found = prometheus.get("query_exemplars", given)
        traces = {span["trace"] for span in spans(tmp_path)}
    shown = {one["labels"]["trace_id"] for series in found for one in series["exemplars"]}
    assert shown
    assert shown <= traces


@needs("prometheus")
def test_prometheus_reads_the_page_of_several_workers(tmp_path: Path) -> None:
    with running("gunicorn", tmp_path) as port:
        until(port, lambda samples: workers(samples) == {"0", "1", "2"})
        config = scrape_config({"workers": [f"{BIND}:{port}"]})
        with Prometheus(tmp_path / "prometheus", config) as prometheus:
            (up,) = prometheus.wait_for('up{job="workers"} == 1', within=60)
            (processes,) = prometheus.query("count(process_start_time_seconds)")
    assert (up.value, processes.value) == (1, 3)
