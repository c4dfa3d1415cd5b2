"""The load test sees what users see: tried on servers whose faults are known."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("programs")

ROOT = Path(__file__).parent.parent.parent
FROZEN = 5.0


@dataclass(frozen=True, slots=True)
class Result:
    """What a run of the load test gave."""

    code: int
    output: str
    figures: dict[str, Any]
    page: str


@contextmanager
def tiny_server(fail_every: int = 0) -> Generator[tuple[int, int]]:
    """Run the server until the block ends; give its port and its process id."""
    script = Path(__file__).with_name("tiny_server.py")
    with subprocess.Popen(  # noqa: S603 - our own script
        [sys.executable, str(script), str(fail_every)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), process.pid
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


def load(host: str, folder: Path, *options: str) -> Result:
    """Run Locust as `make load` does."""
    command = [
        sys.executable,
        "-m",
        "locust",
        "-f",
        "loadtests/locustfile.py",
        "--headless",
        "--only-summary",
    ]
    done = subprocess.run(  # noqa: S603 - our own load test
        [*command, "--host", host, "--report", str(folder), *options],
        cwd=ROOT,
        env={**os.environ, "TOKEN": "a token", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    figures = json.loads((folder / "load.json").read_text())
    assert done.returncode == figures["exit_code"], done.stderr
    return Result(done.returncode, done.stdout + done.stderr, figures, (folder / "report.html").read_text())


def test_a_good_server_passes(tmp_path: Path) -> None:
    with tiny_server() as (port, _):
        # On a busy machine a quick server may look slow: here it is about the way from the server to the exit code.
        options = ("--rate", "60", "--seconds", "4", "--warm-up", "1", "--max-p95", "3", "--max-p99", "5")
        result = load(f"http://127.0.0.1:{port}", tmp_path, *options)
    assert result.code == 0, result.output
    assert result.figures["verdict"] == "pass"
    assert {row["route"] for row in result.figures["rows"]} >= {
        "all",
        "GET /api/v1/incidents",
        "POST /api/v1/incidents",
    }
    assert "prefers-color-scheme: dark" in result.page


def test_a_server_that_is_frozen_for_five_seconds_cannot_look_well(tmp_path: Path) -> None:
    with tiny_server() as (port, pid):
        freeze = threading.Timer(3.0, os.kill, (pid, signal.SIGSTOP))
        thaw = threading.Timer(3.0 + FROZEN, os.kill, (pid, signal.SIGCONT))
        freeze.start()
        thaw.start()
        options = ("--rate", "60", "--seconds", "12", "--warm-up", "0", "--cap", "100")
        try:
            result = load(f"http://127.0.0.1:{port}", tmp_path, *options)
        finally:
            for timer in (freeze, thaw):
                timer.cancel()
                timer.join()
    every = result.figures["rows"][0]
    assert result.code == 2, result.output
    assert every["p99"] >= 4.0
    assert result.figures["dropped"] > 0
    assert result.figures["verdict"] == "invalid"
    assert any("p99" in reason for reason in result.figures["reasons"])


def test_a_server_that_fails_once_in_a_hundred_does_not_pass(tmp_path: Path) -> None:
    with tiny_server(fail_every=100) as (port, _):
        options = ("--rate", "100", "--seconds", "4", "--warm-up", "0", "--max-p95", "3", "--max-p99", "5")
        result = load(f"http://127.0.0.1:{port}", tmp_path, *options)
    assert result.code == 1, result.output
    assert result.figures["errors"] == {"500": result.figures["rows"][0]["failed"]}


def test_a_server_that_is_not_there_does_not_pass(tmp_path: Path) -> None:
    with tiny_server() as (port, _):
        pass
    result = load(f"http://127.0.0.1:{port}", tmp_path, "--rate", "60", "--seconds", "2", "--warm-up", "0")
    assert result.code == 3, result.output
    assert "no answer" in result.output


def test_the_machine_of_a_stranger_is_not_loaded(tmp_path: Path) -> None:
    result = load("http://service.example", tmp_path, "--rate", "1", "--seconds", "1")
    assert result.code == 3, result.output
    assert "LOAD_HOSTS" in result.output
    assert result.figures["rows"][0]["count"] == 0
