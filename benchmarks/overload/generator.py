"""Send requests at a constant rate that does not depend on the answers, and tell what became of each.

An open loop: request n is due at n / rate seconds, whatever became of the ones before it, and its latency counts from
then. A request that finds no idle connection opens one. A caller waits a second, then hangs up, as people do.

    python -m benchmarks.overload.generator PORT --rate 950 --seconds 5
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import uvloop

__all__ = ["Answer", "Generator", "Plan", "Summary", "main", "run", "summarize"]

IN_TIME = 0.5
"""A 200 that comes later than this many seconds after it was due is worth nothing."""

_PATIENCE = 1.0
_MOST_CONNECTIONS = 6000
_TICK = 0.001


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send.

    Attributes:
        port: Where to.
        rate: Requests a second; 0 for a closed loop, in which each of `connections` sends when it has its answer.
        seconds: How long it is measured.
        warmup: How long it runs before that, at the same rate.
        critical: The share of requests that say they are critical, if it is above 0; the others are sheddable.
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


@dataclass(frozen=True, slots=True)
class Answer:
    """How one request ended: its status, or 0 if none came, and seconds from when it was due."""

    due: float
    kind: str
    status: int
    latency: float


@dataclass(slots=True)
class Summary:
    """What became of the requests of a kind that were due while it was measured; times are in seconds.

    `server_cpu` is the share of a core that the server had: less than 1 under overload, and others had the rest.
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


class _Link(asyncio.Protocol):
    """A connection that has one request at a time."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._data = b""
        self.transport: asyncio.Transport | None = None
        self.request: _Request | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do what asyncio's do, and are of no class in common.
        self.transport = cast("asyncio.Transport", transport)
        self._generator.open += 1

    def data_received(self, data: bytes) -> None:
        self._data = data = self._data + data if self._data else data
        head, found, body = data.partition(b"\r\n\r\n")
        if not found:
            return
        lowered = head.lower()
        _, _, length = lowered.partition(b"content-length:")
        if len(body) < int(length.partition(b"\r\n")[0] or 0):
            return
        self._data = b""
        request, self.request = self.request, None
        if request is not None:
            self._generator.ended(request, int(head[9:12]))
        if b"connection: close" in lowered and self.transport is not None:
            self.transport.close()
        else:
            self._generator.idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._generator.open -= 1
        request, self.request = self.request, None
        if request is not None:
            self._generator.ended(request, 0)


@dataclass(slots=True, eq=False)
class _Request:
    due: float
    kind: str
    link: _Link | None = None
    has_ended: bool = False


class Generator:
    """Runs one plan."""

    def __init__(self, plan: Plan) -> None:
        self.idle: list[_Link] = []
        self.answers: list[Answer] = []
        self._plan = plan
        self._pending: deque[_Request] = deque()
        self.open = 0
        self._began = 0.0
        self._ends = plan.warmup + plan.seconds
        self.server_cpu = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        head = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        says = b"X-Priority-Key: bench\r\nX-Priority: "
        self._bytes = {
            "all": head + b"\r\n",
            "critical": head + says + b"critical\r\n\r\n",
            "sheddable": head + says + b"sheddable\r\n\r\n",
        }

    async def run(self) -> list[Answer]:
        """Send everything, wait for what comes, hang up."""
        self._began = time.perf_counter()
        loop = asyncio.get_running_loop()
        loop.call_later(self._plan.warmup, self._read_cpu, -1)
        loop.call_later(self._ends, self._read_cpu, 1)
        if self._plan.rate:
            await self._send_on_time()
        else:
            for _ in range(self._plan.connections):
                self._begin(_Request(self._now(), "all"))
            while self._now() < self._ends:
                self._hang_up_on_the_slow()
                await asyncio.sleep(0.02)
        while self._pending and self._now() < self._ends + 2 * _PATIENCE:
            self._hang_up_on_the_slow()
            await asyncio.sleep(0.02)
        for task in tuple(self._tasks):
            task.cancel()
        for link in self.idle:
            if link.transport is not None:
                link.transport.abort()
        return self.answers

    def ended(self, request: _Request, status: int) -> None:
        """Keep what became of one."""
        if request.has_ended:
            return
        request.has_ended = True
        now = self._now()
        self.answers.append(Answer(request.due, request.kind, status, now - request.due))
        if not self._plan.rate and now < self._ends:
            asyncio.get_running_loop().call_soon(self._begin, _Request(now, "all"))

    def _read_cpu(self, sign: int) -> None:
        self.server_cpu += sign * _cpu_of(self._plan.pid) / self._plan.seconds

    def _now(self) -> float:
        return time.perf_counter() - self._began

    async def _send_on_time(self) -> None:
        plan = self._plan
        critical, number, owed = plan.critical, 0, 0.0
        while (due := number / plan.rate) < self._ends:
            now = self._now()
            while due <= now and due < self._ends:
                owed += critical
                kind = "all" if not critical else "critical" if owed >= 1 else "sheddable"
                owed -= owed >= 1
                self._begin(_Request(due, kind))
                number += 1
                due = number / plan.rate
            self._hang_up_on_the_slow()
            await asyncio.sleep(max(_TICK, min(0.02, due - self._now())))

    def _begin(self, request: _Request) -> None:
        self._pending.append(request)
        while self.idle:
            link = self.idle.pop()
            if link.transport is not None and not link.transport.is_closing():
                self._write(link, request)
                return
        if self.open + len(self._tasks) >= _MOST_CONNECTIONS:
            self.ended(request, 0)
            return
        task = asyncio.get_running_loop().create_task(self._connect(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, request: _Request) -> None:
        link = _Link(self)
        try:
            async with asyncio.timeout(max(0.0, request.due + _PATIENCE - self._now())):
                await asyncio.get_running_loop().create_connection(lambda: link, "127.0.0.1", self._plan.port)
        except (OSError, TimeoutError):
            self.ended(request, 0)
        else:
            self._write(link, request)

    def _write(self, link: _Link, request: _Request) -> None:
        link.request, request.link = request, link
        if link.transport is None:
            self.ended(request, 0)
        else:
            link.transport.write(self._bytes[request.kind])

    def _hang_up_on_the_slow(self) -> None:
        now, pending = self._now(), self._pending
        while pending and (pending[0].has_ended or now >= pending[0].due + _PATIENCE):
            request = pending.popleft()
            if request.has_ended:
                continue
            self.ended(request, 0)
            link, request.link = request.link, None
            if link is not None:
                link.request = None
                if link.transport is not None:
                    link.transport.abort()


def summarize(plan: Plan, answers: list[Answer]) -> dict[str, Summary]:
    """Sum up by kind what was due while it was measured."""
    summaries: dict[str, Summary] = {}
    measured = [a for a in answers if plan.warmup <= a.due < plan.warmup + plan.seconds]
    for kind in sorted({answer.kind for answer in measured}):
        these = [answer for answer in measured if answer.kind == kind]
        fine = sorted(answer.latency for answer in these if answer.status == 200)
        refused = sorted(answer.latency for answer in these if answer.status == 503)
        good = sum(latency <= IN_TIME for latency in fine)
        summaries[kind] = Summary(
            sent=len(these),
            good=good,
            late=len(fine) - good,
            refused=len(refused),
            failed=len(these) - len(fine) - len(refused),
            goodput=good / plan.seconds,
            p50_ok=_percentile(fine, 0.5),
            p99_ok=_percentile(fine, 0.99),
            p99_refused=_percentile(refused, 0.99),
        )
    return summaries


def _cpu_of(pid: int) -> float:
    """Return the processor time of a process and its children so far."""
    if not pid:
        return 0.0
    process = Path(f"/proc/{pid}")
    # The command's name, in parentheses, may hold anything.
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    children = (process / "task" / str(pid) / "children").read_text().split()
    ticks = os.sysconf("SC_CLK_TCK")
    return (int(fields[11]) + int(fields[12])) / ticks + sum(_cpu_of(int(child)) for child in children)


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def run(plan: Plan) -> dict[str, Summary]:
    """Run a plan in this process."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        generator = Generator(plan)
        answers = runner.run(generator.run())
    summaries = summarize(plan, answers)
    for summary in summaries.values():
        summary.server_cpu = generator.server_cpu
    return summaries


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
