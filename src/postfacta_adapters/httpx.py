"""Guard the HTTP requests to one service, and pass on the present one's time, priority, id, trace.

No HTTP client is imported. `Outgoing.transport` wraps a transport of httpx2 or httpx, async or
sync, `Outgoing.adapter` one of requests, and `Outgoing.middleware` is one of aiohttp; for others
there is `outgoing_headers`. A service of this library reads `X-Request-Timeout`
and `traceparent` from every caller, and `X-Priority` from those it trusts.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any, Final, Self, TypeVar, cast

import anyio

from postfacta_core.clock import MONOTONIC, WALL, Clock
from postfacta_core.deadlines.present import current_deadline
from postfacta_core.errors import (
    DeadlineExceededError,
    FailedResponseError,
    ResilienceError,
    StreamStalledError,
)
from postfacta_core.events import (
    DeadlineExceeded,
    HttpCallFinished,
    ListenerFailed,
    Observer,
    StreamFinished,
    observing,
    process_observer,
)
from postfacta_core.guards import CircuitBreaker, Guard, Pipeline
from postfacta_core.telemetry.tracing import Tracing
from postfacta_core.validation import validation

from ._clients import GuardedAdapter, Handler, TaskRequest, names_of
from ._errors import common
from ._outgoing import (
    add_headers,
    is_failure as is_failure,
    outgoing_headers as outgoing_headers,
    refusal_in as refusal_in,
    retry_after,
    shown,
)
from ._streams import (
    AsyncStream,
    Bounds,
    Ending,
    SyncStream,
    Watch,
    has_waited,
    watched,
)

__all__ = ["Outgoing", "outgoing_headers"]

T = TypeVar("T")

# RFC 9110, section 9.2.2.
_IDEMPOTENCY_KEY: Final = "Idempotency-Key"
_IDEMPOTENT: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PUT", "TRACE"})
# The four waits of an httpx request; of each, seconds or None for any number.
_WAITS: Final = ("connect", "read", "write", "pool")
_PORTS: Final = {"http": 80, "https": 443}


class Outgoing:
    """Guard each request to one dependency, and pass on the present request's context.

        billing = Outgoing("billing", Timeout(2), Retry("billing"), breaker)
        client = httpx2.AsyncClient(transport=billing.transport(httpx2.AsyncHTTPTransport()))
        response = await client.get("https://billing/invoices/7")

    The guards end with the head of the response, so a slow reader of a stream holds no slot. They
    see a response that is a failure as an error: a circuit counts it, and `Retry` sends the request
    again if that is safe. The last response is the caller's, whatever it is; those before it are
    closed.

    * 429, and 503 with `Retry-After`, refuse before anything was done: any method is sent again.
    * Other failures, and errors of the transport: an idempotent method (RFC 9110, section 9.2.2),
      a request with an `Idempotency-Key`, or whatever was not sent, for lack of a connection.
    * A body that can be read once only, such as a generator, is sent once.

    With `first` or `idle` a response is bounded that comes in pieces, such as a model's. Time
    counts while the next piece is waited for. A response that stands still raises
    `StreamStalledError`, which is the client's `ReadTimeout` too, and its connection is closed.
    Before its first piece that counts, the guards see that. After it, each circuit counts a late
    failure, as it does for a connection that breaks: see `CircuitBreaker.fail_late`. The client's
    own read timeout stays, if it is shorter. A sync client sees a silence by its read timeout, the
    greater of `first` and `idle`, and pieces that do not count when they come.

    Args:
        name: The dependency, the `policy` of its errors.
        guards: Around each request, from the outermost; see `Pipeline`. There may be none. A sync
            client needs those that have a `call_sync`.
        is_failure: Which responses the guards see as a failure, besides refusals; see `is_failure`.
            It may raise.
        first: Seconds from sending to the first piece that counts; None for no bound. It holds for
            a response that is whole at once, too.
        idle: Seconds between two pieces that count, after the first; None for no bound.
        counts: Whether a piece counts; it gets the bytes as they come, before they are decoded, and
            may raise. By default that of `text/event-stream` counts that has a part of a line which
            is no comment, and of others each.
        repeats: Whether a request may be sent again, whatever its method is.
        tell: Whether it gets the headers. Turn that off for a third party's service: only the time
            is bounded then, and spans have its address without the path, which may be a secret.
        priority_key: The secret that makes it trust the priority; see `HardenOptions`.
            Every host that the transport reaches gets it, after a redirect too.
        observer: Receives each try, and calls for which no time was left. It may raise. By default
            the process's, see `asgi.Telemetry`; None for none.
        spans: Where the span of each try goes; by default OpenTelemetry's global provider, if there
            is one.
        clock: Monotonic seconds, for the durations of tries.
    """

    def __init__(
        self,
        name: str,
        *guards: Guard,
        is_failure: Callable[[Any], bool] = is_failure,
        first: float | None = None,
        idle: float | None = None,
        counts: Callable[[bytes], object] | None = None,
        repeats: bool = False,
        tell: bool = True,
        priority_key: str = "",
        observer: Observer | None = process_observer,
        spans: Tracing | None = None,
        clock: Clock = MONOTONIC,
    ) -> None:
        self.name: str = validation.name(
            "Outgoing.name", name, example='Outgoing("billing", Timeout(2))'
        )
        validation.flag("Outgoing.tell", tell)
        validation.flag("Outgoing.repeats", repeats, example="False")
        if counts is not None:
            validation.function("Outgoing.counts", counts, example="counts=None")
        validation.secret("Outgoing.priority_key", priority_key, example="a text, or leave it out")
        if spans is not None:
            validation.instance("Outgoing.spans", spans, Tracing, example="Tracing(provider)")
        validation.functions("Outgoing", is_failure=is_failure, clock=clock)
        self.pipeline: Pipeline | None = Pipeline(*guards) if guards else None
        self._call: Callable[..., Any] = self.pipeline.call if self.pipeline else operator.call
        self._call_sync: Callable[..., Any] = (
            self.pipeline.call_sync if self.pipeline else operator.call
        )
        self._is_failure = is_failure
        self._repeats = repeats
        self._bounds = Bounds(_bound("first", first), _bound("idle", idle), counts)
        self._is_bounded = (first, idle, counts) != (None, None, None)
        self._circuits = [
            guard
            for guard in (self.pipeline.guards if self.pipeline else ())
            if isinstance(guard, CircuitBreaker)
        ]
        self._tell = tell
        self._priority_key = priority_key
        self._observe = observing("Outgoing", name, observer)
        self._spans = spans or Tracing()
        self._clock = clock

    def transport(self, inner: T) -> T:
        """Wrap a transport of httpx2 or httpx, async or sync, for a client's `transport`, `mounts`.

        Within a request, each of its waits is bounded by the time that is left. What a request says
        already stays, if it is stricter; a trace context of its own stays too. A request without
        time left is not sent: `DeadlineExceededError`, as for a wait that ends with that time.

        Args:
            inner: Such as `httpx2.AsyncHTTPTransport()`. It is closed with the client.

        Raises:
            TypeError: If it is no transport, or a sync one and a guard cannot guard plain calls.
        """
        if not hasattr(inner, "handle_async_request"):
            if not hasattr(inner, "handle_request"):
                raise TypeError(
                    "Outgoing.transport needs a transport, such as httpx2.AsyncHTTPTransport(),"
                    f" not {inner!r}"
                )
            self._needs_sync()
        send = partial(self._send, inner)
        send_sync = partial(self._send_sync, inner)
        return cast("T", _Transport(inner, send, send_sync))

    def adapter(self, inner: T) -> T:
        """Wrap an adapter of `requests`, for `session.mount("https://billing", ...)`.

        It does what a sync transport does. The body of a response is the session's to read.

        Args:
            inner: Such as `requests.adapters.HTTPAdapter()`. It is closed with the session.

        Raises:
            TypeError: If a guard cannot guard plain calls, or this bounds responses in pieces.
        """
        if not hasattr(inner, "send"):
            raise TypeError(
                f"Outgoing.adapter needs an adapter, such as HTTPAdapter(), not {inner!r}"
            )
        self._needs_whole()
        self._needs_sync()
        return cast("T", GuardedAdapter(inner, self._send_sync))

    async def middleware(self, request: Any, handler: Any) -> Any:
        """Guard a request of `aiohttp`, for `ClientSession(middlewares=[billing.middleware])`.

        It needs aiohttp 3.12 or newer. The body of a response is the session's to read.

        Raises:
            TypeError: If this bounds responses in pieces.
        """
        self._needs_whole()
        call = TaskRequest(
            request.method,
            request.url,
            headers=request.headers.copy(),
            stream=request,
            extensions={},
        )
        return (await self._send(Handler(handler), call)).response

    def _needs_sync(self) -> None:
        if self.pipeline is not None and self.pipeline.no_sync:
            raise TypeError(
                f"a sync client needs guards of plain functions: {self.pipeline.no_sync}"
            )

    def _needs_whole(self) -> None:
        if self._is_bounded:
            raise TypeError(
                "Outgoing bounds responses in pieces for httpx2 and httpx alone: leave out first,"
                " idle and counts"
            )

    async def _send(self, inner: Any, request: Any) -> Any:
        """Send a request of an async client through the guards."""
        call = _Call(request)
        try:
            return call.take(await self._call(self._try, inner, call))
        except ResilienceError as error:
            if isinstance(error, FailedResponseError) and error.response in call.failed:
                return call.take(error.response)
            raise _shared(error, call.request) from error.__cause__
        finally:
            if left := call.failed + call.passed:
                with anyio.CancelScope(shield=True):
                    for response in left:
                        await response.aclose()

    async def _try(self, inner: Any, call: _Call) -> Any:
        while call.failed:
            await call.failed.pop().aclose()
        with self._bounded(call.request), self._measured(call) as attempt:
            if self._is_bounded:
                failure = await self._watched(inner, call, attempt)
            else:
                attempt.response = await inner.handle_async_request(
                    self._prepare(call.request, attempt)
                )
                failure = self._failure(call, attempt.response)
        if failure is not None:
            raise failure
        return attempt.response

    async def _watched(self, inner: Any, call: _Call, attempt: _Try) -> FailedResponseError | None:
        """Send a request, and wait for the first piece of its response that counts."""
        watch = self._watch(call)
        request = self._prepare(call.request, attempt)
        with anyio.move_on_after(watch.left) as scope:
            attempt.response = await inner.handle_async_request(request)
        if scope.cancelled_caught:
            raise watch.stall()
        failure = self._failure(call, attempt.response)
        if not attempt.response.is_closed:
            stream = watched(AsyncStream, attempt.response, watch)
            if failure is None:
                await stream.begin()
        return failure

    def _send_sync(self, inner: Any, request: Any) -> Any:
        """Send a request of a sync client through the guards."""
        call = _Call(request)
        try:
            return call.take(self._call_sync(self._try_sync, inner, call))
        except ResilienceError as error:
            if isinstance(error, FailedResponseError) and error.response in call.failed:
                return call.take(error.response)
            raise _shared(error, call.request) from error.__cause__
        finally:
            for response in call.failed + call.passed:
                response.close()

    def _try_sync(self, inner: Any, call: _Call) -> Any:
        while call.failed:
            call.failed.pop().close()
        with self._bounded(call.request), self._measured(call) as attempt:
            if self._is_bounded:
                failure = self._watched_sync(inner, call, attempt)
            else:
                attempt.response = inner.handle_request(self._prepare(call.request, attempt))
                failure = self._failure(call, attempt.response)
        if failure is not None:
            raise failure
        return attempt.response

    def _watched_sync(self, inner: Any, call: _Call, attempt: _Try) -> FailedResponseError | None:
        """Do the same for a sync client."""
        watch = self._watch(call)
        request = self._prepare(call.request, attempt)
        # The transport reads it before each head, and once before the body.
        waits = request.extensions["timeout"] = dict(request.extensions.get("timeout", {}))
        most = waits.get("read")
        most = math.inf if most is None else most
        waits["read"] = _finite(min(most, self._bounds.first))
        try:
            attempt.response = inner.handle_request(request)
        except Exception as error:
            if not has_waited(error) or self._bounds.first > most:
                raise
            raise watch.stall() from error
        waits["read"] = _finite(min(most, max(self._bounds.first, self._bounds.idle)))
        failure = self._failure(call, attempt.response)
        if not attempt.response.is_closed:
            stream = watched(SyncStream, attempt.response, watch)
            if failure is None:
                stream.begin()
        return failure

    def _watch(self, call: _Call) -> Watch:
        """Watch the response to a request that is sent now."""
        eras = [(circuit, circuit.era) for circuit in self._circuits]

        def ended(watch: Watch, ending: Ending, error: Exception | None) -> None:
            seconds = watch.clock() - watch.began
            self._observe(StreamFinished(self.name, ending, seconds, watch.pieces, watch.first))
            if watch.is_handed_on and error is not None:
                for circuit, era in eras:
                    circuit.fail_late(era, error)

        return Watch(
            self._bounds,
            self._clock,
            stalled=lambda: _shared(StreamStalledError(self.name), call.request),
            report=lambda fault: self._observe(ListenerFailed(self.name, repr(fault))),
            ended=ended,
        )

    def _prepare(self, request: Any, attempt: _Try) -> Any:
        """Return a copy of a request, with headers and bounded waits.

        Raise `DeadlineExceededError` if no time is left.
        """
        try:
            ours = outgoing_headers(self.name, priority_key=self._priority_key)
        except DeadlineExceededError:
            self._observe(DeadlineExceeded("client"))
            raise
        headers = request.headers.copy()
        extensions = dict(request.extensions)
        if (deadline := current_deadline()) is not None:
            # All that is left, and not the value in the header: the service's answer that the time
            # is up must still arrive.
            left = deadline.remaining()
            own_waits = {
                wait: most
                for wait, most in extensions.get("timeout", {}).items()
                if most is not None
            }
            extensions["timeout"] = {wait: min(left, own_waits.get(wait, left)) for wait in _WAITS}
        if self._tell:
            add_headers(ours, headers)
        attempt.is_sent = True
        # The caller's own is left as it is: a redirect, and the next try, begin with that.
        return type(request)(
            request.method,
            request.url,
            headers=headers,
            stream=request.stream,
            extensions=extensions,
        )

    @contextmanager
    def _bounded(self, request: Any) -> Generator[None]:
        """Raise `DeadlineExceededError` for a time-out of the client that the deadline made."""
        try:
            yield
        except Exception as error:
            if not _is_over(error, request):
                raise
            late = DeadlineExceededError(self.name)
            # For `Retry`: a try may have a deadline of its own.
            cast("Any", late).is_repeatable = getattr(error, "is_repeatable", False)
            raise late from error

    def _failure(self, call: _Call, response: Any) -> FailedResponseError | None:
        """Keep the response; return the error that the guards see, if it is a failure."""
        refusal = refusal_in(response, self.name)
        if refusal is None and not self._has_failed(response):
            call.passed.append(response)
            return None
        call.failed.append(response)
        return FailedResponseError(
            self.name,
            retry_after(response.headers, WALL),
            response=response,
            is_repeatable=self._is_repeatable(call.request, is_undone=refusal is not None),
        )

    def _is_repeatable(self, request: Any, *, is_undone: bool) -> bool:
        may_be_done_twice = (
            self._repeats or request.method in _IDEMPOTENT or _IDEMPOTENCY_KEY in request.headers
        )
        if not is_undone and not may_be_done_twice:
            return False
        try:
            request.content  # noqa: B018 - raises for a stream, which may have been read
        except Exception:  # noqa: BLE001 - of the client, by whatever name
            return False
        return True

    def _mark(self, error: BaseException | None, request: Any) -> None:
        """Mark an error of the transport, for `Retry`: whether the request may be sent again."""
        names, _ = names_of(request)
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if kinds & names.lost:
            # Of `requests`: an error of urllib3 is inside, and has the cause.
            inside = next(iter(getattr(error, "args", ())), None)
            reason = getattr(inside, "reason", None)
            kinds |= {kind.__name__ for kind in type(reason).__mro__}
            is_undone = bool(kinds & names.unsent)
            is_repeatable = self._is_repeatable(request, is_undone=is_undone)
            cast("Any", error).is_repeatable = is_repeatable

    def _has_failed(self, response: Any) -> bool:
        """Ask the predicate; the default decides if that raises."""
        try:
            return bool(self._is_failure(response))
        except Exception as error:  # noqa: BLE001 - it is foreign code, and may raise anything
            self._observe(ListenerFailed(self.name, repr(error)))
            return is_failure(response)

    @contextmanager
    def _measured(self, call: _Call) -> Generator[_Try]:
        """Observe one try, from here until its head is there."""
        attempt = _Try()
        request = call.request
        resends = call.count
        call.count += 1
        span = self._spans.begin_call()
        began = self._clock()
        raised: BaseException | None = None
        try:
            yield attempt
        except BaseException as error:
            raised = error
            raise
        finally:
            url = request.url
            status = 0 if attempt.response is None else attempt.response.status_code
            port = url.port or _PORTS.get(url.scheme, 0)
            seconds = self._clock() - began
            kind = _error_type(raised, status, is_sent=attempt.is_sent)
            ended = HttpCallFinished(
                self.name, request.method, url.host, port, status, seconds, kind
            )
            if attempt.is_sent:
                self._observe(ended)
                self._mark(raised, request)
            if span is not None:
                fault = raised if isinstance(raised, Exception) else None
                address = shown(url, is_own=self._tell)
                self._spans.end_call(span, ended, url=address, resends=resends, error=fault)
                del fault
            # The error holds this frame: with it here, both would be garbage in a circle.
            del raised


@dataclass(slots=True, eq=False, repr=False)
class _Try:
    """Whether a request was sent, and what came."""

    is_sent: bool = False
    response: Any = None


@dataclass(slots=True, eq=False, repr=False)
class _Call:
    """One request on its way through the guards, in one try or more.

    The responses that are failures are kept until one is returned and the others closed; so are
    those that `passed`, of which there is more than one where tries overlap, as with a `Hedge`.
    """

    request: Any
    failed: list[Any] = field(default_factory=list[Any])
    passed: list[Any] = field(default_factory=list[Any])
    count: int = 0

    def take(self, response: Any) -> Any:
        """Return a response, which is the caller's from now on."""
        for responses in (self.failed, self.passed):
            if response in responses:
                responses.remove(response)
        return response


class _Transport:
    """A transport around another one; httpx asks for these methods, and for no class."""

    def __init__(self, inner: Any, send: object, send_sync: object) -> None:
        self._inner = inner
        self.handle_async_request = send
        self.handle_request = send_sync

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._inner.__aexit__(*raised)

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._inner.__exit__(*raised)


def _error_type(error: BaseException | None, status: int, *, is_sent: bool) -> str:
    if error is None:
        return str(status) if status >= HTTPStatus.BAD_REQUEST else ""
    if not isinstance(error, Exception):
        return "cancelled"
    return type(error).__name__ if is_sent else "deadline_exceeded"


def _is_over(error: Exception, request: Any) -> bool:
    """Return whether a wait ended because the request has no time left, which bounded it."""
    deadline = current_deadline()
    if deadline is None or deadline.remaining() > 0:
        return False
    names, _ = names_of(request)
    return any(kind.__name__ in names.waited for kind in type(error).__mro__)


def _bound(field: str, seconds: float | None) -> float:
    return math.inf if seconds is None else validation.seconds(f"Outgoing.{field}", seconds)


def _finite(seconds: float) -> float | None:
    """Return seconds as a client reads them, with None for no bound."""
    return seconds if seconds < math.inf else None


def _shared(error: ResilienceError, request: Any) -> ResilienceError:
    """Return the error as one that the client of a request knows, too."""
    names, module = names_of(request)
    if isinstance(error, StreamStalledError):
        name = names.stalled
    elif isinstance(error, DeadlineExceededError):
        name = names.late
    else:
        name = names.base
    theirs: Any = getattr(module, name, None)
    if theirs is not None and not isinstance(error, theirs):
        trace = error.__traceback__
        error = common(error, theirs, response=None).with_traceback(trace)
        cast("Any", error).request = getattr(request, "origin", request)
    return error
