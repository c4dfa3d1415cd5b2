"""SIGTERM while work runs beside the requests of a real server: none is lost, or it is named.

The bare server, and a task that the library does not know, are there for comparison.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from loadtests.drain.plan import Plan, Times
from loadtests.drain.servers import MATRIX
from postfacta_lab.engine.client import ask, encode

APP = "tests.servers.drain_app:app"
# Plain asyncio, uvloop, trio, and a server that is not written in Python.
SERVERS = ["uvicorn-1-h11", "uvicorn-1", "hypercorn-0", "hypercorn-trio-0", "granian-1"]
PIECES = 20


@pytest.fixture
def anyio_backend() -> str:
    """The harness's clients are asyncio's, whatever loop the server runs on."""
    return "asyncio"


@dataclass(frozen=True)
class Stopped:
    """What an instance that was stopped has done of its work, and said of the rest."""

    done: int
    are_resources_last: bool
    words: str

    @property
    def drained(self) -> str:
        """The line of the log."""
        lines = [line for line in self.words.splitlines() if "lifecycle.drained" in line]
        return lines[0] if lines else ""


async def stop(
    server: str,
    folder: Path,
    *,
    path: str = "/work",
    seconds: float = 2.0,
    drain_timeout: float = 10.0,
    plain: bool = False,
) -> Stopped:
    """Begin work, stop the server while it runs, and wait until that is gone."""
    times = Times(drain_delay=0.2, drain_timeout=drain_timeout, close_timeout=2.0, slack=10.0)
    plan = Plan(app=APP, folder=folder, plain=plain, times=times)
    async with plan.server(MATRIX[server], times, label="work") as running:
        await running.ready()
        for _ in range(PIECES):
            answer = await ask(running.port, encode("GET", f"{path}?seconds={seconds}"))
            assert answer.status == 202
        running.deliver(signal.SIGTERM)
        assert await running.exited(within=times.budget) is not None
        journal = running.journal()
        ends = [event.at for event in journal if event.name == "work-end"]
        closed = [event.at for event in journal if event.name == "resource-close"]
        return Stopped(len(ends), max(ends, default=0) <= max(closed, default=0), running.words)


@pytest.mark.parametrize("server", SERVERS)
async def test_no_work_is_lost_that_ends_within_the_drain(server: str, tmp_path: Path) -> None:
    stopped = await stop(server, tmp_path)
    assert stopped.done == PIECES
    assert stopped.are_resources_last


@pytest.mark.parametrize("server", SERVERS)
async def test_work_that_a_drain_cuts_is_named(server: str, tmp_path: Path) -> None:
    stopped = await stop(server, tmp_path, seconds=60, drain_timeout=0.5)
    assert stopped.done == 0
    assert f"cancelled={PIECES} left=0" in stopped.drained
    assert f"worked x{PIECES}" in stopped.drained


@pytest.mark.parametrize("server", ["uvicorn-1", "hypercorn-0", "granian-1"])
async def test_a_bare_server_loses_it(server: str, tmp_path: Path) -> None:
    stopped = await stop(server, tmp_path, plain=True)
    assert stopped.done == 0
    assert stopped.drained == ""


@pytest.mark.parametrize("server", ["uvicorn-1-h11", "uvicorn-1", "hypercorn-0", "granian-1"])
async def test_a_task_of_a_handler_is_named_when_it_is_lost(server: str, tmp_path: Path) -> None:
    stopped = await stop(server, tmp_path, path="/task")
    assert stopped.done == 0
    assert f"cancelled=0 left={PIECES}" in stopped.drained
    assert f"worked x{PIECES}" in stopped.drained


async def test_a_handler_in_a_thread_may_begin_work(tmp_path: Path) -> None:
    stopped = await stop("uvicorn-1", tmp_path, path="/mail")
    assert stopped.done == PIECES
