"""The shapes of load, from a smoke test to a soak; how each is judged."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, linear_regression, median
from typing import Final

from ..engine.processes import descendants
from .gate import Limits, Run, Verdict, judge, judge_overload
from .generator import Generator, Meter, Target, moments, randomness
from .mix import Ask

# The figures of the profiles: docs/how-to/run-chaos-and-load.md.
_STEP = 1.05  # from one step of `breakpoint` to the next
_MOST_STEPS = 80  # to 47 times the first rate
_ABOVE = 1.5  # of the rate that broke it
_OVERLOAD = 3.0  # of the rate, in `ab`
_SPIKE = 10.0  # of the peak
_LEAST_GOODPUT = 0.9  # of the capacity
_ROUNDS = 3  # of `ab`
_LOOKS = 200  # at the resources of a service, in a soak
_LEAST_PAUSE = 0.2  # seconds from one look to the next
_FEWEST_LOOKS = 10  # that a trend of resources can rest on
_MOST_PER_HOUR = 0.01  # growth of a resource, as a share of its mean
_HOUR = 3600.0
_Z = 1.96  # standard errors on either side: an interval of 95 % of a normal distribution

Look = tuple[float, int, int, int]  # seconds of the clock, and what a service holds then


@dataclass(frozen=True, slots=True)
class Stage:
    """Some seconds of load."""

    name: str
    seconds: float
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done; its fields are the options of `postfacta lab load`.

    `pid` is 0 for none, as is `capacity`.
    """

    target: Target
    asks: Sequence[Ask]
    rate: float
    seconds: float
    limits: Limits
    cap: int = 500
    patience: float = 20.0
    warm_up: float = 0.0
    capacity: float = 0.0
    against: Target | None = None
    pid: int = 0


class Bench:
    """Plays stages against a target."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._meter = Meter(cap=plan.cap)
        self._generator = Generator(plan.target, self._meter, patience=plan.patience)
        self._asks = randomness(1)
        self._stages = 1

    async def play(self, *stages: Stage) -> list[Run]:
        """Send all of them without a pause between them, and wait until each request has an end."""
        sent: list[tuple[Stage, float, int]] = []
        for stage in stages:
            start, planned = await self._send(stage)
            sent.append((stage, start, planned))
        await self._generator.settle()
        return [self._run_of(stage, start, planned=planned) for stage, start, planned in sent]

    def _run_of(self, stage: Stage, start: float, *, planned: int) -> Run:
        """Gather what belongs to a stage: what was meant to begin in it, whenever it ended."""
        end = start + stage.seconds
        samples = [sample for sample in self._meter.samples if start <= sample.intended < end]
        dropped = [moment for moment in self._meter.dropped if start <= moment < end]
        return Run(
            name=stage.name,
            samples=samples,
            planned=planned,
            dropped=dropped,
            start=start,
            seconds=stage.seconds,
            warm_up=max(self.plan.warm_up - start, 0.0),
        )

    async def _send(self, stage: Stage) -> tuple[float, int]:
        """Send one; return when it began, and how many arrivals it had."""
        plan = self.plan
        start = self._generator.now()
        self._stages += 1
        offsets = moments("poisson", stage.rate, stage.seconds, seed=self._stages)
        shares = [ask.share for ask in plan.asks]
        chosen = self._asks.choices(plan.asks, weights=shares, k=len(offsets))
        due = [start + offset for offset in offsets]
        await self._generator.send(due, chosen)
        end = start + stage.seconds
        remaining = end - self._generator.now()
        await asyncio.sleep(max(0.0, remaining))
        return start, len(offsets)

    async def aclose(self) -> None:
        await self._generator.close()


async def run_profile(profile: Profile, plan: Plan) -> list[Run]:
    async with aclosing(Bench(plan)) as bench:
        return await profile.play(bench)


async def _steady(bench: Bench) -> list[Run]:
    """One rate. Where the capacity is known, and lower, what is judged is how overload is met."""
    plan = bench.plan
    is_overload = 0 < plan.capacity < plan.rate
    name = "overload" if is_overload else "steady"
    (run,) = await bench.play(Stage(name, plan.seconds, plan.rate))
    if is_overload:
        least = _LEAST_GOODPUT * plan.capacity
        return [judge_overload(run, plan.limits, least=least)]
    return [judge(run, plan.limits)]


async def _breakpoint(bench: Bench) -> list[Run]:
    """Raise the rate by a twentieth until users notice.

    Then ask for more than that, and for less.
    """
    limits = bench.plan.limits
    length = bench.plan.seconds
    rate = 0.0
    steps: list[Run] = []
    for number in range(_MOST_STEPS):
        rate = bench.plan.rate * _STEP**number
        stage = Stage(f"step {number + 1}", length, rate)
        (run,) = await bench.play(stage)
        step = judge(run, limits)
        steps.append(step)
        if step.verdict is not Verdict.PASS:
            break
    *passed, broken = steps
    best = max((step.goodput for step in passed), default=0.0)
    if not best:
        return steps
    above, after = await bench.play(
        Stage("above", length, rate * _ABOVE),
        Stage("after", length, best / 2),
    )
    least = _LEAST_GOODPUT * best
    recovered = replace(after, warm_up=length / 2)
    return [
        *passed,
        # It ended the search: no failure, unless the generator lagged.
        judge_overload(broken, limits),
        judge_overload(above, limits, least=least),
        judge(recovered, limits),
    ]


async def _spike(bench: Bench) -> list[Run]:
    """Ten times the peak within five seconds, and back.

    What counts is that it is as before afterwards.
    """
    limits = bench.plan.limits
    length = bench.plan.seconds
    peak = bench.plan.rate
    rise: list[Stage] = []
    for fifth in range(1, 5):
        rate = peak * (1 + fifth * (_SPIKE - 1) / 5)
        rise.append(Stage("rise", length / 60, rate))
    before, *_, spike, after = await bench.play(
        Stage("before", length, peak),
        *rise,
        Stage("spike", length, peak * _SPIKE),
        Stage("after", length * 2, peak),
    )
    recovered = replace(after, warm_up=length)
    return [
        judge(before, limits),
        judge_overload(spike, limits),
        judge(recovered, limits),
    ]


async def _soak(bench: Bench) -> list[Run]:
    """Hours at the peak: what the service holds must not grow."""
    plan = bench.plan
    looks = list[Look]()

    pause = max(plan.seconds / _LOOKS, _LEAST_PAUSE)

    async def watch() -> None:
        while plan.pid:
            memory, files, threads = look(plan.pid)
            looks.append((time.monotonic(), memory, files, threads))
            await asyncio.sleep(pause)

    watching = asyncio.get_running_loop().create_task(watch())
    stage = Stage("soak", plan.seconds, plan.rate)
    try:
        (run,) = await bench.play(stage)
    finally:
        watching.cancel()
    growths = drift(looks)
    return [judge(run, plan.limits, faults=growths)]


def look(pid: int) -> tuple[int, int, int]:
    """Return what a process and all below it hold: bytes of resident memory, files, threads."""
    page = os.sysconf("SC_PAGE_SIZE")
    memory = 0
    files = 0
    threads = 0
    for member in (pid, *descendants(pid)):
        process = Path(f"/proc/{member}")
        with suppress(OSError):
            _, pages, *_ = (process / "statm").read_text().split()
            memory += int(pages) * page
            files += len(list((process / "fd").iterdir()))
            threads += len(list((process / "task").iterdir()))
    return memory, files, threads


def slope(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Fit a line by least squares.

    Return its slope, and half the width of the slope's 95 % interval.
    """
    steepness, start = linear_regression(x, y)
    remainder = 0.0
    for at_x, at_y in zip(x, y, strict=True):
        fitted = start + steepness * at_x
        remainder += (at_y - fitted) ** 2
    mean = fmean(x)
    spread = sum((at_x - mean) ** 2 for at_x in x)
    # Two degrees of freedom went into the slope and the start.
    freedom = max(len(x) - 2, 1)
    variance = remainder / freedom
    standard_error = math.sqrt(variance / spread)
    return steepness, _Z * standard_error


def drift(looks: Sequence[Look]) -> list[str]:
    """Return what grows by more than 1 % an hour, beyond the doubt of the fit."""
    steady = looks[len(looks) // 4 :]  # a service grows into its load first
    if len(steady) < _FEWEST_LOOKS:
        return []
    times, *series = zip(*steady, strict=True)
    growths: list[str] = []
    for name, values in zip(("memory", "files", "threads"), series, strict=True):
        rise, doubt = slope(times, values)
        mean = fmean(values)
        if not mean:
            continue
        growth = rise * _HOUR / mean
        least = (rise - doubt) * _HOUR / mean
        if least > _MOST_PER_HOUR:
            growths.append(f"{name} grows by {growth:.1%} an hour")
    return growths


async def _ab(bench: Bench) -> list[Run]:
    """Overload one service and another in turn: the first must give at least as many good answers.

    Rounds differ by chance: the one in the middle decides.
    """
    plan = bench.plan
    rate = plan.rate * _OVERLOAD
    if plan.against is None:
        raise ValueError("ab compares two services: name the other one by --against URL")
    ours = list[Run]()
    theirs = list[Run]()
    plan_of_rival = replace(plan, target=plan.against)
    async with aclosing(Bench(plan_of_rival)) as rival:
        for number in range(1, _ROUNDS + 1):
            ours += await bench.play(Stage(f"this, round {number}", plan.seconds, rate))
            theirs += await rival.play(Stage(f"the other, round {number}", plan.seconds, rate))
    limit = plan.limits.p99
    our_median = median(run.within(limit) for run in ours)
    their_median = median(run.within(limit) for run in theirs)
    least = their_median if our_median < their_median else 0.0
    return [
        *(judge_overload(run, plan.limits, least=least) for run in ours),
        *(judge_overload(run, plan.limits) for run in theirs),
    ]


@dataclass(frozen=True, slots=True)
class Profile:
    """A shape: how it is played, how long its stages are, and what it sets by itself."""

    play: Callable[[Bench], Awaitable[list[Run]]]
    seconds: float
    rate: float = 0.0
    failed: float = 0.005


PROFILES: Final[Mapping[str, Profile]] = {
    "smoke": Profile(_steady, 30, rate=10, failed=0.0),
    "expected": Profile(_steady, 300),
    "breakpoint": Profile(_breakpoint, 30),
    "spike": Profile(_spike, 60),
    "soak": Profile(_soak, 3600),
    "ab": Profile(_ab, 20),
}
