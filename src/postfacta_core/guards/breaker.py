"""Guard calls to a dependency by a circuit: `guards._circuit` decides, and pybreaker mirrors it."""

from __future__ import annotations

import inspect
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextvars import ContextVar
from functools import wraps
from types import TracebackType
from typing import Any, Final, ParamSpec, TypeVar, cast

import pybreaker

from .._functions import answer_of, is_async, must_be_guardable
from ..clock import LUCK, MONOTONIC, Clock, Luck
from ..context import current_request
from ..errors import (
    BulkheadFullError,
    CircuitOpenError,
    DrainingError,
    LoadShedError,
    RateLimitExceededError,
    ResilienceError,
    StoppedError,
)
from ..events import (
    CircuitChanged,
    ListenerFailed,
    Mode,
    ModeChanged,
    Observer,
    Outcome,
    PolicyCreated,
    Sample,
    observing,
    process_observer,
)
from ..validation import validation
from ._breaker_book import Book, Listener, Storage
from ._circuit import REFUSED, CallKind, Circuit, CircuitConfig, CircuitState, CircuitStatistics

__all__ = ["BreakerOpenError", "CircuitBreaker"]

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_KINDS: Final[tuple[CallKind, ...]] = ("success", "slow", "failure", "ignored", "rejected")
_SUCCESS, _FAILURE, _IGNORED = Outcome
_CLOSED: Final = CircuitState.CLOSED

# Our own refusals, and the end of the service: the dependency was not asked, or its answer not waited for.
_LOCAL: Final = (
    pybreaker.CircuitBreakerError,
    BulkheadFullError,
    DrainingError,
    LoadShedError,
    RateLimitExceededError,
    StoppedError,
)
# The blocks entered in this context and not left yet: breaker, permit, start, and those entered before.
_entered: ContextVar[Any] = ContextVar("postfacta_breakers_entered", default=None)


def _retry_after_of(error: Exception) -> float | None:
    return error.retry_after if isinstance(error, ResilienceError) else None


def _block() -> None:
    """The body of a with block, as listeners get it."""


class BreakerOpenError(CircuitOpenError, pybreaker.CircuitBreakerError):
    """The circuit is open; caught as this library's error and as pybreaker's."""


class CircuitBreaker:
    """Calls a dependency while it works, and refuses calls while it fails.

    It guards by `await call(...)`, `call_sync(...)`, as a decorator of functions and async functions, and as a
    context manager, `with` or `async with`. One object serves all tasks and threads. A block must be left in the
    context (task or thread) in which it was entered, and blocks of one context must nest.

    * An `Exception` that `failures` names is a failure. Refusals of our own policies, from below, are ignored: the
      dependency was not asked. Any other exception is a success: it answered.
    * What is no `Exception`, such as a cancellation, is no outcome; it is raised, and the permit is returned.
    * Foreign code (listeners, predicates, storages) may raise. The observer gets an event; the call is not affected.

    Args:
        name: Names it in errors, events and metrics.
        config: When it opens and closes.
        listeners: pybreaker's listeners, called at calls and state changes. They must be quick.
        storage: Where pybreaker keeps its state, for others to see. Nothing is read from it to decide on a call;
            it is written, and looked at for what other processes do, by a thread.
        mode: Whether it refuses, only counts what it would refuse, or does nothing.
        observer: Receives state changes. It may raise, and must be thread-safe. By default the process's, see
            `asgi.Telemetry`; None for none.
        clock: Monotonic seconds.
        luck: Spreads the waits.
        failures: Types of exceptions, or a predicate. By default all.
        retry_after_of: Reads from a failure how many seconds the dependency asks not to be called. By
            default the `retry_after` of this library's errors.

    Attributes:
        name: Its name.
        book: The `pybreaker.CircuitBreaker`, for code that needs one.
    """

    def __init__(
        self,
        name: str,
        *,
        config: CircuitConfig | None = None,
        listeners: Sequence[Listener] = (),
        storage: Storage | None = None,
        mode: Mode | str = Mode.ENFORCE,
        observer: Observer | None = process_observer,
        clock: Clock = MONOTONIC,
        luck: Luck = LUCK,
        failures: type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool] = Exception,
        retry_after_of: Callable[[Exception], float | None] | None = None,
    ) -> None:
        self.name: str = validation.name("CircuitBreaker.name", name, example='CircuitBreaker("billing")')
        if config is not None:
            validation.instance("CircuitBreaker.config", config, CircuitConfig, example="CircuitConfig()")
        if storage is not None:
            validation.instance(
                "CircuitBreaker.storage",
                storage,
                cast("type[object]", Storage),
                example="a pybreaker.CircuitBreakerStorage, or None",
            )
        for listener in listeners:
            validation.instance(
                "CircuitBreaker.listeners", listener, Listener, example="[a pybreaker.CircuitBreakerListener]"
            )
        if isinstance(cast("object", failures), type | tuple) or not callable(failures):
            validation.error_types("CircuitBreaker.failures", failures, example="failures=ConnectionError")
        if retry_after_of is not None:
            validation.function("CircuitBreaker.retry_after_of", retry_after_of, example="None")
        validation.functions("CircuitBreaker", clock=clock, luck=luck)
        self._observe = observing("CircuitBreaker", name, observer)
        self._clock = clock
        self._luck = luck
        self._failures = failures
        self._retry_after_of = retry_after_of or _retry_after_of
        self._lock = threading.Lock()
        self._moves: deque[CircuitChanged] = deque()
        self._reporting = threading.Lock()
        self._transitions: dict[tuple[str, str], int] = {}
        self._calls: dict[Mode, dict[CallKind, int]] = {}
        self._circuit = Circuit(name, config or CircuitConfig(), clock(), moved=self._note)
        self._mode = validation.choice("CircuitBreaker.mode", mode, Mode)
        self._counts = self._calls.setdefault(self._mode, dict.fromkeys(_KINDS, 0))
        self._heeds = True
        self._book = Book(self, listeners, storage, observe=self._observe)
        self.book: pybreaker.CircuitBreaker = self._book
        self.heed()
        self._observe(PolicyCreated(name, self.tally))

    @property
    def mode(self) -> Mode:
        """How its decisions are used. Set, it counts from then on; a call under way keeps its permit."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode | str) -> None:
        old, self._mode = self._mode, validation.choice("CircuitBreaker.mode", mode, Mode)
        self._counts = self._calls.setdefault(self._mode, dict.fromkeys(_KINDS, 0))
        self.heed()
        if old is not self._mode:
            self._observe(ModeChanged(self.name, old, self._mode))

    async def call(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call an async function, unless the circuit refuses.

        Raises:
            BreakerOpenError: If it refuses.
        """
        started = self._clock()
        if self._heeds or not (permit := self._circuit.pass_closed()):
            permit = self._enter(started, function, *args, **kwargs)
        outcome = _IGNORED
        try:
            result: Any = function(*args, **kwargs)
            answer: T = await (
                result if hasattr(result, "__await__") else answer_of("CircuitBreaker", function, result)
            )
            outcome = _SUCCESS
        except Exception as error:
            outcome = self._judge(permit, error)
            raise
        finally:
            self._leave(permit, started, outcome)
        return answer

    def call_sync(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function, unless the circuit refuses.

        Raises:
            BreakerOpenError: If it refuses.
        """
        started = self._clock()
        if self._heeds or not (permit := self._circuit.pass_closed()):
            permit = self._enter(started, function, *args, **kwargs)
        outcome = _IGNORED
        try:
            answer = function(*args, **kwargs)
            outcome = _SUCCESS
        except Exception as error:
            outcome = self._judge(permit, error)
            raise
        finally:
            self._leave(permit, started, outcome)
        return answer

    def __call__(self, function: F) -> F:
        """Decorate a function, async or not, so that each call of it is guarded.

        Raises:
            TypeError: If it is a generator function: its body runs after the call. Guard what it calls. At the call,
                if a plain function returns a coroutine.
        """
        must_be_guardable("CircuitBreaker", function)

        @wraps(function)
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            return await self.call(function, *args, **kwargs)

        @wraps(function)
        def guarded_sync(*args: Any, **kwargs: Any) -> Any:
            return self.call_sync(_no_coroutine, function, *args, **kwargs)

        return cast("F", guarded if is_async(function) else guarded_sync)

    def __enter__(self) -> None:
        started = self._clock()
        if self._heeds or not (permit := self._circuit.pass_closed()):
            permit = self._enter(started, _block)
        _entered.set((self, permit, started, _entered.get()))

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        entry = _entered.get()
        if entry is None or entry[0] is not self:
            entry = _found(self, entry, loud=exc is None)
        _entered.set(entry[3])
        if exc is None:
            self._leave(entry[1], entry[2], _SUCCESS)
        else:
            outcome = self._judge(entry[1], exc) if isinstance(exc, Exception) else _IGNORED
            self._leave(entry[1], entry[2], outcome)

    # The bodies of the two above once more: a call between costs, and this is the path of every request.
    async def __aenter__(self) -> None:
        started = self._clock()
        if self._heeds or not (permit := self._circuit.pass_closed()):
            permit = self._enter(started, _block)
        _entered.set((self, permit, started, _entered.get()))

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        entry = _entered.get()
        if exc is not None or entry is None or entry[0] is not self:
            self.__exit__(kind, exc, traceback)
            return
        _entered.set(entry[3])
        self._leave(entry[1], entry[2], _SUCCESS)

    def open(self) -> None:
        """Open it, as if a threshold had been reached.

        Raises:
            ValueError: If it is forced open, disabled or measures only: reset it first.
        """
        with self._lock:
            self._circuit.open(self._clock(), self._luck())
        self._tell()

    def forced_open(self) -> None:
        """Refuse all calls, until it is reset."""
        self._put(CircuitState.FORCED_OPEN)

    def disable(self) -> None:
        """Let all calls pass and look at none, until it is reset."""
        self._put(CircuitState.DISABLED)

    def metrics_only(self) -> None:
        """Let all calls pass and only count them, until it is reset."""
        self._put(CircuitState.METRICS_ONLY)

    def reset(self) -> None:
        """Close it, with an empty window."""
        self._put(_CLOSED)

    def statistics(self) -> CircuitStatistics:
        """Return a snapshot of the circuit. It may be called from any thread."""
        with self._lock:
            return self._circuit.statistics(self._clock())

    def tally(self) -> Iterator[Sample]:
        """Yield its counts, for metrics. It may be called from any thread."""
        now = self.statistics().state
        for state in CircuitState:
            yield Sample("postfacta_breaker_state", (self.name, state), float(state is now))
        for mode, counts in tuple(self._calls.items()):
            for kind, count in counts.items():
                yield Sample("postfacta_breaker_calls_total", (self.name, kind, mode), count)
        for (old, new), count in tuple(self._transitions.items()):
            yield Sample("postfacta_breaker_transitions_total", (self.name, old, new), count)

    def heed(self) -> None:
        """Recompute the fast-path flag."""
        calm = self._circuit.state is _CLOSED and self._mode is Mode.ENFORCE and not self._book.is_busy
        self._heeds = not calm

    def _put(self, state: CircuitState) -> None:
        with self._lock:
            self._circuit.put(state, self._clock())
        self._tell()

    def _note(self, move: CircuitChanged) -> None:
        # Under the lock; foreign code is called outside of it.
        self._transitions[move.old, move.new] = self._transitions.get((move.old, move.new), 0) + 1
        self._moves.append(move)
        self._heeds = True

    def _tell(self) -> None:
        # One thread at a time reports moves, in their order; the others leave theirs to it and go on. A move that
        # comes while that one lets go of its turn is seen by the outer loop.
        while self._moves and self._reporting.acquire(blocking=False):
            try:
                while self._moves:
                    move = self._moves.popleft()
                    self._observe(move)
                    self._book.moved(move)
            finally:
                self._reporting.release()
            self.heed()

    def _enter(
        self, started: float, function: Callable[..., object], /, *args: object, **kwargs: object
    ) -> int:
        if self._mode is Mode.OFF:
            return REFUSED
        if self._book.has_news(started):
            self._adopt(started)
        retry_after = None
        with self._lock:
            if not (permit := self._circuit.enter(started)):
                self._counts["rejected"] += 1
                retry_after = self._circuit.retry_after(started)
        self._tell()
        if permit:
            self._book.will_call(function, *args, **kwargs)
        elif self._mode is Mode.ENFORCE:
            raise BreakerOpenError(self.name, retry_after)
        return permit

    def _adopt(self, now: float) -> None:
        with self._lock:
            if self._circuit.state is _CLOSED:
                self._circuit.open(now, self._luck(), "remote")

    def _judge(self, permit: int, error: Exception) -> Outcome:
        if not permit:
            return _IGNORED
        try:
            outcome = self._outcome_of(error)
            seconds = float(self._retry_after_of(error) or 0.0) if outcome is _FAILURE else 0.0
        except Exception as broken:  # noqa: BLE001 - a predicate is foreign code, and may raise anything
            self._observe(ListenerFailed(self.name, repr(broken)))
            outcome, seconds = _FAILURE, 0.0
        if outcome is _FAILURE and self._is_callers():
            # Its caller gave it less time than the service does: that says nothing about the dependency.
            return _IGNORED
        if outcome is _FAILURE:
            with self._lock:
                self._circuit.hold(permit, seconds, self._clock())
            self._book.failed(error)
        return outcome

    def _is_callers(self) -> bool:
        request = current_request()
        return request is not None and request.is_out_of_callers_time(self._clock())

    def _outcome_of(self, error: Exception) -> Outcome:
        known, is_local = self._failures, isinstance(error, _LOCAL)
        if known is Exception:
            return _IGNORED if is_local else _FAILURE
        if isinstance(error, known) if isinstance(known, type | tuple) else known(error):
            return _FAILURE
        return _IGNORED if is_local else _SUCCESS

    def _leave(self, permit: int, started: float, outcome: Outcome) -> None:
        if not permit:
            return
        # A with statement takes nearly twice as long.
        self._lock.acquire()
        try:
            now, luck = self._clock(), self._luck()
            self._counts[self._circuit.leave(permit, outcome, started=started, now=now, luck=luck)] += 1
        finally:
            self._lock.release()
        if self._heeds:
            self._tell()
            if outcome is _SUCCESS:
                self._book.succeeded(of_trial=self._circuit.state is CircuitState.HALF_OPEN)


def _no_coroutine(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call a plain function; its result must not be an awaitable, which would run unguarded."""
    answer = function(*args, **kwargs)
    if inspect.iscoroutine(answer):
        answer.close()
        msg = f"CircuitBreaker cannot guard {function!r}, a plain function that returns a coroutine: make it an async def"
        raise TypeError(msg)
    return answer


def _found(breaker: CircuitBreaker, entry: Any, *, loud: bool) -> Any:
    """Remove the last block of a breaker from those that are entered, for blocks that do not nest."""
    if entry is None:
        if loud:
            msg = f"a block of {breaker.name!r} was left in another context than it was entered in: use call"
            raise RuntimeError(msg)
        return (breaker, REFUSED, 0.0, None)
    if entry[0] is breaker:
        return entry
    found = _found(breaker, entry[3], loud=loud)
    return (*found[:3], (*entry[:3], found[3]))
