"""Each request is observed once, under the right status, route and error type."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncGenerator, MutableMapping
from functools import partial

import anyio
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from postfacta_core.asgi import HardenOptions
from postfacta_core.asgi._rules import Rules
from postfacta_core.asgi._types import ASGIApp, Message, Receive, Scope, Send
from postfacta_core.context import RequestContext, bind_request, current_request, release_request
from postfacta_core.deadlines._limits import TransferLimits
from postfacta_core.errors import PoolTimeoutError
from postfacta_core.events import ListenerFailed
from postfacta_core.telemetry.exchange import Exchange, Recorder
from postfacta_core.telemetry.metrics import Metrics
from postfacta_core.testing import ManualClock, RecordingObserver, call_asgi
from postfacta_core.testing.asgi import AsgiResponse
from tests.core.asgi.observed import (
    APP,
    ROUTES,
    Boom,
    CopyingMiddleware,
    Kept,
    files,
    hello,
    observe,
)
from tests.kit.alone import WithTelemetry
from tests.kit.every import every
from tests.kit.garbage import garbage


async def test_the_route_is_the_template_and_nothing_of_the_client_or_the_server() -> None:
    cases: list[tuple[str, str, int, str]] = [
        ("GET", "/i/7", 200, "/i/{id}"),
        ("HEAD", "/i/7", 200, "/i/{id}"),
        ("DELETE", "/i/7", 405, "/i/{id}"),
        ("GET", "/api/in/v/7", 200, "/api/in/v/{x}"),
        ("GET", "/api/in/nothing", 404, "_unmatched"),
        ("GET", "/api/nothing", 404, "_unmatched"),
        ("GET", "/static/a/b.css", 200, "/static/{path}"),
        ("GET", "/static/none", 404, "/static/{path}"),
        ("GET", "/api/in/static/x", 200, "/api/in/static/{path}"),
        ("GET", "/nothing", 404, "_unmatched"),
        ("GET", "/s", 307, "_unmatched"),
        # A mount's parameters are in the root_path as the client wrote them: they must not get out.
        ("GET", "/t/acme/u/7/v/8", 200, "/t/{tenant}/u/{user}/v/{x}"),
        ("GET", "/t/u/u/u/v/u", 200, "/t/{tenant}/u/{user}/v/{x}"),
        ("GET", "/t/acme/u/7/f/a.css", 200, "/t/{tenant}/u/{user}/f/{path}"),
        ("GET", "/t/acme/u/7/nothing", 404, "_unmatched"),
    ]
    with every() as case:
        for method, path, status, route in cases:
            for prefix in ("", "/pre"):
                with case(method, path, status, route, prefix):
                    kept = await observe(APP, method, prefix + path, root_path=prefix)
                    assert kept.summary == (status, route, "")


async def test_an_old_server_that_leaves_the_root_path_out_of_the_path_changes_nothing() -> None:
    kept = await observe(APP, "GET", "/i/7", root_path="/pre")
    assert kept.only.route == "/i/{id}"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/crash/7", (500, "/crash/{id}", "Boom")),
        ("/midway/7", (200, "/midway/{id}", "Boom")),
        ("/after/7", (200, "/after/{id}", "Boom")),
    ],
)
async def test_a_crash_is_recorded_once_with_its_status_route_and_class(
    path: str, expected: tuple[int, str, str]
) -> None:
    kept = await observe(APP, "GET", path)
    assert kept.summary == expected
    assert isinstance(kept.errors[0], Boom)
    assert kept.only.error is None


async def test_a_crash_of_a_bare_application_is_a_500_and_goes_on_to_the_server() -> None:
    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        raise Boom

    kept = Kept()
    with pytest.raises(Boom):
        await call_asgi(WithTelemetry(bare, [kept]))
    assert kept.summary == (500, "_unmatched", "Boom")


async def test_a_refusal_before_routing_is_prerouting() -> None:
    parts = {"rules": Rules(limits=TransferLimits(max_body_bytes=3))}
    kept = await observe(APP, "POST", "/read", headers=[("content-length", "4")], parts=parts)
    assert kept.summary == (413, "_prerouting", "")


async def test_a_refusal_of_the_library_has_its_own_error_type_and_is_no_crash() -> None:
    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        raise PoolTimeoutError("main")

    kept = await observe(bare, parts={"answers": True})
    assert kept.summary == (503, "_unmatched", "pool_timeout")
    assert kept.errors == [None]


async def test_a_copied_scope_hides_the_route_unless_a_layer_inside_says_it() -> None:
    def saying(app: ASGIApp) -> ASGIApp:
        async def say(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await app(scope, receive, send)
            finally:
                scope["postfacta.request"].route = scope["route"].path

        return say

    blind = Starlette(routes=ROUTES, middleware=[Middleware(CopyingMiddleware)])
    seeing = Starlette(
        routes=ROUTES, middleware=[Middleware(CopyingMiddleware), Middleware(saying)]
    )
    assert (await observe(blind, "GET", "/i/7")).only.route == "_unmatched"
    assert (await observe(seeing, "GET", "/i/7")).only.route == "/i/{id}"
    assert (await observe(seeing, "GET", "/crash/7")).summary == (500, "/crash/{id}", "Boom")


async def test_another_framework_tells_its_route_and_may_fail_to() -> None:
    observer = RecordingObserver()

    def route_of(scope: Scope) -> str | None:
        return {"/a": "/{letter}", "/b": None}[scope["path"]]

    for path, route in [("/a", "/{letter}"), ("/b", "_unmatched"), ("/c", "_unmatched")]:
        kept = Kept()
        app = WithTelemetry(files, [kept], route_of=route_of, observer=observer)
        await call_asgi(app, "GET", path)
        assert kept.only.route == route
    assert len(observer.of(ListenerFailed)) == 1


async def no_answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Return without a word."""


async def half_an_answer(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"1", "more_body": True})


async def unavailable(scope: Scope, receive: Receive, send: Send) -> None:
    await Response(status_code=503)(scope, receive, send)


async def a_file(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.pathsend", "path": "/some/file"})


@pytest.mark.parametrize(
    ("app", "status", "error_type"),
    [
        (no_answer, 500, "500"),
        (half_an_answer, 200, "incomplete_response"),
        (unavailable, 503, "503"),
    ],
)
async def test_what_is_not_a_whole_good_answer_says_why(
    app: ASGIApp, status: int, error_type: str
) -> None:
    assert (await observe(app)).summary == (status, "_unmatched", error_type)


async def test_a_file_sent_by_the_server_is_a_whole_answer() -> None:
    assert (await observe(a_file)).summary == (200, "_unmatched", "")


@pytest.mark.parametrize("starts", [False, True])
async def test_a_cancelled_request_is_recorded_once_and_stays_cancelled(*, starts: bool) -> None:
    async def hang(scope: Scope, receive: Receive, send: Send) -> None:
        if starts:
            await half_an_answer(scope, receive, send)
        scope_of_test.cancel()
        await anyio.sleep_forever()

    kept = Kept()
    with anyio.CancelScope() as scope_of_test:
        await call_asgi(WithTelemetry(hang, [kept]))
        pytest.fail("the cancellation was swallowed")
    assert kept.summary == (499, "_unmatched", "client_disconnected")


async def test_latency_ends_with_the_last_byte_and_not_with_the_background_task() -> None:
    clock, kept = ManualClock(), Kept()
    told_in_task: list[str] = []

    def task() -> None:
        told_in_task.extend(kept.told)
        clock.advance(60)

    async def slow(request: Request) -> Response:
        async def body() -> AsyncGenerator[bytes]:
            yield b"ab"
            clock.advance(2)
            yield b"c"

        return StreamingResponse(body(), background=BackgroundTask(task))

    app = WithTelemetry(Starlette(routes=[Route("/", slow)]), [kept], clock=clock)
    await call_asgi(app)
    assert kept.only.seconds == 2
    assert told_in_task == ["begin", "answered"]
    assert kept.only.response_bytes == 3


async def test_the_bytes_of_both_bodies_are_counted() -> None:
    kept = await observe(APP, "POST", "/read", body=[b"123", b"4567"])
    assert (kept.only.request_bytes, kept.only.response_bytes) == (7, 1)


async def test_error_types_are_a_closed_set() -> None:
    kinds = [type(f"Error{n}", (Exception,), {}) for n in range(40)]
    kept = Kept()

    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        raise kinds[int(scope["path"][1:])]

    app = WithTelemetry(bare, [kept])
    for n in [*range(40), *range(40)]:
        await call_asgi(app, "GET", f"/{n}", raise_errors=False)
    seen = [exchange.error_type for exchange in kept.exchanges]
    assert len(set(seen)) == 31
    assert seen[:40] == seen[40:]
    assert seen[39] == "_OTHER"


async def test_a_recorder_that_raises_reaches_neither_the_request_nor_the_others() -> None:
    class Broken(Kept):
        def begin(self, exchange: Exchange, /) -> None:
            raise Boom

        def end(self, exchange: Exchange, /) -> None:
            raise Boom

    observer, kept = RecordingObserver(), Kept()
    response = await call_asgi(
        WithTelemetry(APP, [Broken(), kept], observer=observer), "GET", "/i/7"
    )
    assert response.status == 200
    assert kept.only.status == 200
    assert [event.policy.split(".")[-1] for event in observer.of(ListenerFailed)] == [
        "begin",
        "end",
    ]


async def test_what_a_recorder_does_not_want_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(Recorder):
        ends = 0

        def end(self, exchange: Exchange, /) -> None:
            self.ends += 1

    def fail(self: Recorder, exchange: Exchange, /) -> None:
        raise Boom

    monkeypatch.setattr(Recorder, "begin", fail)
    monkeypatch.setattr(Recorder, "answered", fail)
    observer, counting = RecordingObserver(), Counting()
    await call_asgi(WithTelemetry(APP, [counting], observer=observer), "GET", "/i/7")
    assert counting.ends == 1
    assert observer.of(ListenerFailed) == []


async def test_a_recorder_may_call_the_moments_it_extends() -> None:
    class Extended(Recorder):
        def __init__(self) -> None:
            self.moments: list[str] = []

        def begin(self, exchange: Exchange, /) -> None:
            super().begin(exchange)
            self.moments.append("begin")

        def streaming(self, exchange: Exchange, /) -> None:
            super().streaming(exchange)
            self.moments.append("streaming")

        def answered(self, exchange: Exchange, /) -> None:
            super().answered(exchange)
            self.moments.append("answered")

        def end(self, exchange: Exchange, /) -> None:
            super().end(exchange)
            self.moments.append("end")

    async def pieces(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": b"b"})

    observer, extended = RecordingObserver(), Extended()
    await call_asgi(WithTelemetry(pieces, [extended], observer=observer), "GET", "/i/7")
    assert extended.moments == ["begin", "streaming", "answered", "end"]
    assert observer.of(ListenerFailed) == []


async def test_without_a_context_layer_a_stale_context_is_not_trusted() -> None:
    stale = RequestContext("stale-id-of-another", 0.0)
    stale.route = "/stale"
    seen: list[RequestContext | None] = []

    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(current_request())
        await Response()(scope, receive, send)

    token = bind_request(stale)
    try:
        kept = await observe(bare)
        assert current_request() is stale
    finally:
        release_request(token)
    assert seen[0] is kept.only.request
    assert seen[0] is not stale
    assert kept.only.route == "_unmatched"


@pytest.mark.parametrize(
    ("key", "wanted", "traffic"),
    [
        ("s3cret", "load", "load"),
        ("s3cret", "synthetic", "synthetic"),
        ("s3cret", "vip", "user"),
        ("wrong", "load", "user"),
        ("", "load", "user"),
    ],
)
async def test_only_the_secret_takes_traffic_out_of_the_objectives(
    key: str, wanted: str, traffic: str
) -> None:
    headers = [("X-Traffic-Class", wanted), ("X-Traffic-Key", key)]
    kept, keyless = Kept(), Kept()
    await call_asgi(
        WithTelemetry(files, [kept], HardenOptions(traffic_key="s3cret")), headers=headers
    )
    await call_asgi(WithTelemetry(files, [keyless]), headers=headers)
    assert kept.only.traffic == traffic
    assert keyless.only.traffic == "user"


async def test_probes_are_quiet_below_a_root_path_too() -> None:
    kept = Kept()
    app = WithTelemetry(files, [kept], HardenOptions(quiet=["/healthz/live"]))
    for path, root in [
        ("/healthz/live", ""),
        ("/pre/healthz/live", "/pre"),
        ("/healthz/liver", ""),
    ]:
        await call_asgi(app, "GET", path, root_path=root)
    assert [exchange.quiet for exchange in kept.exchanges] == [True, True, False]


async def test_other_connections_pass_untouched() -> None:
    seen: list[MutableMapping[str, object]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        raise AssertionError

    kept = Kept()
    for kind in ("lifespan", "another"):
        await WithTelemetry(app, [kept])({"type": kind}, receive, send)
    assert [dict(scope) for scope in seen] == [{"type": kind} for kind in ("lifespan", "another")]
    assert kept.told == []


async def test_ten_thousand_random_requests_add_no_series() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, with_process=False)
    app = WithTelemetry(APP, [metrics])
    luck = random.Random(7)  # noqa: S311 - no secret

    def series() -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        return {
            (s.name, tuple(s.labels.items()))
            for family in registry.collect()
            for s in family.samples
        }

    async def one(method: str) -> AsgiResponse:
        word = "".join(
            luck.choices("abcdefghijklmnopqrstuvwxyz0123456789-_.~%/", k=luck.randint(1, 40))
        )
        headers = [
            (name, f"{luck.getrandbits(64):x}{word}")
            for name in ("host", "x-request-id", "authorization")
        ]
        return await call_asgi(app, method, f"/{luck.choice('xyz')}/{word}", headers=headers)

    await one("FIRST")
    before = series()
    for _ in range(10_000):
        response = await one(f"M{luck.getrandbits(32):X}")
        assert response.status == 404
    assert series() == before


async def test_a_request_leaves_nothing_for_the_cyclic_collector() -> None:
    inner = Starlette(routes=[Route("/i/{id}", hello)])
    app = WithTelemetry(inner, [Metrics(CollectorRegistry())])
    assert await garbage(partial(call_asgi, app, "GET", "/i/7")) < 20


async def test_a_crash_leaves_nothing_for_the_cyclic_collector() -> None:
    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        raise Boom

    app = WithTelemetry(bare, [Kept()])

    async def once(app: ASGIApp) -> None:
        with contextlib.suppress(Boom):
            await call_asgi(app)

    assert await garbage(partial(once, app)) < 20
