"""Make a second try beside a first that is slow, and take whichever answers first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final, Generic, ParamSpec, TypeVar, cast

import anyio

from .._functions import answer_of
from ..clock import MONOTONIC, Clock
from ..deadlines.present import current_deadline
from ..events import Mode, Observer, Sample, process_observer
from ..validation import validation
from ._delay import FixedDelay, HedgeDelay, HedgeOutcome
from ._guard import Guard
from .budget import RetryBudget

__all__ = ["Hedge", "wait_for"]

P = ParamSpec("P")
T = TypeVar("T")

_METRIC: Final = "postfacta_hedge_attempts_total"


async def wait_for(event: anyio.Event, seconds: float) -> None:
    """Wait for an event, at most for this many seconds."""
    with anyio.move_on_after(seconds):
        await event.wait()


class Hedge(Guard):
    """Start a call a second time if it is slow; the first answer wins, and the other try is cancelled and awaited.

    Only for calls that may be made twice at the same time, such as reads. Use it as a guard of a `Pipeline`, by
    `call`, or as a decorator of async functions.

    * The first try runs in the task of its caller, the second in one beside it.
    * An error of the first before the second has started is raised at once: to try again is the job of `Retry`.
    * Once both run, an error of one leaves it to the other. If both fail, the error of the first is raised, bare.
    * The call ends when both tries have: one that does not heed its cancellation holds it up.

    Args:
        name: See `Guard`.
        delay: Seconds after which the second starts, or an object with them, such as a `QuantileDelay`.
        budget: What all that try this dependency again share, the `Retry` around this too; by default one of its
            own, of the same name.
        mode: `SHADOW` makes one try, and counts those that took longer than the delay without spending for them;
            `OFF` is a plain call.
        clock: Monotonic seconds; it must be the clock of the request contexts.
        observer: See `Guard`.
        wait: Waits for an event, at most for the given seconds.

    Attributes:
        budget: What its second tries are spent from.
        delay: When they start.

    Raises:
        ValueError: If a setting is wrong, or the name is taken.
    """

    kind = "hedge"
    example = 'Hedge("billing", delay=0.1)'
    no_sync = "a second thread of the same work is no hedge, as none can be stopped"

    def __init__(
        self,
        name: str,
        *,
        delay: float | HedgeDelay,
        budget: RetryBudget | None = None,
        mode: Mode | str = Mode.ENFORCE,
        observer: Observer | None = process_observer,
        clock: Clock = MONOTONIC,
        wait: Callable[[anyio.Event, float], Awaitable[object]] = wait_for,
    ) -> None:
        super().__init__(name, mode=mode, observer=observer)
        self.delay: HedgeDelay = _delay(delay)
        if budget is not None:
            validation.instance("Hedge.budget", budget, RetryBudget, example='RetryBudget("billing")')
        validation.functions("Hedge", clock=clock, wait=wait)
        self.budget: RetryBudget = RetryBudget(name) if budget is None else budget
        self._clock = clock
        self._wait = wait
        self._counts = dict.fromkeys(HedgeOutcome, 0)
        self._announce()
        self.budget.announce(self._observe, clock)

    def settings(self) -> Mapping[str, object]:
        """Return its present delay, and the name of its budget."""
        mine = {"delay": self.delay.seconds, "budget": self.budget.name}
        return {**mine, **super().settings()}

    def status(self) -> Mapping[str, object]:
        """Return how many second tries its budget allows now."""
        return {"budget_tokens": self.budget.tokens(self._clock())}

    def collect(self) -> Iterable[Sample]:
        """Return its counts, for metrics: the outcomes of slow calls."""
        for outcome, count in self._counts.items():
            yield Sample(_METRIC, (self.name, outcome.value), count)

    async def call(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it, and a second time beside that if it is slow.

        Raises:
            Exception: What the first try raised, if the second did not answer in its place.
        """
        mode = self._mode
        if mode is Mode.OFF:
            return await answer_of("Hedge", function, function(*args, **kwargs))
        race: _Race[T] = _Race(partial(_call, function, *args, **kwargs), self._clock)
        delay = self.delay.seconds
        # A Retry that shares the budget has paid in for this call.
        if not self.budget.is_fed:
            self.budget.deposit()
        deadline = current_deadline()
        in_time = deadline is None or race.began + delay < deadline.at
        try:
            if mode is Mode.ENFORCE and in_time:
                await self._run(race, delay)
            else:
                await race.lead()
                if mode is Mode.SHADOW and in_time:
                    self._note_shadow(race, delay)
            return self._settle(race)
        finally:
            race.clear()

    async def _run(self, race: _Race[T], delay: float) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                race.stop = tasks.cancel_scope.cancel
                tasks.start_soon(self._follow, race, delay, name=f"hedge {self.name}")
                await race.lead()
        except BaseExceptionGroup as group:
            # What is no error of a try, such as a KeyboardInterrupt: its caller knows of no group.
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from None
            raise

    async def _follow(self, race: _Race[T], delay: float) -> None:
        await self._wait(race.is_over, delay)
        if race.is_over.is_set():
            return
        if self.budget.try_withdraw(self._clock()):
            await race.follow()
        else:
            self._counts[HedgeOutcome.BUDGET_REFUSED] += 1

    def _note_shadow(self, race: _Race[T], delay: float) -> None:
        now = self._clock()
        if now >= race.began + delay:
            has_token = self.budget.tokens(now) >= 1.0
            self._counts[HedgeOutcome.SHADOW if has_token else HedgeOutcome.BUDGET_REFUSED] += 1

    def _settle(self, race: _Race[T]) -> T:
        if race.has_second:
            self._counts[race.outcome] += 1
        if race.latency is not None:
            self.delay.record(race.latency)
        if race.answers:
            return race.answers[0]
        if race.error is None:
            raise AssertionError("over, without an answer or an error")
        raise race.error


def _delay(given: object) -> HedgeDelay:
    if hasattr(given, "seconds") and hasattr(given, "record"):
        return cast("HedgeDelay", given)
    return FixedDelay(
        validation.number("Hedge.delay", given, at_least=0, example="delay=0.1, or QuantileDelay()")
    )


async def _call(function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
    return await answer_of("Hedge", function, function(*args, **kwargs))


class _Race(Generic[T]):
    """One call.

    Attributes:
        began: When, in monotonic seconds.
        stop: Cancels both tries.
        is_over: Set when the first has ended, so that the second need not start. A wait that is cancelled instead
            would cost more, and leave garbage in circles.
        answers: The answer that won, first.
        error: What the first try raised.
        has_second: A second one was started.
        outcome: How the two stand.
        latency: How long the first took, at the least; None if it failed.
    """

    __slots__ = (
        "_clock",
        "_start",
        "answers",
        "began",
        "error",
        "has_second",
        "is_over",
        "latency",
        "outcome",
        "stop",
    )

    def __init__(self, start: Callable[[], Awaitable[T]], clock: Clock) -> None:
        self._start = start
        self._clock = clock
        self.began: float = clock()
        self.stop: Callable[[], object] = _do_nothing
        self.is_over: anyio.Event = anyio.Event()
        self.answers: list[T] = []
        self.error: Exception | None = None
        self.has_second: bool = False
        self.outcome: HedgeOutcome = HedgeOutcome.FAILED
        self.latency: float | None = None

    async def lead(self) -> None:
        """Run the first try."""
        try:
            answer = await self._start()
        except Exception as error:  # noqa: BLE001 - it is raised once the second has ended
            self.error = error
        else:
            self._win(answer, HedgeOutcome.FIRST)
        finally:
            self.is_over.set()

    async def follow(self) -> None:
        """Run the second try."""
        self.has_second = True
        # If it fails, the first decides alone.
        with suppress(Exception):
            self._win(await self._start(), HedgeOutcome.SECOND)

    def _win(self, answer: T, outcome: HedgeOutcome) -> None:
        if self.has_second:
            self.stop()
        if not self.answers:
            self.answers.append(answer)
            self.outcome = outcome
            # If the second has won, the first would have taken longer still.
            if self.error is None:
                self.latency = self._clock() - self.began

    def clear(self) -> None:
        """Drop all references: a cancelled task, or an error's traceback, may hold this for a while."""
        self.error = None
        self.answers = []
        self.stop = _do_nothing
        del self._start


def _do_nothing() -> None:
    """Do nothing."""
