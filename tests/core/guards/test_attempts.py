"""A block of code is tried again as a call is: the same tries, waits, counts, events and notes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest

from postfacta_core.errors import RejectedError
from postfacta_core.events import Mode, RetryScheduled
from postfacta_core.guards.budget import RetryBudget
from postfacta_core.guards.retry import Attempts, Retry
from tests.core.guards.test_retry import Bench, Dependency, Down, at_once, counts, deadline, notes
from tests.kit.every import every
from tests.kit.garbage import garbage

Ended = tuple[object, list[float], dict[str, float], list[RetryScheduled], list[str], float]


def errors(*kinds: type[Exception]) -> Callable[[], list[Exception]]:
    return lambda: [kind("down") for kind in kinds]


def refused(*waits: float) -> Callable[[], list[Exception]]:
    return lambda: [RejectedError("billing", seconds) for seconds in waits]


def is_of_the_system(outcome: Any) -> bool:
    return isinstance(outcome.error, OSError)


def without_status(outcome: Any) -> Any:
    return outcome.error.status


SCENARIOS: dict[str, tuple[Callable[[], list[Exception]], dict[str, Any]]] = {
    "answers": (errors(), {}),
    "recovers": (errors(ConnectionError, ConnectionResetError), {}),
    "exhausted": (errors(*[ConnectionError] * 9), {}),
    "not named": (errors(ValueError), {}),
    "never began": (refused(1.0), {"on": ()}),
    "never again": (refused(-1.0), {}),
    "the deadline": (refused(1.0, 1.0, 1.0), {}),
    "a long wait": (refused(3600.0), {}),
    "a function": (errors(OSError), {"on": is_of_the_system}),
    "a wrong function": (errors(OSError), {"on": without_status}),
    "shadow": (errors(ConnectionError), {"mode": Mode.SHADOW}),
    "off": (errors(ConnectionError), {"mode": Mode.OFF}),
    "one": (errors(ConnectionError), {"attempts": 1}),
}


def ended(bench: Bench, retry: Retry, answer: object) -> Ended:
    written = notes(answer) if isinstance(answer, Exception) else []
    text = repr(answer)
    scheduled = bench.heard.of(RetryScheduled)
    return (
        text,
        bench.waits,
        counts(retry),
        scheduled,
        written,
        retry.budget.tokens(bench.clock.now),
    )


async def by_call(bench: Bench, retry: Retry, dependency: Dependency) -> object:
    with deadline(bench.clock, 2.0):
        try:
            return await retry.call(dependency)
        except Exception as error:  # noqa: BLE001 - it is compared
            return error


async def by_block(bench: Bench, retry: Retry, dependency: Dependency) -> object:
    answer: object = None
    with deadline(bench.clock, 2.0):
        try:
            async for attempt in retry.attempts():
                with attempt:
                    answer = await dependency()
        except Exception as error:  # noqa: BLE001 - it is compared
            return error
    return answer


async def test_a_block_ends_as_a_call_in_every_way() -> None:
    with every() as case:
        for name, (make, options) in SCENARIOS.items():
            with case(name):
                ends: list[Ended] = []
                for run in (by_call, by_block):
                    bench = Bench()
                    budget = RetryBudget("db", ratio=0.5, floor=1e-9, burst=5)
                    retry = bench.retry(budget=budget, **options)
                    answer = await run(bench, retry, Dependency(*make()))
                    ends.append(ended(bench, retry, answer))
                assert ends[0] == ends[1]


async def test_an_empty_budget_ends_the_loop_with_the_error() -> None:
    bench, down = Bench(), Down()
    retry = bench.retry(budget=RetryBudget("db", ratio=0.1, floor=0.0, burst=1))
    with pytest.raises(ConnectionError, match="down") as caught:
        async for attempt in retry.attempts():
            with attempt:
                await down()
    assert down.asked == 2
    assert notes(caught.value) == [
        "retry 'billing': given up after 2 tries: the retry budget of its dependency is used up"
    ]


def test_a_block_of_a_thread_is_tried_again_there() -> None:
    waits: list[float] = []
    retry = Retry("files", on=OSError, luck=lambda: 0.0, sleep=waits.append)
    numbers: list[int] = []
    for attempt in retry.attempts():
        with attempt:
            numbers.append(attempt.number)
            if len(numbers) < 3:
                raise OSError
    assert numbers == [1, 2, 3]
    assert waits == pytest.approx([0.1, 0.2])
    assert counts(retry) == {"retried": 2, "recovered": 1}


def test_without_a_sleep_of_its_own_the_thread_waits() -> None:
    retry = Retry("files", on=OSError, luck=lambda: 1.0)
    made = 0
    for attempt in retry.attempts():
        with attempt:
            made += 1
            if made == 1:
                raise OSError
    assert made == 2


async def test_without_a_sleep_of_its_own_the_task_waits() -> None:
    retry = Retry("files", on=OSError, luck=lambda: 1.0)
    made = 0
    async for attempt in retry.attempts():
        with attempt:
            made += 1
            if made == 1:
                raise OSError
    assert made == 2


async def test_blocks_and_calls_in_one_another_do_not_multiply() -> None:
    bench = Bench()

    async def block(retry: Retry, function: Callable[[], Any]) -> Any:
        answer: object = None
        async for attempt in retry.attempts():
            with attempt:
                answer = await function()
        return answer

    with every() as case:
        for name in ("a call in a block", "a block in a call", "a block in a block"):
            with case(name):
                down = Down()
                inner, outer = bench.retry("inner"), bench.retry("outer")

                async def within(name: str = name, inner: Retry = inner, down: Down = down) -> Any:
                    return await (
                        inner.call(down) if name == "a call in a block" else block(inner, down)
                    )

                with pytest.raises(ConnectionError):
                    await (
                        outer.call(within) if name == "a block in a call" else block(outer, within)
                    )
                assert down.asked == 3
                assert counts(outer) == {"nested": 1}


async def test_a_loop_that_is_left_leaves_no_call_around_the_next() -> None:
    bench = Bench()
    budget = RetryBudget("db", ratio=0.25, floor=1e-9, burst=100)
    retry = bench.retry(budget=budget)
    assert all(budget.try_withdraw(bench.clock.now) for _ in range(98))
    async for attempt in retry.attempts():
        with attempt:
            break
    with suppress(ValueError):
        async for attempt in retry.attempts():
            with attempt:
                raise ConnectionError
            raise ValueError
    await retry.call(Dependency())
    # Each of the three paid in: none was a try of another. One paid for a second try.
    assert budget.tokens(bench.clock.now) == pytest.approx(0.25 * 3 + 1)
    assert counts(retry) == {"success": 2, "retried": 1}


async def test_a_block_that_is_cancelled_is_no_outcome() -> None:
    bench = Bench()
    retry = bench.retry()
    made = 0
    with anyio.CancelScope() as scope:
        async for attempt in retry.attempts():
            with attempt:
                made += 1
                scope.cancel()
                await anyio.sleep(5)
    assert (made, counts(retry)) == (1, {})
    with anyio.CancelScope() as scope:
        async for attempt in retry.attempts():
            with attempt:
                made += 1
                scope.cancel()
                raise ConnectionError
    assert (made, counts(retry)) == (2, {"retried": 1})


async def test_a_loop_that_runs_no_block_is_refused() -> None:
    retry = Bench().retry()
    with pytest.raises(
        RuntimeError, match="a turn ran no block: write `with attempt:` in the loop"
    ):
        async for _ in retry.attempts():
            await Dependency()()


async def test_a_block_that_is_entered_twice_is_refused() -> None:
    retry = Bench().retry()
    with pytest.raises(RuntimeError, match="enter each turn of the loop once: with attempt:"):
        async for attempt in retry.attempts():
            with attempt, attempt:
                await Dependency()()
    with pytest.raises(RuntimeError, match="enter each turn of the loop once"), retry.attempts():
        raise AssertionError


async def test_a_second_loop_over_the_same_attempts_is_refused() -> None:
    attempts = Bench().retry().attempts()
    async for attempt in attempts:
        with attempt:
            await Dependency()()
    with pytest.raises(RuntimeError, match="looped over before: call attempts"):
        async for _ in attempts:
            raise AssertionError


async def test_a_plain_loop_on_an_event_loop_is_refused() -> None:
    retry = Bench().retry()
    with pytest.raises(RuntimeError, match="would block the event loop"):
        for _ in retry.attempts():
            raise AssertionError
    retry.mode = "off"
    for attempt in retry.attempts():
        with attempt:
            assert isinstance(attempt, Attempts)


def test_threads_loop_side_by_side() -> None:
    retry = Retry("files", on=OSError, luck=lambda: 1.0, budget=RetryBudget("files", burst=1000))

    def work() -> None:
        for _ in range(50):
            for attempt in retry.attempts():
                with attempt:
                    if attempt.number == 1:
                        raise OSError

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts(retry) == {"retried": 200, "recovered": 200}


@pytest.mark.parametrize("failures", [0, 2, 3])
async def test_a_block_leaves_nothing_for_the_cyclic_collector(failures: int) -> None:
    retry = Retry(
        "billing", budget=RetryBudget("billing", ratio=3.0), on=ConnectionError, sleep=at_once
    )

    async def once() -> None:
        with suppress(ConnectionError):
            async for attempt in retry.attempts():
                with attempt:
                    if attempt.number <= failures:
                        raise ConnectionError

    assert await garbage(once) == 0
