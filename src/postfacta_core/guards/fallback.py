"""Give the last good answer again while a dependency cannot give a new one."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic, ParamSpec, TypeVar

from .._functions import answer_of
from ..clock import MONOTONIC, Clock
from ..errors import FailedResponseError, ResilienceError
from ..events import (
    ListenerFailed,
    Mode,
    ModeChanged,
    Observer,
    PolicyCreated,
    Sample,
    observing,
    process_observer,
)
from ..validation import validation

__all__ = ["Answer", "Fallback"]

P = ParamSpec("P")
T = TypeVar("T")

_METRIC: Final = "postfacta_fallback_answers_total"
_FRESH, _STALE, _DEFAULT, _NONE, _SHADOW = "fresh", "stale", "default", "none", "shadow"


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """A value, with its age and staleness.

    Attributes:
        value: What was asked for.
        age: Seconds since its call began: 0 for a fresh one, `math.inf` for one that `otherwise` made up.
        error: Why it is not fresh, or why the value is a failure; None if it is fresh and good.
    """

    value: T
    age: float = 0.0
    error: Exception | None = None

    @property
    def is_fresh(self) -> bool:
        """Whether the dependency has just given it."""
        return self.error is None


class Fallback(Generic[T]):
    """Keep the last good value of each key, and return it instead of an error.

    In a `Pipeline` it would be the outermost; it is called with a key besides. The caller's identity belongs in the
    key if answers differ by it: a kept answer is given to every caller with the same key.

    An error that it does not cover is the dependency's answer, such as that the thing is gone: then what was
    kept of it is forgotten. A cancelled call changes nothing.

    Args:
        name: The operation's; its metric label.
        errors: Types of errors that it stands in for, beside `ResilienceError`: an open circuit, a deadline, a full
            bulkhead and so on.
        is_failure: Which values are failures too, such as `postfacta_core.guards.outgoing.is_failure` of responses. They
            are not kept. One that nothing can stand in for is returned, with the error. A predicate that raises
            means no.
        max_age: Seconds, counted from when its call began, from which a value is not given any more.
        max_entries: The most values kept; what was not used for longest goes first. Their size does not count.
        otherwise: Makes a value from the error when none is kept; it may raise to give none.
        mode: `SHADOW` keeps values and counts what it would have given, and lets the error through; `OFF` is a plain
            call.
        observer: Receives its announcement once, and each change of mode. It may raise. By default the process's, see
            `asgi.Telemetry`; None for none.
        clock: Monotonic seconds.

    Attributes:
        name: The operation's.

    Raises:
        ValueError: If a setting is wrong.
    """

    def __init__(
        self,
        name: str,
        *,
        errors: type[Exception] | tuple[type[Exception], ...] = (),
        is_failure: Callable[[T], bool] | None = None,
        max_age: float = 900.0,
        max_entries: int = 1000,
        otherwise: Callable[[Exception], T] | None = None,
        mode: Mode | str = Mode.ENFORCE,
        observer: Observer | None = process_observer,
        clock: Clock = MONOTONIC,
    ) -> None:
        self.name: str = validation.name("Fallback.name", name, example='Fallback("prices")')
        named = validation.error_types("Fallback.errors", errors, example="errors=ConnectionError")
        validation.seconds("Fallback.max_age", max_age, finite=False, example="max_age=900.0")
        validation.whole("Fallback.max_entries", max_entries, example="max_entries=1000")
        if otherwise is not None:
            validation.function("Fallback.otherwise", otherwise, example="otherwise=lambda error: EMPTY")
        if is_failure is not None:
            validation.function(
                "Fallback.is_failure", is_failure, example="is_failure=lambda answer: not answer.ok"
            )
        validation.functions("Fallback", clock=clock)
        self._errors: tuple[type[Exception], ...] = (ResilienceError, *named)
        self._is_failure = is_failure
        self._max_age = max_age
        self._max_entries = max_entries
        self._otherwise = otherwise
        self._mode = validation.choice("Fallback.mode", mode, Mode)
        self._observe = observing("Fallback", name, observer)
        self._clock = clock
        self._kept: OrderedDict[Hashable, tuple[float, T]] = OrderedDict()
        self._era = 0
        self._counts = dict.fromkeys((_FRESH, _STALE, _DEFAULT, _NONE, _SHADOW), 0)
        self._observe(PolicyCreated(name, self.tally))

    def __repr__(self) -> str:
        return (
            f"Fallback({self.name!r}, max_age={self._max_age:g}, max_entries={self._max_entries}, "
            f"mode={self._mode.value!r})"
        )

    def __len__(self) -> int:
        """The number of kept values, including expired ones not yet removed."""
        return len(self._kept)

    @property
    def mode(self) -> Mode:
        """How its decisions are used."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode | str) -> None:
        old, self._mode = self._mode, validation.choice("Fallback.mode", mode, Mode)
        if self._mode is not old:
            self._observe(ModeChanged(self.name, old, self._mode))

    def tally(self) -> Iterable[Sample]:
        """Return its counts, for metrics.

        Where answers came from: `fresh` (the call), `stale` (kept), `default` (made up); `none` was to be had, so
        the error was raised; `shadow` would have been given, but for the mode.
        """
        for source, count in self._counts.items():
            yield Sample(_METRIC, (self.name, source), count)

    async def call(
        self, key: Hashable, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Answer[T]:
        """Call a function; if it fails, return the kept value.

        Args:
            key: Identifies the question, and the caller if answers differ by it.
            function: Asks for it.
            *args: For the function.
            **kwargs: For the function.

        Raises:
            Exception: What the function raised, if nothing can stand in for it.
        """
        if self._mode is Mode.OFF:
            return Answer(await answer_of("Fallback", function, function(*args, **kwargs)))
        began, era = self._clock(), self._era
        try:
            result: Any = function(*args, **kwargs)
            given: T = await (
                result if hasattr(result, "__await__") else answer_of("Fallback", function, result)
            )
            value = self._good(given)
        except self._errors as error:
            answer = self._stand_in(key, error)
            try:
                if answer is not None:
                    return answer
                if self._is_failure is not None and isinstance(error, FailedResponseError):
                    return Answer(error.response, 0.0, error)
                raise
            finally:
                # The error holds this frame: with the answer in it, both would be garbage in a circle.
                del answer
        except Exception:
            self._kept.pop(key, None)
            raise
        # What was asked for before something was forgotten must not be kept after it.
        if era == self._era:
            self._keep(key, began, value)
        self._counts[_FRESH] += 1
        return Answer(value)

    def forget(self, key: Hashable) -> None:
        """Drop the value of this key, and ignore the results of all calls under way."""
        self._kept.pop(key, None)
        self._era += 1

    def clear(self) -> None:
        """Drop all values, and ignore calls under way: for when permissions have been reduced."""
        self._kept.clear()
        self._era += 1

    def _good(self, value: T) -> T:
        try:
            is_failure = self._is_failure is not None and self._is_failure(value)
        except Exception as fault:  # noqa: BLE001 - it is foreign code, and may raise anything
            self._observe(ListenerFailed(self.name, repr(fault)))
            is_failure = False
        if is_failure:
            raise FailedResponseError(self.name, response=value)
        return value

    def _keep(self, key: Hashable, began: float, value: T) -> None:
        kept = self._kept.get(key)
        # Of two calls at once, the one that began later has the newer value, whichever ends first.
        if kept is None or kept[0] <= began:
            self._kept[key] = (began, value)
        self._kept.move_to_end(key)
        if len(self._kept) > self._max_entries:
            self._kept.popitem(last=False)

    def _stand_in(self, key: Hashable, error: Exception) -> Answer[T] | None:
        answer = self._stale(key, error)
        source = _STALE
        if answer is None:
            answer, source = self._made_up(error), _DEFAULT
        if answer is None:
            source = _NONE
        elif self._mode is Mode.SHADOW:
            answer, source = None, _SHADOW
        self._counts[source] += 1
        return answer

    def _stale(self, key: Hashable, error: Exception) -> Answer[T] | None:
        kept, now = self._kept.get(key), self._clock()
        if kept is None:
            return None
        began, value = kept
        if now >= began + self._max_age:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return Answer(value, now - began, error)

    def _made_up(self, error: Exception) -> Answer[T] | None:
        if self._otherwise is None:
            return None
        try:
            return Answer(self._otherwise(error), math.inf, error)
        except Exception as fault:  # noqa: BLE001 - it is foreign code, and may raise anything
            if fault is not error:
                self._observe(ListenerFailed(self.name, repr(fault)))
            return None
