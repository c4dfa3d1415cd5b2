"""A scrape that reaches one worker of a server shows all of them, and none of the dead."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.samples import Sample

from tests.kit.exposition import OPEN_METRICS, read_open_metrics
from tests.kit.waiting import wait_until
from tests.servers.serving import BIND, serving

SERVERS = {
    "gunicorn": "gunicorn --bind 127.0.0.1:{port} --workers 3 --worker-class uvicorn_worker.UvicornWorker",
    "gunicorn, preloaded": "gunicorn --preload --bind 127.0.0.1:{port} --workers 3"
    " --worker-class uvicorn_worker.UvicornWorker",
    "uvicorn": "uvicorn --port {port} --workers 3 --log-level warning",
    "granian": "granian --interface asgi --port {port} --workers 3 --respawn-failed-workers",
}
PATIENCE = 30.0
NAME = "http_server_request_duration_seconds_count"


@contextmanager
def running(server: str, folder: Path) -> Generator[int]:
    environment = {**os.environ, "WORKERS_FOLDER": str(folder / "w")}
    command = f"{SERVERS[server]} workers_app:app"
    with serving(command, folder / "log", environment=environment) as (port, _):
        yield port


def ask(port: int, path: str) -> str:
    connection = http.client.HTTPConnection(BIND, port, timeout=10)
    try:
        headers = {"Accept": OPEN_METRICS, "Connection": "close"}
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        assert response.status == 200
        return response.read().decode()
    finally:
        connection.close()


def scrape(port: int) -> list[Sample]:
    return [
        one
        for metric in read_open_metrics(ask(port, "/metrics")).values()
        for one in metric.samples
    ]


def counts(samples: list[Sample]) -> Counter[str]:
    """Return how many requests each worker has answered, but for scrapes."""
    found: Counter[str] = Counter()
    for one in samples:
        if one.name == NAME and one.labels["http_route"] == "/pid":
            found[one.labels["worker"]] += int(one.value)
    return found


def workers(samples: list[Sample]) -> set[str]:
    return {one.labels["worker"] for one in samples if one.name == "postfacta_build_info"}


def answered(samples: list[Sample]) -> tuple[float, float]:
    states = {
        one.labels["state"]: one.value for one in samples if one.name == "postfacta_metrics_workers"
    }
    return states["answered"], states["silent"]


def until(port: int, done: Callable[[list[Sample]], bool]) -> list[Sample]:
    """Scrape until something is so."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            samples = scrape(port)
            if done(samples):
                return samples
        except (OSError, http.client.HTTPException):
            # A connection may have been given to the worker that was killed.
            samples = []
        assert time.monotonic() < end, samples
        time.sleep(0.05)  # noqa: TID251 - a real server, in a test


def ask_all(port: int, requests: int) -> Counter[int]:
    return Counter(int(ask(port, "/pid")) for _ in range(requests))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # A Unix socket's path is short.
    assert len(str(tmp_path)) < 80
    return tmp_path


@pytest.mark.parametrize("server", SERVERS)
def test_a_scrape_of_one_shows_all_and_never_goes_back(server: str, folder: Path) -> None:
    with running(server, folder) as port:
        until(port, lambda samples: workers(samples) == {"0", "1", "2"})
        last, samples = 0, scrape(port)
        for number in range(1, 9):
            ask_all(port, 10)
            samples = scrape(port)
            assert sum(counts(samples).values()) == 10 * number > last
            assert answered(samples) == (3, 0)
            last = 10 * number
        # Each worker shows its own, besides: they are three processes.
        starts = {
            one.labels["worker"] for one in samples if one.name == "process_start_time_seconds"
        }
        assert starts == {"0", "1", "2"}


@pytest.mark.parametrize("server", ["gunicorn", "uvicorn"])
def test_a_worker_that_was_killed_is_gone_and_the_one_in_its_place_takes_its_number(
    server: str, folder: Path
) -> None:
    with running(server, folder) as port:
        until(port, lambda samples: workers(samples) == {"0", "1", "2"})
        pids = ask_all(port, 60)
        before = counts(scrape(port))
        victim, served = pids.most_common(1)[0]
        os.kill(victim, signal.SIGKILL)
        samples = until(
            port,
            lambda samples: (
                answered(samples) == (3, 0) and sum(counts(samples).values()) == 60 - served
            ),
        )
        assert workers(samples) == {"0", "1", "2"}
        after = counts(samples)
        (number,) = [worker for worker, count in before.items() if after[worker] != count]
        assert (before[number], after[number]) == (served, 0)


def test_a_worker_that_is_stuck_is_left_out_of_the_page_and_counted(folder: Path) -> None:
    with running("gunicorn", folder) as port:
        until(port, lambda samples: workers(samples) == {"0", "1", "2"})
        stuck = next(iter(ask_all(port, 30)))
        os.kill(stuck, signal.SIGSTOP)
        try:
            samples = until(port, lambda samples: answered(samples) == (2, 1))
            assert len(workers(samples)) == 2
        finally:
            os.kill(stuck, signal.SIGCONT)
        until(port, lambda samples: answered(samples) == (3, 0))


def writers(log: Path) -> Counter[int]:
    """Count the lines of each worker about the route that `ask_all` uses."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return Counter(
        int(line["instance"].rpartition("-")[2]) for line in lines if line.get("route") == "/pid"
    )


def test_workers_that_were_forked_after_loading_write_their_lines(folder: Path) -> None:
    with running("gunicorn, preloaded", folder) as port:
        pids = ask_all(port, 30)
        wait_until(lambda: writers(folder / "log").total() == pids.total(), "lines are missing")
    assert writers(folder / "log") == pids
