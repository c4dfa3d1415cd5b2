"""Spans and W3C trace context through opentelemetry-api; nothing at all without an SDK."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from opentelemetry import context, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..clock import WALL, Clock
from ..events import (
    CircuitChanged,
    ConnectionAcquired,
    DeadlineExceeded,
    Event,
    HttpCallFinished,
    QueryFinished,
    RetryScheduled,
    StreamFinished,
)
from .catalogue import METHODS
from .exchange import (
    CALLERS_DEADLINE,
    MAX_METHOD,
    MAX_PATH,
    PREROUTING,
    Exchange,
    Recorder,
    SocketExchange,
)
from .redaction import failure_fields, redact_text

_OF_CALLERS: Final = TraceContextTextMapPropagator()
_PROPAGATOR: Final = CompositePropagator([_OF_CALLERS, W3CBaggagePropagator()])
_SCOPE: Final = "postfacta_core"
_CARRIED: Final = {name.encode(): name for name in ("traceparent", "tracestate")}
# Characters. W3C Trace Context, section 3.3.1.5, asks for no more; of a longer one OpenTelemetry
# logs what it cannot read.
_MAX_STATE: Final = 512
_SERVER_ERROR: Final = 500
_MAX_AGENT: Final = 512  # Bytes; browsers send some 200.
# Seconds. A connection that is there at once is no news.
_WORTH_TELLING: Final = 0.001


class OpenSpan(NamedTuple):
    """A span under way, with what it takes to end it."""

    span: Span
    token: Any  # contextvars.Token of a context whose type OpenTelemetry keeps to itself
    began: float


class Tracing(Recorder):
    """Make a SERVER span for each request, a CLIENT span for each statement and try of a call.

    A wait for a connection, a retry, a circuit that opens or closes, a deadline and a refusal
    become events of a span. Without an SDK there is none of all that. The span of a request is a
    child of its caller's only if the caller is one of the `trusted_traces` of `HardenOptions`; any
    other gets a trace of its own, with a link to the caller's span.

    Args:
        provider: Where the spans go; by default OpenTelemetry's global one, whenever that is
            installed.
        wall: Seconds since the epoch, for the times of spans.
    """

    def __init__(self, provider: TracerProvider | None = None, *, wall: Clock = WALL) -> None:
        self._tracer = None if provider is None else provider.get_tracer(_SCOPE)
        self._wall = wall

    def _find(self) -> Tracer | None:
        # get_tracer_provider() reads the environment each time as long as there is none: 600 ns a
        # request. The global provider may be installed late, but only once.
        if self._tracer is None and (provider := trace._TRACER_PROVIDER) is not None:  # noqa: SLF001 - see above # pyright: ignore[reportPrivateUsage]
            self._tracer = provider.get_tracer(_SCOPE)
        return self._tracer

    @property
    def leftover(self) -> Callable[[], object]:
        """What returns the task's OpenTelemetry context cheaply, falsy if it is empty."""
        variable: Any = getattr(
            getattr(context, "_RUNTIME_CONTEXT", None), "_current_context", None
        )
        return context.get_current if variable is None else variable.get

    def fresh_context(self) -> Callable[[], object] | None:
        """Detach the context that an earlier request left in the task.

        Return what puts it back, None if there was none.
        """
        return partial(context.detach, context.attach(Context())) if context.get_current() else None

    def begin(self, exchange: Exchange, /) -> None:
        """Start the span, so that the handler's spans and log lines belong to it."""
        tracer = self._find()
        if tracer is None or exchange.quiet:
            return
        began = self._wall()
        parent = _parent(exchange.headers)
        links = list[Link]()
        caller = trace.get_current_span(parent).get_span_context()
        if caller.is_valid and not exchange.is_followed:
            # An outsider would choose the trace, and that it is recorded.
            exchange.caller_trace = trace.format_trace_id(caller.trace_id)
            parent = Context()
            links = [Link(caller)]
        span = tracer.start_span(
            span_name(exchange.method),
            context=parent,
            kind=SpanKind.SERVER,
            links=links,
            # For a sampler's decision.
            attributes=method_attributes(exchange.method)
            | {
                "url.path": exchange.path[:MAX_PATH],
                "url.scheme": exchange.scheme,
            },
            start_time=nanoseconds(began),
        )
        ids = span.get_span_context()
        request = exchange.request
        if ids.is_valid:
            request.trace_id = trace.format_trace_id(ids.trace_id)
            request.span_id = trace.format_span_id(ids.span_id)
            request.trace_flags = f"{int(ids.trace_flags):02x}"
        token = context.attach(trace.set_span_in_context(span, context.get_current()))
        exchange.span = OpenSpan(span, token, began)

    def end(self, exchange: Exchange, /) -> None:
        """End the span at the last byte.

        Until now it was open, for what the application does after the response.
        """
        opened: OpenSpan | None = exchange.span
        if opened is None:
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
        opened: OpenSpan | None = exchange.span
        if opened is not None and opened.span.is_recording():
            opened.span.set_attribute("postfacta.outcome", exchange.outcome)
            opened.span.set_attribute("postfacta.close_code", exchange.close_code)
        self.end(exchange)

    def begin_call(self) -> OpenSpan | None:
        """Start the span of a call, which its headers name as their parent.

        None outside of any recording span.
        """
        tracer = self._find()
        if tracer is None or not trace.get_current_span().is_recording():
            return None
        began = self._wall()
        span = tracer.start_span("HTTP", kind=SpanKind.CLIENT, start_time=nanoseconds(began))
        return OpenSpan(span, context.attach(trace.set_span_in_context(span)), began)

    def end_call(
        self,
        opened: OpenSpan,
        call: HttpCallFinished,
        *,
        url: str,
        resends: int,
        error: Exception | None,
    ) -> None:
        """End it, in the task that began it; `url` is without user, password and query."""
        span = opened.span
        context.detach(opened.token)
        if span.is_recording():
            span.update_name(span_name(call.method))
            attributes: dict[str, str | int] = {
                "postfacta.dependency": call.service,
                **(method_attributes(call.method) if call.method else {}),
                "server.address": call.address,
                "server.port": call.port,
                "url.full": url,
                "http.response.status_code": call.status,
                "error.type": call.error_type,
                "http.request.resend_count": resends,
            }
            _finish(span, attributes, error, has_failed=bool(call.error_type))
        span.end(nanoseconds(opened.began + call.seconds))

    def __call__(self, event: Event, /) -> None:
        """Make a span of a statement that has ended, below the recording span it ran in.

        Add other events to that.
        """
        tracer = self._find()
        if tracer is None or (event_type := type(event)) not in _SPAN_EVENTS:
            return
        span = trace.get_current_span()
        if not span.is_recording():
            return
        if isinstance(event, QueryFinished):
            self._statement(tracer, event)
        elif (
            not isinstance(event, ConnectionAcquired)
            or event.error_type
            or event.seconds >= _WORTH_TELLING
        ):
            name, fields = _SPAN_EVENTS[event_type]
            span.add_event(name, _attributes(event, fields), nanoseconds(self._wall()))

    def _statement(self, tracer: Tracer, event: QueryFinished) -> None:
        ended = self._wall()
        summary = f"{event.operation} {event.collection}".strip()
        span = tracer.start_span(
            summary,
            kind=SpanKind.CLIENT,
            attributes={**_attributes(event, _QUERY), "db.query.summary": summary},
            start_time=nanoseconds(ended - event.seconds),
        )
        if event.error_type:
            span.set_status(Status(StatusCode.ERROR))
        span.end(nanoseconds(ended))


def trace_headers() -> dict[str, str]:
    """Write the W3C headers that make a call part of the present span's trace, if there is one."""
    headers: dict[str, str] = {}
    _PROPAGATOR.inject(headers)
    return headers


def method_attributes(method: str) -> dict[str, str]:
    if method in METHODS:
        return {"http.request.method": method}
    return {"http.request.method": "_OTHER", "http.request.method_original": method[:MAX_METHOD]}


def nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def span_name(method: str) -> str:
    return method if method in METHODS else "HTTP"


def _parent(headers: Sequence[tuple[bytes, bytes]]) -> Context:
    """Read the caller's trace context.

    What is invalid, or sent twice, starts a new trace; baggage is not taken over.
    """
    carrier: dict[str, str] = {}
    for name, value in headers:
        if (key := _CARRIED.get(name)) is not None:
            # Runs of blanks cost OpenTelemetry's reader their square.
            text = " ".join(value.decode("latin-1").split())
            carrier[key] = f"{carrier[key]},{text}" if key in carrier else text
    if len(carrier.get("tracestate", "")) > _MAX_STATE:
        del carrier["tracestate"]
    return _OF_CALLERS.extract(carrier, context=Context()) if carrier else Context()


def _describe(span: Span, exchange: Exchange, began: float) -> None:
    is_routed = exchange.route.startswith("/")
    name = span_name(exchange.method)
    request = exchange.request
    span.update_name(f"{name} {exchange.route}" if is_routed else name)
    attributes: dict[str, str | int] = {
        "http.response.status_code": exchange.status,
        "network.protocol.version": exchange.http_version,
        "postfacta.request_id": request.request_id,
        "postfacta.traffic": exchange.traffic,
        "http.route": exchange.route if is_routed else "",
        "error.type": exchange.error_type,
        "client.address": exchange.client,
    }
    limit = min(request.caller_timeout, request.limit)
    if limit < math.inf:
        left = round((limit - exchange.seconds) * 1000)
        span.set_attribute("postfacta.deadline_remaining_ms", left)
    for header, value in exchange.headers:
        if header == b"user-agent":
            attributes["user_agent.original"] = redact_text(value[:_MAX_AGENT].decode("latin-1"))
    has_failed = exchange.status >= _SERVER_ERROR or exchange.error is not None
    _finish(span, attributes, exchange.error, has_failed=has_failed)
    if exchange.is_stream:
        span.add_event("postfacta.first_byte", timestamp=nanoseconds(began + exchange.first_byte))
        if exchange.is_complete:
            span.add_event("postfacta.last_byte", timestamp=nanoseconds(began + exchange.seconds))
    if exchange.error_type in {"deadline_exceeded", CALLERS_DEADLINE} and limit < math.inf:
        # At the moment when its time was up: what it did after that was of no use.
        span.add_event("postfacta.deadline", timestamp=nanoseconds(began + limit))
    elif exchange.error_type and exchange.route == PREROUTING:
        reason = {"postfacta.reason": exchange.error_type}
        span.add_event("postfacta.refused", reason, nanoseconds(began + exchange.seconds))


def _finish(
    span: Span, attributes: Mapping[str, str | int], error: Exception | None, *, has_failed: bool
) -> None:
    span.set_attributes({name: value for name, value in attributes.items() if value})
    if error is not None:
        span.add_event("exception", failure_fields(error))
    if has_failed:
        span.set_status(Status(StatusCode.ERROR))


# What an event adds to a span: the field of each attribute. Seconds are given in milliseconds, and
# what is empty is left out.
_QUERY: Final = {
    "db.system.name": "system",
    "db.operation.name": "operation",
    "db.collection.name": "collection",
    "db.namespace": "namespace",
    "db.response.status_code": "sqlstate",
    "server.address": "server",
    "error.type": "error_type",
}
_BREAKER: Final = {
    "postfacta.policy": "breaker",
    "postfacta.old": "old",
    "postfacta.new": "new",
    "postfacta.reason": "reason",
}
_POOL_WAIT: Final = {
    "db.client.connection.pool.name": "pool",
    "postfacta.wait_ms": "seconds",
    "error.type": "error_type",
}
_RETRY: Final = {
    "postfacta.policy": "policy",
    "postfacta.attempt": "attempt",
    "postfacta.delay_ms": "delay",
    "error.type": "error_type",
}
_STREAM: Final = {
    "postfacta.dependency": "service",
    "postfacta.ended": "ended",
    "postfacta.pieces": "pieces",
    "postfacta.duration_ms": "seconds",
}
# Pools emit more than half a dozen events for each statement: those not for a span must cost one
# lookup.
_SPAN_EVENTS: Final[Mapping[type, tuple[str, Mapping[str, str]]]] = {
    CircuitChanged: ("postfacta.breaker", _BREAKER),
    ConnectionAcquired: ("postfacta.pool_wait", _POOL_WAIT),
    DeadlineExceeded: ("postfacta.deadline_exceeded", {"postfacta.stage": "stage"}),
    RetryScheduled: ("postfacta.retry", _RETRY),
    StreamFinished: ("postfacta.stream", _STREAM),
    QueryFinished: ("", _QUERY),  # A span of its own.
}


def _attributes(event: Event, fields: Mapping[str, str]) -> dict[str, Any]:
    values = {name: getattr(event, field) for name, field in fields.items()}
    return {
        name: round(value * 1000, 3) if name.endswith("_ms") else value
        for name, value in values.items()
        if value != ""
    }
