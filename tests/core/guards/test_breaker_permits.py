"""A trial that is cancelled, hung, thrown away or nested gives its permit back, and is judged once."""

from __future__ import annotations

from typing import Any, cast

import anyio
import pytest

from postfacta_adapters import pybreaker as adapter
from postfacta_core.errors import CircuitOpenError
from postfacta_core.testing import ManualClock
from tests.core.guards.breakers import (
    CLOSED,
    CONFIG,
    Pause,
    Style,
    breaker,
    clock_of,
    counts,
    half_open_it,
    open_it,
    styles,
    works,
)

pytestmark = pytest.mark.usefixtures("anyio_backend")


@styles
async def test_a_cancellation_is_not_a_failure_and_does_not_open_it(style: Style) -> None:
    guard = breaker()
    for _ in range(40):
        with anyio.CancelScope() as scope:

            async def cancelled(scope: anyio.CancelScope = scope) -> None:
                scope.cancel()
                await anyio.sleep_forever()

            await style(guard, cancelled)
            pytest.fail("the cancellation was swallowed")
        assert scope.cancelled_caught
    assert guard.statistics().calls == 0
    assert counts(guard) == {"ignored": 40}


async def test_a_step_of_the_wall_clock_does_not_prolong_or_shorten_the_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wall = ManualClock(1e9)
    monkeypatch.setattr("time.time", wall)
    monkeypatch.setattr(adapter, "WALL", wall)
    guard = breaker()
    await open_it(guard)
    for step in (-3600.0, 7200.0):
        wall.advance(step)
        assert guard.statistics().retry_after == 8.0
        with pytest.raises(CircuitOpenError):
            await guard.call(works)
    clock_of(guard).advance(8.0)
    assert await guard.call(works) == "answer"


@styles
@pytest.mark.parametrize("pauses", range(1, 4))
async def test_a_trial_whose_coroutine_is_thrown_away_gives_its_permit_home(
    style: Style, pauses: int
) -> None:
    guard = breaker()
    await half_open_it(guard)

    async def waits() -> None:
        for _ in range(4):
            await Pause()

    coroutine = cast("Any", style(guard, waits))
    for _ in range(pauses):
        coroutine.send(None)
    assert guard.statistics().retry_after == 1.0
    coroutine.close()
    assert guard.statistics().retry_after is None
    assert counts(guard)["ignored"] == 1


async def test_a_hung_trial_does_not_wedge_half_open() -> None:
    guard = breaker()
    await half_open_it(guard)
    hung = guard.call(Pause)
    hung.send(None)
    clock_of(guard).advance(15.0)
    with pytest.raises(CircuitOpenError) as refused:
        await guard.call(works)
    assert refused.value.retry_after == 1.0
    clock_of(guard).advance(1.0 + 16.0)
    await guard.call(works)
    await guard.call(works)
    assert guard.statistics().state is CLOSED
    hung.close()
    assert guard.statistics().state is CLOSED


async def test_blocks_need_not_nest() -> None:
    guard = breaker()
    first, second = guard.block(), guard.block()
    await first.__aenter__()
    clock_of(guard).advance(CONFIG.slow_call_duration)
    await second.__aenter__()
    await first.__aexit__(None, None, None)
    await second.__aexit__(OSError, OSError("down"), None)
    assert counts(guard) == {"slow": 1, "failure": 1}
