"""The next service gets what the request has left, and is not called once nothing is left."""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import httpx2
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from postfacta_adapters.httpx import Outgoing
from postfacta_core.backoff import Backoff
from postfacta_core.clock import MONOTONIC, Clock
from postfacta_core.context import RequestContext, bind_request, release_request
from postfacta_core.deadlines.requests import RunningRequests
from postfacta_core.errors import (
    CircuitOpenError,
    DeadlineExceededError,
    FailedResponseError,
)
from postfacta_core.events import DeadlineExceeded, Event, HttpCallFinished, ListenerFailed
from postfacta_core.guards._circuit import CircuitConfig
from postfacta_core.guards._guard import Guard
from postfacta_core.guards.breaker import CircuitBreaker
from postfacta_core.guards.bulkhead import Bulkhead
from postfacta_core.guards.retry import Retry
from postfacta_core.guards.timeout import Timeout
from postfacta_core.limits._waiting import Priority
from postfacta_core.telemetry.tracing import Tracing
from postfacta_core.testing import ManualClock, RecordingObserver
from tests.kit.alone import WithDeadline
from tests.kit.behind import behind_uvicorn


@contextmanager
def request(
    left: float = 10.0, *, priority: int = 1, clock: Clock = MONOTONIC
) -> Generator[RequestContext]:
    context = RequestContext("request-id", clock(), clock)
    context.deadline = context.started + left
    context.priority = priority
    token = bind_request(context)
    try:
        yield context
    finally:
        release_request(token)


@asynccontextmanager
async def client_of(
    outgoing: Outgoing, *, connections: int | None = None, **options: Any
) -> AsyncGenerator[httpx2.AsyncClient]:
    limits = httpx2.Limits(max_connections=connections)
    transport = outgoing.transport(httpx2.AsyncHTTPTransport(limits=limits))
    async with httpx2.AsyncClient(transport=transport, **options) as client:
        yield client


def retry(attempts: int = 3) -> Retry:
    return Retry("billing", attempts=attempts, backoff=Backoff(base=0.001, cap=0.001))


class Sent(httpx2.AsyncBaseTransport):
    """Keeps what it is to send, and answers with what it is given in turn, the last one for ever."""

    def __init__(self, *answers: httpx2.Response | Exception) -> None:
        self.requests: list[httpx2.Request] = []
        self._answers = [*answers] or [httpx2.Response(200)]

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        await anyio.lowlevel.checkpoint()
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Body(httpx2.AsyncByteStream):
    """An empty body that knows whether it was closed."""

    is_closed = False

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        yield b""

    async def aclose(self) -> None:
        self.is_closed = True


class Service:
    """A real server that says what it was asked, or refuses, or asks itself once more."""

    def __init__(self) -> None:
        self.requests: list[dict[str, str]] = []
        self.url = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.requests.append(headers)
        status, more = 200, list[tuple[bytes, bytes]]()
        path = scope["path"]
        if path.startswith("/busy/"):
            _, _, code, *seconds = path.split("/")
            status, more = int(code), [(b"retry-after", each.encode()) for each in seconds]
        elif path == "/slow":
            await anyio.sleep(5)
        elif path.startswith("/hop/") and (left := int(path.removeprefix("/hop/"))):
            hop = Outgoing("next")
            async with client_of(hop) as client:
                await client.get(f"{self.url}/hop/{left - 1}")
        await send({"type": "http.response.start", "status": status, "headers": more})
        await send({"type": "http.response.body", "body": json.dumps(headers).encode()})


@pytest.fixture(scope="module")
def server() -> Generator[Service]:
    service = Service()
    app = WithDeadline(service, RunningRequests())
    with behind_uvicorn(app) as service.url:
        yield service


@pytest.fixture
def service(server: Service) -> Service:
    server.requests.clear()
    return server


async def test_the_next_service_gets_deadline_and_priority(service: Service) -> None:
    billing = Outgoing("billing", Timeout(5), priority_key="secret")
    with request(10, priority=Priority.SHEDDABLE_PLUS):
        async with client_of(billing) as client:
            response = await client.get(service.url)
    seen = response.json()
    assert 4.0 < float(seen["x-request-timeout"]) <= 0.95 * 5
    assert (seen["x-priority"], seen["x-priority-key"]) == ("sheddable_plus", "secret")
    assert "traceparent" not in seen


async def test_each_hop_has_strictly_less(service: Service) -> None:
    billing = Outgoing("billing")
    with request(10):
        async with client_of(billing) as client:
            await client.get(f"{service.url}/hop/3")
    left = [float(headers["x-request-timeout"]) for headers in service.requests]
    assert len(left) == 4
    assert left[0] <= 9.5
    assert all(after <= 0.95 * before for before, after in itertools.pairwise(left))


async def test_a_request_without_time_is_not_sent(service: Service) -> None:
    billing = Outgoing("billing")
    async with client_of(billing) as client:
        for left in (0.005, 0.0, -1.0):
            with request(left), pytest.raises(DeadlineExceededError) as caught:
                await client.get(service.url)
            assert caught.value.policy == "billing"
    assert service.requests == []


@pytest.mark.clock("0.2 s to connect on loopback")
async def test_a_call_waits_no_longer_than_is_left(service: Service) -> None:
    billing = Outgoing("billing")
    async with client_of(billing) as client:
        # The service heeds what it was told, and answers while there is time.
        with request(1.0), anyio.fail_after(3):
            assert (await client.get(f"{service.url}/slow")).status_code == 504
    async with client_of(Outgoing("billing", Timeout(0.2), tell=False)) as client:
        with anyio.fail_after(3), pytest.raises(DeadlineExceededError):
            await client.get(f"{service.url}/slow")


async def test_a_wait_that_is_shorter_stays_so(service: Service) -> None:
    sent = Sent()
    timeout = httpx2.Timeout(3.0, connect=0.5, read=None)
    async with httpx2.AsyncClient(
        transport=Outgoing("billing").transport(sent), timeout=timeout
    ) as client:
        with request(1.0):
            await client.get("http://billing")
        await client.get("http://billing")
    first, second = (each.extensions["timeout"] for each in sent.requests)
    assert first["connect"] == 0.5
    assert [0.8 < (first[wait] or 0) <= 1.0 for wait in ("read", "write", "pool")] == [True] * 3
    assert second == timeout.as_dict()


async def test_what_a_request_says_itself_stays_if_it_is_stricter(service: Service) -> None:
    billing = Outgoing("billing")
    parent = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
    async with client_of(billing) as client:
        with request(10):
            for said in ("0.5", "60", "nonsense"):
                await client.get(
                    service.url, headers={"X-Request-Timeout": said, "traceparent": parent}
                )
    told = [headers["x-request-timeout"] for headers in service.requests]
    assert told[0] == "0.5"
    assert all(9.0 < float(each) <= 9.5 for each in told[1:])
    assert {headers["traceparent"] for headers in service.requests} == {parent}


async def test_a_third_partys_service_gets_no_headers_but_is_bounded(service: Service) -> None:
    stranger = Outgoing("stranger", tell=False, priority_key="secret")
    async with client_of(stranger) as client:
        with request(10):
            await client.get(service.url)
        with request(0.3), anyio.fail_after(9), pytest.raises(DeadlineExceededError):
            await client.get(f"{service.url}/slow")
        with request(0.0), pytest.raises(DeadlineExceededError):
            await client.get(service.url)
    ours = {"x-request-timeout", "x-priority", "x-priority-key", "traceparent"}
    assert [set(headers) & ours for headers in service.requests] == [set(), set()]


async def test_outside_of_a_request_a_call_is_as_it_would_be_without(service: Service) -> None:
    billing = Outgoing("billing", priority_key="secret")
    async with client_of(billing) as client:
        assert (await client.get(service.url)).status_code == 200
    assert not {"x-request-timeout", "x-priority", "x-priority-key"} & set(service.requests[0])


async def test_a_call_belongs_to_the_present_spans_trace(service: Service) -> None:
    tracer = TracerProvider().get_tracer("test")
    span = tracer.start_span("call")
    with trace.use_span(span, end_on_exit=True):
        async with client_of(Outgoing("billing")) as client:
            await client.get(service.url)
    ids = span.get_span_context()
    assert service.requests[0]["traceparent"] == (
        f"00-{ids.trace_id:032x}-{ids.span_id:016x}-{ids.trace_flags:02x}"
    )


async def test_the_guards_see_an_error_where_the_caller_gets_the_response(service: Service) -> None:
    seen = list[Exception]()

    class Note(Guard):
        def _enter(self, function: object, args: object, kwargs: object) -> None:
            pass

        def _failed(self, ticket: object, error: Exception) -> Any:
            seen.append(error)
            return super()._failed(ticket, error)

    async with client_of(Outgoing("billing", Note("note"))) as client:
        for path in ("503/7", "429/7", "429", "200", "404", "500/8", "500", "503"):
            response = await client.get(f"{service.url}/busy/{path}")
            assert f"{response.status_code}" == path[:3]
            assert response.json()
    told = [
        (type(error), getattr(error, "policy", ""), getattr(error, "retry_after", 0))
        for error in seen
    ]
    assert told == [
        (FailedResponseError, "billing", wait) for wait in (7.0, 7.0, None, 8.0, None, None)
    ]


async def test_failed_responses_open_the_circuit(service: Service) -> None:
    breaker = CircuitBreaker("billing")
    billing = Outgoing("billing", breaker)
    statuses = list[int]()
    async with client_of(billing) as client:
        with pytest.raises(CircuitOpenError):
            for _ in range(50):
                statuses.append((await client.get(f"{service.url}/busy/500")).status_code)
    assert statuses == [500] * 20


@pytest.mark.parametrize(
    ("method", "path", "sent"),
    [
        ("GET", "502", 3),
        ("PUT", "502", 3),
        ("POST", "502", 1),
        ("PATCH", "502", 1),
        ("POST", "503", 1),
        ("POST", "503/0", 3),
        ("POST", "429", 3),
        ("GET", "501", 1),
    ],
)
async def test_what_may_have_been_done_is_sent_again_only_if_it_is_idempotent(
    service: Service, method: str, path: str, *, sent: int
) -> None:
    billing = Outgoing("billing", retry())
    async with client_of(billing, connections=1, timeout=5.0) as client:
        asked = client.build_request(method, f"{service.url}/busy/{path}", content=b"body")
        # A stream holds the only connection until it is closed: all but the last were.
        response = await client.send(asked, stream=True)
        assert (f"{response.status_code}", response.is_closed) == (path[:3], False)
        assert (await response.aread()).startswith(b"{")
    assert len(service.requests) == sent
    assert {headers["content-length"] for headers in service.requests} == {"4"}


async def test_a_body_that_can_be_read_once_is_sent_once(service: Service) -> None:
    async def body() -> AsyncGenerator[bytes]:
        yield b"body"

    async with client_of(Outgoing("billing", retry())) as client:
        for method in ("PUT", "POST"):
            response = await client.request(method, f"{service.url}/busy/503/0", content=body())
            assert response.status_code == 503
    assert len(service.requests) == 2


@pytest.mark.parametrize(
    ("method", "error", "sent"),
    [
        ("GET", httpx2.ReadError, 3),
        ("POST", httpx2.ReadError, 1),
        ("POST", httpx2.ConnectError, 3),
        ("POST", httpx2.ConnectTimeout, 3),
        ("GET", LookupError, 1),
    ],
)
async def test_after_an_error_of_the_transport_a_request_is_sent_again_if_that_is_safe(
    method: str, error: type[Exception], *, sent: int
) -> None:
    inner = Sent(error("lost"))
    async with httpx2.AsyncClient(
        transport=Outgoing("billing", retry()).transport(inner)
    ) as client:
        with pytest.raises(error, match="lost"):
            await client.request(method, "http://billing/")
    assert len(inner.requests) == sent


async def test_a_redirect_is_guarded_and_begins_with_what_its_caller_said() -> None:
    def answer(asked: httpx2.Request) -> httpx2.Response:
        seen.append(asked)
        return httpx2.Response(
            302 if asked.url.path == "/" else 200, headers={"location": "/there"}
        )

    seen = list[httpx2.Request]()
    bench = Traced()
    transport = bench.outgoing().transport(httpx2.MockTransport(answer))
    async with httpx2.AsyncClient(transport=transport, follow_redirects=True) as client:
        with bench.request():
            response = await client.get("http://billing/")
    spans = [span.get_span_context() for span in bench.exporter.get_finished_spans()]
    sent = [asked.headers["traceparent"].split("-")[2] for asked in seen]
    assert sent == [f"{each.span_id:016x}" for each in spans if each is not None]
    assert [call.status for call in bench.calls] == [302, 200]
    assert "traceparent" not in response.request.headers


async def test_a_slot_is_given_back_with_the_head(service: Service) -> None:
    slots = Bulkhead("billing", 1)
    async with (
        client_of(Outgoing("billing", slots)) as client,
        client.stream("GET", service.url) as response,
    ):
        assert slots.used == 0
        assert (await client.get(service.url)).status_code == 200
        assert (await response.aread()).startswith(b"{")


@pytest.mark.parametrize("status", [200, 500])
async def test_of_two_responses_at_once_one_is_closed(status: int) -> None:
    class Twice(Guard):
        """Tries twice at once, as a hedge does, and takes what ends last."""

        async def call(
            self, function: Callable[..., Awaitable[Any]], /, *args: Any, **kwargs: Any
        ) -> Any:
            ends: list[Any] = []

            async def once() -> None:
                try:
                    ends.append(await function(*args, **kwargs))
                except FailedResponseError as error:
                    ends.append(error)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(once)
                tasks.start_soon(once)
            if isinstance(ends[-1], Exception):
                raise ends[-1]
            return ends[-1]

    answers = [Body(), Body()]
    inner = Sent(*(httpx2.Response(status, stream=body) for body in answers))
    billing = Outgoing("billing", Twice("twice"))
    async with httpx2.AsyncClient(transport=billing.transport(inner)) as client:
        async with client.stream("GET", "http://billing/") as response:
            assert response.status_code == status
            assert sum(body.is_closed for body in answers) == 1
        assert all(body.is_closed for body in answers)


def test_a_sync_client_is_guarded_by_what_guards_plain_calls(service: Service) -> None:
    breaker = CircuitBreaker("billing", config=CircuitConfig(minimum_number_of_calls=2))
    billing = Outgoing("billing", breaker, observer=(seen := RecordingObserver()))
    with httpx2.Client(transport=billing.transport(httpx2.HTTPTransport())) as client, request(10):
        assert client.get(service.url).json()["x-request-id"] == "request-id"
        with client.stream("GET", f"{service.url}/busy/500") as response:
            assert response.status_code == 500
            assert response.read().startswith(b"{")
        with pytest.raises(CircuitOpenError):
            client.get(service.url)
    assert [call.status for call in seen.of(HttpCallFinished)] == [200, 500]
    unguarded = Outgoing("billing").transport(httpx2.HTTPTransport())
    with (
        request(0.0),
        httpx2.Client(transport=unguarded) as client,
        pytest.raises(DeadlineExceededError),
    ):
        client.get(service.url)


def test_a_sync_request_is_sent_again_as_an_async_one_is(service: Service) -> None:
    slots = Bulkhead("billing", 1)
    billing = Outgoing("billing", retry(), CircuitBreaker("billing"), slots)
    limits = httpx2.Limits(max_connections=1)
    with httpx2.Client(transport=billing.transport(httpx2.HTTPTransport(limits=limits))) as client:
        with client.stream("POST", f"{service.url}/busy/503/0") as response:
            assert (response.status_code, slots.used) == (503, 0)
            assert response.read().startswith(b"{")
        assert client.post(f"{service.url}/busy/500").status_code == 500
        assert client.post(service.url, content=iter([b"body"])).status_code == 200
    assert len(service.requests) == 5


def test_what_cannot_be_wrapped_is_refused() -> None:
    with pytest.raises(TypeError, match="needs a transport"):
        Outgoing("billing").transport(httpx2.AsyncClient())
    with pytest.raises(TypeError, match="needs guards of plain functions"):
        Outgoing("billing", Timeout(2)).transport(httpx2.HTTPTransport())


async def test_httpx_is_served_as_httpx2_is(service: Service) -> None:
    billing = Outgoing("billing", retry())
    async with httpx.AsyncClient(transport=billing.transport(httpx.AsyncHTTPTransport())) as client:
        assert (await client.get(f"{service.url}/busy/503/0")).status_code == 503
    assert len(service.requests) == 3


def test_a_sync_httpx_is_served_as_httpx2_is(service: Service) -> None:
    transport = Outgoing("billing").transport(httpx.HTTPTransport())
    with httpx.Client(transport=transport) as client, request(10):
        assert client.get(service.url).json()["x-priority"] == "critical"


async def test_a_failed_response_is_closed_if_the_call_ends_otherwise() -> None:
    breaker = CircuitBreaker("billing", config=CircuitConfig(minimum_number_of_calls=1))
    billing = Outgoing("billing", retry(attempts=2), breaker)
    inner = Sent(httpx2.Response(500, stream=(body := Body())))
    async with httpx2.AsyncClient(transport=billing.transport(inner)) as client:
        with pytest.raises(CircuitOpenError):
            await client.get("http://billing/")
    assert body.is_closed


async def test_the_caller_may_say_which_responses_are_failures(service: Service) -> None:
    breaker = CircuitBreaker("billing", config=CircuitConfig(minimum_number_of_calls=2))
    billing = Outgoing("billing", breaker, is_failure=lambda response: response.status_code == 404)
    async with client_of(billing) as client:
        await client.get(f"{service.url}/busy/500")
        await client.get(f"{service.url}/busy/404")
    assert breaker.statistics().state == "open"


async def test_a_predicate_that_raises_is_reported_and_the_default_decides(
    service: Service,
) -> None:
    observer = RecordingObserver()
    breaker = CircuitBreaker("billing", config=CircuitConfig(minimum_number_of_calls=1))
    billing = Outgoing(
        "billing", breaker, is_failure=lambda response: response.lost, observer=observer
    )
    async with client_of(billing) as client:
        await client.get(service.url)
        assert breaker.statistics().state == "closed"
        await client.get(f"{service.url}/busy/500")
    assert breaker.statistics().state == "open"
    assert [event.policy for event in observer.events if isinstance(event, ListenerFailed)] == [
        "billing"
    ] * 2


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_a_wait_that_the_deadline_ended_is_the_deadlines_error(library: Any) -> None:
    clock = ManualClock()

    def silent(request: Any) -> Any:
        clock.advance(4)
        raise library.ReadTimeout("nothing came", request=request)

    transport = Outgoing("billing").transport(library.MockTransport(silent))
    with library.Client(base_url="http://billing", transport=transport) as client:
        with request(5, clock=clock), pytest.raises(library.ReadTimeout):
            client.get("/")
        with request(3, clock=clock), pytest.raises(DeadlineExceededError) as caught:
            client.get("/")
    assert caught.value.policy == "billing"
    assert isinstance(caught.value.__cause__, library.ReadTimeout)


async def test_a_wait_of_an_async_client_ends_with_the_deadlines_error() -> None:
    clock = ManualClock()

    def silent(request: Any) -> Any:
        clock.advance(4)
        raise httpx2.ReadTimeout("nothing came", request=request)

    transport = Outgoing("billing").transport(httpx2.MockTransport(silent))
    async with httpx2.AsyncClient(base_url="http://billing", transport=transport) as client:
        with request(3, clock=clock), pytest.raises(DeadlineExceededError):
            await client.get("/")
        with pytest.raises(httpx2.ReadTimeout):
            await client.get("/")


class Traced:
    """A provider that keeps its spans, and a request's span to make calls in."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.told: list[Event] = []

    def outgoing(self, *guards: Guard, **options: Any) -> Outgoing:
        spans = Tracing(self.provider)
        return Outgoing("billing", *guards, observer=self.told.append, spans=spans, **options)

    @contextmanager
    def request(self) -> Generator[str]:
        span = self.provider.get_tracer("test").start_span("request")
        with trace.use_span(span):
            yield f"{span.get_span_context().trace_id:032x}"

    @property
    def calls(self) -> list[HttpCallFinished]:
        return [event for event in self.told if isinstance(event, HttpCallFinished)]

    def attributes(self, name: str) -> list[Any]:
        return [(span.attributes or {}).get(name) for span in self.exporter.get_finished_spans()]


async def test_each_try_is_a_span_whose_id_the_service_gets(service: Service) -> None:
    bench = Traced()
    billing = bench.outgoing(retry())
    async with client_of(billing) as client:
        with bench.request() as trace_id:
            await client.get(f"{service.url}/busy/503/0?token=hunter2")
    spans = bench.exporter.get_finished_spans()
    assert [span.name for span in spans] == ["GET"] * 3
    assert bench.attributes("http.request.resend_count") == [None, 1, 2]
    assert bench.attributes("error.type") == ["503"] * 3
    assert bench.attributes("url.full") == [f"{service.url}/busy/503/0"] * 3
    sent = [headers["traceparent"].split("-")[1:3] for headers in service.requests]
    ids = [span.get_span_context() for span in spans]
    assert sent == [[trace_id, f"{each.span_id:016x}"] for each in ids if each is not None]
    port = int(service.url.rpartition(":")[2])
    told = [
        (call.service, call.method, call.address, call.port, call.status) for call in bench.calls
    ]
    assert told == [("billing", "GET", "127.0.0.1", port, 503)] * 3
    assert all(call.seconds > 0 for call in bench.calls)


async def test_a_failed_call_is_reported_by_class_or_as_cancelled(
    service: Service,
) -> None:
    bench = Traced()
    billing = bench.outgoing()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = listener.getsockname()[1]
    async with client_of(billing) as client:
        with bench.request(), pytest.raises(httpx2.ConnectError):
            await client.post(f"http://127.0.0.1:{closed}/x")
        with bench.request(), anyio.move_on_after(0.2):
            await client.get(f"{service.url}/slow")
    told = [(call.method, call.address, call.status, call.error_type) for call in bench.calls]
    assert told == [
        ("POST", "127.0.0.1", 0, "ConnectError"),
        ("GET", "127.0.0.1", 0, "cancelled"),
    ]
    assert bench.attributes("error.type") == ["ConnectError", "cancelled"]


async def test_a_call_without_time_is_not_counted_as_one(service: Service) -> None:
    bench = Traced()
    billing = bench.outgoing()
    async with client_of(billing) as client:
        with request(0.0), bench.request(), pytest.raises(DeadlineExceededError):
            await client.get(service.url)
        with request(0.0), pytest.raises(DeadlineExceededError):
            await client.get(service.url)
    assert bench.told == [DeadlineExceeded("client")] * 2
    assert bench.attributes("error.type") == ["deadline_exceeded"]


@pytest.mark.parametrize(
    ("url", "address", "port", "shown"),
    [
        ("https://billing.example/i/7?x=1", "billing.example", 443, "https://billing.example/i/7"),
        ("http://app:hunter2@billing.example/", "billing.example", 80, "http://billing.example/"),
        ("http://[::1]:8080/i", "::1", 8080, "http://[::1]:8080/i"),
    ],
)
async def test_an_address_is_reported_without_possible_secrets(
    url: str, address: str, *, port: int, shown: str
) -> None:
    bench = Traced()
    async with httpx2.AsyncClient(transport=bench.outgoing().transport(Sent())) as client:
        with bench.request():
            await client.get(url)
    (call,) = bench.calls
    assert (call.address, call.port) == (address, port)
    assert bench.attributes("url.full") == [shown]


async def test_the_path_of_a_third_party_is_not_reported(service: Service) -> None:
    # Of a chat's webhook, the path is the secret.
    bench = Traced()
    async with client_of(bench.outgoing(tell=False)) as client:
        with bench.request():
            await client.get(f"{service.url}/services/T0/B0/s3cret")
    assert bench.attributes("url.full") == [f"{service.url}/"]
