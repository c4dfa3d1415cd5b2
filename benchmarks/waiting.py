"""Play requests that only wait, in virtual time, and what they do to others.

    python -m benchmarks.waiting --seed 1 --seeds 3 --only streams

A cell has several flows of requests on one service. `bare` is the same service without a limiter.
A row is a flow: requests, the share that was refused, and those answered in time, in the first 5 s
and in all. In time is at most `within` seconds later than the request takes by itself. The same
seed gives the same result.

What runs and tells nothing lends its slot, and no client keeps more than half of the slots, as
under `harden`. Reading a request takes a thread 60 microseconds, where a cell has a thread.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import sys
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from postfacta_core.limits._overload import Ending, OverloadLimiter
from postfacta_core.limits._waiting import ADMIT, Priority, Shed, Wait

__all__ = ["Cell", "Clients", "Flow", "Gate", "Row", "cells", "main", "play"]

_BEAT = 0.05
_READ = 6e-5
_SOON = 5.0
"""Seconds from the begin of a cell whose good answers are counted apart."""

Rate = Callable[[float], float]
"""Returns requests a second at a moment."""
Takes = Callable[[float, random.Random], float]
"""Returns the seconds that a request takes which begins at a moment."""


@dataclass(frozen=True, slots=True)
class Gate:
    """What lets few run at once: a semaphore, or a bulkhead if it bounds its queue.

    Attributes:
        name: Flows whose gates have one name share it.
        slots: How many run at once.
        is_known: Waits for it are declared, as those for a pool.
        lends: What waits or runs there has lent its slot of the limiter, `Bulkhead(lends=True)`.
        most_waiting: How many may wait.
        longest: Seconds for which one may wait.
    """

    name: str
    slots: int
    is_known: bool = False
    lends: bool = False
    most_waiting: float = math.inf
    longest: float = math.inf


@dataclass(frozen=True, slots=True)
class Clients:
    """Clients that ask anew as soon as they have an answer.

    The last of `steps` comes again and again; a client begins each `every` seconds from `first` on.
    """

    count: int
    first: float
    every: float
    steps: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Requests of one kind.

    Attributes:
        kind: Its route.
        rate: How many come.
        takes: How long one takes.
        clients: In place of `rate` and `takes`.
        gate: What it has to pass first.
        cpu: Seconds of the processor that one takes, where a cell has a thread.
        within: Seconds that one may be late.
        leaves: Seconds after which its caller hangs up.
        ending: What its end tells the limiter.
        client: The client from which all come; each has its own if empty.
    """

    kind: str
    rate: Rate = lambda now: 0.0
    takes: Takes = lambda now, luck: 0.0
    clients: Clients | None = None
    gate: Gate | None = None
    cpu: float = 0.0
    within: float = 1.0
    leaves: float = math.inf
    ending: Ending = Ending.ANSWERED
    priority: Priority = Priority.CRITICAL
    client: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """A service and what comes to it; rows count from `begin`."""

    name: str
    flows: Sequence[Flow]
    begin: float
    end: float
    has_thread: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """What came of a flow."""

    kind: str
    asked: int
    refused: int
    soon: int
    good: int
    slowest: float
    """The 95th percentile of the seconds by which answers were late."""


@dataclass(slots=True, eq=False)
class _Request:
    flow: Flow
    due: float
    takes: float
    step: int = 0
    client: Hashable = None
    admitted: float = 0.0
    started: float = 0.0
    waited: float = 0.0
    wait: Wait | None = None
    stage: str = "new"
    has_left: bool = False
    is_lent: bool = False
    is_untimed: bool = False


@dataclass(slots=True)
class _Queue:
    used: int = 0
    waiting: deque[_Request] = field(default_factory=deque["_Request"])


class _Play:
    """A cell under way: a heap of moments and what happens at each."""

    def __init__(self, cell: Cell, limiter: OverloadLimiter | None, seed: int) -> None:
        self.cell = cell
        self.limiter = limiter
        self.luck = random.Random(seed)  # noqa: S311 - a simulation, no secret
        self.now = 0.0
        self.number = 0
        self.events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.gates: dict[str, _Queue] = {}
        self.running: dict[_Request, None] = {}
        self.ended: list[tuple[_Request, str, float]] = []
        self.sockets: deque[_Request] = deque()
        self.ready: deque[_Request] = deque()
        self.is_turning = False
        self.free_at = 0.0

    def at(self, moment: float, happen: Callable[..., None], *args: Any) -> None:
        self.number += 1
        heapq.heappush(self.events, (moment, self.number, happen, args))

    def run(self) -> None:
        for flow in self.cell.flows:
            if (clients := flow.clients) is None:
                self.at(self.next_arrival(flow), self.arrive, flow)
            else:
                for number in range(clients.count):
                    client = flow.client or number
                    self.at(clients.first + number * clients.every, self.ask, flow, 0, client)
        if self.limiter is not None:
            self.at(_BEAT, self.beat)
        while self.events and self.events[0][0] < self.cell.end:
            self.now, _, happen, args = heapq.heappop(self.events)
            happen(*args)

    def next_arrival(self, flow: Flow) -> float:
        now = self.now
        while now < self.cell.end:
            rate = flow.rate(now)
            after = self.luck.expovariate(rate) if rate > 0 else math.inf
            # The rate may change meanwhile: chance has no memory, so it is drawn again.
            if after <= 0.05:
                return now + after
            now += 0.05
        return now

    def arrive(self, flow: Flow) -> None:
        self.at(self.next_arrival(flow), self.arrive, flow)
        takes = flow.takes(self.now, self.luck)
        self.attempt(_Request(flow, self.now, takes, client=flow.client or self.number))

    def ask(self, flow: Flow, step: int, client: Hashable) -> None:
        assert flow.clients is not None
        steps = flow.clients.steps
        takes = steps[min(step, len(steps) - 1)] * self.luck.uniform(0.7, 1.3)
        self.attempt(_Request(flow, self.now, takes, step, client))

    def attempt(self, request: _Request) -> None:
        if request.flow.leaves < math.inf:
            self.at(self.now + request.flow.leaves, self.leave, request)
        if self.cell.has_thread:
            self.sockets.append(request)
            self.turn_soon()
        else:
            self.decide(request)

    def leave(self, request: _Request) -> None:
        request.has_left = True

    # The limiter.

    def beat(self) -> None:
        limiter = self.limiter
        assert limiter is not None
        if self.now >= self.free_at:
            limiter.beat(self.now)
            limiter.share(self.holders(limiter) if limiter.is_short else {})
        self.at(max(self.now, self.free_at) + _BEAT, self.beat)

    def holders(self, limiter: OverloadLimiter) -> Counter[Hashable]:
        held: Counter[Hashable] = Counter()
        for request in self.running:
            kind = request.flow.kind
            if request.is_lent:
                continue
            if limiter.is_silent(kind, request.admitted, self.now):
                request.is_lent = True
                request.is_untimed = limiter.has_answered(kind)
                limiter.lend(self.now)
            else:
                held[request.client] += 1
        return held

    def decide(self, request: _Request) -> None:
        limiter = self.limiter
        if limiter is None:
            self.admit(request)
            return
        decision = limiter.arrive(
            request.flow.priority,
            self.now,
            luck=self.luck.random(),
            client_of=lambda: request.client,
        )
        if decision is ADMIT:
            self.admit(request)
        elif isinstance(decision, Wait):
            request.wait = decision
            decision.wake = lambda: self.at(max(self.now, self.free_at), self.woken, request)
            self.at(decision.until, self.times_out, request)
        else:
            self.end(request, "refused")

    def times_out(self, request: _Request) -> None:
        if self.now < self.free_at:
            self.at(self.free_at, self.times_out, request)
        elif request.wait is not None and request.wait.verdict is None and self.limiter:
            self.limiter.give_up(request.wait, self.now)

    def woken(self, request: _Request) -> None:
        assert request.wait is not None
        if isinstance(request.wait.verdict, Shed):
            self.end(request, "refused")
        else:
            self.admit(request)

    def release(self, request: _Request, ending: Ending) -> None:
        self.running.pop(request, None)
        if self.limiter is None:
            return
        if request.is_lent:
            self.limiter.resume()
        if request.is_untimed:
            ending = Ending.UNTIMED if ending is Ending.ANSWERED else Ending.UNKNOWN
        gate = request.flow.gate
        waited = request.waited if gate is not None and gate.is_known else 0.0
        lag = request.started - request.admitted
        self.limiter.finish(self.now, request.admitted, ending, request.flow.kind, waited, lag)

    def end(self, request: _Request, outcome: str) -> None:
        self.ended.append((request, "left" if request.has_left else outcome, self.now))
        if request.flow.clients is not None:
            is_answered = outcome == "answered"
            after = 0.01 if is_answered else self.luck.uniform(0.05, 0.3)
            step = request.step + is_answered
            self.at(self.now + after, self.ask, request.flow, step, request.client)

    # The service.

    def admit(self, request: _Request) -> None:
        request.admitted = request.started = self.now
        if self.cell.has_thread:
            self.ready.append(request)
            self.turn_soon()
        else:
            self.begin(request)

    def begin(self, request: _Request) -> None:
        if self.limiter is not None and request.has_left:
            self.release(request, Ending.LEFT)
            self.end(request, "left")
            return
        self.running[request] = None
        gate = request.flow.gate
        if gate is None:
            self.at(self.now + request.takes, self.served, request)
            return
        queue = self.gates.setdefault(gate.name, _Queue())
        if queue.used >= gate.slots and len(queue.waiting) >= gate.most_waiting:
            self.fail(request)
            return
        if gate.lends and self.limiter is not None:
            request.is_lent = request.is_untimed = True
            self.limiter.lend(self.now)
        request.stage = "waits"
        queue.waiting.append(request)
        if gate.longest < math.inf:
            self.at(self.now + gate.longest, self.gate_times_out, gate, request)
        self.let_in(gate)

    def let_in(self, gate: Gate) -> None:
        queue = self.gates[gate.name]
        while queue.waiting and queue.used < gate.slots:
            queue.used += 1
            request = queue.waiting.popleft()
            request.stage = "runs"
            request.waited = self.now - request.started
            self.at(self.now + request.takes, self.served, request)

    def gate_times_out(self, gate: Gate, request: _Request) -> None:
        if request.stage == "waits":
            self.gates[gate.name].waiting.remove(request)
            request.waited = self.now - request.started
            self.fail(request)

    def fail(self, request: _Request) -> None:
        request.stage = "done"
        self.release(request, Ending.LOST)
        self.end(request, "failed")

    def served(self, request: _Request) -> None:
        if self.cell.has_thread and self.now < self.free_at:
            self.at(self.free_at + 1e-9, self.served, request)
            return
        self.release(request, request.flow.ending)
        self.end(request, "lost" if request.flow.ending is Ending.LOST else "answered")
        if (gate := request.flow.gate) is not None:
            self.gates[gate.name].used -= 1
            self.let_in(gate)

    # The thread.

    def turn_soon(self) -> None:
        if not self.is_turning:
            self.is_turning = True
            self.at(max(self.now, self.free_at) + 1e-9, self.turn)

    def turn(self) -> None:
        ready = self.ready
        self.ready = deque()
        for _ in range(len(self.sockets)):
            self.now += _READ
            self.decide(self.sockets.popleft())
        for request in ready:
            request.started = self.now
            self.now += request.flow.cpu
            self.begin(request)
        self.free_at = self.now
        self.is_turning = False
        if self.sockets or self.ready:
            self.turn_soon()


def play(cell: Cell, *, seed: int, bare: bool = False) -> list[Row]:
    """Play a cell; return a row for each of its flows."""
    playing = _Play(cell, None if bare else OverloadLimiter("simulated", explores=True), seed)
    playing.run()
    return [_row(cell, flow, playing.ended) for flow in cell.flows]


def _row(cell: Cell, flow: Flow, ended: Sequence[tuple[_Request, str, float]]) -> Row:
    own = [(r, what, at) for r, what, at in ended if r.flow is flow and r.due >= cell.begin]
    late = [(r.due, at - r.due - r.takes) for r, what, at in own if what == "answered"]
    good = [due for due, by in late if by <= flow.within]
    slowest = sorted(by for _, by in late)
    return Row(
        flow.kind,
        len(own),
        sum(what == "refused" for _, what, _ in own),
        sum(due < cell.begin + _SOON for due in good),
        len(good),
        slowest[int(len(slowest) * 0.95)] if slowest else 0.0,
    )


def _about(seconds: float) -> Takes:
    return lambda now, luck: seconds * luck.uniform(0.7, 1.3)


def _always(rate: float) -> Rate:
    return lambda now: rate


def _while(begin: float, end: float, rate: float, calm: float = 0.0) -> Rate:
    return lambda now: rate if begin <= now < end else calm


def _slower(begin: float, end: float, seconds: float, usual: float) -> Takes:
    return lambda now, luck: (seconds if begin <= now < end else usual) * luck.uniform(0.7, 1.3)


def _reads(rate: float) -> Flow:
    return Flow(kind="read", rate=_always(rate), takes=_about(0.01))


def cells() -> Iterator[Cell]:
    """Return all cells: those that only wait, floods of them, and queues beside them."""
    yield from _streams()
    yield from _polls()
    yield from _floods()
    yield from _poisoned()
    yield from _queues()


def _streams() -> Iterator[Cell]:
    for known in (0, 1):
        for count, over, first in (
            (150, 1.5, 1.0),
            (300, 1.5, 1.0),
            (60, 0.2, 1.0),
            (150, 1.5, 6.0),
        ):
            rate = _while(20, 20 + over, count / over, 0.3 * known)
            name = f"{count} streams in {over:g} s, first token {first:g} s"
            flow = Flow(kind="stream", rate=rate, takes=_about(first))
            yield Cell(f"{name}, {('new', 'known')[known]} route", [_reads(2), flow], 20, 40)
    flow = Flow(kind="stream", rate=_while(0.1, 0.15, 4000), takes=_about(0.05))
    yield Cell("200 streams at once on a fresh process", [flow], 0, 5)
    for end, calm in ((23, 1), (40, 20)):
        takes = _slower(20, end, 4.0, 0.05)
        flow = Flow(kind="stream", rate=_while(20, end, 20, calm), takes=takes)
        name = f"first token 4 s instead of 0.05 s, 20/s for {end - 20} s"
        yield Cell(name, [_reads(2), flow], 20, 50)


def _polls() -> Iterator[Cell]:
    for begin, calm in ((0.5, 0.0), (20, 0.2)):
        flow = Flow(kind="poll", rate=_while(begin, begin + 2, 50, calm), takes=_about(5))
        name = f"100 long-polls of 5 s in 2 s beside 20 reads/s, {'warm' if calm else 'cold'}"
        yield Cell(name, [_reads(20), flow], begin, begin + 12)
    flow = Flow(kind="chat", rate=_while(40, 60, 20, 2), takes=_about(5))
    yield Cell("20/s of 5 s after 40 s of 2/s", [flow], 40, 70)
    for rate, seconds in ((5, 8), (20, 2), (10, 2), (50, 1), (20, 5), (200, 1)):
        flow = Flow(kind="chat", rate=_always(rate), takes=_about(seconds))
        yield Cell(f"{rate}/s of {seconds} s, cold", [flow], 0, 40)
    steps = (0.005, 0.005, 25.0)
    for begin, rate, reads in ((5, 20, 4), (20, 50, 6)):
        flow = Flow(kind="poll", clients=Clients(100, begin, 1 / rate, steps))
        yield Cell(f"100 socket.io clients at {rate}/s", [flow, _reads(reads)], begin, 60)
    sleepers = Clients(40, 1, 0.01, (5.0,))
    for client in ("", "one"):
        flow = Flow(kind="sleep", clients=sleepers, client=client)
        name = f"40 sleepers of 5 s {'of one client' if client else 'of many'}, fresh"
        yield Cell(name, [flow, _reads(60)], 1, 20)
    for count in (40, 600):
        arrivals = _while(1, 1 + count / 300, 300)
        flow = Flow(kind="ws", rate=arrivals, takes=_about(25), ending=Ending.UNKNOWN)
        yield Cell(f"{count} handshakes of 25 s, fresh", [flow, _reads(10)], 1, 40)
    for rate in (7, 20, 150):
        flow = Flow(
            kind="call", rate=_always(0.8 * rate), takes=_slower(10, 30, 0.4, 0.04), leaves=1.0
        )
        yield Cell(f"a dependency ten times slower, {rate}/s", [flow], 10, 35)


def _floods() -> Iterator[Cell]:
    gate = Gate("hash", 2, is_known=True, lends=True, most_waiting=18, longest=5.0)
    for rate in (7, 20):
        flood = Flow(
            kind="sign-in", rate=_while(10, 30, rate), takes=_about(0.3), gate=gate, within=6
        )
        reads = Flow(
            kind="read",
            rate=_always(25),
            takes=_about(0.01),
            priority=Priority.SHEDDABLE_PLUS,
        )
        yield Cell(f"sign-in flood of {rate}/s beside 25 reads/s", [flood, reads], 10, 35)


def _poisoned() -> Iterator[Cell]:
    for load in (0.8, 3):
        for capacity, slots in ((35, 2), (150, 8)):
            own = slots / capacity
            others = Flow(
                kind="good",
                rate=_while(5, 25, capacity * 0.8 * load, capacity * 0.48),
                takes=_about(own),
                gate=Gate("work", slots),
                leaves=1.0,
            )
            bad = Flow(
                kind="bad",
                rate=_while(5, 25, capacity * 0.2 * load),
                takes=_about(10),
                ending=Ending.LOST,
            )
            later = Flow(
                kind="bad",
                rate=_while(5, 25, capacity * 0.2 * load, capacity * 0.12),
                takes=_slower(5, 25, 10, own),
                ending=Ending.ANSWERED,
            )
            name = f"of {capacity}/s at {load:g}x"
            yield Cell(f"a fifth hangs {name}", [bad, others], 5, 30)
            yield Cell(f"a fifth begins to hang {name}", [later, others], 5, 40)


def _semaphore(
    capacity: float, slots: int, rate: Rate, *, known: bool = False, most_waiting: float = math.inf
) -> Flow:
    longest = 5.0 if most_waiting < math.inf else math.inf
    gate = Gate("work", slots, is_known=known, most_waiting=most_waiting, longest=longest)
    return Flow(kind="work", rate=rate, takes=_about(slots / capacity), gate=gate, leaves=1.0)


def _queues() -> Iterator[Cell]:
    for load in (0.8, 3):
        stream = Flow(kind="stream", rate=_always(5), takes=_about(3))
        work = _semaphore(35, 2, _while(5, 25, 35 * load, 21))
        yield Cell(f"streams beside a semaphore of 35/s at {load:g}x", [stream, work], 5, 30)
    for load in (0.7, 3):
        stream = Flow(kind="stream", rate=_always(20), takes=_about(1), cpu=0.0005)
        work = Flow(kind="cpu", rate=_while(5, 25, 190 * load, 95), cpu=0.005, leaves=1.0)
        name = f"streams beside a processor of 190/s at {load:g}x"
        yield Cell(name, [stream, work], 5, 30, has_thread=True)
    for capacity, slots in ((7, 1), (20, 2), (50, 3), (400, 20)):
        for load in (4, 12):
            work = _semaphore(capacity, slots, _always(capacity * load))
            yield Cell(f"semaphore of {capacity}/s at {load}x, cold", [work], 0, 20)
    for capacity, slots in ((20, 2), (50, 3), (150, 8)):
        polls = Flow(kind="poll", rate=_while(5, 7, 200), takes=_about(5))
        work = _semaphore(capacity, slots, _while(40, 60, 5 * capacity, 0.6 * capacity))
        yield Cell(f"400 polls, later a semaphore of {capacity}/s at 5x", [polls, work], 40, 65)
    for capacity, slots in ((20, 2), (150, 8)):
        rate = _while(10, 30, 5 * capacity, 0.6 * capacity)
        work = _semaphore(capacity, slots, rate, known=True, most_waiting=20)
        yield Cell(f"all behind one bulkhead of {slots}, {capacity}/s at 5x", [work], 10, 35)
    for capacity, slots in ((7, 1), (20, 2), (150, 8)):
        rate = _while(40, 60, 5 * capacity, 0.1 * capacity)
        work = _semaphore(capacity, slots, rate)
        yield Cell(f"light traffic, then a semaphore of {capacity}/s at 5x", [work], 40, 65)


def main() -> None:
    """Play the cells, and print a row for each flow: ours and bare, means over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="cells whose name has this word")
    chosen = parser.parse_args()
    seeds = range(chosen.seed, chosen.seed + chosen.seeds)
    for cell in cells():
        if chosen.only in cell.name:
            for line in compared(cell, seeds):
                sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


def compared(cell: Cell, seeds: Sequence[int]) -> list[str]:
    """Return a line for each flow of a cell: with the limiter, and bare in brackets."""
    ours = [play(cell, seed=seed) for seed in seeds]
    bare = [play(cell, seed=seed, bare=True) for seed in seeds]
    return [
        f"| {cell.name} | {rows[0].kind} | {_summary(rows)} | {_summary(bares)} |"
        for rows, bares in zip(zip(*ours, strict=True), zip(*bare, strict=True), strict=True)
    ]


def _summary(rows: Sequence[Row]) -> str:
    seeds = len(rows)
    refused = sum(row.refused for row in rows) / max(1, sum(row.asked for row in rows))
    soon, good, asked = (
        sum(numbers) / seeds
        for numbers in zip(*[(row.soon, row.good, row.asked) for row in rows], strict=True)
    )
    slowest = max(row.slowest for row in rows)
    return f"{refused:.1%} of {asked:.0f}, good {soon:.0f}/{good:.0f}, {slowest:.2f} s"


if __name__ == "__main__":
    main()
