"""Every policy is observed unless that is switched off, whatever is made first, and an observer breaks nothing."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from weakref import WeakMethod

import anyio
import httpx2
import pytest

from postfacta_adapters.httpx import Outgoing
from postfacta_core import Bulkhead, CircuitBreaker, Fallback, Hedge, Retry, Timeout
from postfacta_core.asgi import Telemetry
from postfacta_core.errors import DeadlineExceededError
from postfacta_core.events import (
    DeadlineExceeded,
    Event,
    HealthChecked,
    HttpCallFinished,
    ListenerFailed,
    ModeChanged,
    PolicyCreated,
    Sample,
    ignore,
    observing,
    process_observer,
    weakly,
)
from postfacta_core.health import HealthRegistry
from postfacta_core.limits.rate import RateCounter
from postfacta_core.testing import RecordingObserver
from postfacta_postgres import Database
from tests.kit.every import every

POLICIES: Final[dict[str, Callable[..., Any]]] = {
    "postfacta_retry_attempts_total": partial(Retry, "billing"),
    "postfacta_breaker_state": partial(CircuitBreaker, "billing"),
    "postfacta_bulkhead_slots": partial(Bulkhead, "billing", 4),
    "postfacta_hedge_attempts_total": partial(Hedge, "billing", delay=1.0),
    "postfacta_fallback_answers_total": partial(Fallback, "billing", otherwise=None),
    "postfacta_ratelimit_keys": partial(RateCounter, "billing", "10/second"),
    "postfacta_retry_budget_tokens": partial(Retry, "billing"),
}


def scraped(telemetry: Telemetry) -> str:
    return telemetry.metrics.render().body.decode()


def test_a_policy_is_observed_by_default() -> None:
    is_firsts: dict[str, bool] = {"policy first": True, "telemetry first": False}
    with every() as case:
        for metric in POLICIES:
            for name_1, is_first in is_firsts.items():
                with case(metric, name_1):
                    before = Telemetry() if not is_first else None
                    policy = POLICIES[metric]()
                    telemetry = before or Telemetry()
                    assert f"{metric}{{" in scraped(telemetry)
                    assert '"billing"' in scraped(telemetry)
                    assert policy is not None


def test_without_an_observer_none_is_called() -> None:
    with every() as case:
        for metric in POLICIES:
            with case(metric):
                telemetry = Telemetry()
                policy = POLICIES[metric](observer=None)
                assert '"billing"' not in scraped(telemetry)
                assert policy is not None


def test_the_last_telemetry_receives_changes() -> None:
    with every() as case:
        for metric in [name for name in POLICIES if name != "postfacta_retry_budget_tokens"]:
            with case(metric):
                first, last = RecordingObserver(), RecordingObserver()
                policy = POLICIES[metric]()
                process_observer.use(first)
                process_observer.use(last)
                policy.mode = "shadow"
                assert first.of(ModeChanged) == []
                assert [event.policy for event in last.of(ModeChanged)] == ["billing"]


def test_a_policy_that_is_gone_is_neither_kept_nor_shown() -> None:
    telemetry = Telemetry()
    policy = Bulkhead("billing", 4)
    assert '"billing"' in scraped(telemetry)
    is_alive = weakly(policy.collect)
    del policy
    gc.collect()
    assert is_alive() is None
    assert '"billing"' not in scraped(telemetry)
    later = Telemetry()
    assert '"billing"' not in scraped(later)


def test_ten_thousand_policies_of_the_past_take_no_memory() -> None:
    def kept() -> int:
        return sum(isinstance(each, WeakMethod) for each in gc.get_objects())

    before = kept()
    for _ in range(10_000):
        Bulkhead("billing", 4)
    assert kept() - before < 100


def test_a_telemetry_made_twice_counts_no_policy_twice() -> None:
    telemetry = Telemetry()
    bulkhead = Bulkhead("billing", 4)
    process_observer.use(telemetry.observer)
    assert 'postfacta_bulkhead_slots{bulkhead="billing"} 4.0' in scraped(telemetry)
    assert bulkhead.used == 0


def test_a_tally_that_is_no_method_is_kept() -> None:
    seen = RecordingObserver()
    process_observer(
        PolicyCreated("billing", lambda: [Sample("postfacta_bulkhead_slots", ("billing",), 4)])
    )
    gc.collect()
    process_observer.use(seen)
    assert [event.policy for event in seen.of(PolicyCreated)] == ["billing"]


async def test_what_a_timeout_ends_is_observed() -> None:
    seen = RecordingObserver()
    process_observer.use(seen)
    with pytest.raises(DeadlineExceededError):
        await Timeout(0.01, name="billing").call(anyio.sleep, 60)
    with pytest.raises(DeadlineExceededError):
        await Timeout(0.01, observer=None).call(anyio.sleep, 60)
    assert seen.of(DeadlineExceeded) == [DeadlineExceeded("timeout")]


async def test_a_call_to_another_service_is_observed() -> None:
    seen = RecordingObserver()
    process_observer.use(seen)

    answers = httpx2.MockTransport(lambda _: httpx2.Response(200))
    async with httpx2.AsyncClient(transport=Outgoing("billing").transport(answers)) as client:
        await client.get("http://billing/")
    assert [event.service for event in seen.of(HttpCallFinished)] == ["billing"]


async def test_a_check_is_observed() -> None:
    seen = RecordingObserver()
    process_observer.use(seen)
    health = HealthRegistry()
    health.add("billing", anyio.lowlevel.checkpoint)
    await health.run_once("billing")
    assert [event.check for event in seen.of(HealthChecked)] == ["billing"]


def test_a_database_and_its_circuit_are_observed() -> None:
    telemetry = Telemetry()
    database = Database("postgresql://localhost/billing", name="billing")
    assert 'postfacta_breaker_state{breaker="billing",state="closed"} 1.0' in scraped(telemetry)
    assert 'postfacta_retry_budget_tokens{budget="billing"}' in scraped(telemetry)
    assert not database.is_connected


def _broken(event: Event, /) -> None:
    raise RuntimeError("no")


def test_an_observer_that_raises_reaches_no_caller_of_a_policy() -> None:
    with every() as case:
        for metric in POLICIES:
            with case(metric):
                policy = POLICIES[metric](observer=_broken)
                policy.mode = "shadow"
                assert policy.mode == "shadow"


def test_an_observer_that_raises_is_reported_under_the_policys_name() -> None:
    seen = RecordingObserver()
    process_observer.use(seen)
    breaker = CircuitBreaker("billing", observer=_broken)
    breaker.open()
    assert {(event.policy, event.error) for event in seen.of(ListenerFailed)} == {
        ("billing", "RuntimeError('no')")
    }


def test_an_observer_that_raises_is_logged_once_where_nothing_observes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR, "postfacta")
    breaker = CircuitBreaker("billing", observer=_broken)
    breaker.open()
    breaker.reset()
    records = [(record.message, vars(record)["policy"]) for record in caplog.records]
    assert records == [("listener.failed", "billing")]


def test_the_process_observer_may_raise_too(caplog: pytest.LogCaptureFixture) -> None:
    process_observer.use(_raising_later())
    breaker = CircuitBreaker("billing")
    breaker.open()
    assert breaker.statistics().state == "open"


def _raising_later() -> Callable[[Event], None]:
    def observe(event: Event, /) -> None:
        if not isinstance(event, PolicyCreated):
            raise TypeError("no")

    return observe


def test_nothing_is_called_without_an_observer() -> None:
    observe = observing("Retry", "billing", None)
    observe(DeadlineExceeded("client"))
    assert process_observer.observer is ignore


def test_an_observer_that_raises_at_its_own_failure_is_left_alone() -> None:
    observe = observing("Retry", "billing", _broken)
    observe(ListenerFailed("billing", "no"))
