"""A caller is answered in time whatever the handler does, and once."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from postfacta_core.asgi import HardenOptions
from postfacta_core.asgi._types import Message, Receive, Scope, Send
from postfacta_core.deadlines.present import current_deadline
from postfacta_core.deadlines.requests import RunningRequests, time_limit
from postfacta_core.events import RequestsOverdue
from postfacta_core.testing import ManualClock, call_asgi
from postfacta_core.testing.asgi import AsgiResponse
from tests.core.asgi.deadlines import LATE, Log, Service, asgi, sleeping
from tests.core.virtual import on_real_loops
from tests.kit.alone import WithDeadline
from tests.kit.garbage import garbage
from tests.kit.waiting import until


@pytest.mark.clock("0.4 s")
async def test_the_answer_is_504_in_time_and_the_handler_has_ended_before_it_returns() -> None:
    log = Log()
    service = Service(sleeping(log), request_timeout=0.1)
    async with service.running_now():
        began = anyio.current_time()
        response = await service.get("/")
        assert 0.1 <= anyio.current_time() - began < 0.1 + LATE
    assert log == ["began", "ended"]
    assert response.status == 504
    assert response.json()["code"] == "deadline-exceeded"
    assert response.json()["request_id"] == response.header("x-request-id")
    assert service.stages == ["handler"]


@pytest.mark.parametrize(
    ("header", "limit", "takes"),
    [
        (("x-request-timeout", "0.05"), 0.6, 0.05),
        (("x-request-timeout", "30"), 0.1, 0.1),
        (("x-request-timeout", "nonsense"), 0.1, 0.1),
        (("x-request-timeout", "0.05"), None, 0.05),
    ],
)
async def test_a_caller_may_shorten_the_limit_and_never_lengthen_it(
    header: tuple[str, str], limit: float | None, takes: float
) -> None:
    service = Service(sleeping(Log()), request_timeout=limit)
    async with service.running_now():
        began = anyio.current_time()
        assert (await service.get("/", headers=[header])).status == 504
        assert takes <= round(anyio.current_time() - began, 6) < takes + LATE


@on_real_loops  # A nanosecond passes by itself there alone.
@pytest.mark.parametrize(
    "header", [("x-request-timeout", "0"), ("x-request-timeout", "0.000000001")]
)
async def test_a_request_without_time_never_reaches_its_handler(header: tuple[str, str]) -> None:
    log = Log()
    service = Service(sleeping(log))
    async with service.running_now():
        response = await service.get("/", headers=[header])
    assert (response.status, log, service.stages) == (504, [], ["caller"])
    assert response.scope["postfacta.request"].route == "_prerouting"


async def test_the_limit_may_be_any_number_or_none() -> None:
    async def tell(request: Request) -> Response:
        deadline = current_deadline()
        return PlainTextResponse("none" if deadline is None else f"{deadline.remaining():.0f}")

    service = Service(asgi(tell), request_timeout=None)
    async with service.running_now():
        assert (await service.get("/")).body == b"none"
    service = Service(asgi(tell), request_timeout=7.0)
    async with service.running_now():
        assert (await service.get("/")).body == b"7"
        assert (await service.get("/", headers=[("x-request-timeout", "3")])).body == b"3"


@on_real_loops
async def test_a_handler_gives_itself_less_or_more_time_async_or_in_a_thread() -> None:
    @time_limit(0.05)
    async def short(request: Request) -> Response:
        await anyio.sleep(20)
        raise AssertionError

    @time_limit(20)
    async def longer(request: Request) -> Response:
        await anyio.sleep(0.4)
        return PlainTextResponse("longer")

    gate = threading.Event()

    @time_limit(0.05)
    def short_sync(request: Request) -> Response:
        gate.wait(20)
        return PlainTextResponse("late")

    @time_limit(20)
    def longer_sync(request: Request) -> Response:
        time.sleep(0.4)  # noqa: TID251 - that is what threads are for
        return PlainTextResponse("longer")

    routes = [Route(f"/{f.__name__}", f) for f in (short, longer, short_sync, longer_sync)]
    service = Service(Starlette(routes=routes), request_timeout=0.2)

    async def release() -> None:
        await anyio.sleep(0.3)
        gate.set()

    async with service.running_now(), anyio.create_task_group() as tasks:
        tasks.start_soon(release)
        assert [(await service.get(f"/{name}")).status for name in ("short", "short_sync")] == [
            504,
            504,
        ]
        assert [(await service.get(f"/{name}")).status for name in ("longer", "longer_sync")] == [
            200,
            200,
        ]


class Crew:
    """Threads at work until they are let go; it knows how many there are, and were at most."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.now = 0
        self.most = 0
        self._lock = threading.Lock()

    def work(self, request: Request) -> Response:
        self._step(1)
        self.gate.wait(20)
        self._step(-1)
        return PlainTextResponse("late")

    def _step(self, by: int) -> None:
        with self._lock:
            self.now += by
            self.most = max(self.most, self.now)


async def seconds_until_504(service: Service, times: list[float]) -> None:
    began = anyio.current_time()
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)
        if message["type"] == "http.response.body":
            times.append(anyio.current_time() - began)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope: Scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "root_path": "",
        "query_string": b"",
        "headers": [],
    }
    await service.app(scope, receive, send)
    assert [message.get("status") for message in messages] == [504, None]


@on_real_loops
async def test_threads_past_their_deadline_are_answered_for_counted_and_bounded() -> None:
    crew, times = Crew(), list[float]()
    service = Service(Starlette(routes=[Route("/", crew.work)]), request_timeout=0.3)
    async with service.running_now(), anyio.create_task_group() as tasks:
        for _ in range(60):
            tasks.start_soon(seconds_until_504, service, times)
        await until(lambda: len(times) == 60)
        assert max(times) < 0.3 + 3 * LATE
        # Those that waited for a thread were cancelled; those in one go on, and are counted.
        assert (crew.most, len(service.running)) == (40, 40)
        assert service.observer.of(RequestsOverdue)[-1].count == 40
        crew.gate.set()
    assert service.observer.of(RequestsOverdue)[-1].count == 0
    assert (crew.most, crew.now) == (40, 0)


@pytest.mark.parametrize(
    ("options", "headers", "whole"),
    [
        ({}, [], True),
        ({"stream_timeout": 0.25}, [], False),
        ({}, [("x-request-timeout", "0.25")], False),
        ({"stream_timeout": 20}, [], True),
    ],
)
async def test_a_stream_is_exempt_once_it_has_begun_unless_it_has_a_limit(
    options: dict[str, Any],
    headers: list[tuple[str, str]],
    whole: bool,  # noqa: FBT001 - a table
) -> None:
    log = Log()

    async def pieces() -> AsyncGenerator[bytes]:
        try:
            for _ in range(4):
                yield b"piece "
                await anyio.sleep(0.12)
        finally:
            log.append("ended")

    async def handler(request: Request) -> Response:
        return StreamingResponse(pieces())

    service = Service(asgi(handler), request_timeout=0.2, **options)
    async with service.running_now():
        response = await service.get("/", headers=headers)
    assert response.status == 200
    assert (response.body == b"piece " * 4) is whole
    assert response.messages[-1].get("more_body", False) is not whole
    assert log == ["ended"]
    assert service.stages == ([] if whole else ["caller" if headers else "handler"])


async def test_a_stream_that_does_not_begin_in_time_is_a_504() -> None:
    async def pieces() -> AsyncGenerator[bytes]:
        await anyio.sleep(20)
        yield b"late"

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async for piece in pieces():
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": piece})

    service = Service(app, request_timeout=0.1)
    async with service.running_now():
        assert (await service.get("/")).status == 504


async def test_what_runs_after_the_response_is_not_cancelled_by_the_deadline() -> None:
    log = Log()

    async def later() -> None:
        await anyio.sleep(0.3)
        log.append("done")

    async def handler(request: Request) -> Response:
        return PlainTextResponse("ok", background=BackgroundTask(later))

    service = Service(asgi(handler), request_timeout=0.1)
    async with service.running_now():
        assert (await service.get("/", headers=[("x-request-timeout", "0.1")])).status == 200
    assert (log, service.stages) == (["done"], [])


@on_real_loops
async def test_an_application_that_swallows_its_cancellation_is_answered_for_once() -> None:
    gate = anyio.Event()

    async def stubborn(request: Request) -> Response:
        while not gate.is_set():
            try:
                await gate.wait()
            except BaseException:  # noqa: BLE001, S112 - that is the fault to show
                continue
        return PlainTextResponse("late")

    service = Service(asgi(stubborn), request_timeout=0.05)
    answers: list[AsgiResponse] = []

    async def ask() -> None:
        answers.append(await service.get("/"))

    async with service.running_now(), anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await until(lambda: bool(service.observer.of(RequestsOverdue)))
        await anyio.sleep(0.05)
        gate.set()
    (response,) = answers
    assert [message["type"] for message in response.messages] == [
        "http.response.start",
        "http.response.body",
    ]
    assert response.status == 504


async def test_an_application_that_raises_as_it_is_cancelled_crashes_but_its_caller_gets_the_504() -> (
    None
):
    async def fragile(request: Request) -> Response:
        try:
            await anyio.sleep(20)
        finally:
            raise LookupError("in reaction")

    service = Service(asgi(fragile), request_timeout=0.05)
    async with service.running_now():
        response = await service.get("/", raise_errors=False)
    assert response.status == 504
    assert isinstance(response.error, LookupError)


async def test_an_application_that_answers_as_it_is_cancelled_has_answered() -> None:
    async def quick(request: Request) -> Response:
        try:
            await anyio.sleep(20)
        except BaseException:  # noqa: BLE001 - that is what this one does
            return PlainTextResponse("partial result")
        raise AssertionError

    service = Service(asgi(quick), request_timeout=0.05)
    async with service.running_now():
        response = await service.get("/")
    # On trio a cancelled scope lets nothing be awaited, so the answer cannot be sent there.
    assert response.status in {200, 504}
    assert len([m for m in response.messages if m["type"] == "http.response.start"]) == 1


async def test_a_shielded_part_of_a_handler_is_finished() -> None:
    log = Log()

    async def handler(request: Request) -> Response:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.3)
            log.append("committed")
        await anyio.sleep(20)
        raise AssertionError

    service = Service(asgi(handler), request_timeout=0.05)
    async with service.running_now():
        assert (await service.get("/")).status == 504
    assert log == ["committed"]


async def test_an_error_of_the_application_in_time_is_its_own() -> None:
    async def crash(request: Request) -> Response:
        raise LookupError("own")

    service = Service(asgi(crash))
    async with service.running_now():
        response = await service.get("/", raise_errors=False)
    assert (response.status, service.stages) == (500, [])


@pytest.mark.parametrize(("declared", "is_cut"), [(True, True), (False, False)])
async def test_a_response_whose_first_piece_is_all_of_it_is_no_stream(
    *, declared: bool, is_cut: bool
) -> None:
    """Behind BaseHTTPMiddleware each response is in pieces.

    One that is whole keeps the request's limit.
    """

    async def half(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"Content-Length", b"2")] if declared else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}", "more_body": True})
        await anyio.sleep(0.4)
        await send({"type": "http.response.body", "body": b""})

    service = Service(half, request_timeout=0.1)
    async with service.running_now():
        response = await service.get("/")
    assert service.stages == (["handler"] if is_cut else [])
    assert response.body == b"{}"


@pytest.mark.clock("0.4 s")
async def test_without_a_lifespan_the_limit_holds_all_the_same() -> None:
    log = Log()
    service = Service(sleeping(log), request_timeout=0.1)
    began = anyio.current_time()
    assert (await service.get("/")).status == 504
    assert 0.1 <= anyio.current_time() - began < 0.1 + LATE
    assert (log, service.stages) == (["began", "ended"], ["handler"])
    assert (await service.get("/", headers=[("x-request-timeout", "0.02")])).status == 504

    async def pieces() -> AsyncGenerator[bytes]:
        for _ in range(3):
            yield b"piece "
            await anyio.sleep(0.08)

    async def handler(request: Request) -> Response:
        return StreamingResponse(pieces())

    assert (await Service(asgi(handler), request_timeout=0.1).get("/")).body == b"piece " * 3


async def test_around_nothing_it_makes_its_own_context_and_lets_a_lifespan_pass() -> None:
    seen: list[float | str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        deadline = current_deadline()
        seen.append(deadline.at if deadline else scope["type"])
        if scope["type"] == "http":
            await PlainTextResponse("ok")(scope, receive, send)

    clock = ManualClock()
    alone = WithDeadline(app, RunningRequests(clock=clock), HardenOptions(request_timeout=7))
    assert (await call_asgi(alone)).status == 200
    await call_asgi(alone, scope={"type": "lifespan"})
    assert seen == [1007, "lifespan"]
    assert current_deadline() is None


async def test_nothing_is_left_behind() -> None:
    service = Service(sleeping(Log()), request_timeout=0.3, cancel_on_disconnect=True)
    before = len(anyio.get_running_tasks())
    async with service.running_now():
        with_sweep = len(anyio.get_running_tasks())
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(service.get, "/")
        await until(lambda: len(anyio.get_running_tasks()) == with_sweep)
        assert len(service.running) == 0
    assert len(anyio.get_running_tasks()) == before


@pytest.mark.parametrize("options", [{}, {"cancel_on_disconnect": True}, {"stream_timeout": 5.0}])
async def test_a_request_leaves_nothing_for_the_cyclic_collector(options: dict[str, Any]) -> None:
    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await PlainTextResponse("ok")(scope, receive, send)

    service = Service(bare, **options)
    async with service.running_now():
        # A layer that made a circle would leave some objects each time.
        assert await garbage(partial(call_asgi, service.app)) < 20


async def test_a_watched_or_cancelled_request_leaves_little_for_the_cyclic_collector() -> None:
    service = Service(sleeping(Log()), request_timeout=0.3, cancel_on_disconnect=True)

    async def many(times: int) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(times):
                tasks.start_soon(service.get, "/")

    async with service.running_now():
        few, more = [await garbage(partial(many, times), 1) for times in (1, 41)]
        assert (more - few) / 40 < 60
