"""Measure small services over real sockets.

0.8 times the capacity, then many times, then 0.6 times.

    python -m benchmarks.overload.small --keep      # some 8 minutes; renews the page

The work waits and does not compute, so that a busy machine changes little. Callers hang up after a
second.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop

from benchmarks.overload.callers import Plan, send
from benchmarks.overload.report import renew
from benchmarks.overload.servers import ROOT, SERVERS, wait_for
from postfacta_embedded import EmbeddedPostgres
from postfacta_lab.engine.processes import free_port
from postfacta_lab.load.gate import Sample

__all__ = ["CELLS", "Cell", "main", "measure"]

_IN_TIME = 1.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One service and its load; `mode` is as in `small_service`."""

    title: str
    slots: int
    hold: float
    mode: str
    times: float
    with_database: bool = False

    @property
    def capacity(self) -> float:
        """Requests a second."""
        return self.slots / self.hold


def _all(
    title: str, slots: int, hold: float, modes: tuple[str, ...], *times: float, db: bool = False
) -> list[Cell]:
    return [Cell(title, slots, hold, mode, load, db) for load in times for mode in modes]


CELLS = [
    *_all("semaphore, 20/s", 2, 0.1, ("bare", "ours", "cancel"), 5),
    *_all("semaphore, 50/s", 5, 0.1, ("bare", "ours", "cancel"), 5),
    *_all("database, statements of 0.4 s, 30/s", 12, 0.4, ("bare", "ours", "cancel"), 5, db=True),
    *_all("semaphore, 400/s", 20, 0.05, ("bare", "ours"), 5),
]


@contextmanager
def _serving(cell: Cell, dsn: str) -> Generator[int]:
    port = free_port()
    environment = {
        **os.environ,
        "SMALL_SLOTS": str(cell.slots),
        "SMALL_HOLD": str(cell.hold),
        "SMALL_MODE": cell.mode,
    }
    environment["SMALL_DSN"] = dsn if cell.with_database else ""
    command = [*SERVERS["uvicorn"], "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(  # noqa: S603 - one of our own commands
        [sys.executable, "-m", *command, "benchmarks.overload.small_service:app"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )
    try:
        wait_for(port, process)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def _send(port: int, rate: float, seconds: float, *, connections: int = 1) -> list[Sample]:
    plan = Plan(port, rate=rate, seconds=seconds, warmup=0.0, connections=connections)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(send(plan))


def _good(answers: list[Sample], first: float, last: float) -> int:
    """Return the answers in time that came between two moments."""
    return sum(
        not it.error and it.latency <= _IN_TIME and first <= it.ended < last for it in answers
    )


def measure(cell: Cell, dsn: str) -> str:
    """Run one cell; return its line of the table."""
    with _serving(cell, dsn) as port:
        closed = _send(port, 0.0, 4, connections=cell.slots + 1)
        calm = _send(port, 0.8 * cell.capacity, 6)
        load = _send(port, cell.times * cell.capacity, 20)
        after = _send(port, 0.6 * cell.capacity, 6)
    reached = _good(closed, 1, 4) / 3
    early = _good(load, 5, 15) / (10 * cell.capacity)
    late = _good(load, 15, 20) / (5 * cell.capacity)
    refusals = sorted(it.latency for it in load if it.error == "503" and it.intended >= 5)
    slowest = f"{refusals[int(len(refusals) * 0.99)] * 1000:.0f} ms" if refusals else "-"
    refused = sum(it.error == "503" for it in calm)
    recovery = next(
        (s for s in range(5) if _good(after, s, s + 1) >= 0.85 * 0.6 * cell.capacity), None
    )
    return (
        f"| {cell.title} | {cell.times:g}x | {cell.mode} | {reached / cell.capacity:.0%} |"
        f" {early:.0%} | {late:.0%} | {slowest} | {refused} of {len(calm)} |"
        f" {'more than 5 s' if recovery is None else f'{recovery} s'} |"
    )


def main() -> None:
    """Measure all cells, and renew the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="write the page")
    chosen = parser.parse_args()
    lines = [
        (
            "| service | load | variant | closed loop | from 5 s | from 15 s | refusal p99 |"
            " refused at 0.8x | recovered after |"
        ),
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    with tempfile.TemporaryDirectory(prefix="postfacta-bench-") as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        with EmbeddedPostgres(folder / "data") as server:
            for cell in CELLS:
                lines.append(measure(cell, server.dsn()))
                sys.stderr.write(f"{lines[-1]}  load {os.getloadavg()[0]:.1f}\n")
    if chosen.keep:
        renew("small", "\n".join(lines))


if __name__ == "__main__":
    main()
