"""Locust offers the load of the lab from one process, or from several that a master judges."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.kit.ports import free_port
from tests.lab.serving import tiny_server

pytestmark = pytest.mark.usefixtures("programs")

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True, slots=True)
class Result:
    """What a run of the load test gave."""

    code: int
    output: str
    figures: dict[str, Any]
    page: str


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
        [
            *command,
            "--host",
            host,
            "--mix",
            "loadtests/postfacta.yaml",
            "--report",
            str(folder),
            *options,
        ],
        cwd=ROOT,
        env={**os.environ, "TOKEN": "a token", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    figures = json.loads((folder / "load.json").read_text())
    assert done.returncode == figures["exit_code"], done.stderr
    return Result(
        done.returncode, done.stdout + done.stderr, figures, (folder / "report.html").read_text()
    )


def test_a_master_judges_what_two_workers_sent(tmp_path: Path) -> None:
    port = free_port()
    words = [
        sys.executable,
        "-m",
        "locust",
        "-f",
        "loadtests/locustfile.py",
        "--worker",
        "--master-port",
        str(port),
    ]
    with tiny_server() as (served, _), ExitStack() as stack:
        workers = [
            stack.enter_context(
                subprocess.Popen(  # noqa: S603 - our own load test
                    words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            )
            for _ in range(2)
        ]
        shared = (
            "--master",
            "--master-bind-port",
            str(port),
            "--expect-workers",
            "2",
            "--workers",
            "2",
        )
        options = ("--rate", "60", "--seconds", "4", "--warm-up", "0", "--p95", "3", "--p99", "5")
        try:
            result = load(f"http://127.0.0.1:{served}", tmp_path, *shared, *options)
        finally:
            for worker in workers:
                worker.terminate()
    assert result.code == 0, result.output
    assert result.figures["verdict"] == "pass"
    assert {row["route"] for row in result.figures["rows"]} == {
        "all",
        "GET /api/v0/incidents",
        "GET /api/v1/incidents",
        "POST /api/v1/incidents",
    }
    assert 150 < result.figures["rows"][0]["count"] < 350


def test_the_machine_of_a_stranger_is_not_loaded(tmp_path: Path) -> None:
    result = load("http://service.example", tmp_path, "--rate", "1", "--seconds", "1")
    assert result.code == 3, result.output
    assert "LOAD_HOSTS" in result.output
    assert result.figures["rows"][0]["count"] == 0
