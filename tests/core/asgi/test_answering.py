"""An answer in its application's place is sent once, and only where it can be understood."""

from __future__ import annotations

import anyio

from postfacta_core.asgi._kernel import Kernel
from postfacta_core.context import RequestContext
from postfacta_core.errors import DeadlineExceededError, StoppedError
from postfacta_core.events import ListenerFailed
from postfacta_core.telemetry.exchange import Exchange
from postfacta_core.testing import RecordingObserver
from tests.core.asgi.exchanges import START, Wire, body, exchange_on, nothing


async def test_an_unanswered_caller_gets_the_problem_and_nothing_after_it() -> None:
    wire = Wire()
    exchange = exchange_on(wire)
    exchange.cancel(DeadlineExceededError("request"))
    await exchange.answer()
    await exchange.send(START)
    await exchange.send(body(b"late", more=False))
    await exchange.answer()
    assert [message.get("status") for message in wire.sent] == [504, None]
    assert exchange.request.error_type == "deadline_exceeded"


async def test_a_reason_that_was_noted_before_stays() -> None:
    exchange = exchange_on(Wire())
    exchange.request.error_type = "pool_timeout"
    exchange.cancel(DeadlineExceededError("request"))
    await exchange.answer()
    assert exchange.request.error_type == "pool_timeout"


async def test_who_comes_second_to_answer_waits_until_the_server_has_it_all() -> None:
    wire = Wire()
    exchange = exchange_on(wire)
    exchange.cancel(DeadlineExceededError("request"))
    wire.pause = 0.03
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(exchange.answer)
        await anyio.sleep(0.01)
        await exchange.answer()
        assert len(wire.sent) == 2


async def test_a_complete_response_is_not_added_to() -> None:
    wire = Wire()
    exchange = exchange_on(wire)
    await exchange.send(START)
    await exchange.send(body(b"done", more=False))
    exchange.cancel(DeadlineExceededError("request"))
    await exchange.answer()
    assert wire.bodies == [b"done"]


async def test_nothing_is_sent_without_a_cancellation_or_a_client() -> None:
    wire = Wire()
    exchange = exchange_on(wire)
    await exchange.answer()
    exchange.cancel(None)
    await exchange.answer()
    assert wire.sent == []


async def test_a_response_that_was_begun_is_left_unfinished() -> None:
    wire = Wire()
    exchange = exchange_on(wire)
    await exchange.send(START)
    await exchange.send(body(b"half", more=True))
    exchange.cancel(StoppedError("drain"))
    await exchange.answer()
    assert wire.bodies == [b"half"]
    assert wire.sent[-1]["more_body"]


async def test_a_client_that_is_gone_gets_nothing() -> None:
    wire = Wire()
    wire.error = OSError("gone")
    exchange = exchange_on(wire)
    exchange.cancel(DeadlineExceededError("request"))
    await exchange.answer()
    await exchange.answer()


def test_a_recorder_that_raises_is_reported_and_the_next_one_is_called() -> None:
    seen: list[Exchange] = []

    def broken(exchange: Exchange) -> None:
        raise ValueError("a crash")

    observer = RecordingObserver()
    exchange = Exchange(RequestContext("request-id", 0.0), "GET", "/")
    Kernel(nothing, observer=observer).tell([broken, seen.append], exchange)
    assert seen == [exchange]
    (failure,) = observer.of(ListenerFailed)
    assert "broken" in failure.policy
