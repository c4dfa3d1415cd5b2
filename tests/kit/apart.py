"""Run a function of a test module in a process of its own, as it changes what belongs to the whole process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def apart(scene: Callable[..., None], *arguments: str) -> int:
    """Run it, and return the exit code; a scene that raises fails the test."""
    call = f"from {scene.__module__} import {scene.__name__} as scene; scene(*{arguments!r})"
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", call],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode == 1:
        pytest.fail(done.stderr)
    return done.returncode
