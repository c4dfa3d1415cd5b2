"""Make a second try beside a first that is slow, and take whichever answers first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ParamSpec, TypeVar, cast

import anyio
from anyio.abc import TaskGroup

from .._functions import answer_of
from ..clock import MONOTONIC, Clock
from ..deadlines.present import present_limit
from ..events import Mode, Observer, Sample, process_observer
from ..validation import validation
from ._delay import HedgeOutcome, QuantileDelay
from ._guard import Guard, On, Outcome, running_loop
from .budget import RetryBudget

P = ParamSpec("P")
T = TypeVar("T")


class Hedge(Guard):
    """Start a call a second time if it is slow; the first answer wins, and the other try is cancelled and awaited.

    Only for calls that may be made twice at the same time, such as reads.

    * What `on` names is no answer: before the second has started, it starts at once.
    * Another error of the first is raised at once then: to try again is the job of `Retry`.
    * Once both run, an error of one leaves it to the other. If both fail, what the first ended with counts, bare.
    * The call ends when both tries have: one that does not heed its cancellation holds it up.

    Args:
        delay: Seconds after which the second starts, from 0 up, or a `QuantileDelay`.
        on: Which outcomes are no answers: types of errors; or a function of the `Outcome` that alone decides, of results
            too. If that raises, it is an answer. Nothing closes a response that has lost: `Outgoing` does.
        budget: What all that try this dependency again share, the `Retry` around this too; by default one of its
            own, of the same name.
        mode: `SHADOW` makes one try, and counts those that took longer than the delay; `OFF` is a plain call.
    """

    kind = "hedge"
    metric = "postfacta_hedge_attempts_total"
    example = 'Hedge("billing", delay=0.1)'
    no_sync = "a second thread of the same work is no hedge, as none can be stopped"

    def __init__(
        self,
        name: str,
        *,
        delay: float | QuantileDelay,
        on: On = (),
        budget: RetryBudget | None = None,
        mode: Mode | str = Mode.ENFORCE,
        observer: Observer | None = process_observer,
        clock: Clock = MONOTONIC,
    ) -> None:
        super().__init__(name, mode=mode, observer=observer, clock=clock)
        if not isinstance(delay, QuantileDelay):
            validation.number("Hedge.delay", delay, at_least=0, example="delay=0.1, or QuantileDelay()")
        self.delay: float | QuantileDelay = delay
        self._act_on(on)
        self.budget: RetryBudget = RetryBudget(name) if budget is None else budget
        validation.instance("Hedge.budget", self.budget, RetryBudget, example='RetryBudget("billing")')
        self._counts = {outcome.value: 0 for outcome in HedgeOutcome}
        self._announce(budget=self.budget.name)

    def settings(self) -> Mapping[str, object]:
        """Return its present delay, and the name of its budget."""
        return {"delay": self._delay(), **super().settings()}

    def status(self) -> Mapping[str, object]:
        """Return how many second tries its budget allows now."""
        return {"budget_tokens": self.budget.tokens(self._clock())}

    def collect(self) -> Iterable[Sample]:
        """Return its counts, for metrics: the outcomes of slow calls, and what is left of its budget."""
        return [*super().collect(), self.budget.sample(self._clock())]

    async def call(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it, and a second time beside that if it is slow."""
        mode = self._mode
        if mode is Mode.OFF:
            return await answer_of("Hedge", function, function(*args, **kwargs))
        race = _Race(partial(function, *args, **kwargs), self._clock())
        delay = self._delay()
        # A Retry that shares the budget has paid in for this call.
        if not self.budget.is_fed:
            self.budget.deposit()
        in_time = race.began + delay < present_limit()
        try:
            if mode is Mode.ENFORCE and in_time:
                await self._run(race, delay)
            else:
                await self._try(race, HedgeOutcome.FIRST)
                if mode is Mode.SHADOW and in_time:
                    self._note_shadow(race, delay)
            if race.has_second:
                self._counts[race.winner or HedgeOutcome.FAILED] += 1
            if race.end.error is not None:
                raise race.end.error
            return cast("T", race.end.result)
        finally:
            race.clear()

    def _delay(self) -> float:
        return self.delay.seconds if isinstance(self.delay, QuantileDelay) else self.delay

    async def _run(self, race: _Race, delay: float) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                race.stop = tasks.cancel_scope.cancel
                name = f"hedge {self.name}"
                begin = partial(copy_context().run, lambda: tasks.start_soon(self._follow, race, name=name))
                call_off = self._later(tasks, delay, begin)
                try:
                    await self._try(race, HedgeOutcome.FIRST)
                finally:
                    call_off()
                await self._follow(race)
        except BaseExceptionGroup as group:
            # What is no error of a try, such as a KeyboardInterrupt: its caller knows of no group.
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from None
            raise

    def _later(self, tasks: TaskGroup, seconds: float, act: Callable[[], object]) -> Callable[[], object]:
        """Call a function after some seconds, from a task of the group or the loop itself; return what calls it off."""
        loop = running_loop()
        if loop is not None:
            # In a context of its own: one that is called off would keep its request alive until then.
            return cast("Callable[[], object]", loop.call_later(seconds, act, context=Context()).cancel)
        scope = anyio.CancelScope()

        async def wait() -> None:
            with scope:
                await anyio.sleep(seconds)
                act()

        tasks.start_soon(wait)
        return scope.cancel

    async def _follow(self, race: _Race) -> None:
        """Make the second try, unless there is an answer, or there was one."""
        if not race.is_open or race.is_followed:
            return
        race.is_followed = True
        if self.budget.try_withdraw(self._clock()):
            race.has_second = True
            await self._try(race, HedgeOutcome.SECOND)
        else:
            self._counts[HedgeOutcome.BUDGET_REFUSED] += 1

    async def _try(self, race: _Race, which: HedgeOutcome) -> None:
        try:
            result: Any = race.start()
            result = await (
                result if hasattr(result, "__await__") else answer_of("Hedge", race.start.func, result)
            )
        except Exception as error:  # noqa: BLE001 - it is raised once both have ended
            self._end(race, which, Outcome(error=error))
        except BaseException:
            race.is_open = False
            raise
        else:
            self._end(race, which, Outcome(result))

    def _end(self, race: _Race, which: HedgeOutcome, outcome: Outcome[Any]) -> None:
        if not race.is_open:
            return
        race.ends[which] = outcome
        if self._is_answer(outcome, is_alone=not race.has_second):
            race.is_open, race.winner = False, which
            if race.has_second:
                race.stop()
            # If the second has won, the first would have taken longer still.
            says_how_long = which is HedgeOutcome.FIRST or HedgeOutcome.FIRST not in race.ends
            if outcome.error is None and says_how_long and isinstance(self.delay, QuantileDelay):
                self.delay.record(self._clock() - race.began)

    def _is_answer(self, outcome: Outcome[Any], *, is_alone: bool) -> bool:
        if self._predicate is None:
            return outcome.error is None or (is_alone and not isinstance(outcome.error, self._types))
        return not self._acts_on(outcome, otherwise=False)

    def _note_shadow(self, race: _Race, delay: float) -> None:
        now = self._clock()
        if race.is_open or now >= race.began + delay:
            has_token = self.budget.tokens(now) >= 1.0
            self._counts[HedgeOutcome.SHADOW if has_token else HedgeOutcome.BUDGET_REFUSED] += 1


@dataclass(slots=True, eq=False)
class _Race:
    """One call, open until a try has won; `is_followed` by a second try, or a refusal of the budget."""

    start: partial[Any]
    began: float
    stop: Callable[[], object] = lambda: None
    is_open: bool = True
    is_followed: bool = False
    has_second: bool = False
    winner: HedgeOutcome | None = None
    ends: dict[HedgeOutcome, Outcome[Any]] = field(default_factory=dict[HedgeOutcome, Outcome[Any]])

    @property
    def end(self) -> Outcome[Any]:
        """That of the try that won, or else of the first."""
        return self.ends[self.winner or HedgeOutcome.FIRST]

    def clear(self) -> None:
        """Drop all references: a cancelled task, or an error's traceback, may hold this for a while."""
        self.ends.clear()
        del self.start, self.stop
