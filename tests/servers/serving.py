"""Runs a real server as a direct child, and waits until it takes connections."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kit.ending import end
from tests.kit.ports import free_port

__all__ = ["BIND", "serving", "started", "wait_for"]

BIND = "127.0.0.1"
HERE = Path(__file__).parent


@contextmanager
def started(
    command: Sequence[object],
    log: Path,
    *,
    cwd: Path = HERE,
    environment: Mapping[str, str] | None = None,
) -> Generator[subprocess.Popen[bytes]]:
    """Run a program as a direct child until the block ends.

    Args:
        command: The program and its arguments.
        log: Where its output goes.
        cwd: Where it runs.
        environment: By default as it is here.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - a fixed program
            list(map(str, command)),
            cwd=cwd,
            stdout=output,
            stderr=output,
            env=None if environment is None else dict(environment),
            start_new_session=True,
        )
    try:
        yield process
    finally:
        end(process)


@contextmanager
def serving(
    command: str, log: Path, *, environment: Mapping[str, str] | None = None
) -> Generator[tuple[int, subprocess.Popen[bytes]]]:
    """Run a server in this folder until the block ends; give its port and its process.

    A server that does not start fails the test with its log. In the command, `{port}` stands for
    the port.
    """
    port = free_port()
    name, *words = command.format(port=port).split()
    program = [Path(sys.executable).parent / name, *words]
    with started(program, log, environment=environment) as process:
        wait_for(port, process, log)
        yield port, process


def wait_for(port: int, process: subprocess.Popen[Any], log: Path) -> None:
    """Wait until it takes connections; if it ends before, fail with its log."""
    until = time.monotonic() + 40
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((BIND, port)) == 0:
                return
        time.sleep(0.05)  # noqa: TID251 - a real server, in a test
    pytest.fail(log.read_text())
