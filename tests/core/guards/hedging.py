"""What the tests of hedged calls share: tries of a given length, and a bench that runs them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from postfacta_core.context import RequestContext, bind_request, release_request
from postfacta_core.events import Mode
from postfacta_core.guards import On
from postfacta_core.guards.budget import RetryBudget
from postfacta_core.guards.hedge import Hedge
from postfacta_core.testing import ManualClock, RecordingObserver

__all__ = ["WHERE", "Bench", "Caller", "HedgeAtOnce", "Try", "deadline", "settled"]

WHERE: ContextVar[str] = ContextVar("where", default="outside")


class Try:
    """One try, as a test drives it: it waits until the test ends it."""

    def __init__(self) -> None:
        self.has_begun = anyio.Event()
        self.has_ended = False
        self.was_cancelled = False
        self._go = anyio.Event()
        self._error: BaseException | None = None
        self._answer = ""

    def answer(self, text: str) -> None:
        self._answer = text
        self._go.set()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self._go.set()

    async def run(self) -> str:
        self.has_begun.set()
        try:
            await self._go.wait()
        except BaseException:
            self.was_cancelled = True
            # A try may take its time to clean up: the call must wait for that.
            with anyio.CancelScope(shield=True):
                await checkpoint()
                await checkpoint()
            raise
        finally:
            self.has_ended = True
        if self._error is not None:
            raise self._error
        return self._answer


class _Driven(Hedge):
    """Waits as the test says."""

    later: Callable[[TaskGroup, float, Callable[[], object]], Callable[[], object]]

    def _later(
        self, tasks: TaskGroup, seconds: float, act: Callable[[], object]
    ) -> Callable[[], object]:
        return self.later(tasks, seconds, act)


class Bench:
    """A hedge whose delay ends when the test says so."""

    def __init__(
        self,
        *,
        budget: RetryBudget | None = None,
        mode: Mode = Mode.ENFORCE,
        delay: float | str | Callable[[], float] = 0.05,
        on: On = (),
    ) -> None:
        self.clock = ManualClock()
        self.observed = RecordingObserver()
        self.slept: list[float] = []
        self.delay_is_over = anyio.Event()
        self.tries = [Try(), Try()]
        self._started = 0
        self.hedge = _Driven(
            "search",
            delay=delay,
            on=on,
            budget=budget,
            mode=mode,
            observer=self.observed,
            clock=self.clock,
        )
        self.hedge.later = self.later

    def later(
        self, tasks: TaskGroup, seconds: float, act: Callable[[], object]
    ) -> Callable[[], object]:
        self.slept.append(seconds)
        is_off = anyio.Event()

        async def wait() -> None:
            while not self.delay_is_over.is_set() and not is_off.is_set():
                await checkpoint()
            if not is_off.is_set():
                act()

        tasks.start_soon(wait)
        return is_off.set

    async def dependency(self) -> str:
        self._started += 1
        return await self.tries[self._started - 1].run()

    async def end_delay(self) -> None:
        self.clock.advance(0.05)
        self.delay_is_over.set()
        with anyio.fail_after(5):
            await self.tries[1].has_begun.wait()

    @property
    def started(self) -> int:
        return self._started

    def counts(self) -> dict[str, float]:
        return {
            sample.labels[1]: sample.value
            for sample in self.hedge.collect()
            if len(sample.labels) > 1 and sample.value
        }


class Caller:
    """A call in a task of its own, so that the test can drive it."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.answer: str | None = None
        self.error: BaseException | None = None
        self.scope = anyio.CancelScope()
        self.has_ended = anyio.Event()

    async def run(self) -> None:
        with self.scope:
            try:
                self.answer = await self.bench.hedge.call(self.bench.dependency)
            except Exception as error:  # noqa: BLE001 - the test looks at it
                self.error = error
        self.has_ended.set()

    async def ended(self) -> None:
        with anyio.fail_after(5):
            await self.has_ended.wait()


@contextmanager
def deadline(clock: ManualClock, seconds: float) -> Generator[None]:
    request = RequestContext("0123456789abcdef", clock.now, clock)
    request.deadline = clock.now + seconds
    token = bind_request(request)
    try:
        yield
    finally:
        release_request(token)


async def settled() -> None:
    for _ in range(5):
        await checkpoint()


class HedgeAtOnce(Hedge):
    """Does not wait for its delay."""

    def _later(
        self, tasks: TaskGroup, seconds: float, act: Callable[[], object]
    ) -> Callable[[], object]:
        act()
        return lambda: None
