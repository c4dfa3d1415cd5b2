"""Give the last good answer again, or one made up, while a dependency cannot give a new one."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, cast

from ..clock import MONOTONIC, Clock
from ..errors import FailedResponseError, ResilienceError
from ..events import Mode, Observer, process_observer
from ..functions import answer_of, is_async
from ..validation import validation
from ._guard import RAISE, Guard, On, Outcome, P, Runner, T, innermost
from ._last_values import LastValues as LastValues

# Where answers came from: the call, what was kept, `otherwise`; or there was none, or none was
# given for the mode.
_FRESH = "fresh"
_STALE = "stale"
_DEFAULT = "default"
_NONE = "none"
_SHADOW = "shadow"
_ASYNC: Final = "its otherwise is an async function"


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """A value, with its age and staleness.

    Attributes:
        value: What was asked for.
        age: Seconds since its call began: 0 for a fresh one, `math.inf` for one that `otherwise`
            made up.
        error: Why it is not fresh, or why the value is a failure; None if it is fresh and good.
    """

    value: T
    age: float = 0.0
    error: Exception | None = None

    @property
    def is_fresh(self) -> bool:
        """Whether the dependency has just given it."""
        return self.error is None


class _Made:
    """What an async `otherwise` makes up, not awaited yet."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def close(self) -> None:
        close: Callable[[], object] = getattr(self.value, "close", lambda: None)
        close()


# A call: the key of its question, when it began, and how often values had been forgotten by then.
_Ticket = tuple[Hashable, float, int]


class Fallback(Guard):
    """Keep the last good value of each key, and return it instead of an error.

    A kept value is given to every caller with the same key: the caller's identity belongs in the
    key if answers differ by it. An error that it does not cover is the dependency's answer: then
    what was kept is forgotten. In a `Pipeline` it is the outermost guard. Use it by `ask` where the
    age of an answer matters.

    Args:
        key: Makes the key of a question from the arguments of the call; without it no value is
            kept, and there must be an `otherwise`. If it raises, the call does.
        on: What it stands in for: types of errors, beside `ResilienceError` (an open circuit, a
            deadline, a full bulkhead and so on); or a function of the `Outcome` that alone decides,
            of results too. A result that is a failure is not kept, and is returned if nothing
            stands in for it.
        otherwise: The value when none is kept, or a function, async or plain, that makes it from
            the `Outcome`. What it raises reaches the caller; the error itself, raised again, means
            that there is none.
        max_age: Seconds, counted from when its call began, from which a value is not given any
            more.
        max_entries: The most values kept; what was not used for longest goes first.
        mode: `SHADOW` keeps values, counts what it would have given, and lets the error through,
            without a call of `otherwise`; `OFF` is a plain call.
    """

    kind = "fallback"
    metric = "postfacta_fallback_answers_total"

    def __init__(
        self,
        name: str,
        *,
        key: Callable[..., Hashable] | None = None,
        on: On = (),
        otherwise: object = RAISE,
        max_age: float = 900.0,
        max_entries: int = 1000,
        mode: Mode | str = Mode.ENFORCE,
        observer: Observer | None = process_observer,
        clock: Clock = MONOTONIC,
    ) -> None:
        super().__init__(name, mode=mode, observer=observer, clock=clock)
        if key is not None:
            validation.function("Fallback.key", key, example="key=lambda number: number")
        self._act_on(on)
        self._types = (ResilienceError, *self._types)
        validation.seconds("Fallback.max_age", max_age, finite=False, example="max_age=900.0")
        validation.whole("Fallback.max_entries", max_entries, example="max_entries=1000")
        if key is None and otherwise is RAISE:
            rule = "a function where there is no otherwise="
            validation.refuse("Fallback.key", key, rule, example="key=lambda number: number")
        self._key = key
        self._otherwise = otherwise
        if is_async(otherwise):
            self.no_sync = _ASYNC
        self._values = LastValues[Any](max_age, max_entries)
        self._counts = dict.fromkeys((_FRESH, _STALE, _DEFAULT, _NONE, _SHADOW), 0)
        self._announce(max_age=max_age, max_entries=max_entries)

    def status(self) -> Mapping[str, object]:
        """Return how many values are kept, including expired ones not yet removed."""
        return {"kept": len(self._values)}

    async def call(
        self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call it, and return its result or what stands in for it."""
        ticket = self._enter(function, args, kwargs)
        try:
            coro: Any = function(*args, **kwargs)
            value: T = await (
                coro if hasattr(coro, "__await__") else answer_of("Fallback", function, coro)
            )
        except Exception as error:
            instead = self._failed(ticket, error)
            if instead is RAISE:
                raise
            # Here, so that what an async `otherwise` raises has the error as its context.
            return cast("T", await self._await(instead) if type(instead) is _Made else instead)
        instead = self._passed(ticket, value)
        return cast("T", await self._await(instead) if type(instead) is _Made else instead)

    def call_sync(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a plain function likewise; raise `TypeError` if `otherwise` is an async function."""
        if self.no_sync:
            return Runner.call_sync(self, function, *args, **kwargs)
        result: Any = super().call_sync(function, *args, **kwargs)
        if type(result) is _Made:
            result.close()
            raise TypeError(f"{self!r} cannot guard a plain function: {_ASYNC}")
        return cast("T", result)

    async def ask(
        self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Answer[T]:
        """Call a function like `call`; return the answer with its age and why it is not fresh."""
        ticket = self._enter(function, args, kwargs)
        try:
            coro: Any = function(*args, **kwargs)
            value: T = await (
                coro if hasattr(coro, "__await__") else answer_of("Fallback", function, coro)
            )
        except Exception as error:  # noqa: BLE001 - without a stand-in it is raised
            answer = self._answer(ticket, Outcome(error=error))
            try:
                if answer is None:
                    raise
                return await self._finish(answer)
            finally:
                # The error holds this frame: with the answer in it, both would be garbage in a
                # circle.
                del answer
        return await self._finish(self._answer(ticket, Outcome(value)) or Answer(value))

    async def _finish(self, answer: Answer[Any]) -> Answer[Any]:
        if type(answer.value) is not _Made:
            return answer
        return replace(answer, value=await self._await(answer.value))

    async def _await(self, made: _Made) -> Any:
        try:
            value = await made.value
        except Exception:
            self._counts[_NONE] += 1
            raise
        self._counts[_DEFAULT] += 1
        return value

    def forget(self, key: Hashable) -> None:
        """Drop the value of this key, and ignore the results of all calls under way."""
        with self._lock:
            self._values.drop(key)
            self._values.generation += 1

    def clear(self) -> None:
        """Drop all values, and ignore calls under way: for when permissions have been reduced."""
        with self._lock:
            self._values.clear()

    def _enter(self, function: Any, args: Any, kwargs: Any) -> _Ticket | None:
        if self._mode is Mode.OFF:
            return None
        key = None
        if self._key is not None and function is not None:
            _, args, kwargs = innermost(function, args, kwargs)
            key = self._key(*args, **kwargs)
        return key, self._clock(), self._values.generation

    def _passed(self, ticket: _Ticket | None, result: Any) -> Any:
        if ticket is not None and self._predicate is None:
            self._keep(ticket, result)
            return result
        answer = self._answer(ticket, Outcome(result))
        return result if answer is None else answer.value

    def _failed(self, ticket: _Ticket | None, error: Exception) -> Any:
        answer = self._answer(ticket, Outcome(error=error))
        return RAISE if answer is None else answer.value

    def _answer(self, ticket: _Ticket | None, outcome: Outcome[Any]) -> Answer[Any] | None:
        """Return what to answer in place of an outcome, or a result that is a failure as it is.

        None for no other.
        """
        if ticket is None:
            return None
        if self._acts_on(outcome, otherwise=False):
            if outcome.error is not None:
                return self._stand_in(ticket, outcome, outcome.error)
            error = FailedResponseError(self.name, response=outcome.result)
            return self._stand_in(ticket, outcome, error) or Answer(outcome.result, 0.0, error)
        if outcome.error is None:
            self._keep(ticket, outcome.result)
        else:
            with self._lock:
                self._values.drop(ticket[0])
        return None

    def _keep(self, ticket: _Ticket, value: Any) -> None:
        key, began, generation = ticket
        self._acquire()
        try:
            self._counts[_FRESH] += 1
            if self._key is not None:
                self._values.keep(key, value, began, generation)
        finally:
            self._release()

    def _stand_in(
        self, ticket: _Ticket, outcome: Outcome[Any], error: Exception
    ) -> Answer[Any] | None:
        with self._lock:
            last = self._values.find(ticket[0], self._clock())
        if self._mode is Mode.SHADOW:
            has_none = last is None and self._otherwise is RAISE
            self._counts[_NONE if has_none else _SHADOW] += 1
            return None
        if last is not None:
            self._counts[_STALE] += 1
            return Answer(last[0], last[1], error)
        value = self._made_up(outcome)
        if value is RAISE:
            return None
        return Answer(value, math.inf, error)

    def _made_up(self, outcome: Outcome[Any]) -> Any:
        value: Any = self._otherwise
        if callable(value):
            try:
                value = value(outcome)
            except Exception as fault:
                self._counts[_NONE] += 1
                if fault is outcome.error:
                    return RAISE
                raise
            if hasattr(value, "__await__"):
                # It is counted once it is there.
                return _Made(value)
        self._counts[_NONE if value is RAISE else _DEFAULT] += 1
        return value
