"""Run as many calls at once as are proved to end in time, by the limiter that serves requests."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from ..clock import LUCK, MONOTONIC, Clock, Luck
from ..context import add_wait, current_request
from ..deadlines.present import time_to_wait
from ..errors import LoadShedError
from ..events import Mode, Observer, Sample, process_observer
from ..limits._overload import Ending, OverloadConfig, OverloadLimiter
from ..limits._waiting import ADMIT, Priority, Shed, Wait
from ..validation import validation
from ._guard import RAISE, BlockGuard, On, Outcome, innermost
from ._waits import Waiting, Wake

_Ticket = tuple[float, int] | None  # When a call was admitted, and its kind.


class AdaptiveLimiter(BlockGuard):
    """Find out how many calls may run at once, let a burst wait, and refuse the rest.

    A `Bulkhead` of unknown slots.

    * Calls of one function take about as long as each other; all blocks together are one kind.
    * A call has the `Priority` of its request: higher ones go first, and lower ones may use only a
      part of the limit.
    * A call waits no longer than its request or an outer `Timeout` gives it.
    * A call that was cancelled, or failed, is no answer: it counts at the age that it had, if that
      is late.

    Args:
        config: What it starts from; nothing needs setting.
        on: Which outcomes are no answers: types of errors, by default all; or a function of the
            `Outcome` that decides.
        mode: `SHADOW` counts what it would refuse or hold up, `OFF` does nothing.
    """

    kind = "limiter"
    _may_wait = True

    def __init__(
        self,
        name: str,
        config: OverloadConfig | None = None,
        *,
        on: On = Exception,
        mode: Mode | str = Mode.ENFORCE,
        observer: Observer | None = process_observer,
        clock: Clock = MONOTONIC,
        luck: Luck = LUCK,
    ) -> None:
        super().__init__(name, mode=mode, observer=observer, clock=clock, luck=luck)
        if config is not None:
            validation.instance(
                "AdaptiveLimiter.config", config, OverloadConfig, example="OverloadConfig()"
            )
        self._act_on(on)
        self._limiter = OverloadLimiter(name, config)
        self._announce()

    def status(self) -> Mapping[str, object]:
        """Return its present limit, how many calls are under way, and how many wait."""
        limiter = self._limiter
        return {
            "limit": int(limiter.limit),
            "in_flight": limiter.in_flight,
            "waiting": limiter.waiting,
        }

    def collect(self) -> Iterable[Sample]:
        """Return its counts, for metrics: those of the limiter of `harden`."""
        with self._lock:
            self._limiter.beat(self._clock())
            return list(self._limiter.tally())

    def _mode_was_set(self) -> None:
        self._limiter.mode = self._mode

    def _enter(self, function: Any, args: Any, kwargs: Any) -> _Ticket | Waiting[_Ticket]:
        if self._mode is Mode.OFF:
            return None
        request = current_request()
        kind = 0
        priority = Priority.CRITICAL if request is None else request.priority
        if function is not None:
            # Closures of one line of code are one kind.
            kind = id(getattr(innermost(function, args, kwargs)[0], "__code__", None))
        now = self._clock()
        with self._lock:
            decision = self._limiter.arrive(priority, now, luck=self._luck())
        if isinstance(decision, Wait):
            return partial(self._wait, decision, kind)
        return self._refuse(decision) if isinstance(decision, Shed) else (now, kind)

    def _refuse(self, shed: Shed) -> _Ticket:
        if self._mode is Mode.ENFORCE:
            raise LoadShedError(self.name, shed.retry_after)
        return None

    def _wait(self, place: Wait, kind: int, wake: Wake) -> Generator[float, None, _Ticket]:
        def decided() -> None:
            # If its event loop is closed, it gives back what it has when its coroutine is closed.
            with suppress(RuntimeError):
                wake()

        now = self._clock()
        left = time_to_wait(place.until - now)
        with self._lock:
            place.wake = decided
            is_undecided = place.verdict is None
        try:
            if is_undecided and left > 0:
                yield left
        except BaseException:
            with self._lock:
                if self._limiter.give_up(place, self._clock()) is ADMIT:
                    self._limiter.finish(self._clock(), place.decided, Ending.UNKNOWN)
            raise
        finally:
            add_wait(self._clock() - place.since)
        with self._lock:
            verdict = self._limiter.give_up(place, self._clock())
        return self._refuse(verdict) if isinstance(verdict, Shed) else (place.decided, kind)

    def _passed(self, ticket: _Ticket, result: Any) -> Any:
        self._finish(ticket, None if self._predicate is None else Outcome(result))
        return result

    def _failed(self, ticket: _Ticket, error: Exception) -> Any:
        self._finish(ticket, Outcome(error=error))
        return RAISE

    def _dropped(self, ticket: _Ticket) -> None:
        self._finish(ticket, None, Ending.LOST)

    def _finish(
        self, ticket: _Ticket, outcome: Outcome[Any] | None, ending: Ending = Ending.ANSWERED
    ) -> None:
        if ticket is not None:
            if outcome is not None and self._acts_on(outcome, otherwise=True):
                ending = Ending.LOST
            with self._lock:
                self._limiter.finish(self._clock(), ticket[0], ending, ticket[1])
