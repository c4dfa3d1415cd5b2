"""Spans and W3C trace context through opentelemetry-api; nothing at all without an SDK."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from opentelemetry import context, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..clock import WALL, Clock
from ..context import RequestContext
from ..events import Event, QueryFinished
from .exchange import Exchange, NullRecorder
from .redaction import redact_text

__all__ = ["Tracing", "trace_headers"]

_SCOPE: Final = "postfacta_core"
_CARRIED: Final = {name.encode(): name for name in ("traceparent", "tracestate", "baggage")}
_PROPAGATOR: Final = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_SERVER_ERROR: Final = 500
_MAX_STACKTRACE: Final = 16_384


class _Open(NamedTuple):
    """A server span under way, with what it takes to end it."""

    span: Span
    token: Any  # contextvars.Token of a context whose type OpenTelemetry keeps to itself
    began: float


class Tracing(NullRecorder):
    """Make a SERVER span for each request, and a CLIENT span for each database statement.

    Args:
        provider: Where the spans go; by default OpenTelemetry's global one, whenever that is installed.
        wall: Seconds since the epoch, for the times of spans.
    """

    def __init__(self, provider: TracerProvider | None = None, *, wall: Clock = WALL) -> None:
        self._tracer = None if provider is None else provider.get_tracer(_SCOPE)
        self._wall = wall

    def fresh_context(self) -> Callable[[], object] | None:
        """Shut out what an earlier request left in the task's OpenTelemetry context.

        Returns:
            What puts it back, or None if there was nothing. Made for `ContextMiddleware`'s resetters.
        """
        if not context.get_current():
            return None
        return partial(context.detach, context.attach(Context()))

    def begin(self, exchange: Exchange, /) -> None:
        """Start the span, so that the handler's spans and log lines belong to it."""
        tracer = self._tracer or self._installed()
        if tracer is None or exchange.quiet:
            return
        began = self._wall()
        span = tracer.start_span(
            _name(exchange.method),
            context=_parent(exchange.headers),
            kind=SpanKind.SERVER,
            attributes=_known_at_start(exchange),
            start_time=_nanoseconds(began),
        )
        _tell(exchange.request, span)
        token = context.attach(trace.set_span_in_context(span, context.get_current()))
        exchange.span = _Open(span, token, began)

    def end(self, exchange: Exchange, /) -> None:
        """End the span with what is known by now, at the moment of the last byte.

        Until now it was open: what the application does after the response still belongs to it.
        """
        opened = exchange.span
        if not isinstance(opened, _Open):
            return
        exchange.span = None
        span = opened.span
        if span.is_recording():
            _describe(span, exchange)
        span.end(_nanoseconds(opened.began + exchange.seconds))
        context.detach(opened.token)

    def __call__(self, event: Event, /) -> None:
        """Make a span of a statement that has ended, below the span it ran in.

        A statement outside of any recording span, such as a health check's, gets none.
        """
        tracer = self._tracer or self._installed()
        if tracer is None or not isinstance(event, QueryFinished):
            return
        if not trace.get_current_span().is_recording():
            return
        ended = self._wall()
        span = tracer.start_span(
            _summary(event),
            kind=SpanKind.CLIENT,
            attributes=_of_query(event),
            start_time=_nanoseconds(ended - event.seconds),
        )
        if event.error_type:
            span.set_status(Status(StatusCode.ERROR))
        span.end(_nanoseconds(ended))

    def _installed(self) -> Tracer | None:
        """Find the global provider; it may be installed late, but only once."""
        # get_tracer_provider() reads the environment each time as long as there is none: 600 ns a request.
        provider: TracerProvider | None = trace._TRACER_PROVIDER  # noqa: SLF001 - see above # pyright: ignore[reportPrivateUsage]
        if provider is None:
            return None
        self._tracer = provider.get_tracer(_SCOPE)
        return self._tracer


def trace_headers() -> dict[str, str]:
    """Write the W3C headers that make a call to another service part of the present span's trace.

    There are none without a span.
    """
    headers: dict[str, str] = {}
    _PROPAGATOR.inject(headers)
    return headers


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def _name(method: str) -> str:
    # The word that the semantic conventions want for a method that nobody knows.
    return method if method in _METHODS else "HTTP"


def _parent(headers: Sequence[tuple[bytes, bytes]]) -> Context:
    """Read the caller's trace context. What is invalid, or sent twice, starts a new trace."""
    carrier: dict[str, str] = {}
    for name, value in headers:
        if (key := _CARRIED.get(name)) is not None:
            text = value.decode("latin-1")
            carrier[key] = f"{carrier[key]},{text}" if key in carrier else text
    return _PROPAGATOR.extract(carrier, context=Context()) if carrier else Context()


def _tell(request: RequestContext, span: Span) -> None:
    ids = span.get_span_context()
    if ids.is_valid:
        request.trace_id = trace.format_trace_id(ids.trace_id)
        request.span_id = trace.format_span_id(ids.span_id)
        request.trace_flags = f"{int(ids.trace_flags):02x}"


def _known_at_start(exchange: Exchange) -> dict[str, str]:
    """Give what a sampler may decide by."""
    known = {"http.request.method": exchange.method, "url.path": exchange.path, "url.scheme": exchange.scheme}
    if exchange.method not in _METHODS:
        known["http.request.method"] = "_OTHER"
        known["http.request.method_original"] = exchange.method
    return known


def _describe(span: Span, exchange: Exchange) -> None:
    is_routed = exchange.route.startswith("/")
    name = _name(exchange.method)
    span.update_name(f"{name} {exchange.route}" if is_routed else name)
    span.set_attributes(_known_at_end(exchange, is_routed=is_routed))
    if exchange.error is not None:
        span.add_event("exception", _of_exception(exchange.error))
    if exchange.status >= _SERVER_ERROR or exchange.error is not None:
        span.set_status(Status(StatusCode.ERROR))


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
    for header, value in exchange.headers:
        if header == b"user-agent":
            known["user_agent.original"] = redact_text(value.decode("latin-1"))
    return known


def _of_exception(error: Exception) -> dict[str, str]:
    lines = "".join(traceback.format_exception(error))
    return {
        "exception.type": f"{type(error).__module__}.{type(error).__qualname__}",
        "exception.message": redact_text(str(error)),
        # The end of a stack trace names the error: the beginning is what may go.
        "exception.stacktrace": redact_text(lines)[-_MAX_STACKTRACE:],
    }


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
