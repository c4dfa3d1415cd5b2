"""Measure the CPU of a request over a socket, in a real server, beside the bare application and the peers' stacks.

Each server runs alone on one core, `wrk` on the other. What counts is the CPU time of the server's
processes for each request that was answered, so that others on the machine disturb little; the rate
is a second opinion. Variants take turns in rounds; figures are medians, and ratios are medians of
each round's own ratio to the bare application.

    python -m benchmarks.bench_socket [--rounds 5] [--seconds 2] [--server uvicorn] [--json FILE]

`wrk` is found on the PATH (`apt-get install wrk`).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import httpx2

from benchmarks.overload.servers import CORES, SERVERS, on_core
from benchmarks.socket_service import VARIANTS
from postfacta_lab.engine.processes import free_port, wait_until

__all__ = ["main"]

_CONNECTIONS: Final = 16
_ANSWERED: Final = re.compile(r"(\d+) requests in")
_FAILED: Final = re.compile(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)")


@contextmanager
def _serving(server: str, variant: str) -> Generator[tuple[str, int]]:
    port = free_port()
    command = [sys.executable, "-m", *SERVERS[server], "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(  # noqa: S603 - one of our own commands
        on_core(CORES[0], [*command, "benchmarks.socket_service:app"]),
        env={**os.environ, "BENCH_VARIANT": variant},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )
    url = f"http://127.0.0.1:{port}/items/17"

    def answers() -> bool:
        with suppress(httpx2.TransportError):
            return httpx2.get(url).status_code == 200
        return False

    try:
        wait_until(answers, f"{server} serves {variant}", within=60.0)
        yield url, process.pid
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def _cpu(group: int) -> float:
    """Return the CPU seconds of all threads of a group of processes."""
    spent = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # The name before it, in parentheses, may hold anything.
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                spent += sum(
                    int(one.read_text().split()[0]) for one in process.glob("task/*/schedstat")
                )
    return spent / 1e9


def _load(wrk: str, url: str, seconds: float) -> int:
    """Ask on kept connections, each again as soon as it is answered; return how often."""
    command = [
        wrk,
        "--threads",
        "1",
        "--connections",
        str(_CONNECTIONS),
        "--duration",
        f"{seconds:g}s",
        url,
    ]
    said = subprocess.run(  # noqa: S603 - see above
        on_core(CORES[-1], command), capture_output=True, text=True, check=True
    ).stdout
    answered = _ANSWERED.search(said)
    failed = _FAILED.search(said)
    if answered is None or failed is not None:
        raise RuntimeError(f"not all requests were answered:\n{said}")
    return int(answered[1])


def _measure(server: str, wrk: str, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    rounds: list[dict[str, tuple[float, float]]] = []
    with ExitStack() as stack:
        running = {name: stack.enter_context(_serving(server, name)) for name in VARIANTS}
        for _ in range(options.rounds + 1):
            one: dict[str, tuple[float, float]] = {}
            for name, (url, group) in running.items():
                before = _cpu(group)
                count = _load(wrk, url, options.seconds)
                one[name] = ((_cpu(group) - before) / count * 1e6, count / options.seconds)
            rounds.append(one)
    del rounds[0]  # It warmed up.
    return {
        name: {
            "cpu_us": round(statistics.median(one[name][0] for one in rounds), 1),
            "cpu_ratio": round(
                statistics.median(one[name][0] / one["bare"][0] for one in rounds), 2
            ),
            "requests_per_second": round(statistics.median(one[name][1] for one in rounds)),
        }
        for name in VARIANTS
    }


def main() -> None:
    """Measure, and print a table for each server."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--server", choices=list(SERVERS), action="append")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    wrk = shutil.which("wrk")
    if wrk is None:
        parser.error("wrk is not on the PATH: apt-get install wrk")
    figures = {server: _measure(server, wrk, options) for server in options.server or SERVERS}
    for server, rows in figures.items():
        lines = [f"\n| {server} | CPU µs a request | ratio | requests/s |", "|---|---:|---:|---:|"]
        lines += [
            f"| {name} | {row['cpu_us']} | {row['cpu_ratio']} | {row['requests_per_second']:,.0f} |"
            for name, row in rows.items()
        ]
        print("\n".join(lines))  # noqa: T201 - its job
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
