"""Each middleware leaves alone what is none of its business.

What it does has a test module of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from postfacta_core.asgi import Cors
from postfacta_core.asgi._types import ASGIApp, Receive, Scope, Send
from postfacta_core.asgi.metrics import MetricsEndpoint
from postfacta_core.asgi.middlewares import (
    ContextMiddleware,
    CorsMiddleware,
    DeadlineMiddleware,
    ErrorMiddleware,
    HealthMiddleware,
    LifecycleMiddleware,
    LoadSheddingMiddleware,
    RateLimitMiddleware,
    ResponseHeadersMiddleware,
    TelemetryMiddleware,
    TransferMiddleware,
)
from postfacta_core.deadlines.requests import RunningRequests
from postfacta_core.drain.lifecycle import Lifecycle
from postfacta_core.health.registry import HealthRegistry
from postfacta_core.telemetry.exchange import Recorder
from postfacta_core.telemetry.metrics import Metrics
from postfacta_core.testing import call_asgi


class Silent(Recorder):
    """Records nothing."""


MIDDLEWARES: dict[str, Callable[[ASGIApp], ASGIApp]] = {
    "context": ContextMiddleware,
    "telemetry": lambda app: TelemetryMiddleware(app, [Silent()]),
    "headers": ResponseHeadersMiddleware,
    "cors": lambda app: CorsMiddleware(app, Cors()),
    "errors": ErrorMiddleware,
    "lifecycle": lambda app: LifecycleMiddleware(app, Lifecycle(running=RunningRequests())),
    "transfer": TransferMiddleware,
    "rates": RateLimitMiddleware,
    "deadline": lambda app: DeadlineMiddleware(app, RunningRequests()),
    "shedding": LoadSheddingMiddleware,
    "metrics": lambda app: MetricsEndpoint(app, Metrics(with_process=False)),
    "health": lambda app: HealthMiddleware(app, HealthRegistry()),
}


@pytest.mark.parametrize("name", MIDDLEWARES)
async def test_a_lifespan_and_an_ordinary_request_pass(name: str) -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        if scope["type"] == "http":
            await send(
                {"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]}
            )
            await send({"type": "http.response.body", "body": b"ok"})

    wrapped = MIDDLEWARES[name](app)
    lifespan: Scope = {"type": "lifespan"}

    async def nothing(*message: object) -> dict[str, object]:
        return {}

    await wrapped(lifespan, nothing, nothing)  # type: ignore[arg-type]
    answer = await call_asgi(wrapped, "GET", "/items/7")
    assert (answer.status, answer.body, (b"x-own", b"1") in answer.headers) == (200, b"ok", True)
    assert seen[0] is lifespan
    assert len(seen) == 2
