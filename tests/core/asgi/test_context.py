"""Each request has a context of its own, and an id that is safe to repeat."""

from __future__ import annotations

import pytest
from opentelemetry import baggage, context
from starlette.responses import PlainTextResponse

from postfacta_core.asgi import HardenOptions, harden
from postfacta_core.asgi._kernel import Kernel
from postfacta_core.asgi._types import ASGIApp, Message, Receive, Scope, Send
from postfacta_core.context import RequestContext, bind_request, current_request, release_request
from postfacta_core.telemetry.tracing import Tracing
from postfacta_core.testing import ManualClock, call_asgi
from tests.kit.alone import WithTelemetry
from tests.kit.every import every


class Seen:
    """An application that keeps the context it finds."""

    def __init__(self, app: ASGIApp | None = None) -> None:
        self.requests: list[RequestContext | None] = []
        self.headers: list[tuple[bytes, bytes]] = [(b"x-own", b"1")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.requests.append(current_request())
        assert scope["postfacta.request"] is current_request()
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        await send({"type": "http.response.body"})

    @property
    def only(self) -> RequestContext:
        (request,) = self.requests
        assert request is not None
        return request


@pytest.mark.parametrize(
    "given", ["01J8ZQ4V6T", "a.b-c_D9", "x" * 64, "5f0c7f0e-5d0c-4b7e-9d2f-1f2e3d4c5b6a"]
)
async def test_a_good_request_id_is_kept_and_echoed(given: str) -> None:
    app = Seen()
    response = await call_asgi(Kernel(app), headers=[("X-Request-ID", given)])
    assert app.only.request_id == response.header("x-request-id") == given


async def test_any_other_request_id_is_replaced() -> None:
    cases: list[str] = [
        "",
        "short",
        "x" * 65,
        "with space",
        "line\nbreak-1",
        "12345678\n",
        "<script>alert",
        "über-lang-id",
    ]
    with every() as case:
        for given in cases:
            with case(given):
                app = Seen()
                response = await call_asgi(Kernel(app), headers=[("X-Request-ID", given)])
                assert app.only.request_id == response.header("x-request-id") != given
                assert len(app.only.request_id) == 32


async def test_the_applications_headers_do_not_grow_and_its_own_id_does_not_stand_twice() -> None:
    app = Seen()
    app.headers.append((b"x-request-id", b"of-the-application"))
    for _ in range(3):
        response = await call_asgi(Kernel(app), headers=[("X-Request-ID", "of-the-caller")])
        assert response.headers == [(b"x-own", b"1"), (b"x-request-id", b"of-the-caller")]
    assert len(app.headers) == 2


async def test_what_the_server_left_in_the_task_is_not_trusted_and_is_put_back() -> None:
    stale = RequestContext("stale-id-of-another", 0.0)
    app, clock = Seen(), ManualClock(5)
    token = bind_request(stale)
    try:
        await call_asgi(Kernel(app, clock=clock), root_path="/pre")
        assert current_request() is stale
    finally:
        release_request(token)
    assert app.only is not stale
    assert (app.only.started, app.only.root_path) == (5, "/pre")


async def test_a_crash_leaves_no_context_behind() -> None:
    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("a crash")

    with pytest.raises(ValueError, match="a crash"):
        await call_asgi(Kernel(bare))
    assert current_request() is None


async def test_baggage_of_another_request_is_not_seen_and_is_put_back() -> None:
    found: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        found.append(dict(context.get_current()))

    token = context.attach(baggage.set_baggage("tenant", "another"))
    try:
        await call_asgi(WithTelemetry(app, [Tracing()]))
        assert found == [{}]
        assert baggage.get_baggage("tenant") == "another"
    finally:
        context.detach(token)


async def test_a_websocket_has_a_context_and_the_lifespan_passes_untouched() -> None:
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (
            ("postfacta.request" in scope)
            == (scope["type"] == "websocket")
            == (current_request() is not None)
        )
        await send({"type": f"{scope['type']}.something"})

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    scopes: list[Scope] = [{"type": "websocket", "path": "/", "headers": []}, {"type": "lifespan"}]
    for scope in scopes:
        await Kernel(app)(scope, receive, send)
    assert sent == [{"type": "websocket.something"}, {"type": "lifespan.something"}]


async def test_the_callers_trace_is_known_without_an_sdk() -> None:
    cases: dict[str, tuple[str, str]] = {
        "good": (f"00-{'a1' * 16}-{'b2' * 8}-01", "a1" * 16),
        "future": (f"cc-{'a1' * 16}-{'b2' * 8}-00-what-comes-later", "a1" * 16),
        "no trace": (f"00-{'0' * 32}-{'b2' * 8}-01", ""),
        "no parent": (f"00-{'a1' * 16}-{'0' * 16}-01", ""),
        "capitals": (f"00-{'A1' * 16}-{'b2' * 8}-01", ""),
        "short": ("00-a1-b2-01", ""),
        "long": ("x" * 8000, ""),
    }
    found: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = scope["postfacta.request"]
        found.extend([request.trace_id, request.span_id, request.trace_flags])
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    with every() as case:
        for name, (traceparent, trace_id) in cases.items():
            with case(name):
                found.clear()
                await call_asgi(Kernel(app), "GET", "/", headers=[("traceparent", traceparent)])
                assert found == [trace_id, "", ""]


@pytest.mark.parametrize(
    "given",
    [
        [],
        [("x-request-id", "\u00e9")],
        [("x-request-id", "0123456789abcdef"), ("x-request-id", "?")],
    ],
)
async def test_an_option_shows_the_id_in_the_headers_inside(given: list[tuple[str, str]]) -> None:
    seen: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend(value for name, value in scope["headers"] if name == b"x-request-id")
        await PlainTextResponse("ok")(scope, receive, send)

    hardened = harden(app, service="shop", options=HardenOptions(request_id_header=True))
    response = await call_asgi(hardened, headers=given)
    assert [value.decode() for value in seen] == [response.header("x-request-id")]


async def test_the_application_sees_the_headers_as_they_were_sent() -> None:
    cases: list[list[tuple[str, str]]] = [
        [],
        [("x-request-id", "?")],
        [("x-request-id", "0123456789abcdef"), ("a", "b")],
    ]
    seen: list[list[tuple[bytes, bytes]]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(list(scope["headers"]))
        await PlainTextResponse("ok")(scope, receive, send)

    with every() as case:
        for given in cases:
            with case(given):
                seen.clear()
                response = await call_asgi(harden(app, service="shop"), headers=given)
                sent = [(name.encode(), value.encode()) for name, value in given]
                assert seen == [sent]
                assert len(response.header("x-request-id") or "") >= 16
