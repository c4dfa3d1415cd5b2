"""What a watched client sends reaches the application to the byte."""

from __future__ import annotations

import math
import time

import anyio
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from postfacta_core.asgi import HardenOptions
from postfacta_core.asgi._types import ASGIApp, Message, Receive, Scope, Send
from postfacta_core.errors import DeadlineExceededError
from tests.core.asgi.exchanges import (
    DISCONNECT,
    SCOPE,
    START,
    Wire,
    body,
    exchange_on,
    make,
    part,
)
from tests.kit.alone import WithHeaders
from tests.kit.garbage import garbage


@pytest.mark.parametrize(
    ("messages", "deadline"),
    [
        ([], 1030),
        ([body(b"all", more=False)], math.inf),
        ([body(b"1", more=True)], 1060),
        ([body(b"1", more=True), body(b"2", more=True)], 1060),
        ([body(b"1", more=True), body(b"", more=False)], math.inf),
        ([{"type": "http.response.pathsend", "path": "/x"}], math.inf),
    ],
)
async def test_a_stream_has_its_own_limit_and_what_comes_after_the_response_has_none(
    messages: list[Message], deadline: float
) -> None:
    exchange = exchange_on(Wire(), stream_timeout=60.0)
    await exchange.send(START)
    for message in messages:
        await exchange.send(message)
    assert exchange.request.deadline == deadline


async def test_what_the_caller_asked_for_counts_for_a_stream_and_a_limit_set_in_it_stays() -> None:
    exchange = exchange_on(Wire(), stream_timeout=60.0)
    exchange.request.caller_timeout = 5.0
    await exchange.send(START)
    await exchange.send(body(b"1", more=True))
    assert exchange.request.deadline == 1005
    exchange.request.deadline = 1003.0
    await exchange.send(body(b"2", more=True))
    assert exchange.request.deadline == 1003


async def test_one_that_was_cancelled_gets_no_more_time() -> None:
    exchange = exchange_on(Wire())
    exchange.cancel(DeadlineExceededError("request"))
    await exchange.send(START)
    await exchange.send(body(b"1", more=True))
    assert exchange.request.deadline == 1030


async def test_a_client_that_leaves_cancels_its_handler() -> None:
    wire = Wire(part(b"", more=False))
    exchange = exchange_on(wire, cancels=True)
    receive = exchange.receive
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(exchange.watch)
            assert await receive() == part(b"", more=False)
            await anyio.sleep(0.01)
            assert not exchange.is_cancelled
            wire.arrive(DISCONNECT)
        assert exchange.is_cancelled
        assert exchange.reason is None
        # The application may ask, too.
        assert await receive() == DISCONNECT


async def test_one_that_leaves_after_its_response_cancels_nothing() -> None:
    wire = Wire()
    exchange = exchange_on(wire, cancels=True)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(exchange.watch)
            await anyio.sleep(0.01)
            await exchange.send(START)
            await exchange.send(body(b"done", more=False))
            wire.arrive(DISCONNECT)
    assert not exchange.is_cancelled


async def test_no_more_of_a_body_is_read_ahead_than_one_piece() -> None:
    wire = Wire(*(part(b"x", more=True) for _ in range(5)))
    exchange = exchange_on(wire, cancels=True)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(exchange.watch)
            await anyio.sleep(0.25)
            assert len(wire.coming) == 4
            exchange.end()


async def test_an_application_in_its_own_receive_is_not_disturbed() -> None:
    wire = Wire()
    exchange = exchange_on(wire, cancels=True)
    receive = exchange.receive
    got: list[Message] = []

    async def read() -> None:
        got.append(await receive())

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await anyio.sleep(0.01)
            tasks.start_soon(exchange.watch)
            await anyio.sleep(0.05)
            wire.arrive(part(b"for the application", more=False))
            await anyio.sleep(0.05)
            assert got == [part(b"for the application", more=False)]
            exchange.end()


async def test_a_look_at_the_client_that_does_not_wait_loses_nothing() -> None:
    wire = Wire(part(b"", more=False))
    exchange = exchange_on(wire, cancels=True)
    receive = exchange.receive
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(exchange.watch)
            await receive()
            for _ in range(3):
                # As Starlette's `is_disconnected` does it.
                with anyio.CancelScope() as at_once:
                    at_once.cancel()
                    await receive()
                await anyio.sleep(0.01)
            wire.arrive(DISCONNECT)
        assert exchange.is_cancelled


@pytest.mark.clock("0.07 s: it has slept 0.02 of 0.1 s")
@pytest.mark.parametrize("reading", [False, True])
async def test_the_watcher_ends_with_the_request(reading: bool) -> None:  # noqa: FBT001 - a table
    wire = Wire(*([] if reading else [part(b"x", more=True)]))
    exchange = exchange_on(wire, cancels=True)
    began = 0.0
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(exchange.watch)
            await anyio.sleep(0.02)
            began = time.monotonic()
            exchange.end()
        assert time.monotonic() - began < 0.09


async def test_one_that_ended_before_it_was_watched_never_is() -> None:
    exchange = exchange_on(Wire())
    exchange.end()
    # The sweep had already sent for the watcher.
    with anyio.fail_after(5):
        await exchange.watch()


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    pieces=st.lists(st.binary(max_size=8), min_size=1, max_size=8),
    pauses=st.lists(st.sampled_from([0, 1, 2, 5]), min_size=9, max_size=9),
    watch_at=st.integers(min_value=0, max_value=8),
)
async def test_a_body_is_the_same_to_the_byte_wherever_the_watching_begins(
    pieces: list[bytes], pauses: list[int], watch_at: int
) -> None:
    wire = Wire()
    exchange = exchange_on(wire, cancels=True)
    receive = exchange.receive
    got: list[bytes] = []

    async def client() -> None:
        for number, piece in enumerate(pieces):
            for _ in range(pauses[-1 - number]):
                await anyio.lowlevel.checkpoint()
            wire.arrive(part(piece, more=number + 1 < len(pieces)))

    async def application() -> None:
        more = True
        while more:
            for _ in range(pauses[len(got)]):
                await anyio.lowlevel.checkpoint()
            message = await receive()
            got.append(message["body"])
            more = message["more_body"]

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client)
            for _ in range(watch_at):
                await anyio.lowlevel.checkpoint()
            async with anyio.create_task_group() as reading:
                tasks.start_soon(exchange.watch)
                reading.start_soon(application)
            exchange.end()
    assert got == pieces


async def test_one_that_is_only_counted_is_watched_once_it_has_its_body_and_does_not_read() -> None:
    wire = Wire(part(b"a", more=True), part(b"b", more=False))
    exchange = make({**SCOPE, "headers": [(b"content-length", b"2")]}, wire.receive, wire.send)
    seen = [exchange.may_watch()]
    for _ in range(2):
        await exchange.receive()
        seen.append(exchange.may_watch())
    assert seen == [False, False, True]
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(exchange.receive)
            await anyio.sleep(0.02)
            assert not exchange.may_watch()
            # It began to read as the watcher was on its way: the watcher leaves it to the sweep to
            # come back.
            exchange.is_watched = False
            await exchange.watch()
            assert exchange.is_watched
            wire.arrive(DISCONNECT)


async def test_one_that_is_only_counted_goes_on_when_its_client_leaves() -> None:
    wire = Wire(DISCONNECT)
    exchange = exchange_on(wire)
    with anyio.fail_after(5):
        await exchange.watch()
    assert not exchange.is_cancelled
    assert await exchange.receive() == DISCONNECT


async def test_what_a_server_says_as_the_last_byte_goes_out_is_no_leaving() -> None:
    wire, seen = Wire(), list[str]()

    async def receive() -> Message:
        message = await wire.receive()
        seen.append(message["type"])
        return message

    async def send(message: Message) -> None:
        wire.arrive(DISCONNECT)
        await anyio.sleep(0.02)

    exchange = make(SCOPE, receive, send)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(exchange.watch)
            await anyio.sleep(0.02)
            await exchange.send({"type": "http.response.body", "body": b"done"})
            exchange.end()
    assert seen == []


async def test_a_server_that_gives_bodies_for_ever_is_not_watched() -> None:
    async def receive() -> Message:
        return part(b"", more=False)

    exchange = make(SCOPE, receive, Wire().send)
    await exchange.watch()
    assert await exchange.receive() == part(b"", more=False)


async def _read_nothing(message: Message) -> None:
    """Take it."""


class Holding:
    """Keeps the start back until there is a body, as compression does."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        held: list[Message] = []

        async def hold(message: Message) -> None:
            held.append(message)
            if message["type"] == "http.response.body":
                for each in held:
                    await send(each)

        await self.app(scope, receive, hold)


async def test_it_leaves_nothing_for_the_cyclic_collector() -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": b"1"})

    app = WithHeaders(answer, HardenOptions(response_headers=[("x-two", "2")]), answers=True)
    scope: Scope = {"type": "http", "method": "GET", "path": "/", "headers": []}

    async def once() -> None:
        await app(dict(scope), None, _read_nothing)  # type: ignore[arg-type] # it is not called

    assert await garbage(once) == 0
