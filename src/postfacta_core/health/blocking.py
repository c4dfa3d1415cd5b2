"""Name what blocks the event loop, by a thread that looks at the loop's own while that is late.

1. On time it costs the loop a clock a beat; the thread wakes up 8 times a second.
2. To be late is not to be blocked: a loop with many short steps is late, too. What is named is a
   frame that was there at two looks with no beat in between.
3. A call in C that keeps the interpreter for itself lets the thread look once, as it ends. Then
   most of what the process computed meanwhile must be the loop's thread's: it may have been
   another's call, or the machine's standstill. Where more threads wait for the interpreter,
   another may get it first, and that call is not named.
4. The frames below the loop, such as a server's, are always there, and are never named.
"""

from __future__ import annotations

import math
import sys
import sysconfig
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from types import FrameType
from typing import Any, Final, Self, cast

from ..clock import MONOTONIC, PROCESS, Clock, processor_of
from ..events import LoopBlocked, Observer, fan_out

_PAUSE: Final = 0.125  # Seconds between two looks while the loop is on time.
_CLOSER: Final = 0.05  # And while it is late.
_BEAT: Final = 0.05  # The sweep's.
_SUSPECT: Final = 0.1  # Seconds without a beat, after which the first look is kept.
_BLOCKED: Final = 0.25
_MINUTE: Final = 60.0
_OWN_SHARE: Final = 0.5
_LEAST: Final = 0.05  # Seconds of processor time that are no accident.
_MOST_FRAMES: Final = 200
_LIBRARY: Final = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")})
_PACKAGES: Final = ("site-packages", "dist-packages")

Whose = Callable[[dict[str, Any]], tuple[str, str] | None]
"""Returns the route and the id of the request of an ASGI scope, or None."""


class LoopWatch(AbstractAsyncContextManager["LoopWatch"]):
    """Reports what blocks the loop that it is entered on for more than 0.25 s.

    Args:
        loop_of: Returns the asyncio loop; None on another one, where nothing is watched.
        whose: Finds whose request it was.
        observer: Receives each `LoopBlocked`, in the thread that looks.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        loop_of: Callable[[], Any],
        whose: Whose,
        *,
        observer: Observer,
        clock: Clock = MONOTONIC,
    ) -> None:
        self._loop_of = loop_of
        self._whose = whose
        self._observe = fan_out([observer])
        self._clock = clock
        self._beat = 0.0
        self._told_until = -math.inf
        self._earlier: Sequence[FrameType] = ()  # Of the first look since the last beat.
        self._last_beat = 0.0  # The last beat at that look.
        self._named = -1.0  # The beat after which something was named.
        self._looked = 0.0
        self._used = 0.0
        self._all_used = 0.0
        self._base: frozenset[int] = frozenset()
        self._ends = threading.Event()
        self._thread: threading.Thread | None = None

    def beat(self) -> None:
        """Record that the loop runs."""
        self._beat = self._clock()

    async def __aenter__(self) -> Self:
        loop = self._loop_of()
        if loop is not None:
            self._ends.clear()
            loop.call_soon(self._begin)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ends.set()
        if self._thread is not None:
            self._thread.join(_BLOCKED)
            self._thread = None

    def _begin(self) -> None:
        if self._ends.is_set():
            return
        self.beat()
        # These live as long as the loop, so that no other frame can have their ids.
        below = _frames_of(sys._getframe().f_back)  # noqa: SLF001 - documented # pyright: ignore[reportPrivateUsage]
        self._base = frozenset(id(frame) for frame in below if not _is_standard(frame))
        self._thread = threading.Thread(
            target=self._watch, args=(threading.get_ident(),), name="loop watch", daemon=True
        )
        self._thread.start()

    def _watch(self, of: int) -> None:
        processor = processor_of(of)
        self._note_use(self._clock(), processor())
        pause = _PAUSE
        while not self._ends.wait(pause):
            # First of all: the loop's thread may go on as soon as it waits for this one.
            top = sys._current_frames().get(of)  # noqa: SLF001 - documented # pyright: ignore[reportPrivateUsage]
            now = self._clock()
            kept_away = now - self._looked - pause
            is_own = self._note_use(now, processor())
            is_late = self._judge(top, now, is_held=kept_away >= _BLOCKED and is_own)
            top = None
            pause = _CLOSER if is_late else _PAUSE

    def _note_use(self, now: float, used: float) -> bool:
        """Return whether the loop's thread computed most since the last look."""
        all_used = PROCESS()
        own = used - self._used
        is_own = own >= max(_LEAST, (all_used - self._all_used) * _OWN_SHARE)
        self._looked = now
        self._used = used
        self._all_used = all_used
        return is_own

    def _judge(self, top: FrameType | None, now: float, *, is_held: bool) -> bool:
        """Look at the loop's thread, and return whether the loop is late."""
        late = now - self._beat - _BEAT
        if self._beat != self._last_beat or late < _SUSPECT:
            self._last_beat = self._beat
            self._earlier = ()
        if late < _SUSPECT:
            return False
        if self._named != self._last_beat:
            frames = [frame for frame in _frames_of(top) if id(frame) not in self._base]
            frame = culprit(frames if is_held else self._earlier, frames)
            if late >= _BLOCKED and frame is not None:
                self._named = self._last_beat
                self._tell(frame, late, now)
            self._earlier = self._earlier or frames
        return True

    def _tell(self, frame: FrameType, seconds: float, now: float) -> None:
        route, request_id = self._whose_is(frame) or ("", "")
        code = frame.f_code
        where = f"{code.co_filename}:{frame.f_lineno} {code.co_qualname}"
        is_told = now >= self._told_until
        if is_told:
            self._told_until = now + _MINUTE
        self._observe(LoopBlocked(route, request_id, round(seconds, 3), where, is_told))

    def _whose_is(self, top: FrameType) -> tuple[str, str] | None:
        for frame in _frames_of(top):
            code = frame.f_code
            if "scope" in code.co_varnames or "scope" in code.co_freevars:
                scope = frame.f_locals.get("scope")
                if not isinstance(scope, dict):
                    continue
                owner = self._whose(cast("dict[str, Any]", scope))
                if owner is not None:
                    return owner
        return None


def culprit(earlier: Sequence[FrameType], now: Sequence[FrameType]) -> FrameType | None:
    """Return the innermost frame of both looks that is not of the standard library."""
    still_there = set(map(id, earlier))
    for frame in now:
        if id(frame) in still_there and not _is_standard(frame):
            return frame
    return None


def _is_standard(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    is_library = file.startswith(_LIBRARY) and not any(part in file for part in _PACKAGES)
    return is_library or file.startswith("<frozen")


def _frames_of(frame: FrameType | None) -> list[FrameType]:
    """List a frame and those that called it, the innermost first."""
    frames: list[FrameType] = []
    while frame is not None and len(frames) < _MOST_FRAMES:
        frames.append(frame)
        frame = frame.f_back
    return frames
