"""Bound the silences of a response that a dependency sends in pieces, and report how it ended.

1. Time counts while the next piece is waited for, and never while the reader works.
2. A piece that does not count, such as a comment, is passed on, and proves nothing.
3. What is read before it is handed on is kept, at most `_MOST_KEPT` bytes. A dependency that sends
   more which does not count stands still.
4. An end is reported once: the first one decides.

`Watch` decides, `AsyncStream` and `SyncStream` read.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Final, Literal, cast

import anyio

from postfacta_core.clock import Clock

__all__ = [
    "AsyncStream",
    "Bounds",
    "Ending",
    "SyncStream",
    "Watch",
    "watched",
]

Ending = Literal["complete", "first", "idle", "cut", "left"]
_MOST_KEPT: Final = 1_048_576
_OVERHEAD: Final = 64  # Bytes that a piece takes beside its own.
# A line that begins with something else than a colon, which makes it a comment (HTML, section
# 9.2.5, "Parsing an event stream").
_NO_COMMENT: Final = re.compile(rb"(?:\A|[\r\n])[^:\r\n]")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Seconds until the first piece that counts, and between two of them; and which count."""

    first: float = math.inf
    idle: float = math.inf
    counts: Callable[[bytes], object] | None = None


def event_counts() -> Callable[[bytes], bool]:
    """Return what decides of each piece of an event stream whether it counts.

    One with a part of a line that is no comment does. Of a line that goes on in the next piece, its
    first byte is kept.
    """
    begun = b""

    def counts(piece: bytes) -> bool:
        nonlocal begun
        text = begun + piece
        line = max(text.rfind(b"\n"), text.rfind(b"\r")) + 1
        begun = text[line : line + 1]
        return _NO_COMMENT.search(text) is not None

    return counts


def counts_by(headers: Any) -> Callable[[bytes], object]:
    """Return which pieces of a response count, by its headers: in a compressed one, any byte."""
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    encoding = headers.get("content-encoding", "identity")
    is_events = media_type == "text/event-stream" and encoding == "identity"
    return event_counts() if is_events else bool


class Watch:
    """How long one response may be silent, what it has sent, and how it ended.

    Attributes:
        pieces: How many that count have come.
        first: Seconds from sending to the first of them; None without.
        is_handed_on: Whether its reader has it, so that no guard sees its end.

    Args:
        counts: Which pieces count; if it raises, the piece does, and `report` gets the error.
        began: When the request was sent.
        ended: Called once, with this, how it ended, and the error, if there is one.
    """

    def __init__(
        self,
        bounds: Bounds,
        clock: Clock,
        *,
        stalled: Callable[[], Exception],
        report: Callable[[Exception], object],
        ended: Callable[[Watch, Ending, Exception | None], object],
    ) -> None:
        self.clock: Clock = clock
        self.counts: Callable[[bytes], object] = bounds.counts or bool
        self.pieces = 0
        self.first: float | None = None
        self.began: float = clock()
        self.is_handed_on = False
        self._bounds = bounds
        self._waited = 0.0
        self._unproved = 0
        self._stalled = stalled
        self._report = report
        self._ended: Callable[[Watch, Ending, Exception | None], object] | None = ended

    def answered(self, headers: Any) -> None:
        """Note that the head of the response is there."""
        self._waited = self.clock() - self.began
        if self._bounds.counts is None:
            self.counts = counts_by(headers)

    @property
    def is_awaited(self) -> bool:
        """Whether its first piece that counts must come before it is handed on."""
        return self.first is None and self._bounds.first < math.inf

    @property
    def left(self) -> float:
        """Seconds that may pass until a piece that counts is there."""
        return (self._bounds.first if self.first is None else self._bounds.idle) - self._waited

    def add(self, piece: bytes, waited: float) -> bool:
        """Note a piece, and what it was waited for; return whether another may be waited for."""
        self._waited += waited
        try:
            is_life = self.counts(piece)
        except Exception as fault:  # noqa: BLE001 - it is foreign code, and may raise anything
            self._report(fault)
            is_life = True
        if not is_life:
            self._unproved += 0 if self.is_handed_on else len(piece) + _OVERHEAD
            return self.left > 0 and self._unproved <= _MOST_KEPT
        if self.first is None:
            self.first = self.clock() - self.began
        self._waited = 0.0
        self.pieces += 1
        return True

    def stall(self) -> Exception:
        """End it, as it stood still, and return the error."""
        error = self._stalled()
        self.end("first" if self.first is None else "idle", error)
        return error

    def end(self, ending: Ending, error: Exception | None = None) -> None:
        """Report how it ended, unless that is done."""
        ended = self._ended
        self._ended = None
        if ended is not None:
            ended(self, ending, error)


class AsyncStream:
    """The body of a response of an async client, watched."""

    base: ClassVar[str] = "AsyncByteStream"

    def __init__(self, stream: Any, watch: Watch) -> None:
        self._stream = stream
        self._pieces = aiter(stream)
        self._watch = watch
        self._early: deque[bytes] = deque()
        self._is_reading = False

    async def begin(self) -> None:
        """Read until a piece that counts is there, if it is bounded; raise if none came in time."""
        while self._watch.is_awaited and (piece := await self._read()) is not None:
            self._early.append(piece)
        self._watch.is_handed_on = True

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        while self._early:
            yield self._early.popleft()
        while (piece := await self._read()) is not None:
            yield piece

    async def aclose(self) -> None:
        """Close it; what was not read to its end, its reader has left."""
        self._watch.end("left")
        close = getattr(self._pieces, "aclose", None)
        if close is not None and not self._is_reading:
            await close()
        await self._stream.aclose()

    async def _read(self) -> bytes | None:
        """Return the next piece, or None at the end."""
        watch = self._watch
        began = watch.clock()
        piece: bytes | None = None
        self._is_reading = True
        try:
            with anyio.move_on_after(watch.left) as scope:
                piece = await anext(self._pieces, None)
        except Exception as error:
            if not has_waited(error):
                watch.end("cut", error)
                raise
            raise await self._stall() from error
        finally:
            self._is_reading = False
        if scope.cancelled_caught:
            raise await self._stall()
        if piece is None:
            watch.end("complete")
        elif not watch.add(piece, watch.clock() - began):
            raise await self._stall()
        return piece

    async def _stall(self) -> Exception:
        error = self._watch.stall()
        with anyio.CancelScope(shield=True):
            await self.aclose()
        return error


class SyncStream:
    """The body of a response of a sync client, watched."""

    base: ClassVar[str] = "SyncByteStream"

    def __init__(self, stream: Any, watch: Watch) -> None:
        self._stream = stream
        self._pieces = iter(stream)
        self._watch = watch
        self._early: deque[bytes] = deque()

    def begin(self) -> None:
        """Read until a piece that counts is there, if it is bounded; raise if none came in time."""
        while self._watch.is_awaited and (piece := self._read()) is not None:
            self._early.append(piece)
        self._watch.is_handed_on = True

    def __iter__(self) -> Generator[bytes]:
        while self._early:
            yield self._early.popleft()
        while (piece := self._read()) is not None:
            yield piece

    def close(self) -> None:
        """Close it; what was not read to its end, its reader has left."""
        self._watch.end("left")
        self._stream.close()

    def _read(self) -> bytes | None:
        """Return the next piece, or None at the end."""
        watch = self._watch
        began = watch.clock()
        try:
            piece: bytes | None = next(self._pieces, None)
        except Exception as error:
            if not has_waited(error):
                watch.end("cut", error)
                raise
            raise self._stall() from error
        if piece is None:
            watch.end("complete")
        elif not watch.add(piece, watch.clock() - began):
            raise self._stall()
        return piece

    def _stall(self) -> Exception:
        error = self._watch.stall()
        self.close()
        return error


def has_waited(error: Exception) -> bool:
    """Return whether it is a time-out of the client, by httpx's name of the class."""
    return any(kind.__name__ == "TimeoutException" for kind in type(error).__mro__)


@cache
def _kind_of(ours: Any, theirs: Any) -> Any:
    """Return a class of ours that the client of a stream takes for one of its own."""
    base = next((kind for kind in theirs.__mro__ if kind.__name__ == ours.base), object)
    return type(ours.__name__, (ours, base), {})


def watched(kind: type[AsyncStream | SyncStream], response: Any, watch: Watch) -> Any:
    """Put a watch on the body of a response, and return the stream that reads it."""
    watch.answered(response.headers)
    body: Any = response.stream
    stream: Any = _kind_of(cast("Any", kind), cast("Any", type(body)))(body, watch)
    response.stream = stream
    return stream
