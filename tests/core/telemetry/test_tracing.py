"""One span for a request, and none at all without an SDK."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler
from opentelemetry.trace import SpanContext, SpanKind, StatusCode
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from postfacta_core.asgi import HardenOptions
from postfacta_core.asgi._types import Message, Receive, Scope, Send
from postfacta_core.context import current_request
from postfacta_core.events import (
    CircuitChanged,
    ConnectionAcquired,
    DeadlineExceeded,
    Event,
    HttpCallFinished,
    QueryFinished,
    RetryScheduled,
    TaskCrashed,
)
from postfacta_core.telemetry.logs import AccessLog, JsonFormatter
from postfacta_core.telemetry.metrics import Metrics
from postfacta_core.telemetry.redaction import failure_fields
from postfacta_core.telemetry.tracing import Tracing, nanoseconds, span_name, trace_headers
from postfacta_core.testing import ManualClock, call_asgi
from postfacta_core.testing.asgi import AsgiResponse
from tests.kit.alone import WithTelemetry
from tests.kit.every import every
from tests.kit.exposition import OPEN_METRICS

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def ids_of(span: ReadableSpan) -> SpanContext:
    ids = span.get_span_context()
    assert ids is not None
    return ids


class Bench:
    """An instrumented application, and the spans that come out of it."""

    def __init__(self, sampler: Sampler = ALWAYS_ON, *, trusted: Sequence[str] = ()) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = provider = TracerProvider(sampler=sampler)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.clock = ManualClock()
        self.tracing = Tracing(provider, wall=lambda: self.clock() + 1_700_000_000)
        self.metrics = Metrics(with_process=False)
        self.seen: list[tuple[str, str, str]] = []
        app = Starlette(
            routes=[
                Route("/i/{id}", self.handle),
                Route("/crash", self.crash),
                Route("/503", self.busy),
            ]
        )
        self.app = WithTelemetry(
            app,
            [self.tracing, self.metrics],
            HardenOptions(quiet=["/healthz/live"], trusted_traces=trusted),
            clock=self.clock,
        )

    async def handle(self, request: Request) -> Response:
        context = current_request()
        assert context is not None
        self.seen.append((context.trace_id, context.span_id, context.trace_flags))
        self.clock.advance(2)
        self.tracing(
            QueryFinished(
                *("main", "postgresql", "SELECT", "incidents"),
                0.5,
                namespace="postfacta",
                server="db",
                sqlstate="57014",
                error_type="QueryCanceledError",
            )
        )
        return PlainTextResponse("ok")

    async def crash(self, request: Request) -> Response:
        raise ValueError("cannot reach postgresql://app:hunter2@db/x")

    async def busy(self, request: Request) -> Response:
        return Response(status_code=503)

    async def call(
        self, path: str, method: str = "GET", headers: Sequence[tuple[str, str]] = ()
    ) -> AsgiResponse:
        return await call_asgi(self.app, method, path, headers=headers, raise_errors=False)

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    @property
    def page(self) -> str:
        return self.metrics.render(OPEN_METRICS).body.decode()


async def test_a_request_is_one_server_span_and_a_statement_one_client_span_below_it() -> None:
    bench = Bench()
    response = await bench.call("/i/7", headers=[("User-Agent", "tests/1")])
    query, server = bench.spans
    assert (server.name, server.kind, query.name, query.kind) == (
        *("GET /i/{id}", SpanKind.SERVER),
        *("SELECT incidents", SpanKind.CLIENT),
    )
    assert server.attributes == {
        "http.request.method": "GET",
        "http.route": "/i/{id}",
        "url.path": "/i/7",
        "url.scheme": "http",
        "http.response.status_code": 200,
        "network.protocol.version": "1.1",
        "client.address": "127.0.0.1",
        "user_agent.original": "tests/1",
        "postfacta.request_id": response.header("x-request-id"),
        "postfacta.traffic": "user",
    }
    assert query.attributes == {
        "db.system.name": "postgresql",
        "db.operation.name": "SELECT",
        "db.collection.name": "incidents",
        "db.namespace": "postfacta",
        "db.query.summary": "SELECT incidents",
        "db.response.status_code": "57014",
        "server.address": "db",
        "error.type": "QueryCanceledError",
    }
    assert server.status.status_code is StatusCode.UNSET
    assert query.status.status_code is StatusCode.ERROR
    assert query.parent is not None
    assert query.parent.span_id == ids_of(server).span_id
    assert (server.end_time or 0) - (server.start_time or 0) == 2_000_000_000
    assert (query.end_time or 0) - (query.start_time or 0) == 500_000_000
    assert query.end_time == server.end_time


async def test_the_handler_sees_the_ids_of_the_span() -> None:
    bench = Bench()
    await bench.call("/i/7")
    ids = ids_of(bench.spans[-1])
    assert bench.seen == [(f"{ids.trace_id:032x}", f"{ids.span_id:016x}", f"{ids.trace_flags:02x}")]
    assert int(bench.seen[0][2], 16) & 1
    assert not trace.get_current_span().get_span_context().is_valid


async def test_a_span_carries_at_most_2_kb_of_what_its_client_chose() -> None:
    bench = Bench()
    await bench.call("/" + "a" * 60_000, "GET" * 20_000, headers=[("user-agent", "x" * 60_000)])
    attributes = dict(bench.spans[-1].attributes or {})
    assert len(str(attributes["url.path"])) == 2048
    assert sum(len(str(value)) for value in attributes.values()) < 3000


async def test_nothing_of_a_callers_baggage_or_long_state_is_taken_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[str] = []

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(str(trace_headers()))
        await Response()(scope, receive, send)

    bench = Bench()
    options = HardenOptions(trusted_traces=["127.0.0.1"])
    app = WithTelemetry(call, [bench.tracing], options)
    for header in (
        ("baggage", "tenant=forged"),
        ("baggage", "x" * 9000),
        ("tracestate", "forged" * 1000),
    ):
        await call_asgi(app, headers=[("traceparent", f"00-{TRACE}-{PARENT}-01"), header])
    assert len(seen) == 3
    assert not any("forged" in headers or "baggage" in headers for headers in seen)
    assert all(TRACE in headers for headers in seen)
    assert caplog.records == []


async def test_a_valid_parent_is_continued_and_any_other_starts_a_new_trace() -> None:
    cases: list[tuple[list[tuple[str, str]], bool]] = [
        ([("traceparent", f"00-{TRACE}-{PARENT}-01")], True),
        (
            [
                ("traceparent", f"00-{TRACE}-{PARENT}-01"),
                ("tracestate", "a=1"),
                ("tracestate", "b=2"),
            ],
            True,
        ),
        ([("traceparent", f"00-{'0' * 32}-{PARENT}-01")], False),
        ([("traceparent", f"00-{TRACE}-{PARENT}-01")] * 2, False),
        ([("traceparent", "nonsense \xff")], False),
        ([("tracestate", "a=1")], False),
        ([], False),
    ]
    with every() as case:
        for headers, continues in cases:
            with case(headers, continues):
                bench = Bench(trusted=["127.0.0.1"])
                response = await bench.call("/i/7", headers=headers)
                assert response.status == 200
                assert (bench.seen[0][0] == TRACE) == continues
                assert (bench.spans[-1].parent is not None) == continues


async def test_an_outsider_neither_chooses_a_trace_nor_that_it_is_recorded() -> None:
    bench = Bench(ParentBased(ALWAYS_OFF))
    for number in range(100):
        await bench.call("/i/7", headers=[("traceparent", f"00-{number + 1:032x}-{PARENT}-01")])
    assert len(bench.spans) == 0
    assert not any(int(flags, 16) & 1 for _, _, flags in bench.seen)


@pytest.mark.parametrize("flags", ["00", "01"])
async def test_a_span_of_an_outsiders_request_links_to_the_callers(
    flags: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    bench = Bench(ParentBased(ALWAYS_ON))
    app = WithTelemetry(Response(), [bench.tracing, AccessLog(service="billing")])
    await call_asgi(app, headers=[("traceparent", f"00-{TRACE}-{PARENT}-{flags}")])
    (span,) = bench.spans
    assert span.parent is None
    assert f"{ids_of(span).trace_id:032x}" != TRACE
    (link,) = span.links
    assert (f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") == (TRACE, PARENT)
    (line,) = [record for record in caplog.records if record.msg == "http.request"]
    assert vars(line)["caller_trace_id"] == TRACE
    assert json.loads(JsonFormatter().format(line))["caller_trace_id"] == TRACE


async def test_a_trace_is_followed_by_its_peers_address_alone() -> None:
    cases: list[tuple[tuple[str, int] | None, str, bool]] = [
        (("10.1.2.3", 80), "8.8.8.8", True),
        (("::ffff:10.1.2.3", 80), "", True),
        (None, "", True),
        (("192.0.2.1", 80), "10.1.2.3", False),
        (("testclient", 80), "10.1.2.3", False),
    ]
    app_of = partial(WithTelemetry, Response())
    with every() as case:
        for client, forwarded, is_followed in cases:
            with case(client):
                bench = Bench()
                app = app_of([bench.tracing], HardenOptions(trusted_traces=["10.0.0.0/8", "unix"]))
                headers = [
                    ("traceparent", f"00-{TRACE}-{PARENT}-01"),
                    ("x-forwarded-for", forwarded),
                ]
                await call_asgi(app, headers=headers, scope={"client": client})
                (span,) = bench.spans
                assert (span.parent is not None) == is_followed
                assert (len(span.links) == 0) == is_followed


async def test_a_crash_is_an_error_with_its_class_its_stack_and_no_secret() -> None:
    bench = Bench()
    await bench.call("/crash")
    (span,) = bench.spans
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None
    assert span.attributes is not None
    assert (span.attributes["error.type"], span.attributes["http.response.status_code"]) == (
        "ValueError",
        500,
    )
    (event,) = span.events
    assert event.attributes is not None
    assert event.attributes["exception.type"] == "builtins.ValueError"
    assert "in crash" in str(event.attributes["exception.stacktrace"])
    assert "hunter2" not in str(event.attributes)


@pytest.mark.parametrize(
    ("method", "path", "name", "status"),
    [
        ("GET", "/nothing/7", "GET", StatusCode.UNSET),
        ("BREW", "/nothing/7", "HTTP", StatusCode.UNSET),
        ("GET", "/503", "GET /503", StatusCode.ERROR),
    ],
)
async def test_a_span_is_named_by_the_template_or_not_at_all(
    method: str, path: str, *, name: str, status: StatusCode
) -> None:
    bench = Bench()
    await bench.call(path, method)
    assert [(span.name, span.status.status_code) for span in bench.spans] == [(name, status)]


async def test_probes_have_no_span() -> None:
    bench = Bench()
    await bench.call("/healthz/live")
    assert bench.spans == ()
    assert bench.page.count("trace_id=") == 0


async def test_an_exemplar_names_the_span_that_was_exported() -> None:
    bench = Bench()
    await bench.call("/503")
    (ids,) = map(ids_of, bench.spans)
    assert f'# {{span_id="{ids.span_id:016x}",trace_id="{ids.trace_id:032x}"}}' in bench.page


async def test_what_is_not_sampled_has_ids_and_no_spans() -> None:
    bench = Bench(ParentBased(ALWAYS_OFF))
    await bench.call("/i/7")
    assert bench.spans == ()
    trace_id, _, flags = bench.seen[0]
    assert trace_id not in bench.page
    assert len(trace_id) == 32
    assert not int(flags, 16) & 1


async def test_a_statement_outside_of_a_request_and_any_other_event_make_no_span() -> None:
    bench = Bench()
    bench.tracing(QueryFinished("main", "postgresql", "SELECT", "", 0.5))
    bench.tracing(TaskCrashed("poller", ValueError()))
    assert bench.spans == ()


async def test_the_span_is_current_no_longer_when_the_request_is_over() -> None:
    bench = Bench()
    await call_asgi(WithTelemetry(Response(), [bench.tracing]))
    assert len(bench.spans) == 1
    assert not trace.get_current_span().get_span_context().is_valid


# The global provider can be set only once in a process: so this has one of its own.
LATE = """
import anyio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan
from postfacta_core.asgi._kernel import Kernel
from postfacta_core.telemetry.tracing import Tracing, nanoseconds, span_name, trace_headers
from postfacta_core.testing import call_asgi

async def app(scope, receive, send):
    seen.append(scope["postfacta.request"].trace_id)
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body"})

made, seen = [], []
NonRecordingSpan.__init__ = lambda self, context: made.append(self)
stack = Kernel(app, recorders=[Tracing()])
anyio.run(call_asgi, stack)
assert seen == [""] and made == [], (seen, made)
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
anyio.run(call_asgi, stack)
assert [span.name for span in exporter.get_finished_spans()] == ["GET"]
"""


@pytest.mark.usefixtures("programs")
def test_without_an_sdk_no_span_is_made_and_one_that_comes_late_is_used_at_once() -> None:
    done = subprocess.run(  # noqa: S603 - a fixed program
        [sys.executable, "-W", "error", "-c", LATE],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


async def test_a_provider_that_makes_no_spans_leaves_the_ids_empty() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        context = current_request()
        assert context is not None
        seen.append(context.trace_id + context.span_id + context.trace_flags)
        await PlainTextResponse("ok")(scope, receive, send)

    await call_asgi(WithTelemetry(app, [Tracing(trace.NoOpTracerProvider())]))
    assert seen == [""]


async def test_a_caller_without_an_address_has_none_on_the_span() -> None:
    bench = Bench()
    await call_asgi(bench.app, "GET", "/i/1", scope={"client": None})
    attributes = bench.exporter.get_finished_spans()[-1].attributes
    assert attributes is not None
    assert "client.address" not in attributes


async def test_a_statement_that_went_well_has_no_status_of_its_own() -> None:
    bench = Bench()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        bench.tracing(QueryFinished("main", "postgresql", "SELECT", "incidents", 0.1))
        await PlainTextResponse("ok")(scope, receive, send)

    await call_asgi(WithTelemetry(app, [bench.tracing]))
    [statement] = [
        span for span in bench.exporter.get_finished_spans() if span.kind is SpanKind.CLIENT
    ]
    assert statement.status.status_code is StatusCode.UNSET


def within(bench: Bench, *events: Event) -> list[tuple[str, dict[str, object]]]:
    """Emit events inside of a span, and return those recorded on it."""
    provider = TracerProvider(shutdown_on_exit=False)
    span = provider.get_tracer("test").start_span("request")
    with trace.use_span(span):
        for event in events:
            bench.tracing(event)
    assert isinstance(span, ReadableSpan)
    return [(event.name, dict(event.attributes or {})) for event in span.events]


POOL = "db.client.connection.pool.name"


def test_the_events_of_a_request_are_on_its_span() -> None:
    cases: list[tuple[Event, tuple[str, dict[str, object]] | None]] = [
        (
            ConnectionAcquired("main", 0.25),
            ("postfacta.pool_wait", {POOL: "main", "postfacta.wait_ms": 250.0}),
        ),
        (
            ConnectionAcquired("main", 0.0, "DatabaseUnavailableError"),
            (
                "postfacta.pool_wait",
                {POOL: "main", "postfacta.wait_ms": 0.0, "error.type": "DatabaseUnavailableError"},
            ),
        ),
        (ConnectionAcquired("main", 0.0005), None),
        (
            RetryScheduled("billing", 1, 0.05, "ConnectError"),
            (
                "postfacta.retry",
                {
                    "postfacta.policy": "billing",
                    "postfacta.attempt": 1,
                    "postfacta.delay_ms": 50.0,
                    "error.type": "ConnectError",
                },
            ),
        ),
        (
            CircuitChanged("billing", "closed", "open", 1.0, "failures"),
            (
                "postfacta.breaker",
                {
                    "postfacta.policy": "billing",
                    "postfacta.old": "closed",
                    "postfacta.new": "open",
                    "postfacta.reason": "failures",
                },
            ),
        ),
        (DeadlineExceeded("pool"), ("postfacta.deadline_exceeded", {"postfacta.stage": "pool"})),
    ]
    with every() as case:
        for event, expected in cases:
            with case(event, expected):
                assert within(Bench(), event) == ([] if expected is None else [expected])


def test_without_a_span_or_an_sdk_such_news_is_nothing() -> None:
    news = RetryScheduled("billing", 1, 0.05, "ConnectError")
    Bench().tracing(news)
    Tracing()(news)


async def refused(
    error_type: str, *, route: str | None, deadline: float | None = None
) -> ReadableSpan:
    """Make a request that a layer answers in place of the application, after two seconds."""
    bench = Bench()

    async def layer(scope: Scope, receive: Receive, send: Send) -> None:
        request = scope["postfacta.request"]
        request.error_type, request.route = error_type, route
        if deadline is not None:
            request.limit = deadline
        bench.clock.advance(2)
        await Response(status_code=503)(scope, receive, send)

    stack = WithTelemetry(layer, [bench.tracing], clock=bench.clock)
    await call_asgi(stack)
    return bench.spans[-1]


def events_of(span: ReadableSpan) -> list[tuple[str, float, dict[str, object]]]:
    start = span.start_time or 0
    return [
        (event.name, (event.timestamp - start) / 1e9, dict(event.attributes or {}))
        for event in span.events
    ]


async def test_a_request_that_was_refused_before_the_application_says_why() -> None:
    span = await refused("shed", route="_prerouting")
    assert events_of(span) == [("postfacta.refused", 2.0, {"postfacta.reason": "shed"})]
    assert events_of(await refused("pool_timeout", route="/i")) == []


async def test_a_request_that_ran_out_of_time_says_when() -> None:
    span = await refused("deadline_exceeded", route="/i", deadline=1.5)
    assert events_of(span) == [("postfacta.deadline", 1.5, {})]
    assert span.attributes is not None
    assert span.attributes["postfacta.deadline_remaining_ms"] == -500


async def test_a_request_says_how_much_of_its_time_was_left() -> None:
    span = await refused("", route="/i", deadline=5)
    assert span.attributes is not None
    assert span.attributes["postfacta.deadline_remaining_ms"] == 3000
    span = await refused("", route="/i")
    assert span.attributes is not None
    assert "postfacta.deadline_remaining_ms" not in span.attributes


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF])
async def test_a_websocket_is_one_span_from_handshake_to_close(sampler: Sampler) -> None:
    bench = Bench(sampler)

    async def room(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        bench.clock.advance(3)
        await send({"type": "websocket.close", "code": 1001})

    async def send(message: object) -> None:
        """Take it."""

    async def receive() -> Message:
        raise AssertionError

    scope: Scope = {"type": "websocket", "path": "/rooms/7", "headers": []}
    await WithTelemetry(room, [bench.tracing], clock=bench.clock)(scope, receive, send)
    if sampler is ALWAYS_OFF:
        assert bench.spans == ()
        return
    (span,) = bench.spans
    known = span.attributes or {}
    assert (known["postfacta.outcome"], known["postfacta.close_code"]) == ("closed", 1001)
    assert known["http.response.status_code"] == 101
    assert (span.end_time or 0) - (span.start_time or 0) == 3_000_000_000


def test_a_global_provider_is_found_when_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    tracing, bench = Tracing(), Bench()
    with trace.use_span(bench.provider.get_tracer("test").start_span("request")):
        assert tracing.begin_call() is None
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", bench.provider)
        for _ in range(2):
            call = tracing.begin_call()
            assert call is not None
            tracing.end_call(
                call,
                HttpCallFinished("billing", "GET", "", 0, 200, 1.0),
                url="",
                resends=0,
                error=None,
            )
    assert len(bench.spans) == 2


def test_the_headers_name_the_present_span() -> None:
    assert trace_headers() == {}
    span = TracerProvider().get_tracer("test").start_span("x")
    with trace.use_span(span):
        ids = span.get_span_context()
        assert trace_headers() == {
            "traceparent": f"00-{ids.trace_id:032x}-{ids.span_id:016x}-{ids.trace_flags:02x}"
        }


@pytest.mark.parametrize(("method", "name"), [("GET", "GET"), ("BREW", "HTTP"), ("", "HTTP")])
def test_a_span_is_named_by_a_method_that_exists(method: str, name: str) -> None:
    assert span_name(method) == name


def test_an_error_is_described_without_secrets_and_by_the_end_of_its_stack() -> None:
    def fall(depth: int) -> None:
        if not depth:
            raise ValueError("cannot reach postgresql://app:hunter2@db/x")
        (fall if depth % 2 else _fall)(depth - 1)

    def _fall(depth: int) -> None:
        fall(depth)

    with pytest.raises(ValueError, match="cannot reach") as caught:
        fall(200)
    told = failure_fields(caught.value)
    assert told["exception.type"] == "builtins.ValueError"
    assert "hunter2" not in str(told)
    assert len(str(told["exception.stacktrace"])) <= 16_384
    assert str(told["exception.stacktrace"]).rstrip().endswith("@db/x")


def test_moments_are_whole_nanoseconds() -> None:
    assert nanoseconds(1.5) == 1_500_000_000
