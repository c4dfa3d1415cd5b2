"""A Flask service under gunicorn: what `harden` promises there, beside the same service without it."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import httpx2
import pytest

from tests.kit.waiting import wait_until
from tests.servers.serving import serving

pytestmark = pytest.mark.usefixtures("programs")

THREADS: Final = "gunicorn --preload --workers 2 --threads 8 --bind 127.0.0.1:{{port}} wsgi_app:{}"
# Sync workers take one request at a time.
KINDS: Final = {"bare": THREADS.format("bare"), "hardened": THREADS.format("app")}


@pytest.mark.parametrize("kind", KINDS)
def test_requests_that_run_at_a_stop_are_answered(kind: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        serving(KINDS[kind], log) as (port, process),
        ThreadPoolExecutor(6) as callers,
    ):
        url = f"http://127.0.0.1:{port}/orders"
        running = [
            callers.submit(httpx2.get, f"{url}/{number}?gate={tmp_path}", timeout=60)
            for number in range(6)
        ]
        wait_until(
            lambda: all((tmp_path / str(number)).exists() for number in range(6)),
            "not all requests run",
            30,
        )
        process.send_signal(signal.SIGTERM)
        wait_until(
            lambda: "Handling signal: term" in log.read_text(), "gunicorn did not see it", 30
        )
        (tmp_path / "open").touch()
        assert [answer.result(60).status_code for answer in running] == [200] * 6
        assert process.wait(30) == 0
    text = log.read_text()
    assert "Traceback" not in text
    if kind == "hardened":
        assert '"new": "stopped"' in text  # The lifespan of each worker came to its end.


@pytest.mark.parametrize("kind", KINDS)
def test_a_reload_under_load_fails_no_request(kind: str, tmp_path: Path) -> None:
    processes: set[int] = set()
    failures: list[str] = []
    ends = threading.Event()

    def ask(url: str) -> None:
        while not ends.is_set():
            # A connection a request: what a closed idle connection costs, its client repeats.
            try:
                answer = httpx2.get(url, timeout=60, headers={"connection": "close"})
            except httpx2.HTTPError as error:
                failures.append(repr(error))
                continue
            if answer.status_code != 200:
                failures.append(answer.text)
            else:
                processes.add(answer.json()["process"])

    log = tmp_path / "log"
    with serving(KINDS[kind], log) as (port, process), ThreadPoolExecutor(3) as callers:
        tasks = [callers.submit(ask, f"http://127.0.0.1:{port}/orders/1") for _ in range(3)]
        try:
            wait_until(lambda: bool(processes), "nothing is answered", 60)
            before = set(processes)
            process.send_signal(signal.SIGHUP)
            wait_until(lambda: bool(processes - before), "no new worker answered", 60)
        finally:
            ends.set()
        for task in tasks:
            task.result(60)
    assert failures == []


def test_what_was_cut_never_looks_whole(tmp_path: Path) -> None:
    with (
        serving(KINDS["hardened"], tmp_path / "log") as (port, _),
        pytest.raises(httpx2.RemoteProtocolError),
    ):
        httpx2.get(f"http://127.0.0.1:{port}/half", timeout=60)


def test_a_scrape_shows_all_workers(tmp_path: Path) -> None:
    workers = {**os.environ, "WSGI_WORKERS": str(tmp_path / "workers")}
    with serving(KINDS["hardened"], tmp_path / "log", environment=workers) as (port, _):
        url = f"http://127.0.0.1:{port}"
        processes: set[int] = set()

        def both_answered() -> bool:
            processes.add(httpx2.get(f"{url}/orders/7", timeout=60).json()["process"])
            return len(processes) == 2

        wait_until(both_answered, "one worker answers everything", 60)

        page = httpx2.get(f"{url}/metrics", timeout=60).text
        shown = [line for line in page.splitlines() if "/orders/<int:number>" in line]
        for worker in ('worker="0"', 'worker="1"'):
            assert any(worker in line for line in shown)
