"""End a server at once when its test is over.

A test about how a server stops sends the signal itself. All others would wait for the drain, which
serves on for five seconds so that a load balancer notices.
"""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any

__all__ = ["end"]


def end(process: subprocess.Popen[Any]) -> None:
    """Kill a program and its workers, and wait for it; one that ended before is left as it is.

    It must have been started with `start_new_session=True`, so that its workers are of its group.
    """
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
