"""A feed wakes who may see what came, forgets who is gone, and follows a source that may be away."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial

import anyio
import pytest
from anyio import to_thread

from postfacta_core.events import FeedRead, TaskCrashed
from postfacta_core.feed import FRESH, HEADERS, STALE, Feed, FeedEvent
from postfacta_core.feed.feed import Watcher
from postfacta_core.testing import RecordingObserver
from tests.core.virtual import loop_clock, on_real_loops


def feed_of(most_kept: int = 100, observer: RecordingObserver | None = None) -> Feed:
    return Feed("orders", most_kept=most_kept, observer=observer, clock=loop_clock())


def numbers(feed: Feed) -> dict[str, float]:
    return {
        sample.metric.removeprefix("postfacta_feed_"): sample.value for sample in feed.collect()
    }


async def take(watcher: Watcher, seen: list[str]) -> None:
    async for event in watcher:
        seen.append(event.id)  # noqa: PERF401 - it is looked at while this goes on


async def test_each_watcher_gets_each_event_once_in_order() -> None:
    feed = feed_of()
    seen: list[list[str]] = [[] for _ in range(20)]
    async with anyio.create_task_group() as tasks:
        for one in seen:
            tasks.start_soon(take, feed.subscribe(), one)
        await anyio.sleep(1)
        for number in range(50):
            assert feed.publish("", id=str(number))
            if number % 7 == 0:
                await anyio.sleep(1)
        await anyio.sleep(1)
        assert seen == [[str(number) for number in range(50)]] * 20
        assert numbers(feed)["watchers"] == 20
        tasks.cancel_scope.cancel()


async def test_only_who_may_see_an_event_is_roused() -> None:
    feed = feed_of()
    looks: list[str] = []

    def theirs(event: FeedEvent) -> bool:
        looks.append(event.id)
        return event.name == "theirs"

    seen: list[str] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take, feed.subscribe(may_see=theirs), seen)
        await anyio.sleep(1)
        feed.publish("", id="1", name="ours")
        feed.publish("", id="2", name="theirs")
        feed.publish("", id="3", name="ours")
        await anyio.sleep(1)
        tasks.cancel_scope.cancel()
    assert seen == ["2"]
    # Once as it came, and once more where the watcher was roused: none is looked through again.
    assert looks == ["1", "2", "2", "3"]


async def test_a_rule_that_raises_hurts_its_own_watcher_alone() -> None:
    feed = feed_of()
    seen: list[str] = []
    raised: list[str] = []

    def broken(event: FeedEvent) -> bool:
        raise LookupError(event.id)

    async def watch() -> None:
        try:
            await take(feed.subscribe(may_see=broken), [])
        except LookupError as error:
            raised.append(str(error))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        tasks.start_soon(take, feed.subscribe(), seen)
        await anyio.sleep(1)
        feed.publish("", id="1")
        await anyio.sleep(1)
        tasks.cancel_scope.cancel()
    assert (seen, raised) == (["1"], ["1"])


async def test_a_stream_that_is_dropped_leaves_nothing() -> None:
    feed = feed_of()

    async def send() -> None:
        async for _ in feed.stream():
            assert numbers(feed)["watchers"] == 1

    for _ in range(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            await anyio.sleep(1)
            tasks.cancel_scope.cancel()
        gc.collect()
    assert numbers(feed)["watchers"] == 0
    feed.publish("", id="1")


async def test_a_stream_begins_with_a_place_and_goes_on_by_it() -> None:
    feed = feed_of()
    pieces = feed.stream()
    first = await anext(aiter(pieces))
    assert first.startswith(b"id: ")
    assert first.endswith(b".0\n\n")
    feed.publish("a", id="1")
    back = feed.stream(first.decode().removeprefix("id: ").strip())
    assert await anext(aiter(back)) == b"id: 1\ndata: a\n\n"
    assert await anext(aiter(feed.stream("1"))) == b"id: 1\n\n"
    assert await anext(aiter(feed.stream("forged"))) == b"event: gap\nid: 1\ndata: {}\n\n"
    assert numbers(feed)["gaps_total"] == 1
    assert dict(HEADERS)["content-type"] == "text/event-stream"


async def test_a_slow_watcher_is_dropped_and_returns_with_nothing_missed() -> None:
    feed = feed_of(most_kept=10)
    watcher = feed.subscribe()
    for number in range(4):
        feed.publish("", id=f"a{number}")
    assert (await anext(watcher)).id == "a0"
    for number in range(6):
        feed.publish("", id=f"b{number}")
    got = [event.id async for event in watcher]
    assert got == ["a1", "a2", "a3"]
    assert numbers(feed)["dropped_total"] == 1
    back = feed.subscribe(got[-1])
    assert [(await anext(back)).id for _ in range(6)] == [f"b{number}" for number in range(6)]


async def test_with_a_pause_events_of_one_key_become_one() -> None:
    feed = feed_of()
    seen: list[str] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take, feed.subscribe(pause=1.0), seen)
        await anyio.sleep(2)
        for number in range(1000):
            feed.publish("", id=str(number), key="incident")
            await anyio.sleep(0.01)
        await anyio.sleep(2)
        tasks.cancel_scope.cancel()
    assert 10 <= len(seen) <= 12
    assert seen[0] == "0"
    assert seen[-1] == "999"
    assert numbers(feed)["dropped_total"] == 0


@on_real_loops
async def test_any_thread_may_publish() -> None:
    feed = Feed("orders", observer=None)
    watcher = feed.subscribe()
    published = partial(feed.publish, "", id="1")
    assert await to_thread.run_sync(published)
    assert not await to_thread.run_sync(published)
    assert (await anext(watcher)).id == "1"


async def test_an_event_without_an_id_gets_one() -> None:
    feed = feed_of()
    watcher = feed.subscribe()
    assert feed.publish("a")
    assert feed.publish("a")
    assert (await anext(watcher)).id != (await anext(watcher)).id == feed.last_id


class Table:
    """What all processes share."""

    def __init__(self, *ids: str) -> None:
        self.rows = list(ids)
        self.reads: list[str] = []
        self.error: Exception | None = None

    async def read(self, last_id: str) -> Sequence[FeedEvent]:
        self.reads.append(last_id)
        if self.error is not None:
            raise self.error
        return [FeedEvent("", row) for row in self.rows]


class Bell:
    """A wake that a test rings."""

    def __init__(self) -> None:
        self.ring: Callable[[], object] = bool

    async def __call__(self, look: Callable[[], object]) -> None:
        self.ring = look
        await anyio.sleep_forever()


async def test_what_a_source_has_is_there_before_the_first_watcher() -> None:
    feed, table = feed_of(), Table("1", "2")
    async with feed.follow(table.read):
        watcher = feed.subscribe("1")
        assert (await anext(watcher)).id == "2"
        assert table.reads == [""]


async def test_a_notification_is_read_at_once_and_many_are_one() -> None:
    feed, table, bell = feed_of(), Table(), Bell()
    async with feed.follow(table.read, wake=bell, poll=5.0):
        await anyio.sleep(1)
        began = anyio.current_time()
        table.rows.append("1")
        for _ in range(1000):
            bell.ring()
        assert (await anext(feed.subscribe())).id == "1"
        assert anyio.current_time() - began < 0.1
        await anyio.sleep(1)
        assert table.reads == ["", ""]


async def test_a_lost_notification_is_found_by_the_poll() -> None:
    feed, table = feed_of(), Table()
    async with feed.follow(table.read, wake=Bell(), poll=5.0):
        watcher = feed.subscribe()
        table.rows.append("1")
        began = anyio.current_time()
        assert (await anext(watcher)).id == "1"
        assert anyio.current_time() - began <= 5.1
        assert numbers(feed)["read_age_seconds"] < 0.1


async def test_a_source_that_is_away_is_reported_once_and_its_return_once() -> None:
    observer = RecordingObserver()
    feed, table = feed_of(observer=observer), Table()
    seen: list[str] = []
    async with anyio.create_task_group() as tasks, feed.follow(table.read, poll=1.0):
        tasks.start_soon(take, feed.subscribe(), seen)
        await anyio.sleep(3)
        table.error = OSError("with a secret")
        await anyio.sleep(10)
        assert seen == [STALE.id]
        assert feed.is_stale
        assert numbers(feed)["read_age_seconds"] > 8
        late = feed.subscribe()
        assert await anext(late) is STALE
        table.error = None
        table.rows.append("1")
        await anyio.sleep(3)
        assert seen in (["stale", FRESH.id, "1"], ["stale", "1", FRESH.id])
        tasks.cancel_scope.cancel()
    assert observer.of(FeedRead) == [
        FeedRead("orders", available=False, error="OSError"),
        FeedRead("orders", available=True),
    ]


async def test_a_service_starts_while_its_source_is_away_or_silent() -> None:
    feed, table = feed_of(), Table()
    table.error = OSError()
    async with feed.follow(table.read):
        assert feed.is_stale

    async def silent(last_id: str) -> Sequence[FeedEvent]:
        await anyio.sleep_forever()
        return ()

    began = anyio.current_time()
    async with feed.follow(silent, poll=2.0):
        assert feed.is_stale
    assert anyio.current_time() - began == pytest.approx(2.0)


@pytest.mark.parametrize("error", [None, OSError("broken")])
async def test_a_wake_that_ends_or_raises_is_called_again(error: Exception | None) -> None:
    observer = RecordingObserver()
    feed = feed_of(observer=observer)
    calls: list[float] = []

    async def wake(look: Callable[[], object]) -> None:
        calls.append(anyio.current_time())
        if error is not None:
            raise error

    async with feed.follow(Table().read, wake=wake, poll=5.0):
        await anyio.sleep(12)
    assert len(calls) == 3
    crashes = observer.of(TaskCrashed)
    assert [crash.task for crash in crashes] == ["feed.orders"] * (0 if error is None else 3)


async def test_a_feed_can_follow_again() -> None:
    feed, table = feed_of(), Table("1")
    for _ in range(2):
        async with feed.follow(table.read):
            assert feed.last_id == "1"
    assert table.reads == ["", "1"]


WRONG: dict[str, Callable[[Feed], object]] = {
    "name": lambda feed: Feed("with spaces"),
    "most_kept": lambda feed: Feed("orders", most_kept=0),
    "may_see": lambda feed: feed.subscribe(may_see=True),  # type: ignore[arg-type]
    "pause": lambda feed: feed.subscribe(pause=-1.0),
    "data": lambda feed: feed.publish(b"bytes"),  # type: ignore[arg-type]
    "id": lambda feed: feed.publish("", id="a\nb"),
}
WRONG_TO_FOLLOW: dict[str, Callable[[Feed], AbstractAsyncContextManager[None]]] = {
    "read": lambda feed: feed.follow("read"),  # type: ignore[arg-type]
    "poll": lambda feed: feed.follow(Table().read, poll=0),
    "wake": lambda feed: feed.follow(Table().read, wake="orders"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("field", WRONG)
async def test_a_wrong_argument_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=rf"\.{field} must be"):
        WRONG[field](feed_of())


@pytest.mark.parametrize("field", WRONG_TO_FOLLOW)
async def test_what_cannot_be_followed_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=rf"Feed\.follow\.{field} must be"):
        async with WRONG_TO_FOLLOW[field](feed_of()):
            pass


async def test_its_repr_has_its_bounds() -> None:
    assert repr(feed_of(7)) == "Feed('orders', most_kept=7)"
