"""The settings of a process.

Its database, health, limits and telemetry, and what is wrong for each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from sqlalchemy import create_engine

from postfacta_adapters.otlp import Provider
from postfacta_adapters.psycopg import AsyncGuardedPool, GuardedPool
from postfacta_adapters.sqlalchemy import guard_engine
from postfacta_adapters.uvicorn import bounded, make_room
from postfacta_adapters.workers import Worker
from postfacta_core import DrainLimits
from postfacta_core.asgi import (
    Telemetry,
)
from postfacta_core.deadlines._limits import TransferLimits
from postfacta_core.feed import Feed
from postfacta_core.health import HealthRegistry
from postfacta_core.limits.address import TrustedProxies
from postfacta_core.limits.streams import StreamLimits
from postfacta_core.telemetry.logs import FloodFilter
from postfacta_core.telemetry.metrics import Metrics
from postfacta_core.telemetry.sampling import AccessSampler
from postfacta_postgres import Database, PoolOptions
from postfacta_postgres.outbox import Outbox
from postfacta_web.jwks import Jwks
from postfacta_web.numbers import Numbers
from postfacta_web.secrets import Reloaded
from postfacta_web.sign_in import SignInThrottle
from postfacta_web.stale import StaleAnswers
from postfacta_web.strict_json import parse
from postfacta_web.switches import Switches
from tests.attack.wrong import (
    BYTES,
    CLOCK,
    COUNT,
    COUNT_FROM_ZERO,
    COUNT_OR_NONE,
    ERRORS,
    FLAG,
    FROM_ZERO,
    FROM_ZERO_OR_INF,
    FUNCTION,
    FUNCTION_OR_NONE,
    NAME,
    OBJECT,
    OBSERVED,
    OBSERVER,
    RATES,
    SECONDS,
    SECONDS_OR_INF,
    SECRET,
    SECRET_TEXT,
    TEXT,
    TEXTS,
    Setting,
    check,
    sync_check,
)

__all__ = ["PROCESS"]


def _add(**given: Any) -> None:
    HealthRegistry().add(**given)


PROCESS: Final[dict[Callable[..., object], Setting]] = {
    Database: Setting(
        right={"dsn": "postgresql://localhost/x"},
        wrong={
            "dsn": SECRET,
            "name": NAME,
            "options": OBJECT,
            "password": (3, SECRET_TEXT.encode()),
            "breaker": OBJECT,
            "retry_budget": OBJECT,
            **OBSERVED,
            "luck": FUNCTION,
        },
    ),
    GuardedPool: Setting(
        right={"pool": ConnectionPool("", open=False)},
        wrong={"pool": OBJECT, "name": NAME, "breaker": OBJECT, **OBSERVED},
    ),
    AsyncGuardedPool: Setting(
        right={"pool": AsyncConnectionPool("", open=False)},
        wrong={"pool": OBJECT, "name": NAME, "breaker": OBJECT, **OBSERVED},
    ),
    guard_engine: Setting(
        right={"engine": create_engine("postgresql+psycopg://")},
        wrong={"engine": OBJECT, "name": NAME, "breaker": OBJECT, **OBSERVED},
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
            "plan_each_time": FLAG,
        }
    ),
    Reloaded: Setting(
        right={"value": 1.0, "read": lambda: 2.0, "names": ["real"]},
        wrong={
            "read": FUNCTION,
            "names": (*TEXTS, ["away"]),
            "replace": FUNCTION_OR_NONE,
            "files": FUNCTION_OR_NONE,
            "needs_restart": FUNCTION_OR_NONE,
            "explains": ERRORS,
            "every": SECONDS,
            "wall": FUNCTION,
        },
        free={"value": "of any kind"},
    ),
    Numbers: Setting(
        right={"file": "/etc/billing/numbers.toml"},
        wrong={"file": (None, "", b"/etc/billing/numbers.toml", 3), "every": SECONDS},
    ),
    Switches: Setting(
        right={"names": ["exports"], "file": "/etc/billing/switches.json"},
        wrong={
            "names": TEXTS,
            "file": (None, "", b"/etc/billing/switches.json", 3),
            "domain": TEXT,
            "every": SECONDS,
        },
    ),
    SignInThrottle: Setting(
        wrong={
            "name": (*NAME, "x" * 49),
            **dict.fromkeys(
                ("network", "site", "account_here", "account", "account_beyond", "device"), RATES
            ),
            "uncounted": ERRORS,
            "store": (3, {}, "memory://"),
            "max_keys": COUNT,
            **OBSERVED,
        },
        hidden={"store"},
    ),
    bounded: Setting(
        right={"most": 4096},
        wrong={
            "most": COUNT,
            "patience": SECONDS,
            "max_head_bytes": COUNT,
            "other_files": COUNT_FROM_ZERO,
        },
    ),
    make_room: Setting(
        right={"connections": 1, "backlog": 1, "other_files": 0},
        wrong={"connections": COUNT, "backlog": COUNT, "other_files": COUNT_FROM_ZERO},
    ),
    parse: Setting(
        right={"body": b"{}"},
        wrong={"most_parts": COUNT, "most_depth": (*COUNT, 501)},
        free={"body": "bytes, from a client"},
    ),
    Outbox: Setting(
        right={"database": Database("postgresql://localhost/x"), "topic": "ops", "deliver": check},
        wrong={
            "database": OBJECT,
            "topic": NAME,
            "deliver": (None, 3, sync_check, len),
            "lease": SECONDS,
            "give_up": SECONDS,
            "every": SECONDS,
            "backoff": OBJECT,
            "observer": OBSERVER,
            "luck": FUNCTION,
        },
    ),
    Feed: Setting(right={"name": "orders"}, wrong={"name": NAME, "most_kept": COUNT, **OBSERVED}),
    Worker: Setting(
        right={"name": "mailer"},
        wrong={"name": NAME, "drain_timeout": FROM_ZERO, "priority": OBJECT, **OBSERVED},
    ),
    Jwks: Setting(
        right={"fetch": check},
        wrong={
            "fetch": (None, "https://login.example.org/", sync_check, len),
            "name": NAME,
            **dict.fromkeys(("fresh", "valid", "pause", "timeout"), SECONDS),
            "most_keys": COUNT,
            **CLOCK,
            "wall": FUNCTION,
        },
    ),
    HealthRegistry: Setting(wrong={**OBSERVED, "luck": FUNCTION}),
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
        },
        call=_add,
    ),
    TransferLimits: Setting(
        wrong={
            "max_header_bytes": (0, *BYTES),
            "max_body_bytes": BYTES,
            "max_message_bytes": (0, *BYTES),
            "body_idle_timeout": SECONDS_OR_INF,
            "body_grace": FROM_ZERO_OR_INF,
            "min_body_rate": SECONDS_OR_INF,
            "write_timeout": SECONDS_OR_INF,
        }
    ),
    DrainLimits: Setting(
        wrong={"drain_delay": FROM_ZERO, "drain_timeout": FROM_ZERO, "close_timeout": SECONDS}
    ),
    StreamLimits: Setting(wrong=dict.fromkeys(("most", "per_caller"), COUNT_OR_NONE)),
    TrustedProxies: Setting(
        wrong={
            "networks": (
                "10.0.0.0/8",
                ["10.0.0.1/8"],
                ["10.0.0.0/33"],
                ["proxy"],
                [""],
                [3],
                3,
                None,
            ),
        }
    ),
    Telemetry: Setting(wrong={"metrics": OBJECT, "tracing": OBJECT}),
    Metrics: Setting(
        wrong={
            "registry": OBJECT,
            "version": TEXT,
            "revision": TEXT,
            "label_cap": COUNT,
            **CLOCK,
            "wall": FUNCTION,
            "with_process": FLAG,
        }
    ),
    AccessSampler: Setting(wrong={"most": COUNT}, free={"luck": "for tests"}),
    FloodFilter: Setting(
        wrong={"most": COUNT},
        free={"clock": "for tests"},
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
    StaleAnswers: Setting(
        right={"dependency": "billing"},
        wrong={
            "dependency": NAME,
            **dict.fromkeys(("cache", "detail"), (*NAME, "9 lives", "9", 'b"', "b;c=d", "b\n")),
            "refusals": ERRORS,
            "mark": FUNCTION_OR_NONE,
            "max_age": SECONDS,
            **dict.fromkeys(("max_entries", "max_bytes"), COUNT),
            **dict.fromkeys(("monotonic", "wall"), FUNCTION),
        },
    ),
}
