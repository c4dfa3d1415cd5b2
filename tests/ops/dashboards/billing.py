"""A small service with one of each policy, as an adopter might have it.

The dashboards must fit it too.
"""

from __future__ import annotations

import anyio
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from postfacta_adapters.limits import SharedStore
from postfacta_adapters.otlp import Provider
from postfacta_core import (
    Bulkhead,
    CircuitBreaker,
    Fallback,
    Hedge,
    Pipeline,
    ResilienceError,
    Retry,
    Timeout,
)
from postfacta_core.asgi import HardenOptions, Telemetry, harden, problem_handler
from postfacta_core.guards import CircuitConfig
from postfacta_core.telemetry.metrics import Metrics

__all__ = ["app"]

# Nobody takes its traces either.
trace.set_tracer_provider(
    Provider(OTLPSpanExporter("http://127.0.0.1:1/v1/traces", timeout=1), every=1.0)
)
telemetry = Telemetry(metrics=Metrics(version="1.4.2", revision="0123abc"))
observer = telemetry.observer

slots = Bulkhead("ledger", 1, observer=observer)
# It opens soon, and tries again soon.
opens = CircuitConfig(
    failure_rate_threshold=0.3, minimum_number_of_calls=6, wait_duration_in_open_state=1.0
)
breaker = CircuitBreaker("ledger", config=opens, observer=observer)
retry = Retry("ledger", attempts=2, on=ConnectionError, observer=observer)
guarded = Pipeline(Timeout(2, name="ledger"), retry, breaker, slots)
hedge = Hedge("search", delay=0.01, observer=observer)


def euro(_: int) -> str:
    """Return the currency of an invoice: all have the same."""
    return "euro"


fallback = Fallback("rates", key=euro, on=ConnectionError, observer=observer)


@guarded
async def total(number: int) -> int:
    """Ask the ledger, which fails for each third invoice and is never fast."""
    await anyio.sleep(0.02)
    if number % 3 == 0:
        raise ConnectionError("the ledger hung up")
    return 120


@hedge
async def search() -> str:
    """Take longer than any caller waits."""
    await anyio.sleep(0.03)
    return "found"


async def rate(number: int) -> float:
    """Give an exchange rate, but not for odd numbers."""
    if number % 2:
        raise ConnectionError("no rates today")
    return 1.09


async def invoice(request: Request) -> Response:
    """Answer with what an invoice comes to."""
    number = int(request.path_params["id"])
    found = await fallback.ask(rate, number)
    return JSONResponse(
        {"id": number, "total": await total(number), "rate": found, "search": await search()}
    )


async def crash(request: Request) -> Response:
    """Have a bug."""
    raise KeyError("total")


async def slow(request: Request) -> Response:
    """Take longer than a request may."""
    await anyio.sleep(10)
    return JSONResponse({})


web = Starlette(
    routes=[
        Route("/invoices/{id:int}", invoice),
        Route("/crash", crash),
        Route("/slow", slow),
    ],
    exception_handlers={ResilienceError: problem_handler, Exception: problem_handler},
)
app = harden(
    web,
    service="billing",
    options=HardenOptions(
        request_timeout=0.5,
        rate_limits=["2/second per client"],
        # Nobody listens there: a shared store that is away is what its panels are for.
        rate_limit_store=SharedStore("async+valkey://127.0.0.1:1"),
    ),
    telemetry=telemetry,
)


async def answers() -> None:
    """Check a dependency that is well."""


app.health.add("ledger", answers, interval=0.5)
