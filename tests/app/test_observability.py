"""The service's log lines name it, and its spans hold no secret."""

from __future__ import annotations

import json
import logging
from collections.abc import Generator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanKind, StatusCode

from postfacta_app.observability import RedactingExporter, configure_logging
from postfacta_app.settings import Settings


@pytest.fixture(autouse=True)
def root_logger() -> Generator[None]:
    """Give the process its own logging back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        handler.flush()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize(("style", "is_json"), [("JSON", True), ("text", False)])
def test_lines_are_in_the_format_of_the_settings(
    capfd: pytest.CaptureFixture[str], style: str, *, is_json: bool
) -> None:
    fields = {"environment": "production", "app_version": "1.2.3", "log_format": style, "log_level": "error"}
    configure_logging(Settings.model_validate(fields))
    logging.getLogger("test").warning("too.low")
    logging.getLogger("test").error("one.line", extra={"half": "\ud800"})
    logging.getLogger().handlers[0].flush()
    out = capfd.readouterr().out
    assert "too.low" not in out
    if is_json:
        line = json.loads(out)
        assert (line["service"], line["version"], line["environment"]) == ("postfacta", "1.2.3", "production")
        assert (line["event"], line["half"]) == ("one.line", "\ud800")
    else:
        assert "ERROR    test: one.line" in out


def test_secrets_in_spans_never_leave_the_process() -> None:
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(RedactingExporter(kept)))
    tracer = provider.get_tracer("somebody.else")
    with tracer.start_as_current_span("GET https://me:canary-1@host/") as other:
        pass
    link = Link(other.get_span_context(), {"token": "canary-2"})
    with tracer.start_as_current_span("work", links=[link], attributes={"db.password": "canary-3"}) as span:
        span.set_attributes({"url.full": "https://host/?api_key=canary-4", "rows": 7, "names": ("a", "b")})
        span.add_event("told", {"note": "Bearer canary-55555"})
        span.set_status(StatusCode.ERROR, "at postgresql://me:canary-6@host/db")
    assert provider.force_flush()
    spans = kept.get_finished_spans()
    assert "canary" not in "".join(span.to_json() for span in spans)
    work = spans[1]
    assert work.attributes is not None
    assert (work.attributes["rows"], list(work.attributes["names"])) == (7, ["a", "b"])  # type: ignore[arg-type]
    assert work.status.status_code is StatusCode.ERROR
    assert (work.context, work.kind, work.resource) == (
        span.get_span_context(),
        SpanKind.INTERNAL,
        provider.resource,
    )
    assert work.end_time is not None
    provider.shutdown()
