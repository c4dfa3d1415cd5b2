"""Make a CLIENT span of each try of a call to another service."""

from __future__ import annotations

from typing import Any, NamedTuple

from opentelemetry import context, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider

from ..clock import WALL, Clock
from ..events import HttpCallFinished
from .spans import Tracers, nanoseconds, of_exception, span_name

__all__ = ["CallSpan", "CallSpans"]


class CallSpan(NamedTuple):
    """A span under way, with what it takes to end it."""

    span: Span
    token: Any  # contextvars.Token of a context whose type OpenTelemetry keeps to itself
    began: float


class CallSpans:
    """Begins and ends the spans of calls, below the span that is the present one.

    A call outside of any recording span gets none, as a statement does: it would be a trace without context.

    Args:
        provider: Where the spans go; by default OpenTelemetry's global one, whenever that is installed.
        wall: Seconds since the epoch, for the times of spans.
    """

    def __init__(self, provider: TracerProvider | None = None, *, wall: Clock = WALL) -> None:
        self._tracers = Tracers(provider)
        self._wall = wall

    def begin(self) -> CallSpan | None:
        """Start a span and make it the present one, so that the call's headers name it as their parent."""
        tracer = self._tracers.find()
        if tracer is None or not trace.get_current_span().is_recording():
            return None
        began = self._wall()
        span = tracer.start_span("HTTP", kind=SpanKind.CLIENT, start_time=nanoseconds(began))
        return CallSpan(span, context.attach(trace.set_span_in_context(span)), began)

    def end(
        self, opened: CallSpan, call: HttpCallFinished, *, url: str, resends: int, error: Exception | None
    ) -> None:
        """End it, in the task that began it.

        Args:
            opened: What `begin` returned.
            call: What became of it.
            url: Without user, password and query; empty if there was no request.
            resends: How many tries went before it.
            error: What the client raised, if it did.
        """
        span = opened.span
        context.detach(opened.token)
        if span.is_recording():
            span.update_name(span_name(call.method))
            span.set_attributes(_known(call, url, resends))
            if error is not None:
                span.add_event("exception", of_exception(error))
            if call.error_type:
                span.set_status(Status(StatusCode.ERROR))
        span.end(nanoseconds(opened.began + call.seconds))


def _known(call: HttpCallFinished, url: str, resends: int) -> dict[str, str | int]:
    known: dict[str, str | int] = {
        "postfacta.dependency": call.service,
        "http.request.method": call.method,
        "server.address": call.address,
        "server.port": call.port,
        "url.full": url,
        "http.response.status_code": call.status,
        "error.type": call.error_type,
        "http.request.resend_count": resends,
    }
    if call.method and span_name(call.method) != call.method:
        known |= {"http.request.method": "_OTHER", "http.request.method_original": call.method}
    return {key: value for key, value in known.items() if value}
