"""Whatever a check does, the others run on, and the report comes from memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import anyio
import pytest

from postfacta_core.clock import MONOTONIC
from postfacta_core.events import Event, HealthChecked
from postfacta_core.health._verdict import CheckReport
from postfacta_core.health.registry import HealthRegistry
from postfacta_core.testing import ManualClock, RecordingObserver
from tests.core.virtual import loop_clock, on_real_loops
from tests.kit.every import every

pytestmark = pytest.mark.usefixtures("anyio_backend")
Check = Callable[[], Awaitable[object]]
SHORT = 0.01


class Signal(BaseException):
    """What is no Exception, as a KeyboardInterrupt is not."""


class Dependency:
    """Is up or down as a test wants; counts how often it is asked."""

    def __init__(self, *, up: bool = True) -> None:
        self.up = up
        self.asked = 0

    async def __call__(self) -> object:
        self.asked += 1
        if not self.up:
            raise ConnectionRefusedError("postgres://user:hunter2@db")
        return None


class Heard:
    """An observer that can be waited on."""

    def __init__(self) -> None:
        self.events: list[HealthChecked] = []
        self._next = anyio.Event()

    def __call__(self, event: Event, /) -> None:
        assert isinstance(event, HealthChecked)
        self.events.append(event)
        self._next.set()
        self._next = anyio.Event()

    async def until(self, check: str, *, count: int = 1) -> HealthChecked:
        with anyio.fail_after(5):
            while len(found := [event for event in self.events if event.check == check]) < count:
                await self._next.wait()
        return found[count - 1]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def observer() -> RecordingObserver:
    return RecordingObserver()


@pytest.fixture
def registry(clock: ManualClock, observer: RecordingObserver) -> HealthRegistry:
    return HealthRegistry(observer=observer, clock=clock, luck=lambda: 0.5)


@asynccontextmanager
async def running(
    check: Check,
    *,
    timeout: float = 1.0,  # noqa: ASYNC109 - the check's own
) -> AsyncGenerator[tuple[HealthRegistry, Heard]]:
    """Run a check beside a good one, each of them again and again."""
    observed = Heard()
    registry = HealthRegistry(observer=observed, luck=lambda: 0.5)
    registry.add("bad", check, interval=SHORT, timeout=timeout)
    registry.add("good", Dependency(), interval=SHORT)
    async with registry:
        yield registry, observed


def only(registry: HealthRegistry) -> CheckReport:
    (report,) = registry.snapshot().checks
    return report


async def test_a_registry_without_checks_is_ready_once_entered(registry: HealthRegistry) -> None:
    assert not registry.snapshot().ready
    async with registry:
        report = registry.snapshot()
        assert (report.live, report.ready, report.started, report.draining) == (
            True,
            True,
            True,
            False,
        )
        assert report.checks == ()


async def test_the_first_run_begins_at_once_and_one_success_is_enough(
    observer: RecordingObserver,
) -> None:
    observed = Heard()
    registry = HealthRegistry(observer=observed)
    registry.add("db", Dependency(), interval=3600)
    async with registry:
        assert not registry.snapshot().ready
        assert not registry.snapshot().started
        await observed.until("db")
        assert registry.snapshot().ready
        assert registry.snapshot().started


async def test_a_dependency_that_is_away_at_the_start_is_waited_for() -> None:
    observed, db = Heard(), Dependency(up=False)
    registry = HealthRegistry(observer=observed)
    registry.add("db", db, interval=SHORT)
    async with registry:
        assert not (await observed.until("db", count=4)).up
        report = registry.snapshot()
        assert (report.live, report.ready, report.started) == (True, False, False)
        db.up = True
        back = db.asked
        await observed.until("db", count=back + 2)
        assert registry.snapshot().ready
        assert registry.snapshot().started


async def test_a_check_falls_after_three_failures_and_rises_after_two_successes(
    registry: HealthRegistry, observer: RecordingObserver
) -> None:
    db = Dependency()
    registry.add("db", db)
    verdicts: list[bool] = []
    for up in (True, False, False, True, False, False, False, True, False, True, True):
        db.up = up
        verdicts.append((await registry.run_once("db")).up)
    assert verdicts == [True, True, True, True, True, True, False, False, False, False, True]
    assert [event.passed for event in observer.of(HealthChecked)][:3] == [True, False, False]


async def test_started_stays_true_when_the_dependency_goes(registry: HealthRegistry) -> None:
    db = Dependency()
    registry.add("db", db, interval=3600)
    async with registry:
        await registry.run_once("db")
        db.up = False
        for _ in range(4):
            await registry.run_once("db")
        assert (registry.snapshot().ready, registry.snapshot().started) == (False, True)


async def test_a_degraded_check_fails_neither_readiness_nor_startup(
    registry: HealthRegistry,
) -> None:
    registry.add("mail", Dependency(up=False), critical=False, interval=3600)
    async with registry:
        await registry.run_once("mail")
        report = registry.snapshot()
        assert (report.ready, report.started, report.checks[0].up) == (True, True, False)


async def test_every_run_is_reported_with_its_duration(
    registry: HealthRegistry, clock: ManualClock, observer: RecordingObserver
) -> None:
    async def slow() -> None:
        clock.advance(0.25)

    registry.add("db", slow, critical=False)
    event = await registry.run_once("db")
    assert observer.events == [event]
    assert event == HealthChecked(check="db", critical=False, passed=True, up=True, seconds=0.25)


async def test_a_report_names_the_class_of_the_error_and_never_its_message(
    registry: HealthRegistry, clock: ManualClock
) -> None:
    registry.add("db", Dependency(up=False))
    event = await registry.run_once("db")
    clock.advance(2)
    assert event.error == only(registry).error == "ConnectionRefusedError"
    assert "hunter2" not in repr(registry.snapshot())
    assert "hunter2" not in repr(event)
    assert only(registry).age == 2.0


async def test_the_report_comes_from_memory(registry: HealthRegistry) -> None:
    db = Dependency()
    registry.add("db", db)
    await registry.run_once("db")
    for _ in range(10):
        registry.snapshot()
    assert db.asked == 1


async def test_a_stale_result_counts_as_failed_although_nothing_ran(
    registry: HealthRegistry, clock: ManualClock
) -> None:
    # Three results should have come by then.
    registry.add("db", Dependency(), interval=5.0, timeout=1.5, fall=3)
    await registry.run_once("db")
    clock.advance(20.9)
    assert only(registry).up
    clock.advance(0.2)
    assert (only(registry).up, only(registry).passed, only(registry).error) == (
        False,
        False,
        "Stale",
    )


async def raise_group() -> None:
    raise ExceptionGroup("several", [OSError(), ValueError()])


async def answer_false() -> bool:
    return False


async def cancel_itself() -> None:
    # What a check does that awaits a future which somebody cancelled.
    raise anyio.get_cancelled_exc_class()


async def test_a_check_that_raises_or_lies_has_failed_and_reaches_nothing_else() -> None:
    cases: list[tuple[Check, str]] = [
        (Dependency(up=False), "ConnectionRefusedError"),
        (raise_group, "ExceptionGroup"),
        (answer_false, "ReturnedFalse"),
    ]
    with every() as case:
        for check, error in cases:
            with case(check, error):
                async with running(check) as (registry, observed):
                    assert (await observed.until("bad", count=3)).error == error
                    assert (await observed.until("good", count=3)).passed
                    assert [one.up for one in registry.snapshot().checks] == [False, True]


@pytest.mark.parametrize(
    "anyio_backend", ["asyncio"]
)  # trio lets nobody make a Cancelled of his own
async def test_a_check_that_cancels_itself_has_failed_and_reaches_nothing_else() -> None:
    async with running(cancel_itself) as (_, observed):
        assert (await observed.until("bad", count=3)).error == "Cancelled"
        assert (await observed.until("good", count=3)).passed


@on_real_loops
async def test_a_check_that_hangs_is_cancelled_and_reaches_nothing_else() -> None:
    ended: list[str] = []

    async def hang() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("cleaned up")

    async with running(hang, timeout=SHORT) as (_, observed):
        event = await observed.until("bad", count=2)
        assert (event.passed, event.error) == (False, "TimeoutError")
        assert event.seconds >= SHORT
        assert len(ended) >= 2
        assert (await observed.until("good", count=3)).passed


async def test_a_check_that_ignores_its_cancellation_has_failed_all_the_same() -> None:
    async def deny() -> str:
        with suppress(BaseException):
            await anyio.sleep_forever()
        return "fine"

    observed = Heard()
    registry = HealthRegistry(observer=observed, clock=loop_clock())
    registry.add("bad", deny, timeout=SHORT)
    assert (await registry.run_once("bad")).error == "TimeoutError"


async def test_a_check_that_blocks_the_loop_has_failed_for_being_late() -> None:
    async def block() -> None:
        until = MONOTONIC() + 2 * SHORT
        while MONOTONIC() < until:
            pass

    async with running(block, timeout=SHORT) as (_, observed):
        assert (await observed.until("bad")).error == "TimeoutError"
        assert (await observed.until("good", count=3)).passed


async def test_a_run_that_takes_just_the_timeout_has_failed(
    registry: HealthRegistry, clock: ManualClock
) -> None:
    async def slow() -> None:
        clock.advance(1.0)

    registry.add("db", slow, timeout=1.0)
    assert (await registry.run_once("db")).error == "TimeoutError"


async def test_an_observer_that_raises_stops_no_check() -> None:
    def deaf(event: Event, /) -> None:
        raise RuntimeError(event)

    third = anyio.Event()

    async def count() -> None:
        counted.asked += 1
        if counted.asked == 3:
            third.set()

    counted = Dependency()
    registry = HealthRegistry(observer=deaf)
    registry.add("db", count, interval=SHORT)
    async with registry:
        with anyio.fail_after(5):
            await third.wait()
        assert registry.snapshot().ready


async def test_what_is_no_exception_is_not_held_up(
    registry: HealthRegistry, observer: RecordingObserver
) -> None:
    async def stop() -> None:
        raise Signal

    registry.add("db", stop)
    with pytest.raises(BaseExceptionGroup) as caught:
        await registry.run_once("db")
    assert caught.group_contains(Signal)
    assert observer.events == []


async def test_a_run_that_is_cancelled_from_outside_is_no_result(
    registry: HealthRegistry, observer: RecordingObserver
) -> None:
    registry.add("db", anyio.sleep_forever, timeout=60)
    with anyio.move_on_after(SHORT) as scope:
        await registry.run_once("db")
    assert scope.cancelled_caught
    assert observer.events == []


async def test_a_drained_registry_is_never_ready_again_whatever_finishes_later(
    registry: HealthRegistry,
) -> None:
    begun, go = anyio.Event(), anyio.Event()

    async def slow() -> None:
        begun.set()
        await go.wait()

    registry.add("db", slow, interval=3600)
    async with registry:
        with anyio.fail_after(5):
            await begun.wait()
        registry.drain()
        registry.drain()
        go.set()
        for _ in range(3):
            await registry.run_once("db")
        report = registry.snapshot()
        assert (report.live, report.ready, report.started, report.draining) == (
            True,
            False,
            True,
            True,
        )
        assert report.checks[0].up


async def test_after_the_exit_nothing_runs_and_nothing_is_ready() -> None:
    ended: list[str] = []

    async def hang() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("cleaned up")

    observed = Heard()
    registry = HealthRegistry(observer=observed)
    registry.add("good", Dependency())
    registry.add("hangs", hang, critical=False, timeout=60)
    async with registry:
        await observed.until("good")
        assert registry.snapshot().ready
    assert ended == ["cleaned up"]
    assert not registry.snapshot().ready


async def test_the_services_own_error_passes_as_it_is(registry: HealthRegistry) -> None:
    registry.add("db", Dependency())
    with pytest.raises(LookupError, match="the service's own"):
        async with registry:
            raise LookupError("the service's own")


async def test_a_cancellation_of_the_service_passes_through(registry: HealthRegistry) -> None:
    registry.add("db", Dependency())
    with anyio.move_on_after(SHORT) as scope:
        async with registry:
            await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_the_schedule_has_jitter() -> None:
    drawn = anyio.Event()

    def luck() -> float:
        drawn.set()
        return 0.0

    registry = HealthRegistry(luck=luck)
    registry.add("db", Dependency())
    async with registry:
        with anyio.fail_after(5):
            await drawn.wait()


async def test_a_check_is_added_once_and_not_while_the_checks_run(registry: HealthRegistry) -> None:
    registry.add("db", Dependency())
    with pytest.raises(ValueError, match="a name that no other check has, not 'db'"):
        registry.add("db", Dependency())
    async with registry:
        with pytest.raises(RuntimeError, match="before the registry is entered"):
            registry.add("late", Dependency())
        with pytest.raises(RuntimeError, match="entered once at a time"):
            await registry.__aenter__()
    registry.add("later", Dependency())


async def test_a_check_that_does_not_exist_cannot_be_run(registry: HealthRegistry) -> None:
    with pytest.raises(KeyError):
        await registry.run_once("nobody")


class Plain:
    """Is called in vain: nothing can be awaited."""

    def __call__(self) -> bool:
        return True


def plain() -> bool:
    return True


def test_a_plain_check_is_refused_in_each_form() -> None:
    with every() as case:
        for check in (plain, partial(plain), Plain()):
            with (
                case(check),
                pytest.raises(ValueError, match="an async function: a plain one would block"),
            ):
                HealthRegistry().add("plain", check)  # type: ignore[arg-type] # it is wrong


async def test_a_lambda_may_return_its_result_itself() -> None:
    registry = HealthRegistry()
    registry.add("up", lambda: True)  # type: ignore[arg-type, return-value] # it has no type of its own
    registry.add("down", lambda: False)  # type: ignore[arg-type, return-value]
    assert (await registry.run_once("up")).passed
    assert not (await registry.run_once("down")).passed
