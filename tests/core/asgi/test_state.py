"""The tables of an exchange, alone, and as a real exchange goes through them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from postfacta_core.asgi._exchange import HttpExchange
from postfacta_core.asgi._state import (
    ANSWERED,
    BEGUN,
    COMPLETE,
    CUT,
    GONE,
    HANDED_ON,
    INCOMING,
    NONE,
    OPEN,
    REFUSED,
    RESPONSE,
    SENDING,
    SENT,
    SHUT,
    STREAMING,
    TAKEN,
    UNSENT,
    WHOLE,
    Event,
    Incoming,
    Response,
)
from postfacta_core.asgi._types import Message
from postfacta_core.deadlines._limits import TransferLimits
from postfacta_core.errors import DeadlineExceededError, StoppedError
from tests.core.asgi.exchanges import DISCONNECT, SCOPE, Wire, body, make, part
from tests.kit.every import every

EVENTS: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream")],
}
RESUMED = [(b"accept", b"text/event-stream"), (b"cache-control", b"no-cache")]


def courses() -> dict[Response, Sequence[Event]]:
    """Return the shortest course of events to each state."""
    found: dict[Response, Sequence[Event]] = {NONE: ()}
    border = [NONE]
    while border:
        state = border.pop(0)
        for event, row in RESPONSE.items():
            if row[state] not in found:
                found[row[state]] = (*found[state], event)
                border.append(row[state])
    return found


COURSES = courses()


def test_each_state_is_reached_from_the_first() -> None:
    assert set(COURSES) == set(Response)


def test_the_changes_are_these_and_no_others() -> None:
    changes = {
        f"{state.name} {event.name}": row[state].name
        for event, row in RESPONSE.items()
        for state in Response
        if row[state] is not state
    }
    assert changes == {
        "NONE HEAD": "BEGUN",
        "TAKEN HEAD": "ANSWERING",
        "BEGUN PIECE": "STREAMING",
        "BEGUN LAST": "ENDING",
        "STREAMING LAST": "ENDING",
        "ENDING ACCEPT": "WHOLE",
        "PARTED ACCEPT": "WHOLE",
        "ANSWERING ACCEPT": "ANSWERED",
        "UNREAD ACCEPT": "ANSWERED",
        "NONE TAKE": "TAKEN",
        "BEGUN TAKE": "CUT",
        "STREAMING TAKE": "CUT",
        "BEGUN FAREWELL": "ANSWERING",
        "STREAMING FAREWELL": "ANSWERING",
        "BEGUN STALL": "STALLED",
        "STREAMING STALL": "STALLED",
        "ENDING STALL": "STALLED",
        "NONE LEAVE": "ABANDONED",
        "BEGUN LEAVE": "LEFT",
        "STREAMING LEAVE": "LEFT",
        "ENDING LEAVE": "PARTED",
        "TAKEN LEAVE": "UNANSWERED",
        "ANSWERING LEAVE": "UNREAD",
    }


def test_what_has_ended_stays_so() -> None:
    for state, event in itertools.product((WHOLE, ANSWERED, CUT), RESPONSE):
        assert RESPONSE[event][state] is state


def test_an_answer_of_ours_never_becomes_the_applications() -> None:
    for state, event in itertools.product(SHUT, RESPONSE):
        assert RESPONSE[event][state] in SHUT


def test_no_state_is_open_and_past() -> None:
    assert not OPEN & (SHUT | HANDED_ON | COMPLETE)
    assert not COMPLETE & UNSENT


async def turns() -> None:
    """Let each task go on until it waits."""
    for _ in range(10):
        await checkpoint()


class GatedWire(Wire):
    """Accepts what it is sent once its gate is open."""

    def __init__(self, *messages: Message) -> None:
        super().__init__(*messages)
        self.gate = anyio.Event()

    async def send(self, message: Message) -> None:
        await self.gate.wait()
        await super().send(message)

    async def flush(self) -> None:
        self.gate.set()
        await turns()
        self.gate = anyio.Event()


class Course:
    """An exchange on a server that accepts nothing until its gate is open.

    It is a stream of events, so that a drain may end it in order.
    """

    def __init__(self, tasks: TaskGroup) -> None:
        self.tasks = tasks
        self.wire = GatedWire()
        self.may_answer = anyio.Event()
        scope = {**SCOPE, "headers": RESUMED}
        self.exchange: HttpExchange = make(scope, self.wire.receive, self.wire.send)
        self.exchange.shared.permit = self.permit

    async def permit(self, exchange: object) -> bool:
        await self.may_answer.wait()
        return False

    async def send(self, message: Message) -> None:
        with suppress(ConnectionAbortedError):
            await self.exchange.send(message)

    async def cancel(self, error: DeadlineExceededError | StoppedError) -> None:
        self.exchange.cancel(error)
        await self.exchange.answer()

    def stall(self) -> None:
        with suppress(ConnectionAbortedError):
            self.exchange.stall()

    async def cause(self, event: Event) -> Event:
        """Let something happen; return the event that it is for the state."""
        state = self.exchange.response
        jobs: dict[Event, Callable[[], Coroutine[Any, Any, None]]] = {
            Event.HEAD: partial(self.send, EVENTS),
            Event.PIECE: partial(self.send, body(b"data: 1\n\n", more=True)),
            Event.LAST: partial(self.send, body(b"", more=False)),
            Event.ACCEPT: self.wire.flush,
            Event.TAKE: partial(self.cancel, DeadlineExceededError("request")),
            Event.FAREWELL: partial(self.cancel, StoppedError("drain")),
        }
        if event is Event.HEAD and state is TAKEN:
            self.may_answer.set()
        elif event in jobs:
            self.tasks.start_soon(jobs[event])
        elif event is Event.STALL:
            self.stall()
        else:
            self.exchange.leave()
        await turns()
        if self.exchange.response in {BEGUN, STREAMING}:
            await self.wire.flush()
        # Only between two events of a stream can a drain end it in order.
        is_cut = event is Event.FAREWELL and state not in {BEGUN, STREAMING}
        return Event.TAKE if is_cut else event


@pytest.mark.parametrize("event", RESPONSE, ids=lambda event: event.name)
async def test_an_exchange_goes_where_the_table_says(event: Event) -> None:
    with every() as case:
        for state, course in COURSES.items():
            with case(state.name):
                async with anyio.create_task_group() as tasks:
                    run = Course(tasks)
                    for earlier in course:
                        await run.cause(earlier)
                    assert run.exchange.response is state
                    happened = await run.cause(event)
                    assert run.exchange.response is RESPONSE[happened][state]
                    tasks.cancel_scope.cancel()


def test_what_may_come_of_a_client_only_becomes_less() -> None:
    for state, row in itertools.product(Incoming, INCOMING.values()):
        assert row[state] in {state, SENT, REFUSED, GONE}
        assert row[row[state]] is row[state]


async def test_a_body_comes_to_its_end_and_its_client_leaves() -> None:
    wire = Wire(part(b"1", more=True), part(b"2", more=False), DISCONNECT)
    exchange = make(SCOPE, wire.receive, wire.send)
    seen = [exchange.incoming]
    for _ in range(3):
        await exchange.receive()
        seen.append(exchange.incoming)
    assert seen == [SENDING, SENDING, SENT, GONE]


async def test_a_body_that_is_refused_ends_for_the_application() -> None:
    wire = Wire(part(b"1", more=True), part(b"22", more=True))
    exchange = make(SCOPE, wire.receive, wire.send)
    exchange.rules = replace(exchange.rules, limits=TransferLimits(max_body_bytes=2))
    await exchange.receive()
    wire.arrive(DISCONNECT)
    assert await exchange.receive() == DISCONNECT
    assert (exchange.incoming, exchange.response) == (REFUSED, ANSWERED)
    assert [message.get("status") for message in wire.sent] == [413, None, None]
