"""The saboteur again, as an ASGI application that `harden` protects under uvicorn, so that no server's habits are the service's.

Its switches are those that an application has; what is the server's own stands in `saboteur.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import traceback
from dataclasses import replace
from typing import Any, cast
from urllib.parse import urlsplit

import uvicorn
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from postfacta_core import ResilienceError, logs
from postfacta_core.asgi import (
    ASGIApp,
    HardenOptions,
    Message,
    Receive,
    Scope,
    Send,
    harden,
    problem_handler,
)
from postfacta_core.drain import DrainLimits
from postfacta_core.errors import DatabaseUnavailableError

OFF = frozenset(os.environ.get("WITHOUT", "").split(","))
STORE = urlsplit(os.environ["DATABASE_URL"])
TOKEN = os.environ.get("TOKEN", "")
RATE = os.environ.get("RATE_LIMIT")


def on(check: str) -> bool:
    return check not in OFF


class Memory:
    """What it keeps, in the store or, if it must lose it, here."""

    def __init__(self) -> None:
        self.room = asyncio.Semaphore(5)
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.lost: dict[str, Any] = {}

    async def ask(self, do: str, key: str, value: Any = None) -> Any:
        if not on("DATA-1"):
            return self.lost.setdefault(key, value) if do == "add" else self.keep(do, key, value)
        try:
            async with self.room, asyncio.timeout(0.9 if on("TIME-4") else 40):
                return await self.exchange({"do": do, "key": key, "value": value})
        except (OSError, TimeoutError, ValueError):
            raise DatabaseUnavailableError("the store", retry_after=1.0) from None

    def keep(self, do: str, key: str, value: Any) -> Any:
        if do == "put":
            self.lost[key] = value
        return self.lost.get(key)

    async def exchange(self, asked: dict[str, Any]) -> Any:
        kept = bool(self.idle)
        reader, writer = (
            self.idle.pop() if kept else await asyncio.open_connection(STORE.hostname, STORE.port)
        )
        try:
            writer.write(json.dumps(asked).encode() + b"\n")
            line = await reader.readline()
        except BaseException:
            writer.transport.abort()
            raise
        if not line:
            writer.transport.abort()
            if kept:
                return await self.exchange(asked)
            raise ConnectionResetError
        self.idle.append((reader, writer))
        return json.loads(line)["value"]


MEMORY = Memory()


async def write(request: Request) -> Response:
    given = request.headers.get("authorization")
    if not (
        given == f"Bearer {TOKEN}"
        or (given is None and not on("SECU-2"))
        or (given and not on("SECU-3"))
    ):
        return refused(request, 401, "who are you?")
    invoice = read_invoice(await request.body())
    if isinstance(invoice, str):
        return refused(request, 422, invoice)
    identity, key = secrets.token_hex(8), request.headers.get("idempotency-key")
    if key and on("DATA-3"):
        identity = await MEMORY.ask("add", f"key-{key}", identity)
    await MEMORY.ask("put", identity, {**invoice, "id": identity})
    return JSONResponse({"id": identity}, 201)


def read_invoice(body: bytes) -> dict[str, Any] | str:
    if not on("CRSH-1"):
        found = json.loads(body)
        return {"customer": found["customer"] + "", "total": found["total"] + 0}
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return "no JSON"
    invoice: dict[str, Any] = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    customer, total = invoice.get("customer"), invoice.get("total")
    if not (isinstance(customer, str) and re.fullmatch(r"[\w-]{1,100}", customer, re.ASCII)):
        return "customer must be a name"
    if not (isinstance(total, int) and not isinstance(total, bool) and 0 <= total < 10**9):
        return "total must be a number"
    return {"customer": customer, "total": total}


async def read(request: Request) -> Response:
    identity = request.path_params["id"]
    value = await MEMORY.ask("get", identity) if re.fullmatch(r"[0-9a-f]{16}", identity) else None
    return JSONResponse(value) if value else refused(request, 404, "there is no such invoice")


def refused(request: Request, status: int, detail: str) -> Response:
    if not on("CRSH-3"):
        detail += (
            "\n"
            + "".join(traceback.format_exception(ValueError(detail), limit=1))
            + "Traceback (most recent call last)"
        )
    if not on("OPER-7"):
        return PlainTextResponse(detail, status)
    return JSONResponse(
        {
            "type": "about:blank",
            "title": detail,
            "status": status,
            "detail": detail,
            "request_id": "in the header",
        },
        status,
    )


async def described(request: Request) -> Response:
    return JSONResponse({"openapi": "3.1.0", "paths": {}})


def not_found(request: Request, _: Exception) -> Response:
    return refused(request, 404, "there is no such path")


def not_allowed(request: Request, _: Exception) -> Response:
    return refused(request, 405, "not that method")


HANDLERS: Any = {
    404: not_found,
    405: not_allowed,
    ResilienceError: problem_handler,
    Exception: problem_handler,
}


def build() -> ASGIApp:
    routes = [Route("/invoices", write, methods=["POST"]), Route("/invoices/{id}", read)]
    if on("TRAC-2"):
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(provider)
    if on("OPER-7"):
        routes.append(Route("/openapi.json", described))
    if on("LOGS-1"):
        logs.configure(format="json", service="saboteur", version="1.0")
    options = HardenOptions(
        drain=DrainLimits(
            drain_delay=1.5 if on("SHUT-3") else 0.0, drain_timeout=4.0, close_timeout=1.0
        )
    )
    options = replace(
        options, rate_limits=[f"{RATE}/minute per client"] if RATE and on("RATE-1") else ()
    )
    if not on("INPT-1"):
        options = replace(
            options, limits=replace(cast("Any", options.limits), max_body_bytes=2**30)
        )
    if not on("SECU-4"):
        options = replace(options, response_headers=(("x-powered-by", "saboteur"),))
    app = harden(
        Starlette(routes=routes, exception_handlers=HANDLERS), service="saboteur", options=options
    )
    return app if on("SECU-1") else reflecting(app)


def reflecting(app: ASGIApp) -> ASGIApp:
    """Allow every origin with credentials."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                allowed = [
                    (b"access-control-allow-origin", b"*"),
                    (b"access-control-allow-credentials", b"true"),
                ]
                message = {**message, "headers": [*message["headers"], *allowed]}
            await send(message)

        await app(scope, receive, sending)

    return serve


def main() -> None:
    uvicorn.run(
        build(),
        port=int(os.environ["PORT"]),
        server_header=False,
        proxy_headers=False,
        log_config=None,
        timeout_graceful_shutdown=8,
        backlog=2048,
    )


if __name__ == "__main__":
    main()
