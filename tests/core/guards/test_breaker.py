"""A breaker guards calls in any style, and no cancellation, listener or storage changes its decisions."""

from __future__ import annotations

import copy
import math
import pickle
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pybreaker
import pytest

from postfacta_adapters.pybreaker import BreakerOpenError, attach
from postfacta_core.asgi import problem_of
from postfacta_core.errors import (
    BulkheadFullError,
    CircuitOpenError,
    DatabaseUnavailableError,
    LoadShedError,
    RateLimitExceededError,
)
from postfacta_core.events import CircuitChanged, ListenerFailed, Mode, PolicyCreated
from postfacta_core.guards._circuit import CircuitConfig, CircuitState
from postfacta_core.guards._guard import Outcome
from postfacta_core.guards.breaker import CircuitBreaker
from postfacta_core.telemetry.catalogue import POLICY_METRICS
from postfacta_core.testing import RecordingObserver
from tests.core.guards.breakers import (
    CLOSED,
    CONFIG,
    HALF_OPEN,
    OPEN,
    Pause,
    Style,
    breaker,
    by_async_with,
    by_call,
    by_decorator,
    by_with,
    clock_of,
    counts,
    fails,
    half_open_it,
    open_it,
    styles,
    works,
)
from tests.core.guards.notes import Notes
from tests.kit.every import every
from tests.kit.garbage import garbage
from tests.kit.interleaving import interleaved

pytestmark = pytest.mark.usefixtures("anyio_backend")


def test_a_call_that_passed_may_fail_late() -> None:
    cases: list[tuple[Mode, Exception, int]] = [
        (Mode.ENFORCE, OSError("cut"), 1),
        (Mode.SHADOW, OSError("cut"), 1),
        (Mode.OFF, OSError("cut"), 0),
        (Mode.ENFORCE, BulkheadFullError("own"), 0),
    ]
    with every() as case:
        for mode, error, failures in cases:
            with case(mode, error):
                guard = breaker(mode=mode)
                guard.fail_late(guard.era, error)
                assert guard.statistics().failures == failures
                assert counts(guard, mode).get("failure", 0) == failures


def test_a_late_failure_is_news_to_listeners_of_pybreaker() -> None:
    guard = breaker()
    notes = Notes()
    attach(guard, listeners=[notes])
    for _ in range(4):
        guard.fail_late(guard.era, OSError("cut"))
    assert guard.statistics().state is OPEN
    kinds = [note[0] for note in notes.take()]
    assert kinds == ["failure"] * 4 + ["state_change"]


@styles
async def test_a_guarded_call_answers_and_raises_as_without_a_guard(style: Style) -> None:
    guard = breaker()
    assert await style(guard, works) == "answer"
    error = KeyError("mine")

    async def raises() -> None:
        raise error

    with pytest.raises(KeyError) as caught:
        await style(guard, raises)
    assert caught.value is error
    assert counts(guard) == {"success": 1, "failure": 1}


@styles
async def test_it_opens_refuses_tries_and_closes(style: Style) -> None:
    heard = RecordingObserver()
    guard = breaker(observer=heard)
    await open_it(guard, style)
    called: list[int] = []

    async def calls() -> None:
        called.append(1)

    clock_of(guard).advance(3.0)
    with pytest.raises(CircuitOpenError) as refused:
        await style(guard, calls)
    assert (refused.value.policy, refused.value.retry_after, called) == ("db", 5.0, [])
    clock_of(guard).advance(5.0)
    await style(guard, works)
    assert guard.statistics().state is HALF_OPEN
    await style(guard, works)
    assert heard.of(CircuitChanged) == [
        CircuitChanged("db", "closed", "open", 1000.0, "failures"),
        CircuitChanged("db", "open", "half_open", 1008.0, "wait_over"),
        CircuitChanged("db", "half_open", "closed", 1008.0, "trials_passed"),
    ]
    assert counts(guard) == {"failure": 4, "rejected": 1, "success": 2}


async def test_the_refusal_is_ours_and_pybreakers_and_a_503_with_retry_after() -> None:
    guard = breaker()
    attach(guard)
    guard.open()
    with pytest.raises(pybreaker.CircuitBreakerError) as refused:
        await guard.call(works)
    error = refused.value
    assert isinstance(error, CircuitOpenError)
    assert (problem_of(error).status, problem_of(error).retry_after) == (503, 8.0)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301 - our own bytes
        assert (type(twin), twin.policy, twin.retry_after) == (BreakerOpenError, "db", 8.0)


async def test_slow_calls_open_it_and_emit_an_event_immediately() -> None:
    heard = RecordingObserver()
    guard = breaker(
        observer=heard, config=CircuitConfig(slow_call_duration=2.0, minimum_number_of_calls=4)
    )

    async def slow() -> None:
        clock_of(guard).advance(2.0)

    for _ in range(4):
        await guard.call(slow)
    assert counts(guard) == {"slow": 4}
    assert [event.reason for event in heard.of(CircuitChanged)] == ["slow_calls"]


class NotFoundError(Exception):
    """The caller's mistake: the dependency answered."""


async def ends(guard: CircuitBreaker, error: Exception) -> dict[str, float]:
    async def raises() -> None:
        raise error

    with pytest.raises(type(error)):
        await guard.call(raises)
    return counts(guard)


def is_not_a_mistake(outcome: Outcome[object]) -> bool:
    return outcome.error is not None and not isinstance(outcome.error, NotFoundError)


def is_nothing(outcome: Outcome[object]) -> bool:
    return False


FAILURES: list[tuple[Any, Exception, str]] = [
    (Exception, NotFoundError(), "failure"),
    (Exception, DatabaseUnavailableError("db"), "failure"),
    (Exception, BulkheadFullError("db"), "ignored"),
    (Exception, RateLimitExceededError("db"), "ignored"),
    (Exception, LoadShedError("db"), "ignored"),
    (Exception, BreakerOpenError("inner"), "ignored"),
    (OSError, TimeoutError(), "failure"),
    (OSError, NotFoundError(), "success"),
    (OSError, BulkheadFullError("db"), "ignored"),
    ((OSError, KeyError), KeyError(), "failure"),
    ((OSError, KeyError), NotFoundError(), "success"),
    (BulkheadFullError, BulkheadFullError("db"), "failure"),
    (is_not_a_mistake, OSError(), "failure"),
    (is_not_a_mistake, NotFoundError(), "success"),
    (is_nothing, LoadShedError("db"), "ignored"),
]


async def test_an_error_counts_as_what_it_says_of_the_dependency() -> None:
    with every() as case:
        for failures, error, outcome in FAILURES:
            with case(failures, error, outcome):
                assert await ends(breaker(on=failures), error) == {outcome: 1}


class VagueError(Exception):
    """It cannot say how long to wait."""

    @property
    def retry_after(self) -> float:
        raise RuntimeError("broken")


async def test_a_predicate_that_raises_changes_nothing_for_the_caller() -> None:
    def broken(outcome: Outcome[object]) -> bool:
        raise RuntimeError("broken")

    for on, error in ((broken, OSError("down")), (Exception, VagueError())):
        heard = RecordingObserver()
        assert await ends(breaker(observer=heard, on=on), error) == {"failure": 1}
        assert [event.policy for event in heard.of(ListenerFailed)] == ["db"]


WAITS: list[tuple[dict[str, Any], Exception, float | None]] = [
    ({}, OSError("down"), 8.0),
    ({}, DatabaseUnavailableError("db", 20.0), 20.0),
    ({}, DatabaseUnavailableError("db", 1e9), 32.0),
    ({}, DatabaseUnavailableError("db", None), 8.0),
    ({}, DatabaseUnavailableError("db", math.nan), 8.0),
    ({"on": KeyError}, DatabaseUnavailableError("db", 20.0), None),
]


async def test_a_dependency_may_ask_for_a_longer_wait() -> None:
    with every() as case:
        for options, error, wait in WAITS:
            with case(options, error, wait):
                guard = breaker(**options)
                for _ in range(4):
                    await ends(guard, error)
                assert guard.statistics().retry_after == wait


async def test_in_shadow_it_counts_what_it_would_refuse_and_lets_it_pass() -> None:
    guard = breaker(mode=Mode.SHADOW)
    await open_it(guard)
    for style in (by_call, by_decorator, by_async_with, by_with):
        assert await style(guard, works) == "answer"
        with pytest.raises(OSError, match="down"):
            await style(guard, fails)
    assert counts(guard, Mode.SHADOW) == {"failure": 4, "rejected": 8}
    assert counts(guard) == {}
    clock_of(guard).advance(8.0)
    await guard.call(works)
    await guard.call(works)
    assert guard.statistics().state is CLOSED


async def test_off_it_does_nothing() -> None:
    notes = Notes()
    guard = breaker(mode=Mode.OFF)
    attach(guard, listeners=[notes])
    guard.force_open()
    notes.take()
    for style in (by_call, by_decorator, by_async_with, by_with):
        for _ in range(3):
            assert await style(guard, works) == "answer"
            with pytest.raises(OSError, match="down"):
                await style(guard, fails)
    assert (counts(guard, Mode.OFF), notes.take()) == ({}, [])


async def test_a_mode_that_changes_during_a_block_breaks_nothing() -> None:
    guard = breaker(mode=Mode.OFF)
    async with guard.block():
        guard.mode = Mode.ENFORCE
        async with guard.block():
            guard.mode = Mode.OFF
    assert counts(guard, Mode.OFF) == {"success": 1}


async def test_by_hand_it_is_forced_open_or_closed_anew() -> None:
    guard = breaker()
    guard.force_open()
    with pytest.raises(CircuitOpenError) as refused:
        await guard.call(works)
    assert refused.value.retry_after is None
    with pytest.raises(ValueError, match="put it to closed first"):
        guard.open()
    guard.reset()
    assert (guard.statistics().state, guard.statistics().calls) == (CLOSED, 0)
    guard.open()
    assert guard.statistics().state is OPEN


async def test_its_numbers_are_those_that_the_metrics_know() -> None:
    heard = RecordingObserver()
    guard = breaker(observer=heard, mode=Mode.ENFORCE)
    assert [event.policy for event in heard.of(PolicyCreated)] == ["db"]
    await open_it(guard)
    samples = list(heard.of(PolicyCreated)[0].tally())
    for sample in samples:
        assert len(sample.labels) == len(POLICY_METRICS[sample.metric].labels)
        assert sample.labels[0] == "db"
    states = {
        sample.labels[1]: sample.value for sample in samples if sample.metric.endswith("_state")
    }
    assert states == {state: float(state is OPEN) for state in CircuitState}
    outcomes = {sample.labels[1] for sample in samples if sample.metric.endswith("_calls_total")}
    assert outcomes == {"success", "slow", "failure", "ignored", "rejected"}
    assert [sample.labels for sample in samples if sample.metric.endswith("transitions_total")] == [
        ("db", "closed", "open")
    ]


async def test_a_scrape_ends_half_open_and_a_call_reports_it() -> None:
    heard = RecordingObserver()
    guard = breaker(observer=heard)
    await half_open_it(guard)
    hung = guard.call(Pause)
    hung.send(None)
    clock_of(guard).advance(16.0)
    assert guard.statistics().state is OPEN
    with pytest.raises(CircuitOpenError):
        await guard.call(works)
    assert heard.of(CircuitChanged)[-1] == CircuitChanged(
        "db", "half_open", "open", 1024.0, "trial_hung"
    )
    hung.close()


@pytest.mark.parametrize("heeds", [False, True])
@styles
async def test_a_call_leaves_nothing_for_the_cyclic_collector(style: Style, heeds: bool) -> None:  # noqa: FBT001 - a table
    notes = Notes()
    guard = breaker()
    if heeds:
        attach(guard, listeners=[notes])
    forced = breaker("forced")
    forced.force_open()

    async def once() -> None:
        await style(guard, works)
        with suppress(OSError):
            await style(guard, fails)
        with suppress(CircuitOpenError):
            await style(forced, works)
        notes.take()

    assert await garbage(once) == 0


async def test_once_all_is_well_again_a_call_pays_for_nothing_but_itself() -> None:
    def pays(guard: CircuitBreaker) -> bool:
        # What it costs is seen nowhere else.
        heeds, circuit = guard._heeds, guard._circuit  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - see above
        return heeds or not circuit.pass_closed()

    guard = breaker()
    assert not pays(guard)
    await half_open_it(guard)
    assert pays(guard)
    await guard.call(works)
    await guard.call(works)
    assert not pays(guard)
    with suppress(OSError):
        await guard.call(fails)
    await guard.call(works)
    assert not pays(guard)
    guard.mode = Mode.OFF
    assert pays(guard)
    guard.mode = Mode.ENFORCE
    attach(guard)
    assert pays(guard)


async def test_a_result_may_be_the_failure() -> None:
    def is_unwell(outcome: Outcome[int]) -> bool:
        return outcome.error is not None or outcome.result == 503

    class Status(int):
        retry_after = 12.0

    guard = breaker(on=is_unwell)

    async def answer(status: int) -> int:
        return Status(status)

    assert await guard.call(answer, 200) == 200
    for _ in range(4):
        assert await guard.call(answer, 503) == 503
    assert counts(guard) == {"success": 1, "failure": 4}
    assert guard.status() == {
        "state": "open",
        "calls": 4,
        "failure_rate": 1.0,
        "slow_call_rate": 0.0,
        "retry_after": 12.0,
    }


def test_calls_are_counted_exactly_whenever_threads_change_places() -> None:
    with every() as case:
        for seed in range(6):
            with case(seed):
                guard = breaker(config=replace(CONFIG, minimum_number_of_calls=100))

                def work(guard: CircuitBreaker = guard) -> None:
                    for number in range(4):
                        with suppress(OSError):
                            guard.call_sync(fail_now if number % 2 else work_now)

                interleaved([work, work], within="core/guards/", seed=seed)
                assert counts(guard) == {"success": 4, "failure": 4}
                assert guard.statistics().calls == 4


def work_now() -> None:
    pass


def fail_now() -> None:
    raise OSError("down")


def test_one_trial_is_admitted_whenever_threads_change_places() -> None:
    with every() as case:
        for seed in range(6):
            with case(seed):
                guard = breaker()
                guard.open()
                clock_of(guard).advance(8.0)
                seen: list[str] = []

                def work(guard: CircuitBreaker = guard, seen: list[str] = seen) -> None:
                    with suppress(CircuitOpenError):
                        guard.block().__enter__()
                        seen.append("trial")

                interleaved([work, work, work], within="core/guards/", seed=seed)
                assert seen == ["trial"]
