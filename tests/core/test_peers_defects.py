"""What was found wrong with other libraries for this job is not wrong here.

Most of it is tested where it belongs, and named here; this module tests what only the whole stack
can show. The numbers are those of the list of defects that the design was made from.

| line | defect of a peer | here |
|---|---|---|
| 1 to 6 | breakers: cancellations, trials, stale failures, the wall clock | `guards/test_breaker_permits`, `guards/test_circuit_trials`, `test_cancellation` |
| 7 | a 404, a 405 or a cancelled request is not counted | `asgi/test_telemetry`: the table of routes; cancelled requests |
| 7, 8 | a series for each path that is scanned or redirected | below; `asgi/test_telemetry`: ten thousand requests |
| 7, 8, 24 | a background task counts as an active request, or as latency | below; `asgi/test_telemetry`: latency |
| 8 | a crash in mid-stream counts as a 2xx without a word | `asgi/test_telemetry`: crashes |
| 8 | a histogram with three buckets | `telemetry/test_metrics`: buckets |
| 9 | each method that a client invents is a series | `asgi/test_telemetry`: ten thousand requests |
| 9 | a client that leaves in mid-stream is a plain 200 | `asgi/test_telemetry_clients` |
| 11 | the template lacks the prefixes of mounts and routers | `asgi/test_route`, `test_frameworks` |
| 12 | the tenant in a mount's prefix is a label's value | `test_frameworks`, `test_cardinality` |
| 13 | limits miss mounts, included routers and 404s, or count each address apart | `asgi/test_ratelimit` |
| 14 | a response is started twice | `asgi/test_ratelimit` |
| 15 | a store blocks the loop, or costs more with each key | `limits/test_rate` |
| 16 | the framework's own 500 has no request id and no headers, or no status | `test_frameworks`: the framework's own 500 |
| 17 | the application's list of headers grows | `asgi/test_headers`, `asgi/test_context` |
| 18 | a cancelled request raises another error, and is not logged | `asgi/test_telemetry`: cancelled requests |
| 18 | what a request costs grows with the environment | below |
| 19 | an id that is not a UUID is replaced | `asgi/test_context` |
| 20 | a stream is timed up to its start | `asgi/test_telemetry`: latency |
| 20 | what a handler sets in the context is invisible outside of it | `telemetry/test_logs`: the principal |
| 21 | a time limit has no effect on a handler in a thread, or frees its place too soon | `asgi/test_deadline` |
| 22 | a waiter that is cancelled keeps its place | `guards/test_slots`, `test_cancellation` |
| 23 | idle connections are shed, and probes | `asgi/test_concurrency` |
| 24 | the size of another response is recorded | below |
| 24 | three spans for a request, named by its path | `telemetry/test_tracing` |
| 24 | durations below a millisecond are rounded away | `telemetry/test_logs`, `telemetry/test_metrics` |
| 24 | spans are made although no SDK is installed | `telemetry/test_tracing`: without an SDK |
| cyclic garbage | a request leaves work for the cyclic collector | `asgi/test_stack`, `asgi/test_telemetry` |

Line 10 is about several processes on one registry, which is not offered.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from postfacta_core.asgi import harden
from postfacta_core.asgi.stack import Hardened
from postfacta_core.health.registry import NO_LIFESPAN
from postfacta_core.testing import ManualClock, call_asgi


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # What runs calls is tested on both loops, in `guards`.


async def hello(request: Request) -> Response:
    return PlainTextResponse("hello")


ROUTES = [
    Route("/slash/{id}/", hello),
    Mount("/t/{tenant}", routes=[Route("/items/{id}", hello)]),
    Route("/hello", hello),
]


def service(*more: Route, **options: Any) -> Hardened:
    return harden(Starlette(routes=[*ROUTES, *more]), service="billing", **options)


def samples(app: Hardened, name: str) -> list[tuple[dict[str, str], float]]:
    families = app.telemetry.metrics.registry.collect()
    return [(s.labels, s.value) for family in families for s in family.samples if s.name == name]


def counted(app: Hardened) -> list[tuple[str, str, float]]:
    """Return route, status and number of all that was counted."""
    return [
        (labels["http_route"], labels["http_response_status_code"], value)
        for labels, value in samples(app, "http_server_requests_total")
    ]


async def test_300_redirected_paths_are_one_series() -> None:
    app = service()
    for number in range(300):
        assert (await call_asgi(app, "GET", f"/slash/{number}")).status == 307
    assert counted(app) == [("", "307", 300)]


async def test_a_background_task_is_neither_an_active_request_nor_latency() -> None:
    clock = ManualClock()
    active: list[float] = []

    def task() -> None:
        active.append(sum(value for _, value in samples(app, "http_server_active_requests")))
        clock.advance(60)

    async def later(request: Request) -> Response:
        active.append(sum(value for _, value in samples(app, "http_server_active_requests")))
        return PlainTextResponse("done", background=BackgroundTask(task))

    app = service(Route("/later", later), clock=clock)
    await call_asgi(app, "GET", "/later")
    assert active == [1, 0]
    assert [value for _, value in samples(app, "http_server_request_duration_seconds_sum")] == [0]


async def test_a_request_never_looks_at_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    app = service()
    await call_asgi(app, "GET", "/hello")

    class Untouchable(dict[str, str]):
        def __getattribute__(self, name: str) -> object:
            raise AssertionError(name)

    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", Untouchable())
        response = await call_asgi(app, "GET", "/hello")
    assert response.status == 200


async def test_each_response_has_its_own_size_when_they_cross(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "postfacta")
    both_started = anyio.Event()
    started: list[str] = []

    async def stream(request: Request) -> Response:
        size = int(request.path_params["size"])

        async def body() -> AsyncGenerator[bytes]:
            yield b"x"
            started.append(request.url.path)
            if len(started) == 2:
                both_started.set()
            await both_started.wait()
            yield b"x" * (size - 1)

        return StreamingResponse(body())

    app = service(Route("/stream/{size}", stream))
    async with anyio.create_task_group() as tasks:
        for size in (10, 5000):
            tasks.start_soon(call_asgi, app, "GET", f"/stream/{size}")
    lines = [vars(record) for record in caplog.records if record.msg != NO_LIFESPAN]
    assert {line["path"]: line["bytes"] for line in lines} == {
        "/stream/10": 10,
        "/stream/5000": 5000,
    }
