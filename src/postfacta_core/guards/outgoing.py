"""Pass a request's context on to the next service: its remaining time, its priority, its trace.

It knows no HTTP client by name. `Outgoing` works with any whose requests and responses look like httpx's; for others
there is `outgoing_headers`. A service of this library reads `X-Request-Timeout` and `traceparent` from every caller,
and `X-Priority` from those it trusts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextvars import ContextVar
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final, ParamSpec, Protocol, TypeVar, cast

import anyio

from .._functions import answer_of
from ..clock import MONOTONIC, WALL, Clock
from ..context import current_request
from ..deadlines._deadline import asked_timeout
from ..deadlines.present import current_deadline
from ..errors import DeadlineExceededError, FailedResponseError, RejectedError
from ..events import DeadlineExceeded, HttpCallFinished, ListenerFailed, Observer, observing, process_observer
from ..limits._waiting import Priority
from ..telemetry.calls import CallSpan, CallSpans
from ..telemetry.spans import trace_headers
from ..validation import validation
from .pipeline import Guard, Pipeline

__all__ = ["Outgoing", "OutgoingRequest", "Response", "Url", "is_failure", "outgoing_headers", "refusal_in"]

P = ParamSpec("P")

_TIMEOUT: Final = "X-Request-Timeout"
_REQUEST_ID: Final = "X-Request-ID"
_PRIORITY: Final = "X-Priority"
_PRIORITY_KEY: Final = "X-Priority-Key"
_PRIORITIES: Final = tuple(priority.name.lower() for priority in Priority)
_REFUSED: Final = frozenset({429, 503})
_TOO_MANY_REQUESTS: Final = 429
_SERVER_ERROR: Final = 500
_NOT_IMPLEMENTED: Final = 501
# RFC 9110, section 9.2.2.
_IDEMPOTENT: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PUT", "TRACE"})
# The four waits of an httpx request; of each, seconds or None for any number.
_WAITS: Final = ("connect", "read", "write", "pool")
_PORTS: Final = {"http": 80, "https": 443}
_CLIENT_ERROR: Final = 400
# The longest that a dependency may send us away for: more is nonsense, or means "never".
_LONGEST: Final = 86_400.0


class Url(Protocol):
    """The parts of a request's address that are used; `httpx.URL` has them."""

    @property
    def scheme(self) -> str:
        """`http` or `https`."""
        ...

    @property
    def host(self) -> str:
        """The host's name or address."""
        ...

    @property
    def port(self) -> int | None:
        """The port, if it is not the scheme's own."""
        ...

    @property
    def path(self) -> str:
        """The path, without the query."""
        ...


class OutgoingRequest(Protocol):
    """The parts of a client's request that are used; `httpx.Request` has them."""

    @property
    def method(self) -> str:
        """Such as `GET`."""
        ...

    @property
    def url(self) -> Url:
        """Where it goes."""
        ...

    @property
    def headers(self) -> MutableMapping[str, str]:
        """Its headers, by names in any case."""
        ...

    @property
    def extensions(self) -> MutableMapping[str, Any]:
        """Options of the transport; `timeout` has the seconds of each wait."""
        ...


class Response(Protocol):
    """The parts of a client's response that are used; `httpx.Response` has them."""

    @property
    def status_code(self) -> int:
        """The status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers, by names in any case."""
        ...

    async def aclose(self) -> None:
        """Release its connection. It may be called when it is closed."""
        ...


R = TypeVar("R")


def outgoing_headers(
    name: str = "outgoing", *, priority_key: str = "", clock: Clock = MONOTONIC
) -> dict[str, str]:
    """Write the headers for a call made now, on behalf of the present request.

    `X-Request-Timeout` is less than what is left, see `Deadline.for_next_hop`; without a deadline there is none. Outside
    of a request there is no `X-Priority` and no `X-Request-ID` either.

    Args:
        name: The dependency, for the error.
        priority_key: The secret that makes the dependency trust the priority; sent as `X-Priority-Key`.
        clock: Monotonic seconds; it must be the clock of the request contexts.

    Raises:
        DeadlineExceededError: If there is no time left: do not call.
    """
    headers = trace_headers()
    request, deadline = current_request(), current_deadline()
    if request is not None:
        headers[_REQUEST_ID] = request.request_id
        headers[_PRIORITY] = _PRIORITIES[min(max(request.priority, 0), len(_PRIORITIES) - 1)]
        if priority_key:
            headers[_PRIORITY_KEY] = priority_key
    if deadline is not None:
        headers[_TIMEOUT] = deadline.header(clock())
        if float(headers[_TIMEOUT]) <= 0:
            raise DeadlineExceededError(name)
    return headers


def is_failure(response: Any) -> bool:
    """Return whether a response is a failure of the dependency: a status of 500 or more, but 501, or 429."""
    status: int = response.status_code
    return status == _TOO_MANY_REQUESTS or (status >= _SERVER_ERROR and status != _NOT_IMPLEMENTED)


def refusal_in(response: Response, name: str, *, wall: Clock = WALL) -> RejectedError | None:
    """Make an error of a response by which the dependency refused before it did anything.

    That is 429, and 503 with `Retry-After`. A 503 without it may be anything, such as a proxy that lost its server in
    the middle: it is the caller's to judge.

    Args:
        response: What came.
        name: The dependency, for the error.
        wall: Seconds since the epoch, for a `Retry-After` that is a date in a response without `Date`.

    Returns:
        The error, with `retry_after` in seconds if the response has it; or None.
    """
    if response.status_code not in _REFUSED:
        return None
    retry_after = _retry_after(response.headers, wall)
    if retry_after is None and response.status_code != _TOO_MANY_REQUESTS:
        return None
    return RejectedError(name, retry_after)


class Outgoing:
    """Call one dependency behind guards, and pass on the request's remaining time.

        billing = Outgoing("billing", Timeout(2), Retry("billing"), breaker)
        client = httpx.AsyncClient(event_hooks={"request": [billing.pass_on]})
        response = await billing.call(client.get, "https://billing/invoices/7")

    Args:
        name: The dependency, the `policy` of its errors.
        guards: Around each call, from the outermost; see `Pipeline`. There may be none.
        is_failure: Which responses the guards see as a failure, besides refusals; see `is_failure`. It may raise.
        tell: Whether it gets the headers. Turn that off for a third party's service: only the time is bounded then.
        priority_key: The secret that makes it trust the priority; see `LoadSheddingMiddleware`.
        observer: Receives each try, and calls for which no time was left. It may raise. By default the process's,
            see `asgi.Telemetry`; None for none.
        spans: Where the span of each try goes; by default OpenTelemetry's global provider, if there is one.
        clock: Monotonic seconds; it must be the clock of the request contexts.
        wall: Seconds since the epoch, to read dates by.
    """

    def __init__(
        self,
        name: str,
        *guards: Guard,
        is_failure: Callable[[Any], bool] = is_failure,
        tell: bool = True,
        priority_key: str = "",
        observer: Observer | None = process_observer,
        spans: CallSpans | None = None,
        clock: Clock = MONOTONIC,
        wall: Clock = WALL,
    ) -> None:
        self.name: str = validation.name("Outgoing.name", name, example='Outgoing("billing", Timeout(2))')
        validation.flag("Outgoing.tell", tell)
        validation.secret("Outgoing.priority_key", priority_key, example="a text, or leave it out")
        if spans is not None:
            validation.instance("Outgoing.spans", spans, CallSpans, example="CallSpans(provider)")
        validation.functions("Outgoing", is_failure=is_failure, clock=clock, wall=wall)
        self.pipeline: Pipeline | None = Pipeline(*guards) if guards else None
        self._observe = observing("Outgoing", name, observer)
        self._spans = spans or CallSpans()
        self._is_failure = is_failure
        self._tell = tell
        self._priority_key = priority_key
        self._clock = clock
        self._wall = wall

    async def pass_on(self, request: OutgoingRequest) -> None:
        """Add the headers to a request, and bound each of its waits: an event hook of httpx.

        What the request says already stays, if it is stricter. A trace context of its own stays too.

        Raises:
            DeadlineExceededError: If there is no time left; the request is not sent.
        """
        attempt = _ATTEMPT.get()
        if attempt is not None:
            attempt.see(request)
        try:
            headers = outgoing_headers(self.name, priority_key=self._priority_key, clock=self._clock)
        except DeadlineExceededError:
            self._observe(DeadlineExceeded("client"))
            if attempt is not None:
                attempt.is_sent = False
            raise
        deadline = current_deadline()
        if deadline is not None:
            # All that is left, and not the value in the header: the service's answer that the time is up must still
            # arrive.
            _bound(request, deadline.remaining(self._clock()))
        if self._tell:
            _add(headers, request.headers)

    async def call(self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a client's method through the guards.

        A response that is a failure is one for the guards too: a circuit counts it, and `Retry` sends an idempotent
        request again (RFC 9110, section 9.2.2). The last response is returned, whatever it is, and those before it are
        closed. What is no response is passed through.

        Raises:
            RejectedError: If a guard or the dependency refuses; `Retry` then waits as the dependency asks. See
                `refusal_in`.
        """
        tries = _Tries()
        if self.pipeline is None:
            return (await self._ask(tries, function, *args, **kwargs))[0]
        try:
            return await self.pipeline.call(self._try, tries, function, *args, **kwargs)
        except FailedResponseError as error:
            tries.failed = None
            return cast("R", error.response)
        finally:
            await tries.close()

    async def _try(
        self, tries: _Tries, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        await tries.close()
        answer, attempt = await self._ask(tries, function, *args, **kwargs)
        if attempt.status and self._has_failed(answer):
            tries.failed = answer
            wait = _retry_after(cast("Response", answer).headers, self._wall)
            is_repeatable = attempt.method in _IDEMPOTENT
            raise FailedResponseError(self.name, wait, response=answer, is_repeatable=is_repeatable)
        return answer

    def _has_failed(self, answer: object) -> bool:
        try:
            return bool(self._is_failure(answer))
        except Exception as error:  # noqa: BLE001 - it is foreign code, and may raise anything
            self._observe(ListenerFailed(self.name, repr(error)))
            return is_failure(answer)

    async def _ask(
        self, tries: _Tries, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> tuple[R, _Attempt]:
        attempt, outer = _Attempt(tries.count), _ATTEMPT.get()
        tries.count += 1
        span, began = self._spans.begin(), self._clock()
        _ATTEMPT.set(attempt)
        try:
            result: Any = function(*args, **kwargs)
            answer: R = await (
                result if hasattr(result, "__await__") else answer_of("Outgoing", function, result)
            )
            attempt.answered(answer)
        except Exception as error:
            attempt.error = error
            raise
        finally:
            # Not by a token: one does not work where a loop that was given up closes its coroutines.
            _ATTEMPT.set(outer)
            self._record(attempt, span, self._clock() - began)
        if attempt.status:
            response = cast("Response", answer)
            if (refusal := refusal_in(response, self.name, wall=self._wall)) is not None:
                await response.aclose()
                raise refusal
        return answer, attempt

    def _record(self, attempt: _Attempt, span: CallSpan | None, seconds: float) -> None:
        call = HttpCallFinished(
            self.name,
            attempt.method,
            attempt.address,
            attempt.port,
            attempt.status,
            seconds,
            attempt.error_type(),
        )
        if attempt.is_sent:
            self._observe(call)
        if span is not None:
            self._spans.end(span, call, url=attempt.url, resends=attempt.number, error=attempt.error)
        # Its traceback holds the frame that holds this: they would keep each other alive.
        attempt.error = None


class _Tries:
    """The tries of one call.

    Attributes:
        count: Those that were begun.
        failed: The response that failed last, until it is returned or closed.
    """

    def __init__(self) -> None:
        self.count = 0
        self.failed: object = None

    async def close(self) -> None:
        """Close the response that failed last, also while the call is being cancelled."""
        if self.failed is not None:
            response, self.failed = cast("Response", self.failed), None
            with anyio.CancelScope(shield=True):
                await response.aclose()


class _Attempt:
    """One try of a call, with the details gathered during it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_sent = self.is_response = True
        self.method = self.address = self.url = ""
        self.port = self.status = 0
        self.error: Exception | None = None

    def see(self, request: OutgoingRequest) -> None:
        """Record the request; after redirects, the last one counts."""
        url = request.url
        self.method, self.address = request.method, url.host
        self.port = url.port or _PORTS.get(url.scheme, 0)
        host = f"[{url.host}]" if ":" in url.host else url.host
        # Without user, password and query, which may be secret.
        self.url = f"{url.scheme}://{host}{f':{url.port}' if url.port else ''}{url.path}"

    def answered(self, response: object) -> None:
        """Record the response, and its request if the client has no `pass_on`.

        What has no status and no headers, as parsed data, is no response.
        """
        status = getattr(response, "status_code", None)
        if not isinstance(status, int) or not hasattr(response, "headers"):
            self.is_response = False
            return
        self.status = status
        if not self.method and (request := getattr(response, "request", None)) is not None:
            self.see(request)

    def error_type(self) -> str:
        """Return the cause of the failure: the status, the error's class, or a cancellation; empty if none."""
        if self.error is not None:
            return "deadline_exceeded" if not self.is_sent else type(self.error).__name__
        if not self.status:
            return "cancelled" if self.is_response else ""
        return str(self.status) if self.status >= _CLIENT_ERROR else ""


_ATTEMPT: Final[ContextVar[_Attempt | None]] = ContextVar("postfacta_attempt", default=None)


def _bound(request: OutgoingRequest, left: float) -> None:
    waits: Mapping[str, float | None] = request.extensions.get("timeout", {})
    # A new dictionary: a client may hand the same one to each of its requests.
    request.extensions["timeout"] = {wait: _earlier(left, waits.get(wait)) for wait in _WAITS}


def _earlier(left: float, seconds: float | None) -> float:
    return left if seconds is None else min(left, seconds)


def _add(ours: dict[str, str], theirs: MutableMapping[str, str]) -> None:
    if _TIMEOUT in ours and _TIMEOUT in theirs:
        asked = asked_timeout([(b"x-request-timeout", theirs[_TIMEOUT].encode("latin-1", "replace"))])
        if asked < float(ours[_TIMEOUT]):
            ours[_TIMEOUT] = theirs[_TIMEOUT]
    if "traceparent" in theirs:
        ours = {name: value for name, value in ours.items() if name not in {"traceparent", "tracestate"}}
    if _REQUEST_ID in theirs:
        ours = {name: value for name, value in ours.items() if name != _REQUEST_ID}
    theirs.update(ours)


def _retry_after(headers: Mapping[str, str], wall: Clock) -> float | None:
    """Read `Retry-After`, seconds or a date (RFC 9110, section 10.2.3); what cannot be read is None."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), _LONGEST)
    until = _moment(text)
    if until is None:
        return None
    # By the sender's own clock, if it has a `Date`: ours may differ.
    sent = _moment(headers.get("date", ""))
    return min(max(0.0, until - (wall() if sent is None else sent)), _LONGEST)


def _moment(text: str) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    # A date without a zone is Greenwich's, as HTTP has no other.
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return moment.timestamp()
