"""Each guard in each world that calls it: not only under the test's own runner, which hides what others lack."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import sniffio
import uvloop

from postfacta_core.guards import Hedge
from tests.kit.every import every

# Where `sniffio` is installed, which the SDKs of models bring, anyio asks it which event loop runs. Neither of these
# runners sets its variable, as `anyio.run` does.
LOOPS: dict[str, Callable[[Any], Any]] = {"asyncio.run": asyncio.run, "uvloop.run": uvloop.run}


def test_a_hedge_starts_its_second_try_under_each_runner() -> None:
    assert sniffio.current_async_library_cvar.get() is None
    with every() as case:
        for name, run in LOOPS.items():
            with case(name):
                assert run(_slow_first_try()) == "second"


async def _slow_first_try() -> str:
    first_is_stuck = asyncio.Event()
    tries = iter((first_is_stuck.wait, _answer))

    async def dependency() -> Any:
        return await next(tries)()

    hedge = Hedge("search", delay=0.001)
    return await asyncio.wait_for(hedge.call(dependency), 10)


async def _answer() -> str:
    return "second"
