"""A stream is measured from its first piece on, and ends as what it was."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import anyio
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount, Route

from postfacta_core.asgi import HardenOptions, Telemetry, harden
from postfacta_core.asgi.stack import Hardened
from postfacta_core.telemetry.metrics import Metrics
from postfacta_core.telemetry.tracing import Tracing
from postfacta_core.testing import ManualClock, call_asgi
from tests.core.asgi.observed import Boom
from tests.kit.every import every

FIRST_BYTES = "http_server_response_first_byte_seconds"
STREAMS = "postfacta_stream_duration_seconds"
OPEN = "postfacta_streams_open"


class Stage:
    """A service whose one route plays what a test sets, at the pace of a clock that it moves."""

    def __init__(self) -> None:
        self.clock = ManualClock(1000)
        self.metrics = Metrics(with_process=False, clock=self.clock)
        self.spans = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        self.app = Starlette(routes=[Mount("/v1", routes=[Route("/chat/{id}", self.chat)])])
        self.status = 200
        self.headers: dict[str, str] = {}
        self.ends_by: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint
        self.open_midway: float | None = None
        telemetry = Telemetry(metrics=self.metrics, tracing=Tracing(provider, wall=self.clock))
        self.hardened: Hardened = harden(
            self.app,
            service="chat",
            telemetry=telemetry,
            clock=self.clock,
            options=HardenOptions(shedding="off"),
        )

    async def chat(self, request: Request) -> Response:
        return StreamingResponse(self.pieces(), status_code=self.status, headers=self.headers)

    async def pieces(self) -> AsyncGenerator[bytes]:
        self.clock.advance(2)
        yield b"a"
        self.open_midway = self.value(OPEN)
        self.clock.advance(100)
        await self.ends_by()
        yield b"b"

    def value(self, name: str, **labels: str) -> float | None:
        labels = {"http_route": "/v1/chat/{id}", **labels}
        return self.metrics.registry.get_sample_value(name, labels)

    def outcomes(self) -> dict[str, float]:
        known = ("whole", "left", "cut", "crashed")
        found = {name: self.value(f"{STREAMS}_count", outcome=name) for name in known}
        return {name: count for name, count in found.items() if count}

    async def ask(self, **options: Any) -> None:
        await call_asgi(self.hardened, "GET", "/v1/chat/7", raise_errors=False, **options)


async def crash() -> None:
    raise Boom


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_the_first_byte_of_a_stream_and_its_duration_are_measured(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "postfacta")
    stage = Stage()
    await stage.ask()
    assert stage.value(f"{FIRST_BYTES}_sum", traffic="user") == 2
    assert stage.value(f"{STREAMS}_sum", outcome="whole") == 102
    assert stage.value(f"{STREAMS}_bucket", outcome="whole", le="300.0") == 1
    assert (stage.open_midway, stage.value(OPEN)) == (1, 0)
    (line,) = [vars(record) for record in caplog.records if record.msg == "http.request"]
    assert (line["first_byte_ms"], line["duration_ms"]) == (2000, 102_000)
    (span,) = stage.spans.get_finished_spans()
    events = {event.name: event.timestamp / 1e9 for event in span.events}
    assert events == {"postfacta.first_byte": 1002, "postfacta.last_byte": 1102}


async def test_a_stream_is_counted_by_how_it_ended() -> None:
    async def cut(stage: Stage) -> None:
        stage.ends_by = anyio.sleep_forever
        await stage.ask(headers=[("x-request-timeout", "0.05")])

    async def leave(stage: Stage) -> None:
        stage.ends_by = anyio.sleep_forever
        await stage.ask(body=[], disconnect_after=1)

    async def fail(stage: Stage) -> None:
        stage.ends_by = crash
        await stage.ask()

    cases: dict[str, Callable[[Stage], Awaitable[None]]] = {
        "whole": Stage.ask,
        "cut": cut,
        "left": leave,
        "crashed": fail,
    }
    with every() as case:
        for outcome, play in cases.items():
            with case(outcome):
                stage = Stage()
                await play(stage)
                assert stage.outcomes() == {outcome: 1}
                assert stage.value(OPEN) == 0


async def test_only_a_download_that_is_left_is_an_error() -> None:
    cases: dict[str, tuple[dict[str, str], tuple[str, str]]] = {
        "live": ({}, ("200", "")),
        "of known length": ({"content-length": "1000"}, ("499", "client_disconnected")),
    }
    with every() as case:
        for name, (headers, (status, error_type)) in cases.items():
            with case(name):
                stage = Stage()
                stage.headers = headers
                stage.ends_by = anyio.sleep_forever
                await stage.ask(body=[], disconnect_after=1)
                count = stage.value(
                    "http_server_requests_total",
                    http_request_method="GET",
                    traffic="user",
                    http_response_status_code=status,
                    error_type=error_type,
                )
                assert count == 1


async def test_an_answer_in_one_piece_has_its_first_byte_as_well() -> None:
    async def answer(request: Request) -> Response:
        clock.advance(0.15)
        return Response("all", status_code=int(request.path_params["status"]))

    clock = ManualClock(1000)
    metrics = Metrics(with_process=False, clock=clock)
    app = harden(
        Starlette(routes=[Route("/{status}", answer)]),
        service="billing",
        telemetry=Telemetry(metrics=metrics),
        clock=clock,
    )
    for status in (200, 201, 302, 404, 500):
        await call_asgi(app, "GET", f"/{status}")
    labels = {"http_route": "/{status}", "traffic": "user"}
    value = metrics.registry.get_sample_value
    # A failure is quick, and says nothing of the service's pace.
    assert value(f"{FIRST_BYTES}_count", labels) == 3
    assert value(f"{FIRST_BYTES}_bucket", {**labels, "le": "0.1"}) == 0
    assert value(f"{FIRST_BYTES}_bucket", {**labels, "le": "0.2"}) == 3
    assert value(f"{STREAMS}_count", {"http_route": "/{status}", "outcome": "whole"}) is None


async def test_a_stream_that_fails_has_no_first_byte_that_counts() -> None:
    stage = Stage()
    stage.status = 503
    await stage.ask()
    assert stage.value(f"{FIRST_BYTES}_count", traffic="user") is None
    assert stage.outcomes() == {"whole": 1}
