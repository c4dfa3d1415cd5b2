"""What a caller writes into headers is never an error, a breaker failure or a limiter sample of the service."""

from __future__ import annotations

import ast
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from postfacta_core.asgi import Cors, HardenOptions, Telemetry, harden
from postfacta_core.asgi._types import ASGIApp
from postfacta_core.asgi.stack import Hardened
from postfacta_core.deadlines.present import current_deadline
from postfacta_core.guards.breaker import CircuitBreaker
from postfacta_core.limits._overload import OverloadConfig
from postfacta_core.limits._waiting import Priority
from postfacta_core.testing import call_asgi
from tests.kit.exposition import OPEN_METRICS, read_open_metrics
from tests.kit.lifespan import running

ROOT = Path(__file__).parents[2]
SOURCES = ("postfacta_core", "postfacta_app")
SECRET = "s" * 32
# What a client that ended its request itself is counted as; no objective looks at it.
CALLERS_OWN = {"", "callers_deadline", "client_disconnected"}

READ = {
    "accept", "access-control-request-headers", "access-control-request-method", "authorization",
    "cache-control",
    "content-length", "content-type", "cookie", "forwarded", "host", "idempotency-key",
    "if-match", "if-none-match", "last-event-id", "mcp-session-id", "origin", "referer", "sec-fetch-site", "traceparent", "tracestate",
    "transfer-encoding", "user-agent", "x-forwarded-for", "x-priority", "x-priority-key", "x-request-id",
    "via", "x-real-ip", "x-request-timeout", "x-traffic-class", "x-traffic-key",
}  # fmt: skip
"""Each request header that the core or the app reads."""

# Header names in the source that are only sent, in responses or to other services.
SENT = {
    "access-control-allow-credentials", "access-control-allow-headers", "access-control-allow-methods",
    "access-control-allow-origin", "access-control-expose-headers", "access-control-max-age", "age", "allow",
    "cache-control", "cache-status", "connection", "content-disposition", "content-encoding",
    "content-security-policy", "date",
    "etag", "last-modified", "location", "ratelimit", "ratelimit-policy", "referrer-policy", "retry-after",
    "set-cookie", "strict-transport-security", "vary", "www-authenticate", "x-content-type-options",
}  # fmt: skip
# Words that are like header names and are none.
_WORDS = {"bearer", "true", "close", "no-cache", "no-store", "load", "synthetic"}

VALUES = (
    "", "0", "0.0", "-1", "nan", "inf", "1e-9", "0.001", "0.02", "0S", "1n", "20m", "99999999H", "9" * 400,
    "junk", "x" * 8000, "\u00e9\u00ff", '"', "a, b;q=0, *;q=nan", "critical_plus", "sheddable", "load",
    "Bearer junk", "for=_x;proto=", "1.2.3.4, junk, ::", "00-" + "0" * 32 + "-" + "0" * 16 + "-ff", "GET", "*",
)  # fmt: skip


def header_names(tree: ast.AST) -> Iterator[str]:
    """Find what may be the name of a header.

    Bytes, and texts that are asked of something called headers.
    """
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=bytes() as name):
                yield name.decode("latin-1")
            case ast.Call(
                func=ast.Attribute(value=owner, attr="get" | "getlist"),
                args=[ast.Constant(value=str() as name), *_],
            ):
                if "headers" in ast.unparse(owner):
                    yield name
            case ast.Constant(value=str() as name) if name.lower() in READ | SENT:
                yield name
            case _:
                pass


def test_each_header_that_the_source_reads_is_attacked() -> None:
    found: set[str] = set()
    for package in SOURCES:
        for file in sorted((ROOT / "src" / package).rglob("*.py")):
            found |= {name.lower() for name in header_names(ast.parse(file.read_text()))}
    found = {name for name in found if re.fullmatch(r"[a-z]+(-[a-z]+)*", name)}
    assert found - READ - SENT - _WORDS == set()
    assert READ - found == set()


@dataclass(frozen=True)
class Objectives:
    """The queries of deploy/slo, asked of one page of metrics."""

    queries: dict[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def read(cls) -> Objectives:
        queries: dict[str, str] = {}
        for document in yaml.safe_load_all(
            (ROOT / "deploy/slo/postfacta.openslo.yaml").read_text()
        ):
            if document["kind"] == "SLI":
                for part in ("bad", "good", "total"):
                    if asked := document["spec"]["ratioMetric"].get(part):
                        name = f"{document['metadata']['name']} {part}"
                        queries[name] = asked["metricSource"]["spec"]["query"]
        return cls(queries)

    def ask(self, page: str) -> dict[str, float]:
        return {name: _sum(page, query) for name, query in self.queries.items()}


def _sum(page: str, query: str) -> float:
    name, matchers = re.fullmatch(r"(\w+)\{(.*)\}", query, re.DOTALL).groups()  # type: ignore[union-attr]
    wanted = re.findall(r'(\w+)(!?[=~]~?)"([^"]*)"', matchers)
    total = 0.0
    for metric in read_open_metrics(page).values():
        for sample in metric.samples:
            if sample.name == name and all(
                _fits(sample.labels, *one) for one in wanted if one[0] != "job"
            ):
                total += sample.value
    return total


def _fits(labels: dict[str, str], label: str, operator: str, value: str) -> bool:
    has = labels.get(label, "")
    found = re.fullmatch(value, has) is not None if operator.endswith("~") else has == value
    return found is not operator.startswith("!")


class Victim:
    """A hardened service with every setting that reads a header."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("rate_limits", ["100000/minute per client"])
        self.telemetry = Telemetry()
        self.breaker = CircuitBreaker("billing", observer=self.telemetry.observer)
        self.objectives = Objectives.read()
        self.app: Hardened = harden(
            self.service(),
            service="victim",
            telemetry=self.telemetry,
            options=HardenOptions(
                **settings,
                cors=Cors(allow_origins=["https://console.example.org"], allow_headers=["*"]),
                trusted_proxies=["127.0.0.0/8"],
                metrics_token=SECRET,
                priority_key=SECRET,
                traffic_key=SECRET,
                priority_of=lambda scope: Priority.CRITICAL,
                cancel_on_disconnect=True,
            ),
        )

    def service(self) -> ASGIApp:
        async def guarded(request: Request) -> Response:
            return JSONResponse(await self.breaker.call(ask_billing))

        async def ask_billing() -> str:
            # As an HTTP client does that was given what is left.
            deadline = current_deadline()
            with anyio.move_on_after(deadline.for_next_hop() if deadline else None):
                await anyio.sleep(0.03)
                return "paid"
            raise LookupError("it did not answer in time")

        async def read(request: Request) -> Response:
            return JSONResponse(len(await request.body()))

        return Starlette(
            routes=[Route("/guarded", guarded), Route("/read", read, methods=["POST"])]
        )

    async def page(self) -> str:
        headers = [("authorization", f"Bearer {SECRET}"), ("accept", OPEN_METRICS)]
        return (await call_asgi(self.app, path="/metrics", headers=headers)).body.decode()

    async def suffer(self, headers: list[tuple[str, str]]) -> None:
        await call_asgi(self.app, "GET", "/guarded", headers=headers, raise_errors=False)
        await call_asgi(self.app, "POST", "/read", headers=headers, body=b"{}", raise_errors=False)
        await call_asgi(self.app, "GET", "/metrics", headers=headers, raise_errors=False)
        await call_asgi(self.app, "OPTIONS", "/nowhere", headers=headers, raise_errors=False)

    async def suffer_all(self, name: str, values: tuple[str, ...]) -> None:
        for value in values:
            await self.suffer([(name, value)])
            await self.suffer([(name, value), (name, "0"), (name, "junk")])

    async def assert_unharmed(self) -> None:
        page = await self.page()
        told = self.objectives.ask(page)
        assert told["requests-failed bad"] == 0
        errors: set[str] = set()
        for metric in read_open_metrics(page).values():
            for sample in metric.samples:
                if sample.name == "http_server_requests_total":
                    errors.add(sample.labels["error_type"])
                    assert not sample.labels["http_response_status_code"].startswith("5"), sample
                if (
                    sample.name == "postfacta_deadline_exceeded_total"
                    and sample.labels["stage"] != "caller"
                ):
                    assert sample.value == 0, sample
                assert sample.name != "postfacta_unhandled_exceptions_total", sample
        assert errors <= CALLERS_OWN
        assert self.breaker.statistics().failures == 0
        limiter = self.app.shedding.limiter
        assert limiter.limit >= OverloadConfig().start
        assert self.tally()["postfacta_limiter_scale"] == 1

    def tally(self) -> dict[str, float]:
        return {sample.metric: sample.value for sample in self.app.shedding.limiter.tally()}


@asynccontextmanager
async def victim(**settings: Any) -> AsyncGenerator[Victim]:
    one = Victim(**settings)
    with anyio.fail_after(60):
        async with running(one.app):
            yield one


@pytest.mark.parametrize("name", sorted(READ))
async def test_no_header_moves_an_objective_a_breaker_or_the_limiter(name: str) -> None:
    pressures: list[float] = []
    # What a header does, it does each time; others may have the processor while it is tried once.
    while len(pressures) < 3 and all(pressure > 1 for pressure in pressures):
        async with victim() as service:
            async with anyio.create_task_group() as tasks:
                # A few at a time: what the service sheds under load is another matter.
                for first in range(6):
                    tasks.start_soon(service.suffer_all, name, VALUES[first::6])
            await service.assert_unharmed()
            pressures.append(service.tally()["postfacta_limiter_pressure"])
    assert min(pressures) <= 1


async def test_a_request_without_time_spends_its_rate() -> None:
    header = ("x-request-timeout", "0")
    async with victim(rate_limits=["2/minute per client"]) as service:
        statuses = [
            (await call_asgi(service.app, path="/guarded", headers=[header])).status
            for _ in range(5)
        ]
        assert statuses == [504, 504, 429, 429, 429]
        await service.assert_unharmed()
        assert service.app.shedding.limiter.in_flight == 0


@pytest.mark.parametrize("seconds", ["0", "0.02"])
async def test_a_shortened_request_is_counted_as_its_callers(seconds: str) -> None:
    async with victim() as service:
        before = service.objectives.ask(await service.page())
        for _ in range(5):
            await call_asgi(
                service.app,
                path="/guarded",
                headers=[("x-request-timeout", seconds)],
                raise_errors=False,
            )
        page = await service.page()
        assert service.objectives.ask(page) == before
        query = 'http_server_requests_total{http_response_status_code="499",error_type="callers_deadline"}'
        assert _sum(page, query) == 5
        await service.assert_unharmed()


async def test_our_own_deadline_stays_ours() -> None:
    async with victim(request_timeout=0.02) as service:
        answer = await call_asgi(
            service.app, path="/guarded", headers=[("x-request-timeout", "0.5")], raise_errors=False
        )
        assert answer.status in {500, 504}
        assert service.objectives.ask(await service.page())["requests-failed bad"] == 1
