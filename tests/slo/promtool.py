"""Ask promtool, which comes with Prometheus, what it thinks of a file."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

__all__ = ["PROGRAM", "needs_promtool", "refusal"]

PROGRAM: Final = shutil.which("promtool") or "promtool"
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None and "TEST_REQUIRE_ALL" not in os.environ,
    reason="promtool is not installed (Debian: apt-get install prometheus)",
)


def refusal(where: Path, *words: str) -> str:
    """Run promtool in a folder, and return what it said if it refused something.

    Nothing if all is well.
    """
    ran = subprocess.run(  # noqa: S603 - an argument list, no shell
        [PROGRAM, *words], cwd=where, capture_output=True, text=True, timeout=300, check=False
    )
    return "" if ran.returncode == 0 else ran.stdout + ran.stderr
