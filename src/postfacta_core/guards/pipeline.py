"""Put guards around a call, one inside of the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import combinations
from typing import Any, Final, cast

from ..limits.rate import RateCounter
from ._guard import Guard, P, Registry as Registry, Runner as Runner, T
from .timeout import Timeout

_EXAMPLE: Final = 'for example Pipeline(Timeout(2), Retry("billing"))'
_BLIND: Final = (
    "it would not see the errors that the fallback stands in for: put the fallback first"
)
# Why a guard must not stand inside of another one of a kind.
_NONSENSE: Final = {
    ("retry", "fallback"): _BLIND,
    ("breaker", "fallback"): _BLIND,
    ("hedge", "fallback"): "it would take what stands in for an answer: put the fallback first",
    ("retry", "retry"): "tries would multiply, or the outer one never try again: keep one",
    ("hedge", "hedge"): "tries would multiply: keep one",
}


class Pipeline(Runner):
    """Guards around a call; the first is the outermost.

    A pipeline inside of another is as if its guards stood there.

        Pipeline(Timeout(2), Retry("billing"), breaker, Bulkhead("billing", 10))

    Here two seconds bound all tries together, the circuit counts each try, and an open circuit
    takes no slot.

    Args:
        guards: From the outermost to the innermost.

    Raises:
        TypeError: If one of them is no guard.
        ValueError: If there is none, one stands there twice, or their order makes no sense; it says
            why.
    """

    def __init__(self, *guards: Guard | Pipeline) -> None:
        self.guards: tuple[Guard, ...] = tuple(
            guard
            for part in guards
            for guard in (part.guards if isinstance(part, Pipeline) else (part,))
        )
        _refuse_nonsense(self.guards)
        # Each guard's `call` gets that of the next one as its function, and those after it as
        # arguments of that. So guards are joined once, and a call needs no closure for each of
        # them.
        calls: tuple[Callable[..., Any], ...] = tuple(guard.call for guard in self.guards)
        calls_sync: tuple[Callable[..., Any], ...] = tuple(guard.call_sync for guard in self.guards)
        self._first = calls[0]
        self._rest = calls[1:]
        self._first_sync = calls_sync[0]
        self._rest_sync = calls_sync[1:]
        self.no_sync: str = "; ".join(
            f"{guard!r} cannot, as {guard.no_sync}" for guard in self.guards if guard.no_sync
        )

    def __repr__(self) -> str:
        return f"Pipeline({', '.join(map(repr, self.guards))})"

    def call(
        self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[T]:
        """Call an async function through all guards; what it raises, or a guard does, is raised."""
        if kwargs:
            # A keyword is for the function alone, whatever the guards may call their own.
            return cast(
                "Awaitable[T]", self._first(*self._rest, partial(function, *args, **kwargs))
            )
        return cast("Awaitable[T]", self._first(*self._rest, function, *args))

    def call_sync(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a plain function through all guards.

        Raise `TypeError` if one of them cannot guard it.
        """
        if self.no_sync:
            super().call_sync(function, *args, **kwargs)
        if kwargs:
            return cast("T", self._first_sync(*self._rest_sync, partial(function, *args, **kwargs)))
        return cast("T", self._first_sync(*self._rest_sync, function, *args))


def _refuse_nonsense(guards: Sequence[Guard]) -> None:
    if not guards:
        raise ValueError(f"Pipeline.guards must be one guard at least, not none; {_EXAMPLE}")
    for guard in guards:
        if not isinstance(cast("object", guard), Guard):
            is_rate = isinstance(guard, RateCounter)
            hint = "for a rate of calls use RateLimiter" if is_rate else _EXAMPLE
            raise TypeError(f"Pipeline.guards must be guards, not {guard!r}; {hint}")
    for outer, inner in combinations(guards, 2):
        if inner is outer:
            raise ValueError(f"{inner!r} stands twice in one pipeline: each call would count twice")
        if (
            isinstance(outer, Timeout)
            and isinstance(inner, Timeout)
            and inner.seconds >= outer.seconds
        ):
            raise ValueError(f"{inner!r} never ends a call, as it stands inside of {outer!r}")
        if why := _NONSENSE.get((outer.kind, inner.kind)):
            raise ValueError(f"{inner!r} must not stand inside of {outer!r}: {why}")
