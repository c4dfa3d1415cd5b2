"""What is left out of a plain run is counted and named, and nothing is switched on by a variable that nobody knows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# CI sets the first, so that nothing is skipped; the others say where something is.
KNOWN = {"TEST_REQUIRE_ALL", "TOXIPROXY_URL", "SHOTS", "PATH"}


def collected(*words: str) -> list[str]:
    done = subprocess.run(  # noqa: S603 - our own tests
        [
            sys.executable,
            "-m",
            "pytest",
            "--collect-only",
            "-q",
            "tests/servers/test_slow_clients.py",
            *words,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_the_last_line_counts_the_long_tests_and_says_how_they_run() -> None:
    assert collected()[-1] == "6 long tests did not run: pytest -m long"


@pytest.mark.parametrize("words", [("-m", "long"), ("-m", "")])
def test_the_command_of_the_last_line_leaves_no_long_test_out(words: tuple[str, ...]) -> None:
    lines = collected(*words)
    assert "long tests did not run" not in lines[-1]
    assert sum("test_a_flood_of_slow_clients" in line for line in lines) >= 6


def test_no_variable_of_the_environment_chooses_tests() -> None:
    read = re.compile(r'os\.environ(?:\.get\(|\[)"([A-Z_]+)"|"([A-Z_]+)" (?:not )?in os\.environ')
    tests = [path for path in (ROOT / "tests").rglob("*.py") if path.name.startswith("test_")]
    # The services of strangers read their own settings.
    tests = [path for path in tests if path.parent.name != "strangers"]
    found = {
        (path.name, name)
        for path in tests
        for match in read.finditer(path.read_text())
        for name in match.groups()
        if name and name not in KNOWN
    }
    # The program of another process is told where its files are by whoever starts it.
    assert {name for _, name in found} <= {"POSTFACTA_DRAIN_FILE"}
