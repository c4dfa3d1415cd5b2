"""Decide from the outcomes of recent calls whether a dependency may be called.

              too many failed, or were slow
    closed ──────────────────────────────────> open <─────────────────┐
      ^                                          │  its wait is over,  │  too many trials failed,
      │                                          v  and a call comes   │  were slow, or one hung
      └──────────────────────────────────── half_open ─────────────────┘
              the trials were good enough

By hand it becomes, from anywhere, closed anew or `forced_open`, which refuses all. A move that time
brings is made when the circuit is next asked anything, and dated to the moment it was due.

1. A permit of a state that is past, or of a trial that is over, moves nothing. An ignored call,
   such as a cancelled one, counts for nothing and returns its permit.
2. In half_open there is one trial at a time. Trials are judged by the rates that opened the
   circuit; it opens again as soon as the rest of the trials can no longer bring a rate below its
   threshold.
3. half_open has an end. If a trial is still out then, or none was made, it opens again. Else those
   made decide.
4. A call that is older than an age counts no more. Its going raises no rate by itself: the next
   call is judged.
5. Each opening in a row waits longer, up to a maximum; so it does if the dependency asks for it
   (Retry-After).
6. A call that passed may fail late, such as a stream that stops in its middle. It counts while the
   circuit is closed, and has been since the call began: one of before a recovery opens nothing.

The names of states and options are those of resilience4j 2. Moments are monotonic. Several threads
must hold a lock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from ..backoff import Backoff
from ..events import CircuitChanged
from ..validation import validation

REFUSED: Final = 0  # The permit of a call that is not admitted.
_SOON: Final = 1.0  # While a trial is out, it is unknown when the next may be made.


Classification = Literal["success", "failure", "ignored"]


class CircuitState(StrEnum):
    """The state of a circuit."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"


_CLOSED, _OPEN, _HALF_OPEN, _FORCED_OPEN = CircuitState

# What a window remembers of a call, in bits, and what it counts as.
_FAILED: Final = 1
_SLOW: Final = 2
_KINDS: Final = ("success", "failure", "slow", "failure")


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitConfig:
    """When a circuit opens and closes. Rates are fractions: half is 0.5.

    Attributes:
        failure_rate_threshold: It opens when this part of the calls in the window failed; above 0,
            up to 1.
        slow_call_rate_threshold: Or when this part was slow, failed or not.
        slow_call_duration: Seconds from which a call is slow.
        sliding_window_size: How many of the last calls count, up to 10,000.
        sliding_window_max_age: Seconds after which a call counts no more, so that rare calls are
            not judged by failures of hours ago; `math.inf` for no such bound. It must hold
            `minimum_number_of_calls` for the circuit to open.
        minimum_number_of_calls: The fewest calls in the window for a rate to mean anything.
        wait_duration_in_open_state: Seconds for which it refuses after the first opening.
        wait_multiplier: How much longer each wait is than the one before; 1 keeps it.
        wait_jitter: The largest fraction that is taken off a wait, so that instances do not retry
            together; below 1.
        max_wait_duration_in_open_state: The longest wait.
        permitted_number_of_calls_in_half_open_state: How many trials are made, one after another.
        max_wait_duration_in_half_open_state: Seconds for all of them.
    """

    failure_rate_threshold: float = 0.5
    slow_call_rate_threshold: float = 1.0
    slow_call_duration: float = 60.0
    sliding_window_size: int = 100
    # Polly's default is 30 s, and Failsafe's example a minute. Two minutes hold the 20 calls of one
    # each 6 s.
    sliding_window_max_age: float = 120.0
    minimum_number_of_calls: int = 20
    wait_duration_in_open_state: float = 5.0
    wait_multiplier: float = 2.0
    wait_jitter: float = 0.2
    max_wait_duration_in_open_state: float = 60.0
    permitted_number_of_calls_in_half_open_state: int = 3
    max_wait_duration_in_half_open_state: float = 30.0

    def __post_init__(self) -> None:
        def check(rule: Callable[..., object], *fields: str, **bounds: object) -> None:
            for field in fields:
                rule(f"CircuitConfig.{field}", getattr(self, field), **bounds)

        first = "wait_duration_in_open_state"
        longest = "max_wait_duration_in_open_state"
        rates = ("failure_rate_threshold", "slow_call_rate_threshold")
        check(validation.number, *rates, above=0, at_most=1, example="0.5, which is 50 %")
        counts = ("minimum_number_of_calls", "permitted_number_of_calls_in_half_open_state")
        check(validation.whole, *counts, example="3")
        check(validation.whole, "sliding_window_size", at_most=10_000, example="100")
        seconds = ("slow_call_duration", first, longest, "max_wait_duration_in_half_open_state")
        check(validation.seconds, *seconds)
        check(validation.seconds, "sliding_window_max_age", finite=False)
        check(validation.number, "wait_multiplier", at_least=1, example="2.0")
        check(validation.number, "wait_jitter", at_least=0, below=1, example="0.2")
        least = self.wait_duration_in_open_state
        most = self.max_wait_duration_in_open_state
        if most < least:
            rule = f"at least {first}, {least:g}"
            validation.refuse(f"CircuitConfig.{longest}", most, rule, example="60.0")

    def wait(self, opening: int, luck: float) -> float:
        """Return the seconds to refuse after a number of openings in a row, spread by `luck`."""
        first = self.wait_duration_in_open_state
        longest = self.max_wait_duration_in_open_state
        waits = Backoff(base=first, cap=longest, multiplier=self.wait_multiplier)
        return waits.delay(opening, self.wait_jitter * luck)


@dataclass(frozen=True, slots=True)
class CircuitStatistics:
    """A snapshot: the calls are those in the window, or those that opened the circuit.

    Rates are from 0 to 1.
    """

    state: CircuitState
    since: float
    calls: int
    failures: int
    slow_calls: int
    failure_rate: float
    slow_call_rate: float
    retry_after: float | None  # None if it does not refuse, or that is unknown.


class _Window:
    def __init__(self, size: int, max_age: float = math.inf) -> None:
        self.calls = self.failures = self.slow = 0
        self._size = size
        self._max_age = max_age
        self._marks: deque[int] = deque()
        self._ended: deque[float] = deque()

    def add(self, mark: int, now: float) -> bool:
        """Add a call; return whether that can have raised a rate."""
        ended = self._ended
        has_aged = bool(ended) and ended[0] <= now - self._max_age
        if has_aged:
            self.forget(now)
        self._marks.append(mark)
        ended.append(now)
        old = 0
        if self.calls < self._size:
            self.calls += 1
        else:
            ended.popleft()
            old = self._marks.popleft()
            if old == mark:
                return has_aged
        self.failures += (mark & _FAILED) - (old & _FAILED)
        self.slow += (mark >> 1) - (old >> 1)
        return True

    def fail(self, now: float) -> None:
        """Turn the newest call that passed into a failure; where there is none, add a failure."""
        self.forget(now)
        for back, mark in enumerate(reversed(self._marks), 1):
            if not mark & _FAILED:
                self._marks[-back] = mark | _FAILED
                self.failures += 1
                return
        self.add(_FAILED, now)

    def forget(self, now: float) -> None:
        """Remove the calls that are too old."""
        oldest = now - self._max_age
        while self._ended and self._ended[0] <= oldest:
            self._ended.popleft()
            mark = self._marks.popleft()
            self.calls -= 1
            self.failures -= mark & _FAILED
            self.slow -= mark >> 1


def _window_of(config: CircuitConfig) -> tuple[int, float]:
    return config.sliding_window_size, config.sliding_window_max_age


class Circuit:
    """A circuit.

    `moved` is called with each state change, after it: it must not raise, nor call the circuit.
    """

    def __init__(
        self,
        name: str,
        config: CircuitConfig,
        now: float,
        *,
        moved: Callable[[CircuitChanged], object],
    ) -> None:
        self.state: CircuitState = _CLOSED
        self._name = name
        self._moved = moved
        self._configure(config)
        self._generation = 1
        self._trial_is_out = False
        self._luck = 0.0
        self._try_out()
        # Of open: until when it refuses. Of half_open: when it ends.
        self._until = self._held_until = -math.inf
        self._begin(now)

    def reconfigure(self, config: CircuitConfig) -> None:
        """Judge by other numbers from the next call on; a window of another size begins empty."""
        former = self._config
        self._configure(config)
        if _window_of(former) != _window_of(config):
            self._window = _Window(*_window_of(config))

    def _configure(self, config: CircuitConfig) -> None:
        self._config = config
        # A window never holds more than its size.
        self._enough = min(config.minimum_number_of_calls, config.sliding_window_size)
        self._slow_after = config.slow_call_duration

    def _try_out(self) -> None:
        self._trials_needed = self._config.permitted_number_of_calls_in_half_open_state
        self._trials = _Window(self._trials_needed)

    @property
    def era(self) -> int:
        """The present generation: that of a permit which is taken now, while it is closed."""
        return self._generation

    def pass_closed(self) -> int:
        """Take a permit if it is closed, else `REFUSED`, which means: ask `enter`.

        It needs no lock.
        """
        # In this order: if a move comes between, the permit is of the state before, and moves
        # nothing.
        permit = self._generation
        return permit if self.state is _CLOSED else REFUSED

    def enter(self, now: float) -> int:
        """Ask for a permit, which must come back by `leave`; `REFUSED` if there is none."""
        self._settle(now)
        if self.state is _OPEN and now >= self._until:
            self._move(_HALF_OPEN, now, "wait_over")
            self._until = now + self._config.max_wait_duration_in_half_open_state
        if self.state in {_OPEN, _FORCED_OPEN} or self._trial_is_out:
            return REFUSED
        if self.state is _HALF_OPEN:
            self._trial_is_out = True
            self._generation += 1
        return self._generation

    def leave(
        self,
        permit: int,
        outcome: Classification,
        *,
        started: float,
        now: float,
        luck: float,
        retry_after: float = 0.0,
    ) -> str:
        """Take a permit back, and return what its call counts as.

        A failure may ask for a pause of `retry_after` seconds.
        """
        if self.state is _HALF_OPEN:
            self._settle(now)
        is_of_now = permit == self._generation
        if outcome == "ignored":
            self._trial_is_out = self._trial_is_out and not is_of_now
            return "ignored"
        mark = _FAILED if outcome == "failure" else 0
        if now >= started + self._slow_after:
            mark |= _SLOW
        if is_of_now:
            if retry_after > 0:
                wait = min(retry_after, self._config.max_wait_duration_in_open_state)
                self._held_until = max(self._held_until, now + wait)
            if self.state is not _CLOSED:
                self._end_trial(mark, now, luck)
            elif (window := self._window).add(mark, now) and window.calls >= self._enough:
                self._judge(window, window.calls, now=now, luck=luck)
        return _KINDS[mark]

    def fail_late(self, era: int, *, now: float, luck: float) -> None:
        """Count a call that began in an era, and passed, as a failure after all."""
        if self.state is not _CLOSED or era != self._generation:
            return
        window = self._window
        window.fail(now)
        if window.calls >= self._enough:
            self._judge(window, window.calls, now=now, luck=luck)

    def _end_trial(self, mark: int, now: float, luck: float) -> None:
        if self._trial_is_out:
            self._trial_is_out = False
            self._trials.add(mark, now)
            self._judge(self._trials, self._trials_needed, now=now, luck=luck)

    def open(self, now: float, luck: float) -> None:
        """Open it, as if a threshold had been reached, unless it is.

        Raise if it is held by hand.
        """
        self._settle(now)
        if self.state is _FORCED_OPEN:
            raise ValueError(
                "a circuit that is forced_open cannot become open: put it to closed first"
            )
        if self.state is not _OPEN:
            self._open(now, luck, "by_hand")

    def put(self, state: CircuitState, now: float) -> None:
        self._settle(now)
        if self.state is state is _CLOSED:
            # Calls under way do not count in the new window.
            self._generation += 1
            self._begin(now)
        elif self.state is not state:
            self._move(state, now, "by_hand")

    def retry_after(self, now: float) -> float | None:
        self._settle(now)
        if self.state is _OPEN:
            return max(0.0, self._until - now)
        return min(_SOON, self._until - now) if self._trial_is_out else None

    def statistics(self, now: float) -> CircuitStatistics:
        self._settle(now)
        window = self._window
        if self.state is _CLOSED:
            window.forget(now)
        calls = max(1, window.calls)
        rates = (window.failures / calls, window.slow / calls)
        counts = (window.calls, window.failures, window.slow)
        return CircuitStatistics(self.state, self._since, *counts, *rates, self.retry_after(now))

    def _judge(self, calls: _Window, of: int, *, now: float, luck: float) -> None:
        """Open it if a rate is reached; else close it if all of its trials are made."""
        config = self._config
        are_trials = calls is self._trials
        # Divided, and not the threshold multiplied: 7 of 100 are 0.07, but 0.07 times 100 is more
        # than 7.
        if calls.failures / of >= config.failure_rate_threshold:
            self._open(now, luck, "trial_failed" if are_trials else "failures")
        elif calls.slow / of >= config.slow_call_rate_threshold:
            self._open(now, luck, "trial_slow" if are_trials else "slow_calls")
        elif are_trials and calls.calls >= of:
            self._move(_CLOSED, now, "trials_passed")

    def _settle(self, now: float) -> None:
        if self.state is not _HALF_OPEN or now < self._until:
            return
        if self._trials.calls > 0 and not self._trial_is_out:
            # Fewer calls came than trials were wanted: those made decide.
            self._judge(self._trials, self._trials.calls, now=self._until, luck=self._luck)
        else:
            # A trial that hangs has no random number of its own: that of the opening before it is
            # used.
            self._open(self._until, self._luck, "trial_hung")

    def _open(self, now: float, luck: float, reason: str) -> None:
        self._move(_OPEN, now, reason)
        self._luck = luck
        self._openings += 1
        self._until = max(now + self._config.wait(self._openings, luck), self._held_until)

    def _move(self, new: CircuitState, at: float, reason: str) -> None:
        old = self.state
        self.state = new
        self._since = at
        self._generation += 1
        self._try_out()
        self._trial_is_out = False
        if new is _CLOSED:
            self._begin(at)
        self._moved(CircuitChanged(self._name, old, new, at, reason))

    def _begin(self, now: float) -> None:
        self._window = _Window(*_window_of(self._config))
        self._since = now
        self._openings = 0
        self._held_until = -math.inf
