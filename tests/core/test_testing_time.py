"""Virtual time passes at once and in order, and what waits for the real world is refused."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import anyio
import pytest
import trio
from anyio.lowlevel import checkpoint
from hypothesis import example, given, strategies as st
from trio.testing import MockClock

from postfacta_core.testing import ManualClock, run_in_virtual_time, virtual
from postfacta_core.testing.virtual import VirtualTimeLoop

# Virtual time. A day must pass in far less than this, and a real wait of this length would be
# noticed.
REAL_SECONDS = 5.0


async def nap(seconds: float) -> float:
    """Sleep, and return the time that it took on the loop's clock."""
    before = anyio.current_time()
    await anyio.sleep(seconds)
    return anyio.current_time() - before


def test_a_day_asleep_takes_no_time() -> None:
    clock, began = ManualClock(0.0), time.monotonic()
    assert run_in_virtual_time(nap, 86_400.0, clock=clock) == 86_400.0
    assert clock() == 86_400.0
    assert time.monotonic() - began < REAL_SECONDS


def test_a_sleep_longer_than_the_loop_waits_at_once_is_not_cut_short() -> None:
    # asyncio asks its selector for a day at most.
    assert run_in_virtual_time(nap, 1e6, clock=ManualClock(0.0)) == 1e6


def test_a_timeout_fires_at_its_moment_and_not_before() -> None:
    async def work() -> tuple[bool, bool, float]:
        with anyio.move_on_after(2) as late:
            await anyio.sleep(3)
        with anyio.move_on_after(2) as early:
            await anyio.sleep(1)
        return late.cancelled_caught, early.cancelled_caught, anyio.current_time()

    assert run_in_virtual_time(work, clock=ManualClock(10.0)) == (True, False, 13.0)


def test_time_stands_while_there_is_something_to_do() -> None:
    clock = ManualClock(7.0)

    async def work() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 60)
            for _ in range(100):
                await checkpoint()
            group.cancel_scope.cancel()

    run_in_virtual_time(work, clock=clock)
    assert clock() == 7.0


def test_a_clock_that_is_moved_by_hand_fires_what_is_due_then() -> None:
    clock = ManualClock(0.0)
    order: list[str] = []

    async def sleeper() -> None:
        await anyio.sleep(60)
        order.append(f"woken at {clock.now:g}")

    async def work() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(sleeper)
            await checkpoint()
            clock.advance(61)
            order.append("moved")

    run_in_virtual_time(work, clock=clock)
    assert order == ["moved", "woken at 61"]


def test_a_cancelled_timer_is_no_moment_to_jump_to() -> None:
    async def work() -> float:
        loop = asyncio.get_running_loop()
        loop.call_later(1, int).cancel()
        return await nap(5)

    assert run_in_virtual_time(work, clock=ManualClock(0.0)) == 5.0


async def diary(naps: list[list[float]]) -> list[tuple[float, int]]:
    """Let tasks nap; return when each woke up, on the loop's clock from its start."""
    began = anyio.current_time()
    entries: list[tuple[float, int]] = []

    async def sleeper(number: int, lengths: list[float]) -> None:
        for length in lengths:
            await anyio.sleep(length)
            entries.append((anyio.current_time() - began, number))

    async with anyio.create_task_group() as group:
        for number, lengths in enumerate(naps):
            group.start_soon(sleeper, number, lengths)
    return entries


@given(st.lists(st.lists(st.integers(0, 4000).map(lambda n: n / 8), max_size=5), max_size=5))
@example([[0.125, 0.125], [0.25]])
def test_tasks_wake_when_their_naps_add_up_and_in_order(naps: list[list[float]]) -> None:
    expected = sorted(
        (at, number) for number, lengths in enumerate(naps) for at in itertools.accumulate(lengths)
    )
    entries = run_in_virtual_time(diary, naps)
    assert [at for at, _ in entries] == [at for at, _ in expected]
    assert Counter(entries) == Counter(expected)
    # The same on trio, whose own clock jumps in the same way; there, who wakes first of several is
    # left to luck.
    on_trio = trio.run(diary, naps, clock=MockClock(autojump_threshold=0))
    assert sorted(on_trio) == expected
    assert entries == run_in_virtual_time(diary, naps)


async def wait_for_nobody() -> None:
    await anyio.Event().wait()


async def use_a_thread() -> None:
    with anyio.fail_after(60):
        await anyio.to_thread.run_sync(threading.Event().wait, 0.05)


async def use_an_executor() -> None:
    await asyncio.to_thread(threading.Event().wait, 0.001)


async def use_a_socket() -> None:
    here, there = socket.socketpair()
    with here, there:
        for end in (here, there):
            end.settimeout(0)
        loop = asyncio.get_running_loop()
        with anyio.fail_after(60):
            await asyncio.gather(loop.sock_recv(here, 1), loop.sock_sendall(there, b"x"))


async def use_a_process() -> None:
    process = await asyncio.create_subprocess_exec("true")
    assert await process.wait() == 0


async def use_a_shell() -> None:
    process = await asyncio.create_subprocess_shell("true")
    assert await process.wait() == 0


OUTSIDE = [use_an_executor, use_a_socket, use_a_process, use_a_shell]


@pytest.mark.parametrize("function", [wait_for_nobody, use_a_thread, *OUTSIDE])
def test_what_waits_for_the_real_world_is_refused(function: Callable[[], Awaitable[None]]) -> None:
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="test it in real time"):
        run_in_virtual_time(function)
    deadline = time.monotonic() + REAL_SECONDS
    while threading.active_count() > before and time.monotonic() < deadline:
        threading.Event().wait(0.001)
    assert threading.active_count() == before


def test_a_thread_that_wakes_the_loop_is_noticed() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(int,))
        thread.start()
        thread.join()
        await anyio.sleep(1)

    with pytest.raises(RuntimeError, match="a thread"):
        run_in_virtual_time(work)


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (use_an_executor, "a thread"),
        (use_a_process, "another process"),
        (use_a_shell, "another process"),
    ],
)
def test_real_world_waits_are_refused_immediately(
    function: Callable[[], Awaitable[None]], what: str
) -> None:
    async def work() -> str:
        with pytest.raises(RuntimeError, match=what):
            await function()
        await anyio.sleep(1)
        return "went on"

    assert run_in_virtual_time(work) == "went on"


def test_what_a_failed_run_cancels_may_still_clean_up() -> None:
    cleaned: list[str] = []

    async def work() -> None:
        try:
            await wait_for_nobody()
        finally:
            with anyio.CancelScope(shield=True):
                for _ in range(2):
                    await anyio.to_thread.run_sync(threading.Event().wait, 0.01)
            cleaned.append("all")

    with pytest.raises(RuntimeError, match="all tasks wait"):
        run_in_virtual_time(work)
    assert cleaned == ["all"]


def test_a_failed_run_ends_although_a_cancelled_task_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(virtual, "_CLEANING", 0.05)

    async def wait_stubbornly() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue

    with (
        pytest.raises(RuntimeError, match="a cancelled task did not end"),
        asyncio.Runner(loop_factory=VirtualTimeLoop) as runner,
    ):
        # It complains of what is left.
        runner.get_loop().set_exception_handler(lambda _loop, _context: None)
        runner.run(wait_stubbornly())


def test_a_refusal_that_is_swallowed_ends_the_run_all_the_same() -> None:
    async def work() -> None:
        try:
            await use_a_socket()
        except RuntimeError:
            await anyio.sleep(1)

    with pytest.raises(RuntimeError, match="a socket or pipe"):
        run_in_virtual_time(work)


def test_a_virtual_loop_goes_on_from_run_to_run() -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert [runner.run(nap(5)), runner.run(nap(5))] == [5.0, 5.0]
        assert runner.get_loop().time() == 1010.0
