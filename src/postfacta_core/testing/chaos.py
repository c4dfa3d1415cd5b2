"""Inject faults on purpose: latency, errors, cancellation, by script or at each await."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from types import coroutine
from typing import Any, ParamSpec, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from ..guards._guard import Guard

P = ParamSpec("P")
T = TypeVar("T")

_SCOPE: ContextVar[anyio.CancelScope | None] = ContextVar("postfacta_chaos_scope", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The fault of one call; the latency comes first.

    Attributes:
        latency: Seconds to wait; `math.inf` hangs until it is cancelled.
        error: Makes what is raised: an exception's class, or a function without arguments.
        cancel: Whether the caller goes away: the nearest `cancellable` block is cancelled.
        after: Whether the function is called first, and its answer is what gets lost or late.
            Otherwise one that meets an error or a cancellation is never called.
    """

    latency: float = 0.0
    error: Callable[[], Exception] | None = None
    cancel: bool = False
    after: bool = False

    def __post_init__(self) -> None:
        if not self.latency >= 0:
            raise ValueError(f"needs a latency in seconds, 0 or more: {self}")
        if self.error is not None and self.cancel:
            raise ValueError(f"raises an error or is cancelled, not both: {self}")


class Chaos(Guard):
    """A guard that makes some of the calls fail.

    `Chaos([Fault(error=OSError), None, Fault(latency=2)])`.

    Let it stand in a `Pipeline`, the last one for a dependency that fails, the first one for a
    caller that does. Or decorate an async function with it.

    Args:
        faults: One for each call, in order; None lets a call pass, and so does the end. It may be
            endless, and drawn by chance, as by `random.choices`.

    Attributes:
        is_active: Whether faults are injected. While it is false calls pass, and use none of them
            up.
        calls: How many there were.
        injected: What went wrong, in order.
    """

    kind = "chaos"
    no_sync = "its faults are awaited"

    def __init__(self, faults: Iterable[Fault | None] = ()) -> None:
        super().__init__("chaos", observer=None)
        self.is_active: bool = True
        self.calls: int = 0
        self.injected: list[Fault] = []
        self._faults = iter(faults)

    async def call(
        self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call the function, or make that fail.

        Raises:
            RuntimeError: If the fault is a cancellation, and no `cancellable` block is around.
        """
        self.calls += 1
        fault = next(self._faults, None) if self.is_active else None
        if fault is None:
            return await function(*args, **kwargs)
        self.injected.append(fault)
        if not fault.after:
            await self._inject(fault)
        answer = await function(*args, **kwargs)
        if fault.after:
            await self._inject(fault)
        return answer

    async def _inject(self, fault: Fault) -> None:
        if fault.latency:
            await anyio.sleep(fault.latency)
        if fault.cancel:
            scope = _SCOPE.get()
            if scope is None:
                raise RuntimeError(
                    "needs `with cancellable():` around the call: else there is nothing to cancel"
                )
            scope.cancel()
            # The cancellation arrives here; behind a shield it arrives once that has ended.
            await checkpoint()
        if fault.error is not None:
            raise fault.error()


@contextmanager
def cancellable() -> Generator[anyio.CancelScope]:
    """Mark what an injected cancellation cancels, with the tasks started inside.

    The scope says if it did.
    """
    with anyio.CancelScope() as scope:
        token = _SCOPE.set(scope)
        try:
            yield scope
        finally:
            _SCOPE.reset(token)


async def cancel_at_each_await(
    function: Callable[[], Awaitable[object]], check: Callable[[], object] = lambda: None
) -> int:
    """Run the work, cancelled at its first await that waits.

    Again, cancelled at its second; until it ends before.

    Return how often an uncancelled run waits. Only the awaits of the calling task count, not those
    of tasks that it starts. Work that waits for other tasks has to start them itself. The check is
    called after each run, the last and uncancelled one included.
    """
    at = 0
    while True:
        at += 1
        awaits = at  # Unless it ends before.
        with anyio.CancelScope() as scope:
            awaits = await _run(function(), at, scope.cancel)
        check()
        if awaits < at:
            return awaits


@coroutine
def _run(
    work: Awaitable[object], at: int, cancel: Callable[[], object]
) -> Generator[Any, Any, int]:
    """Pass values between work and event loop, cancel at one of its waits, return their number."""
    steps = work.__await__()
    awaits = 0
    step: Callable[[], Any] = partial(steps.send, None)
    while True:
        try:
            waited_for = step()
        except StopIteration:
            return awaits
        awaits += 1
        if awaits == at:
            cancel()
        try:
            step = partial(steps.send, (yield waited_for))
        except GeneratorExit:
            steps.close()
            raise
        except BaseException as error:  # noqa: BLE001 - it is the work's, and is raised there
            step = partial(steps.throw, error)
