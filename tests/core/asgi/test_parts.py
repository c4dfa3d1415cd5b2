"""A team's own part is asked in its place, and what it answers, awaits or raises is handled."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Any, cast

import pytest

from postfacta_core.asgi import HardenOptions, Problem, RateLimit, harden
from postfacta_core.asgi._types import ASGIApp, Receive, Scope, Send
from postfacta_core.asgi.parts import Part
from postfacta_core.telemetry.exchange import Exchange
from postfacta_core.testing import call_asgi

SOCKET: Scope = {"type": "websocket", "path": "/live", "headers": [], "client": ("10.0.0.1", 1)}
CLOSED = Problem(status=503, code="closed", title="Closed", error_type="closed")


class Answers(Part):
    """Answers with a problem, or lets a request go on."""

    def __init__(self, answer: Problem | None = None) -> None:
        self.answer = answer
        self.seen: list[str] = []

    def decide(self, exchange: Exchange) -> Problem | Awaitable[Problem | None] | None:
        self.seen.append(exchange.path)
        return self.answer


class Waits(Answers):
    """Does so by an awaitable."""

    async def decide(self, exchange: Exchange) -> Problem | None:
        self.seen.append(exchange.path)
        return self.answer


class Raises(Part):
    """Has a defect."""

    def decide(self, exchange: Exchange) -> Problem | None:
        raise LookupError("no such tenant")


async def served(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"served"})
    else:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 1000})


def with_parts(*parts: Part, **options: Any) -> ASGIApp:
    return harden(served, service="billing", options=HardenOptions(parts=parts, **options))


@pytest.mark.parametrize("kind", [Answers, Waits])
async def test_a_part_answers_or_lets_the_next_be_asked(kind: type[Answers]) -> None:
    first, second, third = kind(), kind(CLOSED), kind()
    response = await call_asgi(with_parts(first, second, third), "GET", "/orders")
    assert (response.status, response.json()["code"]) == (503, "closed")
    assert (first.seen, second.seen, third.seen) == (["/orders"], ["/orders"], [])
    second.answer = None
    assert (await call_asgi(with_parts(first, second, third), "GET", "/orders")).body == b"served"
    assert third.seen == ["/orders"]


async def test_a_part_sees_no_probe_and_nothing_refused_before() -> None:
    part = Answers()
    app = with_parts(part, rate_limits=[RateLimit("1/hour", per="client")])
    assert (await call_asgi(app, "GET", "/healthz/live")).status == 200
    assert [(await call_asgi(app, "GET", "/orders")).status for _ in range(2)] == [200, 429]
    assert part.seen == ["/orders"]


async def test_a_part_that_raises_is_a_crash(caplog: pytest.LogCaptureFixture) -> None:
    app = with_parts(Raises())
    with pytest.raises(LookupError), caplog.at_level(logging.ERROR):
        await call_asgi(app, "GET", "/orders")
    assert (await call_asgi(app, "GET", "/healthz/live")).status == 200


async def test_a_part_refuses_a_websocket_before_its_handshake() -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    part = Answers(CLOSED)
    await with_parts(part)({**SOCKET}, receive, send)
    assert sent[0] in {"websocket.close", "websocket.http.response.start"}
    part.answer = None
    sent.clear()
    await with_parts(part)({**SOCKET}, receive, send)
    assert sent == ["websocket.accept", "websocket.close"]


def test_the_parts_are_printed_in_their_order() -> None:
    app = with_parts(Answers(), rate_limits=["9/minute per client"])
    order = "telemetry > probes > sizes > rates > Answers > deadlines > limiter > function"
    assert repr(app) == f"<harden billing: {order}>"


def test_what_is_no_part_is_refused() -> None:
    for parts in ("Maintenance", [Answers], [served], 7):
        with pytest.raises(ValueError, match=r"HardenOptions\.parts"):
            HardenOptions(parts=cast("Any", parts))
