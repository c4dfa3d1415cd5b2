"""Measure goodput at 1, 2, 5 and 10 times the capacity, for servers bare, with their own limit, and with ours.

    python -m benchmarks.overload --keep      # everything, some 12 minutes on a quiet machine;
    renews the page python -m benchmarks.overload --servers uvicorn --handlers cpu --variants ours
    --times 5 10

The server has one core and the generator another. A run in which the server had less than its core,
although it was asked for more than it can do, was disturbed: repeat it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.overload import report
from benchmarks.overload.servers import CORES, HANDLERS, SERVERS, VARIANTS, on_core, serving

__all__ = ["main"]


def generate(port: int, **options: float) -> dict[str, dict[str, float]]:
    """Run the callers on a core of their own."""
    command = [sys.executable, "-m", "benchmarks.overload.callers", str(port)]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(  # noqa: S603 - our own module, with numbers
        on_core(CORES[-1], command), check=True, capture_output=True, timeout=120
    )
    found: dict[str, dict[str, float]] = json.loads(done.stdout)
    return found


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a server gets done, how many requests a second, and its own seconds for each."""

    rate: float
    cost: float


def capacity(server: str, handler: str, seconds: float, *, rate: float = 0.0) -> Capacity:
    """Measure it bare: in a closed loop, or what it makes of this rate."""
    with serving(server, handler, "plain") as (port, process):
        found = generate(port, pid=process.pid, rate=rate, seconds=seconds, warmup=0.5)["all"]
    return Capacity(found["goodput"], found["server_cpu"] / max(1.0, found["goodput"]))


def measure(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Run every combination, and give one row for each."""
    rows: list[dict[str, Any]] = []
    for server in chosen.servers:
        for handler in chosen.handlers:
            found = capacity(server, handler, chosen.seconds)
            most = chosen.capacity or found.rate
            # At the rate at which it is to refuse: waking up for a few requests costs more for each
            # than for many.
            empty = capacity(server, "nothing", chosen.seconds, rate=most * max(chosen.times))
            costs = {"capacity": most, "cost": found.cost, "refusal": empty.cost}
            sys.stderr.write(
                f"{server} {handler}: capacity {most:.0f}/s, an empty answer {empty.cost * 1e6:.0f}"
                " us\n"
            )
            for variant in chosen.variants:
                for times in chosen.times:
                    row = {"server": server, "handler": handler, "variant": variant, "times": times}
                    row |= {**costs, **_one(row, most, chosen.seconds)}
                    rows.append(row)
                    sys.stderr.write(report.line(row) + "\n")
            if chosen.mix:
                rows.append({**costs, **_mixed(server, handler, most, chosen.seconds)})
                sys.stderr.write(report.line(rows[-1]) + "\n")
    return rows


def _one(row: dict[str, Any], most: float, seconds: float) -> dict[str, Any]:
    with serving(row["server"], row["handler"], row["variant"]) as (port, process):
        found = generate(port, pid=process.pid, rate=most * row["times"], seconds=seconds)
    return found["all"]


def _mixed(server: str, handler: str, most: float, seconds: float) -> dict[str, Any]:
    """Send five times the capacity, a tenth of it critical: half of what can be served."""
    with serving(server, handler, "ours") as (port, process):
        found = generate(port, pid=process.pid, rate=most * 5, seconds=seconds, critical=0.1)
    return {
        "server": server,
        "handler": handler,
        "variant": "mix",
        "times": 5,
        **found["sheddable"],
        "goodput": found["sheddable"]["goodput"] + found["critical"]["goodput"],
        "critical": found["critical"],
    }


def main() -> None:
    """Measure, keep the figures, and renew the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", nargs="+", default=list(SERVERS), choices=SERVERS)
    parser.add_argument("--handlers", nargs="+", default=list(HANDLERS), choices=HANDLERS)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--times", nargs="+", type=int, default=[1, 2, 5, 10])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument(
        "--capacity", type=float, default=0.0, help="a second; 0 takes what was measured"
    )
    parser.add_argument(
        "--no-mix", dest="mix", action="store_false", help="without critical requests"
    )
    parser.add_argument("--keep", action="store_true", help="write the results and the page")
    chosen = parser.parse_args()
    began = time.monotonic()
    rows = measure(chosen)
    if chosen.keep:
        report.keep(rows)
    sys.stderr.write(f"{time.monotonic() - began:.0f} seconds\n")


if __name__ == "__main__":
    main()
