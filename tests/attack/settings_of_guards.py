"""The settings of what guards a call or limits a rate, and what is wrong for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pybreaker

from postfacta_adapters.httpx import Outgoing
from postfacta_adapters.limits import SharedStore
from postfacta_adapters.pybreaker import attach
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
from postfacta_core.guards import AdaptiveLimiter, RetryBudget
from postfacta_core.guards.rate_limiter import RateLimiter
from postfacta_core.limits._rates import Rate
from postfacta_core.limits.rate import RateCounter
from tests.attack.wrong import (
    CLOCK,
    COUNT,
    COUNT_FROM_ZERO,
    ERRORS,
    FLAG,
    FROM_ONE,
    FROM_ZERO,
    FUNCTION,
    FUNCTION_OR_NONE,
    JITTER,
    MODE,
    NAME,
    OBJECT,
    OBSERVED,
    RATE,
    RATES,
    SECONDS,
    SECONDS_OR_INF,
    SECONDS_OR_NONE,
    SECRET,
    SECRET_TEXT,
    Setting,
)

__all__ = ["GUARDS"]


def _pipeline(guards: Any) -> Pipeline:
    return Pipeline(*[guards])


def _outgoing(name: Any, guards: Any = None, **given: Any) -> Outgoing:
    return Outgoing(name, *([] if guards is None else [guards]), **given)


GUARDS: Final[dict[Callable[..., object], Setting]] = {
    Retry: Setting(
        right={"name": "billing"},
        wrong={
            "name": NAME,
            "attempts": COUNT,
            "backoff": (*OBJECT, None),
            "budget": OBJECT,
            "on": ERRORS,
            "retry_after": FUNCTION,
            "max_wait": SECONDS,
            "mode": MODE,
            **OBSERVED,
            "luck": FUNCTION,
            "discard": FUNCTION_OR_NONE,
            "sleep": FUNCTION_OR_NONE,
        },
    ),
    Backoff: Setting(wrong={"base": SECONDS, "cap": SECONDS, "multiplier": FROM_ONE}),
    RetryBudget: Setting(
        right={"name": "billing"},
        wrong={"name": NAME, "ratio": FROM_ZERO, "floor": FROM_ZERO, "burst": FROM_ONE},
    ),
    CircuitBreaker: Setting(
        right={"name": "billing"},
        wrong={
            "name": NAME,
            "config": OBJECT,
            "mode": MODE,
            **OBSERVED,
            "luck": FUNCTION,
            "on": ERRORS,
        },
    ),
    attach: Setting(
        right={"breaker": CircuitBreaker("mail")},
        wrong={
            "breaker": OBJECT,
            "listeners": (["listener"], [3], [pybreaker.CircuitBreakerListener]),
            "storage": OBJECT,
        },
    ),
    CircuitConfig: Setting(
        wrong={
            "failure_rate_threshold": RATE,
            "slow_call_rate_threshold": RATE,
            "slow_call_duration": SECONDS,
            "sliding_window_size": (*COUNT, 10_001),
            "sliding_window_max_age": SECONDS_OR_INF,
            "minimum_number_of_calls": COUNT,
            "wait_duration_in_open_state": SECONDS,
            "wait_multiplier": FROM_ONE,
            "wait_jitter": JITTER,
            "max_wait_duration_in_open_state": SECONDS,
            "permitted_number_of_calls_in_half_open_state": COUNT,
            "max_wait_duration_in_half_open_state": SECONDS,
        }
    ),
    Bulkhead: Setting(
        right={"name": "billing", "slots": 4},
        wrong={
            "name": NAME,
            "slots": COUNT,
            "max_waiting": COUNT_FROM_ZERO,
            "max_wait": SECONDS_OR_NONE,
            "lends": FLAG,
            "mode": MODE,
            **OBSERVED,
        },
    ),
    Timeout: Setting(
        right={"seconds": 1.0},
        wrong={"seconds": SECONDS, "name": NAME, **OBSERVED},
    ),
    Hedge: Setting(
        right={"name": "billing", "delay": 0.1},
        wrong={
            "name": NAME,
            "delay": FROM_ZERO,
            "on": ERRORS,
            "budget": OBJECT,
            "mode": MODE,
            **OBSERVED,
        },
    ),
    Fallback: Setting(
        right={"name": "billing", "otherwise": None},
        wrong={
            "name": NAME,
            "key": FUNCTION_OR_NONE,
            "on": ERRORS,
            "max_age": SECONDS_OR_INF,
            "max_entries": COUNT,
            "mode": MODE,
            **OBSERVED,
        },
        free={"otherwise": "any value may be given instead"},
    ),
    AdaptiveLimiter: Setting(
        right={"name": "billing"},
        wrong={
            "name": NAME,
            "config": OBJECT,
            "on": ERRORS,
            "mode": MODE,
            **OBSERVED,
            "luck": FUNCTION,
        },
    ),
    RateLimiter: Setting(
        right={"name": "billing", "rates": "10/second"},
        wrong={
            "name": NAME,
            "rates": RATES,
            "max_wait": FROM_ZERO,
            "key": FUNCTION_OR_NONE,
            "mode": MODE,
            **OBSERVED,
        },
    ),
    RateCounter: Setting(
        right={"name": "billing", "rates": "10/second"},
        wrong={
            "name": NAME,
            "rates": RATES,
            "store": (3, {}, "memory://", "banana", "async+nowhere://x"),
            "max_keys": COUNT,
            "mode": MODE,
            **OBSERVED,
        },
        shown_as={"store": "stor"},
        hidden={"store"},
    ),
    Rate: Setting(
        right={"amount": 1, "period": 1.0},
        # What no float tells from its neighbour is no amount either.
        wrong={"amount": (*COUNT, 2**53 + 1), "period": SECONDS},
    ),
    SharedStore: Setting(
        right={"storage": "async+memory://"},
        wrong={
            "storage": ("banana", "memory://", "", 3, None, f"memory://user:{SECRET_TEXT}@host"),
            "timeout": SECONDS,
            "backoff": OBJECT,
            **CLOCK,
            "luck": FUNCTION,
        },
        hidden={"storage"},
    ),
    Pipeline: Setting(
        right={"guards": Retry("billing")},
        wrong={"guards": ("retry", 3, None, Retry, dict)},
        call=_pipeline,
        shown_as={"guards": "guard"},
    ),
    Outgoing: Setting(
        right={"name": "billing"},
        wrong={
            "name": NAME,
            "guards": ("retry", 3, Retry),
            "is_failure": FUNCTION,
            "first": SECONDS_OR_NONE,
            "idle": SECONDS_OR_NONE,
            "counts": FUNCTION_OR_NONE,
            "repeats": FLAG,
            "tell": FLAG,
            "priority_key": SECRET,
            **OBSERVED,
            "spans": OBJECT,
        },
        call=_outgoing,
        shown_as={"guards": "guard"},
    ),
}
