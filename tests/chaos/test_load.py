"""The load knows how users fare, also those who are still waiting."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from chaos.load import Load
from postfacta_lab.chaos.control import SLOW, Users
from postfacta_lab.engine.processes import wait_until
from postfacta_lab.load.gate import Sample

SERVER = Path(__file__).parent.parent / "lab/tiny_server.py"
RATE = 20.0


@pytest.fixture
def server() -> Generator[tuple[str, int]]:
    """Run a server that answers everything; give its address and its process."""
    with subprocess.Popen(  # noqa: S603 - our own script
        [sys.executable, str(SERVER)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}", process.pid
        finally:
            process.kill()


def of_any_service(url: str) -> Users:
    return Users(url, "a token", RATE, reads=("/one",))


def of_ours(url: str) -> Users:
    return Load(url, "a token", RATE, reads=("/one",), writes=False)


@pytest.mark.parametrize("users", [of_any_service, of_ours])
def test_users_who_wait_for_a_frozen_server_are_not_well(
    users: Callable[[str], Users], server: tuple[str, int]
) -> None:
    url, pid = server
    with users(url) as load:
        wait_until(lambda: load.is_well(0.0), "users are well", within=30)
        os.kill(pid, signal.SIGSTOP)
        frozen = load.now()
        wait_until(lambda: load.now() > frozen + 1.0 + 3 * SLOW, "time has passed", within=30)
        assert not load.is_well(frozen)
        assert load.since(frozen).longest > SLOW  # nobody has got an answer, and yet it shows
        os.kill(pid, signal.SIGCONT)
        thawed = load.now()
        wait_until(lambda: load.is_well(thawed), "users are well again", within=30)


def test_one_failure_in_the_last_second_is_enough() -> None:
    load = Load("http://nowhere.example", "", RATE)
    now = load.now()
    answered = [
        Sample("GET /", at, at, at + 0.01) for at in (now - 2.0 + n / RATE for n in range(60))
    ]
    load.meter.samples += answered
    assert load.is_well(now - 3.0)
    assert not load.is_well(now)  # what was before a fault says nothing about after it
    moment = now - SLOW - 0.5
    load.meter.samples.append(Sample("GET /", moment, moment, moment + 0.01, "503"))
    assert not load.is_well(now - 3.0)
    assert load.since(now - 3.0).failed == 1


def test_no_request_served_is_not_none_failed() -> None:
    load = Load("http://nowhere.example", "", RATE)
    assert load.since(0.0).error_share == 1.0
    assert not load.is_well(load.now() - 10.0)
