"""The lateness of the event loop can be read, and is reported while the service runs."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from postfacta_core.events import LoopLagged
from postfacta_core.health.looplag import LoopLag
from postfacta_core.testing import ManualClock, RecordingObserver


async def beat_for(lag: LoopLag, clock: ManualClock, seconds: float) -> float:
    """Let a beat take so long on the clock; give how late it says it was."""
    found: list[float] = []

    async def beat() -> None:
        found.append(await lag.beat())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(beat)
        await checkpoint()
        await checkpoint()
        clock.advance(seconds)
    return found[0]


@pytest.mark.parametrize(("took", "late"), [(0.05, 0.0), (0.04, 0.0), (0.3, 0.25)])
async def test_what_a_beat_takes_above_its_interval_is_the_lag(took: float, late: float) -> None:
    clock, observer, heard = ManualClock(), RecordingObserver(), list[float]()
    lag = LoopLag(heard.append, observer=observer, clock=clock)
    assert await beat_for(lag, clock, took) == pytest.approx(late, abs=1e-9)
    assert heard == [pytest.approx(late, abs=1e-9)]
    assert observer.of(LoopLagged) == [LoopLagged(heard[0])]


async def test_it_beats_while_it_is_entered_and_not_after() -> None:
    heard: list[float] = []
    beats = anyio.Event()

    def listen(seconds: float) -> None:
        heard.append(seconds)
        if len(heard) == 2:
            beats.set()

    lag = LoopLag(listen)
    with anyio.fail_after(10):
        for _ in range(2):
            async with lag:
                await beats.wait()
            count = len(heard)
            await anyio.sleep(0.12)
            assert len(heard) == count
            heard.clear()
            beats = anyio.Event()


async def test_an_observer_that_raises_does_not_stop_it() -> None:
    def refuse(event: object, /) -> None:
        raise RuntimeError

    clock = ManualClock()
    assert await beat_for(LoopLag(observer=refuse, clock=clock), clock, 0.15) == pytest.approx(0.1)


async def test_the_error_of_what_it_surrounds_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError):
        async with LoopLag():
            raise KeyError


async def test_a_cancellation_ends_it() -> None:
    with anyio.move_on_after(0.01) as scope:
        async with LoopLag():
            await anyio.sleep(30)
    assert scope.cancelled_caught
