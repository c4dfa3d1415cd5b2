"""The load knows how users fare, also those who are still waiting."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest

from chaos.load import Load
from postfacta_lab.chaos.control import SLOW, Users
from postfacta_lab.durability import Outcome
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


class Uncertain(BaseHTTPRequestHandler):
    """Refuses each write once; its repetition, under the same key, has been done before."""

    protocol_version = "HTTP/1.1"
    keys: ClassVar[set[str]] = set()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        key = self.headers["Idempotency-Key"]
        is_known = key in self.keys
        self.keys.add(key)
        self.send_response(201 if is_known else 503)
        self.send_header("Content-Length", "0")
        if is_known:
            self.send_header("Idempotency-Replayed", "true")
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        """Log nothing."""


def test_a_write_is_repeated_under_its_key_until_it_is_known() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Uncertain) as uncertain:
        Thread(target=uncertain.serve_forever, daemon=True).start()
        with Load(f"http://127.0.0.1:{uncertain.server_port}", "", RATE, reads=("/one",)) as load:
            wait_until(lambda: len(load.history) > 1, "two writes have an end", within=30)
        uncertain.shutdown()
    for write in load.history:
        assert (write.outcome, write.resolved) == (Outcome.OK, "replayed")
        # On a busy machine the second attempt may be unknown as well.
        assert (write.unknown[0], write.attempts) == ("503", 1 + len(write.unknown))
        assert f'"{write.subject}"' in Uncertain.keys
    writes = [sample for sample in load.meter.samples if sample.route == "POST"]
    assert {sample.error for sample in writes} == {"503"}  # users saw the first attempt
    assert len(writes) == len(load.history)


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
