"""Send spans to an OpenTelemetry collector, without any effect on the service when that fails.

It needs the extra `otlp`, which brings OpenTelemetry's SDK. The SDK's own batches are used; what is
added is what it leaves open: a loss is counted where it happens, the end waits for two seconds, not
for as long as the exporter tries, and secrets stay in the process. No request waits for anything
but a lock that is held for a few instructions: spans are cleaned where they are sent, by the SDK's
thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from weakref import WeakSet

from postfacta_core.installation import missing_extra
from postfacta_core.validation import validation

try:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import Sampler
    from opentelemetry.sdk.util import BoundedList
except ModuleNotFoundError as _error:
    raise missing_extra(__name__, "otlp", _error) from _error

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.trace import Link, Status

from postfacta_core.events import PolicyCreated, Sample, process_observer
from postfacta_core.telemetry.redaction import redact, redact_text

__all__ = ["Provider"]

_METRIC: Final = "postfacta_telemetry_spans_dropped_total"


class _CountedSpans(BatchSpanProcessor):
    """Queues spans for a thread that exports them, and counts each that is lost.

    A `Provider` makes it.
    """

    def __init__(
        self, exporter: SpanExporter, *, queued: int, batch: int, every: float, patience: float
    ) -> None:
        self._queued = queued
        self._patience = patience
        self.begin_anew()
        _living.add(self)
        self._is_closing = self._is_over = False
        super().__init__(
            _Watched(exporter, self),
            max_queue_size=queued,
            max_export_batch_size=min(batch, queued),
            schedule_delay_millis=every * 1000,
        )

    def begin_anew(self) -> None:
        """Count from zero, in a forked process too.

        The SDK leaves its parent's spans to the parent.
        """
        self._lock = threading.Lock()
        self._pending = 0
        self.dropped = {"queue_full": 0, "export_failed": 0, "shutdown": 0}

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span, if its trace is stored and there is room."""
        ids = span.context
        if ids is None or not ids.trace_flags.sampled:
            return
        with self._lock:
            reason = (
                "shutdown"
                if self._is_over
                else "queue_full"
                if self._pending >= self._queued
                else ""
            )
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
        """Send what is left, as far as that can be done in time.

        It may be called again, which does nothing.
        """
        with self._lock:
            if self._is_closing:
                return
            self._is_closing = True
        # The SDK's end lasts as long as the exporter's tries do. A daemon thread ends with the
        # process.
        last = threading.Thread(target=super().shutdown, name="last spans", daemon=True)
        last.start()
        last.join(self._patience)
        with self._lock:
            self._is_over = True
            self.dropped["shutdown"] += self._pending
            self._pending = 0


_living: Final = WeakSet[_CountedSpans]()


def _begin_anew() -> None:
    for spans in tuple(_living):
        spans.begin_anew()


os.register_at_fork(after_in_child=_begin_anew)


class _Watched(SpanExporter):
    """Removes secrets from each batch, and reports its outcome.

    What cannot be cleaned is not sent.
    """

    def __init__(self, exporter: SpanExporter, spans: _CountedSpans) -> None:
        self._exporter = exporter
        self._spans = spans

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export([_without_secrets(span) for span in spans])
        finally:
            self._spans.settled(len(spans), is_lost=result is not SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _without_secrets(span: ReadableSpan) -> ReadableSpan:
    return ReadableSpan(
        name=redact_text(span.name),
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=_clean(span),
        events=_bounded(
            [
                Event(redact_text(event.name), _clean(event), event.timestamp)
                for event in span.events
            ],
            span.dropped_events,
        ),
        links=_bounded(
            [Link(link.context, _clean(link)) for link in span.links], span.dropped_links
        ),
        kind=span.kind,
        status=Status(span.status.status_code, redact_text(span.status.description or "") or None),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


# What the SDK's limits left out is sent as a number, which a plain list or dict does not have.


def _clean(source: ReadableSpan | Event | Link) -> Mapping[str, Any]:
    clean: dict[str, Any] = redact(dict(source.attributes or {}))
    if not source.dropped_attributes:
        return clean
    bounded = BoundedAttributes(attributes=clean)
    bounded.dropped = source.dropped_attributes
    return bounded


def _bounded(items: Sequence[Any], dropped: int) -> Sequence[Any]:
    if not dropped:
        return items
    bounded = BoundedList[Any].from_seq(len(items), items)
    bounded.dropped = dropped
    return bounded


class Provider(TracerProvider):
    """A provider whose spans go to one exporter without secrets, and whose losses metrics see.

    Make it OpenTelemetry's global one by `opentelemetry.trace.set_tracer_provider`, or give it to
    `Tracing`. The metrics of `harden` then show `postfacta_telemetry_spans_dropped_total` by
    themselves.

        provider = Provider(OTLPSpanExporter(timeout=5), resource=Resource.create({"service.name":
        "billing"})) trace.set_tracer_provider(provider) ... provider.shutdown()  # two seconds at
        most

    Passwords, tokens and what else looks like a secret are removed from names, attributes, events,
    links and status of all spans, whatever library made them. The resource, and what is given to
    `add_span_processor`, stay as they are.

    Args:
        exporter: Such as `opentelemetry.exporter.otlp.proto.http.trace_exporter.OTLPSpanExporter`.
            It may hang, raise or fail. Give it a timeout of 5 seconds or less.
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
        validation.instance(
            "Provider.exporter", exporter, SpanExporter, example="OTLPSpanExporter()"
        )
        validation.whole("Provider.queued", queued, example="queued=2048")
        validation.whole("Provider.batch", batch, example="batch=512")
        validation.seconds("Provider.every", every, example="every=1.0")
        validation.seconds("Provider.patience", patience, example="patience=2.0")
        # The SDK would end it once more when the interpreter does, without a bound.
        super().__init__(sampler=sampler, resource=resource, shutdown_on_exit=False)
        self._spans = _CountedSpans(
            exporter, queued=queued, batch=batch, every=every, patience=patience
        )
        self.add_span_processor(self._spans)
        process_observer(PolicyCreated("tracing", self.tally))

    @property
    def dropped(self) -> Mapping[str, int]:
        """The number of lost spans by reason: `queue_full`, `export_failed`, `shutdown`."""
        return dict(self._spans.dropped)

    def tally(self) -> Iterable[Sample]:
        """Return the number of lost spans by reason."""
        return [Sample(_METRIC, (reason,), count) for reason, count in self.dropped.items()]
