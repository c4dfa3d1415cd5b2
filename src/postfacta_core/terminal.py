"""Tell a person's Ctrl-C from a signal that a program sent."""

from __future__ import annotations

import os
import signal

__all__ = ["is_ctrl_c"]

_TERMINAL = "/dev/tty"  # The terminal that controls this process, wherever its input and output go.


def is_ctrl_c(signum: int) -> bool:
    """Tell whether a signal that this process got may be a person's Ctrl-C.

    That is SIGINT in the foreground of a terminal. A supervisor that stops its services by SIGINT has none. It takes
    some microseconds, and may be called in a signal handler.
    """
    if signum != signal.SIGINT:
        return False
    try:
        terminal = os.open(_TERMINAL, os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
