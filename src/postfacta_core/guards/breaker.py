"""Guard calls to a dependency by a circuit, which `_circuit` decides about."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any, ClassVar, Final

from ..clock import LUCK, MONOTONIC, Clock, Luck
from ..context import current_request
from ..errors import (
    BulkheadFullError,
    CircuitOpenError,
    LoadShedError,
    RateLimitExceededError,
    StoppedError,
)
from ..events import CircuitChanged, Mode, Observer, Sample, process_observer
from ..validation import validation
from ._circuit import (
    Circuit,
    CircuitConfig,
    CircuitState as CircuitState,
    CircuitStatistics as CircuitStatistics,
    Classification,
)
from ._guard import RAISE, BlockGuard, On, Outcome, asked_by

_ALL: Final = (Exception,)

# Our own refusals, and the end of the service: the dependency was not asked, or its answer not
# waited for.
_LOCAL: Final = (
    BulkheadFullError,
    CircuitOpenError,
    LoadShedError,
    RateLimitExceededError,
    StoppedError,
)
_Ticket = tuple[int, float] | None
News = tuple[str, Any]  # What happened: its kind and its subject.


class CircuitBreaker(BlockGuard):
    """Calls a dependency while it works, and refuses calls while it fails.

    * What `on` names is a failure. Refusals of our own policies, from below, are ignored: the
      dependency was not asked. Any other outcome is a success: it answered. A cancellation is no
      outcome.
    * For listeners and storages of pybreaker, see `postfacta_adapters.pybreaker.attach`.

    Args:
        config: When it opens and closes.
        on: Which outcomes are failures: types of errors, by default all; or a function of the
            `Outcome` that alone decides. If that raises, the call counts as a failure.
        mode: `SHADOW` counts what it would refuse, `OFF` does nothing.
        observer: Also receives state changes, in their order.
    """

    kind = "breaker"
    metric = "postfacta_breaker_calls_total"
    kinds: ClassVar[tuple[str, ...]] = ("success", "slow", "failure", "ignored", "rejected")

    def __init__(
        self,
        name: str,
        *,
        config: CircuitConfig | None = None,
        on: On = Exception,
        mode: Mode | str = Mode.ENFORCE,
        observer: Observer | None = process_observer,
        clock: Clock = MONOTONIC,
        luck: Luck = LUCK,
    ) -> None:
        super().__init__(name, mode=mode, observer=observer, clock=clock, luck=luck)
        config = CircuitConfig() if config is None else config
        validation.instance(
            "CircuitBreaker.config", config, CircuitConfig, example="CircuitConfig()"
        )
        self._act_on(on)
        self.config: CircuitConfig = config
        self._numbers = {number.name: getattr(config, number.name) for number in fields(config)}
        self._news: deque[News] = deque()
        self._telling = threading.Lock()
        self._transitions: dict[tuple[str, str], int] = {}
        self._circuit = Circuit(name, config, clock(), moved=self._note)
        # A view for code of pybreaker: its error, and what receives news.
        self._refusal: type[CircuitOpenError] = CircuitOpenError
        self._mirror: Callable[[News], None] | None = None
        self._announce()

    def status(self) -> Mapping[str, object]:
        """Return its state and rates."""
        now = self.statistics()
        shown = ("state", "calls", "failure_rate", "slow_call_rate", "retry_after")
        return {field: getattr(now, field) for field in shown}

    def open(self) -> None:
        """Open it, as if a threshold had been reached.

        Raise `ValueError` if it is forced open: reset it first.
        """
        with self._lock:
            self._circuit.open(self._clock(), self._luck())
        self._tell()

    def force_open(self) -> None:
        """Refuse all calls, until it is reset."""
        self._put(CircuitState.FORCED_OPEN)

    def reset(self) -> None:
        """Close it, with an empty window."""
        self._put(CircuitState.CLOSED)

    @property
    def era(self) -> int:
        """A number that changes with each change of state; for `fail_late`."""
        return self._circuit.era

    def fail_late(self, era: int, error: Exception) -> None:
        """Count a call that passed as a failure after all, such as a stream that stopped midway.

        It counts if the circuit has been closed since the call began, and `on` names the error.

        Args:
            era: The `era` when the call began.
            error: What the call ended with.
        """
        outcome = Outcome[Any](error=error)
        if self._mode is Mode.OFF or self._judge(outcome) != "failure":
            return
        with self._lock:
            self._counts["failure"] += 1
            if self._mirror is not None:
                self._news.append(("failure", error))
            self._circuit.fail_late(era, now=self._clock(), luck=self._luck())
        self._tell()

    def statistics(self) -> CircuitStatistics:
        """Return a snapshot of the circuit. Any thread may ask."""
        with self._lock:
            return self._circuit.statistics(self._clock())

    def collect(self) -> Iterator[Sample]:
        """Yield its counts, for metrics."""
        now = self.statistics().state
        for state in CircuitState:
            yield Sample("postfacta_breaker_state", (self.name, state), float(state is now))
        yield from super().collect()
        for (old, new), count in tuple(self._transitions.items()):
            yield Sample("postfacta_breaker_transitions_total", (self.name, old, new), count)

    def _arguments(self, numbers: dict[str, Any]) -> dict[str, Any]:
        return {"config": CircuitConfig(**numbers)}

    def _adopt(self, draft: CircuitBreaker) -> None:
        self.config = draft.config
        self._circuit.reconfigure(draft.config)

    def _mode_was_set(self) -> None:
        super()._mode_was_set()
        # Whether a call has more to do than to count itself, though the circuit is closed.
        self._heeds = self._mode is not Mode.ENFORCE or self._mirror is not None

    def _put(self, state: CircuitState) -> None:
        with self._lock:
            self._circuit.put(state, self._clock())
        self._tell()

    def _enter(self, function: object, args: object, kwargs: object) -> _Ticket:
        started = self._clock()
        if not self._heeds and (permit := self._circuit.pass_closed()):
            return permit, started
        if self._mode is Mode.OFF:
            return None
        retry_after = None
        with self._lock:
            if not (permit := self._circuit.enter(started)):
                self._counts["rejected"] += 1
                retry_after = self._circuit.retry_after(started)
            elif self._mirror is not None:
                self._news.append(("call", (function, args, kwargs)))
        self._tell()
        if not permit and self._mode is Mode.ENFORCE:
            raise self._refusal(self.name, retry_after)
        return (permit, started) if permit else None

    def _passed(self, ticket: _Ticket, result: Any) -> Any:
        if ticket is not None:
            outcome = None if self._predicate is None else Outcome(result)
            self._end(ticket, "success" if outcome is None else self._judge(outcome), outcome)
        return result

    def _failed(self, ticket: _Ticket, error: Exception) -> Any:
        if ticket is not None:
            outcome = Outcome[Any](error=error)
            self._end(ticket, self._judge(outcome), outcome)
        return RAISE

    def _dropped(self, ticket: _Ticket) -> None:
        if ticket is not None:
            self._end(ticket, "ignored", None)

    def _end(
        self, ticket: tuple[int, float], verdict: Classification, outcome: Outcome[Any] | None
    ) -> None:
        permit, started = ticket
        retry_after = 0.0
        if verdict == "failure" and outcome is not None:
            retry_after = self._ask(asked_by, outcome, otherwise=None) or 0.0
        self._acquire()
        try:
            if self._mirror is not None and verdict == "failure":
                self._news.append(("failure", outcome and outcome.error))
            now = self._clock()
            luck = self._luck()
            kind = self._circuit.leave(
                permit, verdict, started=started, now=now, luck=luck, retry_after=retry_after
            )
            self._counts[kind] += 1
            if self._mirror is not None and verdict == "success":
                self._news.append(("success", self._circuit.state is CircuitState.HALF_OPEN))
        finally:
            self._release()
        if self._news:
            self._tell()

    def _judge(self, outcome: Outcome[Any]) -> Classification:
        error = outcome.error
        is_local = isinstance(error, _LOCAL)
        if not (is_local and self._types == _ALL) and self._acts_on(outcome, otherwise=True):
            # Its caller gave it less time than the service does: that says nothing about the
            # dependency.
            request = current_request()
            is_callers = request is not None and request.is_out_of_callers_time(request.age())
            return "ignored" if is_callers else "failure"
        return "ignored" if is_local else "success"

    def _note(self, move: CircuitChanged) -> None:
        # Under the lock; foreign code is called outside of it.
        self._transitions[move.old, move.new] = self._transitions.get((move.old, move.new), 0) + 1
        self._news.append(("move", move))

    def _tell(self) -> None:
        # One thread at a time reports news, in their order; the others leave theirs to it and go
        # on.
        while self._news and self._telling.acquire(blocking=False):
            try:
                while self._news:
                    news = self._news.popleft()
                    if news[0] == "move":
                        self._observe(news[1])
                    if self._mirror is not None:
                        self._mirror(news)
            finally:
                self._telling.release()
