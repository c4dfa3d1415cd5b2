"""Fixed courses of traffic through the overload limiter, and the numbers that it had on the way.

`python -m tests.core.limits.courses` writes `courses.json` anew, after a change of the limiter that
is meant.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from postfacta_core.events import Mode
from postfacta_core.limits._overload import Ending, OverloadConfig, OverloadLimiter
from postfacta_core.limits._waiting import Priority, Wait

__all__ = ["FILE", "courses"]

FILE: Final = Path(__file__).with_name("courses.json")
_TICK: Final = 0.01
_NOTE_EACH: Final = 25


class _Course:
    """A service of some slots, and callers with priorities, kinds and patience.

    Each choice is from a fixed series.
    """

    def __init__(
        self, seed: int, *, slots: int, takes: float, config: OverloadConfig | None = None
    ) -> None:
        self.limiter = OverloadLimiter("course", config)
        self.slots, self.takes, self.lag, self.own, self.leave, self.kinds = (
            slots,
            takes,
            0.0,
            1.0,
            1e9,
            4,
        )
        self.known = False
        self.lost = Ending.LOST
        self._luck = random.Random(seed)  # noqa: S311 - a fixed series, no secret
        self._now = 0.0
        self._ticks = 0
        self._owed = 0.0
        self._waits: list[tuple[Wait, int]] = []
        # Kind, admitted, begun (or never), takes.
        self._running: list[list[float]] = []
        self.notes: list[str] = []

    def play(self, seconds: float, rate: float) -> None:
        for _ in range(round(seconds / _TICK)):
            self._owed += rate * _TICK
            while self._owed >= 1:
                self._owed -= 1
                self._arrive()
            self._look_at_waits()
            for one in self._running[: self.slots]:
                one[2] = min(one[2], self._now)
            self._now += _TICK
            self._finish()
            self._ticks += 1
            if self._ticks % 5 == 0:
                self.limiter.beat(self._now, self.own)
            if self._ticks % _NOTE_EACH == 0:
                self.notes.append(self._note())

    def _arrive(self) -> None:
        priority = self._luck.choice(list(Priority))
        kind = self._luck.randrange(self.kinds)
        decision = self.limiter.arrive(priority, self._now, luck=self._luck.random())
        if isinstance(decision, Wait):
            self._waits.append((decision, kind))
        elif decision.__class__.__name__ == "Admit":
            self._begin(kind)

    def _begin(self, kind: int) -> None:
        self._running.append(
            [
                kind,
                self._now,
                1e9,
                self.takes * (0.5 + kind % 4) * (0.8 + 0.4 * self._luck.random()),
            ]
        )

    def _look_at_waits(self) -> None:
        for entry in tuple(self._waits):
            wait, kind = entry
            if wait.verdict is None and self._now >= wait.until:
                self.limiter.give_up(wait, self._now)
            if wait.verdict is not None:
                self._waits.remove(entry)
                if wait.verdict.__class__.__name__ == "Admit":
                    self._begin(kind)

    def _finish(self) -> None:
        for one in tuple(self._running):
            kind, admitted, begun, takes = one
            waited = min(begun, self._now) - admitted if self.known else 0.0
            if self._now - begun >= takes:
                self._running.remove(one)
                self.limiter.finish(
                    self._now, admitted, Ending.ANSWERED, int(kind), waited, self.lag
                )
            elif self._now - admitted >= self.leave:
                self._running.remove(one)
                ending = Ending.LEFT if begun > self._now else self.lost
                self.limiter.finish(self._now, admitted, ending, int(kind), waited, self.lag)

    def _note(self) -> str:
        numbers = [
            f"{sample.value:.9g}"
            for sample in self.limiter.tally()
            if "decisions" not in sample.metric
        ]
        decisions: dict[str, float] = {}
        for sample in self.limiter.tally():
            if "decisions" in sample.metric:
                decisions[sample.labels[2]] = decisions.get(sample.labels[2], 0.0) + sample.value
        return " ".join([*numbers, *(f"{count:g}" for count in decisions.values())])


def _overload() -> _Course:
    it = _Course(1, slots=10, takes=0.02)
    it.play(3, rate=60)
    it.play(8, rate=900)
    it.play(4, rate=60)
    return it


def _callers_leave() -> _Course:
    it = _Course(2, slots=4, takes=0.05)
    it.play(3, rate=20)
    it.leave = 0.6
    it.play(8, rate=150)
    it.lost = Ending.UNKNOWN
    it.play(2, rate=150)
    it.play(3, rate=10)
    return it


def _slow_and_well_again() -> _Course:
    it = _Course(3, slots=40, takes=0.02, config=OverloadConfig(start=32, spare=0.05, patience=0.3))
    it.play(4, rate=80)
    it.takes = 0.3
    it.play(8, rate=250)
    it.slots = 4
    it.play(10, rate=250)
    it.slots, it.takes = 40, 0.02
    it.play(6, rate=80)
    return it


def _loop_lags() -> _Course:
    it = _Course(4, slots=20, takes=0.03)
    it.play(2, rate=100)
    it.lag, it.known = 0.03, True
    it.play(5, rate=500)
    it.own = 0.2
    it.play(3, rate=500)
    it.lag = 0.0
    it.play(3, rate=100)
    return it


def _many_kinds_one_slot() -> _Course:
    it = _Course(5, slots=1, takes=0.02, config=OverloadConfig(start=1))
    it.kinds = 300
    it.play(10, rate=20)
    it.play(5, rate=90)
    it.limiter.mode = Mode.SHADOW
    it.play(2, rate=90)
    it.limiter.mode = Mode.ENFORCE
    it.play(6, rate=5)
    return it


def _at_random(seed: int) -> _Course:
    """Change everything every second or two."""
    luck = random.Random(seed)  # noqa: S311 - as above
    it = _Course(
        seed, slots=8, takes=0.02, config=OverloadConfig(start=luck.choice([1, 4, 16, 64]))
    )
    for _ in range(14):
        it.slots = luck.choice([1, 2, 4, 8, 32, 64])
        it.takes = luck.choice([0.01, 0.02, 0.05, 0.2, 0.5])
        it.lag = luck.choice([0.0, 0.0, 0.01, 0.05])
        it.own = luck.choice([0.0, 0.6, 1.0])
        it.leave = luck.choice([1e9, 1e9, 0.3, 1.0])
        it.known = luck.random() < 0.3
        it.kinds = luck.choice([1, 4, 300])
        it.lost = luck.choice([Ending.ANSWERED, Ending.LOST, Ending.UNKNOWN, Ending.LEFT])
        it.play(luck.choice([0.5, 1.0, 3.0]), rate=luck.choice([2, 10, 40, 80, 150]))
    return it


def courses() -> Iterator[tuple[str, list[str]]]:
    """Play each course; its notes are all numbers of the limiter, four times a second."""
    for play in (_overload, _callers_leave, _slow_and_well_again, _loop_lags, _many_kinds_one_slot):
        yield play.__name__.strip("_").replace("_", " "), play().notes
    for seed in range(10, 18):
        yield f"at random {seed}", _at_random(seed).notes


if __name__ == "__main__":
    FILE.write_text(json.dumps(dict(courses()), indent=0) + "\n")
