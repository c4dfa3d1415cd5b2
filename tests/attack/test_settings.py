"""R2, no silent default: every setting is given wrong once, and each is refused where it is given.

A public class or function whose parameters are settings stands in `SETTINGS`, with wrong values for each parameter,
or the reason why it has none. What is no setting stands in `NO_SETTINGS`. So a new class or parameter that is in
neither fails a test here.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

import pybreaker
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

import postfacta_core
from postfacta_core import (
    Backoff,
    Bulkhead,
    CircuitBreaker,
    CircuitConfig,
    DrainLimits,
    Fallback,
    HealthRegistry,
    Hedge,
    Mode,
    Outgoing,
    Pipeline,
    RateLimiter,
    Retry,
    RetryBudget,
    Timeout,
)
from postfacta_core.aio.database import Database, PoolOptions
from postfacta_core.aio.deadline import RunningRequests
from postfacta_core.aio.ratelimit_memory import BoundedStorage
from postfacta_core.aio.ratelimit_store import SharedStore
from postfacta_core.asgi import (
    ContextMiddleware,
    Cors,
    CorsMiddleware,
    DeadlineMiddleware,
    ErrorMiddleware,
    HealthMiddleware,
    LifespanMiddleware,
    LoadSheddingMiddleware,
    MetricsEndpoint,
    Policy,
    RateLimit,
    RateLimitMiddleware,
    Receive,
    ResponseHeadersMiddleware,
    Scope,
    Send,
    Telemetry,
    TelemetryMiddleware,
    TransferMiddleware,
    harden,
)
from postfacta_core.otlp import CountedSpans, Provider
from postfacta_core.policy.address import TrustedProxies
from postfacta_core.policy.bulkhead import Slots
from postfacta_core.policy.health import CheckConfig
from postfacta_core.policy.hedge import FixedDelay, QuantileDelay
from postfacta_core.policy.lifecycle import RecycleLimits
from postfacta_core.policy.ratelimit import Rate
from postfacta_core.policy.retry import RetryRules
from postfacta_core.policy.transfer import TransferLimits
from postfacta_core.telemetry.exchange import ErrorTypes
from postfacta_core.telemetry.metrics import Metrics
from postfacta_core.telemetry.sampling import AccessSampler, EventBudget

Wrong = tuple[object, ...]

_SECRET: Final = "hunter2"  # noqa: S105 - what no error may show


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer nothing."""


async def check() -> None:
    """Pass."""


def sync_check() -> None:
    """Pass, while the event loop stands still."""


# What is wrong, by kind.
NAME: Final[Wrong] = (3, None, "", "two words", "x" * 65, b"billing", True)
MODE: Final[Wrong] = ("banana", "ENFORCE", "", 1, None, True)
SECONDS: Final[Wrong] = (0, -1, -0.5, math.nan, math.inf, "30s", "5", None, True, b"5", [5])
SECONDS_OR_INF: Final[Wrong] = (0, -1, math.nan, "30s", None, True)
SECONDS_OR_NONE: Final[Wrong] = (0, -1, math.nan, math.inf, "30s", True)
FROM_ZERO: Final[Wrong] = (-1, -0.5, math.nan, math.inf, "30s", None, True)
FROM_ZERO_OR_INF: Final[Wrong] = (-1, math.nan, "30s", None, True)
COUNT: Final[Wrong] = (0, -1, 1.5, math.nan, math.inf, "3", None, True)
COUNT_FROM_ZERO: Final[Wrong] = (-1, 1.5, math.nan, math.inf, "3", None, True)
COUNT_OR_NONE: Final[Wrong] = (0, -1, 1.5, math.nan, "3", True)
BYTES: Final[Wrong] = (-1, 1.5, math.nan, "1MB", None, True)
RATE: Final[Wrong] = (0, -0.1, 1.1, 50, math.nan, "50%", None, True)
JITTER: Final[Wrong] = (-0.1, 1.0, math.nan, math.inf, "0.2", None, True)
FROM_ONE: Final[Wrong] = (0.99, -1, math.nan, math.inf, "2", None, True)
FLAG: Final[Wrong] = ("yes", "False", 1, 0, None)
FUNCTION: Final[Wrong] = ("time.monotonic", 3, None)
FUNCTION_OR_NONE: Final[Wrong] = ("print", 3, {})
OBSERVER: Final[Wrong] = ("metrics", 3, Mode.OFF, {})
OBJECT: Final[Wrong] = ({}, "text", 3)
TEXT: Final[Wrong] = (3, None, b"1.0")
SECRET: Final[Wrong] = (None, 3, _SECRET.encode())
ERRORS: Final[Wrong] = (
    "ValueError",
    None,
    BaseException,
    KeyboardInterrupt,
    (ValueError, 3),
    [ValueError],
    int,
)
APP: Final[Wrong] = (None, "billing:app", 3, dict)
PATH: Final[Wrong] = ("metrics", "", None, 3, "/metrics?x=1", "/a b")
PREFIX: Final[Wrong] = ("healthz", "/healthz/", "/", None, 3)
TEXTS: Final[Wrong] = ("text", b"text", 3, None, [3], ["a b"])
REGISTRIES: Final[Wrong] = ("text", 3, None, {}, [3], ["REGISTRY"], CollectorRegistry())
RATES: Final[Wrong] = ("", "100", "100/fortnight", "many/minute", (), None, 100, ["100/minute"])
STORE_FAILURE: Final[Wrong] = ("guess", "", None, 1)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a class or function is called rightly, and what is wrong for each of its parameters."""

    right: Mapping[str, object] = field(default_factory=dict[str, object])
    wrong: Mapping[str, Wrong] = field(default_factory=dict[str, Wrong])
    free: Mapping[str, str] = field(default_factory=dict[str, str])
    shown_as: Mapping[str, str] = field(default_factory=dict[str, str])
    hidden: Collection[str] = ()
    call: Callable[..., object] | None = None


_CLOCK: Final = {"clock": FUNCTION}
_OBSERVED: Final = {"observer": OBSERVER, **_CLOCK}


def _add(**given: Any) -> None:
    HealthRegistry().add(**given)


def _pipeline(guards: Any) -> Pipeline:
    return Pipeline(*[guards])


def _outgoing(name: Any, guards: Any = None, **given: Any) -> Outgoing:
    return Outgoing(name, *([] if guards is None else [guards]), **given)


SETTINGS: Final[dict[Callable[..., object], Setting]] = {
    Retry: Setting(
        right={"name": "billing"},
        wrong={
            "name": NAME,
            "attempts": COUNT,
            "backoff": (*OBJECT, None),
            "budget": OBJECT,
            "retryable": ERRORS,
            "throttled": FUNCTION,
            "max_wait": SECONDS,
            "retry_nested": FLAG,
            "mode": MODE,
            **_OBSERVED,
            "luck": FUNCTION,
            "sleep": FUNCTION,
        },
    ),
    RetryRules: Setting(
        wrong={
            "attempts": COUNT,
            "backoff": (*OBJECT, None),
            "max_wait": SECONDS,
            "retryable": ERRORS,
            "throttled": FUNCTION,
        }
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
            "listeners": (["listener"], [3], [pybreaker.CircuitBreakerListener]),
            "storage": OBJECT,
            "mode": MODE,
            **_OBSERVED,
            "luck": FUNCTION,
            "failures": ERRORS,
            "retry_after_of": FUNCTION_OR_NONE,
        },
    ),
    CircuitConfig: Setting(
        wrong={
            "failure_rate_threshold": RATE,
            "slow_call_rate_threshold": RATE,
            "slow_call_duration": SECONDS,
            "sliding_window_type": ("calls", "", None, 1),
            "sliding_window_size": (*COUNT, 10_001),
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
            "max_wait": SECONDS,
            "mode": MODE,
            **_OBSERVED,
        },
    ),
    Slots: Setting(
        right={"name": "billing", "size": 4},
        wrong={
            "name": NAME,
            "size": COUNT,
            "max_waiting": COUNT_FROM_ZERO,
            "max_wait": SECONDS,
            "mode": MODE,
        },
        shown_as={"size": "slots"},
    ),
    Timeout: Setting(
        right={"seconds": 1.0},
        wrong={"seconds": SECONDS, "name": NAME, **_OBSERVED},
    ),
    Hedge: Setting(
        right={"name": "billing", "delay": 0.1},
        wrong={
            "name": NAME,
            "delay": FROM_ZERO,
            "budget": OBJECT,
            "mode": MODE,
            **_OBSERVED,
            "wait": FUNCTION,
        },
    ),
    FixedDelay: Setting(right={"seconds": 0.1}, wrong={"seconds": FROM_ZERO}),
    QuantileDelay: Setting(
        wrong={
            "quantile": (0, 1, 95, -0.5, math.nan, "95%", None, True),
            "initial": FROM_ZERO,
            "minimum": FROM_ZERO,
            "window": (*COUNT, 39),
        }
    ),
    Fallback: Setting(
        right={"name": "billing"},
        wrong={
            "name": NAME,
            "errors": ERRORS,
            "is_failure": FUNCTION_OR_NONE,
            "max_age": SECONDS_OR_INF,
            "max_entries": COUNT,
            "otherwise": FUNCTION_OR_NONE,
            "mode": MODE,
            **_OBSERVED,
        },
    ),
    RateLimiter: Setting(
        right={"name": "billing", "rates": "10/second"},
        wrong={
            "name": NAME,
            "rates": RATES,
            "store": (3, {}, "memory://", "banana", "async+nowhere://x"),
            "on_store_failure": STORE_FAILURE,
            "store_timeout": SECONDS,
            "max_keys": COUNT,
            "mode": MODE,
            **_OBSERVED,
        },
        shown_as={"store": "stor"},
        hidden={"store"},
    ),
    Rate: Setting(
        right={"amount": 1, "period": 1.0},
        wrong={"amount": COUNT, "period": SECONDS, "burst": COUNT_OR_NONE},
    ),
    SharedStore: Setting(
        right={"storage": "async+bounded://"},
        wrong={
            "storage": ("banana", "memory://", "", 3, None, f"memory://user:{_SECRET}@host"),
            "strategy": ("x", "", None, 1),
            "timeout": SECONDS,
            "max_calls": COUNT,
            "backoff": OBJECT,
            **_CLOCK,
            "luck": FUNCTION,
        },
        hidden={"storage"},
    ),
    BoundedStorage: Setting(
        wrong={"max_keys": COUNT},
        free={
            "uri": "`limits` hands it over, and SharedStore has checked it",
            "wrap_exceptions": "`limits` hands it over",
            "clock": "for tests",
            "wall": "for tests",
        },
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
            "tell": FLAG,
            "priority_key": SECRET,
            **_OBSERVED,
            "spans": OBJECT,
            "wall": FUNCTION,
        },
        call=_outgoing,
        shown_as={"guards": "guard"},
    ),
    Database: Setting(
        right={"dsn": "postgresql://localhost/x"},
        wrong={
            "dsn": SECRET,
            "name": NAME,
            "options": OBJECT,
            "password": (3, _SECRET.encode()),
            "breaker": OBJECT,
            "retry_budget": OBJECT,
            **_OBSERVED,
            "luck": FUNCTION,
        },
    ),
    PoolOptions: Setting(
        wrong={
            "max_size": COUNT,
            "max_waiting": COUNT_FROM_ZERO,
            **dict.fromkeys(
                (
                    "acquire_timeout",
                    "connect_timeout",
                    "statement_timeout",
                    "lock_timeout",
                    "idle_in_transaction_timeout",
                    "close_timeout",
                    "max_lifetime",
                    "max_idle",
                ),
                SECONDS,
            ),
            "reconnect": (*OBJECT, None),
            "reset": FLAG,
            "transaction_pooling": FLAG,
        }
    ),
    HealthRegistry: Setting(wrong={**_OBSERVED, "luck": FUNCTION}),
    HealthRegistry.add: Setting(
        right={"name": "database", "check": check},
        wrong={
            "name": NAME,
            "check": (None, "check", sync_check, len),
            "critical": FLAG,
            "interval": SECONDS,
            "timeout": SECONDS,
            "fall": COUNT,
            "rise": COUNT,
            "stale_after": SECONDS_OR_NONE,
        },
        call=_add,
    ),
    CheckConfig: Setting(
        wrong={
            "critical": FLAG,
            "interval": SECONDS,
            "timeout": SECONDS,
            "fall": COUNT,
            "rise": COUNT,
            "stale_after": SECONDS_OR_NONE,
        }
    ),
    TransferLimits: Setting(
        wrong={
            "max_header_bytes": (0, *BYTES),
            "max_body_bytes": BYTES,
            "body_idle_timeout": SECONDS_OR_INF,
            "body_grace": FROM_ZERO_OR_INF,
            "min_body_rate": SECONDS_OR_INF,
            "write_timeout": SECONDS_OR_INF,
        }
    ),
    DrainLimits: Setting(
        wrong={"drain_delay": FROM_ZERO, "drain_timeout": FROM_ZERO, "close_timeout": SECONDS}
    ),
    RecycleLimits: Setting(
        right={"max_age": 60.0, "max_rss_bytes": 1000},
        wrong={"max_age": SECONDS_OR_NONE, "max_rss_bytes": COUNT_OR_NONE, "jitter": JITTER},
    ),
    TrustedProxies: Setting(
        wrong={
            "networks": ("10.0.0.0/8", ["10.0.0.1/8"], ["proxy"], [3], 3, None),
            "field": ("x-real-ip", "", None, 3),
        }
    ),
    RateLimit: Setting(
        right={"rate": "10/second"},
        wrong={
            "rate": RATES,
            "per": ("user", "", None, 3),
            "name": (3, "two words", "x" * 65),
            "cost": (-1, 1.5, "1", None, True),
            "applies_to": FUNCTION_OR_NONE,
            "on_store_failure": STORE_FAILURE,
            "mode": MODE,
        },
    ),
    Policy: Setting(
        wrong={
            "limits": (*OBJECT, None),
            "request_timeout": SECONDS_OR_NONE,
            "stream_timeout": SECONDS_OR_NONE,
            "cancel_on_disconnect": FLAG,
            "rate_limits": ("100/minute", [100], ["100/fortnight"], ["1/minute per principal"], None, {}),
            "rate_limit_store": OBJECT,
            "trusted_proxies": ("10.0.0.0/8", ["proxy"], [3], 3, None),
            "cors": (*OBJECT, Cors, ["https://console.example.org"]),
            "shedding": MODE,
            "concurrency": (100, "100", None),
            "priority_of": FUNCTION_OR_NONE,
            "priority_key": SECRET,
            "drain": (*OBJECT, None),
            "recycle": OBJECT,
            "response_headers": (
                {},
                {"a": "b"},
                "a: b",
                [("a",)],
                [("a", 1)],
                [("a b", "c")],
                [("a", "b\n")],
                None,
            ),
            "metrics_path": PATH,
            "metrics_token": SECRET,
            "allow_metrics": FUNCTION_OR_NONE,
            "dev": FLAG,
            "metrics_workers": (3, None),
            "health_prefix": PREFIX,
            "allow_health_detail": FUNCTION_OR_NONE,
            "traffic_key": SECRET,
            "quiet": ("/ping", ["ping"], [3], None),
            "access_lines": (0, -1, 1.5, "all", True),
        },
        shown_as={"trusted_proxies": "networks"},
    ),
    Telemetry: Setting(
        wrong={
            "version": TEXT,
            "revision": TEXT,
            "metrics": OBJECT,
            "tracing": OBJECT,
            "include": REGISTRIES,
        },
    ),
    Metrics: Setting(
        wrong={
            "registry": OBJECT,
            "version": TEXT,
            "revision": TEXT,
            "label_cap": COUNT,
            **_CLOCK,
            "wall": FUNCTION,
            "with_process": FLAG,
            "body_sizes": FLAG,
            "include": REGISTRIES,
        }
    ),
    harden: Setting(
        right={"app": app, "service": "billing"},
        wrong={
            "app": (*APP, harden(app, service="billing")),
            "service": ("", " ", None, 3),
            "policy": OBJECT,
            "telemetry": OBJECT,
            "health": OBJECT,
            "resources": ([object()], ["database"], [Database], 3, None),
            "render": FUNCTION_OR_NONE,
            "route_of": FUNCTION_OR_NONE,
            "resetters": (["clear"], [3]),
            **_CLOCK,
        },
    ),
    ContextMiddleware: Setting(
        right={"app": app}, wrong={"app": APP, "resetters": (["clear"], [3]), **_CLOCK, "ids": FUNCTION}
    ),
    Cors: Setting(
        wrong={
            "allow_origins": (*TEXTS, ["console.example.org"], ["https://console.example.org/"]),
            "allow_origin_regex": ("(", 3, None, ["https://console.example.org"]),
            "allow_methods": TEXTS,
            "allow_headers": TEXTS,
            "allow_credentials": FLAG,
            "expose_headers": TEXTS,
            "max_age": COUNT_FROM_ZERO,
        }
    ),
    CorsMiddleware: Setting(
        right={"app": app, "cors": Cors()},
        wrong={"app": APP, "cors": (*OBJECT, None), "render": FUNCTION_OR_NONE},
    ),
    DeadlineMiddleware: Setting(
        right={"app": app, "running": RunningRequests()},
        wrong={
            "app": APP,
            "running": (*OBJECT, None),
            "timeout": SECONDS_OR_NONE,
            "stream_timeout": SECONDS_OR_NONE,
            "cancel_on_disconnect": FLAG,
            "render": FUNCTION_OR_NONE,
            **_OBSERVED,
        },
    ),
    ErrorMiddleware: Setting(right={"app": app}, wrong={"app": APP, "render": FUNCTION_OR_NONE}),
    HealthMiddleware: Setting(
        right={"app": app, "registry": HealthRegistry()},
        wrong={"app": APP, "registry": (*OBJECT, None), "prefix": PREFIX, "allow_detail": FUNCTION_OR_NONE},
    ),
    LifespanMiddleware: Setting(
        right={"app": app, "resources": []},
        wrong={
            "app": APP,
            "resources": ([object()], [Database], 3, None),
            "lifecycle": OBJECT,
            "observer": OBSERVER,
        },
    ),
    LoadSheddingMiddleware: Setting(
        right={"app": app},
        wrong={
            "app": APP,
            "limiter": OBJECT,
            "priority_of": FUNCTION_OR_NONE,
            "priority_key": SECRET,
            "spares": FUNCTION_OR_NONE,
            "trusts": FUNCTION_OR_NONE,
            "mode": MODE,
            "render": FUNCTION_OR_NONE,
            **_OBSERVED,
            "processor": FUNCTION,
            "luck": FUNCTION,
        },
    ),
    MetricsEndpoint: Setting(
        right={"app": app, "metrics": Metrics()},
        wrong={
            "app": APP,
            "metrics": (*OBJECT, None),
            "path": PATH,
            "token": SECRET,
            "allow": FUNCTION_OR_NONE,
            "workers": (3, None),
            "observer": OBSERVER,
        },
    ),
    RateLimitMiddleware: Setting(
        right={"app": app, "rules": ["10/second"]},
        wrong={
            "app": APP,
            "rules": ("10/second", [10], ["10/fortnight"], ["10/second per user"], None),
            "trusted_proxies": ("10.0.0.0/8", ["proxy"], [3], 3),
            "store": (3, {}, "memory://", "banana"),
            "principal_of": FUNCTION_OR_NONE,
            "route_of": FUNCTION_OR_NONE,
            "headers": ("never", "", None, True),
            "max_keys": COUNT,
            "render": FUNCTION_OR_NONE,
            **_OBSERVED,
            "luck": FUNCTION,
        },
        shown_as={"trusted_proxies": "networks", "store": "stor"},
        hidden={"store"},
    ),
    ResponseHeadersMiddleware: Setting(
        right={"app": app, "headers": []},
        wrong={"app": APP, "headers": ({}, "a: b", [("a",)], [("a b", "c")], [("a", "b\n")], None)},
    ),
    TelemetryMiddleware: Setting(
        right={"app": app, "recorders": []},
        wrong={
            "app": APP,
            "route_of": FUNCTION_OR_NONE,
            "quiet": ("/ping", [3], None),
            "traffic_key": SECRET,
            "error_types": OBJECT,
            **_OBSERVED,
        },
        free={"recorders": "any object: of its methods those are called that it has"},
    ),
    TransferMiddleware: Setting(
        right={"app": app},
        wrong={"app": APP, "limits": OBJECT, "render": FUNCTION_OR_NONE, **_CLOCK},
    ),
    AccessSampler: Setting(wrong={"most": COUNT, "slow": FROM_ZERO_OR_INF}, free={"luck": "for tests"}),
    EventBudget: Setting(
        wrong={"rate": SECONDS, "burst": FROM_ONE, "tell_every": SECONDS, "most_events": COUNT}
    ),
    ErrorTypes: Setting(wrong={"limit": COUNT_FROM_ZERO}),
    CountedSpans: Setting(
        right={"exporter": InMemorySpanExporter()},
        wrong={
            "exporter": (*OBJECT, None),
            "queued": COUNT,
            "batch": COUNT,
            "every": SECONDS,
            "patience": SECONDS,
        },
    ),
    Provider: Setting(
        right={"exporter": InMemorySpanExporter()},
        wrong={
            "exporter": (*OBJECT, None),
            "queued": COUNT,
            "batch": COUNT,
            "every": SECONDS,
            "patience": SECONDS,
        },
        free={"resource": "OpenTelemetry's", "sampler": "OpenTelemetry's"},
    ),
}

# What is public and no setting: whole modules, and classes in the others.
OTHER_MODULES: Final[Mapping[str, str]] = {
    "events": "records of what happened, made by the library",
    "context": "a record of a request, made by the library",
    "clock": "clocks",
    "testing": "for tests, which fail by themselves",
    "slo": "read by `slo.strict`, which refuses with the path in the file",
    "launch": "a command, whose arguments argparse checks",
}
NO_SETTINGS: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            "Answer",
            "CallSpan",
            "CheckReport",
            "CheckResult",
            "CheckState",
            "CircuitStatistics",
            "Deadline",
            "Decision",
            "Exchange",
            "Exposition",
            "HealthReport",
            "Instrument",
            "PolicyMetric",
            "RetryPlan",
            "EventRecord",
            "Shed",
            "SocketExchange",
            "Answers",
        ),
        "a record",
    ),
    **dict.fromkeys(
        (
            "Admit",
            "BucketSet",
            "Buckets",
            "CallSpans",
            "Calm",
            "Charge",
            "Circuit",
            "Connection",
            "Connector",
            "Counts",
            "Course",
            "Families",
            "Family",
            "Guard",
            "GuardedLoan",
            "Hardened",
            "Interception",
            "KeyTable",
            "Kept",
            "Lending",
            "Lifecycle",
            "LifecycleMiddleware",
            "Lifetimes",
            "Loan",
            "LoopLag",
            "NullRecorder",
            "Number",
            "P2Quantile",
            "PasswordFile",
            "PlainGauge",
            "PlainHistogram",
            "PolicyCollector",
            "Pool",
            "Presence",
            "RequestFilter",
            "RouteProbe",
            "Running",
            "Sending",
            "LineWriter",
            "ConsoleFormatter",
            "JsonFormatter",
            "RunningRequests",
            "Runtime",
            "Siblings",
            "StoreWatch",
            "Tracers",
            "Tracing",
            "Turn",
            "Wait",
            "WaitingLine",
        ),
        "made by the library, from settings that were checked",
    ),
    **dict.fromkeys(
        ("AccessLog", "EventLog", "FloodFilter"), "made by the library; a logger is foreign code"
    ),
    **dict.fromkeys(
        ("OverloadConfig", "OverloadLimiter"),
        "checked in tests/core/policy/test_overload.py",
    ),
}


def public_classes() -> Iterator[type]:
    """Find each public class of the core that can be made."""
    for module in pkgutil.walk_packages(postfacta_core.__path__, "postfacta_core."):
        path = module.name.split(".")[1:]
        if path[0] in OTHER_MODULES or any(part.startswith("_") for part in path):
            continue
        found = importlib.import_module(module.name)
        for name in getattr(found, "__all__", ()):
            each: object = getattr(found, name)
            if (
                inspect.isclass(each)
                and each.__module__ == module.name
                and not issubclass(each, BaseException | enum.Enum)
                and not getattr(each, "_is_protocol", False)
            ):
                yield each


def name_of(setting: Callable[..., object]) -> str:
    return setting.__qualname__


def wrong_settings() -> Iterator[tuple[Callable[..., object], str, object]]:
    for subject, setting in SETTINGS.items():
        for parameter, values in setting.wrong.items():
            for value in values:
                yield subject, parameter, value


ALL_WRONG: Final = list(wrong_settings())


def call(subject: Callable[..., object], given: Mapping[str, object]) -> object:
    setting = SETTINGS[subject]
    return (setting.call or subject)(**{**setting.right, **given})


@pytest.fixture(params=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_each_public_class_is_a_setting_or_listed_as_none() -> None:
    classes = {each.__name__: each for each in public_classes()}
    forgotten = [name for name, each in classes.items() if each not in SETTINGS and name not in NO_SETTINGS]
    assert forgotten == []
    assert [name for name in NO_SETTINGS if name not in classes] == []


@pytest.mark.parametrize("subject", SETTINGS, ids=name_of)
def test_each_parameter_is_given_wrong_or_free_for_a_reason(subject: Callable[..., object]) -> None:
    setting = SETTINGS[subject]
    parameters = {name for name in inspect.signature(subject).parameters if name != "self"}
    assert parameters == {*setting.wrong, *setting.free}
    assert all(setting.wrong.values())
    assert all(setting.free.values())


@pytest.mark.parametrize("subject", SETTINGS, ids=name_of)
async def test_right_settings_are_accepted(subject: Callable[..., object]) -> None:
    call(subject, {})


@pytest.mark.parametrize(
    ("subject", "parameter", "value"),
    ALL_WRONG,
    ids=[
        f"{name_of(subject)}-{parameter}-{number}" for number, (subject, parameter, _) in enumerate(ALL_WRONG)
    ],
)
async def test_a_wrong_setting_is_refused_with_field_value_rule_and_example(
    subject: Callable[..., object], parameter: str, value: object
) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        call(subject, {parameter: value})
    text = str(caught.value)
    assert SETTINGS[subject].shown_as.get(parameter, parameter) in text
    assert " must be " in text
    assert "; for example " in text
    shown: list[object] = [value, type(value)]
    if isinstance(value, list | tuple | dict):
        shown = [value, *cast("Collection[object]", value)]
    if parameter not in SETTINGS[subject].hidden:
        assert any(repr(each)[:60] in text for each in shown)
    assert _SECRET not in text
    assert len(text) < 500


@pytest.mark.parametrize("subject", SETTINGS, ids=name_of)
async def test_an_unknown_name_is_refused_by_its_name(subject: Callable[..., object]) -> None:
    setting = SETTINGS[subject]
    if subject is Pipeline:
        pytest.skip("it takes guards alone, by place")
    with pytest.raises(TypeError, match="no_such_setting"):
        subject(**{**setting.right, "no_such_setting": 1})


@pytest.mark.parametrize(
    ("contradiction", "text"),
    [
        (lambda: Backoff(base=6.0), r"Backoff\.cap must be at least the base, 6, not 5"),
        (lambda: Backoff(cap=0.05), r"Backoff\.cap must be at least the base, 0\.1, not 0\.05"),
        (lambda: RetryBudget("db", ratio=0, floor=0), r"RetryBudget\.ratio must be above 0"),
        (
            lambda: CircuitConfig(wait_duration_in_open_state=61.0),
            r"max_wait_duration_in_open_state must be at least wait_duration_in_open_state, 61, not 60",
        ),
        (
            lambda: QuantileDelay(initial=0.01, minimum=0.1),
            r"QuantileDelay\.initial must be .* at least 0\.1",
        ),
        (lambda: QuantileDelay(0.99, window=100), r"QuantileDelay\.window must be .* at least 200, not 100"),
        (
            lambda: CheckConfig(interval=5, stale_after=4.0),
            r"CheckConfig\.stale_after must be .* above 5, not 4",
        ),
        (RecycleLimits, r"RecycleLimits\.max_age must be set, or max_rss_bytes"),
        (Pipeline, r"Pipeline\.guards must be one guard at least"),
        (lambda: Pipeline(Timeout(1), Timeout(2)), "never ends a call"),
        (lambda: Pipeline(*[Retry("a")] * 2), "stands twice"),
        (lambda: RateLimit("1/second", per=lambda scope: ""), r"RateLimit\.name must be a text"),
        (
            lambda: RateLimiter("a", Rate(amount=1, period=1, burst=2), store="async+bounded://"),
            r"RateLimiter\.rates must be without a burst",
        ),
        (lambda: Policy(metrics_path="/healthz/live"), r"Policy\.metrics_path must be another path"),
        (
            lambda: Policy(rate_limit_store=SharedStore("async+bounded://")),
            r"Policy\.rate_limits must be set where there is a rate_limit_store",
        ),
        (
            lambda: Policy(rate_limits=["100/minute per client", "1000/minute"]),
            r"'100/minute per client' and '1000/minute' are both named 'client'.*'1000/minute per global'",
        ),
    ],
)
async def test_settings_that_contradict_are_refused_together(
    contradiction: Callable[[], object], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        contradiction()


async def test_two_checks_of_one_name_are_refused() -> None:
    health = HealthRegistry()
    health.add("database", check)
    with pytest.raises(ValueError, match=r"HealthRegistry\.add\.name must be a name that no other check has"):
        health.add("database", check)


MODES: Final[dict[str, Callable[[str], Any]]] = {
    "Retry": lambda mode: Retry("a", mode=mode),
    "CircuitBreaker": lambda mode: CircuitBreaker("a", mode=mode),
    "Bulkhead": lambda mode: Bulkhead("a", 1, mode=mode),
    "Slots": lambda mode: Slots("a", 1, mode=mode),
    "Hedge": lambda mode: Hedge("a", delay=1, mode=mode),
    "Fallback": lambda mode: Fallback[str]("a", mode=mode),
    "RateLimiter": lambda mode: RateLimiter("a", "1/second", mode=mode),
    "LoadSheddingMiddleware": lambda mode: LoadSheddingMiddleware(app, mode=mode),
    "harden": lambda mode: harden(app, service="a", policy=Policy(shedding=mode)).shedding,
}


@pytest.mark.parametrize("kind", MODES)
@pytest.mark.parametrize("mode", Mode, ids=str)
async def test_a_mode_as_text_is_the_mode(kind: str, mode: Mode) -> None:
    text: str = mode.value
    policy = MODES[kind](text)
    assert policy.mode is mode
    policy.mode = Mode.ENFORCE
    policy.mode = text
    assert policy.mode is mode
    with pytest.raises(ValueError, match=r"mode must be one of 'enforce', 'shadow', 'off', not 'banana'"):
        policy.mode = "banana"
    assert policy.mode is mode


@pytest.mark.parametrize("key", ["metrics_token", "priority_key", "traffic_key"])
def test_a_policy_shows_no_secret(key: str) -> None:
    given: Any = {key: _SECRET}
    assert _SECRET not in repr(Policy(**given))


def test_the_wrong_settings_are_many() -> None:
    assert len(ALL_WRONG) > 1000
