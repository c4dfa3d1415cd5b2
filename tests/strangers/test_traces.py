"""A service whose own spans hold secrets, which its collector never gets."""

from __future__ import annotations

import time
from pathlib import Path

import httpx2

from tests.app.test_tracing import receiver
from tests.strangers.kit import Environments

SERVICE = """
    import os

    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    from postfacta_adapters.otlp import Provider
    from postfacta_core.asgi import harden

    exporter = OTLPSpanExporter(os.environ["COLLECTOR"] + "/v1/traces", timeout=5)
    trace.set_tracer_provider(Provider(exporter, every=0.1))
    tracer = trace.get_tracer("billing")


    async def invoice(request):
        with tracer.start_as_current_span("charge", attributes={"card.token": "canary-1"}) as span:
            span.add_event("asked", {"url": "https://billing:canary-2@host/?api_key=canary-3"})
        raise ConnectionError("cannot connect to postgresql://billing:canary-4@host/db")


    app = harden(Starlette(routes=[Route("/invoices", invoice)]), service="billing")
"""


OUTSIDERS = "0af7651916cd43dd8448eb211c80319c"


def test_a_collector_gets_spans_without_secrets_and_a_trace_of_our_own(
    environments: Environments, tmp_path: Path
) -> None:
    environment = environments("starlette", "uvicorn", extras=["otlp"])
    with receiver() as otlp:
        collector = {"COLLECTOR": f"http://127.0.0.1:{otlp.server_port}"}
        with environment.serve(SERVICE, cwd=tmp_path, environment=collector) as served:
            headers = {"traceparent": f"00-{OUTSIDERS}-b7ad6b7169203331-01"}
            answer = httpx2.get(f"{served.url}/invoices", headers=headers, timeout=10)
            assert answer.status_code == 500
            until = time.monotonic() + 20
            while len(otlp.spans) < 2:
                assert time.monotonic() < until, served.log
                time.sleep(0.05)  # noqa: TID251 - a thread of its own, not a loop
    [request] = [span for span in otlp.spans if span.name == "GET /invoices"]
    assert OUTSIDERS not in {span.trace_id.hex() for span in otlp.spans}
    assert [link.trace_id.hex() for link in request.links] == [OUTSIDERS]
    sent = "".join(map(str, otlp.spans))
    assert {span.name for span in otlp.spans} == {"charge", "GET /invoices"}
    assert "ConnectionError" in sent
    assert sent.count("[redacted]") >= 4
    assert "canary" not in sent
