"""Make a second try beside a first that is slow, and take whichever answers first.

After the time in which most calls have answered, a second one costs little and cuts the slowest
answers: Dean and Barroso, "The Tail at Scale", CACM 56(2), 2013, start it at the 95th percentile,
for 5 % more calls.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import anyio
from anyio.abc import TaskGroup

from ..clock import MONOTONIC, Clock
from ..deadlines.present import time_left
from ..events import Mode, Observer, Sample, process_observer
from ..functions import answer_of
from ..validation import validation
from ._guard import Guard, On, Outcome, P, Runner, T
from ._latencies import Latencies
from ._waits import running_loop
from .budget import RetryBudget

# Of a call whose first try took longer than the delay: which try answered, or none; or why no
# second one ran.
_FIRST = "first"
_SECOND = "second"
_FAILED = "failed"
_REFUSED = "budget_refused"
_SHADOW = "shadow"

_percentile_of = re.compile(r"p([5-9]\d)").fullmatch


class Hedge(Guard):
    """Start a call a second time if it is slow.

    The first answer wins, and the other try is cancelled and awaited.

    Only for calls that may be made twice at the same time, such as reads.

    * What `on` names is no answer: before the second has started, it starts at once.
    * Another error of the first is raised at once then: to try again is the job of `Retry`.
    * Once both run, an error of one leaves it to the other. If both fail, what the first ended with
      counts, bare.
    * The call ends when both tries have: one that does not heed its cancellation holds it up.

    Args:
        delay: Seconds after which the second starts, from 0 up. Or a percentile of what its own
            last 1,000 calls took, from `"p50"` to `"p99"`: until enough have answered, 100 for
            `"p95"`, no second starts. Or a function that returns seconds; if that raises, there is
            no second.
        on: Which outcomes are no answers: types of errors; or a function of the `Outcome` that
            alone decides, of results too. If that raises, it is an answer. Nothing closes a
            response that has lost: `Outgoing` does.
        budget: What all that try this dependency again share, the `Retry` around this too; by
            default one of its own.
        mode: `SHADOW` makes one try, and counts those that took longer than the delay; `OFF` is a
            plain call.
    """

    kind = "hedge"
    metric = "postfacta_hedge_attempts_total"
    no_sync = "a second thread of the same work is no hedge, as none can be stopped"

    def __init__(
        self,
        name: str,
        *,
        delay: float | str | Callable[[], float],
        on: On = (),
        budget: RetryBudget | None = None,
        mode: Mode | str = Mode.ENFORCE,
        observer: Observer | None = process_observer,
        clock: Clock = MONOTONIC,
    ) -> None:
        super().__init__(name, mode=mode, observer=observer, clock=clock)
        self._latencies: Latencies | None = None
        self.delay: float | str | Callable[[], float] = delay
        if isinstance(delay, str):
            percentile = _percentile_of(delay)
            if percentile is None:
                rule = "seconds, a function, or a percentile from p50 to p99"
                validation.refuse("Hedge.delay", delay, rule, example='delay="p95"')
            self._latencies = Latencies(int(percentile[1]) / 100)
            delay = self._latencies.percentile
        elif not callable(delay):
            validation.number("Hedge.delay", delay, at_least=0, example='delay="p95", or delay=0.1')
        self._delay = delay
        self._numbers = {"delay": self.delay}
        self._act_on(on)
        self.budget: RetryBudget = RetryBudget(name) if budget is None else budget
        validation.instance(
            "Hedge.budget", self.budget, RetryBudget, example='RetryBudget("billing")'
        )
        self._counts = dict.fromkeys((_FIRST, _SECOND, _FAILED, _REFUSED, _SHADOW), 0)
        self._announce(
            delay="a function" if callable(self.delay) else self.delay, budget=self.budget.name
        )

    def status(self) -> Mapping[str, object]:
        """Return how many second tries its budget allows now, and the delay that it measured.

        None while too few calls have answered.
        """
        status: dict[str, object] = {"budget_tokens": self.budget.tokens(self._clock())}
        if self._latencies is not None:
            delay = self._present_delay()
            status["delay"] = delay if delay < math.inf else None
        return status

    def collect(self) -> Iterable[Sample]:
        """Return its counts, for metrics.

        The outcomes of slow calls, and what is left of its budget.
        """
        return [*super().collect(), self.budget.sample(self._clock())]

    def call_sync(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Raise `TypeError`: it guards async functions only."""
        return Runner.call_sync(self, function, *args, **kwargs)

    async def call(
        self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call it, and a second time beside that if it is slow."""
        mode = self._mode
        if mode is Mode.OFF:
            return await answer_of("Hedge", function, function(*args, **kwargs))
        race = _Race(partial(function, *args, **kwargs), self._clock())
        race.delay = delay = self._present_delay()
        # A Retry that shares the budget has paid in for this call.
        if not self.budget.is_fed:
            self.budget.deposit()
        in_time = delay < time_left()
        try:
            if mode is Mode.ENFORCE and in_time:
                await self._run(race, delay)
            else:
                await self._try(race, _FIRST)
                now = self._clock()
                if mode is Mode.SHADOW and in_time and (race.is_open or now >= race.began + delay):
                    self._counts[_SHADOW if self.budget.tokens(now) >= 1.0 else _REFUSED] += 1
            if race.has_second:
                self._counts[race.winner] += 1
            if race.end.error is not None:
                raise race.end.error
            return cast("T", race.end.result)
        finally:
            # A cancelled task, or an error's traceback, may hold the race for a while.
            del race.start, race.stop, race.end

    def _adopt(self, draft: Hedge) -> None:
        if draft.delay != self.delay:
            self.delay = draft.delay
            self._latencies = draft._latencies
            self._delay = draft._delay

    def _present_delay(self) -> float:
        delay = self._delay
        return self._ask(operator.call, delay, otherwise=math.inf) if callable(delay) else delay

    def _measure(self, race: _Race, *, is_answer: bool) -> None:
        """Add what the first try took; see rule 3 of `_latencies` for one that gave no answer."""
        if self._latencies is not None:
            took = self._clock() - race.began
            if is_answer or took > race.delay:
                with self._lock:
                    self._latencies.add(took)

    async def _run(self, race: _Race, delay: float) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                race.stop = tasks.cancel_scope.cancel
                name = f"hedge {self.name}"
                call_off = self._later(
                    tasks, delay, lambda: tasks.start_soon(self._follow, race, name=name)
                )
                try:
                    await self._try(race, _FIRST)
                finally:
                    call_off()
                await self._follow(race)
        except BaseExceptionGroup as group:
            # What is no error of a try, such as a KeyboardInterrupt: its caller knows of no group.
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from None
            raise

    def _later(
        self, tasks: TaskGroup, seconds: float, act: Callable[[], object]
    ) -> Callable[[], object]:
        """Call a function in a task of this context after some seconds.

        Return what prevents that.
        """
        loop = running_loop()
        if loop is None:
            scope = anyio.CancelScope()

            async def wait() -> None:
                with scope:
                    await anyio.sleep(seconds)
                    act()

            tasks.start_soon(wait)
            return scope.cancel
        # A timer costs less than a task that sleeps. It has a context of its own: a cancelled timer
        # would keep the request alive until its time. It starts a task, since anyio finds no event
        # loop in a callback if `sniffio` is installed and the loop was not run by anyio.
        context = copy_context()
        started: list[Any] = []

        async def act_in_task() -> None:
            act()

        def on_time() -> None:
            started.append(loop.create_task(act_in_task(), context=context))

        timer = loop.call_later(seconds, on_time, context=Context())

        def prevent() -> None:
            timer.cancel()
            for task in started:
                task.cancel()

        return prevent

    async def _follow(self, race: _Race) -> None:
        """Make the second try, unless there is an answer, or that was decided before."""
        if race.is_open and race.has_second is None:
            race.has_second = self.budget.try_withdraw(self._clock())
            if race.has_second:
                await self._try(race, _SECOND)
            else:
                self._counts[_REFUSED] += 1

    async def _try(self, race: _Race, which: str) -> None:
        is_answer = False
        try:
            coro: Any = race.start()
            result = await (
                coro if hasattr(coro, "__await__") else answer_of("Hedge", race.start.func, coro)
            )
        except Exception as error:  # noqa: BLE001 - it is raised once both have ended
            self._end(race, which, Outcome(error=error))
        except BaseException:
            race.is_open = False
            raise
        else:
            is_answer = self._end(race, which, Outcome(result))
        finally:
            if which == _FIRST:
                self._measure(race, is_answer=is_answer)

    def _end(self, race: _Race, which: str, outcome: Outcome[Any]) -> bool:
        if not race.is_open:
            return False
        is_answer = not self._acts_on(outcome, otherwise=False)
        if self._predicate is None and race.has_second:
            # Beside another try an error of any type is none.
            is_answer = outcome.error is None
        if is_answer or which == _FIRST:
            race.end = outcome
        if is_answer:
            race.is_open = False
            race.winner = which
            if race.has_second:
                race.stop()
        return is_answer


@dataclass(slots=True, eq=False)
class _Race:
    """One call, open until a try has won. It ends as that one did, or else as the first."""

    start: partial[Any]
    began: float
    delay: float = math.inf
    stop: Callable[[], object] = lambda: None
    is_open: bool = True
    has_second: bool | None = None  # None until that is decided.
    winner: str = _FAILED
    end: Outcome[Any] = field(default_factory=Outcome[Any])
