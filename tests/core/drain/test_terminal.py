"""Ctrl-C is SIGINT in the foreground of a terminal.

A program sends it without one, or from elsewhere.
"""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys

import pytest

from postfacta_core.drain.signals import is_ctrl_c

ASK = f"from postfacta_core.drain.signals import is_ctrl_c; print(is_ctrl_c({int(signal.SIGINT)}))"
# The parent leads the session, and the child moves to a group of its own, which is then in the
# background.
BACKGROUND = f"import os, sys; os.spawnv(os.P_WAIT, sys.executable, [sys.executable, '-c', {'import os; os.setpgid(0, 0); ' + ASK!r}])"


def asked(code: str, *before: str) -> str:
    terminal, its_side = pty.openpty()
    try:
        done = subprocess.run(  # noqa: S603 - our own code
            [*before, sys.executable, "-c", code],
            stdin=its_side,
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
            check=True,
            start_new_session=True,
        )
    finally:
        os.close(terminal)
        os.close(its_side)
    return done.stdout.strip()


@pytest.mark.usefixtures("programs")
def test_sigint_in_the_foreground_of_a_terminal_is_a_persons() -> None:
    assert asked(ASK, "setsid", "--ctty", "--wait") == "True"


@pytest.mark.usefixtures("programs")
def test_sigint_in_the_background_of_a_terminal_is_a_programs() -> None:
    assert asked(BACKGROUND, "setsid", "--ctty", "--wait") == "False"


@pytest.mark.usefixtures("programs")
def test_sigint_without_a_terminal_is_a_programs() -> None:
    assert asked(ASK) == "False"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP], ids=str)
def test_another_signal_is_no_ctrl_c(signum: int) -> None:
    assert not is_ctrl_c(signum)


def test_a_terminal_that_cannot_be_asked_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postfacta_core.drain.signals._TERMINAL", os.devnull)
    assert not is_ctrl_c(signal.SIGINT)
