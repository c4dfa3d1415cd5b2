"""`postfacta lab drain` sees what clients see of a stop.

Requests half-sent, and restarts behind a balancer.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from postfacta_lab.drain.stop import program
from tests.strangers.test_suites import BILLING

pytestmark = pytest.mark.usefixtures("programs")


def drain(mode: str, folder: Path, *options: str) -> tuple[int, str]:
    """Stop the service of the strangers, whose mix reads and writes."""
    mix = folder / "mix.json"
    mix.write_text(
        json.dumps([{"path": "/invoices/7"}, {"path": "/", "method": "POST", "body": {"sum": 3}}])
    )
    done = subprocess.run(  # noqa: S603 - our own
        [
            *(sys.executable, "-m", "postfacta_lab", "drain", "--mix", str(mix), *options),
            *("--", sys.executable, str(BILLING), mode, "{port}"),
        ],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_write_that_is_half_sent_at_the_signal_must_be_answered(tmp_path: Path) -> None:
    code, output = drain("alive", tmp_path, "--ready", "/ready")
    assert code == 0, output
    code, output = drain("rude", tmp_path)
    assert code == 1, output
    assert "failed (" in output


@pytest.mark.skipif(program() is None, reason="needs HAProxy")
def test_instances_are_restarted_in_turn_behind_a_balancer(tmp_path: Path) -> None:
    code, output = drain("alive", tmp_path, "--ready", "/ready", "--rolling", "2")
    assert code == 0, output
    assert [line.split()[0] for line in output.splitlines()] == ["stop", "rolling"]
    assert "restarts: 2" in output
