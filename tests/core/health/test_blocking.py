"""What blocks the loop is named while it does, and nothing is named in a loop that is only busy."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from itertools import chain
from types import FrameType

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware  # noqa: TID251 - it runs handlers in tasks of its own
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from postfacta_core.asgi import HardenOptions, Telemetry, harden
from postfacta_core.events import Event, LoopBlocked
from postfacta_core.health.blocking import LoopWatch, culprit
from postfacta_core.telemetry.logs import EventLog
from postfacta_core.telemetry.metrics import Metrics
from postfacta_core.testing import RecordingObserver, call_asgi
from tests.kit.every import every
from tests.kit.lifespan import running

DOCUMENT = json.dumps([{"id": number, "name": "x" * 20} for number in range(50_000)])
# A second or so of one call; a letter more doubles it.
LETTERS = 25


def here() -> FrameType:
    return sys._getframe(1)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - it stands for a thread's


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_the_innermost_frame_of_both_looks_is_the_culprit() -> None:
    mine = here()
    outer = mine.f_back
    assert outer is not None

    def step() -> FrameType:
        return here()

    first, second = step(), step()
    with every() as case:
        for name, earlier, now, found in (
            ("the same step", [first, mine], [first, mine], first),
            ("another step of the same", [first, mine], [second, mine], mine),
            ("others", [first], [second], None),
            ("no look before", [], [second], None),
        ):
            with case(name):
                assert culprit(earlier, now) is found


def test_a_frame_of_the_standard_library_is_no_culprit() -> None:
    inside: list[FrameType] = []

    def note(match: re.Match[str]) -> str:
        inside.append(here())
        return ""

    re.sub("a", note, "a")
    caller = inside[0].f_back
    assert caller is not None
    assert caller.f_code.co_name == "sub"
    frames = [caller, here()]
    assert culprit(frames, frames) is frames[1]


def sleep() -> None:
    time.sleep(0.7)  # noqa: TID251 - what a test is about


def expression() -> None:
    # One call in C that keeps the interpreter. A letter more doubles its time.
    re.match(r"(a+)+$", "a" * LETTERS + "b")


def document() -> None:
    # Many calls in C, none of which is long: also the end of what they made takes its time.
    until = time.monotonic() + 0.7
    while time.monotonic() < until:
        json.loads(DOCUMENT)


def python() -> None:
    until = time.monotonic() + 0.7
    while time.monotonic() < until:
        sum(range(1000))


BLOCKS = (sleep, expression, document, python)


def watched(
    work: Callable[[], Awaitable[object]],
) -> list[LoopBlocked]:
    """Run work on a loop of asyncio with a heartbeat, and return what was named."""
    observer = RecordingObserver()

    async def beat(watch: LoopWatch) -> None:
        while True:
            watch.beat()
            await asyncio.sleep(0.05)

    async def main() -> None:
        watch = LoopWatch(
            asyncio.get_running_loop, lambda _: None, observer=observer, clock=time.monotonic
        )
        async with watch, anyio.create_task_group() as tasks:
            tasks.start_soon(beat, watch)
            await asyncio.sleep(0.2)
            await work()
            await asyncio.sleep(0.2)
            tasks.cancel_scope.cancel()

    asyncio.run(main())
    assert "loop watch" not in {thread.name for thread in threading.enumerate()}
    return observer.of(LoopBlocked)


@pytest.mark.clock("0.35 s, in one of five")
def test_what_blocks_the_loop_is_named() -> None:
    with every() as case:
        for block in BLOCKS:
            with case(block.__name__):

                async def work(block: Callable[[], None] = block) -> None:
                    block()

                # Another thread that waits for the interpreter may get it before the watch does.
                events = chain.from_iterable(watched(work) for _ in range(5))
                named = next(
                    (event for event in events if event.where.endswith(f" {block.__name__}")), None
                )
                assert named is not None
                assert named.seconds >= 0.25


@pytest.mark.clock("0.35 s")
def test_a_loop_with_many_short_steps_is_not_blocked() -> None:
    async def step() -> None:
        until = time.thread_time() + 0.002
        while time.thread_time() < until:
            pass

    async def work() -> None:
        for _ in range(3):
            # All are ready at once: the heartbeat comes after the last of them.
            await asyncio.gather(*(step() for _ in range(300)))

    assert watched(work) == []


@pytest.mark.clock("0.35 s")
async def test_the_request_that_blocks_is_named_in_line_and_counter(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def report(request: Request) -> Response:
        time.sleep(0.7)  # noqa: TID251, ASYNC251 - what a test is about
        return PlainTextResponse("done")

    async def pass_on(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        return await call_next(request)

    caplog.set_level(logging.WARNING, "postfacta")
    app = Starlette(routes=[Route("/reports/{id}", report)])
    app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    metrics = Metrics(with_process=False)
    options = HardenOptions(shedding="off")
    hardened = harden(app, service="x", options=options, telemetry=Telemetry(metrics=metrics))
    async with running(hardened):
        await asyncio.sleep(0.2)
        first = await call_asgi(hardened, "GET", "/reports/7")
        await asyncio.sleep(0.2)
        await call_asgi(hardened, "GET", "/reports/7")
        await asyncio.sleep(0.2)
    count = metrics.registry.get_sample_value(
        "postfacta_event_loop_blocked_total", {"http_route": "/reports/{id}"}
    )
    assert count == 2
    (line,) = [vars(record) for record in caplog.records if record.msg == "loop.blocked"]
    assert line["route"] == "/reports/{id}"
    assert line["where"].endswith(".report")
    assert line["request_id"] == first.header("x-request-id")


def test_a_line_is_written_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "postfacta")
    events: list[Event] = [
        LoopBlocked("/", "request-id", 0.3, "app.py:1 f", is_told) for is_told in (True, False)
    ]
    for event in events:
        EventLog()(event)
    assert [record.msg for record in caplog.records] == ["loop.blocked"]
