"""A request is admitted, waits a moment or is refused, and whatever happens its slot comes back."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from postfacta_core.asgi import HardenOptions
from postfacta_core.asgi._concurrency import watched
from postfacta_core.asgi._types import ASGIApp, Message, Receive, Scope, Send
from postfacta_core.context import add_wait
from postfacta_core.errors import DeadlineExceededError
from postfacta_core.events import Mode, ModeChanged, PolicyCreated
from postfacta_core.limits._overload import Ending, OverloadLimiter
from postfacta_core.limits._waiting import Priority, Shed, Wait
from postfacta_core.testing import ManualClock, RecordingObserver, call_asgi
from tests.core.asgi.concurrency import (
    ANSWERED,
    LOST,
    UNKNOWN,
    Held,
    Recording,
    _receive,
    _send,
    answer,
    full,
    raising,
)
from tests.kit.alone import WithShedding
from tests.kit.every import every
from tests.kit.garbage import garbage
from tests.kit.waiting import until


async def test_a_request_that_finds_room_is_served_and_its_slot_comes_back() -> None:
    limiter = Recording()
    app = WithShedding(answer(200), limiter)
    for _ in range(3):
        assert (await call_asgi(app)).status == 200
    assert limiter.endings == [ANSWERED] * 3
    assert limiter.in_flight == 0


async def test_requests_that_arrive_together_see_one_another_before_the_first_of_them_runs() -> (
    None
):
    counts: list[int] = []
    limiter = Recording(10)

    async def busy(scope: Scope, receive: Receive, send: Send) -> None:
        # It never gives way: without a turn of the loop after admission each would find itself
        # alone.
        counts.append(limiter.in_flight)
        await answer(200)(scope, receive, send)

    app = WithShedding(busy, limiter)
    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(call_asgi, app)
    assert max(counts) == 8


async def together(app: WithShedding, counts: list[int]) -> int:
    """Send eight requests at once; tell the most of them that one of them saw."""
    counts.clear()
    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(call_asgi, app)
    return max(counts)


async def test_requests_that_cost_next_to_nothing_skip_the_turn_even_on_a_late_loop() -> None:
    counts: list[int] = []
    clock, used, limiter = ManualClock(), ManualClock(), Recording(10)
    cost = 0.0004

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        counts.append(limiter.in_flight)
        clock.advance(0.02)  # Others have the processor for most of it.
        used.advance(cost)
        await answer(200)(scope, receive, send)

    app = WithShedding(handler, limiter, clock=clock, processor=used)
    for _ in range(2):  # What they cost is to be found out first.
        assert await together(app, counts) == 8
    app.beat(1.0)
    assert await together(app, counts) == 1
    cost = 0.01
    for _ in range(2):
        await together(app, counts)
    app.beat(1.0)
    assert await together(app, counts) == 8


@pytest.mark.parametrize(
    ("cost", "requests", "refused", "is_cheap"),
    [
        (0.0005, 16, 0, False),
        (0.00049, 16, 0, True),
        (0.0001, 15, 0, False),
        (0.0009, 16, 64, True),
        (0.0009, 16, 0, False),
    ],
)
async def test_the_cost_of_a_request_is_the_mean_of_sixteen_without_that_of_refusals(
    cost: float, requests: int, refused: int, *, is_cheap: bool
) -> None:
    used, limiter = ManualClock(0.0), Recording(1, patience=1e-6, spare=1e-6)
    app = WithShedding(answer(200), limiter, processor=used)
    for _ in range(requests):
        await call_asgi(app)
    limiter.in_flight = 100
    for _ in range(refused):
        assert (await call_asgi(app)).status == 503
    used.advance(cost * requests)
    app.beat(0.0)
    assert app.is_cheap is is_cheap


async def test_a_loop_late_for_want_of_processor_is_not_held_against_requests() -> None:
    used, limiter = ManualClock(), Recording()
    app = WithShedding(answer(200), limiter, processor=used)
    for _ in range(3):
        used.advance(0.006)
        app.beat(0.06)
    assert limiter.beats == [pytest.approx(0.55), pytest.approx(0.325), pytest.approx(0.2125)]
    used.advance(0.1)
    app.beat(0.05)
    assert limiter.beats[-1] == pytest.approx(0.60625)
    # What is less late than 5 ms is no lag of anyone.
    app.beat(0.0049)
    assert limiter.beats[-1] == pytest.approx(0.803125)


async def test_a_beat_sheds_those_who_waited_too_long() -> None:
    clock, limiter = ManualClock(), Recording(1)
    app = WithShedding(answer(200), limiter, clock=clock)
    limiter.arrive(Priority.CRITICAL, clock())
    wait = limiter.arrive(Priority.CRITICAL, clock())
    assert isinstance(wait, Wait)
    clock.advance(5.0)
    app.beat(0.0)
    assert isinstance(wait.verdict, Shed)


async def test_the_limiter_learns_how_long_the_loop_took_after_an_admission() -> None:
    clock, limiter = ManualClock(), Recording()
    limiter.on_arrival = lambda: clock.advance(0.25)
    await call_asgi(WithShedding(answer(200), limiter, clock=clock))
    assert limiter.lags == [0.25]


async def test_the_limiter_learns_route_and_known_waits_of_a_request() -> None:
    limiter, clock = Recording(), ManualClock()

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        scope["endpoint"] = answer
        clock.advance(0.5)
        add_wait(0.2)
        add_wait(float(scope["path"][1:]))
        await answer(200)(scope, receive, send)

    app = WithShedding(handler, limiter, clock=clock)
    await call_asgi(app, path="/0.1")
    await call_asgi(app, path="/3")
    assert limiter.kinds == [id(answer)] * 2
    # Waits side by side may add up to more than the request's age.
    assert limiter.waits == [pytest.approx(0.3), pytest.approx(0.5)]


async def test_an_answer_from_500_up_counts_as_lost() -> None:
    cases: list[tuple[int, Ending]] = [
        (200, ANSWERED),
        (404, ANSWERED),
        (499, ANSWERED),
        (500, LOST),
        (503, LOST),
        (504, LOST),
    ]
    with every() as case:
        for status, ending in cases:
            with case(status, ending):
                limiter = Recording()
                assert (await call_asgi(WithShedding(answer(status), limiter))).status == status
                assert limiter.endings == [ending]


@pytest.mark.parametrize(
    "error", [RuntimeError("no"), DeadlineExceededError("request")], ids=["other", "late"]
)
async def test_an_error_goes_on_and_gives_the_slot_back(error: Exception) -> None:
    limiter = Recording()
    with pytest.raises(type(error)):
        await call_asgi(WithShedding(raising(error), limiter))
    assert limiter.endings == [LOST]
    assert limiter.in_flight == 0


async def test_a_cancelled_request_counts_as_lost() -> None:
    held, limiter = Held(), Recording()
    app = WithShedding(held, limiter, clock=ManualClock(1000.0))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call_asgi, app)
        await until(lambda: held.begun == 1)
        tasks.cancel_scope.cancel()
    assert limiter.endings == [LOST]
    assert limiter.in_flight == 0


async def test_a_request_cancelled_before_it_ran_gives_its_slot_back() -> None:
    held, limiter = Held(), Recording()
    app = WithShedding(held, limiter)
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

    assert (await call_asgi(WithShedding(stream, limiter))).body == b"xxx"
    assert seen == [1, 0, 0]
    assert limiter.endings == [ANSWERED]


async def test_a_shadow_admits_all_and_counts_would_be_refusals() -> None:
    app = full(options=HardenOptions(shedding=Mode.SHADOW))
    assert (await call_asgi(app)).status == 200
    counted = {
        s.labels: s.value for s in app.limiter.tally() if s.value and "decisions" in s.metric
    }
    assert counted == {("requests", "critical", "shed", "shadow"): 1}
    assert app.limiter.in_flight == 100


async def test_off_is_as_if_it_were_not_there() -> None:
    arrivals: list[None] = []
    limiter = Recording()
    limiter.on_arrival = lambda: arrivals.append(None)
    app = WithShedding(answer(200), limiter, HardenOptions(shedding=Mode.OFF))
    assert (await call_asgi(app)).status == 200
    assert not arrivals
    assert not [s for s in app.limiter.tally() if s.value and "decisions" in s.metric]


async def test_the_mode_may_change_anytime_and_real_changes_are_reported() -> None:
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
    app = WithShedding(held, limiter)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call_asgi, app)
        await until(lambda: held.begun == 1)
        app.mode = Mode.OFF
        held.go.set()
    assert limiter.in_flight == 0


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


@pytest.mark.parametrize(
    ("first", "seen"), [("websocket.accept", [0, 0]), ("websocket.close", [0, 0])]
)
async def test_a_websocket_takes_no_slot_and_is_not_measured(first: str, seen: list[int]) -> None:
    limiter, found = Recording(), list[int]()
    await _drive(WithShedding(_socket(limiter, found, first), limiter), "websocket")
    assert found == seen
    assert (limiter.endings, limiter.in_flight) == ([UNKNOWN], 0)


async def test_a_websocket_is_refused_at_its_handshake() -> None:
    assert await _drive(full(), "websocket") == [{"type": "websocket.close", "code": 1013}]


async def test_what_is_neither_passes() -> None:
    seen: list[int] = []
    app = full()
    app = full(_socket(app.limiter, seen, "lifespan.startup.complete"))
    assert await _drive(app, "lifespan") == [{"type": "lifespan.startup.complete"}]


async def test_slow_requests_that_fit_are_not_shed_by_default() -> None:
    """Eight at once from the first moment on, two seconds each on the service's clock."""
    clock, held = ManualClock(), Held()
    app = WithShedding(held, clock=clock)
    statuses: list[int] = []

    async def get() -> None:
        statuses.append((await call_asgi(app)).status)

    for _ in range(20):
        held.begun, held.go = 0, anyio.Event()
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(get)
            await until(lambda: held.begun == 8)
            clock.advance(2.0)
            held.go.set()
    assert statuses == [200] * 160
    assert app.limiter.limit >= 8


async def test_a_request_leaves_nothing_for_the_cyclic_collector() -> None:
    app = WithShedding(answer(200), Recording(10))
    refusing = full()

    scope: dict[str, Any] = {"type": "http", "path": "/", "method": "GET", "headers": []}

    async def once() -> None:
        await app(scope, _receive, _send)
        await refusing(scope, _receive, _send)

    assert await garbage(once) == 0


async def test_a_cancelled_wait_leaves_nothing_for_the_cyclic_collector() -> None:
    async def cancelled() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await watched(anyio.sleep_forever(), lambda: None)

    assert await garbage(cancelled) < 20
