"""Spans of the running service reach a real OTLP receiver, joined into one trace with the log line."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from postfacta_embedded import EmbeddedPostgres
from tests.app.running import ADMIN, add_admin, sign_in, started
from tests.kit.pg import fresh_database


class Receiver(HTTPServer):
    """Takes OTLP over HTTP, as a collector does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        receiver = self.server
        assert isinstance(receiver, Receiver)
        body = self.rfile.read(int(self.headers["content-length"]))
        for each in ExportTraceServiceRequest.FromString(body).resource_spans:
            attributes = {it.key: it.value.string_value for it in each.resource.attributes}
            receiver.resources.append(attributes)
            for scope in each.scope_spans:
                receiver.spans.extend(scope.spans)
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that http.server gives it
        """Write no log line."""


@contextmanager
def receiver() -> Generator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("programs")
def test_a_request_is_one_trace_from_the_callers_span_to_the_statement(
    postgres_server: EmbeddedPostgres, app_template: str
) -> None:
    trace_id, caller = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with fresh_database(postgres_server, app_template) as dsn, receiver() as otlp:
        environment = {
            "POSTFACTA_DATABASE_DSN": dsn,
            "POSTFACTA_TRACES": "otlp",
            "POSTFACTA_TRUSTED_TRACES": "127.0.0.1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{otlp.server_port}",
            "LOG_FORMAT": "JSON",
        }
        add_admin(environment)
        with (
            started(environment=environment) as (process, url),
            httpx2.Client(base_url=url) as client,
        ):
            headers = {
                "Authorization": f"Bearer {sign_in(client, ADMIN)}",
                "traceparent": f"00-{trace_id}-{caller}-01",
                "X-Request-ID": "traced-request",
            }
            assert client.get("/api/v1/incidents", headers=headers).status_code == 200
            assert client.get("/healthz/ready").status_code in {200, 503}
            process.terminate()
            said, _ = process.communicate(timeout=30)
    ours = [span for span in otlp.spans if span.trace_id.hex() == trace_id]
    [server] = [span for span in ours if span.kind == Span.SPAN_KIND_SERVER]
    assert server.name == "GET /api/v1/incidents"
    assert server.parent_span_id.hex() == caller
    assert server.status.code == Status.STATUS_CODE_UNSET
    statements = [span for span in ours if span.kind == Span.SPAN_KIND_CLIENT]
    assert any(span.name.startswith("incident_list") for span in statements)
    assert {span.parent_span_id for span in statements} == {server.span_id}
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    [line] = [it for it in lines if it.get("request_id") == "traced-request"]
    assert (line["trace_id"], line["span_id"]) == (trace_id, server.span_id.hex())
    assert {it["service.name"] for it in otlp.resources} == {"postfacta"}
    assert not [span for span in otlp.spans if "healthz" in span.name]
    assert ADMIN.password not in said
