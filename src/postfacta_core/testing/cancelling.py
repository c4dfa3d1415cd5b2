"""Cancel a piece of work at each of its awaits in turn, to check that it leaves nothing behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any

import anyio


async def cancel_at_each_await(
    function: Callable[[], Awaitable[object]],
    check: Callable[[], object] = lambda: None,
    *,
    most: int = 1000,
) -> int:
    """Run the work, cancelled at its first await that waits; again, cancelled at its second; until it ends before.

    Only the awaits of the calling task count, not those of tasks that it starts. Work that waits for other tasks
    has to start them itself.

    Args:
        function: Begins the work anew.
        check: Called after each run, the last and uncancelled one included: it asserts that no permit is out, no
            waiter left.
        most: The most runs.

    Returns:
        How often an uncancelled run waits.

    Raises:
        RuntimeError: If this many runs are not enough.
    """
    for at in range(1, most + 1):
        scope = anyio.CancelScope()
        run = _Run(function(), at, scope.cancel)
        with scope:
            await run
        check()
        if run.awaits < at:
            return run.awaits
    raise RuntimeError(f"waits more often than {most} times: allow for more by `most`")


class _Run:
    """Passes values between the work and the event loop, and cancels at one of its waits."""

    def __init__(self, work: Awaitable[object], at: int, cancel: Callable[[], object]) -> None:
        self.awaits = 0
        self._work = work
        self._at = at
        self._cancel = cancel

    def __await__(self) -> Generator[Any, Any, object]:
        work = self._work.__await__()
        step: Callable[[], Any] = partial(work.send, None)
        while True:
            try:
                waited_for = step()
            except StopIteration as end:
                return end.value
            self.awaits += 1
            if self.awaits == self._at:
                self._cancel()
            try:
                step = partial(work.send, (yield waited_for))
            except GeneratorExit:
                work.close()
                raise
            except BaseException as error:  # noqa: BLE001 - it is the work's, and is raised there
                step = partial(work.throw, error)
