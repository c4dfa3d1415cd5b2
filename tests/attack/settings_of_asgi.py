"""The settings of `harden` and of each middleware, and what is wrong for each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from postfacta_core.asgi import Cors, HardenOptions, RateLimit, RouteOptions, harden
from postfacta_core.asgi.health import HealthEndpoint
from postfacta_core.asgi.lifespan import LifespanMiddleware
from postfacta_core.asgi.metrics import MetricsEndpoint
from postfacta_core.asgi.operator import OperatorEndpoint
from postfacta_core.health import HealthRegistry
from postfacta_core.telemetry.metrics import Metrics
from postfacta_postgres import Database
from tests.attack.wrong import (
    APP,
    CLOCK,
    COUNT,
    COUNT_FROM_ZERO,
    FLAG,
    FUNCTION_OR_NONE,
    MODE,
    OBJECT,
    OBSERVER,
    PATH,
    PREFIX,
    RATES,
    SECONDS_OR_NONE,
    SECRET,
    TEXTS,
    Setting,
    app,
)

__all__ = ["ASGI"]

ASGI: Final[dict[Callable[..., object], Setting]] = {
    RateLimit: Setting(
        right={"rate": "10/second"},
        wrong={
            "rate": RATES,
            "per": ("user", "", None, 3),
            "name": (3, "two words", "x" * 65),
            "cost": (-1, 1.5, "1", None, True),
            "applies_to": FUNCTION_OR_NONE,
            "mode": MODE,
        },
    ),
    HardenOptions: Setting(
        wrong={
            "limits": (*OBJECT, None),
            "routes": ("GET /items", ["GET /items"], 3, None),
            "parts": ("Maintenance", [print], [object], 3, None),
            "request_timeout": SECONDS_OR_NONE,
            "stream_timeout": SECONDS_OR_NONE,
            "cancel_on_disconnect": FLAG,
            "rate_limits": (
                "100/minute",
                [100],
                ["100/fortnight"],
                ["1/minute per principal"],
                None,
                {},
            ),
            "rate_limit_store": OBJECT,
            "trusted_proxies": ("10.0.0.0/8", ["proxy"], [3], 3, None),
            "trusted_traces": ("10.0.0.0/8", ["gateway"], [3], 3, None),
            "cors": (*OBJECT, Cors, ["https://console.example.org"]),
            "shedding": MODE,
            "concurrency": (100, "100", None),
            "priority_of": FUNCTION_OR_NONE,
            "priority_key": SECRET,
            "streams": (*OBJECT, None),
            "drain": (*OBJECT, None),
            "request_id_header": FLAG,
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
            "work_at_once": COUNT,
            "cover_tasks": FLAG,
            "dev": FLAG,
            "metrics_workers": (3, None),
            "health_prefix": PREFIX,
            "allow_health_detail": FUNCTION_OR_NONE,
            "traffic_key": SECRET,
            "quiet": ("/ping", ["ping"], [3], None),
            "access_lines": (0, -1, 1.5, "all", True),
        },
        shown_as={"trusted_proxies": "networks", "trusted_traces": "networks"},
        hidden={"rate_limit_store"},
    ),
    RouteOptions: Setting(
        right={"routes": ["GET /items"]},
        wrong={
            "routes": (
                "GET /items",
                [3],
                ["items"],
                ["get /items"],
                ["GET /{"],
                ["/a?b"],
                ["GET"],
                None,
            ),
            "limits": OBJECT,
            "request_timeout": (0, -1, "1", True),
            "stream_timeout": (0, -1, "1", True),
            "stream_idle": (0, -1, "1", True, math.inf),
            "heartbeat": (0, -1, "1", True, math.inf),
            "cancel_on_disconnect": ("yes", 1),
            "drain": ("end", 1, True),
            "drain_timeout": (0, -1, "1", True, math.inf),
            "priority": ("critical", 1, True),
            "shedding": ("on", 1, True),
            "waits": ("yes", 1),
            "rate_limits": ("100/minute", [100], ["100/fortnight"], {}),
        },
    ),
    harden: Setting(
        right={"app": app, "service": "billing"},
        wrong={
            "app": (*APP, harden(app, service="billing")),
            "service": ("", " ", None, 3),
            "options": OBJECT,
            "telemetry": OBJECT,
            "health": OBJECT,
            "resources": ([object()], ["database"], [Database], 3, None),
            "render": FUNCTION_OR_NONE,
            "route_of": FUNCTION_OR_NONE,
            **CLOCK,
        },
    ),
    Cors: Setting(
        wrong={
            "allow_origins": (*TEXTS, ["console.example.org"], ["https://console.example.org/"]),
            "allow_methods": TEXTS,
            "allow_headers": TEXTS,
            "allow_credentials": FLAG,
            "expose_headers": TEXTS,
            "max_age": COUNT_FROM_ZERO,
        }
    ),
    HealthEndpoint: Setting(
        right={"app": app, "registry": HealthRegistry()},
        wrong={"app": APP, "registry": (*OBJECT, None), "options": (*OBJECT, None)},
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
    OperatorEndpoint: Setting(right={"local": True}, wrong={"token": SECRET, "local": FLAG}),
    MetricsEndpoint: Setting(
        right={"app": app, "metrics": Metrics()},
        wrong={
            "app": APP,
            "metrics": (*OBJECT, None),
            "options": (*OBJECT, None),
            "observer": OBSERVER,
        },
    ),
}
