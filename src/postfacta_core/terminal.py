"""Distinguish Ctrl-C at a terminal from a signal that a program sent."""

from __future__ import annotations

import os
import signal

_TERMINAL = "/dev/tty"  # The terminal that controls this process, wherever its input and output go.


def has_terminal() -> bool:
    """Return whether a terminal controls this process, and is still open."""
    return _foreground() is not None


def is_ctrl_c(signum: int) -> bool:
    """Return whether a signal may come from Ctrl-C: SIGINT in the foreground of a terminal."""
    return signum == signal.SIGINT and _foreground() == os.getpgrp()


def _foreground() -> int | None:
    """Return the process group that has the terminal; None if there is none."""
    try:
        terminal = os.open(_TERMINAL, os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.tcgetpgrp(terminal)
    except OSError:
        return None
    finally:
        os.close(terminal)
