"""What the tests of the limiter share: crowds of requests, and a service that is simulated."""

from __future__ import annotations

import math
from typing import Any

from postfacta_core.limits._overload import Ending, OverloadConfig, OverloadLimiter
from postfacta_core.limits._waiting import ADMIT, Priority, Shed, Wait

__all__ = [
    "ANSWERED",
    "CRITICAL",
    "LEFT",
    "LOST",
    "PLUS",
    "SHEDDABLE",
    "SHEDDABLE_PLUS",
    "UNKNOWN",
    "UNTIMED",
    "Service",
    "crowd",
    "end",
    "fill",
    "fill_up",
    "learn",
    "limiter_of",
    "overloaded",
    "samples",
    "verdicts",
    "waiting",
]

PLUS, CRITICAL, SHEDDABLE_PLUS, SHEDDABLE = Priority
ANSWERED, LOST, LEFT, UNKNOWN, UNTIMED = Ending


def limiter_of(start: int = 16, **options: Any) -> OverloadLimiter:
    return OverloadLimiter("test", OverloadConfig(start=start, **options))


def fill(limiter: OverloadLimiter, count: int, now: float = 0.0) -> None:
    for _ in range(count):
        assert limiter.arrive(CRITICAL, now) is ADMIT


def crowd(limiter: OverloadLimiter, now: float) -> None:
    """Let more come than find room, until one is refused."""
    waits: list[Wait] = []
    while True:
        decision = limiter.arrive(CRITICAL, now)
        if isinstance(decision, Wait):
            waits.append(decision)
        if isinstance(decision, Shed) or any(wait.verdict is not None for wait in waits):
            return


def waiting(limiter: OverloadLimiter, priority: Priority, now: float) -> Wait:
    wait = limiter.arrive(priority, now)
    assert isinstance(wait, Wait)
    return wait


def end(
    limiter: OverloadLimiter,
    count: int,
    now: float,
    *,
    age: float,
    ending: Ending = ANSWERED,
    **known: Any,
) -> None:
    for _ in range(count):
        limiter.finish(now, now - age, ending, **known)


def learn(
    limiter: OverloadLimiter, usual: float, *, until: float = 10.0, every: float = 0.0
) -> float:
    """Serve one at a time, one in `every` seconds at most, until the usual time is known.

    Return the time then.
    """
    now = 0.0
    while now < until:
        fill(limiter, 1, now)
        limiter.finish(now + usual, now)
        now += max(usual, every)
    return now


def samples(limiter: OverloadLimiter, metric: str) -> dict[tuple[str, ...], float]:
    return {
        s.labels: s.value
        for s in limiter.tally()
        if s.metric == f"postfacta_limiter_{metric}" and s.value
    }


def overloaded(
    limiter: OverloadLimiter, now: float, *, rate: float, queue: float, windows: int = 1
) -> float:
    """Answer this many a second, each as old as the queue is long, while more come.

    Return the time then.
    """
    count = math.ceil(max(10, rate / 10))
    for _ in range(windows):
        while limiter.in_flight < count:
            limiter.resume()  # they were admitted long ago
        crowd(limiter, now)
        now += count / rate
        end(limiter, count, now, age=queue)
    return now


class Service:
    """Slots that requests hold for a time, in order of admission.

    Callers come in steps of 10 ms.
    """

    def __init__(self, limiter: OverloadLimiter, *, slots: int, takes: float) -> None:
        self.limiter, self.slots, self.takes = limiter, slots, takes
        self.now = 0.0
        self.under_way: list[list[float]] = []

    def play(
        self, seconds: float, *, rate: float, leave: float = math.inf, is_known: bool = False
    ) -> None:
        limiter, stop, owed = self.limiter, self.now + seconds, 0.0
        while self.now < stop:
            owed += rate * 0.01
            while owed >= 1:
                owed -= 1
                limiter.arrive(CRITICAL, self.now)
            # Some of them come from the queue.
            self.under_way += [
                [self.now, math.inf] for _ in range(limiter.in_flight - len(self.under_way))
            ]
            for one in self.under_way[: self.slots]:
                one[1] = min(one[1], self.now)
            self.now += 0.01
            for one in tuple(self.under_way):
                admitted, begun = one
                if self.now - begun >= self.takes - 1e-9:
                    self.under_way.remove(one)
                    limiter.finish(
                        self.now, admitted, ANSWERED, None, begun - admitted if is_known else 0.0
                    )
                elif self.now - admitted >= leave:
                    self.under_way.remove(one)
                    waited = min(begun, self.now) - admitted
                    limiter.finish(self.now, admitted, LOST, None, waited if is_known else 0.0)


def verdicts(limiter: OverloadLimiter) -> dict[str, float]:
    return {labels[1]: count for labels, count in samples(limiter, "verdicts_total").items()}


def fill_up(limiter: OverloadLimiter, count: int) -> None:
    while limiter.in_flight < count:
        limiter.resume()
