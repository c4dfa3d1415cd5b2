"""The test kit does what a server does, no more and no less; its time is virtual, and its faults are on purpose."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import math
import random
import re
import runpy
import socket
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from anyio.lowlevel import checkpoint
from hypothesis import example, given, strategies as st
from trio.testing import MockClock

from postfacta_core.aio.retry import Retry
from postfacta_core.asgi._types import Receive, Scope, Send
from postfacta_core.clock import Luck, present_haste
from postfacta_core.events import HealthChecked, ListenerFailed, RetryScheduled
from postfacta_core.testing import (
    AsgiResponse,
    Chaos,
    Fault,
    ManualClock,
    RecordingObserver,
    VirtualTimeLoop,
    call_asgi,
    cancel_at_each_await,
    cancellable,
    run_in_virtual_time,
    testing_mode,
)


async def answer(send: Send, *chunks: bytes, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"x-kind", b"test")]})
    for number, chunk in enumerate(chunks, start=1):
        await send({"type": "http.response.body", "body": chunk, "more_body": number < len(chunks)})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with each chunk of the request, and with a bar after each."""
    chunks, more = [b""], True
    while more:
        message = await receive()
        chunks.append(message["body"] + b"|")
        more = message["more_body"]
    await answer(send, *chunks)


def test_a_manual_clock_stands_until_it_is_moved() -> None:
    clock = ManualClock(5.0)
    assert (clock(), clock()) == (5.0, 5.0)
    clock.advance(0.5)
    assert clock() == 5.5


def test_a_recording_observer_keeps_all_in_order_and_picks_a_kind() -> None:
    seen = RecordingObserver()
    first, second = ListenerFailed("a", "A"), ListenerFailed("b", "B")
    check = HealthChecked(check="db", critical=True, passed=True, up=True, seconds=0.1)
    for event in (first, check, second):
        seen(event)
    assert seen.events == [first, check, second]
    assert seen.of(ListenerFailed) == [first, second]
    assert seen.of(HealthChecked) == [check]


async def test_an_answer_is_recorded_as_it_was_sent() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b'{"a":', b"1}", status=201)

    response = await call_asgi(app)
    assert (response.status, response.body, response.json()) == (201, b'{"a":1}', {"a": 1})
    assert response.headers == [(b"x-kind", b"test")]
    assert (response.header("X-Kind"), response.header("missing")) == ("test", None)
    assert [message["type"] for message in response.messages] == [
        "http.response.start",
        "http.response.body",
        "http.response.body",
    ]


async def test_the_scope_is_what_a_server_makes_of_the_request() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["left"] = True
        await answer(send, b"")

    response = await call_asgi(
        app,
        "PATCH",
        "/api/é",
        headers=[("X-One", "1"), ("x-one", "é")],
        query="a=b",
        root_path="/api",
        scope={"client": None, "more": 1},
    )
    scope = response.scope
    assert (scope["type"], scope["method"], scope["path"]) == ("http", "PATCH", "/api/é")
    assert (scope["raw_path"], scope["query_string"], scope["root_path"]) == (
        b"/api/\xc3\xa9",
        b"a=b",
        "/api",
    )
    assert scope["headers"] == [(b"x-one", b"1"), (b"x-one", b"\xe9")]
    assert (scope["client"], scope["more"], scope["left"]) == (None, 1, True)


@pytest.mark.parametrize(
    ("body", "expected"), [(b"", b"|"), (b"abc", b"abc|"), ([b"a", b"b"], b"a|b|"), ([b""], b"|")]
)
async def test_a_body_comes_in_one_message_or_in_one_for_each_chunk(
    body: bytes | list[bytes], expected: bytes
) -> None:
    assert (await call_asgi(echo, "POST", body=body)).body == expected


async def test_the_client_stays_until_it_has_the_whole_answer() -> None:
    order: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

        async def watch() -> None:
            order.append((await receive())["type"])

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            for _ in range(5):
                await checkpoint()
            order.append("answer")
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
            for _ in range(5):
                await checkpoint()
            order.append("rest")
            await send({"type": "http.response.body", "body": b"b"})

    assert (await call_asgi(app)).body == b"ab"
    assert order == ["answer", "rest", "http.disconnect"]


async def test_a_client_that_leaves_is_noticed_by_both_ends() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await answer(send, b"first", b"second")

    response = await call_asgi(app, disconnect_after=2, raise_errors=False)
    assert isinstance(response.error, OSError)
    assert (response.status, response.body) == (200, b"first")


async def test_a_client_may_leave_once_its_body_is_read() -> None:
    types: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        types.extend([(await receive())["type"] for _ in range(3)])
        await answer(send, b"too late")

    with pytest.raises(OSError, match="the client is gone"):
        await call_asgi(app, "POST", body=[b"a", b"b"], disconnect_after=0)
    assert types == ["http.request", "http.request", "http.disconnect"]


async def crash(scope: Scope, receive: Receive, send: Send) -> None:
    raise LookupError(scope["path"])


async def test_what_an_application_raises_is_raised_or_kept() -> None:
    with pytest.raises(LookupError):
        await call_asgi(crash)
    response = await call_asgi(crash, raise_errors=False)
    assert isinstance(response.error, LookupError)
    assert response.status == 0


async def test_a_cancelled_caller_is_cancelled_whatever_it_keeps() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep_forever()

    response: AsgiResponse | None = None
    with anyio.move_on_after(0) as scope:
        response = await call_asgi(app, raise_errors=False)
    assert scope.cancelled_caught
    assert response is None


# The page.

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "how-to" / "test-with-the-kit.md"


def examples(folder: Path) -> dict[str, Any]:
    """Run the blocks of the page, each in a file of its own and with what those before defined; return it all."""
    known: dict[str, Any] = {}
    for number, block in enumerate(
        re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    ):
        file = folder / f"block_{number}.py"
        file.write_text(block)
        known |= runpy.run_path(str(file), init_globals=known)
    return known


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_each_test_on_the_page_passes(backend: str, tmp_path: Path) -> None:
    tests = {name: it for name, it in examples(tmp_path).items() if name.startswith("test_")}
    assert len(tests) == 8
    for test in tests.values():
        if inspect.iscoroutinefunction(test):
            anyio.run(test, backend=backend)
        else:
            test()


# Virtual time. A day must pass in far less than this, and a real wait of this length would be noticed.
REAL_SECONDS = 5.0


async def nap(seconds: float) -> float:
    """Sleep, and return the time that it took on the loop's clock."""
    before = anyio.current_time()
    await anyio.sleep(seconds)
    return anyio.current_time() - before


def test_a_day_asleep_takes_no_time() -> None:
    clock, began = ManualClock(0.0), time.monotonic()
    assert run_in_virtual_time(nap, 86_400.0, clock=clock) == 86_400.0
    assert clock() == 86_400.0
    assert time.monotonic() - began < REAL_SECONDS


def test_a_sleep_longer_than_the_loop_waits_at_once_is_not_cut_short() -> None:
    # asyncio asks its selector for a day at most.
    assert run_in_virtual_time(nap, 1e6, clock=ManualClock(0.0)) == 1e6


def test_a_timeout_fires_at_its_moment_and_not_before() -> None:
    async def work() -> tuple[bool, bool, float]:
        with anyio.move_on_after(2) as late:
            await anyio.sleep(3)
        with anyio.move_on_after(2) as early:
            await anyio.sleep(1)
        return late.cancelled_caught, early.cancelled_caught, anyio.current_time()

    assert run_in_virtual_time(work, clock=ManualClock(10.0)) == (True, False, 13.0)


def test_time_stands_while_there_is_something_to_do() -> None:
    clock = ManualClock(7.0)

    async def work() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 60)
            for _ in range(100):
                await checkpoint()
            group.cancel_scope.cancel()

    run_in_virtual_time(work, clock=clock)
    assert clock() == 7.0


def test_a_clock_that_is_moved_by_hand_fires_what_is_due_then() -> None:
    clock = ManualClock(0.0)
    order: list[str] = []

    async def sleeper() -> None:
        await anyio.sleep(60)
        order.append(f"woken at {clock.now:g}")

    async def work() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(sleeper)
            await checkpoint()
            clock.advance(61)
            order.append("moved")

    run_in_virtual_time(work, clock=clock)
    assert order == ["moved", "woken at 61"]


def test_a_cancelled_timer_is_no_moment_to_jump_to() -> None:
    async def work() -> float:
        loop = asyncio.get_running_loop()
        loop.call_later(1, int).cancel()
        return await nap(5)

    assert run_in_virtual_time(work, clock=ManualClock(0.0)) == 5.0


async def diary(naps: list[list[float]]) -> list[tuple[float, int]]:
    """Let tasks nap; return when each woke up, on the loop's clock from its start."""
    began = anyio.current_time()
    entries: list[tuple[float, int]] = []

    async def sleeper(number: int, lengths: list[float]) -> None:
        for length in lengths:
            await anyio.sleep(length)
            entries.append((anyio.current_time() - began, number))

    async with anyio.create_task_group() as group:
        for number, lengths in enumerate(naps):
            group.start_soon(sleeper, number, lengths)
    return entries


@given(st.lists(st.lists(st.integers(0, 4000).map(lambda n: n / 8), max_size=5), max_size=5))
@example([[0.125, 0.125], [0.25]])
def test_tasks_wake_when_their_naps_add_up_and_in_order(naps: list[list[float]]) -> None:
    expected = sorted(
        (at, number) for number, lengths in enumerate(naps) for at in itertools.accumulate(lengths)
    )
    entries = run_in_virtual_time(diary, naps)
    assert [at for at, _ in entries] == [at for at, _ in expected]
    assert Counter(entries) == Counter(expected)
    # The same on trio, whose own clock jumps in the same way; there, who wakes first of several is left to luck.
    on_trio = trio.run(diary, naps, clock=MockClock(autojump_threshold=0))
    assert sorted(on_trio) == expected
    assert entries == run_in_virtual_time(diary, naps)


async def wait_for_nobody() -> None:
    await anyio.Event().wait()


async def use_a_thread() -> None:
    with anyio.fail_after(60):
        await anyio.to_thread.run_sync(threading.Event().wait, 0.05)


async def use_an_executor() -> None:
    await asyncio.to_thread(threading.Event().wait, 0.001)


async def use_a_socket() -> None:
    here, there = socket.socketpair()
    with here, there:
        for end in (here, there):
            end.settimeout(0)
        loop = asyncio.get_running_loop()
        with anyio.fail_after(60):
            await asyncio.gather(loop.sock_recv(here, 1), loop.sock_sendall(there, b"x"))


async def use_a_process() -> None:
    process = await asyncio.create_subprocess_exec("true")
    assert await process.wait() == 0


async def use_a_shell() -> None:
    process = await asyncio.create_subprocess_shell("true")
    assert await process.wait() == 0


OUTSIDE = [use_an_executor, use_a_socket, use_a_process, use_a_shell]


@pytest.mark.parametrize("function", [wait_for_nobody, use_a_thread, *OUTSIDE])
def test_what_waits_for_the_real_world_is_refused(function: Callable[[], Awaitable[None]]) -> None:
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="`autojump_threshold`"):
        run_in_virtual_time(function)
    deadline = time.monotonic() + REAL_SECONDS
    while threading.active_count() > before and time.monotonic() < deadline:
        threading.Event().wait(0.001)
    assert threading.active_count() == before


@pytest.mark.parametrize("function", [use_a_thread, *OUTSIDE])
def test_with_a_threshold_the_real_world_is_waited_for(function: Callable[[], Awaitable[None]]) -> None:
    clock = ManualClock(0.0)
    run_in_virtual_time(function, clock=clock, autojump_threshold=REAL_SECONDS)
    assert clock() == 0.0


def test_with_a_threshold_the_clock_jumps_once_nothing_happens_for_so_long() -> None:
    began = time.monotonic()
    assert run_in_virtual_time(nap, 3600.0, autojump_threshold=0.01) == 3600.0
    assert 0.01 <= time.monotonic() - began < REAL_SECONDS


def test_a_thread_that_wakes_the_loop_is_noticed() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(int,))
        thread.start()
        thread.join()
        await anyio.sleep(1)

    with pytest.raises(RuntimeError, match="a thread"):
        run_in_virtual_time(work)
    run_in_virtual_time(work, autojump_threshold=0.001)


@pytest.mark.parametrize(
    ("function", "what"),
    [(use_an_executor, "a thread"), (use_a_process, "another process"), (use_a_shell, "another process")],
)
def test_whoever_asks_for_the_real_world_is_told_at_once(
    function: Callable[[], Awaitable[None]], what: str
) -> None:
    async def work() -> str:
        with pytest.raises(RuntimeError, match=what):
            await function()
        await anyio.sleep(1)
        return "went on"

    assert run_in_virtual_time(work) == "went on"


def test_what_a_failed_run_cancels_may_still_clean_up() -> None:
    cleaned: list[str] = []

    async def work() -> None:
        try:
            await wait_for_nobody()
        finally:
            with anyio.CancelScope(shield=True):
                for _ in range(2):
                    await anyio.to_thread.run_sync(threading.Event().wait, 0.01)
            cleaned.append("all")

    with pytest.raises(RuntimeError, match="all tasks wait"):
        run_in_virtual_time(work)
    assert cleaned == ["all"]


def test_a_refusal_that_is_swallowed_ends_the_run_all_the_same() -> None:
    async def work() -> None:
        try:
            await use_a_socket()
        except RuntimeError:
            await anyio.sleep(1)

    with pytest.raises(RuntimeError, match="a socket or pipe"):
        run_in_virtual_time(work)


@pytest.mark.parametrize("threshold", [-1.0, math.nan])
def test_a_threshold_that_makes_no_sense_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="needs a threshold"):
        VirtualTimeLoop(autojump_threshold=threshold)


def test_a_virtual_loop_goes_on_from_run_to_run() -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert [runner.run(nap(5)), runner.run(nap(5))] == [5.0, 5.0]
        assert runner.get_loop().time() == 1010.0


# Chaos.


class Worker:
    """Counts how often it was called, and returns what it was given."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        self.calls += 1
        return (*args, *kwargs.items())


async def outcome(function: Callable[[], Awaitable[object]]) -> str:
    try:
        await function()
    except Exception as error:  # noqa: BLE001 - whatever it is, is the outcome
        return type(error).__name__
    return "ok"


async def test_faults_come_in_the_order_of_the_script_and_end_with_it() -> None:
    work = Worker()
    chaos = Chaos([Fault(error=ConnectionResetError), None, Fault(error=lambda: OSError(5, "i/o"))])
    seen = [await outcome(partial(chaos.call, work)) for _ in range(5)]
    assert seen == ["ConnectionResetError", "ok", "OSError", "ok", "ok"]
    assert (work.calls, chaos.calls, len(chaos.injected)) == (3, 5, 2)
    assert repr(chaos) == "Chaos('chaos', calls=5, injected=2)"


async def test_each_error_is_a_new_one() -> None:
    chaos = Chaos(itertools.repeat(Fault(error=ConnectionResetError)))
    errors: list[Exception] = []
    for _ in range(2):
        with pytest.raises(ConnectionResetError) as caught:
            await chaos.call(Worker())
        errors.append(caught.value)
    assert errors[0] is not errors[1]


async def test_a_fault_before_spares_the_work_and_one_after_loses_its_answer() -> None:
    work = Worker()
    chaos = Chaos([Fault(error=OSError), Fault(error=OSError, after=True)])
    for calls in (0, 1):
        with pytest.raises(OSError):  # noqa: PT011 - it is bare on purpose
            await chaos.call(work)
        assert work.calls == calls


async def test_what_passes_has_its_arguments_and_its_result() -> None:
    chaos = Chaos()

    @chaos.wrap
    async def work(one: int, *, two: int) -> tuple[int, int]:
        return one, two

    assert await work(1, two=2) == (1, 2)
    assert await chaos.call(Worker(), 1, two=2) == (1, ("two", 2))
    assert work.__name__ == "work"
    assert chaos.calls == 2


async def test_latency_is_waited_before_the_work_or_after_it() -> None:
    order: list[object] = []

    async def sleep(seconds: float) -> None:
        order.append(seconds)

    async def work() -> None:
        order.append("work")

    chaos = Chaos([Fault(latency=2), Fault(latency=3, after=True), Fault()], sleep=sleep)
    for _ in range(3):
        await chaos.call(work)
    assert order == [2, "work", "work", 3, "work"]


async def test_latency_without_end_hangs_until_it_is_cancelled() -> None:
    with anyio.move_on_after(0) as scope:
        await Chaos([Fault(latency=math.inf)]).call(Worker())
    assert scope.cancelled_caught


@pytest.mark.parametrize("after", [False, True])
async def test_a_cancellation_ends_the_caller_and_not_the_test(after: bool) -> None:  # noqa: FBT001 - a table
    work = Worker()
    passed: list[str] = []
    chaos = Chaos([Fault(cancel=True, after=after)])
    with cancellable() as scope:
        try:
            await chaos.call(work)
            passed.append("the call")
        finally:
            passed.append("finally")
        passed.append("the block")
    assert scope.cancelled_caught
    assert passed == ["finally"]
    assert work.calls == int(after)
    await checkpoint()


async def test_a_cancellation_reaches_the_nearest_caller_also_from_another_task() -> None:
    chaos = Chaos([Fault(cancel=True)])
    with cancellable() as outer:
        with cancellable() as inner:
            async with anyio.create_task_group() as group:
                group.start_soon(chaos.call, Worker())
                await anyio.sleep_forever()
        assert inner.cancelled_caught
        await checkpoint()
    assert not outer.cancelled_caught


async def test_a_cancellation_needs_somebody_who_can_be_cancelled() -> None:
    with cancellable():
        pass
    with pytest.raises(RuntimeError, match="cancellable"):
        await Chaos([Fault(cancel=True)]).call(Worker())


async def test_chaos_that_is_switched_off_keeps_its_faults_for_later() -> None:
    chaos = Chaos([Fault(error=OSError)])
    chaos.is_active = False
    assert await outcome(partial(chaos.call, Worker())) == "ok"
    chaos.is_active = True
    assert await outcome(partial(chaos.call, Worker())) == "OSError"
    assert (chaos.calls, len(chaos.injected)) == (2, 1)


def seeded() -> Luck:
    return random.Random(7).random  # noqa: S311 - which faults come is no secret


CHANCES = (0.2, Fault(error=ConnectionResetError)), (0.1, Fault(error=TimeoutError))


async def test_by_chance_the_shares_are_those_asked_for_and_the_same_in_each_run() -> None:
    runs: list[list[str]] = []
    for _ in range(2):
        chaos = Chaos.by_chance(*CHANCES, luck=seeded())
        runs.append([await outcome(partial(chaos.call, Worker())) for _ in range(4000)])
    assert runs[0] == runs[1]
    shares = {kind: count / 4000 for kind, count in Counter(runs[0]).items()}
    assert shares == pytest.approx({"ok": 0.7, "ConnectionResetError": 0.2, "TimeoutError": 0.1}, abs=0.02)


@pytest.mark.parametrize(
    ("drawn", "kind"),
    [
        (0.0, "ConnectionResetError"),
        (math.nextafter(0.2, 0), "ConnectionResetError"),
        (0.2, "TimeoutError"),
        (math.nextafter(0.2 + 0.1, 0), "TimeoutError"),
        (0.2 + 0.1, "ok"),
        (math.nextafter(1, 0), "ok"),
    ],
)
async def test_luck_is_drawn_once_and_meets_the_bounds_exactly(drawn: float, kind: str) -> None:
    luck = iter([drawn])
    chaos = Chaos.by_chance(*CHANCES, luck=luck.__next__)
    assert await outcome(partial(chaos.call, Worker())) == kind


def test_probabilities_may_add_up_to_one_in_floats() -> None:
    chances = [(it, Fault()) for it in (0.2, 0.4, 0.3, 0.1)]
    assert reduce(add, [it for it, _ in chances]) > 1  # `sum` of floats is exact from Python 3.12 on.
    Chaos.by_chance(*chances, luck=seeded())


@pytest.mark.parametrize("wrong", [(-0.1,), (math.nan,), (0.6, 0.5), (math.inf,)])
def test_probabilities_that_make_no_sense_are_refused(wrong: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="needs probabilities"):
        Chaos.by_chance(*((it, Fault()) for it in wrong), luck=seeded())


@pytest.mark.parametrize("latency", [-1.0, math.nan])
def test_a_latency_that_makes_no_sense_is_refused(latency: float) -> None:
    with pytest.raises(ValueError, match="needs a latency"):
        Fault(latency=latency)


def test_a_fault_is_an_error_or_a_cancellation() -> None:
    with pytest.raises(ValueError, match="not both"):
        Fault(error=OSError, cancel=True)


# Cancelled at each await.


async def test_work_is_cancelled_at_each_of_its_awaits_in_turn() -> None:
    progress: list[int] = []

    async def work() -> None:
        progress.append(0)
        for _ in range(3):
            await checkpoint()
            progress[-1] += 1

    checks: list[int] = []
    assert await cancel_at_each_await(work, lambda: checks.append(len(progress))) == 3
    assert progress == [0, 1, 2, 3]
    assert checks == [1, 2, 3, 4]


async def test_work_that_never_waits_runs_once() -> None:
    work = Worker()
    assert await cancel_at_each_await(work) == 0
    assert work.calls == 1


async def test_a_leak_at_one_await_is_found() -> None:
    permits = 1

    async def leaky() -> None:
        nonlocal permits
        await checkpoint()
        permits -= 1
        await checkpoint()
        permits += 1

    def check() -> None:
        assert permits == 1

    with pytest.raises(AssertionError):
        await cancel_at_each_await(leaky, check)


async def test_a_clean_up_that_waits_is_waited_for() -> None:
    cleaned = 0

    async def work() -> None:
        nonlocal cleaned
        try:
            await checkpoint()
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()
                cleaned += 1

    await cancel_at_each_await(work)
    assert cleaned >= 2


async def test_work_that_waits_too_often_is_told_of() -> None:
    async def work() -> None:
        for _ in range(10):
            await checkpoint()

    assert await cancel_at_each_await(work, most=11) == 10
    with pytest.raises(RuntimeError, match="more often than 10"):
        await cancel_at_each_await(work, most=10)


async def test_an_error_of_the_work_is_raised() -> None:
    async def work() -> None:
        await checkpoint()
        raise LookupError

    with pytest.raises(LookupError):
        await cancel_at_each_await(work)


# Testing mode.


async def tries(*, attempts: int, **options: Any) -> tuple[int, list[float], RecordingObserver]:
    """Try what always fails; return how often it was called, the waits asked for, and the events."""
    chaos, waits, seen = (
        Chaos(itertools.repeat(Fault(error=ConnectionResetError))),
        list[float](),
        RecordingObserver(),
    )

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    retry = Retry(
        "bench", attempts=attempts, retryable=(ConnectionResetError,), observer=seen, sleep=sleep, **options
    )
    with pytest.raises(ConnectionResetError):
        await retry.call(chaos.wrap(Worker()))
    return chaos.calls, waits, seen


async def test_in_testing_mode_tries_follow_each_other_without_a_wait() -> None:
    with testing_mode():
        calls, waits, seen = await tries(attempts=4)
    assert (calls, waits) == (4, [0.0, 0.0, 0.0])
    assert [event.attempt for event in seen.of(RetryScheduled)] == [1, 2, 3]
    calls, waits, _ = await tries(attempts=4, luck=lambda: 0.5)
    assert (calls, waits) == (4, [0.05, 0.1, 0.2])


@pytest.mark.parametrize(("attempts", "calls"), [(1, 1), (2, 2), (9, 3), (None, 3)])
async def test_testing_mode_makes_fewer_tries_and_never_more(attempts: int | None, calls: int) -> None:
    with testing_mode(attempts=attempts):
        assert (await tries(attempts=3))[0] == calls


def _in_a_minute(error: Exception) -> float:
    return 60.0


async def test_testing_mode_waits_no_longer_for_what_production_would_give_up() -> None:
    with testing_mode():
        calls, _, _ = await tries(attempts=3, throttled=_in_a_minute)
    assert calls == 1


async def test_the_innermost_testing_mode_counts_and_ends_with_its_block() -> None:
    with testing_mode(attempts=1):
        with testing_mode(attempts=2), pytest.raises(LookupError):
            assert (await tries(attempts=3))[0] == 2
            raise LookupError
        assert (await tries(attempts=3))[0] == 1
    assert present_haste() is None


async def test_testing_mode_holds_for_a_server_in_another_thread() -> None:
    with testing_mode(attempts=1):
        seen = await anyio.to_thread.run_sync(present_haste)
    assert seen is not None
    assert seen.attempts == 1


@pytest.mark.parametrize("attempts", [0, -1])
def test_no_attempt_at_all_is_refused(attempts: int) -> None:
    with pytest.raises(ValueError, match="needs 1 attempt"):
        testing_mode(attempts=attempts)
