"""What is advised after a calm day serves more in an outage than the defaults do; counted in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from postfacta_core.asgi import harden
from postfacta_core.asgi.stack import Hardened
from postfacta_core.testing import ManualClock, call_asgi, run_in_virtual_time
from postfacta_lab.__main__ import main
from postfacta_web.numbers import Numbers

# It takes some seconds of the processor.
pytestmark = pytest.mark.usefixtures("programs")

RATE = 50  # requests a second
CALM = 5_200  # requests, of which one in a hundred takes 0.4 s
OUTAGE = 3_000  # requests, of which one in twenty never comes back by itself
CONNECTIONS = 10
IN_TIME = 1.0  # a later answer is worth nothing


def service(clock: ManualClock) -> Hardened:
    connections = asyncio.Semaphore(CONNECTIONS)

    async def report(request: Request) -> Response:
        async with connections:
            await asyncio.sleep(float(request.query_params["seconds"]))
        return JSONResponse({})

    return harden(Starlette(routes=[Route("/reports", report)]), service="billing", clock=clock)


async def load(app: Hardened, clock: ManualClock, took: list[float]) -> int:
    """Ask at the rate; return how many got a good answer in time."""
    outcomes: Counter[bool] = Counter()

    async def ask(seconds: float) -> None:
        began = clock()
        answer = await call_asgi(app, "GET", "/reports", query=f"seconds={seconds}")
        outcomes[answer.status == 200 and clock() - began <= IN_TIME] += 1

    async with asyncio.TaskGroup() as asking:
        for seconds in took:
            asking.create_task(ask(seconds))
            await asyncio.sleep(1 / RATE)
    return outcomes[True]


def test_the_advised_time_out_beats_the_default(tmp_path: Path) -> None:
    clock = ManualClock()

    def count(app: Hardened, took: list[float]) -> int:
        run: Any = run_in_virtual_time
        good: int = run(load, app, clock, took, clock=clock)
        return good

    app = service(clock)
    calm = [0.4 if number % 100 == 0 else 0.05 for number in range(CALM)]
    assert count(app, calm) == CALM
    metrics = tmp_path / "metrics.txt"
    metrics.write_bytes(anyio.run(call_asgi, app, "GET", "/metrics").body)
    file = tmp_path / "numbers.toml"
    assert main(["advise", str(metrics), "--toml", str(file)]) == 0
    assert "request_timeout = 1.0  # p99.9 of 5,200: at most 0.5 s" in file.read_text()

    hanging = [10_000.0 if number % 20 == 0 else 0.05 for number in range(OUTAGE)]
    by_default = count(service(clock), hanging)
    numbers = Numbers(file)
    advised = numbers.attach(service(clock))
    numbers.reread()
    assert numbers.is_valid
    by_advice = count(advised, hanging)
    possible = OUTAGE * 19 // 20
    assert by_advice > 0.95 * possible, (by_default, by_advice)
    assert by_default < 0.5 * by_advice, (by_default, by_advice)
