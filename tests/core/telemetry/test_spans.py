"""What spans share: where they go, and what an error says on them."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from postfacta_core.events import Sample
from postfacta_core.telemetry.spans import Tracers, nanoseconds, of_exception, span_name, trace_headers


class Telling(TracerProvider):
    """A provider that counts what it loses."""

    def tally(self) -> Iterable[Sample]:
        return [Sample("postfacta_telemetry_spans_dropped_total", ("queue_full",), 7)]


def test_only_a_provider_that_counts_losses_reports_them() -> None:
    assert [sample.value for sample in Tracers(Telling()).tally()] == [7]
    assert list(Tracers(TracerProvider()).tally()) == []
    assert list(Tracers().tally()) == []


def test_without_an_sdk_there_is_no_tracer() -> None:
    assert Tracers().find() is None
    assert Tracers(TracerProvider()).find() is not None


def test_a_global_provider_is_found_when_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    tracers = Tracers()
    assert tracers.find() is None
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", Telling())
    assert tracers.find() is tracers.find() is not None
    assert [sample.value for sample in tracers.tally()] == [7]


def test_the_headers_name_the_present_span() -> None:
    assert trace_headers() == {}
    span = TracerProvider().get_tracer("test").start_span("x")
    with trace.use_span(span):
        ids = span.get_span_context()
        assert trace_headers() == {
            "traceparent": f"00-{ids.trace_id:032x}-{ids.span_id:016x}-{ids.trace_flags:02x}"
        }


@pytest.mark.parametrize(("method", "name"), [("GET", "GET"), ("BREW", "HTTP"), ("", "HTTP")])
def test_a_span_is_named_by_a_method_that_exists(method: str, name: str) -> None:
    assert span_name(method) == name


def test_an_error_is_described_without_secrets_and_by_the_end_of_its_stack() -> None:
    def fall(depth: int) -> None:
        if not depth:
            raise ValueError("cannot reach postgresql://app:hunter2@db/x")
        (fall if depth % 2 else _fall)(depth - 1)

    def _fall(depth: int) -> None:
        fall(depth)

    with pytest.raises(ValueError, match="cannot reach") as caught:
        fall(200)
    told = of_exception(caught.value)
    assert told["exception.type"] == "builtins.ValueError"
    assert "hunter2" not in str(told)
    assert len(told["exception.stacktrace"]) <= 16_384
    assert told["exception.stacktrace"].rstrip().endswith("@db/x")


def test_moments_are_whole_nanoseconds() -> None:
    assert nanoseconds(1.5) == 1_500_000_000
