"""Play hours of overload in virtual time, in seconds, to see whether a limit stays where it should.

Requests come at random to a service with some slots, such as a pool of connections: whoever is admitted waits for a
slot in order of arrival, then holds it. Nothing else is modelled, neither processor nor network. What is simulated is
the library's own `AdaptiveLimiter` with each of its strategies.

    python -m benchmarks.simulate            # writes docs/images/overload-*.svg, prints the figures
"""

from __future__ import annotations

import heapq
import random
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

from benchmarks.overload.plot import Panel, write
from benchmarks.overload.report import renew
from postfacta_core.events import Outcome
from postfacta_core.policy.concurrency import (
    ADMIT,
    AdaptiveLimiter,
    LimiterConfig,
    LimitStrategy,
    Priority,
    Wait,
)
from postfacta_core.policy.concurrency_limits import Gradient, LatencyTarget, Vegas

__all__ = ["SCENARIOS", "STRATEGIES", "Course", "Scenario", "main", "simulate"]

IMAGES = Path(__file__).parents[1] / "docs" / "images"
IN_TIME = 0.5
"""An answer that takes longer is worth nothing."""

STRATEGIES: Mapping[str, Callable[[], LimitStrategy]] = {
    "latency target": LatencyTarget,
    "Vegas": Vegas,
    "gradient": Gradient,
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens to a service.

    Attributes:
        title: In a few words.
        seconds: How long.
        rate: Requests a second at a moment.
        holds: Seconds for which a request holds a slot at a moment, on average; a quarter to each side.
        slots: How many there are.
    """

    title: str
    seconds: float
    rate: Callable[[float], float]
    holds: Callable[[float], float]
    slots: int = 5

    def capacity(self, at: float) -> float:
        """Tell how many requests a second can be served at a moment."""
        return self.slots / self.holds(at)

    def due(self, at: float) -> float:
        """Tell how many requests a second a perfect limit would serve."""
        return min(self.rate(at), self.capacity(at))


def _step(at: float) -> float:
    return 0.15 if 60 <= at < 120 else 0.05


SCENARIOS: Mapping[str, Scenario] = {
    "step": Scenario("three times slower for a minute", 180, lambda at: 150.0, _step),
    "drift": Scenario("slowly three times slower", 600, lambda at: 110.0, lambda at: 0.05 * (1 + at / 300)),
    "hour": Scenario("an hour at 1.1 times the capacity", 3600, lambda at: 110.0, lambda at: 0.05),
}


@dataclass(slots=True)
class Course:
    """What happened, for each second.

    Attributes:
        good: Answers in time.
        due: What a perfect limit would have had.
        limit: The limit at its end.
        latencies: Of all that was served, in order of the end.
        shed: How many were refused in all.
    """

    good: list[int] = field(default_factory=list[int])
    due: list[float] = field(default_factory=list[float])
    limit: list[float] = field(default_factory=list[float])
    latencies: list[float] = field(default_factory=list[float])
    shed: int = 0

    def goodput(self, since: int = 0, until: int | None = None) -> float:
        """Tell the share of what was due that was served in time, between two seconds."""
        return sum(self.good[since:until]) / sum(self.due[since:until])


@dataclass(slots=True, eq=False)
class _Request:
    came: float
    admitted: float = 0.0


class _Service:
    """A simulation under way: a heap of moments and what happens at each."""

    def __init__(self, scenario: Scenario, limiter: AdaptiveLimiter | None, *, seed: int) -> None:
        self.course = Course()
        self._scenario = scenario
        self._limiter = limiter
        self._luck = random.Random(seed)  # noqa: S311 - a simulation, no secret
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = count()
        self._free = scenario.slots
        self._queue: deque[_Request] = deque()

    def play(self) -> Course:
        """Play it to its end."""
        self._at(0.0, self._arrive)
        for second in range(int(self._scenario.seconds)):
            self._play_until(second + 1.0)
            self.course.due.append(self._scenario.due(second + 0.5))
            self.course.limit.append(self._limiter.limit if self._limiter else 0.0)
        return self.course

    def _play_until(self, end: float) -> None:
        self.course.good.append(0)
        while self._events[0][0] < end:
            now, _, happen = heapq.heappop(self._events)
            happen(now)

    def _at(self, moment: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._order), happen))

    def _arrive(self, now: float) -> None:
        self._at(now + self._luck.expovariate(self._scenario.rate(now)), self._arrive)
        request = _Request(now)
        if self._limiter is None:
            self._admit(request, now)
            return
        decision = self._limiter.arrive(Priority.CRITICAL, now, luck=self._luck.random())
        if isinstance(decision, Wait):
            self._let_wait(decision, request)
        elif decision is ADMIT:
            self._admit(request, now)
        else:
            self.course.shed += 1

    def _let_wait(self, wait: Wait, request: _Request) -> None:
        limiter = self._limiter
        if limiter is None:
            raise AssertionError("nobody waits without a limiter")

        def woken() -> None:
            if wait.verdict is ADMIT:
                self._admit(request, wait.decided)
            else:
                self.course.shed += 1

        def timed_out(now: float) -> None:
            if wait.verdict is None:
                limiter.give_up(wait, now)

        wait.wake = woken
        self._at(wait.until, timed_out)

    def _admit(self, request: _Request, now: float) -> None:
        request.admitted = now
        if self._limiter is not None:
            self._limiter.start(now, now)
        self._queue.append(request)
        self._lend(now)

    def _lend(self, now: float) -> None:
        while self._free and self._queue:
            self._free -= 1
            request = self._queue.popleft()
            holds = self._scenario.holds(now) * self._luck.uniform(0.75, 1.25)
            self._at(now + holds, partial(self._finish, request))

    def _finish(self, request: _Request, now: float) -> None:
        self._free += 1
        latency = now - request.came
        self.course.latencies.append(latency)
        self.course.good[-1] += latency <= IN_TIME
        if self._limiter is not None:
            self._limiter.finish(now, request.admitted, Outcome.SUCCESS)
        self._lend(now)


def simulate(scenario: Scenario, strategy: Callable[[], LimitStrategy] | None, *, seed: int = 1) -> Course:
    """Play a scenario with a strategy, or without any limit; the same seed gives the same course."""
    limiter = AdaptiveLimiter("simulated", strategy(), LimiterConfig()) if strategy else None
    return _Service(scenario, limiter, seed=seed).play()


def _mean(values: list[float], width: int) -> list[tuple[float, float]]:
    return [(at + width / 2, sum(values[at : at + width]) / width) for at in range(0, len(values), width)]


def draw(name: str, scenario: Scenario, courses: Mapping[str, Course]) -> None:
    """Draw the courses of a scenario into one picture."""
    width = max(1, int(scenario.seconds) // 180)
    due = next(iter(courses.values())).due
    good = {key: _mean([float(good) for good in course.good], width) for key, course in courses.items()}
    limits = {key: _mean(course.limit, width) for key, course in courses.items()}
    limits["no limit"] = []
    write(
        IMAGES / f"overload-{name}.svg",
        [
            Panel(
                f"Goodput: {scenario.title}", "seconds", "a second", {**good, "possible": _mean(due, width)}
            ),
            Panel(f"Limit: {scenario.title}", "seconds", "requests at once", limits),
        ],
    )


def main() -> None:
    """Play every scenario with every strategy and without; draw, and renew the page."""
    lines = [
        "| scenario | strategy | goodput, of what is possible | limit | median | 99th percentile |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name, scenario in SCENARIOS.items():
        courses = {"no limit": simulate(scenario, None)}
        courses |= {key: simulate(scenario, strategy) for key, strategy in STRATEGIES.items()}
        draw(name, scenario, courses)
        lines += [_line(scenario, key, course) for key, course in courses.items()]
    text = "\n".join(lines)
    sys.stdout.write(text + "\n")
    renew("simulated", text)


def _line(scenario: Scenario, strategy: str, course: Course) -> str:
    settled = course.limit[len(course.limit) // 10 :]
    limit = "-" if strategy == "no limit" else f"{min(settled):.0f} to {max(settled):.0f}"
    ordered = sorted(course.latencies)
    middle, most = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
    return (
        f"| {scenario.title} | {strategy} | {course.goodput(10):.1%} | {limit} | {middle:.2f} | {most:.2f} |"
    )


if __name__ == "__main__":
    main()
