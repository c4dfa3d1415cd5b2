"""Start the servers under test, each with one worker on one core, and stop them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from postfacta_lab.engine.processes import free_port

__all__ = [
    "CORES",
    "HANDLERS",
    "ROOT",
    "SERVERS",
    "VARIANTS",
    "on_core",
    "serving",
    "wait_for",
]

ROOT = Path(__file__).parents[2]
HANDLERS = ("cpu", "pool")
VARIANTS = ("plain", "own", "ours")
"""Bare, with the server's own limit, and with the library's load shedding."""

SERVERS = {
    "uvicorn": (
        "uvicorn",
        "--loop",
        "asyncio",
        "--http",
        "httptools",
        "--no-access-log",
        "--log-level",
        "error",
    ),
    "uvicorn-uvloop": (
        *(
            "uvicorn",
            "--loop",
            "uvloop",
            "--http",
            "httptools",
            "--no-access-log",
            "--log-level",
            "error",
        ),
    ),
    "granian": (
        "granian",
        "--interface",
        "asgi",
        "--loop",
        "asyncio",
        "--workers",
        "1",
        "--no-log",
    ),
}
# The server's own limit, for each kind of work: what earlier measurements found to be best.
_OWN = {"cpu": "20", "pool": "40"}
CORES = sorted(os.sched_getaffinity(0))
"""The server has the first, the generator the last."""


def on_core(core: int, command: list[str]) -> list[str]:
    """Run a command on one core."""
    return ["taskset", "--cpu-list", str(core), *command]


@contextmanager
def serving(
    server: str, handler: str, variant: str
) -> Generator[tuple[int, subprocess.Popen[bytes]]]:
    """Start a server, wait until it answers; give its port and its process."""
    port = free_port()
    command = [sys.executable, "-m", *SERVERS[server], "--host", "127.0.0.1", "--port", str(port)]
    if variant == "own":
        limit = "--backpressure" if server == "granian" else "--limit-concurrency"
        command += [limit, _OWN[handler]]
    environment = {
        **os.environ,
        "OVERLOAD_HANDLER": handler,
        "OVERLOAD_SHEDDING": "1" if variant == "ours" else "0",
    }
    process = subprocess.Popen(  # noqa: S603 - one of our own commands
        on_core(CORES[0], [*command, "benchmarks.overload.service:app"]),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )
    try:
        wait_for(port, process)
        yield port, process
    finally:
        # The group: granian's worker outlives its parent, and would take half of the next one's
        # core.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until the server answers."""
    for _ in range(200):
        if process.poll() is not None:
            raise RuntimeError(f"the server ended at once, with {process.returncode}")
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            if client.recv(15):
                return
        time.sleep(0.05)  # noqa: TID251 - there is no loop to block
    raise RuntimeError("the server did not answer within 10 seconds")
