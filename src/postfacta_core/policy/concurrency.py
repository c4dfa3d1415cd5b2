"""Decide whether a request may start, waits a moment, or is shed.

1. So many requests may be under way as the limit says. The limit follows what is measured: each time a window of
   requests has ended, a strategy (`policy.concurrency_limits`) gives the next one.
2. A request that began before the limit last changed says nothing about the new limit, and is not counted for it.
3. The limit only grows while at least half of it is used, or somebody had to wait: what nobody needs proves nothing.
4. Who finds no room stands in a short queue, about 2 * sqrt(limit) long. If that has not been empty for
   `queue_interval`, this is no burst but overload: then the wait is cut to `queue_target`, the newest goes first, and
   the oldest makes place for him, since his caller has probably given up. (CoDel: Nichols and Jacobson, "Controlling
   Queue Delay", ACM Queue 2012; with the adaptive LIFO of Maurer, "Fail at Scale", ACM Queue 2015.)
5. Who matters more goes first, and who matters less may use less of the limit: he is shed first. While the event loop
   lags he may use less still. The most critical have a reserve above the limit.
6. All of this is O(1) for a request, on average.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from math import log
from typing import Final, Protocol

from ..events import Mode, Outcome, Sample

__all__ = [
    "ADMIT",
    "AdaptiveLimiter",
    "Admit",
    "LimitStrategy",
    "LimiterConfig",
    "Priority",
    "Shed",
    "Wait",
    "Window",
]

# What share of the limit each priority may use; the second row counts while the loop lags.
_SHARES: Final = ((1.0, 1.0, 0.9, 0.8), (1.0, 1.0, 0.75, 0.5))
# Enough requests for a mean that means something, and not so many that a window outlasts its use.
_FEWEST, _MOST = 10, 50
# How much one admission, and one beat of the loop's heart, count for the lag as it is now.
_OF_ADMISSION, _OF_BEAT = 0.1, 0.5
# A coarse clock may see no time pass, and nothing has no logarithm.
_SHORTEST: Final = 1e-6


class Priority(IntEnum):
    """How much a request matters; the names are those of "Site Reliability Engineering" (Google, chapter 21)."""

    CRITICAL_PLUS = 0
    CRITICAL = 1
    SHEDDABLE_PLUS = 2
    SHEDDABLE = 3


@dataclass(frozen=True, slots=True)
class Admit:
    """The request may start now; `AdaptiveLimiter.finish` must follow in any case."""


@dataclass(frozen=True, slots=True)
class Shed:
    """The request is refused; a new try makes sense after so many seconds."""

    retry_after: float


ADMIT: Final = Admit()


class Wait:
    """A request's place in the queue.

    Attributes:
        priority: The request's.
        since: When it came.
        until: When it has waited long enough, and is to `give_up`.
        verdict: What became of it; None while it waits.
        decided: When that was.
        wake: Called when there is a verdict; to be set before anything else is asked of the limiter.
    """

    __slots__ = ("decided", "priority", "shed", "since", "until", "verdict", "wake")

    def __init__(self, priority: int, since: float, until: float, *, shed: Shed) -> None:
        self.priority: int = priority
        self.since: float = since
        self.until: float = until
        self.shed: Shed = shed
        self.verdict: Admit | Shed | None = None
        self.decided: float = since
        self.wake: Callable[[], object] = _nobody


@dataclass(frozen=True, slots=True)
class Window:
    """What some requests that ended one after another had in common.

    Attributes:
        latency: Seconds from admission to the end, as the geometric mean: a few slow requests among many quick
            ones, or the other way round, hardly move it, and a delay that all of them share does.
        lag: Seconds from admission until the event loop got to it, as the mean.
        rate: Requests that ended a second, those that began before the limit last changed too; 0 if not known.
        dropped: The share of them that ran out of time.
        used: The most requests under way or waiting, as a share of the limit; at least 1 if any had to wait.
    """

    latency: float
    lag: float
    rate: float
    dropped: float
    used: float


class LimitStrategy(Protocol):
    """Finds the next limit."""

    def resize(self, limit: float, window: Window, now: float) -> float:
        """Return the limit that follows from what was measured under the present one."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LimiterConfig:
    """The bounds within which a limiter decides. Times are in seconds.

    Attributes:
        start: The limit at first. A service that serves more at once from its first second on starts higher.
        minimum: The limit never falls below it, so that there is always something to measure.
        maximum: The limit never grows above it.
        queue_interval: The longest wait, and how long a burst may keep the queue from being empty.
        queue_target: The longest wait once it is no burst.
        lag: From this lag of the event loop on, the sheddable may use less of the limit.
        retry_after: What the shed are told: whole seconds from this up to three times as much, by luck.
    """

    start: int = 100
    minimum: int = 4
    maximum: int = 1000
    queue_interval: float = 0.1
    queue_target: float = 0.02
    lag: float = 0.05
    retry_after: int = 1

    def __post_init__(self) -> None:
        times = (self.queue_interval, self.queue_target, self.lag)
        if not 1 <= self.minimum <= self.start <= self.maximum or self.retry_after < 1:
            msg = f"needs 1 <= minimum <= start <= maximum, and to retry after 1 second or more: {self}"
            raise ValueError(msg)
        # Each for itself: min() and max() pass over a nan.
        if not all(0 < seconds < math.inf for seconds in times) or self.queue_target > self.queue_interval:
            msg = f"needs times above 0, and a queue_target of at most the queue_interval: {self}"
            raise ValueError(msg)


class AdaptiveLimiter:
    """How many requests may be under way, whom to let wait, and whom to shed.

    It belongs to one event loop, whose single thread is its lock.

    Args:
        name: Its metric label.
        strategy: Finds the limit; it belongs to this limiter alone, since it remembers.
        config: The bounds.

    Attributes:
        mode: In `shadow` nobody waits: who would, counts as shed. `off` is for the runner to heed.
        limit: The present one; what counts is its whole part.
        in_flight: Requests admitted that have not finished.
    """

    def __init__(self, name: str, strategy: LimitStrategy, config: LimiterConfig | None = None) -> None:
        self.name = name
        self.limit: float = 0.0
        self.in_flight: int = 0
        self._strategy = strategy
        self._config = config = config or LimiterConfig()
        self._sheds = tuple(Shed(float(n)) for n in range(config.retry_after, 3 * config.retry_after + 1))
        self._queues = tuple(OrderedDict[Wait, None]() for _ in Priority)
        self._waiting = 0
        self._waiting_since = 0.0
        self._lag = 0.0
        self._late_from = config.lag
        self._is_late = False
        self._changed_at = -math.inf
        self._counts = {mode: ([0] * len(Priority), [0] * len(Priority)) for mode in Mode}
        self.mode = Mode.ENFORCE
        self._queue_seconds = 0.0
        self._peak = 0
        self._set_limit(config.start)
        self._open_window(-math.inf)

    @property
    def mode(self) -> Mode:
        """How the decisions are used; see above."""
        return self._mode

    @mode.setter
    def mode(self, new: Mode) -> None:
        self._mode = new
        self._admitted, self._shed = self._counts[new]

    @property
    def waiting(self) -> int:
        """The requests in the queue."""
        return self._waiting

    def arrive(self, priority: int, now: float, *, luck: float = 0.0) -> Admit | Wait | Shed:
        """Decide about a request.

        Args:
            priority: A `Priority`, or its number.
            now: The moment it came.
            luck: From 0 up to, not including, 1; spreads what the shed are told.
        """
        if self._waiting:
            self._hand_over(now)
        if self.in_flight < self._rooms[priority]:
            self._count_in(priority)
            return ADMIT
        self._had_to_wait = True
        shed = self._sheds[int(luck * len(self._sheds))]
        if self._mode is Mode.SHADOW or not self._make_place(priority, now):
            self._shed[priority] += 1
            return shed
        if not self._waiting:
            self._waiting_since = now
        config = self._config
        patience = config.queue_target if self._is_overloaded(now) else config.queue_interval
        wait = Wait(priority, now, now + patience, shed=shed)
        self._queues[priority][wait] = None
        self._waiting += 1
        return wait

    def start(self, now: float, admitted: float) -> None:
        """Take note that an admitted request begins to run, which tells how late the event loop is."""
        lag = now - admitted
        if admitted >= self._changed_at:
            self._lags += lag
            self._started += 1
        self._lag += (lag - self._lag) * _OF_ADMISSION
        if (self._lag >= self._late_from) is not self._is_late:
            self._share_out()

    def finish(self, now: float, admitted: float, outcome: Outcome) -> None:
        """Take back the slot of an admitted request.

        Args:
            now: The moment it ended.
            admitted: The moment it was admitted.
            outcome: `FAILURE` if it ran out of time; `IGNORED` if its length says nothing, such as a cancelled
                one, or one that failed for a reason of its own.
        """
        self.in_flight -= 1
        if outcome is not Outcome.IGNORED:
            self._served += 1
            if admitted >= self._changed_at:
                self._ended += 1
                self._logs += log(now - admitted + _SHORTEST)
                if outcome is Outcome.FAILURE:
                    self._dropped += 1
                if self._ended >= self._window:
                    self._close_window(now)
        if self._waiting:
            self._hand_over(now)

    def resume(self) -> None:
        """Count in again a request that had finished for a while, as it waited for its client; there may be no room."""
        self.in_flight += 1
        self._peak = max(self._peak, self.in_flight)

    def give_up(self, wait: Wait, now: float) -> Admit | Shed:
        """End a wait; what comes back is final.

        A caller that wants the slot no longer, because it was cancelled, hands one back by `finish`.
        """
        if wait.verdict is None:
            self._decide(wait, wait.shed, now)
        return wait.verdict or wait.shed

    def lagged(self, seconds: float) -> None:
        """Take note of how late the event loop is, as `aio.looplag` found it."""
        self._lag += (seconds - self._lag) * _OF_BEAT
        if (self._lag >= self._late_from) is not self._is_late:
            self._share_out()

    def tally(self) -> Iterator[Sample]:
        """Read the numbers for the metrics."""
        label = (self.name,)
        yield Sample("postfacta_limiter_limit", label, float(int(self.limit)))
        yield Sample("postfacta_limiter_inflight", label, float(self.in_flight))
        yield Sample("postfacta_limiter_queued", label, float(self._waiting))
        yield Sample("postfacta_limiter_queue_time_seconds_total", label, self._queue_seconds)
        for mode in (Mode.ENFORCE, Mode.SHADOW):
            for decision, counts in zip(("admitted", "shed"), self._counts[mode], strict=True):
                for priority, count in zip(Priority, counts, strict=True):
                    labels = (self.name, priority.name.lower(), decision, mode.value)
                    yield Sample("postfacta_limiter_decisions_total", labels, float(count))

    def _count_in(self, priority: int) -> None:
        self.in_flight += 1
        if self.in_flight > self._peak:  # noqa: PLR1730 - max() is a call, for each request
            self._peak = self.in_flight
        self._admitted[priority] += 1

    def _is_overloaded(self, now: float) -> bool:
        return self._waiting > 0 and now >= self._waiting_since + self._config.queue_interval

    def _make_place(self, priority: int, now: float) -> bool:
        if self._waiting < self._places:
            return True
        lowest = next(queue for queue in reversed(self._queues) if queue)
        oldest = next(iter(lowest))
        if oldest.priority < priority or (oldest.priority == priority and not self._is_overloaded(now)):
            return False
        self._decide(oldest, oldest.shed, now)
        return True

    def _hand_over(self, now: float) -> None:
        while (queue := next((queue for queue in self._queues if queue), None)) is not None:
            wait = next(reversed(queue) if self._is_overloaded(now) else iter(queue))
            if now >= wait.until:
                self._decide(wait, wait.shed, now)
            elif self.in_flight < self._rooms[wait.priority]:
                self._decide(wait, ADMIT, now)
            else:
                return

    def _decide(self, wait: Wait, verdict: Admit | Shed, now: float) -> None:
        del self._queues[wait.priority][wait]
        self._waiting -= 1
        wait.verdict, wait.decided = verdict, now
        if verdict is ADMIT:
            self._count_in(wait.priority)
            self._queue_seconds += now - wait.since
        else:
            self._shed[wait.priority] += 1
        wait.wake()

    def _open_window(self, now: float) -> None:
        self._opened = now
        self._ended = self._started = self._served = 0
        self._logs = self._lags = 0.0
        self._dropped = 0
        self._peak = self.in_flight
        self._had_to_wait = self._waiting > 0

    def _close_window(self, now: float) -> None:
        used = self._peak / int(self.limit)
        window = Window(
            latency=math.exp(self._logs / self._ended),
            lag=self._lags / max(1, self._started),
            rate=self._served / max(now - self._opened, _SHORTEST),
            dropped=self._dropped / self._ended,
            used=max(1.0, used) if self._had_to_wait else used,
        )
        limit = self._strategy.resize(self.limit, window, now)
        if window.used < 0.5:  # noqa: PLR2004 - rule 3
            limit = min(limit, self.limit)
        before = int(self.limit)
        self._set_limit(limit)
        if int(self.limit) != before:
            self._changed_at = now
        self._open_window(now)

    def _set_limit(self, limit: float) -> None:
        self.limit = min(max(limit, self._config.minimum), self._config.maximum)
        self._window = min(max(_FEWEST, int(self.limit / 5)), _MOST)
        self._places = round(2 * math.sqrt(self.limit))
        self._share_out()

    def _share_out(self) -> None:
        limit = int(self.limit)
        self._is_late = self._lag >= self._late_from
        shares = _SHARES[self._is_late]
        self._rooms = [max(1, int(limit * share)) for share in shares]
        self._rooms[Priority.CRITICAL_PLUS] = limit + math.ceil(math.sqrt(limit))


def _nobody() -> None:
    """Wake nobody."""
