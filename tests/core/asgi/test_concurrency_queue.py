"""Who waits for a slot is served in turn, refused in time, or goes ahead by its priority."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from hypothesis import given, strategies as st

from postfacta_core.asgi import HardenOptions
from postfacta_core.asgi._problem import Problem
from postfacta_core.asgi._types import ASGIApp, Message, Scope
from postfacta_core.limits._waiting import Priority
from postfacta_core.testing import ManualClock, call_asgi
from tests.core.asgi.concurrency import UNKNOWN, Held, Recording, _receive, answer, full
from tests.kit.alone import WithShedding
from tests.kit.waiting import until


async def test_who_waits_is_served_when_a_slot_comes_free() -> None:
    held, limiter = Held(), Recording()
    app = WithShedding(held, limiter, clock=ManualClock())
    statuses: list[int] = []

    async def get() -> None:
        statuses.append((await call_asgi(app)).status)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(get)
        tasks.start_soon(get)
        await until(lambda: held.begun == 1 and limiter.waiting == 1)
        held.go.set()
    assert statuses == [200, 200]
    assert (limiter.in_flight, limiter.waiting) == (0, 0)
    # What is measured begins with the admission, and not with the wait.
    assert limiter.lags == [0.0, 0.0]


async def test_who_waits_too_long_is_refused() -> None:
    held, limiter = Held(), Recording(patience=0.02)
    app = WithShedding(held, limiter)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call_asgi, app)
        await until(lambda: held.begun == 1)
        with anyio.fail_after(10):
            assert (await call_asgi(app)).status == 503
        held.go.set()
    assert (held.begun, limiter.waiting, limiter.in_flight) == (1, 0, 0)


async def test_who_is_cancelled_while_waiting_leaves_the_queue() -> None:
    held, limiter = Held(), Recording()
    app = WithShedding(held, limiter)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call_asgi, app)
        await until(lambda: held.begun == 1)
        async with anyio.create_task_group() as waiters:
            waiters.start_soon(call_asgi, app)
            await until(lambda: limiter.waiting == 1)
            waiters.cancel_scope.cancel()
        assert (limiter.waiting, limiter.in_flight) == (0, 1)
        held.go.set()
    assert limiter.in_flight == 0


@pytest.mark.parametrize("first", ["his turn", "the cancellation"])
async def test_a_request_cancelled_at_its_turn_passes_the_slot_on(first: str) -> None:
    held, limiter = Held(), Recording()
    app = WithShedding(held, limiter)
    async with anyio.create_task_group() as tasks:
        limiter.arrive(Priority.CRITICAL, 0.0)
        async with anyio.create_task_group() as waiters:
            waiters.start_soon(call_asgi, app)
            await until(lambda: limiter.waiting == 1)
            if first == "the cancellation":
                waiters.cancel_scope.cancel()
            limiter.finish(0.0, 0.0, UNKNOWN)
            assert limiter.in_flight == 1
            waiters.cancel_scope.cancel()
        assert (limiter.in_flight, held.begun) == (0, 0)
        tasks.start_soon(call_asgi, app)
        await until(lambda: held.begun == 1)
        held.go.set()


async def test_a_refusal_is_a_problem_that_tells_when_to_come_back() -> None:
    app = full(luck=lambda: 0.5)
    response = await call_asgi(app, "GET", "/items/ü")
    assert response.status == 503
    assert response.header("content-type") == "application/problem+json"
    assert response.header("retry-after") == "2"
    assert response.header("connection") is None
    assert response.header("content-length") == str(len(response.body))
    assert response.json() == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "instance": "/items/%C3%BC",
        "code": "overloaded",
        "detail": "The service is overloaded. Try again after the time in Retry-After, and less often",
        "request_id": response.header("x-request-id"),
    }
    request = response.scope["postfacta.request"]
    assert (request.route, request.error_type, request.priority) == ("_prerouting", "shed", 1)


async def _sent_by(app: ASGIApp, scope: Scope) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, _receive, send)
    return sent


def _as_usual(problem: Problem, scope: Scope) -> None:
    """Render nothing of its own: that is RFC 9457, and the way all other problems go."""


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@given(path=st.text(), method=st.sampled_from(["GET", "HEAD", "POST"]))
async def test_the_quick_way_to_refuse_says_what_the_slow_one_says(path: str, method: str) -> None:
    headers = [(b"x-request-id", b"request-1")]
    scope: dict[str, Any] = {"type": "http", "path": path, "method": method, "headers": headers}
    quick = await _sent_by(full(luck=lambda: 0.9), scope)
    slow = await _sent_by(full(luck=lambda: 0.9, render=_as_usual), scope)
    for start in (quick[0], slow[0]):
        start["headers"] = sorted(start["headers"])
    assert quick[0] == slow[0]
    assert (b"retry-after", b"3") in quick[0]["headers"]
    assert json.loads(quick[1]["body"] or b"0") == json.loads(slow[1]["body"] or b"0")
    assert bool(quick[1]["body"]) is (method != "HEAD")


def _in_words(problem: Problem, scope: Scope) -> tuple[str, bytes]:
    return "text/plain", problem.code.encode()


async def test_an_api_with_another_shape_of_problem_refuses_in_it() -> None:
    app = full(render=_in_words)
    response = await call_asgi(app)
    assert (response.status, response.body) == (503, b"overloaded")
    assert int(response.header("retry-after") or 0) in {1, 2, 3}


def _sheddable(scope: Scope) -> Priority:
    return Priority.SHEDDABLE


def _none(scope: Scope) -> None:
    """Return None."""


def _nonsense(scope: Scope) -> Any:
    return 17


def _raises(scope: Scope) -> Any:
    raise RuntimeError


async def priority_of(headers: list[tuple[str, str]], **options: Any) -> int:
    app = WithShedding(answer(200), None, HardenOptions(**options))
    response = await call_asgi(app, headers=headers)
    request = response.scope["postfacta.request"]
    return int(request.priority)


KEY = ("X-Priority-Key", "secret")


@pytest.mark.parametrize(
    ("headers", "priority"),
    [
        ([("X-Priority", "sheddable"), KEY], 3),
        ([KEY, ("X-Priority", "critical_plus")], 0),
        ([("X-Priority", "sheddable_plus"), KEY], 2),
        ([("X-Priority", "sheddable")], 1),
        ([("X-Priority", "sheddable"), ("X-Priority-Key", "wrong")], 1),
        ([("X-Priority", "sheddable"), ("X-Priority-Key", "")], 1),
        ([("X-Priority", "the most of all"), KEY, ("Accept", "*/*")], 1),
        ([], 1),
    ],
)
async def test_a_caller_that_knows_the_key_is_trusted(
    headers: list[tuple[str, str]], priority: int
) -> None:
    assert await priority_of(headers, priority_key="secret") == priority
    assert await priority_of(headers) == 1


async def test_without_a_key_an_empty_one_is_not_trusted() -> None:
    headers = [("X-Priority", "critical_plus"), ("X-Priority-Key", "")]
    assert await priority_of(headers, priority_key="") == 1


@pytest.mark.parametrize(
    ("tells", "priority"),
    [(_sheddable, 3), (_none, 1), (_nonsense, 1), (_raises, 1)],
)
async def test_what_a_function_of_the_scope_tells_counts_and_what_it_does_wrong_does_not(
    tells: Callable[[Scope], Any], priority: int
) -> None:
    assert await priority_of([], priority_of=tells) == priority
    # A trusted caller goes first.
    trusted = [("X-Priority", "critical_plus"), KEY]
    assert await priority_of(trusted, priority_of=tells, priority_key="secret") == 0


async def test_the_critical_is_served_where_the_sheddable_is_refused() -> None:
    limiter = Recording(10, patience=1e-6, spare=1e-6)
    limiter.in_flight = 8
    app = WithShedding(answer(200), limiter, HardenOptions(priority_key="secret"))
    assert (await call_asgi(app, headers=[("X-Priority", "sheddable"), KEY])).status == 503
    assert (await call_asgi(app, headers=[("X-Priority", "critical"), KEY])).status == 200
