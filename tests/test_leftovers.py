"""The kit ends what a run that is cut off leaves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.kit.waiting import wait_until

_HOLDS = """
import sys
from tests.kit.pg import prepared_server
with prepared_server() as server:
    print(server.pid, flush=True)
    sys.stdin.read()
"""


def test_a_killed_run_leaves_no_postgres(programs: None) -> None:
    run = subprocess.Popen(  # noqa: S603 - our own words
        [sys.executable, "-c", _HOLDS],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with run:
        assert run.stdout is not None
        postgres = Path("/proc", run.stdout.readline().strip())
        assert postgres.exists()
        run.kill()
    wait_until(lambda: not postgres.exists(), "PostgreSQL runs on")
