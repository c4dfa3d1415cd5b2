"""Put guards around a call, one inside of the other."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial, wraps
from types import TracebackType
from typing import Any, Final, ParamSpec, Protocol, Self, TypeVar, cast, runtime_checkable

from .._functions import must_be_async
from .timeout import Timeout

__all__ = ["Guard", "Pipeline"]

P = ParamSpec("P")
T = TypeVar("T")
_EXAMPLE: Final = 'for example Pipeline(Timeout(2), Retry("billing"))'
# A guard's `call`, as it is used here: (function, *arguments of the function).
_Call = Callable[..., Coroutine[Any, Any, Any]]


@runtime_checkable
class Guard(Protocol):
    """What a `Pipeline` is made of: it calls a function, or refuses to, or calls it more than once.

    A guard that can hold a block open is an async context manager too, for several blocks at the same time. If its
    `call` also takes `*args` and `**kwargs` for the function, as those of this library do, a call through a
    pipeline makes no object for it.
    """

    # No `async def`, so that one that returns another's coroutine is a guard too.
    def call(self, function: Callable[[], Awaitable[T]], /) -> Coroutine[Any, Any, T]:
        """Call the function; its result and its exceptions are the call's."""
        ...


class Pipeline:
    """Guards around a call; the first is the outermost.

        Pipeline(Timeout(2), Retry("billing"), breaker, Bulkhead("billing", 10))

    Here two seconds bound all tries together, the circuit counts each try, and an open circuit takes no slot. Use
    it by `call`, as a decorator of async functions, or by `async with`, if each guard can hold a block open. A
    pipeline is a guard too; inside of another, it is as if its guards stood there.

    Args:
        guards: From the outermost to the innermost.

    Raises:
        TypeError: If one of them is no guard.
        ValueError: If there is none, if one stands there twice, or if a `Timeout` stands inside of another one that
            always ends first.
    """

    def __init__(self, *guards: Guard) -> None:
        self.guards: tuple[Guard, ...] = tuple(_flat(guards))
        _refuse_nonsense(self.guards)
        # Each guard's `call` is handed that of the next one as its function, and those after it as arguments of
        # that. So guards are joined once, and a call needs no closure for each of them.
        self._first, *rest = [_variadic(guard) for guard in self.guards]
        self._rest: tuple[_Call, ...] = tuple(rest)
        self._unable = [_line(guard) for guard in self.guards if not _can_hold(guard)]

    def __repr__(self) -> str:
        return f"Pipeline({', '.join(_line(guard) for guard in self.guards)})"

    def describe(self) -> str:
        """Write one line for each guard, the outermost first."""
        return "\n".join(_line(guard) for guard in self.guards)

    def call(
        self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]:
        """Call a function through all guards; what it raises, or a guard does, is raised.

        A guard that tries again calls it again, with the same arguments.
        """
        if kwargs:
            # A keyword is for the function alone, whatever the guards may call their own.
            return self._first(*self._rest, partial(function, *args, **kwargs))
        return self._first(*self._rest, function, *args)

    def __call__(self, function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        """Decorate an async function, so that each call of it goes through all guards."""
        must_be_async("Pipeline", function)

        @wraps(function)
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            return await self.call(function, *args, **kwargs)

        return guarded

    async def __aenter__(self) -> Self:
        """Enter all guards.

        Raises:
            TypeError: If one of them cannot hold a block open.
        """
        if self._unable:
            raise TypeError(
                f"cannot guard a block by {', '.join(self._unable)}: it calls a function, perhaps again. "
                "Use call() or decorate a function"
            )
        entered: list[Guard] = []
        try:
            for guard in self.guards:
                await cast("Any", guard).__aenter__()
                entered.append(guard)
        except BaseException as error:
            # One that is entered already may say it better, as a timeout does.
            if not await _leave(entered, error):
                raise
            raise AssertionError("a guard must not take a refusal for its own") from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return await _leave(self.guards, error)


async def _leave(guards: Sequence[Guard], error: BaseException | None) -> bool:
    """Leave guards from the innermost to the outermost; return whether one of them suppressed the error."""
    if not guards:
        return False
    *outer, innermost = guards
    try:
        kind, trace = (None, None) if error is None else (type(error), error.__traceback__)
        is_taken = await cast("Any", innermost).__aexit__(kind, error, trace)
    except BaseException as another:
        if not await _leave(outer, another):
            raise
        return True
    rest = await _leave(outer, None if is_taken else error)
    return error is not None and bool(is_taken or rest)


def _flat(guards: Sequence[Guard]) -> list[Guard]:
    flat: list[Guard] = []
    for guard in guards:
        flat.extend(guard.guards if isinstance(guard, Pipeline) else [guard])
    return flat


def _refuse_nonsense(guards: Sequence[Guard]) -> None:
    if not guards:
        raise ValueError(f"Pipeline.guards must be one guard at least, not none; {_EXAMPLE}")
    seen: list[Guard] = []
    shortest: Timeout | None = None
    for guard in guards:
        if isinstance(guard, type) or not isinstance(cast("object", guard), Guard):
            msg = f"Pipeline.guards must be guards, objects with a call(function), not {guard!r}; {_EXAMPLE}"
            raise TypeError(msg)
        if not _takes_a_function_alone(guard):
            raise TypeError(f"no guard, as its call needs more than a function: {_line(guard)}")
        if any(guard is other for other in seen):
            raise ValueError(f"{_line(guard)} stands twice in one pipeline: each call would count twice")
        seen.append(guard)
        if isinstance(guard, Timeout):
            if shortest is not None and guard.seconds >= shortest.seconds:
                raise ValueError(f"{guard!r} never ends a call, as it stands inside of {shortest!r}")
            shortest = guard


def _takes_a_function_alone(guard: Guard) -> bool:
    try:
        inspect.signature(guard.call).bind(None)
    except TypeError:
        return False
    return True


def _can_hold(guard: Guard) -> bool:
    return hasattr(guard, "__aenter__") and hasattr(guard, "__aexit__")


def _variadic(guard: Guard) -> _Call:
    """Return a `call` that passes the function's arguments: the guard's own, if it does so."""
    kinds = [parameter.kind for parameter in inspect.signature(guard.call).parameters.values()]
    if kinds[1:2] == [inspect.Parameter.VAR_POSITIONAL]:
        return cast("_Call", guard.call)

    def call(function: Callable[..., Awaitable[Any]], /, *args: Any) -> Coroutine[Any, Any, Any]:
        return guard.call(partial(function, *args))

    return call


def _line(guard: Guard) -> str:
    if type(guard).__repr__ is not object.__repr__:
        return repr(guard)
    return f"{type(guard).__name__}({getattr(guard, 'name', '')!r})"
