"""What takes long is done in a thread, of which there are few; what does not is done at once."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import anyio
import pytest

from postfacta_app.aside import LARGE, aside


@dataclass
class Held:
    """Work that goes on until it may end."""

    gate: threading.Event = field(default_factory=threading.Event)
    begun: list[str] = field(default_factory=list[str])

    def work(self, name: str) -> None:
        """Note that it has begun, and wait."""
        self.begun.append(name)
        assert self.gate.wait(30)

    async def wait_for(self, name: str) -> None:
        """Have it done."""
        await aside(LARGE, self.work, name)

    async def wait_begun(self, count: int) -> None:
        """Wait until this many are running."""
        with anyio.fail_after(30):
            while len(self.begun) < count:
                await anyio.sleep(0.001)


@pytest.fixture
def held() -> Iterator[Held]:
    """Give work that ends with the test at the latest."""
    held = Held()
    yield held
    held.gate.set()


async def test_what_is_small_is_done_here() -> None:
    assert await aside(LARGE - 1, threading.get_ident) == threading.get_ident()
    assert await aside(LARGE - 1, threading.get_ident, has_lock=True) == threading.get_ident()


async def test_what_is_large_is_done_elsewhere() -> None:
    assert await aside(LARGE, threading.get_ident) != threading.get_ident()
    assert await aside(LARGE, threading.get_ident, has_lock=True) != threading.get_ident()


async def test_a_thread_at_work_gives_way_within_a_millisecond() -> None:
    await aside(LARGE, threading.get_ident)
    assert sys.getswitchinterval() < 0.001


async def test_an_error_comes_back() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        await aside(LARGE, int, "x")


async def test_two_are_at_work_at_once_and_who_holds_a_lock_goes_past_them(held: Held) -> None:
    async with anyio.create_task_group() as tasks:
        for name in ("first", "second", "third"):
            tasks.start_soon(held.wait_for, name)
        await held.wait_begun(2)
        assert await aside(LARGE, sorted, held.begun, has_lock=True) == ["first", "second"]
        held.gate.set()
    assert sorted(held.begun) == ["first", "second", "third"]


async def test_work_whose_asker_has_left_still_counts_and_is_not_begun_if_it_waits(
    held: Held,
) -> None:
    async with anyio.create_task_group() as tasks:
        for name in ("first", "second"):
            tasks.start_soon(held.wait_for, name)
        await held.wait_begun(2)
        tasks.start_soon(held.wait_for, "waits")
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(held.wait_for, "later")
        await anyio.wait_all_tasks_blocked()
        assert sorted(held.begun) == ["first", "second"]
        held.gate.set()
    assert sorted(held.begun) == ["first", "later", "second"]
