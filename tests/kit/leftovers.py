"""End what a run of tests leaves when it is cut off: each PostgreSQL, and its folder.

A process that is killed ends no fixture. A shell outside of its session holds the other end of a
pipe, which closes however the process ends. At a normal end nothing is left for it.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from functools import cache

__all__ = ["prefix"]

_SWEEP = """
read -r end
find "$1"/"$2"* -name postmaster.pid 2>/dev/null | while read -r file; do
    read -r pid < "$file" && kill -QUIT "$pid"
done
rm -rf "$1"/"$2"*
"""


@cache
def _watched(pid: int) -> subprocess.Popen[bytes]:
    command = ["sh", "-c", _SWEEP, "sweep", tempfile.gettempdir(), _name(pid)]
    return subprocess.Popen(  # noqa: S603 - our own words
        command, stdin=subprocess.PIPE, start_new_session=True
    )


def _name(pid: int) -> str:
    return f"postfacta-test-{pid}-"


def prefix() -> str:
    """Return how the names of this process's folders in the temporary folder begin."""
    pid = os.getpid()
    _watched(pid)
    return _name(pid)
