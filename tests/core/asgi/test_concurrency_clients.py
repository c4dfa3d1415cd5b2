"""A client that is slow, leaves or waits for long holds no slot, and its request is measured without it."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint

from postfacta_core.asgi._concurrency import aside
from postfacta_core.asgi._types import Message, Receive, Scope, Send
from postfacta_core.context import current_request, ignore_duration
from postfacta_core.errors import BulkheadFullError
from postfacta_core.guards.bulkhead import Bulkhead
from postfacta_core.limits._overload import OverloadConfig, OverloadLimiter
from postfacta_core.testing import ManualClock, call_asgi
from tests.core.asgi.concurrency import (
    ANSWERED,
    LEFT,
    LOST,
    POST,
    UNKNOWN,
    UNTIMED,
    Client,
    Held,
    Recording,
    _send,
    _take,
    answer,
    echo,
)
from tests.kit.alone import WithShedding
from tests.kit.waiting import until


async def test_a_request_that_waits_for_its_body_holds_no_slot_until_it_has_come() -> None:
    clock, limiter = ManualClock(), Recording(1)
    app = WithShedding(echo, limiter, clock=clock)
    slow = Client(pieces=2)
    slow.reads.set()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(app, POST, slow.receive, slow.send)
        await until(lambda: slow.asked == 1)
        assert limiter.in_flight == 0
        assert (await call_asgi(app)).status == 200
        clock.advance(0.02)
        slow.gives.set()
    assert limiter.in_flight == 0
    # The one that was quick is measured, the other is not: neither at its two waits nor at its end.
    assert limiter.endings == [UNKNOWN, ANSWERED, UNKNOWN, UNKNOWN]


async def test_a_crowd_of_slow_bodies_leaves_the_slots_to_others() -> None:
    app = WithShedding(echo, OverloadLimiter("requests", OverloadConfig(start=4)))
    crowd = [Client() for _ in range(100)]
    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(20):
            for slow in crowd:
                tasks.start_soon(app, POST, slow.receive, slow.send)
                while not slow.asked:
                    await checkpoint()
        assert [(await call_asgi(app)).status for _ in range(20)] == [200] * 20
        tasks.cancel_scope.cancel()
    assert app.limiter.in_flight == 0


async def test_a_body_that_is_there_costs_no_slot_and_is_measured() -> None:
    clock, limiter = ManualClock(), Recording(1)
    app = WithShedding(echo, limiter, clock=clock)
    for _ in range(3):
        client = Client()
        client.reads.set()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(app, POST, client.receive, client.send)
            while not client.asked:
                await checkpoint()
            clock.advance(0.019)
            client.gives.set()
    assert limiter.endings == [UNKNOWN, ANSWERED] * 3
    assert (await call_asgi(app, body=b"there")).status == 200
    assert limiter.endings[6:] == [ANSWERED]


async def test_a_slow_client_that_is_cut_off_leaves_the_count_as_it_was() -> None:
    clock, limiter = ManualClock(), Recording(1)
    app = WithShedding(echo, limiter, clock=clock)
    slow = Client()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(app, POST, slow.receive, slow.send)
        await until(lambda: slow.asked == 1)
        assert limiter.in_flight == 0
        tasks.cancel_scope.cancel()
    assert limiter.in_flight == 0


async def test_a_client_that_does_not_read_holds_no_slot() -> None:
    limiter = Recording(1)
    app = WithShedding(answer(200), limiter)
    slow = Client()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(app, POST, slow.receive, slow.send)
        await until(lambda: limiter.endings == [ANSWERED])
        assert limiter.in_flight == 0
        slow.reads.set()


async def test_who_looks_whether_the_client_has_left_while_it_works_keeps_its_slot() -> None:
    clock, limiter = ManualClock(), Recording(1)
    leaves = anyio.Event()

    async def works(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        async with anyio.create_task_group() as looking:
            looking.start_soon(_take, receive)
            await leaves.wait()
            looking.cancel_scope.cancel()
        await answer(200)(scope, receive, send)

    app = WithShedding(works, limiter, clock=clock)
    client = Client()
    client.gives.set()
    client.reads.set()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(app, POST, client.receive, client.send)
        await until(lambda: client.asked == 2)
        clock.advance(0.05)
        app.beat(0.0)
        assert limiter.in_flight == 1
        leaves.set()
    assert limiter.endings == [UNKNOWN, ANSWERED]


async def test_who_answers_before_a_slow_body_has_come_takes_no_slot_when_it_comes() -> None:
    clock, limiter = ManualClock(), Recording(1)
    goes, answered = anyio.Event(), anyio.Event()

    async def hasty(scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as reading:
            reading.start_soon(_take, receive)
            await goes.wait()
            await answer(413)(scope, receive, send)
            answered.set()

    app = WithShedding(hasty, limiter, clock=clock)
    slow = Client()
    slow.reads.set()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(app, POST, slow.receive, slow.send)
        await until(lambda: slow.asked == 1)
        clock.advance(0.05)
        app.beat(0.0)
        assert limiter.in_flight == 0
        goes.set()
        await answered.wait()
        slow.gives.set()
    assert limiter.in_flight == 0
    assert limiter.endings == [UNKNOWN]


async def test_a_request_knows_how_long_it_waited_for_a_slot() -> None:
    held, limiter, clock = Held(), Recording(), ManualClock()
    queued: list[float] = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        queued.append(scope["postfacta.request"].queued)
        await held(scope, receive, send)

    app = WithShedding(inner, limiter, clock=clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call_asgi, app)
        tasks.start_soon(call_asgi, app)
        await until(lambda: held.begun == 1 and limiter.waiting == 1)
        clock.advance(0.01)
        held.go.set()
    assert queued == [0.0, pytest.approx(0.01)]


def leaving(*messages: Message) -> Receive:
    left = list(messages)

    async def receive() -> Message:
        return left.pop(0) if left else {"type": "http.disconnect"}

    return receive


async def test_a_caller_who_left_while_it_waited_is_not_served() -> None:
    held, limiter, clock = Held(), Recording(), ManualClock()
    app = WithShedding(held, limiter, clock=clock)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call_asgi, app)
        await until(lambda: held.begun == 1)
        tasks.start_soon(app, POST, leaving(), send)
        await until(lambda: limiter.waiting == 1)
        clock.advance(0.03)
        held.go.set()
    assert (held.begun, limiter.in_flight, sent) == (1, 0, [])
    assert limiter.endings == [ANSWERED, LEFT]


async def test_a_body_read_while_looking_for_the_caller_reaches_the_handler() -> None:
    clock, limiter, bodies = ManualClock(), Recording(), list[bytes]()
    limiter.on_arrival = lambda: clock.advance(0.03)

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(2):
            message = await receive()
            bodies.append(message.get("body", b"-"))
        await answer(200)(scope, receive, send)

    app = WithShedding(handler, limiter, clock=clock)
    pieces: list[Message] = [
        {"type": "http.request", "body": b"a", "more_body": True},
        {"type": "http.request", "body": b"b"},
    ]
    await app(POST, leaving(*pieces), _send)
    assert bodies == [b"a", b"b"]
    assert limiter.endings == [ANSWERED]


async def test_a_long_poll_that_steps_aside_holds_no_slot_and_says_nothing() -> None:
    limiter, news, begun = Recording(1), anyio.Event(), anyio.Event()

    async def poll(scope: Scope, receive: Receive, send: Send) -> None:
        async with aside():
            await receive()
            begun.set()
            await news.wait()
        assert limiter.in_flight == 1
        await answer(200)(scope, receive, send)
        async with aside():
            assert limiter.in_flight == 0

    app = WithShedding(poll, limiter)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call_asgi, app)
        await begun.wait()
        assert limiter.in_flight == 0
        news.set()
    assert limiter.endings == [UNKNOWN, UNKNOWN]
    assert limiter.in_flight == 0


async def test_a_body_that_has_come_while_a_request_is_aside_takes_no_slot() -> None:
    limiter, held = Recording(1), list[int]()

    async def poll(scope: Scope, receive: Receive, send: Send) -> None:
        async with aside():
            await receive()
            held.append(limiter.in_flight)
        held.append(limiter.in_flight)
        await answer(200)(scope, receive, send)

    app, slow = WithShedding(poll, limiter), Client()
    slow.reads.set()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(app, dict(POST), slow.receive, slow.send)
        await until(lambda: slow.asked == 1)
        slow.gives.set()
    assert (held, limiter.in_flight) == ([0, 1], 0)


async def test_a_request_that_pays_for_others_keeps_its_slot_and_says_nothing() -> None:
    limiter = Recording(1)

    async def first(scope: Scope, receive: Receive, send: Send) -> None:
        ignore_duration()
        assert limiter.in_flight == 1
        await answer(200)(scope, receive, send)
        ignore_duration()

    app = WithShedding(first, limiter)
    await call_asgi(app)
    assert limiter.endings == [UNTIMED]
    assert limiter.in_flight == 0
    ignore_duration()


async def test_a_request_that_pays_for_others_and_is_not_answered_or_was_aside_is_unknown() -> None:
    limiter = Recording(1)

    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        ignore_duration()
        raise ValueError

    async def leaves(scope: Scope, receive: Receive, send: Send) -> None:
        ignore_duration()
        async with aside():
            ignore_duration()
        await answer(200)(scope, receive, send)

    for endpoint in (fails, leaves):
        with suppress(ValueError):
            await call_asgi(WithShedding(endpoint, limiter))
    assert limiter.endings == [UNKNOWN] * 3  # the last gave its slot back twice
    assert limiter.in_flight == 0


class Bounded:
    """Requests that work in a bulkhead until the test says so."""

    def __init__(self, bulkhead: Bulkhead) -> None:
        self.bulkhead = bulkhead
        self.limiter = Recording(1)
        self.go, self.begun = anyio.Event(), 0
        self.held: list[int] = []  # In flight, once each has left the bulkhead.
        self.app = WithShedding(self.serve, self.limiter)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 200
        if scope["path"] != "/other":
            try:
                await self.bulkhead.call(self.work)
            except BulkheadFullError:
                status = 503
            self.held.append(self.limiter.in_flight)
        await answer(status)(scope, receive, send)

    def holds(self, number: int) -> bool:
        return self.bulkhead.used + self.bulkhead.waiting == number

    async def work(self) -> None:
        self.begun += 1
        await self.go.wait()


async def test_a_lending_bulkhead_leaves_the_slots_to_other_requests() -> None:
    scene = Bounded(Bulkhead("passwords", 1, max_waiting=2, max_wait=60, lends=True))
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(call_asgi, scene.app)
            await until(lambda: scene.limiter.in_flight == 0)
        await until(lambda: (scene.begun, scene.bulkhead.waiting) == (1, 2))
        # One that runs and two that wait: neither they nor one that is refused keep the only slot.
        assert (await call_asgi(scene.app)).status == 503
        assert (await call_asgi(scene.app, path="/other")).status == 200
        scene.go.set()
    assert scene.held == [1] * 4
    assert scene.limiter.endings.count(UNTIMED) == 3
    assert scene.limiter.in_flight == 0


async def test_a_bulkhead_keeps_the_slots_of_its_requests_by_default() -> None:
    scene = Bounded(Bulkhead("billing", 1))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call_asgi, scene.app)
        await until(lambda: scene.begun == 1)
        assert scene.limiter.in_flight == 1
        scene.go.set()
    assert scene.limiter.endings == [ANSWERED]


async def test_a_request_cancelled_in_a_lending_bulkhead_leaves_the_count() -> None:
    scene = Bounded(Bulkhead("passwords", 1, max_waiting=1, max_wait=60, lends=True))
    async with anyio.create_task_group() as tasks:
        for number in range(2):
            tasks.start_soon(call_asgi, scene.app)
            await until(partial(scene.holds, number + 1))
        tasks.cancel_scope.cancel()
    assert (scene.bulkhead.used, scene.bulkhead.waiting, scene.limiter.in_flight) == (0, 0, 0)
    assert set(scene.limiter.endings) == {UNKNOWN}


async def test_a_slot_lent_twice_comes_back_with_the_outer_one() -> None:
    limiter, held = Recording(1), list[int]()
    outer, inner = (Bulkhead(name, 1, lends=True) for name in ("outer", "inner"))

    async def nested(scope: Scope, receive: Receive, send: Send) -> None:
        async with outer.block():
            async with inner.block():
                held.append(limiter.in_flight)
            held.append(limiter.in_flight)
        held.append(limiter.in_flight)
        await answer(200)(scope, receive, send)

    await call_asgi(WithShedding(nested, limiter))
    assert held == [0, 0, 1]
    assert limiter.in_flight == 0


async def test_a_lending_bulkhead_keeps_the_slot_in_a_worker_thread() -> None:
    limiter, held = Recording(1), list[int]()
    bulkhead = Bulkhead("passwords", 1, lends=True)

    async def threaded(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.to_thread.run_sync(bulkhead.call_sync, lambda: held.append(limiter.in_flight))
        await answer(200)(scope, receive, send)

    await call_asgi(WithShedding(threaded, limiter))
    assert held == [1]
    assert limiter.endings == [ANSWERED]


async def test_stepping_aside_outside_of_a_request_does_nothing() -> None:
    async with aside():
        assert current_request() is None


async def test_the_slot_leaves_the_context_with_the_response() -> None:
    app = WithShedding(answer(200), Recording())
    response = await call_asgi(app)
    assert response.scope["postfacta.request"].slot is None


class Arriving:
    """What a server written in another language has in place of a coroutine.

    An iterator, and nothing more.
    """

    def __init__(self, message: Message) -> None:
        self._message = message
        self._has_waited = False

    def __await__(self) -> Arriving:
        return self

    def __iter__(self) -> Arriving:
        return self

    def __next__(self) -> None:
        if self._has_waited:
            raise StopIteration(self._message)
        self._has_waited = True


async def test_a_servers_awaitable_may_be_a_mere_iterator() -> None:
    limiter = Recording(1)
    message: Message = {"type": "http.request", "body": b"x", "more_body": False}

    def receive() -> Any:
        if leaves:
            scope_of_test.cancel()
        return Arriving(message)

    app = WithShedding(echo, limiter)
    for leaves in (False, True):
        with anyio.CancelScope() as scope_of_test:
            await app(POST, receive, _send)
        assert scope_of_test.cancelled_caught is leaves
    assert limiter.endings == [UNKNOWN, ANSWERED, UNKNOWN, LOST]
    assert limiter.in_flight == 0
