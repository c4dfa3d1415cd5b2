"""A tiny server as a process of its own, for tests of the load."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["tiny_server"]


@contextmanager
def tiny_server(fail_every: int = 0) -> Generator[tuple[int, int]]:
    """Run it until the block ends, and let each request of that number fail.

    Give its port and its process id.
    """
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
