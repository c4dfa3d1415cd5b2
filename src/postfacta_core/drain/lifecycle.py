"""Carry a service from SIGTERM to closed, without failing a request.

1. The signal is caught before the server gets it. Health checks fail at once; requests are served
   on for `drain_delay`.
2. Then streams that their clients resume get a farewell, and the server gets the signal: from a
   thread, since a blocked event loop must not keep it from the server.
3. The server takes no new requests. Those that run have until `drain_timeout`, then they are
   cancelled.
4. Resources share what is left of `close_timeout`, in reverse order.
5. A drain that is not over 2 seconds after all that ends the process, with all stacks on stderr.

There is no delay during startup, after a Ctrl-C at a terminal, nor under `uvicorn --reload`. The
same signal again ends the delay. A server that stops without a signal goes on at 3.
"""

from __future__ import annotations

import faulthandler
import math
import os
import queue
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final, Self

import anyio

from ..clock import MONOTONIC, Clock
from ..deadlines.requests import RunningRequests
from ..deadlines.shield import name_of
from ..errors import StoppedError
from ..events import Drained, Observer, SignalsIntercepted, fan_out, ignore
from ._course import Course as Course, DrainLimits as DrainLimits, Phase as Phase
from .signals import Interception, is_ctrl_c
from .work import Work

# For streams to say goodbye before the server closes their connections: 20 sweeps of `requests`.
_FAREWELL: Final = 0.5
# Then requests that did not heed their cancellation are waited for no longer; nor for half of what
# is left to close.
_LAST_WORDS: Final = 1.0
_GLANCE: Final = 0.01  # Between two looks of the thread, which asks a clock that a test may set.
# For the server to exit, after all limits. Documented in `Lifecycle`.
_MARGIN: Final = 2.0
# A line of the log is to be read.
_MOST_NAMES: Final = 20


class Lifecycle:
    """Holds the phase of a service's life, and runs its drain.

    An async context manager, to be entered in the main thread, inside the server's lifespan, before
    all resources. It may be entered again, and begins anew. It ends the process, with all stacks on
    stderr and exit code 1, when a drain is not over 2 seconds after its limits, or a thread keeps
    the process from its end.

    Args:
        limits: How long the parts of a drain may take.
        running: The requests under way.
        work_at_once: How many pieces of work run beside them at once.
        cover_tasks: Whether tasks that requests make by themselves are waited for, too.
        on_drain: Called at once when a drain begins, from any thread or a signal handler: it must
            only set a flag, as `HealthRegistry.drain` does.
        observer: Receives phases, the mechanism, and the outcome of the drain. It may raise.
        clock: Monotonic seconds.

    Attributes:
        is_draining: Whether it was asked to stop, in whatever phase that was.
        mechanism: How SIGTERM is caught; `none` if it is not, and empty before the start.
        work: What runs beside the requests.
    """

    def __init__(
        self,
        limits: DrainLimits | None = None,
        *,
        running: RunningRequests,
        work_at_once: int = 1000,
        cover_tasks: bool = False,
        on_drain: Callable[[], None] = lambda: None,
        observer: Observer = ignore,
        clock: Clock = MONOTONIC,
    ) -> None:
        self.limits: DrainLimits = limits or DrainLimits()
        self._running = running
        self._covers_tasks = cover_tasks
        self._on_drain = on_drain
        self._observe = fan_out([observer])
        self.work: Work = Work(
            running,
            most=work_at_once,
            is_draining=lambda: self.is_draining,
            observer=self._observe,
        )
        self._clock = clock
        self._announcing = threading.Lock()
        self._interception: Interception | None = None
        self._begin()

    def _begin(self) -> None:
        self.is_draining: bool = False
        self.mechanism: str = ""
        self._course = Course(self.limits)
        self._close_by = math.inf
        self._cancelled = 0
        self._drained: Drained | None = None
        self._has_ended_streams = False
        # Its `put` may be called again while it runs, as a signal handler does.
        self._calls: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._signals: set[int] = set()
        self._is_started = self._was_asked = False

    @property
    def phase(self) -> Phase:
        """The phase of the service's life."""
        return self._course.phase

    def drain_began_after(self, moment: float) -> bool:
        """Return whether the drain began after this moment: what started then was under way."""
        return moment <= self._course.drain_began_at < math.inf

    def drain(self, *, at_once: bool = False) -> None:
        """Begin to drain, as after a SIGTERM, or without its delay; a second call ends that.

        From any thread.
        """
        is_first = self._course.drain(self._clock(), at_once=at_once)
        self._was_asked = True
        self.is_draining = True
        if is_first:
            self._on_drain()
        self._calls.put("drain")

    def started(self) -> None:
        """Record that the startup is complete."""
        self._is_started = True
        if not self._course.start(self._clock()):
            # Of a signal that came during the startup, before there were health checks.
            self._on_drain()
        self.work.start()
        self._tell()

    async def finish_requests(self) -> None:
        """Wait for the requests under way, and cancel those that take longer than the drain may.

        It is for the server's `lifespan.shutdown`: by then it takes no new ones.
        """
        now = self._clock()
        if not self.is_draining:
            self._on_drain()
        self._course.stop(now)
        self.is_draining = True
        self._tell()
        with anyio.move_on_after(max(0.0, self._course.cancels_at - now)):
            await self._running.wait_idle(and_strays=self._covers_tasks)
        self._cancel_all()
        if self._covers_tasks:
            self._cancel_strays()
        with anyio.move_on_after(min(_LAST_WORDS, self._course.limits.close_timeout / 2)):
            await self._running.wait_idle(and_strays=self._covers_tasks)
        seconds = self._clock() - self._course.drain_began_at
        left = len(self._running)
        self._drained = Drained(self._cancelled, left, seconds, _listed(self._running.cut))

    def share(self, left: int) -> float:
        """Return the seconds that the next resource has to close."""
        now = self._clock()
        self._close_by = min(self._close_by, self._course.closes_by(now))
        return max(0.0, self._close_by - now) / max(1, left)

    async def __aenter__(self) -> Self:
        """Begin to catch signals.

        RuntimeError if it is entered already: two lifespans at once have one end only.
        """
        if self._interception is not None:
            raise RuntimeError(
                "this application runs already: a Lifecycle leads one lifespan at a time"
            )
        if self.phase is Phase.STOPPED:
            self._begin()
        self._running.is_closed = False
        self.work.open()
        self._interception = Interception(self._hear)
        self.mechanism = self._interception.mechanism
        self._observe(SignalsIntercepted(self.mechanism, in_place=self.mechanism != "none"))
        self._running.on_tick = self._on_tick
        # The thread of one lifespan may last into the next: it has its own course and calls.
        lifespan = self._course, self._calls
        threading.Thread(
            target=self._run_drain_timer, args=lifespan, name="postfacta-drain", daemon=True
        ).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._interception is None:
            raise AssertionError("left, but never entered")
        self._course.end(self._clock())
        self.work.close()
        if self._drained is not None:
            # Only now: the application's shutdown and the resources have ended tasks of theirs.
            strays = [name_of(task) for task in self._running.strays()]
            left = self._drained.left + len(strays)
            self._observe(self._drained._replace(left=left, tasks=_listed(strays)))
        self.is_draining = True
        self._calls.put("look")
        self._interception.close()
        self._interception = None
        if not self._was_asked:
            # The lifespan ended by itself, as a test client's does: what comes without one is
            # served as before it.
            self._running.is_closed = False
        self._tell()

    def _hear(self, signum: int) -> None:
        # No load balancer looks at a developer's machine.
        is_reloaded = self._interception is not None and self._interception.is_reloaded
        is_delayed = self._clock() < self._course.server_stops_at
        at_once = is_delayed and (is_reloaded or is_ctrl_c(signum))
        # One stop may come twice: as SIGINT, and as SIGTERM from a parent that had it too. Only the
        # same signal again means: wait no longer.
        if at_once or signum in self._signals or not self.is_draining:
            self.drain(at_once=at_once)
        self._signals.add(signum)

    def _tell(self) -> None:
        # On the loop or in our thread, never in a signal handler.
        with self._announcing:
            for change in self._course.news():
                self._observe(change)

    def _on_tick(self, now: float) -> None:
        drained = now - self._course.server_stops_at
        if drained >= 0:
            self._cancelled += self._running.cancel(StoppedError("drain"), drained=drained)
            self._has_ended_streams = True
        if now >= self._course.cancels_at:
            self._cancel_all()

    def _cancel_all(self) -> None:
        self._running.is_closed = True
        self._cancelled += self._running.cancel(StoppedError("drain"))

    def _cancel_strays(self) -> None:
        for task in self._running.strays():
            task.cancel()
            self._cancelled += 1
            self._running.cut.append(name_of(task))

    # From here on in a thread of its own.

    def _run_drain_timer(self, course: Course, calls: queue.SimpleQueue[str]) -> None:
        while calls.get() != "drain":
            if course.phase is Phase.STOPPED:
                return
        self._tell()
        self._wait(lambda now: now >= course.server_stops_at)
        farewell = self._clock() + _FAREWELL

        def may_stop(now: float) -> bool:
            # A tick first: the loop closes the streams.
            has_parted = now >= farewell or (self._has_ended_streams and not self._running.endless)
            # A server that stops in the middle of its startup leaves out the shutdown, or raises. A
            # second call makes it.
            has_started = self._is_started or now >= course.gone_at or not calls.empty()
            return course.phase is not Phase.DRAINING or (has_parted and has_started)

        self._wait(may_stop)
        # A server that stops by itself needs no signal; one that has stopped would die of it.
        interception = self._interception
        if interception is not None and course.phase is Phase.DRAINING:
            interception.release()
        # If the service has stopped, a handler's thread may still keep the process from its end.
        self._wait(lambda now: now >= course.gone_at + _MARGIN)
        if course.phase is not Phase.STOPPED or not threading.main_thread().is_alive():
            sys.stderr.write(
                f"postfacta: the drain took longer than {self.limits.total:g} s; all stacks:\n"
            )
            faulthandler.dump_traceback(all_threads=True)
            sys.stderr.flush()
            os._exit(1)

    def _wait(self, is_over: Callable[[float], bool]) -> None:
        pause = threading.Event()
        while not is_over(self._clock()):
            pause.wait(_GLANCE)


def _listed(names: Iterable[str]) -> str:
    """Return each name once, with how often it occurs, the most frequent first."""
    counts = Counter(names).most_common(_MOST_NAMES)
    return ", ".join(name if count == 1 else f"{name} x{count}" for name, count in counts)
