"""What a request that is refused before any handler leaves behind is bounded, whatever its sender makes up."""

from __future__ import annotations

import logging

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from postfacta_core.asgi import Cors, HardenOptions, Telemetry, harden
from postfacta_core.asgi._types import Receive, Scope, Send
from postfacta_core.deadlines._limits import TransferLimits
from postfacta_core.telemetry.logs import JsonFormatter
from postfacta_core.telemetry.metrics import Metrics
from postfacta_core.telemetry.tracing import Tracing
from postfacta_core.testing import ManualClock, call_asgi
from tests.kit.every import every

TIMES = 150
LONG = "/" + "a/" * 4000
PREFLIGHT = [("origin", "https://a.test"), ("access-control-request-method", "POST")]
# The status, the options, the path and the headers.
REFUSALS: dict[str, tuple[int, HardenOptions, str, list[tuple[str, str]]]] = {
    "limited": (429, HardenOptions(rate_limits=["1/hour per client"]), LONG, []),
    "too late": (504, HardenOptions(), LONG, [("x-request-timeout", "0")]),
    "large headers": (431, HardenOptions(), LONG, [("cookie", "x" * 40_000)]),
    "long path": (414, HardenOptions(), LONG * 8, []),
    "large body": (413, HardenOptions(), LONG, [("content-length", "9999999999")]),
    "preflight": (400, HardenOptions(cors=Cors(allow_origins=["https://b.test"])), LONG, PREFLIGHT),
    "small limits": (431, HardenOptions(limits=TransferLimits(max_header_bytes=1)), "/", []),
}
MOST_LINES, MOST_BYTES = 40, 1500  # Of all, and of each.
MOST_SERIES = 28  # Lines of the page: one histogram of 18, and what counts decisions.
MOST_SPAN = 3500  # Characters of all attributes.


ROUTES = 12
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "BREW", "junk")
# Headers of a caller without an account.
HOSTILE: list[list[tuple[str, str]]] = [
    [],
    [("x-request-timeout", "0")],
    [("content-length", "9999999999")],
    [("cookie", "x" * 40_000)],
    [("origin", "https://a.test"), ("access-control-request-method", "GET")],
    [("x-traffic-class", "load"), ("host", "made.up:7")],
]
# Of each route and method that a handler answers: a histogram, the time of the last request, and
# for each status that it has, a counter. What no handler takes: two histograms of `_prerouting`,
# three without a route, and counters.
MOST_OF_EACH, MOST_OF_ALL = 20, 60


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_refused_request_leaves_little_behind(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with every() as case:
        for name, (status, options, path, headers) in REFUSALS.items():
            with case(name):
                spans, provider = InMemorySpanExporter(), TracerProvider()
                provider.add_span_processor(SimpleSpanProcessor(spans))
                metrics, clock = Metrics(with_process=False), ManualClock()
                telemetry = Telemetry(metrics=metrics, tracing=Tracing(provider))
                app = harden(
                    nothing, service="billing", options=options, telemetry=telemetry, clock=clock
                )
                await call_asgi(app, "GET", path, headers=headers)
                before = len(metrics.render().body.splitlines())
                caplog.clear()
                spans.clear()
                for number in range(TIMES):
                    clock.advance(0.001)
                    made_up = [*headers, ("user-agent", "u" * 2000)]
                    method = "OPTIONS" if name == "preflight" else "GET"
                    answer = await call_asgi(app, method, f"{path}{number}", headers=made_up)
                    assert answer.status == status
                lines = [JsonFormatter().format(record) for record in caplog.records]
                assert len(lines) <= MOST_LINES
                assert max(map(len, lines), default=0) <= MOST_BYTES
                assert len(metrics.render().body.splitlines()) - before <= MOST_SERIES
                made = spans.get_finished_spans()
                assert len(made) == TIMES
                assert max(len(str(dict(span.attributes or {}))) for span in made) <= MOST_SPAN


async def test_an_outsider_adds_few_lines_to_the_metrics() -> None:
    async def deny(request: Request) -> Response:
        return Response(status_code=401)

    routes = [Route(f"/things/{n}/{{id}}", deny, methods=["GET"]) for n in range(ROUTES)]
    metrics = Metrics(with_process=False)
    app = harden(
        Starlette(routes=routes),
        service="billing",
        options=HardenOptions(access_lines=None),
        telemetry=Telemetry(metrics=metrics),
    )
    await call_asgi(app, "GET", "/nothing")
    before = len(metrics.render().body.splitlines())
    for method in METHODS:
        for headers in HOSTILE:
            for number in range(ROUTES):
                await call_asgi(app, method, f"/things/{number}/7", headers=headers)
            await call_asgi(app, method, f"/nothing/{method}", headers=headers)
    added = len(metrics.render().body.splitlines()) - before
    # GET is answered with HEAD, too.
    assert ROUTES * 2 * 18 <= added <= ROUTES * 2 * MOST_OF_EACH + MOST_OF_ALL
