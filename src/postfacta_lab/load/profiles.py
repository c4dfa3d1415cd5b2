"""The shapes of load, from a smoke test to overload; how each is judged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ..engine.client import Outcome as Ended
from ..engine.loops import slow_clients
from .arrivals import Meter, Sample, Shape, moments, randomness
from .gate import Limits, Outcome, Run, judge, judge_overload, keeps_up
from .generator import Generator, Target
from .mix import Ask
from .watch import Resources, drift, look

__all__ = ["PROFILES", "Part", "Plan", "Profile", "Stage", "run_profile"]

_STEP, _MOST_STEPS = 1.05, 80
_OVERLOAD, _SPIKE = 3.0, 10.0
_LEAST_GOODPUT = 0.9  # of the capacity
_ROUNDS = 3
_SLOW, _DRIP = 75, 0.5  # clients of a kind, and seconds between two bytes of theirs


@dataclass(frozen=True, slots=True)
class Stage:
    """Some seconds of load, at a rate that may rise or fall evenly."""

    name: str
    seconds: float
    first: float
    last: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done; its fields are the options of `postfacta lab load`. `pid` is 0 for none, as is `capacity`."""

    target: Target
    asks: Sequence[Ask]
    rate: float
    seconds: float = 0.0
    times: float = 1.0
    limits: Limits
    shape: Shape = "poisson"
    seed: int = 1
    cap: int = 500
    patience: float = 20.0
    warm_up: float = 0.0
    capacity: float = 0.0
    against: Target | None = None
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """One stage, and how it was judged."""

    name: str
    run: Run
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Profile:
    """A shape: what it is for, how long its stages are, how it is played, and what it sets by itself."""

    summary: str
    seconds: float
    play: Callable[[Bench], Awaitable[list[Part]]]
    rate: float = 0.0
    failed: float = 0.005


class Bench:
    """Plays stages against one target, one after the other, without a pause between them."""

    def __init__(self, plan: Plan, target: Target | None = None) -> None:
        self.plan = plan
        self.peak = plan.rate * plan.times
        self.resources: list[Resources] = []
        self._meter = Meter(cap=plan.cap)
        self._generator = Generator(target or plan.target, self._meter, patience=plan.patience)
        self._asks = randomness(plan.seed)
        self._stages = 0

    async def play(self, *stages: Stage) -> list[Run]:
        """Send all of them, wait until each request has an end, and return a run for each stage."""
        spans = [await self._send(stage) for stage in stages]
        await self._generator.settle()
        return [self._run(*span) for span in spans]

    async def step(self, stage: Stage) -> Run:
        """Send one, and look at it when its last request should have been answered."""
        span = await self._send(stage)
        await asyncio.sleep(self.plan.limits.p99)
        return self._run(*span)

    async def close(self) -> None:
        await self._generator.close()

    async def watch(self) -> None:
        """Note the service's resources until cancelled."""
        while self.plan.pid:
            self.resources.append(look(self.plan.pid, self._generator.now()))
            await asyncio.sleep(max(self.plan.seconds / 200, 0.2))

    async def _send(self, stage: Stage) -> tuple[Stage, float, int]:
        plan, start = self.plan, self._generator.now()
        self._stages += 1
        offsets = moments(
            plan.shape, stage.first, stage.last, seconds=stage.seconds, seed=plan.seed + self._stages
        )
        chosen = self._asks.choices(plan.asks, weights=[ask.share for ask in plan.asks], k=len(offsets))
        await self._generator.send([start + offset for offset in offsets], chosen)
        await asyncio.sleep(max(0.0, start + stage.seconds - self._generator.now()))
        return stage, start, len(offsets)

    def _run(self, stage: Stage, start: float, planned: int) -> Run:
        end = start + stage.seconds
        samples = tuple(_from(start, it) for it in self._meter.samples if start <= it.intended < end)
        dropped = tuple(at - start for at in self._meter.dropped if start <= at < end)
        return Run(
            samples=samples,
            planned=planned,
            seconds=stage.seconds,
            dropped=dropped,
            unfinished=planned - len(samples) - len(dropped),
            warm_up=self.plan.warm_up if self._stages == 1 else 0.0,
        )


def _from(start: float, it: Sample) -> Sample:
    return Sample(it.route, it.intended - start, it.began - start, it.ended - start, it.error)


async def run_profile(profile: Profile, plan: Plan) -> list[Part]:
    """Play a profile; what it does not set is the plan's."""
    plan = replace(plan, rate=plan.rate or profile.rate, seconds=plan.seconds or profile.seconds)
    bench = Bench(plan)
    watching = asyncio.get_running_loop().create_task(bench.watch())
    try:
        return await profile.play(bench)
    finally:
        watching.cancel()
        await bench.close()


async def _steady(bench: Bench) -> list[Part]:
    """One rate. Where the capacity is known, and lower, what is judged is how overload is met."""
    plan, peak = bench.plan, bench.peak
    (run,) = await bench.play(Stage("steady", plan.seconds, peak, peak))
    if 0 < plan.capacity < peak:
        least = _LEAST_GOODPUT * plan.capacity
        return [Part("overload", run, judge_overload(run, plan.limits, least=least))]
    return [Part("steady", run, judge(run, plan.limits))]


async def _breakpoint(bench: Bench) -> list[Part]:
    """Raise the rate by a twentieth until users notice; then ask for more than that, and for less."""
    plan, rate, found = bench.plan, bench.peak, list[Part]()
    for number in range(1, _MOST_STEPS + 1):
        run = await bench.step(Stage(f"step {number}", plan.seconds, rate, rate))
        outcome = judge(replace(run, unfinished=0), plan.limits)
        found.append(Part(f"step {number}", run, outcome))
        if not keeps_up(run, plan.limits):
            break
        rate *= _STEP
    best = max((part.outcome.goodput for part in found[:-1]), default=0.0)
    if not best:
        return found
    over, under = await bench.play(
        Stage("above", plan.seconds, rate * 1.5, rate * 1.5), Stage("after", plan.seconds, best / 2, best / 2)
    )
    limits, last = plan.limits, found[-1]
    # The step that breaks it ends the search: it is no failure, unless the generator did not keep up.
    steps = [*found[:-1], Part(last.name, last.run, judge_overload(last.run, limits, least=0.0))]
    return [
        *steps,
        Part("above", over, judge_overload(over, limits, least=_LEAST_GOODPUT * best)),
        Part("after", under, judge(_second_half(under), limits)),
    ]


async def _spike(bench: Bench) -> list[Part]:
    """Ten times the peak at once, and back: what counts is that it is as before afterwards."""
    plan, peak = bench.plan, bench.peak
    high, length = peak * _SPIKE, plan.seconds
    before, _, spike, after = await bench.play(
        Stage("before", length, peak, peak),
        Stage("rise", length / 12, peak, high),
        Stage("spike", length, high, high),
        Stage("after", length * 2, peak, peak),
    )
    return [
        Part("before", before, judge(before, plan.limits)),
        Part("spike", spike, judge_overload(spike, plan.limits, least=0.0)),
        Part("after", after, judge(_second_half(after), plan.limits)),
    ]


async def _slow(bench: Bench) -> list[Part]:
    """Clients that drip headers and bodies, beside the load: it is served, and each of them ended in time."""
    plan, target = bench.plan, bench.plan.target
    request = target.bytes_of(Ask("", 1, plan.asks[0].path, "POST", "x" * int(plan.seconds / _DRIP + 2)))
    head, _, body = request.partition(b"\r\n\r\n")
    halves = {"headers": (head + b"\r\nX-Slow: ", body), "bodies": (head + b"\r\n\r\n", body)}
    async with asyncio.TaskGroup() as tasks:
        slow = {
            what: tasks.create_task(
                slow_clients(target.connect, *both, clients=_SLOW, every=_DRIP, patience=plan.seconds)
            )
            for what, both in halves.items()
        }
        (part,) = await _steady(bench)
    open_ = {what: sum(it.outcome is Ended.TIMEOUT for it in task.result()) for what, task in slow.items()}
    faults = [
        f"{left} of {_SLOW} clients with slow {what} were not ended in {plan.seconds:g} s"
        for what, left in open_.items()
        if left
    ]
    return [Part("beside slow clients", part.run, part.outcome.also(faults))]


async def _soak(bench: Bench) -> list[Part]:
    """Hours at the peak: what the service holds must not grow."""
    (part,) = await _steady(bench)
    grown = drift(bench.resources)
    return [Part("soak", part.run, part.outcome.also(grown))]


async def _ab(bench: Bench) -> list[Part]:
    """Overload one service and another in turn: the first must give at least as many good answers."""
    plan, rate = bench.plan, bench.peak * _OVERLOAD
    if plan.against is None:
        raise ValueError("ab compares two services: name the other one by --against URL")
    other = Bench(plan, plan.against)
    try:
        rounds = [
            ((await bench.play(stage))[0], (await other.play(stage))[0])
            for stage in [Stage("overload", plan.seconds, rate, rate)] * _ROUNDS
        ]
    finally:
        await other.close()
    theirs = [judge_overload(run, plan.limits, least=0.0) for _, run in rounds]
    least = sorted(it.goodput for it in theirs)[len(theirs) // 2]
    ours = [judge_overload(run, plan.limits, least=least) for run, _ in rounds]
    parts = [
        Part(f"this, round {number}", run, ours[number - 1]) for number, (run, _) in enumerate(rounds, 1)
    ]
    median = sorted(it.goodput for it in ours)[len(ours) // 2]
    if median >= least:  # rounds differ by chance; the one in the middle decides
        parts = [Part(part.name, part.run, part.outcome.as_found()) for part in parts]
    return parts + [
        Part(f"the other, round {number}", run, theirs[number - 1].as_found())
        for number, (_, run) in enumerate(rounds, 1)
    ]


def _second_half(run: Run) -> Run:
    """Judge what comes after the recovery that is allowed for."""
    return replace(run, warm_up=run.seconds / 2)


PROFILES: Final[Mapping[str, Profile]] = {
    "smoke": Profile("half a minute at 10 a second, on every change", 30, _steady, rate=10, failed=0.0),
    "expected": Profile("five minutes at the expected peak, or a multiple of it (--times)", 300, _steady),
    "breakpoint": Profile("5 % more every 30 s until users notice: the capacity", 30, _breakpoint),
    "spike": Profile("ten times the peak for a minute, and the recovery from it", 60, _spike),
    "slow": Profile("the peak beside 150 clients that send a byte now and then", 35, _slow),
    "soak": Profile("an hour at the peak: what the service holds must not grow (--pid)", 3600, _soak),
    "ab": Profile("three times the peak on two services in turn (--against)", 20, _ab),
}
