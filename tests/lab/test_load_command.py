"""`postfacta lab load` sees what users see: tried on servers whose faults are known."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tests.lab.serving import tiny_server

pytestmark = pytest.mark.usefixtures("programs")

FROZEN = 5.0
# On a busy machine a quick server may look slow: here it is about the way from the server to the
# exit code.
PATIENT = ("--p95", "3", "--p99", "5")


@dataclass(frozen=True, slots=True)
class Result:
    """What a run gave."""

    code: int
    output: str
    figures: dict[str, Any]
    folder: Path


def load(port: int, folder: Path, *options: str, url: str = "") -> Result:
    """Run it, and check that all its forms agree."""
    done = subprocess.run(  # noqa: S603 - our own command
        [
            *(
                sys.executable,
                "-m",
                "postfacta_lab",
                "load",
                "--url",
                url or f"http://127.0.0.1:{port}",
            ),
            *("--path", "/invoices/7", "--report", str(folder), *options),
        ],
        env={**os.environ, "TOKEN": "a token"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    file = folder / "load.json"
    figures: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    if figures:
        assert done.returncode == figures["exit_code"], done.stderr
        assert f"<title>Load: {figures['verdict']}" in (folder / "report.html").read_text()
    return Result(done.returncode, done.stdout + done.stderr, figures, folder)


# A run in which the generator falls behind its plan by more than 2 % is invalid, as it should be.
@pytest.mark.clock("2 %")
def test_a_good_server_passes(tmp_path: Path) -> None:
    with tiny_server() as (port, _):
        result = load(port, tmp_path, "--rate", "80", "--seconds", "2", *PATIENT)
    assert result.code == 0, result.output
    assert {row["route"] for row in result.figures["rows"]} == {"all", "GET /invoices/7"}


def test_a_server_that_is_frozen_for_five_seconds_cannot_look_well(tmp_path: Path) -> None:
    with tiny_server() as (port, pid):
        files, over = Path(f"/proc/{pid}/fd"), threading.Event()

        def freeze() -> None:
            before = len(list(files.iterdir()))
            while len(list(files.iterdir())) <= before and not over.wait(0.05):
                pass  # until there is a connection: the load's start takes longer on a busy machine
            over.wait(1.0)
            os.kill(pid, signal.SIGSTOP)
            over.wait(FROZEN)
            os.kill(pid, signal.SIGCONT)

        freezing = threading.Thread(target=freeze)
        freezing.start()
        try:
            result = load(port, tmp_path, "--rate", "60", "--seconds", "8", "--cap", "100")
        finally:
            over.set()
            freezing.join()
    assert result.code == 2, result.output
    assert result.figures["rows"][0]["p99"] >= 4.0
    assert result.figures["dropped"] > 0
    assert any("p99" in reason for reason in result.figures["reasons"])


def test_a_server_that_fails_once_in_a_hundred_does_not_pass(tmp_path: Path) -> None:
    with tiny_server(fail_every=100) as (port, _):
        result = load(port, tmp_path, "--rate", "150", "--seconds", "2", *PATIENT)
    assert result.code == 1, result.output
    assert result.figures["errors"] == {"500": result.figures["rows"][0]["failed"]}
    suite = ET.fromstring((tmp_path / "junit.xml").read_text())  # noqa: S314 - our own file
    assert (suite.get("failures"), suite.get("errors")) == ("1", "0")


def test_a_server_that_is_not_there_does_not_pass(tmp_path: Path) -> None:
    with tiny_server() as (port, _):
        pass
    result = load(port, tmp_path, "--rate", "100", "--seconds", "1")
    assert result.code == 3, result.output
    assert "no answer" in result.output


def test_a_wrong_command_names_what_is_wrong(tmp_path: Path) -> None:
    for words, complaint in (
        (("--mix", "mix.yaml"), "not both"),
        (("--profile", "ab"), "--against URL"),
        (("--rate", "-1"), "above 0"),
        (("--profile", "storm"), "storm"),
    ):
        result = load(9, tmp_path, *words)
        assert result.code == 3, result.output
        assert complaint in result.output
    result = load(0, tmp_path, url="http://service.example")
    assert result.code == 3
    assert "LOAD_HOSTS" in result.output
    assert not (tmp_path / "load.json").exists()
