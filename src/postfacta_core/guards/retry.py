"""Try a call again that failed, within its deadline, its dependency's budget, and no other try.

1. Retries at several layers multiply. So the layer next to the failure tries again, and those
   around it do not (Google's SRE book, chapter 21, "Deciding to Retry"). A `Retry` that gives up
   leaves a mark on the error, which says in which call around it that was; that one reads the mark
   there, or on what the error became the cause of.
2. The budget is asked last, so a retry refused for another reason costs no token.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, Literal, cast, get_args

from ..backoff import Backoff
from ..clock import LUCK, MONOTONIC, Clock, Luck, present_haste
from ..deadlines.present import time_left
from ..errors import RejectedError
from ..events import Mode, Observer, RetryScheduled, Sample, process_observer
from ..functions import answer_of
from ..validation import validation
from ._guard import Guard, On, Outcome, P, T, asked_by
from ._schedule import Schedule
from ._waits import refuse_on_loop
from .budget import RetryBudget

_MARK: Final = "_postfacta_retried_in"
_LONGEST_CHAIN: Final = (
    10  # The most causes in which the mark is searched for: a chain may be a circle.
)

# Why no other try was made of what may be tried again. The words hold no number that grows without
# end.
_REASONS: Final = {
    "exhausted": "no more tries",
    "budget_refused": "the retry budget of its dependency is used up",
    "deadline": "the wait would have been too long",
    "nested": "a Retry within has tried it again already",
}
_Reason = Literal["exhausted", "budget_refused", "deadline", "nested"]
# How a try ended. After a failure another followed, or none: it may not, or for a reason, or for
# the mode.
_Ending = Literal["success", "recovered", "retried", "failure", _Reason, "shadow"]


@dataclass(slots=True, eq=False)
class _Call:
    """One call: its budget, the call around it, and which try is under way."""

    budget: RetryBudget
    outer: _Call | None
    attempt: int = 1

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        # An error may carry it as its mark: a copy of that, in another process, is the mark of no
        # call.
        return object, ()


_CALL: ContextVar[_Call | None] = ContextVar("postfacta_retry", default=None)


class Retry(Guard):
    """Retry calls that failed: a few times, with growing waits, and never more than the budget has.

    Of a function by `call`, `call_sync` or as a decorator; of a block of code by `attempts`.

    Only the caller knows what may be called twice, so by default only what was refused before it
    began is tried again. When no other try is made, the last error is raised, with a note that says
    why, or the last result is returned. No try begins at the request's deadline or after it. A call
    inside of another of any `Retry` is tried again by the inner one alone. Between tries of a plain
    function its thread sleeps: on an event loop it is refused.

    Args:
        attempts: The most tries, the first included; 1 only counts.
        on: After which outcomes the call may be made again: types of errors, beside what never
            began; or a function of the `Outcome` that alone decides. If that raises, the answer is
            no.
        backoff: The waits between tries.
        budget: What all that try this dependency again share; by default one of its own, of the
            same name.
        retry_after: Reads how many seconds an outcome asks to wait, by default its `retry_after`:
            None if it does not say, `math.inf` for no other try, which is also meant if it raises.
        discard: Releases a result that is tried again, such as an open response; it may return an
            awaitable.
        max_wait: The longest wait in seconds. An outcome that asks for more is not retried.
        mode: `SHADOW` makes one try, counts what would be tried again, and spends nothing; `OFF` is
            a plain call.
        observer: Also receives each retry.
        sleep: Waits the given seconds; by default the event loop, or the thread.
    """

    kind = "retry"
    metric = "postfacta_retry_attempts_total"

    def __init__(
        self,
        name: str,
        *,
        attempts: int = 3,
        on: On = (),
        backoff: Backoff = Backoff(),  # noqa: B008 - it is frozen
        budget: RetryBudget | None = None,
        retry_after: Callable[[Outcome[Any]], float | None] = asked_by,
        discard: Callable[[Any], object] | None = None,
        max_wait: float = 30.0,
        mode: Mode | str = Mode.ENFORCE,
        observer: Observer | None = process_observer,
        clock: Clock = MONOTONIC,
        luck: Luck = LUCK,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        super().__init__(name, mode=mode, observer=observer, clock=clock, luck=luck)
        for field, function in (("discard", discard), ("sleep", sleep)):
            if function is not None:
                validation.function(f"Retry.{field}", function, example="None")
        self._schedule = Schedule(
            validation.whole("Retry.attempts", attempts, example="attempts=3"),
            validation.instance("Retry.backoff", backoff, Backoff, example="Backoff(base=0.1)"),
            validation.seconds("Retry.max_wait", max_wait, example="max_wait=30.0"),
        )
        self._act_on(on)
        validation.function("Retry.retry_after", retry_after, example="retry_after=asked_by")
        self._retry_after = retry_after
        self.budget: RetryBudget = RetryBudget(name) if budget is None else budget
        validation.instance(
            "Retry.budget", self.budget, RetryBudget, example='RetryBudget("billing")'
        )
        self.budget.is_fed = True
        self._discard = discard
        self._sleep = sleep
        self._counts = dict.fromkeys(get_args(_Ending), 0)
        self._numbers = {"attempts": attempts, "max_wait": max_wait}
        self._announce(attempts=attempts, budget=self.budget.name, max_wait=max_wait)

    def status(self) -> Mapping[str, object]:
        """Return how many retries its budget allows now."""
        return {"budget_tokens": self.budget.tokens(self._clock())}

    def collect(self) -> Iterable[Sample]:
        """Return its counts, for metrics.

        The number of tries by outcome, and what is left of its budget.
        """
        return [*super().collect(), self.budget.sample(self._clock())]

    async def call(
        self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call an async function, and again if it fails and may be repeated.

        Raise what the last try raised, as it is.
        """
        if self._mode is Mode.OFF:
            return await answer_of("Retry", function, function(*args, **kwargs))
        call = self._begin()
        try:
            while True:
                try:
                    result: Any = function(*args, **kwargs)
                    answer: T = await (
                        result
                        if hasattr(result, "__await__")
                        else answer_of("Retry", function, result)
                    )
                except Exception as error:
                    # The error must not outlive this block: with its traceback it would be garbage
                    # in a circle.
                    if (delay := self._wait_after(Outcome(error=error), call)) is None:
                        raise
                else:
                    if (delay := self._wait_after_answer(answer, call)) is None:
                        return answer
                    await self._dispose(answer)
                await (cast("Any", self._sleep) or _sleep)(delay)
                call.attempt += 1
        finally:
            # Not by a token: one does not work where a loop that was given up closes its
            # coroutines.
            _CALL.set(call.outer)

    def call_sync(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a plain function likewise; raise `RuntimeError` on a loop, which would block."""
        if self._mode is Mode.OFF:
            return function(*args, **kwargs)
        refuse_on_loop(self)
        call = self._begin()
        try:
            while True:
                try:
                    answer = function(*args, **kwargs)
                except Exception as error:
                    if (delay := self._wait_after(Outcome(error=error), call)) is None:
                        raise
                else:
                    if (delay := self._wait_after_answer(answer, call)) is None:
                        return answer
                    if self._discard is not None:
                        self._ask(self._discard, answer, otherwise=None)
                (self._sleep or threading.Event().wait)(delay)
                call.attempt += 1
        finally:
            _CALL.set(call.outer)

    def attempts(self) -> Attempts:
        """Return the tries of a block of code, for one loop: `async for`, or `for` in a thread.

            async for attempt in billing.attempts():
                with attempt:
                    answer = await client.get("/invoices/7")

        The loop ends once the block has run to its end. What the last try raised is raised as it
        is.
        """
        return Attempts(self)

    def _adopt(self, draft: Retry) -> None:
        self._schedule = draft._schedule._replace(backoff=self._schedule.backoff)

    def _begin(self) -> _Call:
        outer = _CALL.get()
        budget = self.budget
        # The tries of an outer call are no calls of their own.
        if outer is None or outer.budget is not budget:
            budget.deposit()
        call = _Call(budget, outer)
        # What only counts is not there for those around and within it.
        if self._mode is Mode.ENFORCE:
            _CALL.set(call)
        return call

    def _wait_after_answer(self, answer: object, call: _Call) -> float | None:
        if self._predicate is not None and self._acts_on(ended := Outcome(answer), otherwise=False):
            return self._wait_after(ended, call)
        self._count_success(call)
        return None

    def _count_success(self, call: _Call) -> None:
        # Without the lock: no call stands between reading and writing it.
        self._counts["success" if call.attempt == 1 else "recovered"] += 1

    def _wait_after(self, ended: Outcome[Any], call: _Call) -> float | None:
        """Return how long to wait for the next try, or None if there is none."""
        now = self._clock()
        outcome, delay = self._plan(ended, call.attempt)
        if outcome == "retried":
            if self._mode is not Mode.ENFORCE:
                has_token = self.budget.tokens(now) >= 1.0
                outcome = "shadow" if has_token else "budget_refused"
            elif _was_retried_inside(ended.error, call):
                outcome = "nested"
            elif not self.budget.try_withdraw(now):
                outcome = "budget_refused"
        self._counts[outcome] += 1
        if outcome == "retried":
            cause = "result" if ended.error is None else type(ended.error).__name__
            self._observe(RetryScheduled(self.name, call.attempt, delay, cause))
            return delay
        if outcome in _REASONS and ended.error is not None and self._mode is Mode.ENFORCE:
            self._give_up(ended.error, outcome, call)
        return None

    def _plan(self, ended: Outcome[Any], attempt: int) -> tuple[_Ending, float]:
        try:
            # A result is here because `on` has named it.
            may = ended.error is None or (self._predicate is None and may_repeat(ended.error))
            if may or self._acts_on(ended, otherwise=False):
                retry_after = self._retry_after(ended) or 0.0
                most = present_haste()
                schedule = self._schedule
                if most is not None:
                    schedule = schedule._replace(attempts=min(most, schedule.attempts))
                follows, delay = schedule.plan(
                    retry_after, attempt, left=time_left(), luck=self._luck()
                )
                return follows, delay if most is None else 0.0
        except Exception as fault:  # noqa: BLE001 - what judges is foreign code, and may raise anything
            self._report(fault)
        return "failure", 0.0

    async def _dispose(self, answer: object) -> None:
        try:
            if self._discard is not None and isinstance(
                released := self._discard(answer), Awaitable
            ):
                await released
        except Exception as fault:  # noqa: BLE001 - see above
            self._report(fault)

    def _give_up(self, error: Exception, outcome: _Ending, call: _Call) -> None:
        # One that never tries twice multiplies nothing.
        if call.outer is not None and self._schedule.attempts > 1:
            error.__dict__[_MARK] = call.outer
        tries = "1 try" if call.attempt == 1 else f"{call.attempt} tries"
        note = f"retry {self.name!r}: given up after {tries}: {_REASONS[outcome]}"
        # An error object may be raised again and again: its notes must not grow without end.
        if note not in getattr(error, "__notes__", ()):
            # A frozen error takes no note, and is raised without.
            with suppress(Exception):
                error.add_note(note)


class _Turn(Enum):
    """Where a loop over `Attempts` is."""

    BEFORE = auto()
    READY = auto()
    INSIDE = auto()
    FAILED = auto()
    OVER = auto()


# A guard and the tries of its block are two halves of one thing.
# pyright: reportPrivateUsage=false
# ruff: noqa: SLF001


class Attempts:
    """The tries of one block of code, as `Retry.attempts` returns them: each turn is one.

    A block has no result: raise what is to be tried again. A function as `on` is asked about errors
    alone, and nothing is discarded. To leave the block early is a success.

    Args:
        retry: Decides how many there are.

    Raises:
        RuntimeError: If a turn of the loop runs no block in `with attempt:`, or a second one; if a
            second loop begins; and for a plain loop on an event loop, which would be blocked.
    """

    __slots__ = ("_call", "_delay", "_retry", "_turn")

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._turn = _Turn.BEFORE
        self._call: _Call | None = None
        self._delay = 0.0

    @property
    def number(self) -> int:
        """Which try this is, from 1."""
        return 1 if self._call is None else self._call.attempt

    def __iter__(self) -> Attempts:
        if self._retry._mode is not Mode.OFF:
            refuse_on_loop(self._retry)
        return self.__aiter__()

    def __next__(self) -> Attempts:
        if self._turn is _Turn.OVER:
            raise StopIteration
        if self._turn is _Turn.FAILED:
            (self._retry._sleep or threading.Event().wait)(self._delay)
        return self._begin_turn()

    def __aiter__(self) -> Attempts:
        if self._turn is not _Turn.BEFORE:
            raise self._misuse("these were looped over before: call attempts() for each loop")
        return self

    async def __anext__(self) -> Attempts:
        if self._turn is _Turn.OVER:
            raise StopAsyncIteration
        if self._turn is _Turn.FAILED:
            await (cast("Any", self._retry._sleep) or _sleep)(self._delay)
        return self._begin_turn()

    def __enter__(self) -> None:
        if self._turn is not _Turn.READY:
            raise self._misuse("enter each turn of the loop once: with attempt:")
        self._turn = _Turn.INSIDE
        if self._call is not None:
            _CALL.set(self._call)
        elif self._retry._mode is not Mode.OFF:
            self._call = self._retry._begin()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        self._turn = _Turn.OVER
        call = self._call
        if call is None:
            return False
        _CALL.set(call.outer)
        if error is None:
            self._retry._count_success(call)
        elif isinstance(error, Exception):
            delay = self._retry._wait_after(Outcome(error=error), call)
            if delay is not None:
                self._turn = _Turn.FAILED
                self._delay = delay
        return self._turn is _Turn.FAILED

    def _begin_turn(self) -> Attempts:
        if self._turn is _Turn.FAILED and self._call is not None:
            self._call.attempt += 1
        elif self._turn is not _Turn.BEFORE:
            raise self._misuse("a turn ran no block: write `with attempt:` in the loop")
        self._turn = _Turn.READY
        return self

    def _misuse(self, rule: str) -> RuntimeError:
        return RuntimeError(f"the attempts of {self._retry!r}: {rule}")


def may_repeat(error: Exception) -> bool:
    """Return whether a call that failed so may be made again, whatever it does.

    An error says so, or it never began.
    """
    is_repeatable = getattr(error, "is_repeatable", None)
    return is_repeatable if isinstance(is_repeatable, bool) else isinstance(error, RejectedError)


async def _sleep(seconds: float) -> None:
    import anyio  # noqa: PLC0415 - code without an event loop needs none

    await anyio.sleep(seconds)


def _was_retried_inside(error: BaseException | None, call: _Call) -> bool:
    for _ in range(_LONGEST_CHAIN):
        if error is None or error.__dict__.get(_MARK) is call:
            return error is not None
        error = error.__cause__ or error.__context__
    return False
