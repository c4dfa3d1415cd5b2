"""Stop the workers of pytest at random, as a busy machine does: `python -m pytest -p tests.kit.stopping -n 2`.

A worker stands still for at most `LONGEST` seconds at a time. A test that fails by it depends on
the pace of the machine. The head of the run prints the seed, and `--stopping-seed` repeats it.

It stops children of this process by their id, and nothing else.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from pathlib import Path
from typing import Any, Final

import pytest

__all__ = ["LONGEST", "Stopper"]

LONGEST: Final = 2.0
"""Seconds of a standstill."""

# Seconds between two standstills: a worker stands still for a third of the run.
_PAUSE: Final = 4.0


class Stopper:
    """Stop one process of several at a time, in a thread, until `end`."""

    def __init__(self, seed: int) -> None:
        self._luck = random.Random(seed)  # noqa: S311 - a run repeats it
        self._lock = threading.Lock()
        self._pids: set[int] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stopping", daemon=True)
        self.count = 0

    def begin(self) -> None:
        """Begin to stop what was added."""
        self._thread.start()

    def add(self, pid: int) -> None:
        """Let a process be stopped from now on.

        Raises:
            ValueError: It is no child of this process.
        """
        if not _is_child(pid):
            raise ValueError(f"{pid} is no child of this process")
        with self._lock:
            self._pids.add(pid)

    def remove(self, pid: int) -> None:
        """Leave a process alone from now on, and let it go on."""
        with self._lock:
            self._pids.discard(pid)
            _send(pid, signal.SIGCONT)

    def end(self) -> None:
        """Let all go on, and end."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._luck.uniform(0, _PAUSE)):
            seconds = self._luck.uniform(0, LONGEST)
            with self._lock:
                if not self._pids:
                    continue
                pid = self._luck.choice(sorted(self._pids))
                _send(pid, signal.SIGSTOP)
            self.count += 1
            try:
                self._ended.wait(seconds)
            finally:
                _send(pid, signal.SIGCONT)


def _is_child(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False
    return f"\nPPid:\t{os.getpid()}\n" in status


def _send(pid: int, number: signal.Signals) -> None:
    # A worker that died may have given its id to another process.
    if _is_child(pid):
        os.kill(pid, number)


def _pid_of(gateway: Any) -> int:
    # Of execnet, which asks the worker once, before that runs tests.
    pid: int = gateway._rinfo().pid  # noqa: SLF001
    return pid


class _Plugin:
    """Add each worker as it begins, and leave it when it is down."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._stopper = Stopper(seed)

    def pytest_report_header(self) -> str:
        """Print the seed."""
        return f"stopping: workers stand still for up to {LONGEST} s, --stopping-seed={self._seed}"

    def pytest_sessionstart(self) -> None:
        """Begin."""
        self._stopper.begin()

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_newgateway(self, gateway: Any) -> None:
        """Let a worker be stopped."""
        self._stopper.add(_pid_of(gateway))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Leave a worker alone."""
        self._stopper.remove(_pid_of(node.gateway))

    def pytest_sessionfinish(self) -> None:
        """End, before the workers are asked to."""
        self._stopper.end()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print how often it stopped a worker."""
        terminalreporter.write_line(
            f"stopping: {self._stopper.count} standstills, --stopping-seed={self._seed}"
        )


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that repeats a run."""
    parser.addoption("--stopping-seed", type=int, help="repeat the standstills of a run")


def pytest_configure(config: pytest.Config) -> None:
    """Stop the workers of this process, not those of a worker."""
    if hasattr(config, "workerinput"):
        return
    if not config.getoption("numprocesses", None):
        raise pytest.UsageError("-p tests.kit.stopping stops workers: it needs -n")
    seed = config.getoption("stopping_seed")
    config.pluginmanager.register(
        _Plugin(random.randrange(2**32) if seed is None else seed),  # noqa: S311
        "stopper",
    )
