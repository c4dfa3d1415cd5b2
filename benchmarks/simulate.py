"""Play overload in virtual time.

The library's own limiter, a service with a hidden queue, and its callers.

    python -m benchmarks.simulate --seed 3              # the whole grid; renews the page; some
    minutes

Services: `io` has a semaphore; `pool` lends connections FIFO for at most 1 s of waiting, and its
waits are known; `slow` is a pool whose statements take 0.4 s instead of 0.04 s while the load
lasts; `cpu` is one thread that serves in turns of an event loop, where reading and refusing cost
processor time as well. Beyond the grid: `stolen` is `cpu` with half of the processor taken by
others while the load lasts; `mixed` has one dear request in ten; `polls` has three long-polls in
ten, which step aside; `sick` is a semaphore whose work takes ten times longer during the load.

Callers: `patient` ones wait for ever, `leave` hang up after 1 s and are still served to the end,
`cancel` hang up and their request is cancelled, `retry` hang up or are refused and come back up to
three times, with backoff.

A cell lasts 5 s at 60 % of the capacity, then 20 s of load (a step, a ramp over 5 s, a spike of 2
s), then 8 s at 60 %. From 2,500 requests a second on the load lasts 7 s; more than 12,000 a second
are not played, since no process reads them.
"""

from __future__ import annotations

import argparse
import heapq
import random
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from benchmarks.overload.report import renew
from postfacta_core.limits._overload import Ending, OverloadConfig, OverloadLimiter
from postfacta_core.limits._waiting import ADMIT, Priority, Shed, Wait

__all__ = ["BEGIN", "Cell", "Result", "Row", "grid", "main", "play", "table"]

BEGIN = 5
REST = 8
CALM = 0.6
IN_TIME = 1.0
"""An answer that takes longer is worth nothing."""
HANGS_UP = 1.0
_ACQUIRE_TIMEOUT = 1.0
_MAX_WAITING = 100
_READ = 6e-5
_REFUSE = 8e-5
"""Processor time to read a request and to refuse it, as measured under uvicorn on a core of 2026."""
_BEAT = 0.05
_MANY = 2500
_TOO_MANY = 12000

_SLOTS = {5: 1, 20: 2, 50: 5, 400: 20, 2000: 40}


@dataclass(frozen=True, slots=True)
class Cell:
    """One service, its callers and its load.

    `load` is a multiple of `capacity`, in requests a second.
    """

    service: str
    callers: str
    capacity: int
    load: float
    shape: str = "step"

    @property
    def seconds(self) -> int:
        """How long the load lasts: shorter where there are too many requests to play."""
        if self.shape == "spike":
            return 2
        return 20 if self.capacity * self.load <= _MANY else 7

    @property
    def end(self) -> int:
        """The second at which the load ends."""
        return BEGIN + self.seconds

    def rate(self, now: float) -> float:
        """Return the requests a second at a moment."""
        calm = min(CALM, self.load)
        if not BEGIN <= now < self.end:
            return calm * self.capacity
        reached = min(1.0, (now - BEGIN) / 5) if self.shape == "ramp" else 1.0
        return self.capacity * (calm + (self.load - calm) * reached)

    def possible(self, now: float, rate: float) -> float:
        """Return the answers a second that a perfect limiter would give to this many requests a second."""
        capacity = float(self.capacity)
        if self.service in {"cpu", "stolen"}:
            share = 0.5 if self.service == "stolen" and BEGIN <= now < self.end else 1.0
            refusal = min(_READ + _REFUSE, 0.4 / capacity)
            spent = rate * refusal
            capacity = (
                max(0.02 * capacity, (share - spent) / (1 / capacity - refusal))
                if rate > share * capacity
                else rate
            )
        elif self.service == "sick" and BEGIN <= now < self.end:
            capacity /= 10
        demand = rate * 0.7 if self.service == "polls" else rate
        return min(capacity, demand)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a cell: shares of what was possible, and seconds.

    Attributes:
        early: Good answers from 5 s after the begin of the load to 15 s after it.
        late: The same from 15 s to its end; for a spike and short cells, `early` again.
        refusal: The 99th percentile of how long a refusal took, from 5 s after the begin on.
        refused: The share of attempts that were refused from then on.
        recovery: Whole seconds from the end of the load until nine tenths of the demand are
            answered in time again.
    """

    early: float
    late: float
    refusal: float
    refused: float
    recovery: float


@dataclass(slots=True, eq=False)
class _Request:
    came: float
    kind: str
    tries: int = 0
    admitted: float = 0.0
    started: float = 0.0
    wait: Wait | None = None
    stage: str = "new"
    has_left: bool = False
    is_lent: bool = False
    was_known: bool = False  # As it was lent, its kind had been answered.


class _Play:
    """A cell under way: a heap of moments and what happens at each."""

    def __init__(self, cell: Cell, limiter: OverloadLimiter | None, seed: int) -> None:
        self.cell = cell
        self.limiter = limiter
        self.luck = random.Random(seed)  # noqa: S311 - a simulation, no secret
        self.last = cell.end + REST
        self.now = 0.0
        self.number = 0
        self.events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.good = [0] * (self.last + 1)
        self.came = [0] * (self.last + 1)
        self.tried = [0] * (self.last + 1)
        self.refusals: list[tuple[float, float]] = []
        slow = cell.service == "slow"
        self.slots = max(1, round(cell.capacity * 0.4)) if slow else _SLOTS[cell.capacity]
        self.hold = self.slots / cell.capacity
        self.has_pool = cell.service in {"pool", "slow"}
        self.busy = 0
        self.running: dict[_Request, None] = {}
        self.hidden: OrderedDict[_Request, None] = OrderedDict()
        # The thread of `cpu`.
        self.has_thread = cell.service in {"cpu", "stolen"}
        self.work = 1 / cell.capacity - min(_READ, 0.2 / cell.capacity)
        self.sockets: deque[_Request] = deque()
        self.ready: deque[_Request] = deque()
        self.is_turning = False
        self.free_at = 0.0
        self.owed = 0.0

    def at(self, moment: float, happen: Callable[..., None], *args: Any) -> None:
        self.number += 1
        heapq.heappush(self.events, (moment, self.number, happen, args))

    def run(self) -> None:
        self.at(self.next_arrival(), self.arrive)
        if self.limiter is not None:
            self.at(_BEAT, self.beat)
        events = self.events
        while events and events[0][0] < self.last:
            self.now, _, happen, args = heapq.heappop(events)
            happen(*args)

    def beat(self) -> None:
        if self.limiter is not None and self.now >= self.free_at:
            self.limiter.beat(self.now)
            if self.limiter.is_short:
                self.lend(self.limiter)
        self.at(max(self.now, self.free_at) + _BEAT, self.beat)

    def lend(self, limiter: OverloadLimiter) -> None:
        """Leave the slots of requests that tell nothing to others, as `harden` does."""
        for request in self.running:
            if not request.is_lent and limiter.is_silent(request.kind, request.admitted, self.now):
                request.is_lent, request.was_known = True, limiter.has_answered(request.kind)
                limiter.lend(self.now)

    def next_arrival(self) -> float:
        now = self.now
        cell = self.cell
        while now < self.last:
            rate = cell.rate(now)
            now += self.luck.expovariate(rate)
            # A second in which the rate changes is drawn again from its begin.
            if rate == cell.rate(now) or cell.shape == "ramp":
                return now
            now = (
                float(BEGIN if now - BEGIN < cell.end - now else cell.end)
                if rate > cell.rate(now)
                else now
            )
        return now

    def arrive(self) -> None:
        self.at(self.next_arrival(), self.arrive)
        self.came[int(self.now)] += 1
        draw = self.luck.random()
        service = self.cell.service
        kind = (
            "poll"
            if service == "polls" and draw < 0.3
            else "dear"
            if service == "mixed" and draw < 0.1
            else ""
        )
        self.attempt(_Request(self.now, kind))

    def attempt(self, request: _Request) -> None:
        request.came = self.now
        self.tried[int(self.now)] += 1
        if self.cell.callers != "patient":
            self.at(self.now + HANGS_UP, self.leave, request)
        if self.has_thread:
            self.sockets.append(request)
            self.turn_soon()
        else:
            self.decide(request)

    # The door.

    def decide(self, request: _Request) -> None:
        limiter = self.limiter
        if limiter is None:
            self.admit(request)
            return
        decision = limiter.arrive(Priority.CRITICAL, self.now, luck=self.luck.random())
        if decision is ADMIT:
            self.admit(request)
        elif isinstance(decision, Wait):
            request.wait = decision
            request.stage = "waits"
            decision.wake = lambda: self.at(max(self.now, self.free_at), self.woken, request)
            self.at(decision.until, self.times_out, request)
        else:
            self.refuse(request)

    def times_out(self, request: _Request) -> None:
        if self.now < self.free_at:
            self.at(self.free_at, self.times_out, request)
        elif request.wait is not None and request.wait.verdict is None and self.limiter is not None:
            self.limiter.give_up(request.wait, self.now)

    def woken(self, request: _Request) -> None:
        if request.wait is not None and isinstance(request.wait.verdict, Shed):
            self.refuse(request)
        elif request.stage == "waits":
            self.admit(request)

    def refuse(self, request: _Request) -> None:
        request.stage = "done"
        self.owed += _REFUSE
        if request.has_left:
            return
        self.refusals.append((self.now, self.now - request.came))
        if self.cell.callers == "retry":
            self.come_again(request, self.luck.uniform(0.05, 0.2) * 2**request.tries)

    def come_again(self, request: _Request, after: float) -> None:
        if request.tries < 3:
            self.at(
                self.now + after, self.attempt, _Request(self.now, request.kind, request.tries + 1)
            )

    def leave(self, request: _Request) -> None:
        if request.stage == "done" or request.has_left:
            return
        request.has_left = True
        if self.cell.callers == "retry":
            self.come_again(request, self.luck.uniform(0.0, 0.1))
        if self.cell.callers != "cancel" or self.has_thread:
            return
        if request.wait is not None and request.stage == "waits" and self.limiter is not None:
            if self.limiter.give_up(request.wait, self.now) is ADMIT:
                self.release(request, Ending.UNKNOWN)
        elif request.stage == "hidden":
            del self.hidden[request]
            self.release(request, Ending.LOST)
        elif request.stage == "runs":
            self.release(request, Ending.LOST)
            self.free_slot(request)
        request.stage = "done"

    def admit(self, request: _Request) -> None:
        request.admitted = self.now
        self.running[request] = None
        if self.has_thread:
            self.ready.append(request)
            self.turn_soon()
        elif self.limiter is not None and request.has_left:
            request.stage = "done"
            self.release(request, Ending.LEFT)
        elif request.kind == "poll":
            self.release(request, Ending.UNKNOWN)
            request.stage = "done"
        elif self.busy < self.slots:
            self.begin(request)
        elif self.has_pool and len(self.hidden) >= max(_MAX_WAITING, self.slots):
            self.fail(request)
        else:
            request.stage = "hidden"
            self.hidden[request] = None
            if self.has_pool:
                self.at(self.now + _ACQUIRE_TIMEOUT, self.pool_times_out, request)

    def release(self, request: _Request, ending: Ending) -> None:
        if self.limiter is None:
            return
        self.running.pop(request, None)
        if request.is_lent:
            self.limiter.resume()
            if request.was_known:
                ending = Ending.UNTIMED if ending is Ending.ANSWERED else Ending.UNKNOWN
        before = max(0.0, request.started - request.admitted)
        waited = before if self.has_pool else 0.0
        lag = before if self.has_thread else 0.0
        self.limiter.finish(self.now, request.admitted, ending, request.kind, waited, lag)

    # The slots.

    def pool_times_out(self, request: _Request) -> None:
        if request.stage == "hidden":
            del self.hidden[request]
            self.fail(request)

    def fail(self, request: _Request) -> None:
        request.started = self.now
        self.release(request, Ending.LOST)
        self.refuse(request)

    def begin(self, request: _Request) -> None:
        self.busy += 1
        request.stage = "runs"
        request.started = self.now
        hold = self.hold * self.luck.uniform(0.6, 1.4)
        cell = self.cell
        is_loaded = BEGIN <= self.now < cell.end
        if cell.service == "sick" and is_loaded:
            hold *= 10
        elif cell.service == "slow" and not is_loaded:
            hold /= 10
        elif cell.service == "mixed":
            hold *= 7.3 if request.kind == "dear" else 0.3
        self.at(self.now + hold, self.served, request)

    def served(self, request: _Request) -> None:
        if request.stage == "done":
            return
        request.stage = "done"
        self.release(request, Ending.ANSWERED)
        self.count(request)
        self.free_slot(request)

    def free_slot(self, request: _Request) -> None:
        self.busy -= 1
        while self.hidden and self.busy < self.slots:
            following, _ = self.hidden.popitem(last=False)
            self.begin(following)

    def count(self, request: _Request) -> None:
        if not request.has_left and self.now - request.came <= IN_TIME:
            self.good[min(int(self.now), self.last)] += 1

    # The thread.

    def turn_soon(self) -> None:
        if not self.is_turning:
            self.is_turning = True
            self.at(max(self.now, self.free_at) + 1e-9, self.turn)  # after the timers that are due

    def compute(self, seconds: float) -> None:
        now = self.now
        if self.cell.service == "stolen" and BEGIN <= now < self.cell.end:
            # The processor is away in the second half of each 50 ms.
            while seconds > 1e-12:
                into = now % 0.05
                if into >= 0.025 - 1e-9:
                    now += 0.05 - into + 1e-9
                    continue
                step = min(seconds, 0.025 - into)
                now = now + step
                seconds = seconds - step
            self.now = now
        else:
            self.now = now + seconds

    def turn(self) -> None:
        ready = self.ready
        self.ready = deque()
        self.compute(self.owed)
        self.owed = 0.0
        for _ in range(len(self.sockets)):
            self.compute(min(_READ, 0.2 / self.cell.capacity))
            self.decide(self.sockets.popleft())
        for request in ready:
            request.started = self.now
            if self.limiter is not None and request.has_left:
                request.stage = "done"
                self.release(request, Ending.LEFT)
                continue
            self.compute(self.work)
            request.stage = "done"
            self.release(request, Ending.ANSWERED)
            self.count(request)
        self.free_at = self.now
        self.is_turning = False
        if self.sockets or self.ready:
            self.turn_soon()

    # What came of it.

    def share(self, first: int, last: int) -> float:
        due = sum(self.cell.possible(s + 0.5, self.tried[s]) for s in range(first, last))
        return sum(self.good[first:last]) / due if due else 1.0

    def result(self) -> Result:
        cell = self.cell
        early = (
            (BEGIN + 5, self.last - 1)
            if cell.shape == "spike"
            else (BEGIN + 5, min(BEGIN + 15, cell.end))
        )
        late = (BEGIN + 15, cell.end) if cell.seconds > 15 else early
        slowest = sorted(took for at, took in self.refusals if at >= BEGIN + 5)
        recovery = next(
            (s for s in range(REST - 2) if self.share(cell.end + s, cell.end + s + 2) >= 0.9),
            float("inf"),
        )
        return Result(
            self.share(*early),
            self.share(*late),
            slowest[int(len(slowest) * 0.99)] if slowest else 0.0,
            sum(at >= BEGIN + 5 for at, _ in self.refusals) / max(1, sum(self.tried[BEGIN + 5 :])),
            recovery,
        )


def play(
    cell: Cell, *, seed: int, bare: bool = False, config: OverloadConfig | None = None
) -> Result:
    """Play a cell; the same seed gives the same result."""
    limiter = None if bare else OverloadLimiter("simulated", config, explores=True)
    playing = _Play(cell, limiter, seed)
    playing.run()
    return playing.result()


def grid() -> Iterator[Cell]:
    """Return the cells of issue 11 that can be played.

    Beyond some 6,000 a second a thread refuses and does nothing else.
    """
    for service in ("cpu", "io", "pool", "slow"):
        for capacity in _SLOTS:
            for load in (0.8, 1, 3, 5, 10, 30):
                for callers in ("patient", "leave", "retry"):
                    for shape in ("step", "ramp", "spike"):
                        rate = capacity * load * (4 if callers == "retry" else 1)
                        most = 6000 if service == "cpu" else _TOO_MANY
                        if rate <= most and (shape == "step" or load > 1):
                            yield Cell(service, callers, capacity, load, shape)


@dataclass(frozen=True, slots=True)
class Row:
    """A cell with the limiter and without."""

    cell: Cell
    ours: Result
    bare: Result

    def misses(self) -> str:
        """Return which goals were missed, as letters."""
        ours = self.ours
        bare = self.bare
        found = {
            "E": ours.early < 0.8,
            "L": ours.late < 0.9,
            "R": ours.refusal > 0.2,
            "B": ours.early < bare.early - 0.05 or ours.late < bare.late - 0.05,
            "S": ours.recovery > 5,
            "0": self.cell.load < 1 and ours.refused > 0,
        }
        return "".join(letter for letter, is_missed in found.items() if is_missed)


def _both(job: tuple[Cell, int]) -> Row:
    cell, seed = job
    return Row(cell, play(cell, seed=seed), play(cell, seed=seed, bare=True))


def table(rows: Sequence[Row]) -> str:
    """Return the Markdown of many cells: a row for each service and capacity, a column for a load."""
    loads = sorted({row.cell.load for row in rows})
    lines = [
        f"| service | capacity | {' | '.join(f'{load:g}x' for load in loads)} | refusal | misses |",
        f"|---|---:|{'---:|' * len(loads)}---:|---|",
    ]
    services: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        services.setdefault((row.cell.service, row.cell.capacity), []).append(row)
    for (service, capacity), cells in services.items():
        shares = " | ".join(
            _shares(row for row in cells if row.cell.load == load) for load in loads
        )
        refusal = max(row.ours.refusal for row in cells)
        lines.append(
            f"| {service} | {capacity} | {shares} | {refusal:.2f} s | {_missed(cells) or '-'} |"
        )
    return "\n".join([f"{len(rows)} cells; missed: {_missed(rows) or 'none'}.", "", *lines])


def _shares(cells: Iterable[Row]) -> str:
    """Return what the limiter reached from 5 s on, and the bare service behind it."""
    rows = list(cells)
    if not rows:
        return "-"
    ours = _mean(row.ours.early for row in rows)
    bare = _mean(row.bare.early for row in rows)
    return f"{ours:.0%} ({bare:.0%})"


def _missed(rows: Sequence[Row]) -> str:
    counts = {letter: sum(letter in row.misses() for row in rows) for letter in "ELRBS0"}
    return ", ".join(f"{letter} {count}" for letter, count in counts.items() if count)


def _mean(values: Iterable[float]) -> float:
    listed = [min(1.0, value) for value in values]
    return sum(listed) / len(listed)


def main() -> None:
    """Play the grid, and renew the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--most", type=int, default=_TOO_MANY, help="requests a second of the largest cell"
    )
    chosen = parser.parse_args()
    jobs = [(cell, chosen.seed) for cell in grid() if cell.capacity * cell.load <= chosen.most]
    rows: list[Row] = []
    with ProcessPoolExecutor(chosen.processes) as pool:
        for row in pool.map(_both, jobs):
            rows.append(row)
            sys.stderr.write(f"{row.cell} {row.ours} bare {row.bare} {row.misses()}\n")
    renew("simulated", f"Seed {chosen.seed}. {table(rows)}")


if __name__ == "__main__":
    main()
