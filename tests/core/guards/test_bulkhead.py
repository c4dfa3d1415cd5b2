"""A bulkhead admits a bounded number, queues the others in order, and drops those that left."""

from __future__ import annotations

from functools import partial

import anyio
import pytest
from anyio import to_thread

from postfacta_core.context import RequestContext, bind_request, release_request
from postfacta_core.errors import BulkheadFullError
from postfacta_core.events import Mode, PolicyCreated
from postfacta_core.guards._slots import Turns
from postfacta_core.guards.bulkhead import Bulkhead
from postfacta_core.testing import ManualClock, RecordingObserver
from tests.core.virtual import on_real_loops
from tests.kit.every import every
from tests.kit.interleaving import interleaved
from tests.kit.waiting import until

NEVER_HERE = 60.0


class Scene:
    """Callers that work until they are let go."""

    def __init__(self, bulkhead: Bulkhead) -> None:
        self.bulkhead = bulkhead
        self.log: list[str] = []
        self.gates: dict[str, anyio.Event] = {}

    async def work(self, who: str) -> str:
        self.log.append(who)
        gate = self.gates[who] = anyio.Event()
        await gate.wait()
        return who

    def are_there(self, number: int) -> bool:
        return self.bulkhead.used + self.bulkhead.waiting == number

    async def come(self, who: str) -> None:
        try:
            await self.bulkhead.call(self.work, who)
        except BulkheadFullError:
            self.log.append(f"{who} refused")


async def test_at_most_size_calls_run_and_the_rest_are_fifo() -> None:
    scene = Scene(Bulkhead("db", 2, max_waiting=3, max_wait=NEVER_HERE))
    async with anyio.create_task_group() as tasks:
        for number, who in enumerate("abcde", start=1):
            tasks.start_soon(scene.come, who)
            await until(partial(scene.are_there, number))
        await scene.come("f")
        assert scene.log == ["a", "b", "f refused"]
        for who, following in ("ac", "bd", "ce"):
            scene.gates[who].set()
            await until(partial(scene.gates.__contains__, following))
        for who in "de":
            scene.gates[who].set()
    assert scene.log == ["a", "b", "f refused", "c", "d", "e"]
    assert (scene.bulkhead.used, scene.bulkhead.waiting) == (0, 0)


async def test_one_that_waits_too_long_is_refused_and_makes_place() -> None:
    scene = Scene(Bulkhead("db", 1, max_waiting=1, max_wait=0.01))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(scene.come, "a")
        await until(lambda: "a" in scene.gates)
        await scene.come("b")
        assert (scene.log, scene.bulkhead.waiting) == (["a", "b refused"], 0)
        scene.gates["a"].set()
    assert scene.bulkhead.used == 0


async def test_a_caller_waits_no_longer_than_its_request_can() -> None:
    clock = ManualClock()
    scene = Scene(Bulkhead("db", 1, max_waiting=1, max_wait=NEVER_HERE, clock=clock))
    request = RequestContext("request-id", clock.now, clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(scene.come, "a")
        await until(lambda: "a" in scene.gates)
        token = bind_request(request)
        try:
            for left in (0.02, 0.005, 0.0, -1.0):
                request.deadline = clock.now + left
                with anyio.fail_after(20):
                    await scene.come("b")
        finally:
            release_request(token)
        scene.gates["a"].set()
    assert scene.log == ["a"] + ["b refused"] * 4


async def test_a_request_knows_how_long_it_waited_for_a_slot_even_in_vain() -> None:
    clock = ManualClock()
    scene = Scene(Bulkhead("db", 1, max_waiting=2, max_wait=0.05, clock=clock))
    request = RequestContext("request-id", clock.now, clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(scene.come, "a")
        await until(lambda: "a" in scene.gates)
        token = bind_request(request)
        try:
            tasks.start_soon(scene.come, "b")
            await until(lambda: scene.bulkhead.waiting == 1)
            clock.advance(0.25)
            await until(lambda: "b refused" in scene.log)
        finally:
            release_request(token)
        scene.gates["a"].set()
    assert request.waited == pytest.approx(0.25)


async def test_a_call_inside_of_another_waits_for_itself_no_longer_than_max_wait() -> None:
    # anyio.CapacityLimiter raises RuntimeError for two of one task.
    wide, narrow = Bulkhead("db", 2), Bulkhead("db", 1, max_waiting=1, max_wait=0.01)

    async def inner() -> str:
        return "done"

    assert await wide.call(wide.call, inner) == "done"
    with pytest.raises(BulkheadFullError):
        await narrow.call(narrow.call, inner)
    assert (wide.used, narrow.used, narrow.waiting) == (0, 0, 0)


async def test_a_decorated_function_and_a_block_take_a_slot() -> None:
    bulkhead = Bulkhead("db", 1)

    @bulkhead
    async def used() -> int:
        """Look."""
        return bulkhead.used

    assert (used.__name__, used.__doc__, await used(), bulkhead.used) == ("used", "Look.", 1, 0)
    async with bulkhead.block():
        assert bulkhead.used == 1
        with pytest.raises(BulkheadFullError):
            await used()
        with pytest.raises(BulkheadFullError):
            async with bulkhead.block():
                raise AssertionError
    with pytest.raises(KeyError):
        async with bulkhead.block():
            raise KeyError
    assert bulkhead.used == 0


async def test_waiting_callers_are_admitted_when_it_is_turned_off() -> None:
    scene = Scene(Bulkhead("db", 1, max_waiting=1, max_wait=NEVER_HERE))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(scene.come, "a")
        await until(lambda: "a" in scene.gates)
        tasks.start_soon(scene.come, "b")
        await until(lambda: scene.bulkhead.waiting == 1)
        scene.bulkhead.mode = Mode.OFF
        await until(lambda: "b" in scene.gates)
        for gate in scene.gates.values():
            gate.set()
    assert scene.bulkhead.used == 0


def test_it_announces_itself() -> None:
    observer = RecordingObserver()
    bulkhead = Bulkhead("db", 1, observer=observer, mode="shadow")
    (created,) = observer.of(PolicyCreated)
    assert (created.policy, list(created.tally())) == ("db", list(bulkhead.collect()))
    assert (
        repr(bulkhead)
        == "Bulkhead('db', slots=1, max_waiting=0, max_wait=1, lends=False, mode='shadow')"
    )


def test_a_plain_function_runs_in_a_slot_and_is_refused_without_one() -> None:
    bulkhead = Bulkhead("db", 1)

    @bulkhead
    def outer() -> str:
        with pytest.raises(BulkheadFullError):
            bulkhead.call_sync(str)
        with pytest.raises(BulkheadFullError), bulkhead.block():
            pass
        return "done"

    assert outer() == "done"
    with bulkhead.block():
        assert bulkhead.used == 1
    assert bulkhead.used == 0


@on_real_loops
async def test_tasks_and_threads_share_the_slots_and_wait_in_one_queue() -> None:
    bulkhead = Bulkhead("db", 1, max_waiting=2, max_wait=NEVER_HERE)
    order: list[str] = []

    async def in_task() -> None:
        async with bulkhead.block():
            order.append("task")

    async def in_thread() -> None:
        await to_thread.run_sync(lambda: bulkhead.call_sync(order.append, "thread"))

    async with anyio.create_task_group() as tasks, bulkhead.block():
        tasks.start_soon(in_thread)
        await until(lambda: bulkhead.waiting == 1)
        tasks.start_soon(in_task)
        await until(lambda: bulkhead.waiting == 2)
        assert order == []
    assert (order, bulkhead.used, bulkhead.waiting) == (["thread", "task"], 0, 0)


def test_a_slot_whose_waiter_lost_its_event_loop_goes_to_the_next() -> None:
    def closed() -> None:
        raise RuntimeError("Event loop is closed")

    slots = Turns(1, 2)
    woken: list[str] = []
    slots.used += 1
    slots.join(closed)
    slots.join(lambda: woken.append("next"))
    slots.leave()
    assert (woken, slots.used, slots.waiting) == (["next"], 1, 0)


def test_no_slot_is_lost_or_given_twice_whenever_threads_change_places() -> None:
    with every() as case:
        for seed in range(6):
            with case(seed):
                bulkhead = Bulkhead("db", 1, max_waiting=3, max_wait=NEVER_HERE)
                most: list[int] = []

                def work(bulkhead: Bulkhead = bulkhead, most: list[int] = most) -> None:
                    for _ in range(3):
                        bulkhead.call_sync(lambda: most.append(bulkhead.used))

                interleaved([work, work, work], within="core/guards/", seed=seed)
                assert (max(most), len(most), bulkhead.used, bulkhead.waiting) == (1, 9, 0, 0)
