"""A secret that is sent, set or raised comes out nowhere.

Not in logs, spans, metrics, nor in responses.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Generator, Mapping
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import httpx2
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from postfacta_adapters.otlp import Provider
from postfacta_app.problems import Problems
from postfacta_app.server import configure_logging
from postfacta_app.settings import Settings
from postfacta_core import logs
from postfacta_core.asgi import Telemetry, harden
from postfacta_core.telemetry.tracing import Tracing
from postfacta_embedded import EmbeddedPostgres
from tests.app.running import ADMIN, add_admin, sign_in, started
from tests.app.test_tracing import receiver
from tests.kit.pg import fresh_database

CANARY = "Cana7yBird"
# Each holds the canary as something that has a name or a shape.
HEADERS = {
    "Authorization": f"Bearer {CANARY}0123456789",
    "Cookie": f"postfacta={CANARY}; theme=dark",
    "X-Api-Key": CANARY,
    "X-Traffic-Class": "load",
    "X-Traffic-Key": CANARY,
    "User-Agent": f"curl --user me:x https://me:{CANARY}@host/?token={CANARY}",
    "Referer": f"https://host/?password={CANARY}",
    "X-Request-ID": f"bad id with {CANARY}",
    "X-Forwarded-For": f"token={CANARY}",
}
QUERY = {"token": CANARY, "password": CANARY, "api_key": f"pf_abcdefgh_{CANARY}"}
BODY = {
    "title": f"password={CANARY}",
    "description": f"postgresql://me:{CANARY}@host/db was in the ticket",
    "severity": "HIGH",
    "password": CANARY,
    "email": f"{CANARY}@example.org",
}
RAISED = (
    f"cannot connect to postgresql://me:{CANARY}@host:5432/db",
    f"connection refused: host=db user=me password={CANARY}",
    f'the caller sent {{"password": "{CANARY}", "client_secret": "{CANARY}"}}',
    f"headers were [(b'authorization', b'Bearer {CANARY}0123456789'), (b'cookie', b'postfacta={CANARY}; a=b')]",
    f"Key (token)=({CANARY}) already exists",
    f"rejected pf_abcdefgh_{CANARY}0123456789",
)


@pytest.mark.usefixtures("programs")
def test_secrets_that_are_sent_and_set_reach_no_sink(
    postgres_server: EmbeddedPostgres, app_template: str
) -> None:
    with fresh_database(postgres_server, app_template) as dsn, receiver() as otlp:
        environment = {
            "POSTFACTA_DATABASE_DSN": dsn,
            "POSTFACTA_TRACES": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{otlp.server_port}",
            "POSTFACTA_METRICS_TOKEN": f"{CANARY}-metrics",
            "POSTFACTA_TRAFFIC_KEY": f"{CANARY}-traffic",
            "LOG_FORMAT": "JSON",
            "LOG_LEVEL": "DEBUG",
        }
        add_admin(environment)
        with (
            started(environment=environment) as (process, url),
            httpx2.Client(base_url=url) as client,
        ):
            client.headers["Authorization"] = f"Bearer {CANARY}-metrics"
            admin = {"Authorization": f"Bearer {sign_in(client, ADMIN)}"}
            answers = _misuse(client, admin)
            metrics = client.get("/metrics")
            assert metrics.status_code == 200
            process.terminate()
            said, _ = process.communicate(timeout=30)
    assert {answer.status_code // 100 for answer in answers} == {4}
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    told = [answer for answer in answers if answer.request.url.path != "/metrics"]
    assert len([line for line in lines if line["event"] == "http.request"]) >= len(told) > 15
    assert len(otlp.spans) >= len(told)
    sinks = {
        "logs": said,
        "spans": "".join(map(str, otlp.spans)),
        "metrics": metrics.text,
        "answers": "".join(f"{answer.headers}{answer.text}" for answer in answers),
    }
    assert {
        name: _around(sink) for name, sink in sinks.items() if CANARY.lower() in sink.lower()
    } == {}
    for secret in (
        ADMIN.password,
        urlsplit(dsn).password,
        admin["Authorization"].removeprefix("Bearer "),
    ):
        assert secret
        assert not [name for name, sink in sinks.items() if secret in sink]


def _misuse(client: httpx2.Client, admin: Mapping[str, str]) -> list[httpx2.Response]:
    """Send the canary in every place of a request, to routes that refuse it."""
    answers: list[httpx2.Response] = []
    for method, path in (
        ("GET", "/api/v1/incidents"),
        ("POST", "/api/v1/incidents"),
        ("POST", "/login"),
        ("POST", "/register"),
        ("GET", "/api/v1/incidents/INC-99"),
        ("GET", "/nowhere"),
        ("POST", "/api/v0/incidents/start"),
        ("DELETE", "/api/v1/me"),
        ("GET", "/metrics"),
    ):
        # Nobody reads what a GET brings along.
        body: dict[str, Any] = {} if method == "GET" else {"json": BODY}
        headers = {**HEADERS, **admin}
        answers.append(client.request(method, path, params=QUERY, headers=HEADERS, **body))
        answers.append(client.request(method, path, params=QUERY, headers=headers, **body))
        answers.append(
            client.request(method, path, headers=headers, content=f'{{"password": "{CANARY}')
        )
    # An administrator may read all incidents: what is not refused is none of these.
    return [answer for answer in answers if answer.status_code >= 400]


def _around(text: str) -> str:
    at = text.lower().index(CANARY.lower())
    return text[max(0, at - 120) : at + 40]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Generator[int]:
    """Take the process's standard output for the lines, and give logging back afterwards."""
    reader, writer = os.pipe()
    monkeypatch.setattr(logs, "_STDOUT", writer)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield reader
    root.handlers[:] = handlers
    root.setLevel(level)
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("style", ["JSON", "text"])
@pytest.mark.parametrize("message", RAISED)
async def test_secrets_in_what_is_raised_reach_no_sink(
    written: int, message: str, style: str
) -> None:
    async def crash(request: Request) -> JSONResponse:
        try:
            raise OSError(message)  # noqa: TRY301 - what is looked at is the chain
        except OSError as error:
            raise RuntimeError(f"gave up: {message}") from error

    configure_logging(Settings.model_validate({"log_format": style}))
    kept = InMemorySpanExporter()
    provider = Provider(kept)
    problems = Problems()
    web = Starlette(routes=[Route("/api/v1/crash", crash)], exception_handlers=problems.handlers)
    telemetry = Telemetry(tracing=Tracing(provider))
    app = harden(web, service="test", telemetry=telemetry, render=problems.core)
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.get("/api/v1/crash")
        metrics = await client.get("/metrics")
    assert answer.status_code == 500
    await anyio.to_thread.run_sync(logging.getLogger().handlers[0].flush)
    said = os.read(written, 1_000_000).decode()
    await anyio.to_thread.run_sync(provider.shutdown)
    spans = "".join(span.to_json() for span in kept.get_finished_spans())
    # The error is there, in each of them: only its secret is not.
    assert "RuntimeError" in said
    assert "OSError" in said
    assert "RuntimeError" in spans
    assert 'error_type="RuntimeError"' in metrics.text
    for sink in (said, spans, metrics.text, answer.text):
        assert CANARY not in sink, _around(sink)
