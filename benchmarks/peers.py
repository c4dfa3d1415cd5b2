"""Stack the middlewares that a Python team would take today, to have something to compare with.

Two stacks of the same features: the popular choice of each, and the cheapest choice of each that is
known. Both leave out what has no peer at all: drain, body limits by count, slow clients, health
from memory, deadlines that reach the database.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from asgi_correlation_id import CorrelationIdMiddleware
from opentelemetry.instrumentation.asgi import (  # pyright: ignore[reportMissingTypeStubs] - it has none
    OpenTelemetryMiddleware,
)
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry
from prometheus_fastapi_instrumentator.middleware import PrometheusInstrumentatorMiddleware
from secure import Secure
from secure.middleware import SecureASGIMiddleware
from slowapi import Limiter
from slowapi.middleware import SlowAPIASGIMiddleware, SlowAPIMiddleware
from slowapi.util import get_remote_address
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import (  # noqa: TID251 - peers use it
    BaseHTTPMiddleware,
    RequestResponseEndpoint,
)
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette_exporter import PrometheusMiddleware

from postfacta_core.asgi._types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["ACCESS", "Make", "peers"]

Make = Callable[..., Starlette]
"""Makes the application with some middlewares."""

ACCESS = logging.getLogger("peers.access")
"""Has a line for each request of a stack."""

_TIMEOUT = 30.0
# Never reached: what is measured is a request that passes.
_RATE = "1000000000/minute"


def peers(make: Make, tracing: TracerProvider) -> Mapping[str, ASGIApp]:
    """Name each stack around the application that `make` makes.

    `tracing` samples as ours does, for the last two.
    """
    return {
        "peers, popular": _popular(make, None, limited=False),
        "peers, popular, rate limit": _popular(make, None, limited=True),
        "peers, cheapest": _cheapest(make, None, limited=False),
        "peers, cheapest, rate limit": _cheapest(make, None, limited=True),
        "peers, popular, SDK at 1 %": _popular(make, tracing, limited=False),
        "peers, cheapest, SDK at 1 %": _cheapest(make, tracing, limited=False),
    }


def _popular(make: Make, tracing: TracerProvider | None, *, limited: bool) -> ASGIApp:
    app = _made(
        make,
        Middleware(CorrelationIdMiddleware),
        Middleware(BaseHTTPMiddleware, dispatch=_log_and_head),
        Middleware(PrometheusMiddleware, prefix=f"popular{limited}{tracing is not None}".lower()),
        *([Middleware(SlowAPIMiddleware)] if limited else []),
        Middleware(BaseHTTPMiddleware, dispatch=_time_out),
    )
    return OpenTelemetryMiddleware(app, tracer_provider=tracing)


def _cheapest(make: Make, tracing: TracerProvider | None, *, limited: bool) -> ASGIApp:
    app = _made(
        make,
        Middleware(CorrelationIdMiddleware),
        Middleware(_AccessLog),
        Middleware(PrometheusInstrumentatorMiddleware, registry=CollectorRegistry()),
        Middleware(SecureASGIMiddleware, secure=Secure.with_default_headers()),
        *([Middleware(SlowAPIASGIMiddleware)] if limited else []),
        Middleware(_Timeout),
    )
    return OpenTelemetryMiddleware(app, tracer_provider=tracing, exclude_spans=["receive", "send"])


def _made(make: Make, *middleware: Middleware) -> Starlette:
    app = make(*middleware)
    app.state.limiter = Limiter(key_func=get_remote_address, default_limits=[_RATE])
    return app


async def _log_and_head(request: Request, call_next: RequestResponseEndpoint) -> Response:
    started = time.perf_counter()
    response = await call_next(request)
    Secure.with_default_headers().set_headers(response)
    _note(request.method, request.url.path, response.status_code, started)
    return response


async def _time_out(request: Request, call_next: RequestResponseEndpoint) -> Response:
    try:
        return await asyncio.wait_for(call_next(request), _TIMEOUT)
    except TimeoutError:
        return PlainTextResponse("the time ran out", 504)


def _note(method: str, path: str, status: int, started: float) -> None:
    took = round((time.perf_counter() - started) * 1000, 3)
    ACCESS.info(
        "request", extra={"method": method, "path": path, "status": status, "duration_ms": took}
    )


class _AccessLog:
    """The access line as a team writes it in pure ASGI."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def noting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting_send)
        finally:
            _note(scope["method"], scope["path"], status, started)


class _Timeout:
    """The cheapest that the standard library has."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                await self._app(scope, receive, send)
        except TimeoutError:
            await PlainTextResponse("the time ran out", 504)(scope, receive, send)
