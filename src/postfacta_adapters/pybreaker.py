"""Show a circuit to code that was written for pybreaker.

Its listeners, its storages, its exception.

The circuit decides, and the view decides nothing. It gets what happened in order: the circuit puts
its news in line under its lock, and one thread at a time passes them on without it.

A storage may be far away, so calls never touch it. Writes are queued and applied in order by a
background thread. Nothing is read: what other processes write decides nothing here.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from postfacta_core.clock import WALL
from postfacta_core.errors import CircuitOpenError
from postfacta_core.events import CircuitChanged
from postfacta_core.installation import missing_extra
from postfacta_core.validation import validation

try:
    import pybreaker
except ModuleNotFoundError as _error:
    raise missing_extra(__name__, "pybreaker", _error) from _error

from postfacta_core.guards import Outcome
from postfacta_core.guards.breaker import CircuitBreaker, CircuitState, News

__all__ = ["BreakerOpenError", "View", "attach"]

T = TypeVar("T")
Listener = pybreaker.CircuitBreakerListener
Storage = pybreaker.CircuitBreakerStorage
_Change = Callable[[Storage], object]

_STATES: Final = {
    CircuitState.CLOSED: pybreaker.CircuitClosedState,
    CircuitState.OPEN: pybreaker.CircuitOpenState,
    CircuitState.HALF_OPEN: pybreaker.CircuitHalfOpenState,
    CircuitState.FORCED_OPEN: pybreaker.CircuitOpenState,
}
# The queue of changes for a storage; beyond it the oldest are dropped, since the last one holds the
# present state.
_MOST_CHANGES: Final = 100
# So long the thread waits for more to write before it ends.
_IDLE: Final = 5.0


class BreakerOpenError(CircuitOpenError, pybreaker.CircuitBreakerError):
    """The circuit is open; caught as this library's error and as pybreaker's."""


def attach(
    breaker: CircuitBreaker,
    *,
    listeners: Sequence[Listener] = (),
    storage: Storage | None = None,
) -> View:
    """Attach a view to a breaker; from then on its refusals are pybreaker's too.

    A breaker with a view costs more: each call is news. `forced_open` is reported as `open`.
    Cancelled calls are no news.

    Args:
        breaker: It has one view at most.
        listeners: pybreaker's listeners, called at calls and state changes. They must be quick, and
            may raise.
        storage: Where the state is written for others to see. One in memory is used as it is, any
            other one from a thread. It may hang, and may raise.

    Raises:
        ValueError: If it has a view, or a setting is wrong.
    """
    validation.instance(
        "attach.breaker", breaker, CircuitBreaker, example='CircuitBreaker("billing")'
    )
    for listener in listeners:
        validation.instance(
            "attach.listeners", listener, Listener, example="[a pybreaker.CircuitBreakerListener]"
        )
    if storage is not None and not isinstance(storage, Storage):  # pyright: ignore[reportUnnecessaryIsInstance]
        validation.refuse(
            "attach.storage",
            storage,
            "a CircuitBreakerStorage",
            example="CircuitMemoryStorage(...)",
        )
    if breaker._mirror is not None:
        validation.refuse("attach.breaker", breaker, "a breaker without a view: share that one")
    return View(breaker, listeners, storage)


# The two know each other well.
# pyright: reportPrivateUsage=false
# ruff: noqa: SLF001


class View(pybreaker.CircuitBreaker):
    """A circuit as pybreaker, and code written for it, sees it.

    What is done to it, the circuit does.
    """

    def __init__(
        self, breaker: CircuitBreaker, listeners: Sequence[Listener], storage: Storage | None
    ) -> None:
        near = pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED)
        # Not a kind of it: what a subclass adds may take its time.
        if type(storage) is pybreaker.CircuitMemoryStorage:
            near = storage
            storage = None
            near.state = pybreaker.STATE_CLOSED
        super().__init__(listeners=listeners, state_storage=near, name=breaker.name)
        self._breaker = breaker
        self._near = near
        self._clerk = (
            None if storage is None else _StorageWriter(breaker.name, storage, self._report)
        )
        with breaker._lock:
            breaker._refusal = BreakerOpenError
            breaker._mirror = self._hear
            breaker._mode_was_set()

    def _hear(self, news: News) -> None:
        match news:
            case "call", call:
                self._called(*call)
            case "failure", error:
                self._failed(error)
            case "success", of_trial:
                self._succeeded(of_trial)
            case _, move:
                self._moved(move)

    def _called(
        self, function: Callable[..., object] | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        for listener in self._current_listeners():
            self._tell(listener.before_call, self, function or _block, *args, **kwargs)

    def _failed(self, error: Exception | None) -> None:
        self._write(lambda storage: storage.increment_counter())
        for listener in self._current_listeners():
            self._tell(listener.failure, self, error)

    def _succeeded(self, of_trial: bool) -> None:  # noqa: FBT001 - the subject of the news
        # pybreaker writes at each success; once for a row of them says the same.
        if self._near.counter:
            self._write(lambda storage: storage.reset_counter())
        if of_trial:
            self._write(lambda storage: storage.increment_success_counter())
        for listener in self._current_listeners():
            self._tell(listener.success, self)

    def _moved(self, move: CircuitChanged) -> None:
        old = self._state
        new = _STATES[CircuitState(move.new)](self, self._state)
        self._state = new
        # pybreaker has fewer states.
        if old.name != new.name:
            at = datetime.fromtimestamp(WALL(), UTC)
            self._write(lambda storage: _write_state(storage, new.name, at))
            for listener in self._current_listeners():
                self._tell(listener.state_change, self, old, new)

    def _current_listeners(self) -> tuple[Listener, ...]:
        # A listener may remove itself when called.
        return tuple(self._listeners)

    def _write(self, change: _Change) -> None:
        change(self._near)
        if self._clerk is not None:
            self._clerk.post(change)

    def _tell(self, hear: Callable[..., object], /, *args: object, **kwargs: object) -> None:
        try:
            hear(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - a listener is foreign code, and may raise anything
            self._report(error)

    def _report(self, error: Exception) -> None:
        self._breaker._report(error)

    # What others may do with a pybreaker.CircuitBreaker, the circuit does.

    @property
    def state(self) -> Any:
        """The state as pybreaker's object; setting it by name changes the circuit."""
        return self._state

    @state.setter
    def state(self, state_str: str) -> None:
        moves = {pybreaker.STATE_OPEN: self.open, pybreaker.STATE_CLOSED: self.close}
        moves.get(state_str, self.half_open)()

    @property
    def fail_max(self) -> int:
        """The fewest failures that open the circuit, as its rate and its minimum of calls say."""
        config = self._breaker.config
        enough = min(config.minimum_number_of_calls, config.sliding_window_size)
        return math.ceil(config.failure_rate_threshold * enough)

    @fail_max.setter
    def fail_max(self, number: int) -> None:
        raise self._fixed("config")

    @property
    def reset_timeout(self) -> float:
        """Seconds for which the circuit refuses after its first opening."""
        return self._breaker.config.wait_duration_in_open_state

    @reset_timeout.setter
    def reset_timeout(self, timeout: float) -> None:
        raise self._fixed("config")

    @property
    def success_threshold(self) -> int:
        """How many trials are made in half_open."""
        return self._breaker.config.permitted_number_of_calls_in_half_open_state

    @success_threshold.setter
    def success_threshold(self, threshold: int) -> None:
        raise self._fixed("config")

    @property
    def excluded_exceptions(self) -> Any:
        """Raise `AttributeError`: the circuit's `on` says what a failure is.

        `is_system_error` asks it.
        """
        raise self._fixed("on")

    def add_excluded_exception(self, exception: Any) -> None:
        """Raise `AttributeError`: give the circuit's `on` a function, and let that look."""
        raise self._fixed("on")

    def add_excluded_exceptions(self, *exceptions: Any) -> None:
        """Raise `AttributeError` likewise."""
        raise self._fixed("on")

    def remove_excluded_exception(self, exception: Any) -> None:
        """Raise `AttributeError` likewise."""
        raise self._fixed("on")

    def is_system_error(self, exception: Any) -> bool:
        """Return whether the circuit counts an error as a failure."""
        return self._breaker._judge(Outcome(error=exception)) == "failure"

    def _fixed(self, option: str) -> AttributeError:
        return AttributeError(
            f"{self._breaker!r} has its settings from the start: make it with {option}="
        )

    def call_async(self, func: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        """Call an async function, unless the circuit refuses."""
        return self._breaker.call(func, *args, **kwargs)

    def call(self, func: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a function, unless the circuit refuses."""
        return self._breaker.call_sync(func, *args, **kwargs)

    def calling(self) -> Any:
        """Guard a block."""
        return self._breaker.block()

    def __call__(self, *call_args: Any, **call_kwargs: bool) -> Any:
        """Decorate a function, async or not."""
        return self._breaker(*call_args) if call_args else self._breaker

    def open(self) -> bool:
        """Open the circuit."""
        self._breaker.open()
        return self._throw_new_error_on_trip

    def close(self) -> None:
        """Close the circuit."""
        self._breaker.reset()

    def half_open(self) -> None:
        """Raise `NotImplementedError`: a circuit becomes half-open by itself."""
        raise NotImplementedError("a circuit tries by itself, once its wait is over")


def _block() -> None:
    """The body of a with block, as listeners get it."""


def _write_state(storage: Storage, name: str, at: datetime) -> None:
    if name == pybreaker.STATE_OPEN:
        storage.opened_at = at
    if name == pybreaker.STATE_CLOSED:
        storage.reset_counter()
    storage.reset_success_counter()
    storage.state = name


class _StorageWriter:
    """Writes to a storage, in order, on a thread that ends when it is idle.

    The storage may raise or hang; `failed` gets, on that thread, the first failure in a row.
    """

    def __init__(self, name: str, storage: Storage, failed: Callable[[Exception], None]) -> None:
        self._name = name
        self._storage = storage
        self._failed = failed
        self._changes: deque[_Change] = deque(maxlen=_MOST_CHANGES)
        self._wakes = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_sick = False

    def post(self, change: _Change) -> None:
        with self._wakes:
            self._changes.append(change)
            # After a fork the thread is there, and not alive.
            if self._thread is not None and self._thread.is_alive():
                self._wakes.notify()
                return
            name = f"postfacta breaker {self._name}"
            self._thread = threading.Thread(target=self._work, name=name, daemon=True)
            try:
                self._thread.start()
            except RuntimeError as error:
                self._failed(error)

    def _work(self) -> None:
        while (change := self._next()) is not None:
            try:
                change(self._storage)
            except Exception as error:  # noqa: BLE001 - a storage is foreign code, and may raise anything
                if not self._is_sick:
                    self._failed(error)
                self._is_sick = True
            else:
                self._is_sick = False

    def _next(self) -> _Change | None:
        with self._wakes:
            if self._wakes.wait_for(lambda: self._changes, _IDLE):
                return self._changes.popleft()
            self._thread = None
            return None
