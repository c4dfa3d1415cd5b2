"""A request is admitted, waits a moment or is refused, and whatever happens its slot comes back."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Hashable
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given, strategies as st

from postfacta_core.asgi._problem import Problem
from postfacta_core.asgi._types import ASGIApp, Message, Receive, Scope, Send
from postfacta_core.asgi.concurrency import LoadSheddingMiddleware, aside
from postfacta_core.asgi.context import ContextMiddleware
from postfacta_core.context import RequestContext, add_wait, current_request
from postfacta_core.errors import DeadlineExceededError
from postfacta_core.events import Mode, ModeChanged, PolicyCreated
from postfacta_core.policy.overload import Ending, OverloadConfig, OverloadLimiter
from postfacta_core.policy.waiting import Admit, Priority, Shed, Wait
from postfacta_core.testing import ManualClock, RecordingObserver, call_asgi

ANSWERED, LOST, UNKNOWN, LEFT = Ending


class Recording(OverloadLimiter):
    """Writes down what it learns of requests that end."""

    def __init__(self, limit: int = 1, **options: Any) -> None:
        chosen: dict[str, Any] = {"start": limit, "patience": 5.0, **options}
        super().__init__("requests", OverloadConfig(**chosen))
        self.endings: list[Ending] = []
        self.kinds: list[object] = []
        self.waits: list[float] = []
        self.lags: list[float] = []
        self.beats: list[float] = []
        self.on_arrival: Callable[[], object] = list[int]

    def arrive(self, priority: int, now: float, *, luck: float = 0.0) -> Admit | Wait | Shed:
        decision = super().arrive(priority, now, luck=luck)
        self.on_arrival()
        return decision

    def finish(
        self,
        now: float,
        admitted: float,
        ending: Ending = Ending.ANSWERED,
        kind: Hashable = None,
        waited: float = 0.0,
        lag: float = 0.0,
    ) -> None:
        self.endings.append(ending)
        self.kinds.append(kind)
        self.waits.append(waited)
        self.lags.append(lag)
        super().finish(now, admitted, ending, kind, waited, lag)

    def beat(self, now: float, own: float = 1.0) -> None:
        self.beats.append(own)
        super().beat(now, own)


class Held:
    """An application whose requests end when they are told to."""

    def __init__(self) -> None:
        self.begun = 0
        self.go = anyio.Event()
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun += 1
        self.scopes.append(scope)
        await self.go.wait()
        await answer(200)(scope, receive, send)


def answer(status: int, *chunks: bytes) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


def raising(error: Exception) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    return app


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():
            await checkpoint()


# --- admitted ---


async def test_a_request_that_finds_room_is_served_and_its_slot_comes_back() -> None:
    limiter = Recording()
    app = LoadSheddingMiddleware(answer(200), limiter)
    for _ in range(3):
        assert (await call_asgi(app)).status == 200
    assert limiter.endings == [ANSWERED] * 3
    assert limiter.in_flight == 0


async def test_requests_that_arrive_together_see_one_another_before_the_first_of_them_runs() -> None:
    counts: list[int] = []
    limiter = Recording(10)

    async def busy(scope: Scope, receive: Receive, send: Send) -> None:
        # It never gives way: without a turn of the loop after admission each would find itself alone.
        counts.append(limiter.in_flight)
        await answer(200)(scope, receive, send)

    app = LoadSheddingMiddleware(busy, limiter)
    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(call_asgi, app)
    assert max(counts) == 8


async def together(app: LoadSheddingMiddleware, counts: list[int]) -> int:
    """Send eight requests at once; tell the most of them that one of them saw."""
    counts.clear()
    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(call_asgi, app)
    return max(counts)


async def test_a_loop_that_is_never_late_costs_a_request_no_turn_of_it_and_one_that_is_is_watched() -> None:
    counts: list[int] = []
    clock, used, limiter = ManualClock(), ManualClock(), Recording(10)

    async def busy(scope: Scope, receive: Receive, send: Send) -> None:
        counts.append(limiter.in_flight)
        clock.advance(0.001)
        used.advance(0.001)
        await answer(200)(scope, receive, send)

    app = LoadSheddingMiddleware(busy, limiter, clock=clock, processor=used)
    app.beat(0.0049)
    clock.advance(0.2)
    assert await together(app, counts) == 1
    clock.advance(0.06)  # Nobody has heard of the loop for too long.
    assert await together(app, counts) == 8
    app.beat(0.005)
    clock.advance(0.1)
    assert await together(app, counts) == 8
    for _ in range(8):
        app.beat(0.0)
        clock.advance(0.1)
    assert await together(app, counts) == 8
    clock.advance(0.11)
    app.beat(0.0)
    assert await together(app, counts) == 1
    assert await together(app, counts) == 1
    assert await together(app, counts) == 8  # So many between two beats are a crowd.
    assert limiter.in_flight == 0


async def test_requests_that_cost_next_to_nothing_skip_the_turn_even_on_a_late_loop() -> None:
    counts: list[int] = []
    clock, used, limiter = ManualClock(), ManualClock(), Recording(10)
    cost = 0.0004

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        counts.append(limiter.in_flight)
        clock.advance(0.02)  # Others have the processor for most of it.
        used.advance(cost)
        await answer(200)(scope, receive, send)

    app = LoadSheddingMiddleware(handler, limiter, clock=clock, processor=used)
    for _ in range(2):  # What they cost is to be found out first.
        assert await together(app, counts) == 8
    app.beat(1.0)
    assert await together(app, counts) == 1
    cost = 0.01
    for _ in range(2):
        await together(app, counts)
    app.beat(1.0)
    assert await together(app, counts) == 8


async def test_a_loop_late_for_want_of_processor_is_not_held_against_requests() -> None:
    used, limiter = ManualClock(), Recording()
    app = LoadSheddingMiddleware(answer(200), limiter, processor=used)
    for _ in range(3):
        used.advance(0.006)
        app.beat(0.06)
    assert limiter.beats == [pytest.approx(0.55), pytest.approx(0.325), pytest.approx(0.2125)]
    used.advance(0.1)
    app.beat(0.05)
    assert limiter.beats[-1] == pytest.approx(0.60625)


async def test_a_beat_sheds_those_who_waited_too_long() -> None:
    clock, limiter = ManualClock(), Recording(1)
    app = LoadSheddingMiddleware(answer(200), limiter, clock=clock)
    limiter.arrive(Priority.CRITICAL, clock())
    wait = limiter.arrive(Priority.CRITICAL, clock())
    assert isinstance(wait, Wait)
    clock.advance(5.0)
    app.beat(0.0)
    assert isinstance(wait.verdict, Shed)


async def test_the_limiter_learns_how_long_the_loop_took_after_an_admission() -> None:
    clock, limiter = ManualClock(), Recording()
    limiter.on_arrival = lambda: clock.advance(0.25)
    await call_asgi(LoadSheddingMiddleware(answer(200), limiter, clock=clock))
    assert limiter.lags == [0.25]


async def test_the_limiter_learns_route_and_known_waits_of_a_request() -> None:
    limiter, clock = Recording(), ManualClock()

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        scope["endpoint"] = answer
        clock.advance(0.5)
        add_wait(0.2)
        add_wait(float(scope["path"][1:]))
        await answer(200)(scope, receive, send)

    app = ContextMiddleware(LoadSheddingMiddleware(handler, limiter, clock=clock), clock=clock)
    await call_asgi(app, path="/0.1")
    await call_asgi(app, path="/3")
    assert limiter.kinds == [id(answer)] * 2
    # Waits side by side may add up to more than the request's age.
    assert limiter.waits == [pytest.approx(0.3), pytest.approx(0.5)]


@pytest.mark.parametrize(
    ("status", "ending"),
    [(200, ANSWERED), (404, ANSWERED), (499, ANSWERED), (500, LOST), (503, LOST), (504, LOST)],
)
async def test_an_answer_from_500_up_counts_as_lost(status: int, ending: Ending) -> None:
    limiter = Recording()
    assert (await call_asgi(LoadSheddingMiddleware(answer(status), limiter))).status == status
    assert limiter.endings == [ending]


@pytest.mark.parametrize(
    "error", [RuntimeError("no"), DeadlineExceededError("request")], ids=["other", "late"]
)
async def test_an_error_goes_on_and_gives_the_slot_back(error: Exception) -> None:
    limiter = Recording()
    with pytest.raises(type(error)):
        await call_asgi(LoadSheddingMiddleware(raising(error), limiter))
    assert limiter.endings == [LOST]
    assert limiter.in_flight == 0


async def test_a_cancelled_request_counts_as_lost() -> None:
    held, limiter = Held(), Recording()
    app = LoadSheddingMiddleware(held, limiter, clock=ManualClock(1000.0))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call_asgi, app)
        await until(lambda: held.begun == 1)
        tasks.cancel_scope.cancel()
    assert limiter.endings == [LOST]
    assert limiter.in_flight == 0


async def test_a_request_cancelled_before_it_ran_gives_its_slot_back() -> None:
    held, limiter = Held(), Recording()
    app = LoadSheddingMiddleware(held, limiter)
    with anyio.CancelScope() as scope:
        limiter.on_arrival = scope.cancel
        await call_asgi(app)
    assert held.begun == 0
    assert (limiter.endings, limiter.in_flight) == ([LOST], 0)


async def test_a_stream_gives_its_slot_back_with_its_first_piece() -> None:
    limiter = Recording()
    seen: list[int] = []

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(3):
            seen.append(limiter.in_flight)
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    assert (await call_asgi(LoadSheddingMiddleware(stream, limiter))).body == b"xxx"
    assert seen == [1, 0, 0]
    assert limiter.endings == [ANSWERED]


# --- waiting ---


async def test_who_waits_is_served_when_a_slot_comes_free() -> None:
    held, limiter = Held(), Recording()
    app = LoadSheddingMiddleware(held, limiter, clock=ManualClock())
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
    app = LoadSheddingMiddleware(held, limiter)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call_asgi, app)
        await until(lambda: held.begun == 1)
        with anyio.fail_after(10):
            assert (await call_asgi(app)).status == 503
        held.go.set()
    assert (held.begun, limiter.waiting, limiter.in_flight) == (1, 0, 0)


async def test_who_is_cancelled_while_waiting_leaves_the_queue() -> None:
    held, limiter = Held(), Recording()
    app = LoadSheddingMiddleware(held, limiter)
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
async def test_who_is_cancelled_just_as_his_turn_comes_passes_the_slot_on(first: str) -> None:
    held, limiter = Held(), Recording()
    app = LoadSheddingMiddleware(held, limiter)
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


# --- refused ---


def full(app: ASGIApp | None = None, **options: Any) -> LoadSheddingMiddleware:
    limiter = Recording(1, patience=1e-6, spare=1e-6)
    limiter.in_flight = 100
    return LoadSheddingMiddleware(app or answer(200), limiter, **options)


async def test_a_refusal_is_a_problem_that_tells_when_to_come_back() -> None:
    app = ContextMiddleware(full(luck=lambda: 0.5))
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
        "detail": "The service has more to do than it can. Try again after the time in Retry-After, and less often",
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
@given(path=st.text(), method=st.sampled_from(["GET", "HEAD", "POST"]), named=st.booleans())
async def test_the_quick_way_to_refuse_says_what_the_slow_one_says(
    path: str,
    method: str,
    named: bool,  # noqa: FBT001 - hypothesis hands it over by name
) -> None:
    request = RequestContext("request-1", 0.0) if named else None
    scope: dict[str, Any] = {"type": "http", "path": path, "method": method, "headers": []}
    scope["postfacta.request"] = request
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


# --- priorities ---


def _yes(scope: Scope) -> bool:
    return True


def _no(scope: Scope) -> bool:
    return False


def _sheddable(scope: Scope) -> Priority:
    return Priority.SHEDDABLE


def _none(scope: Scope) -> None:
    """Know nothing."""


def _nonsense(scope: Scope) -> Any:
    return 17


def _raises(scope: Scope) -> Any:
    raise RuntimeError


async def priority_of(headers: list[tuple[str, str]], **options: Any) -> int:
    app = ContextMiddleware(LoadSheddingMiddleware(answer(200), **options))
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
async def test_a_caller_is_believed_if_he_knows_the_key(
    headers: list[tuple[str, str]], priority: int
) -> None:
    assert await priority_of(headers, priority_key="secret") == priority
    assert await priority_of(headers) == 1


async def test_without_a_key_nobody_is_believed_for_an_empty_one() -> None:
    headers = [("X-Priority", "critical_plus"), ("X-Priority-Key", "")]
    assert await priority_of(headers, trusts=_no) == 1
    assert await priority_of(headers, trusts=_yes) == 0


@pytest.mark.parametrize(
    ("tells", "priority"),
    [(_sheddable, 3), (_none, 1), (_nonsense, 1), (_raises, 1)],
)
async def test_what_a_function_of_the_scope_tells_counts_and_what_it_does_wrong_does_not(
    tells: Callable[[Scope], Any], priority: int
) -> None:
    assert await priority_of([], priority_of=tells) == priority
    # A trusted caller goes first.
    trusted = [("X-Priority", "critical_plus")]
    assert await priority_of(trusted, priority_of=tells, trusts=_yes) == 0
    assert await priority_of(trusted, priority_of=tells, trusts=_raises) == priority


async def test_the_critical_is_served_where_the_sheddable_is_refused() -> None:
    limiter = Recording(10, patience=1e-6, spare=1e-6)
    limiter.in_flight = 8
    app = LoadSheddingMiddleware(answer(200), limiter, trusts=_yes)
    assert (await call_asgi(app, headers=[("X-Priority", "sheddable")])).status == 503
    assert (await call_asgi(app, headers=[("X-Priority", "critical")])).status == 200


# --- modes ---


async def test_a_shadow_lets_everybody_pass_and_counts_who_would_not() -> None:
    app = full(mode=Mode.SHADOW)
    assert (await call_asgi(app)).status == 200
    counted = {s.labels: s.value for s in app.limiter.tally() if s.value and "decisions" in s.metric}
    assert counted == {("requests", "critical", "shed", "shadow"): 1}
    assert app.limiter.in_flight == 100


async def test_off_is_as_if_it_were_not_there() -> None:
    arrivals: list[None] = []
    limiter = Recording()
    limiter.on_arrival = lambda: arrivals.append(None)
    app = LoadSheddingMiddleware(answer(200), limiter, mode=Mode.OFF)
    assert (await call_asgi(app)).status == 200
    assert not arrivals
    assert not [s for s in app.limiter.tally() if s.value and "decisions" in s.metric]


async def test_the_mode_may_change_at_any_time_and_is_told_of_when_it_really_does() -> None:
    observer = RecordingObserver()
    app = full(observer=observer)
    assert observer.of(PolicyCreated)[0].policy == "requests"
    assert list(observer.of(PolicyCreated)[0].tally())
    assert app.mode is Mode.ENFORCE
    app.mode = Mode.SHADOW
    app.mode = Mode.SHADOW
    assert (await call_asgi(app)).status == 200
    app.mode = Mode.ENFORCE
    assert (await call_asgi(app)).status == 503
    assert observer.of(ModeChanged) == [
        ModeChanged("requests", Mode.ENFORCE, Mode.SHADOW),
        ModeChanged("requests", Mode.SHADOW, Mode.ENFORCE),
    ]


async def test_a_slot_comes_back_though_the_mode_changed_meanwhile() -> None:
    held, limiter = Held(), Recording()
    app = LoadSheddingMiddleware(held, limiter)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call_asgi, app)
        await until(lambda: held.begun == 1)
        app.mode = Mode.OFF
        held.go.set()
    assert limiter.in_flight == 0


# --- what is not a request ---


async def _drive(app: ASGIApp, kind: str) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": f"{kind}.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": kind, "path": "/", "headers": []}, receive, send)
    return sent


def _socket(limiter: OverloadLimiter, seen: list[int], first: str = "websocket.accept") -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(limiter.in_flight)
        await send({"type": first})
        seen.append(limiter.in_flight)

    return app


@pytest.mark.parametrize(("first", "seen"), [("websocket.accept", [1, 0]), ("websocket.close", [1, 1])])
async def test_a_websocket_gives_its_slot_back_once_it_is_accepted_and_is_not_measured(
    first: str, seen: list[int]
) -> None:
    limiter, found = Recording(), list[int]()
    await _drive(LoadSheddingMiddleware(_socket(limiter, found, first), limiter), "websocket")
    assert found == seen
    assert (limiter.endings, limiter.in_flight) == ([UNKNOWN], 0)


async def test_a_websocket_is_refused_at_its_handshake() -> None:
    assert await _drive(full(), "websocket") == [{"type": "websocket.close", "code": 1013}]


async def test_what_is_neither_passes() -> None:
    seen: list[int] = []
    app = full()
    app = full(_socket(app.limiter, seen, "lifespan.startup.complete"))
    assert await _drive(app, "lifespan") == [{"type": "lifespan.startup.complete"}]


# --- defaults ---


async def test_slow_requests_that_fit_are_not_shed_by_default() -> None:
    """Sixteen at once from the first moment on, two seconds each on the service's clock."""
    clock, held = ManualClock(), Held()
    app = LoadSheddingMiddleware(held, clock=clock)
    statuses: list[int] = []

    async def get() -> None:
        statuses.append((await call_asgi(app)).status)

    for _ in range(20):
        held.begun, held.go = 0, anyio.Event()
        async with anyio.create_task_group() as tasks:
            for _ in range(16):
                tasks.start_soon(get)
            await until(lambda: held.begun == 16)
            clock.advance(2.0)
            held.go.set()
    assert statuses == [200] * 320
    assert app.limiter.limit >= 16


async def test_a_request_leaves_nothing_for_the_cyclic_collector() -> None:
    app = LoadSheddingMiddleware(answer(200), Recording(10))
    refusing = full()

    async def serve(scope: dict[str, Any]) -> None:
        await app(scope, _receive, _send)
        await refusing(scope, _receive, _send)

    scope: dict[str, Any] = {"type": "http", "path": "/", "method": "GET", "headers": []}
    for _ in range(5):
        await serve(scope)
    gc.collect()
    gc.disable()
    try:
        await app(scope, _receive, _send)
        for _ in range(20):
            refusing.limiter.arrive(Priority.CRITICAL, 1.0)
        await app(scope, _receive, _send)
        assert gc.collect() == 0
    finally:
        gc.enable()


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(message: Message) -> None:
    """Throw it away."""


# --- slow clients ---


class Client:
    """Sends its body when it is told to, and reads when it is told to."""

    def __init__(self, pieces: int = 1) -> None:
        self.gives = anyio.Event()
        self.reads = anyio.Event()
        self.asked = 0
        self._left = pieces

    async def receive(self) -> Message:
        self.asked += 1
        await self.gives.wait()
        if self._left == 0:
            return {"type": "http.disconnect"}
        self._left -= 1
        return {"type": "http.request", "body": b"x", "more_body": self._left > 0}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            await self.reads.wait()


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass
    await answer(200)(scope, receive, send)


async def _take(receive: Receive) -> None:
    await receive()


POST: Scope = {"type": "http", "method": "POST", "path": "/", "headers": []}


async def test_a_request_that_waits_for_its_body_holds_no_slot_until_it_has_come() -> None:
    clock, limiter = ManualClock(), Recording(1)
    app = LoadSheddingMiddleware(echo, limiter, clock=clock)
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
    app = LoadSheddingMiddleware(echo, OverloadLimiter("requests", OverloadConfig(start=4)))
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
    app = LoadSheddingMiddleware(echo, limiter, clock=clock)
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
    app = LoadSheddingMiddleware(echo, limiter, clock=clock)
    slow = Client()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(app, POST, slow.receive, slow.send)
        await until(lambda: slow.asked == 1)
        assert limiter.in_flight == 0
        tasks.cancel_scope.cancel()
    assert limiter.in_flight == 0


async def test_a_client_that_does_not_read_holds_no_slot() -> None:
    limiter = Recording(1)
    app = LoadSheddingMiddleware(answer(200), limiter)
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

    app = LoadSheddingMiddleware(works, limiter, clock=clock)
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

    app = LoadSheddingMiddleware(hasty, limiter, clock=clock)
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

    app = ContextMiddleware(LoadSheddingMiddleware(inner, limiter, clock=clock))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call_asgi, app)
        tasks.start_soon(call_asgi, app)
        await until(lambda: held.begun == 1 and limiter.waiting == 1)
        clock.advance(0.01)
        held.go.set()
    assert queued == [0.0, pytest.approx(0.01)]


# --- leaving ---


def leaving(*messages: Message) -> Receive:
    left = list(messages)

    async def receive() -> Message:
        return left.pop(0) if left else {"type": "http.disconnect"}

    return receive


async def test_a_caller_who_left_while_it_waited_is_not_served() -> None:
    held, limiter, clock = Held(), Recording(), ManualClock()
    app = LoadSheddingMiddleware(held, limiter, clock=clock)
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

    app = LoadSheddingMiddleware(handler, limiter, clock=clock)
    pieces: list[Message] = [
        {"type": "http.request", "body": b"a", "more_body": True},
        {"type": "http.request", "body": b"b"},
    ]
    await app(POST, leaving(*pieces), _send)
    assert bodies == [b"a", b"b"]
    assert limiter.endings == [ANSWERED]


# --- aside ---


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

    app = ContextMiddleware(LoadSheddingMiddleware(poll, limiter))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call_asgi, app)
        await begun.wait()
        assert limiter.in_flight == 0
        news.set()
    assert limiter.endings == [UNKNOWN, UNKNOWN]
    assert limiter.in_flight == 0


async def test_stepping_aside_outside_of_a_request_does_nothing() -> None:
    async with aside():
        assert current_request() is None


async def test_the_slot_leaves_the_context_with_the_response() -> None:
    app = ContextMiddleware(LoadSheddingMiddleware(answer(200), Recording()))
    response = await call_asgi(app)
    assert response.scope["postfacta.request"].slot is None
