"""Tell the next service what this one knows of the request: how long it may take, how much it matters, its trace.

It knows no HTTP client by name. `Outgoing` works with any whose requests and responses look like httpx's; for others
there is `outgoing_headers`. A service of this library reads `X-Request-Timeout` and `traceparent` from everybody, and
`X-Priority` from those it trusts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final, ParamSpec, Protocol, TypeVar

from ..clock import MONOTONIC, WALL, Clock
from ..context import current_request
from ..errors import DeadlineExceededError, RejectedError
from ..policy.concurrency import Priority
from ..policy.deadline import asked_timeout
from ..telemetry.tracing import trace_headers
from .deadline import current_deadline
from .pipeline import Guard, Pipeline

__all__ = ["Outgoing", "OutgoingRequest", "Response", "outgoing_headers", "refusal_in"]

P = ParamSpec("P")

_TIMEOUT: Final = "X-Request-Timeout"
_PRIORITY: Final = "X-Priority"
_PRIORITY_KEY: Final = "X-Priority-Key"
_PRIORITIES: Final = tuple(priority.name.lower() for priority in Priority)
_REFUSED: Final = frozenset({429, 503})
_TOO_MANY_REQUESTS: Final = 429
# The four waits of an httpx request; of each, seconds or None for any number.
_WAITS: Final = ("connect", "read", "write", "pool")
# The longest that a dependency may send us away for: more is nonsense, or means "never".
_LONGEST: Final = 86_400.0


class OutgoingRequest(Protocol):
    """What is needed of a client's request; `httpx.Request` has it."""

    @property
    def headers(self) -> MutableMapping[str, str]:
        """Its headers, by names in any case."""
        ...

    @property
    def extensions(self) -> MutableMapping[str, Any]:
        """What else the transport is told; its `timeout` has the seconds of each wait."""
        ...


class Response(Protocol):
    """What is needed of a client's response; `httpx.Response` has it."""

    @property
    def status_code(self) -> int:
        """The status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers, by names in any case."""
        ...

    async def aclose(self) -> None:
        """Let go of its connection. It may be called although it is closed."""
        ...


R = TypeVar("R", bound=Response)


def outgoing_headers(
    name: str = "outgoing", *, priority_key: str = "", clock: Clock = MONOTONIC
) -> dict[str, str]:
    """Write the headers for a call made now, on behalf of the present request.

    `X-Request-Timeout` is less than what is left, see `Deadline.for_next_hop`; without a deadline there is none. Outside
    of a request there is no `X-Priority` either.

    Args:
        name: The dependency, for the error.
        priority_key: The secret by which the dependency believes the priority; sent as `X-Priority-Key`.
        clock: Monotonic seconds; it must be the clock of the request contexts.

    Raises:
        DeadlineExceededError: If there is no time left: do not call.
    """
    headers = trace_headers()
    request, deadline = current_request(), current_deadline()
    if request is not None:
        headers[_PRIORITY] = _PRIORITIES[min(max(request.priority, 0), len(_PRIORITIES) - 1)]
        if priority_key:
            headers[_PRIORITY_KEY] = priority_key
    if deadline is not None:
        headers[_TIMEOUT] = deadline.header(clock())
        if float(headers[_TIMEOUT]) <= 0:
            raise DeadlineExceededError(name)
    return headers


def refusal_in(response: Response, name: str, *, wall: Clock = WALL) -> RejectedError | None:
    """Make an error of a response that says: not now, and nothing was done.

    That is 429, and 503 with `Retry-After`. A 503 without it may be anything, such as a proxy that lost its server in
    the middle: it is the caller's to judge.

    Args:
        response: What came.
        name: The dependency, for the error.
        wall: Seconds since the epoch, for a `Retry-After` that is a date in a response without `Date`.

    Returns:
        The error, with `retry_after` in seconds if the response tells it; or None.
    """
    if response.status_code not in _REFUSED:
        return None
    retry_after = _retry_after(response.headers, wall)
    if retry_after is None and response.status_code != _TOO_MANY_REQUESTS:
        return None
    return RejectedError(name, retry_after)


class Outgoing:
    """Call one dependency behind guards, and tell it what the request has left.

        billing = Outgoing("billing", Timeout(2), Retry("billing"), breaker)
        client = httpx.AsyncClient(event_hooks={"request": [billing.pass_on]})
        response = await billing.call(client.get, "https://billing/invoices/7")

    Args:
        name: The dependency, the `policy` of its errors.
        guards: Around each call, from the outermost; see `Pipeline`. There may be none.
        tell: Whether it gets the headers. For somebody else's service turn that off: only the time is bounded then.
        priority_key: The secret by which it believes the priority; see `LoadSheddingMiddleware`.
        clock: Monotonic seconds; it must be the clock of the request contexts.
        wall: Seconds since the epoch, to read dates by.
    """

    def __init__(
        self,
        name: str,
        *guards: Guard,
        tell: bool = True,
        priority_key: str = "",
        clock: Clock = MONOTONIC,
        wall: Clock = WALL,
    ) -> None:
        self.name = name
        self.pipeline: Pipeline | None = Pipeline(*guards) if guards else None
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
        headers = outgoing_headers(self.name, priority_key=self._priority_key, clock=self._clock)
        deadline = current_deadline()
        if deadline is not None:
            # All that is left, and not what the service is told: its answer that the time is up must still come in.
            _bound(request, deadline.remaining(self._clock()))
        if self._tell:
            _add(headers, request.headers)

    def call(
        self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]:
        """Call a client's method through the guards; a refusal that it answers is raised, see `refusal_in`.

        Raises:
            RejectedError: If a guard or the dependency refuses; `Retry` then waits as the dependency asks.
        """
        if self.pipeline is None:
            return self._ask(function, *args, **kwargs)
        return self.pipeline.call(self._ask, function, *args, **kwargs)

    async def _ask(self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        response = await function(*args, **kwargs)
        refusal = refusal_in(response, self.name, wall=self._wall)
        if refusal is not None:
            await response.aclose()
            raise refusal
        return response


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
    theirs.update(ours)


def _retry_after(headers: Mapping[str, str], wall: Clock) -> float | None:
    """Read `Retry-After`, seconds or a date (RFC 9110, section 10.2.3); what cannot be read is None."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), _LONGEST)
    until = _moment(text)
    if until is None:
        return None
    # By the sender's own clock, if it tells the time: ours may differ.
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
