"""One source, many watchers: each is sent what it may see, from where it left off.

    feed = Feed("orders")
    feed.publish('{"id": 17}', id="17")
    async for piece in feed.stream(last_event_id): ...

1. A watcher is a place in what the feed keeps. It has no queue, so no client makes memory grow.
2. It is known to the feed only while it waits: one whose response was dropped leaves nothing.
3. Nothing ends a stream but its client, its slowness and the drain, which says farewell between two
   events. Its client returns, to any process, with the id of the last event that it got.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final
from weakref import WeakSet

import anyio
from anyio import from_thread
from anyio.lowlevel import EventLoopToken, current_token

from ..clock import MONOTONIC, Clock, random_id
from ..events import (
    FeedRead,
    Observer,
    PolicyCreated,
    Sample,
    TaskCrashed,
    observing,
    process_observer,
)
from ..validation import validation
from ._events import FRESH, GAP, STALE, Entry, FeedEvent, place_written, written
from ._kept import Cursor, Kept, MaySee as MaySee, Turn

Read = Callable[[str], Awaitable[Iterable[FeedEvent]]]
"""Returns the events after one, by its id, or the newest ones if that is empty."""

Wake = Callable[[Callable[[], object]], Awaitable[object]]
"""Runs on, and calls what it is given whenever there may be something to read."""

HEADERS: Final = (
    ("content-type", "text/event-stream"),
    ("cache-control", "no-store"),
    ("x-accel-buffering", "no"),
)
"""The headers of a response that sends a feed's stream; the last one is for nginx."""

_POLL: Final = 5.0
_LEAST_PAUSE: Final = 0.05  # Seconds between two reads, in which notifications become one.


def _everything(event: FeedEvent, /) -> bool:
    return True


class Feed:
    """Events for many watchers, of which the newest are kept for those that return.

    Of one event loop, asyncio's or trio's; `publish` may be called in any of AnyIO's threads.

    Args:
        name: A label of its metrics.
        most_kept: How many events are kept, and the ids of as many again: its whole memory, with
            what they hold. Of several events of one key it keeps one.
        observer: Receives its events; it may raise. By default `asgi.Telemetry`'s; None for none.
        clock: Monotonic seconds.

    Raises:
        ValueError: If an argument is wrong.
    """

    def __init__(
        self,
        name: str,
        *,
        most_kept: int = 1000,
        observer: Observer | None = process_observer,
        clock: Clock = MONOTONIC,
    ) -> None:
        self.name: str = validation.name("Feed.name", name, example='Feed("orders")')
        validation.whole("Feed.most_kept", most_kept, example="most_kept=1000")
        validation.functions("Feed", clock=clock)
        self._observe = observing("Feed", name, observer)
        self._clock = clock
        self._events = Kept(most_kept, random_id())
        self._watchers: WeakSet[Watcher] = WeakSet()
        self._waiting: dict[Watcher, anyio.Event] = {}
        self._token: EventLoopToken | None = None
        self._is_stale = False
        self._read_at = math.inf
        self._slow = self._gaps = 0
        self._observe(PolicyCreated(name, self.collect))

    def __repr__(self) -> str:
        return f"Feed({self.name!r}, most_kept={self._events.most})"

    @property
    def last_id(self) -> str:
        """The id of the last event; empty before the first."""
        return self._events.last_id

    @property
    def is_stale(self) -> bool:
        """Whether its source could not be read at the last attempt."""
        return self._is_stale

    def collect(self) -> Iterable[Sample]:
        """Return its numbers, for metrics. Any thread may ask."""
        yield Sample("postfacta_feed_watchers", (self.name,), len(self._watchers))
        yield Sample("postfacta_feed_events_total", (self.name,), self._events.head)
        yield Sample("postfacta_feed_gaps_total", (self.name,), self._gaps)
        yield Sample("postfacta_feed_dropped_total", (self.name,), self._slow)
        if self._read_at < math.inf:
            age = self._clock() - self._read_at
            yield Sample("postfacta_feed_read_age_seconds", (self.name,), age)

    def publish(
        self,
        data: str,
        *,
        id: str = "",  # noqa: A002 - the field's own name in the format
        key: str = "",
        name: str = "",
    ) -> bool:
        """Publish an event; it waits for no watcher.

        Args:
            data: Its content; any text, such as JSON.
            id: By default one of this process, with which a client can return to no other.
            key: What it is the newest state of, see `FeedEvent`.
            name: Its type, for a browser's `addEventListener`.

        Returns:
            False if an event of this id was published before, and nothing was done.

        Raises:
            ValueError: If an argument is wrong.
            RuntimeError: In a thread that AnyIO has not started, without a watcher.
        """
        event = FeedEvent(data, id or random_id(), key, name)
        if _has_loop():
            return self._add(event)
        return from_thread.run_sync(self._add, event, token=self._token)

    def subscribe(
        self,
        last_event_id: str | None = None,
        *,
        may_see: MaySee = _everything,
        pause: float = 0.0,
    ) -> Watcher:
        """Return an iterator over what comes from now on, and over what was missed.

        It yields events, and `GAP`, `STALE` and `FRESH`. It ends if its reader is slow: if more
        than half of what the feed keeps came while it was sent what was there before.

        Args:
            last_event_id: The request's `Last-Event-ID`; None or empty without one. Any other than
                that of a kept event which this watcher may see begins with `GAP`.
            may_see: Returns whether it may see an event. It is called for each event and watcher:
                it must be quick, and not wait.
            pause: Seconds from one event to the next, in which those of one key become one. With
                it, no watcher is slow.

        Raises:
            ValueError: If an argument is wrong.
        """
        validation.function("Feed.subscribe.may_see", may_see, example="lambda event: True")
        validation.number("Feed.subscribe.pause", pause, at_least=0.0, example="pause=1.0")
        self._token = current_token()
        cursor = Cursor(self._events, may_see, last_event_id, may_lag=pause > 0)
        watcher = Watcher(self, cursor, may_see=may_see, pause=pause)
        self._watchers.add(watcher)
        return watcher

    def stream(
        self,
        last_event_id: str | None = None,
        *,
        may_see: MaySee = _everything,
        pause: float = 0.0,
    ) -> AsyncIterator[bytes]:
        """Return the body of a response with `HEADERS`, as server-sent events; see `subscribe`.

        Each piece is a whole event, so a heartbeat and a drain's farewell come between two. The
        first may be an id alone, with which a client returns that got no event.
        """
        return _Stream(self.subscribe(last_event_id, may_see=may_see, pause=pause))

    def follow(
        self, read: Read, *, wake: Wake | None = None, poll: float = _POLL
    ) -> AbstractAsyncContextManager[None]:
        """Publish what a source has, such as a table that all processes share, during a block.

        The block may be a resource of `harden`. Entering it waits for the first read, whether that
        fails or not. While reads fail, the feed is stale.

        Args:
            read: Called with the id of the last event, empty at first, for what follows that; then
                for the newest, as many as the feed keeps. In the same order in each process, with
                the same ids. What it returns twice is published once. It has `poll` seconds.
            wake: Runs all the while, and calls its argument when there may be news, such as
                `Database.listen`. What it misses, the next poll finds.
            poll: Seconds between two reads without news.

        Raises:
            ValueError: If an argument is wrong.
        """
        validation.function("Feed.follow.read", read, example="feed.follow(read_orders)")
        validation.seconds("Feed.follow.poll", poll, example="poll=5.0")
        if wake is not None:
            validation.function("Feed.follow.wake", wake, example='database.listen("orders")')
        return self._following(read, wake, poll)

    @asynccontextmanager
    async def _following(self, read: Read, wake: Wake | None, poll: float) -> AsyncGenerator[None]:
        self._token = current_token()
        self._read_at = self._clock()
        bell = _Bell()
        async with anyio.create_task_group() as tasks:
            if wake is not None:
                tasks.start_soon(self._heed, wake, bell, poll)
            await self._read(read, poll)
            tasks.start_soon(self._keep_reading, read, bell, poll)
            yield
            tasks.cancel_scope.cancel()

    async def _keep_reading(self, read: Read, bell: _Bell, poll: float) -> None:
        while True:
            await anyio.sleep(_LEAST_PAUSE)
            with anyio.move_on_after(poll):
                await bell.wait()
            await self._read(read, poll)

    async def _read(self, read: Read, poll: float) -> None:
        try:
            with anyio.fail_after(poll):
                events = await read(self.last_id)
            for event in events:
                self._add(event)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is read again
            self._set_stale(type(error).__name__)
        else:
            self._read_at = self._clock()
            self._set_stale("")

    async def _heed(self, wake: Wake, bell: _Bell, poll: float) -> None:
        while True:
            try:
                await wake(bell.ring)
            except Exception as error:  # noqa: BLE001 - it is foreign code, and polls go on
                self._observe(TaskCrashed(f"feed.{self.name}", error))
            await anyio.sleep(poll)

    def _set_stale(self, error: str) -> None:
        if self._is_stale == bool(error):
            return
        self._is_stale = bool(error)
        self._observe(FeedRead(self.name, not error, error))
        for event in self._waiting.values():
            event.set()

    def _add(self, event: FeedEvent) -> bool:
        entry = self._events.add(event)
        if entry is None:
            return False
        for watcher, news in self._waiting.items():
            if news.is_set() or watcher.passes_over(entry):
                continue
            news.set()
        return True

    async def wait_for_news(self, watcher: Watcher) -> None:
        """Wait until there may be something for a watcher that has seen all; for `Watcher`."""
        news = self._waiting[watcher] = anyio.Event()
        try:
            await news.wait()
        finally:
            del self._waiting[watcher]

    def count(self, *, gaps: int = 0, slow: int = 0) -> None:
        """Count what became of a watcher; for `Watcher`."""
        self._gaps += gaps
        self._slow += slow


class Watcher:
    """An async iterator over the events of a feed, made by `Feed.subscribe`.

    One task reads it. It may be dropped at any time: there is nothing to close.
    """

    def __init__(self, feed: Feed, cursor: Cursor, *, may_see: MaySee, pause: float) -> None:
        self.cursor: Cursor = cursor
        self._feed = feed
        self._may_see = may_see
        self._pause = pause
        self._is_stale = False
        self._rests_until = -math.inf

    def __aiter__(self) -> Watcher:
        return self

    async def __anext__(self) -> FeedEvent:
        """Return the next event, or `GAP`, `STALE` or `FRESH`; wait until there is one."""
        return (await self.next()).event

    async def next(self) -> Entry:
        """Return the same with its bytes; for `Feed.stream`."""
        feed = self._feed
        if self._pause:
            await anyio.sleep(max(0.0, self._rests_until - anyio.current_time()))
        while True:
            if feed.is_stale is not self._is_stale:
                self._is_stale = feed.is_stale
                event = STALE if feed.is_stale else FRESH
                return Entry(0, event, written(event, ""))
            entry = self.cursor.next()
            if entry is Turn.LEAVE:
                feed.count(slow=1)
                raise StopAsyncIteration
            if isinstance(entry, Entry):
                feed.count(gaps=entry.event is GAP)
                self._rests_until = anyio.current_time() + self._pause
                return entry
            await feed.wait_for_news(self)

    def passes_over(self, entry: Entry) -> bool:
        """Go past what it may not see while it waits; return whether it did."""
        try:
            is_seen = self._may_see(entry.event)
        except Exception:  # noqa: BLE001 - it raises again where its watcher looks
            is_seen = True
        if not is_seen:
            self.cursor.pass_over(entry)
        return not is_seen


class _Stream:
    """Makes a watcher's events the pieces of a body."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._place = watcher.cursor.place()

    def __aiter__(self) -> _Stream:
        return self

    async def __anext__(self) -> bytes:
        place = self._place
        if place:
            self._place = ""
            return place_written(place)
        return (await self._watcher.next()).wire


class _Bell:
    """Rings for one who waits, once for all that rang before."""

    def __init__(self) -> None:
        self._rung = anyio.Event()

    def ring(self) -> None:
        self._rung.set()

    async def wait(self) -> None:
        await self._rung.wait()
        self._rung = anyio.Event()


def _has_loop() -> bool:
    try:
        current_token()
    except RuntimeError:
        return False
    return True
