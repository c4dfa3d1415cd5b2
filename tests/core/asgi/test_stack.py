"""`harden` puts the layers in the one right order, and each of them also stands alone."""

from __future__ import annotations

import gc
import logging
import re
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, Counter, Gauge
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from postfacta_core import DrainLimits
from postfacta_core.asgi import HardenOptions, Telemetry, harden, problem_handler
from postfacta_core.asgi._problem import Problem
from postfacta_core.asgi._types import ASGIApp, Message, Receive, Scope, Send
from postfacta_core.asgi.health import HealthEndpoint
from postfacta_core.asgi.lifespan import LifespanMiddleware
from postfacta_core.asgi.metrics import MetricsEndpoint
from postfacta_core.asgi.stack import Hardened
from postfacta_core.context import current_request
from postfacta_core.deadlines._limits import TransferLimits
from postfacta_core.errors import PoolTimeoutError, ResilienceError
from postfacta_core.events import QueryFinished, TaskCrashed
from postfacta_core.health import HealthRegistry
from postfacta_core.health.registry import NO_LIFESPAN
from postfacta_core.health.runtime import memory_limit
from postfacta_core.telemetry.metrics import Metrics
from postfacta_core.telemetry.tracing import Tracing
from postfacta_core.testing import ManualClock, call_asgi
from tests.kit.every import every
from tests.kit.garbage import garbage
from tests.kit.lifespan import running
from tests.kit.waiting import until

ID = "0123456789abcdef"
GIVEN = [("x-request-id", ID)]


class Boom(Exception):  # noqa: N818 - the label is its name
    """A crash."""


async def hello(request: Request) -> Response:
    current = current_request()
    return PlainTextResponse(current.request_id if current else "none")


async def crash(request: Request) -> Response:
    raise Boom


async def unavailable(request: Request) -> Response:
    raise PoolTimeoutError("main")


async def read(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


ROUTES = [
    Route("/items/{id}", hello),
    Route("/crash", crash),
    Route("/unavailable", unavailable),
    Route("/read", read, methods=["POST"]),
]


def starlette(**options: Any) -> Starlette:
    return Starlette(
        routes=ROUTES, exception_handlers={ResilienceError: problem_handler}, **options
    )


SMALL = HardenOptions(limits=TransferLimits(max_body_bytes=10, max_header_bytes=300))


def told(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """List what was logged, but for the absence of a lifespan, which these tests go without."""
    return [record for record in caplog.records if record.msg != NO_LIFESPAN]


async def test_every_answer_has_the_id_and_the_headers_and_is_counted() -> None:
    cases: list[tuple[str, str, list[tuple[str, str]], int]] = [
        ("GET", "/items/7", [], 200),
        ("GET", "/nothing", [], 404),
        ("PUT", "/items/7", [], 405),
        ("GET", "/crash", [], 500),
        ("GET", "/unavailable", [], 503),
        ("POST", "/read", [("content-length", "11")], 413),
        ("GET", "/items/7", [("cookie", "x" * 300)], 431),
        ("GET", "/healthz/live", [], 200),
        ("GET", "/healthz/ready", [], 503),
        ("GET", "/metrics", [], 200),
        ("POST", "/metrics", [], 405),
    ]
    with every() as case:
        for method, path, headers, status in cases:
            with case(method, path, headers, status):
                app = harden(starlette(), service="billing", options=SMALL)
                response = await call_asgi(
                    app, method, path, headers=[*GIVEN, *headers], raise_errors=False
                )
                assert (response.status, response.header("x-request-id")) == (status, ID)
                assert response.header("x-content-type-options") == "nosniff"
                samples = [
                    sample
                    for family in app.telemetry.metrics.registry.collect()
                    for sample in family.samples
                ]
                counted = [s for s in samples if s.name == "http_server_requests_total"]
                assert [(s.labels["http_response_status_code"], s.value) for s in counted] == [
                    (str(status), 1)
                ]


@pytest.mark.parametrize(
    ("path", "status"), [("/items/7", 200), ("/crash", 500), ("/unavailable", 503)]
)
async def test_span_and_line_describe_the_same_request(
    path: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "postfacta")
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = harden(starlette(), service="billing", telemetry=Telemetry(tracing=Tracing(provider)))
    await call_asgi(app, "GET", path, headers=GIVEN, raise_errors=False)
    (span,) = exporter.get_finished_spans()
    (record,) = map(vars, told(caplog))
    attributes = span.attributes or {}
    assert (attributes["http.response.status_code"], record["status"]) == (status, status)
    assert (attributes["postfacta.request_id"], record["request_id"]) == (ID, ID)
    assert span.context is not None
    assert record["trace_id"] == f"{span.context.trace_id:032x}"
    assert record["service"] == "billing"


async def test_probes_and_scrapes_are_quiet_and_so_is_what_the_policy_names(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "postfacta")
    policy = HardenOptions(
        health_prefix="/up",
        metrics_path="/m",
        quiet=["/items/7"],
        allow_health_detail=lambda _: True,
    )
    app = harden(starlette(), service="billing", options=policy)
    for path in ("/up/live", "/up/ready", "/up/startup", "/up/deps", "/m", "/items/7"):
        assert (await call_asgi(app, "GET", path)).status in {200, 503}
    assert told(caplog) == []


async def test_a_probe_passes_however_small_the_limits_are() -> None:
    app = harden(starlette(), service="billing", options=SMALL)
    assert (
        await call_asgi(app, "GET", "/healthz/live", headers=[("cookie", "x" * 300)])
    ).status == 200


async def test_the_policy_reaches_the_layers() -> None:
    policy = HardenOptions(
        response_headers=[("x-own", "1")],
        metrics_path="/m",
        metrics_token="t0ken",  # noqa: S106 - of this test
        health_prefix="/up",
        allow_health_detail=lambda scope: scope["path"] == "/up/deps",
        traffic_key="s3cret",
    )
    clock = ManualClock()
    app = harden(starlette(), service="billing", options=policy, clock=clock)
    response = await call_asgi(
        app, "GET", "/items/7", headers=[("x-traffic-class", "load"), ("x-traffic-key", "s3cret")]
    )
    assert response.header("x-own") == "1"
    assert response.header("x-content-type-options") is None
    assert (await call_asgi(app, "GET", "/m")).status == 401
    scrape = await call_asgi(app, "GET", "/m", headers=[("authorization", "Bearer t0ken")])
    assert b'traffic="load"' in scrape.body
    assert (await call_asgi(app, "GET", "/up/deps")).json()["status"] == "unready"
    assert (await call_asgi(app, "GET", "/healthz/live")).status == 404


async def test_an_api_with_an_own_shape_of_errors_keeps_it_for_refusals_and_crashes() -> None:
    def render(problem: Problem, scope: Scope) -> tuple[str, bytes] | None:
        return (
            ("application/json", b'{"message":"v0"}') if scope["path"].startswith("/v0") else None
        )

    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        raise PoolTimeoutError("main") if scope["method"] == "GET" else Boom

    app = harden(bare, service="billing", options=SMALL, render=render)
    for method, headers, status in (
        ("GET", [], 503),
        ("PUT", [], 500),
        ("PUT", [("content-length", "11")], 413),
        ("GET", [("cookie", "x" * 300)], 431),
    ):
        for path, body_type in (
            ("/v0/x", "application/json"),
            ("/v1/x", "application/problem+json"),
        ):
            response = await call_asgi(app, method, path, headers=headers, raise_errors=False)
            assert (response.status, response.header("content-type")) == (status, body_type)


async def test_a_shared_telemetry_receives_everything(caplog: pytest.LogCaptureFixture) -> None:
    registry = CollectorRegistry()
    telemetry = Telemetry(metrics=Metrics(registry, version="1.2"))
    app = harden(starlette(), service="billing", telemetry=telemetry)
    telemetry.observer(QueryFinished("main", "postgresql", "SELECT", "items", 0.1))
    telemetry.observer(TaskCrashed("poll", Boom("a crash")))
    scrape = (await call_asgi(app, "GET", "/metrics")).body
    assert b'db_operation_name="SELECT"' in scrape
    assert b'version="1.2"' in scrape
    assert app.telemetry.metrics.registry is registry
    assert [record.msg for record in told(caplog)] == ["task.crashed"]


async def test_two_applications_of_one_telemetry_show_the_process_once_and_may_end() -> None:
    telemetry = Telemetry(metrics=Metrics(with_process=False))
    apps = [harden(starlette(), service=name, telemetry=telemetry) for name in ("billing", "shop")]
    page = telemetry.metrics.render().body.decode()
    limit = re.search(r"^postfacta_memory_limit_bytes (\S+)$", page, re.MULTILINE)
    assert limit is not None
    assert float(limit[1]) == memory_limit()
    ended = weakref.ref(apps[0])
    apps.clear()
    gc.collect()
    assert ended() is None


async def test_two_applications_in_one_process_do_not_meet() -> None:
    one, other = (harden(starlette(), service=name) for name in ("one", "other"))
    await call_asgi(one, "GET", "/items/7")
    assert b"/items/{id}" in (await call_asgi(one, "GET", "/metrics")).body
    assert b"/items/{id}" not in (await call_asgi(other, "GET", "/metrics")).body


async def test_the_health_registry_may_be_given_and_is_else_made() -> None:
    registry = HealthRegistry()
    assert harden(starlette(), service="billing", health=registry).health is registry
    assert harden(starlette(), service="billing").health is not registry


def test_a_service_has_a_name() -> None:
    with pytest.raises(ValueError, match="name"):
        harden(starlette(), service="")


ALONE: dict[str, Middleware] = {
    "metrics": Middleware(MetricsEndpoint, Metrics(with_process=False)),
    "health": Middleware(HealthEndpoint, HealthRegistry()),
    "lifespan": Middleware(LifespanMiddleware, []),
}


async def test_each_middleware_stands_alone_in_starlette_and_around_it() -> None:
    with every() as case:
        for name, middleware in ALONE.items():
            with case(name):
                inside = starlette(middleware=[middleware])
                around = middleware.cls(starlette(), *middleware.args, **middleware.kwargs)
                for app in (inside, around):
                    assert (await call_asgi(app, "GET", "/items/7")).status == 200
                    assert (await call_asgi(app, "GET", "/nothing")).status == 404
                    assert (await call_asgi(app, "POST", "/read", body=[b"12", b"3"])).body == b"3"


async def test_each_middleware_lets_other_connections_pass() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        raise AssertionError

    with every() as case:
        for name, middleware in ALONE.items():
            with case(name):
                seen.clear()
                layer: ASGIApp = middleware.cls(app, *middleware.args, **middleware.kwargs)
                await layer({"type": "websocket", "path": "/", "headers": []}, receive, send)
                assert seen == ["websocket"]


class Interception:
    """Stands for the handling of signals, of which there are none here."""

    mechanism = "wrap"

    def __init__(self, heard: Callable[[int], None]) -> None:
        pass

    def release(self) -> None:
        """Do nothing: no server listens."""

    def close(self) -> None:
        """Do nothing."""


async def wait(request: Request) -> Response:
    await anyio.sleep(20)
    raise AssertionError


async def test_a_request_past_the_policys_limit_is_504_in_metric_and_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "postfacta")
    app = harden(
        Starlette(routes=[Route("/wait", wait)]),
        service="billing",
        options=HardenOptions(request_timeout=0.05),
    )
    async with app.running:
        response = await call_asgi(app, "GET", "/wait")
        late = await call_asgi(app, "GET", "/wait", headers=[("x-request-timeout", "0")])
    assert (response.status, late.status) == (504, 504)
    lines = list(map(vars, told(caplog)))
    assert [(line["status"], line["error_type"], line["route"]) for line in lines] == [
        (504, "deadline_exceeded", "/wait"),
        (499, "callers_deadline", "_prerouting"),
    ]
    scrape = (await call_asgi(app, "GET", "/metrics")).body.decode()
    assert 'postfacta_deadline_exceeded_total{stage="handler"} 1.0' in scrape
    assert 'postfacta_deadline_exceeded_total{stage="caller"} 1.0' in scrape


async def test_line_and_span_say_how_much_time_was_left(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "postfacta")
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = harden(
        Starlette(routes=[Route("/wait", wait), Route("/items/{id}", hello)]),
        service="billing",
        options=HardenOptions(request_timeout=0.05),
        telemetry=Telemetry(tracing=Tracing(provider)),
    )
    async with app.running:
        await call_asgi(app, "GET", "/wait")
        await call_asgi(app, "GET", "/items/7")
    late, quick = exporter.get_finished_spans()
    left = [
        float(str((span.attributes or {})["postfacta.deadline_remaining_ms"]))
        for span in (late, quick)
    ]
    assert [event.name for event in late.events] == ["postfacta.deadline"]
    assert left[0] <= 0 < left[1] <= 50
    lines = [vars(record)["deadline_remaining_ms"] for record in told(caplog)]
    assert lines[0] <= 0 < lines[1] <= 50


async def test_a_service_that_drains_serves_on_says_close_and_is_unready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("postfacta_core.drain.lifecycle.Interception", Interception)
    policy = HardenOptions(drain=DrainLimits(drain_delay=30, drain_timeout=0.1, close_timeout=1))
    app = harden(starlette(), service="billing", options=policy)
    async with running(app):
        with anyio.fail_after(10):
            while (await call_asgi(app, "GET", "/healthz/ready")).status != 200:
                await anyio.sleep(0.01)
        assert (await call_asgi(app, "GET", "/items/7")).header("connection") is None
        app.lifecycle.drain()
        for path, status in (
            ("/items/7", 200),
            ("/healthz/live", 200),
            ("/healthz/ready", 503),
            ("/crash", 500),
        ):
            response = await call_asgi(app, "GET", path, raise_errors=False)
            assert (response.status, response.header("connection")) == (status, "close")
        with anyio.fail_after(10):
            while (
                'state="draining"} 1.0'
                not in (await call_asgi(app, "GET", "/metrics")).body.decode()
            ):
                await anyio.sleep(0.01)
    assert app.lifecycle.phase == "stopped"
    assert (await call_asgi(app, "GET", "/items/7")).status == 503
    assert (await call_asgi(app, "GET", "/healthz/live")).status == 200


async def test_the_application_can_wait_for_resources_in_its_lifespan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("postfacta_core.drain.lifecycle.Interception", Interception)
    app = harden(starlette(), service="billing")
    assert app.lifecycle.phase == "starting"
    async with running(app):
        assert (app.lifecycle.phase, app.lifecycle.mechanism) == ("ready", "wrap")
        assert app.running.tasks is not None
    assert app.running.tasks is None


@pytest.mark.parametrize("times", [50, pytest.param(2500, marks=pytest.mark.long)])
@pytest.mark.parametrize("path", ["/items/7", "/unavailable", "/nothing", "/crash"])
async def test_the_whole_stack_leaves_nothing_for_the_cyclic_collector(
    path: str, times: int
) -> None:
    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/crash":
            raise Boom
        if scope["path"] == "/unavailable":
            raise PoolTimeoutError("main")
        await PlainTextResponse("ok")(scope, receive, send)

    app = harden(bare, service="billing", options=HardenOptions(cancel_on_disconnect=True))
    # A layer that made a circle would add one each time; a few may be from elsewhere in the
    # process.
    assert await garbage(partial(_once, app, path), times) < times // 2


@pytest.mark.parametrize("body", [[b"x" * 11], [b"x"] * 11])
async def test_a_body_that_is_too_large_leaves_nothing_for_the_cyclic_collector(
    body: list[bytes],
) -> None:
    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body", False):
            pass
        await PlainTextResponse("ok")(scope, receive, send)

    app = harden(bare, service="billing", options=SMALL)
    assert await garbage(partial(_once, app, "/", body)) < 20


async def _once(app: ASGIApp, path: str, body: list[bytes] | bytes = b"") -> None:
    await call_asgi(app, "GET" if body == b"" else "POST", path, body=body, raise_errors=False)


async def test_what_the_server_gave_to_a_request_is_let_go_when_the_request_ends() -> None:
    class Silent:
        """Stands for a connection, which some servers close when nothing refers to it any more."""

        async def receive(self) -> Message:
            await anyio.sleep_forever()
            raise AssertionError("nobody speaks")

    async def reading(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    async def send(message: Message) -> None:
        statuses.append(message.get("status", 0))

    statuses: list[int] = []
    limits = TransferLimits(body_idle_timeout=0.1, body_grace=0.1)
    app = harden(reading, service="billing", options=HardenOptions(limits=limits))
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "state": {},
        "headers": [(b"content-length", b"9")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    async with running(app):
        for _ in range(3):
            silent = Silent()
            left = weakref.ref(silent)
            # Longer than a tick of the sweep, so that it is looked at.
            await app(dict(scope), silent.receive, send)
            del silent
            gc.disable()
            try:
                await anyio.sleep(0.06)
                assert left() is None
            finally:
                gc.enable()
    assert statuses[::2] == [408] * 3


async def test_the_lag_of_the_loop_is_a_metric_while_the_service_lives() -> None:
    app = harden(starlette(), service="billing")
    beaten = re.compile(rb"postfacta_event_loop_lag_seconds_count [1-9]").search
    async with running(app):
        await until(lambda: beaten(app.telemetry.metrics.render("").body))


@pytest.mark.parametrize(("most", "written"), [(3, 3), (None, 200)])
async def test_ordinary_access_lines_are_sampled_as_the_policy_says(
    caplog: pytest.LogCaptureFixture, most: int | None, written: int
) -> None:
    clock = ManualClock()  # Everything happens in one second.
    app = harden(
        starlette(), service="billing", options=HardenOptions(access_lines=most), clock=clock
    )
    with caplog.at_level(logging.INFO, logger="postfacta"):
        for _ in range(200):
            await call_asgi(app, "GET", "/items/7")
    lines = [vars(record) for record in caplog.records if record.msg == "http.request"]
    assert len([line for line in lines if "sample_rate" not in line]) == written
    assert len(lines) <= 100 or most is None


async def test_series_of_other_registries_are_shown_too() -> None:
    other = CollectorRegistry()
    Counter("orders", "Orders.", registry=other).inc(3)
    Gauge("postfacta_websocket_open", "Ours.", registry=other).set(7)
    telemetry = Telemetry()
    telemetry.metrics.registry.register(other)
    app = harden(Starlette(routes=ROUTES), service="billing", telemetry=telemetry)
    page = (await call_asgi(app, "GET", "/metrics")).body.decode()
    assert "orders_total 3.0" in page
    assert "postfacta_websocket_open 0.0" in page
    assert page.count("# TYPE postfacta_websocket_open") == 1


async def test_after_its_lifespan_an_application_serves_as_before_it() -> None:
    app = harden(starlette(), service="shop")
    async with running(app):
        assert (await call_asgi(app, "GET", "/items/7")).status == 200
    assert (await call_asgi(app, "GET", "/items/7")).status == 200


async def test_what_only_the_application_has_is_named_with_its_place() -> None:
    app: Any = harden(starlette(), service="billing")
    with pytest.raises(AttributeError, match=r"inside has it, as `app\.app\.add_route`"):
        app.add_route("/x", None)
    with pytest.raises(AttributeError, match=r"'Hardened' object has no attribute 'nowhere'$"):
        _ = app.nowhere
    assert not hasattr(Hardened.__new__(Hardened), "get")  # As `copy` asks.
    assert not hasattr(Hardened, "get")
