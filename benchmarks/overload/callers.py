"""Ask a server for more than it can do, by the lab's generator from a core of its own, and sum up what came of it.

Callers wait a second from when their request was due, then hang up, as people do.

    python -m benchmarks.overload.callers PORT --rate 950 --seconds 5
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import uvloop

from postfacta_lab.engine.client import Connection, Response, closed_loop
from postfacta_lab.engine.processes import descendants, fields_of
from postfacta_lab.load.gate import Sample, percentile
from postfacta_lab.load.generator import Generator, Meter, Target, moments
from postfacta_lab.load.mix import Ask

__all__ = ["IN_TIME", "Plan", "Summary", "main", "run", "send", "summarize"]

IN_TIME = 0.5
"""A 200 that comes later than this many seconds after it was due is worth nothing."""

_PATIENCE = 1.0
_MOST_IN_FLIGHT = 6000


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send.

    Attributes:
        port: Where to.
        rate: Requests a second; 0 for a closed loop, in which each of `connections` sends when it
            has its answer.
        seconds: How long it is measured.
        warmup: How long it runs before that, at the same rate.
        critical: The share of requests that say they are critical, if it is above 0; the others are
            sheddable.
        connections: For the closed loop.
        pid: The server, whose processor time is read; 0 for none.
    """

    port: int
    rate: float = 0.0
    seconds: float = 5.0
    warmup: float = 1.5
    critical: float = 0.0
    connections: int = 40
    pid: int = 0

    @property
    def ends(self) -> float:
        """When the last one is due."""
        return self.warmup + self.seconds


@dataclass(slots=True)
class Summary:
    """What became of the requests of a kind that were due while it was measured.

    Times are in seconds.

    `server_cpu` is the share of a core that the server had: less than 1 under overload, and others
    had the rest.
    """

    sent: int = 0
    good: int = 0
    late: int = 0
    refused: int = 0
    failed: int = 0
    goodput: float = 0.0
    p50_ok: float = 0.0
    p99_ok: float = 0.0
    p99_refused: float = 0.0
    server_cpu: float = 0.0


async def send(plan: Plan) -> list[Sample]:
    """Send everything, wait for what comes, hang up."""
    return await (_open(plan) if plan.rate else _closed(plan))


async def _open(plan: Plan) -> list[Sample]:
    shares = (
        {"critical": plan.critical, "sheddable": 1 - plan.critical}
        if plan.critical
        else {"all": 1.0}
    )
    meter = Meter(cap=_MOST_IN_FLIGHT)
    zero = time.perf_counter()
    url = f"http://127.0.0.1:{plan.port}"
    key = {"X-Priority-Key": "bench"}
    generators = {
        kind: Generator(
            Target(url, {} if kind == "all" else {**key, "X-Priority": kind}),
            meter,
            patience=_PATIENCE,
            zero=zero,
        )
        for kind in shares
    }
    try:
        async with asyncio.TaskGroup() as tasks:
            for kind, generator in generators.items():
                due = moments("constant", plan.rate * shares[kind], plan.ends)
                tasks.create_task(generator.send(due, [Ask(kind, 1, "/")] * len(due)))
        for generator in generators.values():
            await generator.settle()
    finally:
        for generator in generators.values():
            await generator.close()
    return [*meter.samples, *(Sample("all", due, due, due, "dropped") for due in meter.dropped)]


async def _closed(plan: Plan) -> list[Sample]:
    idle: list[Connection] = []

    async def ask() -> Response:
        connection = idle.pop() if idle else await Connection.open(plan.port)
        answer = await connection.get("/", patience=2 * plan.ends)
        if connection.closing:
            connection.close()
        else:
            idle.append(connection)
        return answer

    flood = await closed_loop(ask, callers=plan.connections, seconds=plan.ends)
    for connection in idle:
        connection.close()
    return [
        Sample("all", due, due, due + answer.seconds, "" if answer.good else str(answer))
        for due, answer in flood.answers
    ]


def summarize(plan: Plan, samples: Sequence[Sample]) -> dict[str, Summary]:
    """Sum up by kind what was due while it was measured."""
    summaries: dict[str, Summary] = {}
    measured = [it for it in samples if plan.warmup <= it.intended < plan.ends]
    for kind in sorted({it.route for it in measured}):
        these = [it for it in measured if it.route == kind]
        fine = [it.latency for it in these if not it.error]
        refused = [it.latency for it in these if it.error == "503"]
        good = sum(latency <= IN_TIME for latency in fine)
        summaries[kind] = Summary(
            sent=len(these),
            good=good,
            late=len(fine) - good,
            refused=len(refused),
            failed=len(these) - len(fine) - len(refused),
            goodput=good / plan.seconds,
            p50_ok=percentile(fine, 0.5),
            p99_ok=percentile(fine, 0.99),
            p99_refused=percentile(refused, 0.99),
        )
    return summaries


async def _cpu(plan: Plan) -> float:
    """Return the share of a core that the server had while it was measured."""
    await asyncio.sleep(plan.warmup)
    before = _cpu_of(plan.pid)
    await asyncio.sleep(plan.seconds)
    return (_cpu_of(plan.pid) - before) / plan.seconds


def _cpu_of(pid: int) -> float:
    """Return the processor time of a process and its children so far."""
    stats = [fields_of(one) for one in (pid, *descendants(pid))] if pid else []
    return sum(int(stat[11]) + int(stat[12]) for stat in stats if stat) / os.sysconf("SC_CLK_TCK")


def run(plan: Plan) -> dict[str, Summary]:
    """Run a plan in this process."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        summaries, share = runner.run(_both(plan))
    for summary in summaries.values():
        summary.server_cpu = share
    return summaries


async def _both(plan: Plan) -> tuple[dict[str, Summary], float]:
    async with asyncio.TaskGroup() as tasks:
        share = tasks.create_task(_cpu(plan))
        sent = tasks.create_task(send(plan))
    return summarize(plan, sent.result()), share.result()


def main() -> None:
    """Read the plan from the command line, and print what became of it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warmup", type=float, default=1.5)
    parser.add_argument("--critical", type=float, default=0.0)
    parser.add_argument("--connections", type=int, default=40)
    parser.add_argument("--pid", type=int, default=0)
    plan = Plan(**vars(parser.parse_args()))
    json.dump({kind: asdict(summary) for kind, summary in run(plan).items()}, sys.stdout)


if __name__ == "__main__":
    main()
