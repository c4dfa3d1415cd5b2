"""Make a CLIENT span of each try of a call to another service."""

from __future__ import annotations

from opentelemetry import context, trace
from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider

from ..clock import WALL, Clock
from ..events import HttpCallFinished
from .spans import OpenSpan, Tracers, method_attributes, nanoseconds, of_exception, span_name


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

    def begin(self) -> OpenSpan | None:
        """Start a span and make it the present one, so that the call's headers name it as their parent."""
        tracer = self._tracers.find()
        if tracer is None or not trace.get_current_span().is_recording():
            return None
        began = self._wall()
        span = tracer.start_span("HTTP", kind=SpanKind.CLIENT, start_time=nanoseconds(began))
        return OpenSpan(span, context.attach(trace.set_span_in_context(span)), began)

    def end(
        self, opened: OpenSpan, call: HttpCallFinished, *, url: str, resends: int, error: Exception | None
    ) -> None:
        """End it, in the task that began it; `url` is without user, password and query, empty if there was no request."""
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
        **(method_attributes(call.method) if call.method else {}),
        "server.address": call.address,
        "server.port": call.port,
        "url.full": url,
        "http.response.status_code": call.status,
        "error.type": call.error_type,
        "http.request.resend_count": resends,
    }
    return {key: value for key, value in known.items() if value}
