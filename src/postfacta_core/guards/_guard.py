"""The base of all guards.

Name, mode, observer, the list of them all, and how a function is called under one.

A subclass adds its own verdict at four points, which the base calls once for async functions and
once for plain ones:

    ticket = _enter(function, args, kwargs)  admit; raise to refuse; or return a wait, a `partial`
    _passed(ticket, result) -> result        the call returned
    _failed(ticket, error) -> RAISE          the call raised; or a result in the error's place
    _dropped(ticket)                         cancelled or killed: only give back what is held

The lock is never held while the function, a wait or foreign code runs. It is reentrant: a coroutine
that the collector closes may give back what it holds at any allocation.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial, wraps
from types import CoroutineType, FrameType, FunctionType
from typing import Any, ClassVar, Final, Generic, ParamSpec, TypeVar, cast
from weakref import WeakValueDictionary

from ..clock import LUCK, MONOTONIC, Clock, Luck
from ..events import (
    ListenerFailed,
    Mode,
    ModeChanged,
    Observer,
    PolicyCreated,
    Sample,
    observing,
    process_observer,
)
from ..functions import answer_of, is_async, must_be_guardable
from ..validation import validation
from ._waits import refuse_on_loop, wait_in_task, wait_in_thread

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

RAISE: Final[Any] = object()  # What a guard answers to an error that it lets pass.


@dataclass(slots=True, eq=False)
class Outcome(Generic[T]):
    """The end of a call: the `result` that it returned, or the `error` that it raised.

    A cancelled one has none.
    """

    result: T | None = None
    error: Exception | None = None


Predicate = Callable[[Outcome[Any]], bool]

On = type[Exception] | tuple[type[Exception], ...] | Predicate
"""Which outcomes a guard acts on.

Types of errors, or a function of the `Outcome` that alone decides.
"""


def asked_by(outcome: Outcome[Any]) -> float | None:
    """Read how many seconds an outcome asks to wait.

    Its error's or result's `retry_after`, if that is a number.
    """
    seconds: object = getattr(
        outcome.result if outcome.error is None else outcome.error, "retry_after", None
    )
    return float(seconds) if isinstance(seconds, int | float) else None


_OURS: Final = "postfacta_core.guards"
_WAITING: Final[Any] = partial


class Runner:
    """What calls functions, or decorates them."""

    no_sync: str = ""  # Why it cannot guard a plain function; empty if it can.

    def call(
        self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[T]:
        """Call an async function."""
        raise NotImplementedError

    def call_sync(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a plain function; raise `TypeError` if that cannot be guarded, which says why."""
        raise TypeError(f"{self!r} cannot guard a plain function: {self.no_sync}")

    def __call__(self, function: F) -> F:
        """Decorate a function, async or plain: each call is guarded.

        Raise `TypeError` for one that cannot be.
        """
        owner = type(self).__name__
        must_be_guardable(owner, function, if_async=bool(self.no_sync))
        if is_async(function):

            @wraps(function)
            async def guarded(*args: Any, **kwargs: Any) -> Any:
                return await self.call(function, *args, **kwargs)

            return cast("F", guarded)

        @wraps(function)
        def guarded_sync(*args: Any, **kwargs: Any) -> Any:
            answer: Any = self.call_sync(function, *args, **kwargs)
            if type(answer) is CoroutineType:
                answer.close()
                msg = (
                    f"{owner} cannot guard {function!r}, a plain function that returns a coroutine:"
                    " make it an async def"
                )
                raise TypeError(msg)
            return answer

        return cast("F", guarded_sync)


class Guard(Runner):
    """What stands in a `Pipeline`, guards by `call` and `call_sync`, or decorates a function.

    Tasks and threads share it. If it may have to wait, a plain function waits in its thread, and is
    refused on an event loop.

    Args:
        name: Its metric label, and the `policy` of its errors: 1 to 64 letters, digits and
            `_.:/*-`, unique for its kind.
        mode: Text or member. `ENFORCE` acts, `SHADOW` only counts what it would do, `OFF` does
            nothing.
        observer: Receives its events, in any thread; it may raise. By default `asgi.Telemetry`'s;
            None for none.
        clock: Monotonic seconds. Deadlines are read on their own clocks.
        luck: Spreads waits.

    Raises:
        ValueError: If a setting is wrong, or the name is taken.
    """

    kind: ClassVar[str] = "guard"  # What it is called in the list.
    modes: ClassVar[tuple[Mode, ...]] = tuple(Mode)
    metric: ClassVar[str] = (
        ""  # That of its counts, whose labels are its name and what was counted.
    )
    _is_draft: bool = False  # Then it is neither listed nor announced.
    _may_wait: bool = (
        False  # Then it guards no plain code on an event loop, not even while it need not wait.
    )

    def __init__(
        self,
        name: str,
        *,
        mode: Mode | str = Mode.ENFORCE,
        observer: Observer | None = process_observer,
        clock: Clock = MONOTONIC,
        luck: Luck = LUCK,
    ) -> None:
        owner = type(self).__name__
        self.name: str = validation.name(f"{owner}.name", name)
        self.made_at: str = _maker(self)  # The file and line.
        self._mode = validation.choice(f"{owner}.mode", mode, Mode)
        validation.functions(owner, clock=clock, luck=luck)
        self._observe = observing(owner, name, observer)
        self._clock = clock
        self._luck = luck
        self._settings: dict[str, object] = {}
        # Arguments that may change while it runs, as it was made with.
        self._numbers: Mapping[str, object] = {}
        self._counts: dict[str, int] = {}
        self._by_mode: dict[Mode, dict[str, int]] = {}
        self._types: tuple[type[Exception], ...] = ()
        self._predicate: Predicate | None = None
        self._lock = threading.RLock()
        # On the path of every call: a with statement takes nearly twice as long.
        self._acquire = self._lock.acquire
        self._release = self._lock.release

    def __repr__(self) -> str:
        texts = (
            f", {key}={f'{value:g}' if isinstance(value, float) else repr(value)}"
            for key, value in self.settings().items()
        )
        return f"{type(self).__name__}({self.name!r}{''.join(texts)})"

    def _announce(self, **settings: object) -> None:
        """List it with its settings and announce it.

        The end of every `__init__`, so that one that raises leaves no trace.
        """
        self._settings.update(settings)
        self._mode_was_set()
        if not self._is_draft:
            registry.add(self)
            self._observe(PolicyCreated(self.name, self.collect))

    @property
    def mode(self) -> Mode:
        """How its decisions are used. A call under way keeps the one that it began with."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode | str) -> None:
        new = validation.choice(f"{type(self).__name__}.mode", mode, Mode)
        if new not in self.modes:
            validation.refuse(
                f"{type(self).__name__}.mode", new.value, "'enforce': it has no other"
            )
        with self._lock:
            old = self._mode
            self._mode = new
            self._mode_was_set()
        if old is not new:
            self._observe(ModeChanged(self.name, old, new))

    def tuned(self, /, **numbers: object) -> Callable[[], None]:
        """Check other numbers; return what makes it use them.

        What is not given is as it was made with. A call under way keeps what it began with.

        Raises:
            ValueError: If one is wrong, as at construction, or may not change while it runs.
        """
        # A team's own class may have other arguments.
        kinds: Iterator[Any] = iter(type(self).__mro__)
        owner = next(kind for kind in kinds if kind.__module__.startswith(_OURS))
        for name in numbers.keys() - self._numbers.keys():
            rule = f"one of {', '.join(self._numbers) or 'none'}"
            validation.refuse(f"{owner.__name__}.{name}", numbers[name], rule)
        if not self._numbers:
            return lambda: None
        draft: Any = owner.__new__(owner)
        draft._is_draft = True
        draft.__init__(name=self.name, **self._arguments({**self._numbers, **numbers}))

        def use() -> None:
            with self._lock:
                self._adopt(draft)
                # The draft has the numbers alone; the rest of its settings are defaults.
                for name in self._numbers.keys() & draft._settings.keys():
                    self._settings[name] = draft._settings[name]

        return use

    def _arguments(self, numbers: dict[str, Any]) -> dict[str, Any]:
        return numbers

    def _adopt(self, draft: Any) -> None:  # under the lock
        raise NotImplementedError

    def settings(self) -> Mapping[str, object]:
        """Return how it is set up, for lists; of each guard, its mode."""
        return {**self._settings, "mode": self._mode.value}

    def status(self) -> Mapping[str, object]:
        """Return its present state, for lists. Any thread may ask."""
        return {}

    def collect(self) -> Iterable[Sample]:
        """Return its counts, for metrics. Any thread may ask."""
        return [
            Sample(self.metric, (self.name, outcome), count)
            for outcome, count in self._counts.items()
        ]

    async def call(
        self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call an async function under this guard; what either raises is raised."""
        ticket = self._enter(function, args, kwargs)
        if type(ticket) is _WAITING:
            ticket = await wait_in_task(ticket)
        try:
            result: Any = function(*args, **kwargs)
            answer: T = await (
                result
                if hasattr(result, "__await__")
                else answer_of(type(self).__name__, function, result)
            )
        except Exception as error:
            instead = self._failed(ticket, error)
            if instead is RAISE:
                raise
            return cast("T", instead)
        except BaseException:
            self._dropped(ticket)
            raise
        return cast("T", self._passed(ticket, answer))

    def call_sync(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a plain function under this guard; what either raises is raised.

        A wait blocks the thread.

        Raise `RuntimeError` on an event loop if the guard may have to wait.
        """
        if self._may_wait and self._mode is not Mode.OFF:
            refuse_on_loop(self)
        ticket = self._enter(function, args, kwargs)
        if type(ticket) is _WAITING:
            ticket = wait_in_thread(self, ticket)
        try:
            answer = function(*args, **kwargs)
        except Exception as error:
            instead = self._failed(ticket, error)
            if instead is RAISE:
                raise
            return cast("T", instead)
        except BaseException:
            self._dropped(ticket)
            raise
        return cast("T", self._passed(ticket, answer))

    def _enter(
        self, function: Any, args: Any, kwargs: Any
    ) -> Any:  # the function is None for a block
        raise NotImplementedError

    def _passed(self, ticket: Any, result: Any) -> Any:
        return result

    def _failed(self, ticket: Any, error: Exception) -> Any:
        return RAISE

    def _dropped(self, ticket: Any) -> None:
        pass

    def _mode_was_set(self) -> None:  # under the lock
        pass

    def _act_on(self, on: On) -> None:
        if callable(on) and not isinstance(cast("object", on), type | tuple):
            self._predicate = cast("Predicate", on)
        else:
            owner = type(self).__name__
            self._types = validation.error_types(f"{owner}.on", on, example="on=ConnectionError")

    def _acts_on(self, outcome: Outcome[Any], *, otherwise: bool) -> bool:
        """Return whether it acts on an outcome.

        `otherwise` is what a function means that raises.
        """
        if self._predicate is None:
            return isinstance(outcome.error, self._types)
        return self._ask(self._predicate, outcome, otherwise=otherwise)

    def _ask(self, foreign: Callable[[Any], T], about: object, otherwise: T) -> T:
        """Ask foreign code: what it raises is reported, and means something else."""
        try:
            return foreign(about)
        except Exception as fault:  # noqa: BLE001 - it may raise anything
            self._report(fault)
            return otherwise

    def _report(self, fault: Exception) -> None:
        self._observe(ListenerFailed(self.name, repr(fault)))


class Registry:
    """The guards that are alive; it keeps none alive.

    A name is unique for its kind. Given again by the same line of code, as by a factory, it passes
    on to the new guard.
    """

    def __init__(self) -> None:
        # Reentrant: the collector may run a guard's end at any allocation.
        self._lock = threading.RLock()
        self._guards: WeakValueDictionary[tuple[str, str], Guard] = WeakValueDictionary()

    def add(self, guard: Guard) -> None:
        """List a guard.

        Raise `ValueError` if one of its kind that another line made has its name.
        """
        with self._lock:
            key = guard.kind, guard.name
            namesake = self._guards.get(key)
            if namesake is not None and namesake.made_at != guard.made_at:
                # One that is part of a circle, and used by none, may still be there.
                del namesake
                gc.collect()
                namesake = self._guards.get(key)
            if namesake is not None and namesake.made_at != guard.made_at:
                raise ValueError(
                    f"{type(guard).__name__}.name must be a name of its own: {guard.name!r} at"
                    f" {guard.made_at} was given at {namesake.made_at} already. Share that one, or"
                    " choose another name"
                )
            self._guards[key] = guard

    def __iter__(self) -> Iterator[Guard]:
        with self._lock:
            guards = list(self._guards.values())
        return iter(sorted(guards, key=lambda guard: (guard.kind, guard.name)))

    def find(self, kind: str, name: str) -> Guard:
        """Return a guard, such as `find("breaker", "billing")`.

        Raise `KeyError`, which lists the existing ones, if there is none of this name.
        """
        guard = self._guards.get((kind, name))
        if guard is None:
            existing = [f"{guard.kind} {guard.name}" for guard in self]
            raise KeyError(f"no {kind} {name!r}; there are {existing}")
        return guard

    def clear(self) -> None:
        """Forget all guards: for use between tests."""
        with self._lock:
            self._guards.clear()


registry: Final = Registry()
"""The guards of this process."""


def _maker(guard: Guard) -> str:
    """Return the file and line that made a guard.

    Outside of all constructors of its class, a team's own too.
    """
    frame: FrameType | None = sys._getframe(1)  # inspect.stack() reads files
    while frame is not None and (
        str(frame.f_globals.get("__name__")).startswith(_OURS) or _is_of(frame, guard)
    ):
        frame = frame.f_back
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _is_of(frame: FrameType, guard: Guard) -> bool:
    code = frame.f_code
    return code.co_argcount > 0 and frame.f_locals.get(code.co_varnames[0]) is guard


class BlockGuard(Guard):
    """A guard that holds blocks of code too.

    `with guard.block():`, or `async with guard.block():`.
    """

    kinds: ClassVar[tuple[str, ...]] = ()  # What it counts for each mode: labels of its metric.

    def block(self) -> Block:
        """Return a block to be entered, once; it may be left in another context or thread."""
        return Block(self)

    def collect(self) -> Iterable[Sample]:
        for mode, counts in tuple(self._by_mode.items()):
            for outcome, count in counts.items():
                yield Sample(self.metric, (self.name, outcome, mode), count)

    def _mode_was_set(self) -> None:
        # At hand: the path of every call looks nothing up.
        self._counts = self._by_mode.setdefault(self._mode, dict.fromkeys(self.kinds, 0))


# A block and its guard are two halves of one thing.
# pyright: reportPrivateUsage=false
# ruff: noqa: SLF001


class Block:
    """A block of code that a guard holds, as `BlockGuard.block` makes it.

    Entered once, by `with` or `async with`.

    It may be left in another thread or context than it was entered in, as frameworks do with
    dependencies that `yield`.

    Args:
        guard: Holds the block.
    """

    __slots__ = ("_guard", "_is_entered", "_ticket")

    def __init__(self, guard: BlockGuard) -> None:
        self._guard = guard
        self._is_entered = False

    def __enter__(self) -> None:
        guard = self._guard
        if guard._may_wait and guard._mode is not Mode.OFF:
            refuse_on_loop(guard)
        ticket = self._begin()
        self._ticket = wait_in_thread(guard, ticket) if type(ticket) is _WAITING else ticket

    async def __aenter__(self) -> None:
        ticket = self._begin()
        self._ticket = await wait_in_task(ticket) if type(ticket) is _WAITING else ticket

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        guard = self._guard
        ticket = self._ticket
        if error is None:
            guard._passed(ticket, None)
        elif isinstance(error, Exception):
            guard._failed(ticket, error)
        else:
            guard._dropped(ticket)

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.__exit__(kind, error, trace)

    def _begin(self) -> Any:
        if self._is_entered:
            raise RuntimeError(
                f"a block of {self._guard!r} was entered before: call block() for each"
            )
        self._is_entered = True
        return self._guard._enter(None, (), {})


def innermost(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]]:
    """Return the function that is called in the end: guards pass on one another's `call`."""
    while type(function) is not FunctionType:
        if isinstance(getattr(function, "__self__", None), Runner) and args:
            function = args[0]
            args = args[1:]
        elif isinstance(cast("object", function), partial):
            bound: Any = function
            function = bound.func
            args = (*bound.args, *args)
            kwargs = {**bound.keywords, **kwargs}
        else:
            break
    return function, args, kwargs
