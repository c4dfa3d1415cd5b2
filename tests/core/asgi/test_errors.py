"""A caller gets one answer, whatever the application raises; what is a crash stays one."""

from __future__ import annotations

from typing import Any

import pytest

from postfacta_core.asgi._problem import Problem
from postfacta_core.asgi._types import Message, Receive, Scope, Send
from postfacta_core.errors import PoolTimeoutError
from postfacta_core.telemetry.metrics import Metrics
from postfacta_core.testing import call_asgi
from postfacta_core.testing.asgi import AsgiResponse
from tests.kit.alone import WithErrors


class Boom(Exception):  # noqa: N818 - the label is its name
    """A crash."""


class Raising:
    """An application that sends some messages, and then raises."""

    def __init__(self, error: Exception, *messages: Message, noted: str = "") -> None:
        self.error = error
        self.messages = messages
        self.noted = noted  # A better reason.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.noted:
            scope["postfacta.request"].error_type = self.noted
        for message in self.messages:
            await send(message)
        raise self.error


async def call(app: Raising, **options: Any) -> AsgiResponse:
    return await call_asgi(WithErrors(app), raise_errors=False, **options)


def kinds(response: AsgiResponse) -> list[str]:
    return [message["type"].removeprefix("http.response.") for message in response.messages]


START: Message = {"type": "http.response.start", "status": 200, "headers": []}


async def test_a_crash_before_the_answer_is_a_500_and_goes_on_to_the_server() -> None:
    response = await call(Raising(Boom()))
    assert (response.status, kinds(response)) == (500, ["start", "body"])
    assert isinstance(response.error, Boom)


async def test_a_refusal_before_the_answer_is_an_answer_and_ends_here() -> None:
    response = await call(Raising(PoolTimeoutError("db", 1)))
    assert (response.status, response.error) == (503, None)
    assert response.header("retry-after") == "1"


@pytest.mark.parametrize("error", [Boom(), PoolTimeoutError("main")])
async def test_after_the_start_nothing_is_added_and_the_server_must_break_off(
    error: Exception,
) -> None:
    response = await call(Raising(error, START))
    assert (response.status, kinds(response), response.error) == (200, ["start"], error)


async def test_an_early_hint_is_not_yet_an_answer() -> None:
    response = await call(Raising(Boom(), {"type": "http.response.early_hint", "links": []}))
    assert (response.status, kinds(response)) == (500, ["early_hint", "start", "body"])


async def test_a_crash_stays_a_crash_without_its_client() -> None:
    metrics = Metrics(with_process=False)
    app = WithErrors(Raising(Boom()), recorders=[metrics])
    response = await call_asgi(app, body=[], disconnect_after=0, raise_errors=False)
    assert isinstance(response.error, Boom)
    crashes = metrics.registry.get_sample_value(
        "postfacta_unhandled_exceptions_total", {"error_type": "Boom"}
    )
    assert crashes == 1


async def test_a_refusal_to_a_client_that_is_gone_is_no_crash() -> None:
    response = await call(Raising(PoolTimeoutError("main")), body=[], disconnect_after=0)
    assert (response.error, response.messages) == (None, [])


async def test_the_reason_is_recorded_unless_there_is_a_better_one() -> None:
    for before, after in (("", "pool_timeout"), ("shed", "shed")):
        raising = Raising(PoolTimeoutError("main"), noted=before)
        response = await call(raising)
        assert response.scope["postfacta.request"].error_type == after


async def test_an_own_shape_is_used() -> None:
    def render(problem: Problem, scope: Scope) -> tuple[str, bytes]:
        return "text/plain", problem.code.encode()

    response = await call_asgi(WithErrors(Raising(Boom()), render=render), raise_errors=False)
    assert response.body == b"internal"


async def test_what_is_not_http_passes_with_its_error() -> None:
    async def send(message: Message) -> None:
        raise AssertionError

    async def receive() -> Message:
        raise AssertionError

    for kind in ("websocket", "lifespan"):
        with pytest.raises(PoolTimeoutError):
            await WithErrors(Raising(PoolTimeoutError("main")))(
                {"type": kind, "path": "/", "headers": []}, receive, send
            )
