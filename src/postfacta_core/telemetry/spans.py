"""The common parts of all spans: the tracer, errors, and trace context for the next service."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from opentelemetry import trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace import Span, Tracer, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..events import Sample
from .catalogue import METHODS
from .failure import failure_fields
from .redaction import redact_text

PROPAGATOR: Final = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])
_SCOPE: Final = "postfacta_core"
_METHODS: Final = frozenset(METHODS)


class Tracers:
    """Finds the tracer of a provider, by default OpenTelemetry's global one; there is none without an SDK."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self._tracer = None if provider is None else provider.get_tracer(_SCOPE)

    def find(self) -> Tracer | None:
        """Return the tracer, if there is one by now."""
        # get_tracer_provider() reads the environment each time as long as there is none: 600 ns a request. The global
        # provider may be installed late, but only once.
        if self._tracer is None and (provider := trace._TRACER_PROVIDER) is not None:  # noqa: SLF001 - see above # pyright: ignore[reportPrivateUsage]
            self._provider, self._tracer = provider, provider.get_tracer(_SCOPE)
        return self._tracer

    def tally(self) -> Iterable[Sample]:
        self.find()
        tally = getattr(self._provider, "tally", None)
        return () if tally is None else tally()


def trace_headers() -> dict[str, str]:
    """Write the W3C headers that make a call to another service part of the present span's trace.

    There are none without a span.
    """
    headers: dict[str, str] = {}
    PROPAGATOR.inject(headers)
    return headers


class OpenSpan(NamedTuple):
    """A span under way, with what it takes to end it."""

    span: Span
    token: Any  # contextvars.Token of a context whose type OpenTelemetry keeps to itself
    began: float


def method_attributes(method: str) -> dict[str, str]:
    if method in _METHODS:
        return {"http.request.method": method}
    return {"http.request.method": "_OTHER", "http.request.method_original": method}


def nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def span_name(method: str) -> str:
    """Return the method, or the semantic conventions' name for an unknown one."""
    return method if method in _METHODS else "HTTP"


def of_exception(error: Exception) -> dict[str, str]:
    """Describe an error as an event of a span, without secrets."""
    told = failure_fields(error).items()
    return {name: redact_text(str(value)) for name, value in told if name != "retry_after"}
