"""Inject faults on purpose: latency, errors, cancellation, by script."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from ..guards._guard import Guard

P = ParamSpec("P")
T = TypeVar("T")
_Sleep = Callable[[float], Awaitable[object]]

_SCOPE: ContextVar[anyio.CancelScope | None] = ContextVar("postfacta_chaos_scope", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The fault of one call; the latency comes first.

    Attributes:
        latency: Seconds to wait; `math.inf` hangs until it is cancelled.
        error: Makes what is raised: an exception's class, or a function without arguments.
        cancel: Whether the caller goes away: the nearest `cancellable` block is cancelled.
        after: Whether the function is called first, and its answer is what gets lost or late. Otherwise one that
            meets an error or a cancellation is never called.
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
    """Calls functions, and makes some of the calls fail.

    It is a guard: let it stand in a `Pipeline`, the last one for a dependency that fails, the first one for a
    caller that does. Or decorate an async function with it.

        chaos = Chaos([Fault(error=ConnectionResetError), None, Fault(latency=2)])

    Args:
        faults: One for each call, in order; None lets a call pass, and so does the end. It may be endless, and drawn by
            chance, as by `random.choices`.
        name: Its name in the description of a pipeline.
        sleep: Waits the given seconds.

    Attributes:
        is_active: Whether faults are injected. While it is false calls pass, and use none of them up.
        calls: How many there were.
        injected: What went wrong, in order.
    """

    kind = "chaos"
    no_sync = "its faults are awaited"

    def __init__(
        self, faults: Iterable[Fault | None] = (), *, name: str = "chaos", sleep: _Sleep = anyio.sleep
    ) -> None:
        super().__init__(name, observer=None)
        self.is_active: bool = True
        self.calls: int = 0
        self.injected: list[Fault] = []
        self._faults = iter(faults)
        self._sleep = sleep

    def __repr__(self) -> str:
        return f"Chaos({self.name!r}, calls={self.calls}, injected={len(self.injected)})"

    async def call(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function, or make that fail.

        Raises:
            Exception: The fault's error, or the function's own.
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
        if fault.latency == math.inf:
            await anyio.sleep_forever()
        if fault.latency:
            await self._sleep(fault.latency)
        if fault.cancel:
            await _cancel_caller()
        if fault.error is not None:
            raise fault.error()


@contextmanager
def cancellable() -> Generator[anyio.CancelScope]:
    """Mark what an injected cancellation cancels: the caller, whatever policies stand between.

    The scope it returns has in `cancelled_caught` whether that happened. Tasks that are started inside belong to it.
    """
    with anyio.CancelScope() as scope:
        token = _SCOPE.set(scope)
        try:
            yield scope
        finally:
            _SCOPE.reset(token)


async def _cancel_caller() -> None:
    scope = _SCOPE.get()
    if scope is None:
        raise RuntimeError("needs `with cancellable():` around the call: else there is nothing to cancel")
    scope.cancel()
    # The cancellation arrives here; behind a shield it arrives once that has ended.
    await checkpoint()
