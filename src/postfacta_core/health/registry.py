"""Run health checks in the background, so that a probe is answered from memory."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import AsyncExitStack
from functools import partial
from inspect import isawaitable
from typing import Final, Self, cast

import anyio

from ..clock import LUCK, MONOTONIC, Clock, Luck
from ..events import HealthChecked, Observer, observing, process_observer
from ..functions import is_async
from ..validation import validation
from ._verdict import Check, CheckReport as CheckReport, HealthReport as HealthReport, Watched

NO_LIFESPAN: Final = (
    "No lifespan has reached this application: its resources are not open, it is not ready, and it"
    " gets no SIGTERM. Harden the outermost application, since a Mount passes no lifespan on, and"
    " let the server run it, as uvicorn does with --lifespan on."
)
"""What is wrong if a request comes before the lifespan has started, and what to do."""


class HealthRegistry:
    """Holds a service's health, from checks that run on their own schedules.

    An async context manager: it owns the tasks of its checks. It starts no matter how the
    dependencies are, and a service becomes ready when they come, or at once without checks. Entered
    again, it has no earlier results.

    What a check raises is a failed result, what hangs is cancelled, what ignores that turns stale.
    Only a check that shields itself from cancellation can hold up the exit.

    Args:
        observer: Receives every result. It may raise.
        clock: Monotonic seconds.
        luck: Spreads the runs.

    Attributes:
        is_entered: Whether its checks run: between the start of the service's lifespan and its end.
    """

    def __init__(
        self,
        *,
        observer: Observer | None = process_observer,
        clock: Clock = MONOTONIC,
        luck: Luck = LUCK,
    ) -> None:
        validation.functions("HealthRegistry", clock=clock, luck=luck)
        self._observe = observing("HealthRegistry", "health", observer)
        self._clock = clock
        self._luck = luck
        self._checks: dict[str, Watched] = {}
        self._stack = AsyncExitStack()
        self.is_entered: bool = False
        self._draining = False

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
    ) -> None:
        """Add a check, before the registry is entered.

        Args:
            name: Names it in reports, events and metrics.
            check: Passes if it returns anything but False within the timeout. A lambda may return
                the result itself, and must not block.
            critical: Whether it fails readiness, or is reported only.
            interval: Seconds from the end of a run to the start of the next, with a tenth of
                jitter; a fifth of that unless the check is up and its last run passed.
            timeout: Seconds after which a run is cancelled and has failed.
            fall: Failures in a row until it is down.
            rise: Successes in a row until it is up again.

        Raises:
            ValueError: If the name is taken, or an option makes no sense.
            RuntimeError: If the registry is entered.
        """
        if self.is_entered:
            raise RuntimeError(f"add the check {name!r} before the registry is entered")
        validation.name(
            "HealthRegistry.add.name", name, example='health.add("database", database.ping)'
        )
        if name in self._checks:
            validation.refuse("HealthRegistry.add.name", name, "a name that no other check has")
        validation.function("HealthRegistry.add.check", check, example="an async function")
        function = check
        while isinstance(function, partial):
            function = function.func
        if not is_async(function) and getattr(function, "__name__", "") != "<lambda>":
            rule = "an async function: a plain one would block the event loop"
            validation.refuse(
                "HealthRegistry.add.check", check, rule, example="async def check(): ..."
            )
        now = self._clock()
        self._checks[name] = Watched(
            name,
            check,
            now,
            critical=critical,
            interval=interval,
            timeout=timeout,
            fall=fall,
            rise=rise,
        )

    def snapshot(self) -> HealthReport:
        """Return the service's health, from memory."""
        now = self._clock()
        checks = self._checks.values()
        reports = tuple(check.report(now) for check in checks)
        return HealthReport(
            live=True,  # Any answer shows that the process and its loop are alive.
            ready=self.is_entered
            and not self._draining
            and all(report.up for report in reports if report.critical),
            started=self.is_entered and all(check.has_passed for check in checks if check.critical),
            draining=self._draining,
            checks=reports,
        )

    def drain(self) -> None:
        """Mark the service unready, whatever checks report later. It may be called twice."""
        self._draining = True

    async def run_once(self, name: str) -> HealthChecked:
        """Run one check now, besides its schedule, and count its result.

        KeyError if there is none of this name.
        """
        watched = self._checks[name]
        error = "Cancelled"

        async def run() -> None:
            nonlocal error
            try:
                with anyio.fail_after(watched.timeout):
                    # What a lambda returned may be the result itself.
                    made = cast("object", watched.check())
                    result = await cast("Awaitable[object]", made) if isawaitable(made) else made
                    error = "ReturnedFalse" if result is False else ""
            except Exception as raised:  # noqa: BLE001 - it is foreign code, and may raise anything
                error = type(raised).__name__

        started = self._clock()
        # In a group of its own, a check that cancels itself takes down no other, and not the
        # service.
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, name=f"health check {name}")
        now = self._clock()
        # It may have swallowed its cancellation, or blocked the loop.
        if not error and now >= started + watched.timeout:
            error = TimeoutError.__name__
        event = watched.count(now, now - started, error)
        self._observe(event)
        return event

    async def _keep_running(self, watched: Watched) -> None:
        while True:
            await self.run_once(watched.name)
            await anyio.sleep(watched.wait(self._luck()))

    async def __aenter__(self) -> Self:
        """Start the checks, at once; RuntimeError if it is entered already."""
        if self.is_entered:
            raise RuntimeError(
                "these checks run already: a HealthRegistry is entered once at a time"
            )
        self._draining = False
        tasks = await self._stack.enter_async_context(anyio.create_task_group())
        self._stack.callback(tasks.cancel_scope.cancel)
        for name, watched in self._checks.items():
            watched.begin(self._clock())
            tasks.start_soon(self._keep_running, watched, name=f"health {name}")
        self.is_entered = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.drain()
        self.is_entered = False
        # What ended the block is not for the task group to wrap.
        await self._stack.aclose()
