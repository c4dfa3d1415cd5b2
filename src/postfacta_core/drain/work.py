"""Run what a request leaves behind, under the rules of requests.

    spawn(send_mail(order), name="mail")

Work that was begun is a request to the drain and to the sweep of deadlines:

1. It is among the requests under way from the moment of the call, so no drain overlooks it.
2. It has the id and the trace of the request that began it, and a time of its own.
3. A drain waits for it while resources are open, and cancels it with the last requests.
4. It lives in memory: what ends the process by force, as SIGKILL does, loses it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import anyio
from anyio import from_thread
from anyio.abc import TaskGroup
from anyio.lowlevel import EventLoopToken, current_token

from ..backoff import Backoff
from ..clock import LUCK, Luck, random_id
from ..context import RequestContext, bind_request, current_request, release_request
from ..deadlines.requests import Running, RunningRequests
from ..deadlines.shield import is_cancelled_itself
from ..errors import BulkheadFullError, StoppedError
from ..events import Observer, PolicyCreated, Sample, TaskCrashed, ignore
from ..functions import is_async
from ..limits import Priority
from ..validation import validation
from ._jobs import JobCounts as JobCounts, JobOutcome as JobOutcome

AsyncFunction = Callable[[], Coroutine[Any, Any, object]]
"""An async function without arguments."""

WORK_TIMEOUT: Final = 60.0
"""The seconds that work has by default. What needs more is for a queue."""

_JITTER: Final = 0.1
_FIRST_PAUSE: Final = 1.0  # The longest after the first failure, in seconds.

_NO_LIFESPAN: Final = (
    "spawn needs the running lifespan of a hardened application: serve it by an ASGI server, or"
    " test it with a client that runs lifespans"
)


class Work:
    """Runs work beside the requests of one service.

    Args:
        running: The requests under way, among which it is counted.
        most: How many pieces of work run at once.
        is_draining: Returns whether the service was asked to stop.
        observer: Receives each piece that failed.
        luck: Returns a number from 0 up to 1, for jitter.
    """

    def __init__(
        self,
        running: RunningRequests,
        *,
        most: int,
        is_draining: Callable[[], bool],
        observer: Observer = ignore,
        luck: Luck = LUCK,
    ) -> None:
        self.running: RunningRequests = running
        self.is_draining: Callable[[], bool] = is_draining
        self._most = most
        self._observe = observer
        self._luck = luck
        self._rounds: list[_Round] = []
        self._is_started = False
        self._token: EventLoopToken | None = None
        self._pieces: set[Running] = set()
        self._counts = JobCounts("service")
        observer(PolicyCreated("work", self.tally))

    def tally(self) -> Iterable[Sample]:
        """Return its counts, for metrics."""
        return self._counts.tally(len(self._pieces))

    def open(self) -> None:
        """Make it the one that `spawn` finds on this event loop, until `close`."""
        self._token = current_token()
        self._is_started = False
        self._pieces.clear()
        _OPEN.append(self)

    def close(self) -> None:
        """Leave the event loop."""
        _OPEN.remove(self)

    def start(self) -> None:
        """Begin what `every` was given, now that the startup is complete."""
        self._is_started = True
        for turns in self._rounds:
            self._start_soon(turns)

    def is_here(self, token: EventLoopToken | None) -> bool:
        """Return whether it runs on an event loop; on any, in a thread without one."""
        return token in {None, self._token}

    def spawn(
        self,
        work: AsyncFunction | Coroutine[Any, Any, object],
        *,
        name: str = "",
        timeout: float | None = WORK_TIMEOUT,
    ) -> None:
        """Begin work, and let the caller go on; see the function `spawn`."""
        try:
            piece = self._admitted(work, name, timeout)
        except Exception:
            if inspect.iscoroutine(work):
                work.close()
            raise
        coroutine = work() if callable(work) else work
        begin = partial(self._begin, piece, coroutine)
        if _token_here() is None:
            from_thread.run_sync(begin, token=self._token)
        else:
            begin()

    def every(
        self,
        seconds: float,
        function: AsyncFunction,
        *,
        name: str = "",
        timeout: float | None = WORK_TIMEOUT,
    ) -> None:
        """Call an async function again and again while the service is ready, until it drains.

        The first call is made at most a tenth of `seconds` after the startup. The pause between two
        is a tenth longer or shorter at random, so that instances that start together do not stay
        together. Two calls never overlap. After one that failed the next follows sooner: within a
        second, and within twice that after each further failure, up to `seconds`. A call under way
        is work as that of `spawn`: counted, waited for by a drain, and cut by name.

        Args:
            seconds: From the end of a call to the next.
            function: An async function without arguments.
            name: A label of its metrics; by default the function's.
            timeout: The deadline of each call, in seconds; None for any number.

        Raises:
            ValueError: If an argument is wrong.
        """
        validation.seconds("every.seconds", seconds, example="60.0")
        if not is_async(function):
            rule = "an async function"
            validation.refuse("every.function", function, rule, example="every(60, refresh)")
        label = _label("every", function, name=name, timeout=timeout)
        turns = _Round(seconds, function, label, timeout)
        self._rounds.append(turns)
        if self._is_started:
            self._start_soon(turns)

    def _start_soon(self, turns: _Round) -> None:
        if self.running.tasks is not None:
            self.running.tasks.start_soon(self._repeat, turns, name=f"every {turns.name}")

    async def _repeat(self, turns: _Round) -> None:
        # It is of no request, even if one began it.
        bind_request(None)
        backoff = Backoff(base=min(_FIRST_PAUSE, turns.seconds), cap=turns.seconds)
        failures = 0
        pause = turns.seconds * _JITTER * self._luck()
        while True:
            await anyio.sleep(pause)
            if self.is_draining():
                return
            outcome = await self._run(self._piece(turns.name, turns.timeout), _called(turns))
            if outcome is JobOutcome.SUCCESS:
                failures = 0
                pause = turns.seconds * (1 + _JITTER * (2 * self._luck() - 1))
            else:
                failures += 1
                pause = backoff.delay(failures, self._luck())

    def _admitted(self, work: object, name: str, timeout: float | None) -> Running:
        if not (inspect.iscoroutine(work) or is_async(work)):
            rule = "an async function or its coroutine"
            validation.refuse("spawn.work", work, rule, example="spawn(send(order))")
        label = _label("spawn", work, name=name, timeout=timeout)
        if self.running.tasks is None:
            raise RuntimeError(_NO_LIFESPAN)
        if self.running.is_closed:
            raise StoppedError(label)
        if len(self._pieces) >= self._most:
            raise BulkheadFullError(label)
        return self._piece(label, timeout)

    def _piece(self, name: str, timeout: float | None) -> Running:
        clock = self.running.clock
        now = clock()
        limit = math.inf if timeout is None else timeout
        cause = current_request() or RequestContext(random_id(), now)
        piece = Running(
            replace(
                cause,
                started=now,
                clock=clock,
                caller_timeout=math.inf,
                limit=limit,
                deadline=now + limit,
                priority=Priority.SHEDDABLE_PLUS,  # Users come first, as with a worker's jobs.
                queued=0.0,
                waited=0.0,
                slot=None,
                error_type="",
            )
        )
        piece.name = name
        piece.stage = "work"
        if self.running.tasks is not None:
            piece.within = self.running.tasks.cancel_scope
        return piece

    def _begin(self, piece: Running, work: Coroutine[Any, Any, object]) -> None:
        tasks: TaskGroup | None = self.running.tasks
        if tasks is None:
            work.close()
            raise RuntimeError(_NO_LIFESPAN)
        self._pieces.add(piece)
        self.running.add(piece)
        tasks.start_soon(self._run, piece, work, name=piece.name)

    async def _run(self, piece: Running, work: Awaitable[object]) -> JobOutcome:
        token = bind_request(piece.request)
        self._pieces.add(piece)
        try:
            await self.running.run(piece, _to_its_end(work))
        except Exception as error:  # noqa: BLE001 - it may raise anything, and nothing awaits it
            return self._end(piece, error)
        except BaseException as cancellation:
            self._end(piece, cancellation)
            raise
        else:
            return self._end(piece, None)
        finally:
            release_request(token)

    def _end(self, piece: Running, error: BaseException | None) -> JobOutcome:
        self._pieces.discard(piece)
        cause = error
        if piece.reason is not None:
            cause = type(piece.reason)(piece.name)
        outcome = self._counts.add(piece.name, cause, piece.request.age())
        # What a drain cancelled stands in `Drained`.
        if isinstance(cause, Exception) and outcome is not JobOutcome.STOPPED:
            self._observe(TaskCrashed(piece.name, cause))
        return outcome


@dataclass(frozen=True, slots=True)
class _Round:
    """What `every` was given."""

    seconds: float
    function: AsyncFunction
    name: str
    timeout: float | None


async def _called(turns: _Round) -> None:
    await turns.function()


def _label(owner: str, function: object, *, name: str, timeout: float | None) -> str:
    """Check what both kinds of work are given; return the name."""
    label = name or getattr(function, "__name__", "")
    validation.name(f"{owner}.name", label, example='name="mail"')
    if timeout is not None:
        validation.seconds(f"{owner}.timeout", timeout, finite=False, example="timeout=60.0")
    return label


async def _to_its_end(work: Awaitable[object]) -> None:
    """Await it; if what it awaits was cancelled, and not the work itself, the work has failed."""
    try:
        await work
    except anyio.get_cancelled_exc_class() as error:
        if is_cancelled_itself():
            raise
        raise RuntimeError("what it awaited was cancelled") from error


_OPEN: Final[list[Work]] = []


def _token_here() -> EventLoopToken | None:
    """Return the event loop of this thread, None if there is none."""
    try:
        return current_token()
    except RuntimeError:
        return None


def present_work(*, anywhere: bool = False) -> Work | None:
    """Return that of the service on this event loop, the last one to start of several.

    With `anywhere`, a thread without an event loop gets that of the last one in this process.
    """
    token = _token_here()
    if token is None and not anywhere:
        return None
    return next((work for work in reversed(_OPEN) if work.is_here(token)), None)


def spawn(
    work: AsyncFunction | Coroutine[Any, Any, object],
    *,
    name: str = "",
    timeout: float | None = WORK_TIMEOUT,
) -> None:
    """Begin work that the present request does not wait for.

    It has the id and the trace of the request. A drain waits for it as for a request, while
    resources are open; what is cut at the limit is named in `lifecycle.drained`. What it raises is
    logged once, as `task.crashed`, and counted. It is lost if the process ends by force: what must
    not be lost is for a queue.

    Any thread may call it. Of several hardened applications on one event loop, the last one to
    start runs it: there, call `spawn` of the application itself.

    Args:
        work: An async function without arguments, or the coroutine of one.
        name: What it does, from a small set: a label of its metrics; by default the function's.
        timeout: Its own deadline, in seconds from now; None for any number.

    Raises:
        ValueError: If an argument is wrong.
        BulkheadFullError: If `HardenOptions.work_at_once` pieces of work run already.
        StoppedError: If the service has cancelled what was under way, and stops.
        RuntimeError: If no hardened application runs here.
    """
    service = present_work(anywhere=True)
    if service is None:
        if inspect.iscoroutine(work):
            work.close()
        raise RuntimeError(_NO_LIFESPAN)
    service.spawn(work, name=name, timeout=timeout)
