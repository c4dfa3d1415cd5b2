"""A wait is written once, and driven by a task or by a thread.

Either may be woken by any thread.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Generator
from functools import partial

import anyio
import pytest
from anyio import to_thread

from postfacta_core.guards._waits import Waiting, Wake, refuse_on_loop, wait_in_task, wait_in_thread


class Interrupted(BaseException):
    """Ends a wait, as a cancellation does."""


def waits_of(*seconds: float, woken_by: Callable[[Wake], object] = lambda _: None) -> Waiting[int]:
    def wait(wake: Wake) -> Generator[float, None, int]:
        for each in seconds:
            woken_by(wake)
            yield each
        return len(seconds)

    return partial(wait)


def by_a_thread(wake: Wake) -> None:
    threading.Timer(0.01, wake).start()


async def test_a_task_waits_until_the_seconds_are_over_or_it_is_woken() -> None:
    assert await wait_in_task(waits_of()) == 0
    assert await wait_in_task(waits_of(0.001, 0.001)) == 2
    with anyio.fail_after(20):
        assert await wait_in_task(waits_of(math.inf, woken_by=lambda wake: wake())) == 1
        assert await wait_in_task(waits_of(math.inf, woken_by=by_a_thread)) == 1


async def test_a_thread_waits_until_the_seconds_are_over_or_it_is_woken() -> None:
    def wait() -> list[int]:
        return [
            wait_in_thread("Bulkhead('db')", wait)
            for wait in (
                waits_of(),
                waits_of(0.001, 0.001),
                waits_of(math.inf, woken_by=by_a_thread),
            )
        ]

    assert await to_thread.run_sync(wait) == [0, 2, 1]


async def test_a_task_that_is_cancelled_interrupts_its_wait() -> None:
    seen: list[str] = []

    def wait(wake: Wake) -> Generator[float, None, None]:
        try:
            yield math.inf
        except BaseException:
            seen.append("interrupted")
            raise

    with anyio.move_on_after(0.01) as scope:
        await wait_in_task(partial(wait))
    assert (scope.cancelled_caught, seen) == (True, ["interrupted"])


def test_a_thread_that_is_interrupted_interrupts_its_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    original, own = threading.Event.wait, threading.get_ident()

    def interrupt(self: threading.Event, timeout: float | None = None) -> bool:
        # Threads of other tests, such as those of drains, end in their own time.
        if threading.get_ident() == own:
            raise Interrupted
        return original(self, timeout)

    monkeypatch.setattr(threading.Event, "wait", interrupt)
    with pytest.raises(Interrupted):
        wait_in_thread("Bulkhead('db')", waits_of(1.0))


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_wait_that_would_block_the_event_loop_is_refused() -> None:
    with pytest.raises(
        RuntimeError, match=r"^Bulkhead\('db'\) may wait, which would block the event loop"
    ):
        wait_in_thread(OfName(), waits_of(1.0))


class OfName:
    """A guard, as far as an error shows it."""

    def __repr__(self) -> str:
        return "Bulkhead('db')"


def test_a_thread_without_an_event_loop_may_wait() -> None:
    refuse_on_loop("Retry('db')")
