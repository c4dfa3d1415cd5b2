"""Resources close in reverse order, each in its time, and one that does not close keeps none from closing."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from postfacta_core.drain.resources import Resource, hold
from postfacta_core.events import ResourceStuck, TaskCrashed
from postfacta_core.testing import RecordingObserver


class Log(list[str]):
    """Makes resources that write down what becomes of them."""

    @asynccontextmanager
    async def good(self, name: str) -> AsyncGenerator[None]:
        self.append(f"open {name}")
        yield
        await anyio.lowlevel.checkpoint()  # one that cannot wait while it closes would not do
        self.append(f"close {name}")

    @asynccontextmanager
    async def with_tasks(self, name: str) -> AsyncGenerator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            self.append(f"open {name}")
            yield
            tasks.cancel_scope.cancel()
        self.append(f"close {name}")

    @asynccontextmanager
    async def hangs(self) -> AsyncGenerator[None]:
        yield
        try:
            await anyio.sleep_forever()
        finally:
            self.append("cancelled hangs")

    @asynccontextmanager
    async def shields_itself(self, gate: anyio.Event) -> AsyncGenerator[None]:
        yield
        with anyio.CancelScope(shield=True):
            await gate.wait()
        self.append("close shields_itself")

    @asynccontextmanager
    async def crashes(self, gate: anyio.Event) -> AsyncGenerator[None]:
        async def live() -> None:
            await gate.wait()
            raise OSError("lost")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(live)
            yield
            tasks.cancel_scope.cancel()

    @asynccontextmanager
    async def fails(self, *, opening: bool) -> AsyncGenerator[None]:
        if opening:
            raise OSError("cannot open")
        yield
        raise OSError("cannot close")


def shares(seconds: float, asked: list[int]) -> Callable[[int], float]:
    def share(left: int) -> float:
        asked.append(left)
        return seconds

    return share


async def test_they_are_entered_in_order_and_left_in_reverse_each_with_its_share() -> None:
    log, asked = Log(), list[int]()
    resources: list[Resource] = [log.good("one"), log.with_tasks("two"), log.good("three")]
    async with hold(resources, share=shares(5, asked)):
        log.append("block")
    assert log == [
        *("open one", "open two", "open three", "block"),
        *("close three", "close two", "close one"),
    ]
    assert asked == [3, 2, 1]


async def test_nothing_to_hold_is_nothing_to_do() -> None:
    async with hold([]):
        pass


async def test_one_that_hangs_is_cancelled_after_its_share_and_the_next_still_closes() -> None:
    log, observer = Log(), RecordingObserver()
    with anyio.fail_after(10):
        async with hold([log.good("one"), log.hangs()], share=shares(0.05, []), observer=observer):
            pass
    assert log == ["open one", "cancelled hangs", "close one"]
    (stuck,) = observer.of(ResourceStuck)
    assert stuck.resource == "hangs"
    assert stuck.seconds >= 0.04


async def test_one_that_shields_itself_does_not_keep_the_next_from_closing() -> None:
    log, gate, observer = Log(), anyio.Event(), RecordingObserver()

    async def release() -> None:
        while "close one" not in log:
            await anyio.sleep(0.01)
        gate.set()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(release)
            async with hold(
                [log.good("one"), log.shields_itself(gate)],
                share=shares(0.02, []),
                observer=observer,
            ):
                pass
    assert log == ["open one", "close one", "close shields_itself"]
    assert len(observer.of(ResourceStuck)) == 1


async def test_one_that_cannot_open_stops_the_rest_and_its_error_comes_out_as_it_is() -> None:
    log = Log()
    with pytest.raises(OSError, match="cannot open"):
        async with hold([log.good("one"), log.fails(opening=True), log.good("three")]):
            log.append("block")
    assert log == ["open one", "close one"]


async def test_one_that_cannot_close_is_reported_after_all_are_closed() -> None:
    log = Log()
    with pytest.raises(OSError, match="cannot close"):
        async with hold([log.good("one"), log.fails(opening=False)]):
            log.append("block")
    assert log == ["open one", "block", "close one"]


async def test_the_blocks_own_error_goes_first() -> None:
    log = Log()
    with pytest.raises(LookupError, match="block"):
        async with hold([log.good("one"), log.fails(opening=False)]):
            raise LookupError("block")
    assert log == ["open one", "close one"]


async def test_one_that_crashes_in_the_middle_cancels_the_block() -> None:
    log, gate, observer = Log(), anyio.Event(), RecordingObserver()
    with anyio.fail_after(10), pytest.raises(ExceptionGroup) as raised:
        async with hold([log.good("one"), log.crashes(gate)], observer=observer):
            gate.set()
            await anyio.sleep_forever()
    assert raised.group_contains(OSError, match="lost")
    assert log == ["open one", "close one"]
    assert [event.task for event in observer.of(TaskCrashed)] == ["crashes"]


async def test_the_callback_for_a_crash_may_let_the_block_continue() -> None:
    log, gate, lost = Log(), anyio.Event(), anyio.Event()
    with anyio.fail_after(10), pytest.raises(ExceptionGroup) as raised:
        async with hold([log.good("one"), log.crashes(gate)], lost=lost.set):
            gate.set()
            await lost.wait()
            await anyio.sleep(0.01)
            log.append("block")
    assert raised.group_contains(OSError, match="lost")
    assert log == ["open one", "block", "close one"]


async def test_one_around_which_all_is_cancelled_still_closes_in_its_turn() -> None:
    log = Log()
    with anyio.move_on_after(0.05) as outer:
        async with hold([log.good("one"), log.with_tasks("two"), log.good("three")]):
            await anyio.sleep_forever()
    assert outer.cancelled_caught
    assert log[3:] == ["close three", "close two", "close one"]


async def test_a_start_that_is_cancelled_does_not_wait_for_one_that_cannot_open() -> None:
    log = Log()

    @asynccontextmanager
    async def never_opens() -> AsyncGenerator[None]:
        await anyio.sleep_forever()
        yield

    with anyio.fail_after(10):
        with anyio.move_on_after(0.05) as outer:
            async with hold([log.good("one"), never_opens()]):
                log.append("block")
        assert outer.cancelled_caught
    assert log == ["open one", "close one"]


async def test_a_class_is_named_after_itself() -> None:
    class Database:
        async def __aenter__(self) -> None:
            pass

        async def __aexit__(self, *error: object) -> None:
            await anyio.sleep_forever()

    observer = RecordingObserver()
    async with hold([Database()], share=shares(0.01, []), observer=observer):
        pass
    assert [event.resource for event in observer.of(ResourceStuck)] == ["Database"]
