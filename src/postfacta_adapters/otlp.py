"""Send spans to an OpenTelemetry collector, without any effect on the service when that fails.

It needs the extra `otlp`, which brings OpenTelemetry's SDK. The SDK's own batches are used; what is added is what it
leaves open: a loss is counted where it happens, and the end waits for two seconds, not for as long as the exporter
tries. No request waits for anything but a lock that is held for a few instructions.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from postfacta_core.validation import validation

try:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import Sampler
except ModuleNotFoundError as _error:
    raise validation.missing_extra(__name__, "otlp", _error) from _error

from postfacta_core.events import PolicyCreated, Sample, process_observer

__all__ = ["Provider"]

_METRIC: Final = "postfacta_telemetry_spans_dropped_total"


class _CountedSpans(BatchSpanProcessor):
    """Queues spans for a thread that exports them, and counts each that is lost. A `Provider` makes it."""

    def __init__(
        self, exporter: SpanExporter, *, queued: int, batch: int, every: float, patience: float
    ) -> None:
        self._queued = queued
        self._patience = patience
        self._lock = threading.Lock()
        self._pending = 0
        self.dropped = {"queue_full": 0, "export_failed": 0, "shutdown": 0}
        self._is_closing = self._is_over = False
        super().__init__(
            _Watched(exporter, self),
            max_queue_size=queued,
            max_export_batch_size=min(batch, queued),
            schedule_delay_millis=every * 1000,
        )

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span, if its trace is stored and there is room."""
        ids = span.context
        if ids is None or not ids.trace_flags.sampled:
            return
        with self._lock:
            reason = "shutdown" if self._is_over else "queue_full" if self._pending >= self._queued else ""
            if reason:
                self.dropped[reason] += 1
                return
            self._pending += 1
        super().on_end(span)

    def settled(self, count: int, *, is_lost: bool) -> None:
        """Record the outcome of a batch."""
        with self._lock:
            # What was given up at the end is counted already.
            if not self._is_over:
                self._pending -= count
                self.dropped["export_failed"] += count * is_lost

    def shutdown(self) -> None:
        """Send what is left, as far as that can be done in time. It may be called again, which does nothing."""
        with self._lock:
            if self._is_closing:
                return
            self._is_closing = True
        # The SDK's end lasts as long as the exporter's tries do. A daemon thread ends with the process.
        last = threading.Thread(target=super().shutdown, name="last spans", daemon=True)
        last.start()
        last.join(self._patience)
        with self._lock:
            self._is_over = True
            self.dropped["shutdown"] += self._pending
            self._pending = 0


class _Watched(SpanExporter):
    """Reports the outcome of each batch."""

    def __init__(self, exporter: SpanExporter, spans: _CountedSpans) -> None:
        self._exporter = exporter
        self._spans = spans

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            self._spans.settled(len(spans), is_lost=result is not SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


class Provider(TracerProvider):
    """A provider whose spans go to one exporter, and whose losses metrics can see.

    Make it OpenTelemetry's global one by `opentelemetry.trace.set_tracer_provider`, or give it to `Tracing`. The
    metrics of `harden` then show `postfacta_telemetry_spans_dropped_total` by themselves.

        provider = Provider(OTLPSpanExporter(timeout=5), resource=Resource.create({"service.name": "billing"}))
        trace.set_tracer_provider(provider)
        ...
        provider.shutdown()  # two seconds at most

    Args:
        exporter: Such as `opentelemetry.exporter.otlp.proto.http.trace_exporter.OTLPSpanExporter`. It may hang, raise or
            fail. Give it a timeout of 5 seconds or less.
        resource: Who sends.
        sampler: By default that of `OTEL_TRACES_SAMPLER`.
        queued: The most spans that wait; one more is dropped, and it is the new one.
        batch: The most that are sent at once.
        every: Seconds between two batches, if fewer come: what a crash takes with it.
        patience: The most seconds that `shutdown` takes; what is not sent by then is lost.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        *,
        resource: Resource | None = None,
        sampler: Sampler | None = None,
        queued: int = 2048,
        batch: int = 512,
        every: float = 1.0,
        patience: float = 2.0,
    ) -> None:
        validation.instance("Provider.exporter", exporter, SpanExporter, example="OTLPSpanExporter()")
        validation.whole("Provider.queued", queued, example="queued=2048")
        validation.whole("Provider.batch", batch, example="batch=512")
        validation.seconds("Provider.every", every, example="every=1.0")
        validation.seconds("Provider.patience", patience, example="patience=2.0")
        # The SDK would end it once more when the interpreter does, without a bound.
        super().__init__(sampler=sampler, resource=resource, shutdown_on_exit=False)
        self._spans = _CountedSpans(exporter, queued=queued, batch=batch, every=every, patience=patience)
        self.add_span_processor(self._spans)
        process_observer(PolicyCreated("tracing", self.tally))

    @property
    def dropped(self) -> Mapping[str, int]:
        """The number of lost spans by reason: `queue_full`, `export_failed`, `shutdown`."""
        return dict(self._spans.dropped)

    def tally(self) -> Iterable[Sample]:
        """Return the number of lost spans by reason."""
        return [Sample(_METRIC, (reason,), count) for reason, count in self.dropped.items()]
