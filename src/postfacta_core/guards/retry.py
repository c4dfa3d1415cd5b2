"""Try a call again that failed, within its deadline, its dependency's budget, and no other try.

Retries at several layers multiply: three tries around three are nine. So the layer next to the failure tries again, and
those around it do not (Google's SRE book, chapter 21, "Deciding to Retry"). A `Retry` that gives up leaves a mark on
the error, which says in which try of the one around it that was; that one reads the mark there, or on what the error
became the cause of. A mark of another call, on an error object that is raised more than once, means nothing.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from contextvars import ContextVar
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

import anyio

from .._functions import answer_of, must_be_async
from ..backoff import Backoff
from ..clock import LUCK, MONOTONIC, Clock, Haste, Luck, present_haste
from ..deadlines.present import current_deadline
from ..events import (
    ListenerFailed,
    Mode,
    ModeChanged,
    Observer,
    PolicyCreated,
    RetryScheduled,
    Sample,
    observing,
    process_observer,
)
from ..validation import validation
from ._schedule import (
    Retryable,
    RetryBudget,
    RetryOutcome,
    RetryPlan,
    RetryRules,
    Throttled,
    asked_wait,
)

__all__ = ["Retry"]

P = ParamSpec("P")
T = TypeVar("T")

_METRIC: Final = "postfacta_retry_attempts_total"
_MARK: Final = "_postfacta_retried_in"
# The mark is searched for in this many causes. Errors are seldom wrapped so often, and a chain may be a circle.
_LONGEST_CHAIN: Final = 10
# Why no other try was made of what may be tried again. The words hold no number that grows without end.
_REASONS: Final = {
    RetryOutcome.EXHAUSTED: "no more tries",
    RetryOutcome.BUDGET_REFUSED: "the retry budget of its dependency is used up",
    RetryOutcome.DEADLINE: "the wait would have been too long",
    RetryOutcome.NESTED: "a Retry within has tried it again already",
}


class _Call:
    """One call.

    Attributes:
        budget: What its further tries are spent from.
        outer: The call in one of whose tries it is made.
        attempt: Which try is under way.
    """

    __slots__ = ("attempt", "budget", "outer")

    def __init__(self, budget: RetryBudget, outer: _Call | None) -> None:
        self.budget = budget
        self.outer = outer
        self.attempt = 1


_CALL: ContextVar[_Call | None] = ContextVar("postfacta_retry", default=None)


class Retry:
    """Retry calls that failed: a few times, with growing waits, and never more than the budget has.

    Use it as a guard of a `Pipeline`, by `call`, or as a decorator of async functions. Threads and event loops may
    share it. Only the caller knows what may be called twice, so by default only what was refused before it began
    is tried again.

    When no other try is made, the last error of the dependency itself is raised, with a note that says why. No try
    begins at the request's deadline or after it. A call inside of another of any `Retry` is tried again by the inner
    one alone.

    Args:
        name: The operation's; its metric label.
        attempts: The most tries, the first included; 1 only counts.
        backoff: The waits between them.
        budget: What all that try this dependency again share; by default one of its own, of the same name.
        retryable: Types of errors after which the call may be made again, beside those of `may_repeat`; or a function
            that alone decides. If that raises, the answer is no.
        throttled: Reads how many seconds an error asks to wait: None if it does not say, `math.inf` for no other
            try. By default its `retry_after`. If it raises, no other try is made.
        max_wait: The longest wait in seconds. An error that asks for more is not retried.
        retry_nested: Also retry what an inner `Retry` has given up: then tries multiply.
        mode: Text or member. `SHADOW` makes one try, and counts what would have been tried again without spending for it; `OFF`
            is a plain call.
        observer: Receives its announcement once, each retry, and each change of mode. It may raise. By default the
            process's, see `asgi.Telemetry`; None for none.
        clock: Monotonic seconds; it must be the clock of the request contexts.
        luck: Spreads the waits.
        sleep: Waits the given seconds.

    Attributes:
        name: The operation's.
        budget: What its further tries are spent from.
        rules: What is tried again, how often, and after which waits.

    Raises:
        ValueError: If a setting is wrong.
    """

    def __init__(
        self,
        name: str,
        *,
        attempts: int = 3,
        backoff: Backoff = Backoff(),  # noqa: B008 - it is frozen
        budget: RetryBudget | None = None,
        retryable: Retryable = (),
        throttled: Throttled = asked_wait,
        max_wait: float = 30.0,
        retry_nested: bool = False,
        mode: Mode | str = Mode.ENFORCE,
        observer: Observer | None = process_observer,
        clock: Clock = MONOTONIC,
        luck: Luck = LUCK,
        sleep: Callable[[float], Awaitable[object]] = anyio.sleep,
    ) -> None:
        self.name: str = validation.name("Retry.name", name, example='Retry("billing", attempts=3)')
        if budget is not None:
            validation.instance("Retry.budget", budget, RetryBudget, example='RetryBudget("billing")')
        validation.flag("Retry.retry_nested", retry_nested)
        validation.functions("Retry", clock=clock, luck=luck, sleep=sleep)
        self._observe = observing("Retry", name, observer)
        self.rules: RetryRules = RetryRules(
            attempts=attempts, backoff=backoff, max_wait=max_wait, retryable=retryable, throttled=throttled
        )
        self.budget: RetryBudget = RetryBudget(name) if budget is None else budget
        self.budget.is_fed = True
        self._retry_nested = retry_nested
        self._mode = validation.choice("Retry.mode", mode, Mode)
        self._clock = clock
        self._luck = luck
        self._sleep = sleep
        self._successes = 0
        self._counts = dict.fromkeys(RetryOutcome, 0)
        self._observe(PolicyCreated(name, self.tally))
        self.budget.announce(self._observe, clock)

    def __repr__(self) -> str:
        rules = self.rules
        return (
            f"Retry({self.name!r}, attempts={rules.attempts}, budget={self.budget.name!r}, "
            f"max_wait={rules.max_wait:g}, mode={self._mode.value!r})"
        )

    @property
    def mode(self) -> Mode:
        """How its decisions are used; it holds for calls that begin from now on."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode | str) -> None:
        old, self._mode = self._mode, validation.choice("Retry.mode", mode, Mode)
        if self._mode is not old:
            self._observe(ModeChanged(self.name, old, self._mode))

    def tally(self) -> Iterable[Sample]:
        """Return its counts, for metrics: the number of tries by outcome."""
        for outcome, count in self._counts.items():
            more = self._successes if outcome is RetryOutcome.SUCCESS else 0
            yield Sample(_METRIC, (self.name, outcome.value), count + more)

    async def call(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it, and again if it fails and may be repeated.

        Raises:
            Exception: What the last try raised, as it is.
        """
        if self._mode is not Mode.ENFORCE:
            return await self._call_once(function, *args, **kwargs)
        outer, budget = _CALL.get(), self.budget
        # The tries of an outer call are no calls of their own.
        if outer is None or outer.budget is not budget:
            budget.deposit()
        call = _Call(budget, outer)
        _CALL.set(call)
        try:
            while True:
                try:
                    result: Any = function(*args, **kwargs)
                    answer: T = await (
                        result if hasattr(result, "__await__") else answer_of("Retry", function, result)
                    )
                except Exception as error:
                    # The error must not outlive this block: with its traceback it would be garbage in a circle.
                    if (delay := self._wait_after(error, call)) is None:
                        raise
                else:
                    if call.attempt == 1:
                        self._successes += 1
                    else:
                        self._counts[RetryOutcome.RECOVERED] += 1
                    return answer
                await self._sleep(delay)
                call.attempt += 1
        finally:
            # Not by a token: one does not work where a loop that was given up closes its coroutines.
            _CALL.set(outer)

    def __call__(self, function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        """Decorate an async function, so that each call of it is tried again if it fails and may be."""
        must_be_async("Retry", function)

        @wraps(function)
        async def tried(*args: P.args, **kwargs: P.kwargs) -> T:
            return await self.call(function, *args, **kwargs)

        return tried

    async def _call_once(
        self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        if self._mode is Mode.OFF:
            return await answer_of("Retry", function, function(*args, **kwargs))
        self.budget.deposit()
        try:
            answer = await answer_of("Retry", function, function(*args, **kwargs))
        except Exception as error:
            now = self._clock()
            outcome = self._plan(error, 1, now=now).outcome
            if outcome is RetryOutcome.RETRIED:
                has_token = self.budget.tokens(now) >= 1.0
                outcome = RetryOutcome.SHADOW if has_token else RetryOutcome.BUDGET_REFUSED
            self._counts[outcome] += 1
            raise
        self._successes += 1
        return answer

    def _wait_after(self, error: Exception, call: _Call) -> float | None:
        """Return how long to wait for the next try, or None if there is none."""
        now = self._clock()
        plan = self._plan(error, call.attempt, now=now)
        outcome = plan.outcome
        if outcome is RetryOutcome.RETRIED:
            if not self._retry_nested and _was_retried_inside(error, call):
                outcome = RetryOutcome.NESTED
            elif not self.budget.try_withdraw(now):
                outcome = RetryOutcome.BUDGET_REFUSED
        self._counts[outcome] += 1
        if outcome is RetryOutcome.RETRIED:
            self._observe(RetryScheduled(self.name, call.attempt, plan.delay, type(error).__name__))
            return plan.delay
        if outcome in _REASONS:
            self._give_up(error, outcome, call)
        return None

    def _plan(self, error: Exception, attempt: int, *, now: float) -> RetryPlan:
        deadline = current_deadline()
        try:
            plan = self.rules.plan(
                error,
                attempt,
                now=now,
                deadline=math.inf if deadline is None else deadline.at,
                luck=self._luck(),
            )
        except Exception as fault:  # noqa: BLE001 - what judges is foreign code, and may raise anything
            self._observe(ListenerFailed(self.name, repr(fault)))
            return RetryPlan(RetryOutcome.FAILURE)
        haste = present_haste()
        return plan if haste is None else _hurried(plan, attempt, haste)

    def _give_up(self, error: Exception, outcome: RetryOutcome, call: _Call) -> None:
        # One that never tries twice multiplies nothing.
        if call.outer is not None and self.rules.attempts > 1:
            error.__dict__[_MARK] = call.outer
        tries = "1 try" if call.attempt == 1 else f"{call.attempt} tries"
        note = f"retry {self.name!r}: given up after {tries}: {_REASONS[outcome]}"
        # An error object may be raised again and again: its notes must not grow without end.
        if note not in getattr(error, "__notes__", ()):
            # A frozen error takes no note, and is raised without.
            with suppress(Exception):
                error.add_note(note)


def _hurried(plan: RetryPlan, attempt: int, haste: Haste) -> RetryPlan:
    """Do in a test what was planned, without the wait, and no more often than the test allows."""
    if plan.outcome is not RetryOutcome.RETRIED:
        return plan
    is_last = haste.attempts is not None and attempt >= haste.attempts
    return RetryPlan(RetryOutcome.EXHAUSTED if is_last else RetryOutcome.RETRIED)


def _was_retried_inside(error: BaseException, call: _Call) -> bool:
    link: BaseException | None = error
    for _ in range(_LONGEST_CHAIN):
        if link is None:
            return False
        if link.__dict__.get(_MARK) is call:
            return True
        link = link.__cause__ or link.__context__
    return False
