"""Measure how late the event loop runs.

A loop that is busy takes longer than it should to come back to a task that has slept. That is how long every request
waits besides its own work, and no count of requests shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import anyio
from anyio.abc import TaskGroup

from ..clock import MONOTONIC, Clock
from ..events import LoopLagged, Observer, fan_out, ignore

__all__ = ["LoopLag"]

# 20 beats a second cost some 0.2 ms of it.
_INTERVAL: Final = 0.05


class LoopLag:
    """Measures 20 times a second how late the event loop is.

    An async context manager, for the service's lifespan: it owns the task that measures. It may be entered again
    once it was left.

    Args:
        listeners: Called with the seconds at each beat, such as `LoadSheddingMiddleware.beat`. They must be quick and
            must not raise.
        observer: Receives each beat. It may raise.
        clock: Monotonic seconds.
    """

    def __init__(
        self, *listeners: Callable[[float], object], observer: Observer = ignore, clock: Clock = MONOTONIC
    ) -> None:
        self._listeners = listeners
        self._observe = fan_out([observer])
        self._clock = clock
        self._tasks: TaskGroup | None = None

    async def beat(self) -> float:
        """Measure once; return how late the loop was, in seconds."""
        began = self._clock()
        await anyio.sleep(_INTERVAL)
        late = max(0.0, self._clock() - began - _INTERVAL)
        for listener in self._listeners:
            listener(late)
        self._observe(LoopLagged(late))
        return late

    async def _keep_beating(self) -> None:
        while True:
            await self.beat()

    async def __aenter__(self) -> Self:
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._keep_beating, name="loop lag")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if (tasks := self._tasks) is None:
            raise AssertionError("left, but never entered")
        tasks.cancel_scope.cancel()
        if isinstance(error, Exception):
            # The group would wrap the service's own error in an ExceptionGroup.
            await tasks.__aexit__(None, None, None)
            return None
        return await tasks.__aexit__(kind, error, trace)
