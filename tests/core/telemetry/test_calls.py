"""A try of a call is one span below the request's, and says how it went."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from postfacta_core.events import HttpCallFinished
from postfacta_core.telemetry.tracing import Tracing
from postfacta_core.testing import ManualClock


class Bench:
    """Begins and ends spans below a request's, on a clock that stands still."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.clock = ManualClock(1_700_000_000)
        self.spans = Tracing(self.provider, wall=self.clock)

    def call(
        self,
        call: HttpCallFinished,
        *,
        url: str = "",
        resends: int = 0,
        error: Exception | None = None,
    ) -> ReadableSpan:
        parent = self.provider.get_tracer("test").start_span("request")
        with trace.use_span(parent):
            opened = self.spans.begin_call()
            assert opened is not None
            assert trace.get_current_span() is opened.span
            self.spans.end_call(opened, call, url=url, resends=resends, error=error)
            assert trace.get_current_span() is parent
        (span,) = self.exporter.get_finished_spans()
        assert span.parent is not None
        assert span.parent.span_id == parent.get_span_context().span_id
        return span


def test_a_try_that_went_well_has_no_status() -> None:
    call = HttpCallFinished("billing", "GET", "billing.example", 8443, 200, 0.25)
    span = Bench().call(call, url="https://billing.example:8443/i/7")
    assert (span.name, span.kind, span.status.status_code) == (
        "GET",
        SpanKind.CLIENT,
        StatusCode.UNSET,
    )
    assert span.attributes == {
        "postfacta.dependency": "billing",
        "http.request.method": "GET",
        "server.address": "billing.example",
        "server.port": 8443,
        "url.full": "https://billing.example:8443/i/7",
        "http.response.status_code": 200,
    }
    assert (span.end_time or 0) - (span.start_time or 0) == pytest.approx(250_000_000, rel=1e-3)


def test_a_second_try_that_fails_says_both() -> None:
    call = HttpCallFinished("billing", "GET", "billing.example", 443, 503, 0.25, "503")
    span = Bench().call(call, resends=1)
    assert span.attributes is not None
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes["error.type"], span.attributes["http.request.resend_count"]) == (
        "503",
        1,
    )


def test_an_error_is_an_event_of_the_span() -> None:
    call = HttpCallFinished("billing", "", "", 0, 0, 0.25, "ConnectError")
    span = Bench().call(call, error=ConnectionError("away"))
    assert span.name == "HTTP"
    assert span.attributes == {"postfacta.dependency": "billing", "error.type": "ConnectError"}
    assert [event.name for event in span.events] == ["exception"]


def test_an_unknown_method_is_no_span_name() -> None:
    span = Bench().call(HttpCallFinished("billing", "BREW", "billing.example", 443, 200, 0.25))
    assert span.attributes is not None
    assert span.name == "HTTP"
    assert span.attributes["http.request.method"] == "_OTHER"
    assert span.attributes["http.request.method_original"] == "BREW"


@pytest.mark.parametrize("parent", [None, "not recorded"])
def test_outside_of_a_recording_span_there_is_none(parent: str | None) -> None:
    bench = Bench()
    if parent is None:
        assert bench.spans.begin_call() is None
        return
    tracer = TracerProvider(sampler=ALWAYS_OFF).get_tracer("test")
    with trace.use_span(tracer.start_span(parent)):
        assert bench.spans.begin_call() is None


def test_a_span_that_is_not_recorded_is_only_ended() -> None:
    bench = Bench()
    spans = Tracing(TracerProvider(sampler=ALWAYS_OFF))
    with trace.use_span(bench.provider.get_tracer("test").start_span("request")):
        opened = spans.begin_call()
        assert opened is not None
        spans.end_call(
            opened, HttpCallFinished("x", "GET", "y", 80, 200, 0.1), url="", resends=0, error=None
        )


def test_without_an_sdk_there_is_none() -> None:
    with trace.use_span(TracerProvider().get_tracer("test").start_span("request")):
        assert Tracing().begin_call() is None
