"""Keeps a modest load on a service while things are done to it, and knows how users fare.

Open loop: arrivals come from a schedule. Half of them open a connection of their own.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from math import inf
from typing import Self

from ..load.arrivals import Meter, constant
from ..load.gate import percentile
from ..load.generator import Generator, Target
from ..load.mix import read_mix

__all__ = ["SLOW", "Users", "Window"]

_LONGEST = 3600.0  # seconds; an experiment that lasts longer is stuck
_TIMEOUT = 15.0
SLOW = 0.5
"""Seconds that no user should wait; a request in flight for longer counts though it has no end yet."""


@dataclass(frozen=True, slots=True)
class Window:
    """How users fared in some seconds."""

    count: int
    failed: int
    p99: float
    longest: float

    @property
    def error_share(self) -> float:
        """The share that failed; all, if no request was served."""
        return self.failed / self.count if self.count else 1.0


@dataclass(slots=True)
class Users:
    """Requests at a rate, from a thread of its own, for as long as the block lasts."""

    url: str
    token: str  # who they are; empty for no one
    rate: float = 50.0  # arrivals a second
    reads: Sequence[str] = ("/",)  # what is asked for in turn
    fault: str = ""  # what was done last; set by the code that does it
    meter: Meter = field(default_factory=lambda: Meter(cap=1000))
    _began: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread = field(init=False)
    _generator: Generator | None = None

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Send no more, and wait until every request has an end; again changes nothing."""
        self._stop.set()
        self._thread.join(_TIMEOUT + 45.0)

    def now(self) -> float:
        return time.perf_counter() - self._began

    def since(self, first: float, last: float = inf) -> Window:
        """Return the figures of requests that were meant to begin between two moments.

        One in flight counts with the time it has waited, once that is long.
        """
        now = self.now()
        ended = [sample for sample in tuple(self.meter.samples) if first <= sample.intended < last]
        waiting = [now - at for at in self._waiting() if first <= at < last and now - at > SLOW]
        dropped = sum(first <= at < last for at in tuple(self.meter.dropped))
        latencies = [sample.latency for sample in ended] + waiting
        return Window(
            count=len(latencies) + dropped,
            failed=sum(bool(sample.error) for sample in ended) + dropped,
            p99=percentile(latencies, 0.99),
            longest=max(latencies, default=0.0),
        )

    def is_well(self, since: float) -> bool:
        """Return whether users have been well for a second after a moment: none failed, and none waited long.

        The last half of a second is left out: who began there may still be waiting.
        """
        last = self.now() - SLOW
        second = self.since(last - 1.0, last)
        enough = last - since >= 1.0 and second.count >= self.rate / 2
        return enough and not second.failed and second.longest < SLOW

    def _waiting(self) -> Sequence[float]:
        """List when those were due that have no answer yet."""
        return self._generator.waiting() if self._generator is not None else ()

    def _moments(self) -> Iterator[float]:
        for moment in constant(self.rate, _LONGEST):
            if self._stop.is_set():
                return
            yield moment

    async def _run(self) -> None:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        target = Target(self.url, headers, alternating=True)
        generator = self._generator = Generator(target, self.meter, patience=_TIMEOUT, zero=self._began)
        try:
            await generator.send(self._moments(), cycle(read_mix(self.reads, None)))
            await generator.settle()
        finally:
            await generator.close()
