"""Run health checks in the background, so that a probe is answered from memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from inspect import isroutine
from types import TracebackType
from typing import Final, Self

import anyio

from .._functions import is_async
from ..clock import LUCK, MONOTONIC, Clock, Luck
from ..events import HealthChecked, Observer, observing, process_observer
from ..validation import validation
from ._verdict import CheckConfig, CheckResult, CheckState, HealthReport, fold, inspect, summarize

__all__ = ["NO_LIFESPAN", "HealthRegistry"]

NO_LIFESPAN: Final = (
    "No lifespan has reached this application: its resources are not open, it is not ready, and it gets no SIGTERM."
    " Harden the outermost application, since a Mount passes no lifespan on, and let the server run it, as"
    " uvicorn does with --lifespan on."
)
"""What is wrong if a request comes before the lifespan has started, and what to do."""

Check = Callable[[], Awaitable[object]]


class HealthRegistry:
    """Holds a service's health, from checks that run on their own schedules.

    An async context manager: it owns the tasks of its checks. It starts no matter how the dependencies are, and a
    service becomes ready when they come. Without checks it is ready once entered. Once it was left it may be entered
    again, and then has no earlier results.

    A check is foreign code: what it raises is a failed result, what hangs is cancelled, what ignores that turns
    stale, and nothing of it reaches another check. Only a check that shields itself from cancellation can hold
    up the exit.

    Args:
        observer: Receives every result. It may raise.
        clock: Monotonic seconds.
        luck: Spreads the runs.
    """

    def __init__(
        self, *, observer: Observer | None = process_observer, clock: Clock = MONOTONIC, luck: Luck = LUCK
    ) -> None:
        validation.functions("HealthRegistry", clock=clock, luck=luck)
        self._observe = observing("HealthRegistry", "health", observer)
        self._clock = clock
        self._luck = luck
        self._checks: dict[str, _Watched] = {}
        self._exit: AsyncExitStack | None = None
        self._draining = False
        self._is_over = False

    def add(
        self,
        name: str,
        check: Check,
        *,
        critical: bool = True,
        interval: float = 2.0,
        timeout: float = 1.0,
        fall: int = 3,
        rise: int = 2,
        stale_after: float | None = None,
    ) -> None:
        """Add a check, before the registry is entered.

        Args:
            name: Names it in reports, events and metrics.
            check: Passes if it returns anything but False within the timeout.
            critical: Whether it fails readiness, or is reported only.
            interval: Seconds from the end of a run to the start of the next, with a tenth of jitter; a fifth of that
                unless the check is up and its last run passed.
            timeout: Seconds after which a run is cancelled and has failed.
            fall: Failures in a row until it is down.
            rise: Successes in a row until it is up again.
            stale_after: Seconds after which a result counts as failed; see `CheckConfig`.

        Raises:
            ValueError: If the name is taken, or an option makes no sense.
            RuntimeError: If the registry is entered.
        """
        if self.is_entered:
            msg = f"add the check {name!r} before the registry is entered"
            raise RuntimeError(msg)
        validation.name("HealthRegistry.add.name", name, example='health.add("database", database.ping)')
        if name in self._checks:
            validation.refuse("HealthRegistry.add.name", name, "a name that no other check has")
        validation.function("HealthRegistry.add.check", check, example="an async function")
        if not is_async(check) and isroutine(check) and getattr(check, "__name__", "") != "<lambda>":
            validation.refuse(
                "HealthRegistry.add.check",
                check,
                "an async function: a plain one would block the event loop",
                example="async def check(): ...",
            )
        config = CheckConfig(
            critical=critical,
            interval=interval,
            timeout=timeout,
            fall=fall,
            rise=rise,
            stale_after=stale_after,
        )
        self._checks[name] = _Watched(check, config, CheckState(since=self._clock()))

    @property
    def is_entered(self) -> bool:
        """Whether its checks run: between the start of the service's lifespan and its end."""
        return self._exit is not None and not self._is_over

    def snapshot(self) -> HealthReport:
        """Return the service's health, from memory."""
        now = self._clock()
        watched = self._checks.values()
        return summarize(
            [inspect(name, one.state, one.config, now=now) for name, one in self._checks.items()],
            entered=self._exit is not None,
            draining=self._draining,
            has_started=all(one.state.has_passed for one in watched if one.config.critical),
        )

    def drain(self) -> None:
        """Mark the service unready, whatever checks report later. It may be called twice."""
        self._draining = True

    async def run_once(self, name: str) -> HealthChecked:
        """Run one check now, besides its schedule, and count its result.

        Raises:
            KeyError: If there is no such check.
        """
        watched = self._checks[name]
        run = _Run(watched.check, watched.config.timeout)
        started = self._clock()
        # In a group of its own, a check that cancels itself, as one that awaits a cancelled future does, takes
        # down this group and not the one that runs all checks and the service.
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run.go, name=f"health check {name}")
        return self._record(name, started, run.error)

    def _record(self, name: str, started: float, error: str) -> HealthChecked:
        watched, now = self._checks[name], self._clock()
        # One that swallowed its cancellation, or blocked the loop, is late all the same.
        if not error and now >= started + watched.config.timeout:
            error = TimeoutError.__name__
        result = CheckResult(at=now, passed=not error, seconds=now - started, error=error)
        watched.state = fold(watched.state, result, watched.config)
        event = HealthChecked(
            check=name,
            critical=watched.config.critical,
            passed=result.passed,
            up=watched.state.up is True,
            seconds=result.seconds,
            error=error,
        )
        self._observe(event)
        return event

    async def _keep_running(self, name: str) -> None:
        while True:
            await self.run_once(name)
            watched = self._checks[name]
            await anyio.sleep(watched.config.wait(watched.state, self._luck()))

    async def __aenter__(self) -> Self:
        """Start the checks; the first runs begin at once.

        Raises:
            RuntimeError: If it is entered already.
        """
        if self.is_entered:
            raise RuntimeError("these checks run already: a HealthRegistry is entered once at a time")
        if self._is_over:
            self._draining = self._is_over = False
            for watched in self._checks.values():
                watched.state = CheckState(since=self._clock())
        async with AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            for name in self._checks:
                tasks.start_soon(self._keep_running, name, name=f"health {name}")
            self._exit = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drain()
        if self._exit is None:
            raise AssertionError("left, but never entered")
        self._is_over = True
        # What ended the block is not for the task group to wrap.
        await self._exit.aclose()


@dataclass(slots=True)
class _Watched:
    check: Check
    config: CheckConfig
    state: CheckState


class _Run:
    """One run of a check; `error` is empty once it has passed."""

    def __init__(self, check: Check, seconds: float) -> None:
        self.error = "Cancelled"
        self._check = check
        self._seconds = seconds

    async def go(self) -> None:
        try:
            with anyio.fail_after(self._seconds):
                answer = await self._check()
        except Exception as error:  # noqa: BLE001 - it is foreign code, and may raise anything
            self.error = type(error).__name__
        else:
            self.error = "ReturnedFalse" if answer is False else ""
