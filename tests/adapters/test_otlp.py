"""A collector that is away, slow or stuck costs spans, which are counted, and nothing else.

It gets no secret.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from opentelemetry.trace import Link, SpanKind, StatusCode, Tracer

from postfacta_adapters import otlp
from postfacta_adapters.otlp import Provider
from postfacta_core.asgi import Telemetry
from postfacta_core.telemetry.metrics import Metrics
from postfacta_core.telemetry.tracing import Tracing


class Exporter(SpanExporter):
    """Takes spans, or fails, raises or waits until it is let go."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.result = SpanExportResult.SUCCESS
        self.error: Exception | None = None
        self.go = threading.Event()
        self.go.set()
        self.is_shut = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.go.wait(20)
        if self.error is not None:
            raise self.error
        self.taken += [span.name for span in spans]
        return self.result

    def shutdown(self) -> None:
        self.is_shut = True


@pytest.fixture
def exporter() -> Generator[Exporter]:
    exporter = Exporter()
    yield exporter
    exporter.go.set()


def tracer_of(provider: Provider) -> Tracer:
    return provider.get_tracer("test")


def end(provider: Provider, count: int) -> None:
    for number in range(count):
        tracer_of(provider).start_span(f"{number}").end()


def lost(provider: Provider) -> dict[str, int]:
    return {reason: count for reason, count in provider.dropped.items() if count}


def test_what_is_ended_is_sent(exporter: Exporter) -> None:
    provider = Provider(exporter, sampler=ALWAYS_ON)
    end(provider, 3)
    provider.shutdown()
    assert exporter.taken == ["0", "1", "2"]
    assert exporter.is_shut
    assert lost(provider) == {}


def test_what_is_not_sampled_takes_no_place(exporter: Exporter) -> None:
    provider = Provider(exporter, sampler=ALWAYS_OFF, queued=1)
    end(provider, 3)
    provider.shutdown()
    assert exporter.taken == []
    assert lost(provider) == {}


@pytest.mark.clock("2 s")
def test_what_does_not_fit_is_dropped_and_counted_without_waiting(exporter: Exporter) -> None:
    exporter.go.clear()
    provider = Provider(exporter, sampler=ALWAYS_ON, queued=10, batch=2, every=0.01)
    began = time.monotonic()
    end(provider, 1000)
    assert time.monotonic() - began < 2
    assert lost(provider) == {"queue_full": 990}
    exporter.go.set()
    assert provider.force_flush()
    # There is room again.
    end(provider, 5)
    provider.shutdown()
    assert len(exporter.taken) == 15
    assert lost(provider) == {"queue_full": 990}


_FORKS = """
import os, threading
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from postfacta_adapters.otlp import Provider

class Away(SpanExporter):
    def export(self, spans):
        threading.Event().wait()
    def shutdown(self):
        pass

provider = Provider(Away(), queued=4, every=60.0, patience=0.1)
tracer = provider.get_tracer("test")
for number in range(5):
    tracer.start_span(f"parent {number}").end()
provider._spans._lock.acquire()
child = os.fork()
if not child:
    for number in range(5):
        tracer.start_span(f"child {number}").end()
print(dict(provider._spans.dropped), flush=True)
os._exit(0) if not child else os.waitpid(child, 0)
"""


@pytest.mark.usefixtures("programs")
def test_a_forked_process_has_all_places_for_its_own_spans() -> None:
    command = [sys.executable, "-c", _FORKS]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=60, check=True)  # noqa: S603 - our own
    dropped = [ast.literal_eval(line) for line in done.stdout.decode().splitlines()]
    assert [each["queue_full"] for each in dropped] == [1, 1]


@pytest.mark.parametrize("error", [None, ConnectionError("away")])
def test_what_was_sent_in_vain_is_counted(exporter: Exporter, error: Exception | None) -> None:
    exporter.result, exporter.error = SpanExportResult.FAILURE, error
    provider = Provider(exporter, sampler=ALWAYS_ON, queued=10)
    for _ in range(3):
        end(provider, 10)
        provider.force_flush()
    provider.shutdown()
    assert lost(provider) == {"export_failed": 30}


@pytest.mark.clock("1.7 s")
def test_the_end_waits_no_longer_than_its_patience_and_counts_what_is_left(
    exporter: Exporter,
) -> None:
    exporter.go.clear()
    provider = Provider(exporter, sampler=ALWAYS_ON, batch=2, patience=0.3)
    end(provider, 7)
    began = time.monotonic()
    provider.shutdown()
    assert 0.2 < time.monotonic() - began < 2
    assert lost(provider) == {"shutdown": 7}
    # What comes after the end is lost too, and what was stuck does not count twice.
    end(provider, 2)
    provider.shutdown()
    exporter.go.set()
    assert lost(provider) == {"shutdown": 9}


def test_what_ends_while_the_rest_is_sent_is_counted(exporter: Exporter) -> None:
    exporter.go.clear()
    provider = Provider(exporter, sampler=ALWAYS_ON, patience=2)
    end(provider, 3)
    closing = threading.Thread(target=provider.shutdown)
    closing.start()
    while not provider._spans._is_closing:  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - nothing public tells
        time.sleep(0.001)  # noqa: TID251 - another thread must get there
    end(provider, 4)
    exporter.go.set()
    closing.join(20)
    assert sum(lost(provider).values()) + len(exporter.taken) == 7


def test_the_metrics_of_a_service_show_the_losses_by_themselves(exporter: Exporter) -> None:
    exporter.result = SpanExportResult.FAILURE
    provider = Provider(exporter, sampler=ALWAYS_ON)
    telemetry = Telemetry(metrics=Metrics(with_process=False), tracing=Tracing(provider))
    end(provider, 4)
    provider.force_flush()
    seen = {
        reason: telemetry.metrics.registry.get_sample_value(
            "postfacta_telemetry_spans_dropped_total", {"reason": reason}
        )
        for reason in ("queue_full", "export_failed", "shutdown")
    }
    assert seen == {"queue_full": 0, "export_failed": 4, "shutdown": 0}
    provider.shutdown()


def test_secrets_in_spans_never_leave_the_process() -> None:
    kept = InMemorySpanExporter()
    provider = Provider(kept, sampler=ALWAYS_ON)
    tracer = provider.get_tracer("somebody.else")
    with tracer.start_as_current_span("GET https://me:canary-1@host/") as other:
        pass
    link = Link(other.get_span_context(), {"token": "canary-2"})
    with tracer.start_as_current_span(
        "work", links=[link], attributes={"db.password": "canary-3"}
    ) as span:
        span.set_attributes(
            {"url.full": "https://host/?api_key=canary-4", "rows": 7, "names": ("a", "b")}
        )
        span.add_event("told", {"note": "Bearer canary-55555"})
        span.set_status(StatusCode.ERROR, "at postgresql://me:canary-6@host/db")
    provider.shutdown()
    spans = kept.get_finished_spans()
    assert "canary" not in "".join(span.to_json() for span in spans)
    work = spans[1]
    assert work.attributes is not None
    assert (work.attributes["rows"], work.attributes["names"]) == (7, ["a", "b"])
    assert work.attributes["url.full"] == "https://host/?api_key=[redacted]"
    assert work.status.status_code is StatusCode.ERROR
    assert (work.context, work.kind, work.resource) == (
        span.get_span_context(),
        SpanKind.INTERNAL,
        provider.resource,
    )
    assert work.end_time is not None


def test_a_clean_span_says_what_the_limits_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for what, most in (
        ("SPAN_ATTRIBUTE", 2),
        ("SPAN_EVENT", 1),
        ("SPAN_LINK", 1),
        ("LINK_ATTRIBUTE", 1),
    ):
        monkeypatch.setenv(f"OTEL_{what}_COUNT_LIMIT", str(most))
    kept = InMemorySpanExporter()
    provider = Provider(kept, sampler=ALWAYS_ON)
    context = tracer_of(provider).start_span("other").get_span_context()
    links = [Link(context), Link(context, {"a": 1, "b": 2})]
    with tracer_of(provider).start_as_current_span("work", links=links) as span:
        span.set_attributes({"a": 1, "b": 2, "token": "canary"})
        for name in ("first", "second", "third"):
            span.add_event(name)
    provider.shutdown()
    (work,) = kept.get_finished_spans()
    assert (work.dropped_attributes, work.dropped_events, work.dropped_links) == (1, 2, 1)
    assert dict(work.attributes or {}) == {"b": 2, "token": "[redacted]"}
    assert [event.name for event in work.events] == ["third"]
    assert [(link.attributes, link.dropped_attributes) for link in work.links] == [({"b": 2}, 1)]


def test_spans_are_cleaned_outside_of_requests(
    exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[threading.Thread] = set()

    def redact(fields: Mapping[str, object]) -> dict[str, object]:
        threads.add(threading.current_thread())
        return dict(fields)

    monkeypatch.setattr(otlp, "redact", redact)
    provider = Provider(exporter, sampler=ALWAYS_ON, batch=2)
    end(provider, 5)
    provider.shutdown()
    assert len(exporter.taken) == 5
    assert threads
    assert threading.current_thread() not in threads


def test_a_span_that_cannot_be_cleaned_is_counted_and_not_sent(
    exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def redact(_: Mapping[str, object]) -> dict[str, object]:
        raise RecursionError("too deep")

    monkeypatch.setattr(otlp, "redact", redact)
    provider = Provider(exporter, sampler=ALWAYS_ON)
    end(provider, 3)
    provider.shutdown()
    assert exporter.taken == []
    assert lost(provider) == {"export_failed": 3}
