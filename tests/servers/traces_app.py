"""A service for `test_traces`.

One request of it goes through the pool, SQL, another service and a background task.

Environment: `TRACES_DSN` is its database, `TRACES_COLLECTOR` where its spans go, `TRACES_QUEUED`
how many may wait.
"""

from __future__ import annotations

import os

import anyio.to_thread
import httpx2
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource as About
from opentelemetry.trace import Link
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from postfacta_adapters.httpx import Outgoing
from postfacta_adapters.otlp import Provider
from postfacta_core.asgi import HardenOptions, Telemetry, harden
from postfacta_core.backoff import Backoff
from postfacta_core.drain._course import DrainLimits
from postfacta_core.guards.retry import Retry
from postfacta_core.telemetry.tracing import Tracing
from postfacta_postgres import Database

provider = Provider(
    OTLPSpanExporter(f"{os.environ['TRACES_COLLECTOR']}/v1/traces", timeout=5),
    resource=About.create({"service.name": "traces"}),
    queued=int(os.environ.get("TRACES_QUEUED", "2048")),
    every=0.1,
)
telemetry = Telemetry(tracing=Tracing(provider))
database = Database(os.environ["TRACES_DSN"], observer=telemetry.observer)
billing = Outgoing(
    "billing",
    Retry("billing", backoff=Backoff(base=0.001, cap=0.001), observer=telemetry.observer),
    observer=telemetry.observer,
    spans=telemetry.tracing,
)
refusals = [503]


class Spans:
    """Ends the provider after all that makes spans."""

    async def __aenter__(self) -> None:
        """Begin nothing."""

    async def __aexit__(self, *_: object) -> None:
        await anyio.to_thread.run_sync(provider.shutdown)


async def order(request: Request) -> Response:
    number = await database.fetchval("select 7", operation="order_next")
    url = f"http://{request.headers['host']}/invoice/{number}"
    async with httpx2.AsyncClient(
        transport=billing.transport(httpx2.AsyncHTTPTransport())
    ) as client:
        answer = await client.get(url)
    return PlainTextResponse(answer.text, background=BackgroundTask(mail))


async def mail() -> None:
    cause = Link(trace.get_current_span().get_span_context())
    with provider.get_tracer("mail").start_as_current_span(
        "send mail", context=Context(), links=[cause]
    ):
        await database.fetchval("select 1", operation="mail_sent")


async def invoice(request: Request) -> Response:
    """Refuse once, then answer."""
    if refusals:
        return Response(status_code=refusals.pop(), headers={"retry-after": "0"})
    return PlainTextResponse(
        f"invoice {await database.fetchval('select 42', operation='invoice_of')}"
    )


async def quick(request: Request) -> Response:
    return PlainTextResponse("quick")


app = harden(
    Starlette(
        routes=[Route("/order", order), Route("/invoice/{id}", invoice), Route("/quick", quick)]
    ),
    service="traces",
    telemetry=telemetry,
    resources=[Spans(), database],
    options=HardenOptions(
        drain=DrainLimits(drain_delay=0, drain_timeout=2, close_timeout=5),
        trusted_traces=["127.0.0.1"],
    ),
)
