"""What costs more than its input grows is a way to stop the loop.

No pattern and no parser of ours does.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import httpx2
import pytest
from opentelemetry.sdk.trace import TracerProvider

from postfacta_adapters.httpx import refusal_in
from postfacta_core.asgi._route import local_path
from postfacta_core.asgi._rules import Rules, route_table
from postfacta_core.context import RequestContext
from postfacta_core.deadlines._limits import asked_timeout
from postfacta_core.limits.address import TrustedProxies, client_address
from postfacta_core.telemetry.exchange import Exchange
from postfacta_core.telemetry.logs import ConsoleFormatter, JsonFormatter
from postfacta_core.telemetry.redaction import redact, redact_text
from postfacta_core.telemetry.tracing import Tracing
from postfacta_web import strict_json
from tests.kit.every import every
from tests.kit.growth import grows_faster, hostile_texts, patterns_of

PACKAGES = (
    "postfacta_core",
    "postfacta_adapters",
    "postfacta_postgres",
    "postfacta_web",
    "postfacta_app",
)
PARENT = (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
ROUTES = ["GET /items/{id}", "/files/{rest:path}", "POST /a/{b}/c/{d}"]
TRACING = Tracing(TracerProvider())
find_rules = route_table([(ROUTES, Rules())], Rules())
# What is repeated: of each syntax that is read, separators, openings that are never closed, and
# what escapes.
PUMPS: Final = (
    *("a", " ", "\t", ",", ";", "=", ":", "/", "//", ".", "-", "\\", '"', "[", "{", "%41", "\x1b", "\u00e9", "0"),
    *("a,", "a=b,", "a=1; ", " , ", "-eyJaaaaa", "://a:", "Bearer ", "token=", '"token":', "cookie", "[1,", "1e9,"),
)  # fmt: skip


def record(text: str) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": text, "name": "a.library", "detail": text})


def parse_json(text: str) -> None:
    with suppress(strict_json.MalformedJsonError):
        strict_json.parse(text.encode())


def trace(name: bytes, text: str) -> None:
    exchange = Exchange(RequestContext("a-request-id", 0.0), "GET", "/")
    exchange.headers = [PARENT, (name, text.encode())]
    TRACING.begin(exchange)
    TRACING.end(exchange)


PARSERS: Final[dict[str, Callable[[str], object]]] = {
    "redact_text": redact_text,
    "redact": lambda text: redact({"detail": text, "deep": [text]}),
    "JsonFormatter": lambda text: JsonFormatter().format(record(text)),
    "ConsoleFormatter": lambda text: ConsoleFormatter().format(record(text)),
    "asked_timeout": lambda text: asked_timeout([(b"x-request-timeout", text.encode())]),
    "client_address": lambda text: client_address(
        "10.0.0.1", [(b"x-forwarded-for", text.encode())], TrustedProxies(["10.0.0.0/8"])
    ),
    "local_path": lambda text: local_path(text, "/a"),
    "route_table": lambda text: find_rules("GET", f"/items/{text}"),
    "tracestate": lambda text: trace(b"tracestate", text),
    "baggage": lambda text: trace(b"baggage", text),
    "Retry-After": lambda text: refusal_in(
        httpx2.Response(429, headers={b"retry-after": text.encode()}), "billing"
    ),
    "strict_json": parse_json,
}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_pattern_costs_more_than_its_input_grows(package: str) -> None:
    with every() as case:
        for place, use, pattern in patterns_of(importlib.import_module(package)):
            with case(place, pattern.pattern):
                for make in hostile_texts(pattern):
                    assert not grows_faster(use, make), make(40)


@pytest.mark.parametrize("name", PARSERS)
def test_no_parser_costs_more_than_its_input_grows(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)

    def make(pump: str) -> Callable[[int], Any]:
        return lambda length: (pump * length)[: length - 1] + "x"

    with every() as case:
        for pump in PUMPS:
            with case(repr(pump)):
                assert not grows_faster(PARSERS[name], make(pump))
