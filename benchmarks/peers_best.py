"""Count what a request costs with the leanest that a team could write of peers' parts, beside `harden`.

A stack of one hand-written middleware: the request's id, a span by OpenTelemetry's interface, a
counter and a histogram of prometheus-client, a line of structlog that orjson formats, six headers
that are encoded once, and the standard library's timeout. With rates, the library `limits` is
called by itself, and CORS is Starlette's. It has no problem documents, no limit on sizes or slow
clients, no drain and no deadline that a callee learns: those of `harden` are counted against it.

    python -m benchmarks.peers_best [--json FILE]       (needs valgrind; half a minute)

structlog and orjson are no dependencies of this project: install them into a folder of their own,
`pip install --target FOLDER structlog orjson`, and name it in `PYTHONPATH`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Final
from uuid import uuid4

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from opentelemetry import propagate, trace
from prometheus_client import CollectorRegistry, Counter, Histogram
from secure import Secure
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse

from benchmarks.bench_asgi import maker
from benchmarks.instructions import count, serve_counted
from benchmarks.lines import write_to_nowhere
from benchmarks.peers import Make
from benchmarks.variants import LIKE_PEERS, hardened
from postfacta_core.asgi import Cors, HardenOptions, Telemetry
from postfacta_core.asgi._types import ASGIApp, Message, Receive, Scope, Send
from postfacta_core.events import Mode

__all__ = ["Line", "best", "main", "structlog_line"]

Line = Callable[..., object]
"""Writes the line of one request: an event and its fields by keyword."""

MODULE: Final = "benchmarks.peers_best"
PAIRS: Final = {
    "plain": ("harden", "peers at their best"),
    "rates, headers, CORS": ("harden, rates, CORS", "peers at their best, rates, CORS"),
}
_ORIGIN: Final = "https://app.example"
_TIMEOUT: Final = 30.0
_HEADERS: Final = [
    (name.lower().encode(), value.encode())
    for name, value in Secure.with_default_headers().headers.items()
]
_REQUEST_ID: ContextVar[str] = ContextVar("best_request_id", default="")


def structlog_line() -> Line:
    """Return what writes a line by structlog and orjson to the null device.

    Raises:
        RuntimeError: If one of the two is not installed.
    """
    try:
        structlog, orjson = import_module("structlog"), import_module("orjson")
    except ImportError as error:
        raise RuntimeError(
            "needs structlog and orjson: pip install --target FOLDER structlog orjson,"
            " and PYTHONPATH=FOLDER"
        ) from error
    logger = structlog.wrap_logger(
        structlog.BytesLogger(Path(os.devnull).open("wb")),  # noqa: SIM115 - as long as the process
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=orjson.dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(20),
        cache_logger_on_first_use=True,
    ).bind()
    line: Line = logger.info
    return line


class _Best:
    def __init__(self, app: ASGIApp, line: Line) -> None:
        self._app = app
        self._line = line
        registry = CollectorRegistry()
        self._tracer = trace.get_tracer("best")
        self._count = Counter("requests", "Requests.", ["method", "status"], registry=registry)
        self._seconds = Histogram("seconds", "Their time.", ["method"], registry=registry)
        self._labelled: dict[tuple[str, int], Counter] = {}
        self._timed: dict[str, Histogram] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = headers.get(b"x-request-id", b"").decode("latin-1") or uuid4().hex
        parent = None
        if b"traceparent" in headers:
            parent = propagate.extract({"traceparent": headers[b"traceparent"].decode("latin-1")})
        reset = _REQUEST_ID.set(request_id)
        method = scope["method"]
        status = 500
        started = time.perf_counter()

        async def heading_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    *_HEADERS,
                    (b"x-request-id", request_id.encode("latin-1")),
                ]
            await send(message)

        try:
            with self._tracer.start_as_current_span(
                method, parent, trace.SpanKind.SERVER, {"http.request.method": method}
            ) as span:
                try:
                    async with asyncio.timeout(_TIMEOUT):
                        await self._app(scope, receive, heading_send)
                except TimeoutError:
                    late = PlainTextResponse("the time ran out", 504)
                    await late(scope, receive, heading_send)
                if span.is_recording():
                    span.set_attribute("http.response.status_code", status)
        finally:
            took = time.perf_counter() - started
            self._note(method, status, took)
            self._line(
                "request",
                request_id=request_id,
                method=method,
                path=scope["path"],
                status=status,
                duration_ms=round(took * 1000, 3),
            )
            _REQUEST_ID.reset(reset)

    def _note(self, method: str, status: int, took: float) -> None:
        counter = self._labelled.get((method, status))
        if counter is None:
            counter = self._labelled[method, status] = self._count.labels(method, str(status))
        counter.inc()
        histogram = self._timed.get(method)
        if histogram is None:
            histogram = self._timed[method] = self._seconds.labels(method)
        histogram.observe(took)


class _Limited:
    def __init__(self, app: ASGIApp, rate: str) -> None:
        self._app = app
        self._rate = parse(rate)
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = scope["client"][0]
        is_within = self._limiter.hit(self._rate, client)
        window = self._limiter.get_window_stats(self._rate, client)
        left = max(0, window.reset_time - time.time())  # noqa: TID251 - the library counts by it
        limits = [
            (b"ratelimit-limit", b"%d" % self._rate.amount),
            (b"ratelimit-remaining", b"%d" % window.remaining),
            (b"ratelimit-reset", b"%d" % left),
        ]

        async def heading_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *limits]
            await send(message)

        if is_within:
            await self._app(scope, receive, heading_send)
        else:
            await PlainTextResponse("too many requests", 429)(scope, receive, heading_send)


def best(make: Make, line: Line, *, rate: str | None = None) -> ASGIApp:
    """Put the leanest stack of the peers around the application that `make` makes.

    With `rate`, as `limits` writes it, there are a limit for each client and CORS too.
    """
    more = []
    if rate is not None:
        cors = Middleware(CORSMiddleware, allow_origins=[_ORIGIN])
        more = [cors, Middleware(_Limited, rate=rate)]
    return make(Middleware(_Best, line=line), *more)


def _applications() -> Mapping[str, ASGIApp]:
    make = maker("origin")
    bare = make()
    line = structlog_line()
    plain = HardenOptions(shedding=Mode.OFF, response_headers=LIKE_PEERS.response_headers)
    rated = replace(LIKE_PEERS, cors=Cors(allow_origins=[_ORIGIN]))
    return {
        "bare": bare,
        "harden": hardened(bare, Telemetry(), plain),
        "peers at their best": best(make, line),
        "harden, rates, CORS": hardened(bare, Telemetry(), rated),
        "peers at their best, rates, CORS": best(make, line, rate="1000000000/minute"),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variants", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--request", help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        write_to_nowhere()
        asyncio.run(serve_counted(_applications, options.variants, "origin"))
        return
    structlog_line()
    names = ["bare", *(name for pair in PAIRS.values() for name in pair)]
    figures = count(names, "origin", MODULE)
    for what, (ours, theirs) in PAIRS.items():
        added, peers = figures[ours] - figures["bare"], figures[theirs] - figures["bare"]
        print(f"{what:<24}{added:>12,}{peers:>12,}{added / peers:>8.2f}")  # noqa: T201 - its job
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
