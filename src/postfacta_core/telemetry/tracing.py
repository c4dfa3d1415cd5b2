"""Spans and W3C trace context through opentelemetry-api; nothing at all without an SDK."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer, TracerProvider

from ..clock import WALL, Clock
from ..context import RequestContext
from ..events import (
    CircuitChanged,
    ConnectionAcquired,
    DeadlineExceeded,
    Event,
    QueryFinished,
    RetryScheduled,
    Sample,
)
from .exchange import CALLERS_DEADLINE, Exchange, NullRecorder, SocketExchange
from .redaction import redact_text
from .spans import (
    PROPAGATOR,
    OpenSpan,
    Tracers,
    method_attributes,
    nanoseconds,
    of_exception,
    span_name,
)

_CARRIED: Final = {name.encode(): name for name in ("traceparent", "tracestate", "baggage")}
_SERVER_ERROR: Final = 500
# Seconds. A connection that is there at once is no news.
_WORTH_TELLING: Final = 0.001
_Attributes = Mapping[str, str | int | float]
_Told = tuple[str, _Attributes] | None


class Tracing(NullRecorder):
    """Make a SERVER span for each request, and a CLIENT span for each database statement.

    Retries, waits, circuit changes and refusals become span events: a wait for a connection, a retry, a circuit that
    opens or closes, a deadline, a refusal.

    Args:
        provider: Where the spans go; by default OpenTelemetry's global one, whenever that is installed.
        wall: Seconds since the epoch, for the times of spans.
    """

    def __init__(self, provider: TracerProvider | None = None, *, wall: Clock = WALL) -> None:
        self._tracers = Tracers(provider)
        self._wall = wall

    @property
    def leftover(self) -> Callable[[], object]:
        """What returns the task's OpenTelemetry context, which is falsy if it is empty, as cheaply as possible."""
        variable: Any = getattr(getattr(context, "_RUNTIME_CONTEXT", None), "_current_context", None)
        return context.get_current if variable is None else variable.get

    def fresh_context(self) -> Callable[[], object] | None:
        """Detach the OpenTelemetry context that an earlier request left in the task.

        Returns:
            What puts it back, or None if there was nothing. Made for `ContextMiddleware`'s resetters.
        """
        if not context.get_current():
            return None
        return partial(context.detach, context.attach(Context()))

    def begin(self, exchange: Exchange, /) -> None:
        """Start the span, so that the handler's spans and log lines belong to it."""
        tracer = self._tracers.find()
        if tracer is None or exchange.quiet:
            return
        began = self._wall()
        span = tracer.start_span(
            span_name(exchange.method),
            context=_parent(exchange.headers),
            kind=SpanKind.SERVER,
            attributes=_known_at_start(exchange),
            start_time=nanoseconds(began),
        )
        _tell(exchange.request, span)
        token = context.attach(trace.set_span_in_context(span, context.get_current()))
        exchange.span = OpenSpan(span, token, began)

    def end(self, exchange: Exchange, /) -> None:
        """End the span at the last byte, with the attributes known by then.

        Until now it was open: what the application does after the response still belongs to it.
        """
        opened = exchange.span
        if not isinstance(opened, OpenSpan):
            return
        exchange.span = None
        span = opened.span
        if span.is_recording():
            _describe(span, exchange, opened.began)
        span.end(nanoseconds(opened.began + exchange.seconds))
        context.detach(opened.token)

    def connect(self, exchange: SocketExchange, /) -> None:
        self.begin(exchange)

    def closed(self, exchange: SocketExchange, /) -> None:
        opened = exchange.span
        if isinstance(opened, OpenSpan) and opened.span.is_recording():
            opened.span.set_attribute("postfacta.outcome", exchange.outcome)
            opened.span.set_attribute("postfacta.close_code", exchange.close_code)
        self.end(exchange)

    def __call__(self, event: Event, /) -> None:
        """Make a span of a statement that has ended, below the span it ran in; add other events to that span.

        What happens outside of any recording span, such as a health check's statement, leaves nothing.
        """
        tracer = self._tracers.find()
        if tracer is None:
            return
        if isinstance(event, QueryFinished):
            self._statement(tracer, event)
        elif (tell := _TOLD.get(type(event))) is not None:
            self._tell(tell(event))

    def _tell(self, told: _Told) -> None:
        span = trace.get_current_span()
        if told is not None and span.is_recording():
            name, attributes = told
            span.add_event(name, attributes, nanoseconds(self._wall()))

    def _statement(self, tracer: Tracer, event: QueryFinished) -> None:
        if not trace.get_current_span().is_recording():
            return
        ended = self._wall()
        span = tracer.start_span(
            _summary(event),
            kind=SpanKind.CLIENT,
            attributes=_of_query(event),
            start_time=nanoseconds(ended - event.seconds),
        )
        if event.error_type:
            span.set_status(Status(StatusCode.ERROR))
        span.end(nanoseconds(ended))

    @contextmanager
    def background(self, name: str) -> Generator[None]:
        """Start a separate trace for a background task, linked to the request that caused it.

        Use it inside of the task, around its work: `with telemetry.tracing.background("send mail"):`. The task may
        last longer than the request, whose span would else have children after its end.

        Args:
            name: Of the work, from the code.
        """
        tracer = self._tracers.find()
        if tracer is None:
            yield
            return
        cause = trace.get_current_span().get_span_context()
        span = tracer.start_span(
            name,
            context=Context(),
            links=[Link(cause)] if cause.is_valid else [],
            start_time=nanoseconds(self._wall()),
        )
        token = context.attach(trace.set_span_in_context(span, Context()))
        try:
            yield
        except Exception as error:
            span.set_attribute("error.type", type(error).__name__)
            span.add_event("exception", of_exception(error))
            span.set_status(Status(StatusCode.ERROR))
            raise
        finally:
            context.detach(token)
            span.end(nanoseconds(self._wall()))

    def tally(self) -> Iterable[Sample]:
        return self._tracers.tally()


def _parent(headers: Sequence[tuple[bytes, bytes]]) -> Context:
    """Read the caller's trace context. What is invalid, or sent twice, starts a new trace."""
    carrier: dict[str, str] = {}
    for name, value in headers:
        if (key := _CARRIED.get(name)) is not None:
            text = value.decode("latin-1")
            carrier[key] = f"{carrier[key]},{text}" if key in carrier else text
    return PROPAGATOR.extract(carrier, context=Context()) if carrier else Context()


def _tell(request: RequestContext, span: Span) -> None:
    ids = span.get_span_context()
    if ids.is_valid:
        request.trace_id = trace.format_trace_id(ids.trace_id)
        request.span_id = trace.format_span_id(ids.span_id)
        request.trace_flags = f"{int(ids.trace_flags):02x}"


def _known_at_start(exchange: Exchange) -> dict[str, str]:
    """Return the attributes for a sampler's decision."""
    known = {"url.path": exchange.path, "url.scheme": exchange.scheme}
    return method_attributes(exchange.method) | known


def _describe(span: Span, exchange: Exchange, began: float) -> None:
    is_routed = exchange.route.startswith("/")
    name = span_name(exchange.method)
    span.update_name(f"{name} {exchange.route}" if is_routed else name)
    span.set_attributes(_known_at_end(exchange, is_routed=is_routed))
    if exchange.error is not None:
        span.add_event("exception", of_exception(exchange.error))
    _tell_refusal(span, exchange, began)
    if exchange.status >= _SERVER_ERROR or exchange.error is not None:
        span.set_status(Status(StatusCode.ERROR))


def _tell_refusal(span: Span, exchange: Exchange, began: float) -> None:
    request = exchange.request
    limit = min(request.asked, request.limit)
    if exchange.error_type in {"deadline_exceeded", CALLERS_DEADLINE} and limit < math.inf:
        # At the moment when its time was up: what it did after that was of no use.
        span.add_event("postfacta.deadline", timestamp=nanoseconds(began + limit))
    elif exchange.error_type and exchange.route == "_prerouting":
        reason = {"postfacta.reason": exchange.error_type}
        span.add_event("postfacta.refused", reason, nanoseconds(began + exchange.seconds))


def _known_at_end(exchange: Exchange, *, is_routed: bool) -> dict[str, str | int]:
    known: dict[str, str | int] = {
        "http.response.status_code": exchange.status,
        "network.protocol.version": exchange.http_version,
        "postfacta.request_id": exchange.request.request_id,
        "postfacta.traffic": exchange.traffic,
    }
    if is_routed:
        known["http.route"] = exchange.route
    if exchange.error_type:
        known["error.type"] = exchange.error_type
    if exchange.client:
        known["client.address"] = exchange.client
    request = exchange.request
    limit = min(request.asked, request.limit)
    if limit < math.inf:
        known["postfacta.deadline_remaining_ms"] = round((limit - exchange.seconds) * 1000)
    for header, value in exchange.headers:
        if header == b"user-agent":
            known["user_agent.original"] = redact_text(value.decode("latin-1"))
    return known


def _summary(event: QueryFinished) -> str:
    return f"{event.operation} {event.collection}".strip()


def _of_query(event: QueryFinished) -> dict[str, str]:
    known = {
        "db.system.name": event.system,
        "db.operation.name": event.operation,
        "db.collection.name": event.collection,
        "db.namespace": event.namespace,
        "db.query.summary": _summary(event),
        "db.response.status_code": event.sqlstate,
        "server.address": event.server,
        "error.type": event.error_type,
    }
    return {key: value for key, value in known.items() if value}


def _of_wait(event: ConnectionAcquired) -> _Told:
    if not event.error_type and event.seconds < _WORTH_TELLING:
        return None
    known: dict[str, str | float] = {
        "db.client.connection.pool.name": event.pool,
        "postfacta.wait_ms": round(event.seconds * 1000, 3),
    }
    if event.error_type:
        known["error.type"] = event.error_type
    return "postfacta.pool_wait", known


def _of_retry(event: RetryScheduled) -> _Told:
    known: _Attributes = {
        "postfacta.policy": event.policy,
        "postfacta.attempt": event.attempt,
        "postfacta.delay_ms": round(event.delay * 1000, 3),
        "error.type": event.error_type,
    }
    return "postfacta.retry", known


def _of_circuit(event: CircuitChanged) -> _Told:
    known = {"postfacta.policy": event.breaker, "postfacta.old": event.old, "postfacta.new": event.new}
    return "postfacta.breaker", {**known, "postfacta.reason": event.reason}


def _of_deadline(event: DeadlineExceeded) -> _Told:
    return "postfacta.deadline_exceeded", {"postfacta.stage": event.stage}


# Pools emit more than half a dozen events for each statement: those not for a span must cost one lookup.
_TOLD: Final[Mapping[type, Callable[[Any], _Told]]] = {
    CircuitChanged: _of_circuit,
    ConnectionAcquired: _of_wait,
    DeadlineExceeded: _of_deadline,
    RetryScheduled: _of_retry,
}
