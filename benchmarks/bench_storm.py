"""Measure an alert storm.

One incident grows by batches of 500 signals, and is read at each of some sizes.

A real server answers over sockets, on a real PostgreSQL. *cpu* is the server's own, *wall* what a
client waits, both medians; *nodes* counts the elements of a page. Beside it a probe asks
`/healthz/live` all the time, and *late* is the longest that it waited. Everything shares the cores
of this machine, so *wall* and *late* hold its other work too.

    python -m benchmarks.bench_storm [--sizes 1000 10000] [--rounds 9] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx2

from benchmarks.bench_incident import cpu_seconds, serving
from chaos.stack import prepare, sign_in
from postfacta_embedded import EmbeddedPostgres
from postfacta_lab.engine.processes import free_port

__all__ = ["main"]

_BATCH: Final = 500
_KINDS: Final = ("log", "metric", "alert_firing", "change")
# What is asked, by name; the last page is the deepest, and the past has to be recomputed.
_READS: Final = {
    "page": "/incidents/INC-{n}",
    "last page": "/incidents/INC-{n}?page=10000",
    "narrative": "/incidents/INC-{n}?view=narrative",
    "50 entries": "/api/v1/incidents/INC-{n}/timeline?limit=50",
    "500 entries": "/api/v1/incidents/INC-{n}/timeline?limit=500",
    "200 of the middle": "/api/v1/incidents/INC-{n}/timeline?limit=200&cursor={cursor}",
    "200 as of the middle": "/api/v1/incidents/INC-{n}/timeline?limit=200&as_of={as_of}",
    "nothing of a source": "/api/v1/incidents/INC-{n}/timeline?source=nowhere",
    "durations": "/api/v1/incidents/INC-{n}/durations",
    "export": "/api/v1/incidents/INC-{n}/export",
}


class _Probe:
    """Asks for liveness until the block ends, and keeps the longest wait of each phase."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._is_over = threading.Event()
        self._worst = 0.0
        self.cpu = 0.0  # The server's a second, for the probe alone.

    def take(self) -> float:
        """Return the longest wait since the last call, in milliseconds."""
        worst = self._worst
        self._worst = 0.0
        return round(worst * 1e3, 1)

    @contextmanager
    def running(self) -> Generator[None]:
        thread = threading.Thread(target=self._ask)
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join()

    def _ask(self) -> None:
        with httpx2.Client(base_url=self._url) as client:
            while not self._is_over.is_set():
                began = time.perf_counter()
                client.get("/healthz/live").raise_for_status()
                self._worst = max(self._worst, time.perf_counter() - began)
                self._is_over.wait(0.005)


def _batch(number: int) -> dict[str, Any]:
    at = f"2026-02-07T{10 + number // 60 % 12:02}:{number % 60:02}"
    items = [
        {
            "source": f"svc{n % 12}", "id": f"{number}-{n}", "kind": _KINDS[n % 4], "title": f"p95 of node {n} above its target",
            "occurred_at": f"{at}:{n * 60 // _BATCH:02}.{n:03}Z", "services": ["checkout"],
        }
        for n in range(_BATCH)
    ]  # fmt: skip
    return {"items": items}


def _measure(
    options: argparse.Namespace, client: httpx2.Client, probe: _Probe, *, pid: int
) -> dict[str, Any]:
    given = {"title": "Storm", "description": "Many signals at once", "severity": "HIGH"}
    headers = {"Idempotency-Key": f'"{uuid4()}"'}
    number = (
        client.post("/api/v1/incidents", json=given, headers=headers)
        .raise_for_status()
        .json()["number"]
    )
    sent = 0
    as_of = ""
    found = dict[str, Any]()
    for size in options.sizes:
        rates: list[float] = []
        while sent < size:
            body = {**_batch(sent // _BATCH), "incident": f"INC-{number}"}
            began = time.perf_counter()
            client.post("/api/v1/signals", json=body).raise_for_status()
            rates.append(_BATCH / (time.perf_counter() - began))
            sent += _BATCH
            if sent <= size / 2:
                as_of = client.get(f"/api/v1/incidents/INC-{number}/edits?limit=1").json()["items"][
                    0
                ]["at"]
        ingest = {"signals_per_second": round(statistics.median(rates)), "late_ms": probe.take()}
        half = (
            client.get(f"/api/v1/incidents/INC-{number}/timeline?limit={min(2000, size // 2)}")
            .raise_for_status()
            .json()
        )
        names = {"n": number, "as_of": as_of, "cursor": half["next_cursor"]}
        reads = {
            name: _read(client, path.format(**names), probe, pid=pid, rounds=options.rounds) for name, path in _READS.items()
        }  # fmt: skip
        found[f"{size}"] = {"ingest": ingest, **reads}
    return found


def _read(
    client: httpx2.Client, path: str, probe: _Probe, *, pid: int, rounds: int
) -> Mapping[str, float]:
    answer = client.get(path).raise_for_status()  # The first of a version computes its digest.
    walls: list[float] = []
    probe.take()
    before = cpu_seconds(pid)
    idle = time.perf_counter()
    for _ in range(rounds):
        began = time.perf_counter()
        answer = client.get(path).raise_for_status()
        walls.append(time.perf_counter() - began)
    cpu = cpu_seconds(pid) - before - probe.cpu * (time.perf_counter() - idle)
    told = {
        "cpu_ms": round(max(0.0, cpu) / rounds * 1e3, 1),
        "wall_ms": round(statistics.median(walls) * 1e3, 1),
        "kb": round(len(answer.content) / 1e3, 1),
        "late_ms": probe.take(),
    }
    return told | (
        {"nodes": len(re.findall(r"<[a-z]", answer.text))}
        if "html" in answer.headers["content-type"]
        else {}
    )


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000 - _BATCH])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="postfacta-storm-")))
        folder.chmod(0o755)  # PostgreSQL may run as another user
        template = prepare(folder / "template")
        dsn = stack.enter_context(EmbeddedPostgres(template / "data")).dsn()
        port = free_port()
        environment = {"POSTFACTA_DATABASE_DSN": dsn, "LOG_LEVEL": "ERROR"}
        cores = os.sched_getaffinity(0)
        pid = stack.enter_context(
            serving(["postfacta_app", "serve"], port, environment, max(cores))
        )
        os.sched_setaffinity(pid, cores)
        url = f"http://127.0.0.1:{port}"
        token = sign_in(url, (template / "admin.password").read_text())
        client = stack.enter_context(
            httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=60.0)
        )
        probe = _Probe(url)
        stack.enter_context(probe.running())
        before = cpu_seconds(pid)
        threading.Event().wait(2.0)
        probe.cpu = (cpu_seconds(pid) - before) / 2.0
        found = {"load": os.getloadavg()[0], **_measure(options, client, probe, pid=pid)}
    print(json.dumps(found, indent=2))  # noqa: T201 - its job
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
