"""One trace runs through all that a request touches, and a failing collector affects no request."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kit.ports import free_port
from tests.servers.serving import BIND, wait_for

HERE = Path(__file__).parent
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
# What a request takes at most while the collector is stuck; one that waited for it would take 5
# seconds.
BOUND = 0.5


@contextmanager
def child(
    *command: str, environment: dict[str, str] | None = None, log: Path
) -> Generator[subprocess.Popen[str]]:
    with log.open("w") as errors:
        process = subprocess.Popen(  # noqa: S603 - our own programs
            [sys.executable, *command],
            cwd=HERE,
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=20)


@contextmanager
def collector(folder: Path) -> Generator[tuple[subprocess.Popen[str], str]]:
    with child("otlp_collector.py", str(folder / "spans"), log=folder / "collector.log") as process:
        assert process.stdout is not None
        yield process, f"http://{BIND}:{process.stdout.readline().strip()}"


@contextmanager
def service(
    dsn: str, collector_url: str, folder: Path, *, queued: int = 2048
) -> Generator[tuple[subprocess.Popen[str], int]]:
    port = free_port()
    environment = {
        "TRACES_DSN": dsn,
        "TRACES_COLLECTOR": collector_url,
        "TRACES_QUEUED": f"{queued}",
    }
    words = ["-m", "uvicorn", "--port", f"{port}", "--log-level", "warning", "traces_app:app"]
    with child(*words, environment=environment, log=folder / "service.log") as process:
        wait_for(port, process, folder / "service.log")
        yield process, port


def ask(port: int, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection(BIND, port, timeout=30)
    try:
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def spans(folder: Path) -> list[dict[str, Any]]:
    file = folder / "spans"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_one_trace_runs_from_the_request_through_pool_and_sql_to_the_next_service(
    database_dsn: str, tmp_path: Path
) -> None:
    with collector(tmp_path) as (_, url), service(database_dsn, url, tmp_path) as (process, port):
        headers = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
        assert ask(port, "/order", headers) == (200, "invoice 42")
        process.terminate()
        assert process.wait(20) in {0, -signal.SIGTERM}
        found = spans(tmp_path)
    ours = {
        span["name"] + span["kind"].removeprefix("SPAN_KIND"): span
        for span in found
        if span["trace"] == TRACE
    }
    order, statement = ours["GET /order_SERVER"], ours["order_next_CLIENT"]
    assert order["parent"] == CALLER
    assert statement["parent"] == order["id"]
    assert {"postfacta.retry"} <= set(order["events"])
    # Two tries, each with the next service's request below it.
    first, second = [
        span for span in found if span["name"] == "GET" and span["kind"] == "SPAN_KIND_CLIENT"
    ]
    assert [span["parent"] for span in (first, second)] == [order["id"]] * 2
    assert [span["attributes"].get("http.request.resend_count") for span in (first, second)] == [
        None,
        1,
    ]
    invoices = [span for span in found if span["name"] == "GET /invoice/{id}"]
    assert [span["parent"] for span in invoices] == [first["id"], second["id"]]
    assert [span["attributes"]["http.response.status_code"] for span in invoices] == [503, 200]
    assert ours["invoice_of_CLIENT"]["parent"] == invoices[1]["id"]
    # The task has a trace of its own, which leads back.
    (mail,) = [span for span in found if span["name"] == "send mail"]
    assert (mail["trace"] != TRACE, mail["parent"], mail["links"]) == (True, "", [order["id"]])
    (sent,) = [span for span in found if span["name"] == "mail_sent"]
    assert (sent["trace"], sent["parent"]) == (mail["trace"], mail["id"])


def percentile_99(port: int, requests: int) -> float:
    """Return the 99th percentile of what requests took, in seconds."""
    took: list[float] = []
    connection = http.client.HTTPConnection(BIND, port, timeout=30)
    for _ in range(requests):
        began = time.monotonic()
        connection.request("GET", "/quick")
        assert connection.getresponse().read() == b"quick"
        took.append(time.monotonic() - began)
    connection.close()
    return sorted(took)[requests * 99 // 100 - 1]


def dropped(port: int) -> dict[str, float]:
    found = re.findall(
        r'postfacta_telemetry_spans_dropped_total\{reason="(\w+)"\} (\S+)', ask(port, "/metrics")[1]
    )
    return {reason: float(count) for reason, count in found}


def end(process: subprocess.Popen[str]) -> float:
    """Stop the service, and return how long that took."""
    began = time.monotonic()
    process.terminate()
    assert process.wait(30) in {0, -signal.SIGTERM}
    return time.monotonic() - began


@pytest.mark.clock("4 s")
@pytest.mark.parametrize("trouble", ["frozen", "away", "black hole"])
def test_a_collector_in_trouble_costs_spans_and_no_time(
    database_dsn: str, tmp_path: Path, trouble: str
) -> None:
    with (
        collector(tmp_path) as (process, address),
        socket.create_server((BIND, 0), backlog=1) as silent,
    ):
        url = address
        if trouble == "frozen":
            os.kill(process.pid, signal.SIGSTOP)
        elif trouble == "away":
            process.kill()
            process.wait(20)
        else:
            # It takes connections, and says nothing on them.
            url = f"http://{BIND}:{silent.getsockname()[1]}"
        with service(database_dsn, url, tmp_path, queued=50) as (served, port):
            slowest = percentile_99(port, 1000)
            lost = dropped(port)
            took = end(served)
    assert slowest < BOUND
    assert sum(lost.values()) >= 900
    # Two seconds for the last spans, and what the service takes without them.
    assert took < 5.0


@pytest.mark.clock("2 s")
def test_the_end_is_as_quick_with_a_collector_that_works(database_dsn: str, tmp_path: Path) -> None:
    with collector(tmp_path) as (_, url), service(database_dsn, url, tmp_path) as (served, port):
        slowest = percentile_99(port, 1000)
        assert sum(dropped(port).values()) == 0
        took = end(served)
        assert len([span for span in spans(tmp_path) if span["name"] == "GET /quick"]) == 1000
    assert slowest < BOUND
    assert took < 3.0
