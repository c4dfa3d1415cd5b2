"""Track the requests under way, cancel each at its deadline, and measure how late the loop runs.

One task sweeps over all of them 40 times a second, so that a request which ends in time pays for a
place in a set, and not for a timer. It also answers in the place of a handler that does not heed
its cancellation, such as one in a thread.

A request that cannot run out of time for a while rests: the sweep looks at it every 10 seconds, or
at the next tick if something begins that has less time.

On asyncio a handler is cancelled as a task, and not by a cancel scope, whose 6 microseconds every
request would pay. What anyio shields is left alone until the shield is gone.
"""

from __future__ import annotations

import asyncio
import math
from asyncio import current_task
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from functools import partial, wraps
from itertools import islice
from traceback import walk_tb
from types import CodeType
from typing import Any, Final, Self, TypeVar, cast

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import current_token

from ..clock import MONOTONIC, Clock
from ..context import RequestContext, current_request
from ..errors import DeadlineExceededError, ResilienceError
from ..events import DeadlineExceeded, Observer, RequestsOverdue, TaskCrashed, fan_out, ignore
from ..functions import is_async
from .shield import is_shielded, tasks_of_requests

F = TypeVar("F", bound=Callable[..., Any])

# Seconds between two sweeps. A deadline is late by as much, and a process wakes up 40 times a
# second: see docs/decisions/0007-deadlines-by-sweep.md.
_TICK: Final = 0.025
_TICKS_A_BEAT: Final = 2  # The limiter learns 20 times a second.
_PATIENCE: Final = 0.05  # For a handler to clean up, before its caller is answered without it.
_WATCH_AFTER: Final = 0.2  # A request that ends before pays nothing for being watched.
_AGAIN_AFTER: Final = 40  # Ticks after which a handler that swallows its cancellation gets another.
_REST_AFTER: Final = 0.25  # Seconds: most requests end before, and then it is not worth it.
_REST: Final = 10.0  # Seconds without a look.
# Thousands may have begun to rest together. What rests has a second more, for 10,000 to be roused.
_ROUSED_AT_ONCE: Final = 250
_RESTFUL: Final = _REST + 1.0
_GLANCE: Final = 0.01
_NEVER: Final = math.inf  # An attribute of a module costs each request more than a global.


def limit_request(seconds: float | None) -> None:
    """Set another time limit for the present request, from its start.

    Its caller's limit still applies.

    It may be longer than the limit that all requests have; None is no limit, for a stream. Outside
    of a request, and without a running lifespan, it has no effect.
    """
    if (request := current_request()) is not None:
        request.limit = math.inf if seconds is None else seconds
        request.deadline = request.started + min(request.caller_timeout, request.limit)
        _rouse(request)


def time_limit(seconds: float | None) -> Callable[[F], F]:
    """Decorate a handler, async or not, with a limit of its own, above 0; see `limit_request`."""
    if seconds is not None and not seconds > 0:
        raise ValueError(f"needs seconds above 0, or None for no limit: {seconds}")

    def decorate(handler: F) -> F:
        @wraps(handler)
        async def limited(*args: Any, **kwargs: Any) -> Any:
            limit_request(seconds)
            return await handler(*args, **kwargs)

        @wraps(handler)
        def limited_sync(*args: Any, **kwargs: Any) -> Any:
            limit_request(seconds)
            return handler(*args, **kwargs)

        return cast("F", limited if is_async(handler) else limited_sync)

    return decorate


# What has a sweep look at a request that rests, by the id of its context: a field of that would
# cost each request.
_RESTING: Final[dict[int, Callable[[], None]]] = {}


def _rouse(request: RequestContext) -> None:
    rouse = _RESTING.get(id(request))
    if rouse is not None:
        rouse()


class ClientWait:
    """A task's wait for its client, which the sweep cuts short at a moment.

    Attributes:
        due: That moment, by the clock of the sweep; infinite while no task waits.
        task: The one that waits, or waited.
        is_cut: The wait was cut short: `end` has to be called.
    """

    __slots__ = ("_cancels_before", "_loop", "due", "is_cut", "task")

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._loop = loop
        self._cancels_before = 0
        self.due: float = math.inf
        self.task: asyncio.Task[Any] | None = None
        self.is_cut: bool = False

    def begin(self, due: float) -> None:
        """Have the present task's wait cut short at a moment; `end` ends it."""
        task = self.task = current_task(self._loop)
        self._cancels_before = task.cancelling() if task else 0
        self.due = due

    def end(self, error: BaseException | None = None) -> bool:
        """End the wait.

        Return whether it ended by being cut short, and by that alone.
        """
        self.due = math.inf
        task = self.task
        self.task = None
        if not self.is_cut or task is None:
            return False
        self.is_cut = False
        return task.uncancel() <= self._cancels_before and isinstance(error, asyncio.CancelledError)

    def cut(self) -> None:
        """Cut the wait short."""
        self.due = math.inf
        if self.task is not None:
            self.is_cut = True
            self.task.cancel()


NO_WAIT: Final = ClientWait(None)
"""While there is none."""


class Silence:
    """That of an application in the midst of its response.

    Attributes:
        due: When it is to be broken, by the clock of the sweep; infinite while nothing is to be
            done.
    """

    due: float = math.inf


NO_SILENCE: Final = Silence()


class Running:
    """A request or WebSocket under way, as the sweep sees it."""

    # Of most requests, none of this ever changes: what is not set for each costs nothing.
    reason: ResilienceError | None = None  # Why it was cancelled; None too if its client has left.
    # What it waits for of its client: that it sends, and that it reads. Each has its own on demand.
    reading: ClientWait = NO_WAIT
    writing: ClientWait = NO_WAIT
    silence: Silence = NO_SILENCE
    is_cancelled: bool = False
    is_endless: bool = False  # Its client comes back by itself: a drain ends it after its delay.
    is_overdue: bool = False  # It was cancelled, and yet goes on.
    stage: str = "handler"  # Where its time runs out.
    name: str = ""  # Of work; a request has none.
    is_plain: bool = False  # Nothing of this has come, nor anything else that is rare.
    is_resting: bool = False  # The sweep looks at it rarely.
    is_watched: bool = False  # Disconnect watching is requested but not started.
    _has_ended: bool = False
    task: asyncio.Task[Any] | None = None
    already: int = 0  # How often others had cancelled the task before.
    cancel_scope: anyio.CancelScope | None = None  # Where no task is cancelled.
    within: object = None  # The scope around its task, whose shields are not its own.
    time_ahead: float | None = None  # The loop's clock less ours; None where there is a sweep.
    _watcher: anyio.CancelScope | None = None
    _cancels: int = 0
    _again_after: int = 0

    def __init__(self, request: RequestContext) -> None:
        self.request: RequestContext = request

    def yield_slot(self) -> str | None:
        """Leave its slot in a limit to others if it may hold it for ever.

        Return the client if it still holds one.
        """
        return None

    def limit(self, seconds: float) -> None:
        """Limit it to this many seconds from its start, unless it was cancelled."""
        if not self.is_cancelled:
            deadline = self.request.deadline = self.request.started + seconds
            if self.cancel_scope is not None and self.time_ahead is not None:
                self.cancel_scope.deadline = deadline + self.time_ahead
            self.rouse()

    def rouse(self) -> None:
        """Have the sweep look at it at its next tick, if it rests."""
        if self.is_resting:
            _rouse(self.request)

    def is_due(self, drained: float) -> bool:
        """Return whether a drain ends it now, `drained` seconds after its delay.

        `math.inf` is its limit.
        """
        return self.is_endless or drained == math.inf

    def cancel(self, error: ResilienceError | None) -> None:
        """Cancel its handler with a reason; the first reason stays."""
        self.reason = self.reason or error
        self.is_cancelled = True
        self.is_plain = False
        self.rouse()
        self.press()

    def press(self) -> None:
        """Cancel a handler again that ignored its cancellation, unless shielded or too soon."""
        if self.cancel_scope is not None:
            self.cancel_scope.cancel()
        elif self._again_after > 0:
            self._again_after -= 1
        elif self.task is not None and not is_shielded(self.task, within=self.within):
            self._again_after = _AGAIN_AFTER
            self._cancels += 1
            self.task.cancel()

    def take_back(self) -> int:
        """Remove our cancellations from the task's count.

        Return how many are left, made by others.
        """
        left = self.task.cancelling() if self.task else 0
        while self._cancels and self.task is not None:
            self._cancels -= 1
            left = self.task.uncancel()
        return left

    def end(self) -> None:
        """Record that the handler has ended."""
        self.request.deadline = math.inf
        self.task = None
        self._has_ended = True
        if self._watcher is not None:
            self._watcher.cancel()

    async def answer(self) -> None:
        """Answer the caller although the handler goes on, if that can still be done."""

    def judge_silence(self, now: float) -> ResilienceError | None:
        """Return why it is ended for its silence, or None if `break_silence` is enough."""
        return None

    async def break_silence(self) -> None:
        """Send something in its application's place."""

    def may_watch(self) -> bool:
        """Return whether to begin to watch now."""
        return True

    async def watch(self) -> None:
        """Wait for the client to go away."""


class RunningRequests:
    """All requests under way in one process; their number is its length.

    An async context manager, for the service's lifespan: it owns the task that sweeps. Before it is
    entered it tracks requests, whose deadlines are timers. On asyncio, requests run on the loop
    that it was entered on.

    Args:
        observer: Receives each handler that ran out of time, and how many ignored it. It may raise.
        clock: Monotonic seconds. Each request is ended by its own clock.

    Attributes:
        is_closed: Whether new requests are to be refused.
        tasks: Those of the sweep, while deadlines are looked after; else None.
        loop: The asyncio loop whose tasks it cancels; None on trio, and before it is entered.
        on_tick: Called at each tick with the time; it must be quick. If it raises, the sweep goes
            on.
        cut: The names of work that a drain cancelled.
        on_beat: Likewise, 20 times a second with how many seconds late the loop is; see
            `Shedding.beat`.
    """

    def __init__(self, *, observer: Observer = ignore, clock: Clock = MONOTONIC) -> None:
        self.is_closed: bool = False
        self.cut: list[str] = []
        self.on_tick: Callable[[float], object] = lambda now: None
        self.on_beat: Callable[[float], object] = lambda late: None
        self._observe = fan_out([observer])
        self.clock: Clock = clock
        # A request is in one of both: those that are looked at at each tick, and those that rest,
        # each with the end of that, the first one first.
        self._running: set[Running] = set()
        self._resting: OrderedDict[Running, float] = OrderedDict()
        self._causes: set[tuple[type[Exception], CodeType, int]] = set()
        self.tasks: TaskGroup | None = None
        self.loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        return len(self._running) + len(self._resting)

    def _all(self) -> tuple[Running, ...]:
        return (*self._running, *self._resting)

    @property
    def endless(self) -> int:
        """The number of those that a drain ends after its delay."""
        return sum(running.is_endless for running in self._all())

    def add(self, running: Running) -> None:
        """Count it among those under way: before `run` has begun, or without, until `discard`."""
        self._running.add(running)

    def discard(self, running: Running) -> None:
        """Count it no longer."""
        self._rouse(running)
        self._running.discard(running)

    async def run(self, running: Running, handler: Awaitable[None]) -> None:
        """Run the handler of a request, tracked until it has ended and its caller is answered.

        If it was cancelled through us, the cancellation ends here, and is explained by its
        `reason`.
        """
        self._running.add(running)
        loop = self.loop
        try:
            if loop is None:
                await self._run_in_scope(running, handler)
            else:
                # Without the loop it would be looked for, with a system call (until Python 3.12)
                # that costs 1 microsecond.
                task = running.task = current_task(loop)
                running.already = 0 if task is None else task.cancelling()
                await handler
        except BaseException as error:
            # Another's cancellation goes on.
            is_ours = (
                isinstance(error, asyncio.CancelledError) and running.take_back() <= running.already
            )
            if not (is_ours and running.is_cancelled):
                raise
        finally:
            if running.is_plain:
                running.request.deadline = _NEVER
                running.task = None
                self._running.discard(running)
            else:
                await self._settle(running)

    async def _run_in_scope(self, running: Running, handler: Awaitable[None]) -> None:
        running.is_plain = False
        with anyio.CancelScope() as running.cancel_scope:
            if self.tasks is None and running.request.deadline < math.inf:
                running.time_ahead = anyio.current_time() - running.request.clock()
                running.cancel_scope.deadline = running.request.deadline + running.time_ahead
            await handler
        if running.cancel_scope.cancelled_caught and not running.is_cancelled:
            running.is_cancelled = True
            running.reason = DeadlineExceededError("request")
            self._tell_late(running)

    def _tell_late(self, running: Running) -> None:
        self._observe(
            DeadlineExceeded("caller" if running.request.deadline_is_callers else running.stage)
        )

    async def _settle(self, running: Running) -> None:
        running.take_back()
        running.end()
        try:
            # Also when it raised, which may be how it took the cancellation: the reason comes
            # first.
            if running.reason is not None:
                await running.answer()
        finally:
            self._rouse(running)
            self._running.discard(running)
            if running.is_overdue:
                self._tell_overdue()

    def cancel(self, error: ResilienceError, *, drained: float = math.inf) -> int:
        """Cancel all requests that are due in a drain, by default all.

        Return how many were not cancelled before.
        """
        chosen = [r for r in self._all() if not r.is_cancelled and r.is_due(drained)]
        for running in chosen:
            self._cancel(running, error)
        self.cut += (running.name for running in chosen if running.name)
        return len(chosen)

    def _cancel(self, running: Running, error: ResilienceError) -> None:
        running.cancel(error)
        running.request.deadline = running.request.clock()

    def yield_slots(self) -> Counter[Hashable]:
        """Let each that tells nothing leave its slot to others, see `Slotted.yield_slot`.

        Count what clients still hold.
        """
        clients = [running.yield_slot() for running in self._all()]
        return Counter(client for client in clients if client is not None)

    def strays(self) -> list[asyncio.Task[Any]]:
        """Return the living tasks that requests made by themselves, as by `create_task`."""
        own = {running.task for running in self._all()}
        return [task for task in tasks_of_requests() if task not in own]

    async def wait_idle(self, *, and_strays: bool = False) -> None:
        """Wait until none is under way; bound it by a timeout of your own."""
        while len(self) or (and_strays and self.strays()):  # noqa: ASYNC110 - an event is one more thing that each request looks at
            await anyio.sleep(_GLANCE)

    async def __aenter__(self) -> Self:
        # What an earlier lifespan left behind is bound to an event loop that is gone.
        for running in tuple(self._resting):
            self._rouse(running)
        self._running.clear()
        self.cut.clear()
        self.tasks = await anyio.create_task_group().__aenter__()
        self.tasks.start_soon(self._keep_sweeping)
        loop = current_token().native_token
        self.loop = loop if isinstance(loop, asyncio.AbstractEventLoop) else None
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = cast("TaskGroup", self.tasks)
        self.tasks = self.loop = None
        tasks.cancel_scope.cancel()
        # What ended the block is not for the task group to wrap.
        await tasks.__aexit__(None, None, None)

    async def _keep_sweeping(self) -> None:
        while True:
            late = 0.0
            for _ in range(_TICKS_A_BEAT):
                began = self.clock()
                await anyio.sleep(_TICK)
                now = self.clock()
                late = max(late, now - began - _TICK)
                self._call(self.on_tick, now)
                self._call(self._sweep, now)
            self._call(self.on_beat, late)

    def _call(self, step: Callable[[float], object], seconds: float) -> None:
        """Run a step of the sweep, which goes on if it raises; each cause is reported once."""
        try:
            step(seconds)
        except Exception as error:  # noqa: BLE001 - see above
            *_, (frame, line) = walk_tb(error.__traceback__)
            cause = (type(error), frame.f_code, line)
            if cause not in self._causes:
                self._causes.add(cause)
                self._observe(TaskCrashed("sweep", error))

    # Not in the loop above, whose frame would keep the last one: granian closes a connection when
    # nothing refers to it.
    def _sweep(self, now: float) -> None:
        clock = self.clock
        for running in tuple(islice(self._resting, _ROUSED_AT_ONCE)):
            if self._resting.get(running, now) > now:
                break
            self._rouse(running)
        for running in tuple(self._running):
            request = running.request
            at = now if request.clock is clock else request.clock()
            if running.is_watched and at >= request.started + _WATCH_AFTER and running.may_watch():
                running.is_watched = running.is_plain = False
                self._start(running.watch, "watch")
            if now >= running.reading.due:
                running.reading.cut()
            if now >= running.writing.due:
                running.writing.cut()
            if now >= running.silence.due:
                self._hear(running, now)
            if running.is_cancelled:
                running.press()
            if at >= request.deadline and not running.is_cancelled:
                running.cancel(DeadlineExceededError("request"))
                self._tell_late(running)
            elif at >= request.deadline + _PATIENCE and not running.is_overdue:
                running.is_overdue = True
                self._tell_overdue()
                self._start(running.answer, "answer")
            elif at >= request.started + _REST_AFTER and self._may_rest(running, now, at):
                self._rest(running, now)

    def _hear(self, running: Running, now: float) -> None:
        error = running.judge_silence(now)
        if error is None:
            self._start(running.break_silence, "heartbeat")
        elif not running.is_cancelled:
            self._cancel(running, error)

    def _may_rest(self, running: Running, now: float, at: float) -> bool:
        due = min(running.reading.due, running.writing.due, running.silence.due)
        return (
            not running.is_cancelled
            and due >= now + _RESTFUL
            and running.request.deadline >= at + _RESTFUL
            # The end of what it receives makes it watchable, and rouses it.
            and not (running.is_watched and running.may_watch())
        )

    def _rest(self, running: Running, now: float) -> None:
        running.is_plain = False
        running.is_resting = True
        self._running.discard(running)
        self._resting[running] = now + _REST
        _RESTING[id(running.request)] = partial(self._rouse, running)

    def _rouse(self, running: Running) -> None:
        if self._resting.pop(running, None) is not None:
            running.is_resting = False
            del _RESTING[id(running.request)]
            self._running.add(running)

    def _start(self, job: Callable[[], Coroutine[Any, Any, None]], task: str) -> None:
        cast("TaskGroup", self.tasks).start_soon(
            self._do, job, task, name=f"{task} in place of a request"
        )

    async def _do(self, job: Callable[[], Coroutine[Any, Any, None]], task: str) -> None:
        try:
            await job()
        except Exception as error:  # noqa: BLE001 - a server may raise anything; one request must not end the sweep
            self._observe(TaskCrashed(task, error))

    def _tell_overdue(self) -> None:
        self._observe(RequestsOverdue(sum(running.is_overdue for running in self._running)))
