"""Settings that contradict each other are refused together.

A mode may be a text; no secret is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, Final

import pytest

from postfacta_adapters.limits import SharedStore
from postfacta_core import (
    Backoff,
    Bulkhead,
    CircuitBreaker,
    CircuitConfig,
    Fallback,
    Hedge,
    Pipeline,
    Retry,
    Timeout,
)
from postfacta_core.asgi import HardenOptions, RateLimit, harden
from postfacta_core.events import Mode, process_observer
from postfacta_core.guards import RetryBudget
from postfacta_core.health import HealthRegistry
from postfacta_core.limits.rate import RateCounter
from tests.attack.wrong import (
    SECRET_TEXT,
    app,
    check,
)
from tests.kit.every import every

CONTRADICTIONS: Final[list[tuple[Callable[[], object], str]]] = [
    (lambda: Backoff(base=6.0), r"Backoff\.cap must be at least the base, 6, not 5"),
    (lambda: Backoff(cap=0.05), r"Backoff\.cap must be at least the base, 0\.1, not 0\.05"),
    (lambda: RetryBudget("db", ratio=0, floor=0), r"RetryBudget\.ratio must be above 0"),
    (
        lambda: CircuitConfig(wait_duration_in_open_state=61.0),
        r"max_wait_duration_in_open_state must be at least wait_duration_in_open_state, 61, not 60",
    ),
    (Pipeline, r"Pipeline\.guards must be one guard at least"),
    (lambda: Pipeline(Timeout(1), Timeout(2)), "never ends a call"),
    (lambda: Pipeline(*[Retry("a")] * 2), "stands twice"),
    (lambda: RateLimit("1/second", per=lambda scope: ""), r"RateLimit\.name must be a text"),
    (
        lambda: HardenOptions(metrics_path="/healthz/live"),
        r"HardenOptions\.metrics_path must be another path",
    ),
    (
        lambda: HardenOptions(rate_limit_store=SharedStore("async+memory://")),
        r"HardenOptions\.rate_limits must be set where there is a rate_limit_store",
    ),
    (
        lambda: HardenOptions(rate_limits=["100/minute per client", "1000/minute"]),
        r"'100/minute per client' and '1000/minute' are both named 'client'.*'1000/minute per global'",
    ),
]


async def test_settings_that_contradict_are_refused_together() -> None:
    with every() as case:
        for contradiction, text in CONTRADICTIONS:
            with case(text), pytest.raises(ValueError, match=text):
                contradiction()


async def test_two_checks_of_one_name_are_refused() -> None:
    health = HealthRegistry()
    health.add("database", check)
    with pytest.raises(
        ValueError, match=r"HealthRegistry\.add\.name must be a name that no other check has"
    ):
        health.add("database", check)


MODES: Final[dict[str, Callable[[str], Any]]] = {
    "Retry": lambda mode: Retry("a", mode=mode),
    "CircuitBreaker": lambda mode: CircuitBreaker("a", mode=mode),
    "Bulkhead": lambda mode: Bulkhead("a", 1, mode=mode),
    "Hedge": lambda mode: Hedge("a", delay=1, mode=mode),
    "Fallback": lambda mode: Fallback("a", otherwise=None, mode=mode),
    "RateCounter": lambda mode: RateCounter("a", "1/second", mode=mode),
    "harden": lambda mode: harden(app, service="a", options=HardenOptions(shedding=mode)).shedding,
}


async def test_a_mode_as_text_is_the_mode() -> None:
    with every() as case:
        for (kind, make), mode in product(MODES.items(), Mode):
            with case(kind, mode):
                process_observer.clear()
                assert_mode(make(str(mode.value)), mode)


def assert_mode(policy: Any, mode: Mode) -> None:
    assert policy.mode is mode
    policy.mode = Mode.ENFORCE
    policy.mode = str(mode.value)
    assert policy.mode is mode
    with pytest.raises(
        ValueError, match=r"mode must be one of 'enforce', 'shadow', 'off', not 'banana'"
    ):
        policy.mode = "banana"
    assert policy.mode is mode


def test_a_policy_shows_no_secret() -> None:
    with every() as case:
        for key in ("metrics_token", "priority_key", "traffic_key"):
            given: Any = {key: SECRET_TEXT}
            with case(key):
                assert SECRET_TEXT not in repr(HardenOptions(**given))
