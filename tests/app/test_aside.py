"""What takes long is done in a thread; what does not is done at once."""

from __future__ import annotations

import threading

import anyio
import pytest

from postfacta_app.aside import LARGE, aside, aside_locked


def _thread() -> int:
    return threading.get_ident()


async def test_what_is_small_is_done_here() -> None:
    assert await aside(LARGE - 1, _thread) == threading.get_ident()


async def test_what_is_large_is_done_elsewhere() -> None:
    assert await aside(LARGE, _thread) != threading.get_ident()
    assert await aside_locked(LARGE, _thread) != threading.get_ident()


async def test_an_error_comes_back() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        await aside(LARGE, int, "x")


async def test_two_are_at_work_at_once_and_who_holds_a_lock_goes_past_them() -> None:
    gate, begun, order = threading.Event(), threading.Semaphore(0), list[str]()

    def hold(name: str) -> None:
        order.append(name)
        begun.release()
        assert gate.wait(30)

    async def wait_for(name: str) -> None:
        await aside(LARGE, hold, name)

    def arrived() -> None:
        assert begun.acquire(timeout=30)

    async with anyio.create_task_group() as tasks:
        for name in ("first", "second", "third"):
            tasks.start_soon(wait_for, name)
        for _ in range(2):
            await anyio.to_thread.run_sync(arrived)
        assert await aside_locked(LARGE, order.copy) == order
        assert len(order) == 2
        gate.set()
    assert sorted(order) == ["first", "second", "third"]
