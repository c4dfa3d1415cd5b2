"""What can be done to one direction of a TCP connection while its bytes pass.

The names, units and meanings are those of Toxiproxy 2.12. A toxic moves bytes from one bounded pipe into the next. It
looks at the first chunk, waits as long as it likes, and only then takes the chunk, in the same step in which it hands
it on. So whatever a toxic may be waiting for, it can be cancelled there: all bytes lie in a pipe, none in a toxic, and
it goes on from its `Flow` when started again. That is how toxics come and go while connections live.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

__all__ = ["TYPES", "Chunk", "Effect", "Flow", "Noop", "Pipe", "Toxic", "effect_of"]

PIPE_BYTES = 65_536
# What is in flight during the latency must fit: 16 MiB are 16 MiB/s at one second.
_LATENCY_BYTES = 16_777_216
_STEP = 0.1  # seconds' worth of bytes that a bandwidth lets through at once, as in the original


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some bytes.

    Attributes:
        data: They.
        at: When they came, or would have come out of the last latency; on the loop's clock.
    """

    data: bytes
    at: float


class Pipe:
    """Chunks in their order, and perhaps an end: one task puts, another takes.

    Args:
        limit: Bytes after which there is no room; the last chunk may go over it.
    """

    def __init__(self, limit: int = PIPE_BYTES) -> None:
        self._limit = limit
        self._chunks: deque[Chunk] = deque()
        self._size = 0
        self._ready, self._room = asyncio.Event(), asyncio.Event()
        self._room.set()
        self.ended = False

    async def head(self) -> Chunk | None:
        """Wait for the first chunk, and leave it in; None at the end."""
        await self._ready.wait()
        return self._chunks[0] if self._chunks else None

    async def room(self) -> None:
        """Wait until one more chunk may be put."""
        await self._room.wait()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to take just now."""
        return not self._chunks

    def take(self, size: int | None = None) -> Chunk:
        """Remove the first chunk, or its first bytes."""
        chunk = self._chunks.popleft()
        if size is not None and size < len(chunk.data):
            self._chunks.appendleft(Chunk(chunk.data[size:], chunk.at))
            chunk = Chunk(chunk.data[:size], chunk.at)
        self._resize(-len(chunk.data))
        return chunk

    def put(self, chunk: Chunk) -> None:
        """Add a chunk; after the end it is lost."""
        if not self.ended:
            self._chunks.append(chunk)
            self._resize(len(chunk.data))

    def end(self) -> None:
        """Accept nothing more; what is in can still be taken. May be called twice."""
        self.ended = True
        self._ready.set()

    def absorb(self, other: Pipe) -> None:
        """Add all that is in another pipe, even beyond the limit."""
        while not other.is_empty:
            self.put(other.take())
        if other.ended:
            self.end()

    def _resize(self, change: int) -> None:
        self._size += change
        _show(self._room, self._size < self._limit)
        _show(self._ready, bool(self._chunks) or self.ended)


@dataclass(slots=True)
class Flow:
    """Where a toxic stands between two pipes, and how far it has come.

    Attributes:
        source: Where the bytes come from.
        sink: Where they go.
        reset: Ends the whole connection with a TCP reset.
        since: When the toxic began to act here, with its present attributes.
        sent: Bytes that it let through.
        due: What it waits for at present; 0 for nothing.
    """

    source: Pipe
    sink: Pipe
    reset: Callable[[], None]
    since: float
    sent: int = 0
    due: float = 0.0

    async def carry(self) -> None:
        """Forward all chunks as they come, until the end."""
        while await self.source.head() is not None:
            await self.hand_on()

    async def hand_on(self, size: int | None = None, at: float | None = None) -> None:
        """Wait for room; then hand on the first chunk, or its first bytes, perhaps with a new time."""
        await self.sink.room()
        chunk = self.source.take(size)
        self.sent += len(chunk.data)
        self.sink.put(chunk if at is None else Chunk(chunk.data, at))

    async def wait_once(self, seconds: float) -> None:
        """Wait, counted from the first call even if it is cancelled and repeated."""
        self.due = self.due or _now() + seconds
        await _sleep_until(self.due)


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What a type of toxic does, with its attributes: integers, none negative."""

    buffer: ClassVar[int] = PIPE_BYTES
    # Data was swallowed: the connection is of no use without the toxic either.
    closes_when_removed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or value < 0:
                raise ValueError(f"attribute {field.name} must be an integer of 0 or more")

    async def run(self, flow: Flow) -> None:
        """Move bytes until the end; may be cancelled and run again."""
        await flow.carry()
        flow.sink.end()


class Noop(Effect):
    """Forward everything."""


@dataclass(frozen=True, kw_only=True)
class Latency(Effect):
    """Forward each chunk `latency` ± `jitter` milliseconds after it came."""

    buffer: ClassVar[int] = _LATENCY_BYTES
    latency: int = 0
    jitter: int = 0

    async def run(self, flow: Flow) -> None:
        """Delay each chunk from its own time, so that chunks that came together leave together."""
        while (chunk := await flow.source.head()) is not None:
            due = chunk.at + max(0.0, self.latency + random.uniform(-self.jitter, self.jitter)) / 1000  # noqa: S311 - no secret
            await _sleep_until(due)
            await flow.hand_on(at=due)
        flow.sink.end()


@dataclass(frozen=True, kw_only=True)
class Bandwidth(Effect):
    """Forward `rate` kilobytes (of 1,000 bytes) a second."""

    rate: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rate < 1:
            raise ValueError("attribute rate must be 1 or more")

    async def run(self, flow: Flow) -> None:
        """Forward a piece when its time on the wire is over, on a schedule that makes up for late wake-ups."""
        bytes_per_second = self.rate * 1000
        while True:
            was_idle = flow.source.is_empty
            if (chunk := await flow.source.head()) is None:
                break
            size = min(len(chunk.data), int(bytes_per_second * _STEP))
            # An idle line saves up nothing, a busy one no more than one step.
            begin = max(flow.due, _now() - (0.0 if was_idle else _STEP))
            await _sleep_until(begin + size / bytes_per_second)
            await flow.hand_on(size)
            flow.due = begin + size / bytes_per_second
        flow.sink.end()


@dataclass(frozen=True, kw_only=True)
class SlowClose(Effect):
    """Hold back the end of the connection for `delay` milliseconds."""

    delay: int = 0

    async def run(self, flow: Flow) -> None:
        """Delay the end alone."""
        await flow.carry()
        await flow.wait_once(self.delay / 1000)
        flow.sink.end()


@dataclass(frozen=True, kw_only=True)
class Timeout(Effect):
    """Swallow all data, and close after `timeout` milliseconds; with 0, swallow until removed, then close."""

    closes_when_removed: ClassVar[bool] = True
    timeout: int = 0

    async def run(self, flow: Flow) -> None:
        """Swallow; an end from the other side ends it too."""
        try:
            async with asyncio.timeout_at(flow.since + self.timeout / 1000 if self.timeout else None):
                while await flow.source.head() is not None:
                    flow.source.take()
        except TimeoutError:
            pass
        flow.sink.end()


@dataclass(frozen=True, kw_only=True)
class ResetPeer(Effect):
    """Reset both connections `timeout` milliseconds after the first data, or the end, comes; nothing passes."""

    timeout: int = 0

    async def run(self, flow: Flow) -> None:
        """Wait, then reset."""
        await flow.source.head()
        await flow.wait_once(self.timeout / 1000)
        flow.reset()


@dataclass(frozen=True, kw_only=True)
class Slicer(Effect):
    """Cut data into pieces of `average_size` ± `size_variation` bytes, `delay` microseconds apart."""

    average_size: int = 0
    size_variation: int = 0
    delay: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size_variation >= self.average_size:
            raise ValueError("attribute average_size must be 1 or more, and greater than size_variation")

    async def run(self, flow: Flow) -> None:
        """Forward piece after piece."""
        while await flow.source.head() is not None:
            size = self.average_size + random.randint(-self.size_variation, self.size_variation)  # noqa: S311 - no secret
            await flow.hand_on(size)
            await asyncio.sleep(self.delay / 1_000_000)
        flow.sink.end()


@dataclass(frozen=True, kw_only=True)
class LimitData(Effect):
    """Forward `bytes` bytes, then close."""

    bytes: int = 0

    async def run(self, flow: Flow) -> None:
        """Count over the whole life of the connection."""
        while await flow.source.head() is not None:
            if flow.sent < self.bytes:
                await flow.hand_on(self.bytes - flow.sent)
            if flow.sent >= self.bytes:
                break
        flow.sink.end()


TYPES: Mapping[str, type[Effect]] = {
    "noop": Noop,
    "latency": Latency,
    "bandwidth": Bandwidth,
    "slow_close": SlowClose,
    "timeout": Timeout,
    "reset_peer": ResetPeer,
    "slicer": Slicer,
    "limit_data": LimitData,
}


@dataclass(frozen=True, slots=True)
class Toxic:
    """An effect, as it was put on one direction of a proxy.

    Attributes:
        name: Unique in its proxy.
        type: A key of `TYPES`.
        stream: `upstream` (client to server) or `downstream`.
        toxicity: The share of connections that it acts on, 0 to 1.
        effect: What it does.
    """

    name: str
    type: str
    stream: str
    toxicity: float
    effect: Effect

    def as_json(self) -> dict[str, object]:
        return {
            "attributes": {field.name: getattr(self.effect, field.name) for field in fields(self.effect)},
            "name": self.name,
            "type": self.type,
            "stream": self.stream,
            "toxicity": self.toxicity,
        }

    def strikes(self) -> bool:
        """Throw the dice for one connection."""
        return random.random() < self.toxicity  # noqa: S311 - no secret


def effect_of(kind: type[Effect], attributes: Mapping[str, object], before: Effect | None = None) -> Effect:
    """Make an effect; what is not given stays as it was before, or is 0, and unknown attributes do nothing.

    Raises:
        ValueError: If an attribute is not a sensible integer.
    """
    known = {field.name: getattr(before, field.name, 0) for field in fields(kind)}
    return kind(**{name: attributes.get(name, default) for name, default in known.items()})


def _show(event: asyncio.Event, state: bool) -> None:  # noqa: FBT001 - what the event shall show
    if state:
        event.set()
    else:
        event.clear()


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _sleep_until(moment: float) -> None:
    await asyncio.sleep(moment - _now())
