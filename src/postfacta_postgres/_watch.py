"""End statements that take too long, by one timer for all of a pool.

A timer of the driver for each statement costs more than the rest of what a statement costs here.

1. The timer is set for the earliest limit of the statements under way. It stays when that statement
   ends, for those that follow: it is set anew only for a limit that is earlier still.
2. When it fires, the tasks whose limits have passed are cancelled, and it is set for the earliest
   of the other limits.
3. The driver asks the server to end a statement whose task is cancelled, and lets no other one pass
   before the answer.
4. That cancellation becomes a TimeoutError, unless a caller has cancelled the task too.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

T = TypeVar("T")


class Watch:
    """The limits of the statements under way in an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._limits: dict[asyncio.Task[Any], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = math.inf

    async def within(
        self, seconds: float, call: Callable[..., Awaitable[T]], *arguments: object
    ) -> T:
        """Await a call of the driver; raise TimeoutError if it takes longer, or has no time.

        A task makes one call at a time.
        """
        if seconds <= 0.0:
            raise TimeoutError
        task = cast("asyncio.Task[Any]", asyncio.current_task(self._loop))
        cancellations = task.cancelling()
        limit = self._loop.time() + seconds
        self._limits[task] = limit
        if limit < self._fires_at:
            self._set(limit)
        try:
            return await call(*arguments)
        except BaseException as error:
            is_late = task not in self._limits and task.uncancel() <= cancellations
            if is_late and isinstance(error, asyncio.CancelledError):
                raise TimeoutError from error
            raise
        finally:
            self._limits.pop(task, None)

    def close(self) -> None:
        """Leave no timer behind."""
        if self._timer is not None:
            self._timer.cancel()
        self._fires_at = math.inf

    def _set(self, limit: float) -> None:
        self.close()
        self._timer = self._loop.call_at(limit, self._fire)
        self._fires_at = limit

    def _fire(self) -> None:
        now = self._loop.time()
        for task, limit in tuple(self._limits.items()):
            if limit <= now:
                del self._limits[task]
                task.cancel()
        self._fires_at = math.inf
        if self._limits:
            self._set(min(self._limits.values()))
