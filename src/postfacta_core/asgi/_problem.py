"""Turn an error into an RFC 9457 problem: the one place that maps errors to status codes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote

from ..context import RequestContext
from ..errors import (
    BulkheadFullError,
    CircuitOpenError,
    DatabaseUnavailableError,
    DeadlineExceededError,
    FailedResponseError,
    InvalidInputError,
    LoadShedError,
    LockTimeoutError,
    OutcomeTimeoutError,
    OutcomeUnknownError,
    PoolTimeoutError,
    RateLimitExceededError,
    ReadOnlyDatabaseError,
    RejectedError,
    ResilienceError,
    StoppedError,
    StreamStalledError,
)
from ._types import ASGIApp, Receive, Scope, Send


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """The problem document that a caller gets for an error.

    Attributes:
        code: A short, stable name of the kind of problem.
        title: The kind of problem in plain words, the same each time.
        detail: What to do about it. It never holds a cause.
        error_type: The value of the metric label; empty for what the caller did wrong.
        retry_after: Seconds after which a new try makes sense.
    """

    status: int
    code: str
    title: str
    detail: str = ""
    error_type: str = ""
    retry_after: float | None = None


Render = Callable[[Problem, Scope], tuple[str, bytes] | None]
"""Renders a problem as (content type, body); None, or an exception, means RFC 9457."""


_UNAVAILABLE: Final = Problem(
    status=503,
    code="unavailable",
    title="Unavailable",
    detail="Try again soon",
    error_type="unavailable",
)
_LESS_OFTEN: Final = "Try again after the time in Retry-After, and less often"
_MAY_HAVE_BEGUN: Final = "The work may have begun"
_UNKNOWN: Final = replace(
    _UNAVAILABLE,
    code="outcome-unknown",
    title="The outcome is unknown",
    error_type="database_unavailable",
    detail="The change may or may not have been made: look, or repeat it with the same"
    " Idempotency-Key",
)
_LATE: Final = Problem(
    status=504,
    code="deadline-exceeded",
    title="The time ran out",
    detail=_MAY_HAVE_BEGUN,
    error_type="deadline_exceeded",
)
_INTERNAL: Final = Problem(
    status=500,
    code="internal",
    title="Internal Server Error",
    detail="It was logged with this request's id",
)
HEADERS_TOO_LARGE: Final = Problem(
    status=431,
    code="headers-too-large",
    title="The request headers are too large",
    detail="Send fewer of them",
)
URI_TOO_LONG: Final = Problem(
    status=414,
    code="uri-too-long",
    title="The request's path and query are too long",
    detail="Send what is long in the body",
)
BODY_TOO_LARGE: Final = Problem(
    status=413, code="too-large", title="The request body is too large", detail="Send less at once"
)
BODY_TOO_SLOW: Final = Problem(
    status=408,
    code="request-timeout",
    title="The request body came too slowly",
    detail="Send it faster, or less at once",
)
DRAINING: Final = replace(
    _UNAVAILABLE,
    error_type="draining",
    code="draining",
    title="The service is stopping",
    retry_after=1.0,
)
REFUSALS: Final = (HEADERS_TOO_LARGE, URI_TOO_LONG, BODY_TOO_LARGE, BODY_TOO_SLOW, DRAINING)
"""What is answered before the application is asked, and for no error."""
PROBLEMS: Final[Mapping[type[ResilienceError], Problem]] = MappingProxyType(
    {
        PoolTimeoutError: replace(_UNAVAILABLE, error_type="pool_timeout"),
        DatabaseUnavailableError: replace(_UNAVAILABLE, error_type="database_unavailable"),
        LockTimeoutError: replace(_UNAVAILABLE, error_type="lock_timeout"),
        ReadOnlyDatabaseError: replace(_UNAVAILABLE, error_type="database_unavailable"),
        StoppedError: replace(
            _UNAVAILABLE,
            error_type="draining",
            code="stopped",
            title="The service stopped before the work was done",
            detail="It may have begun: look, or repeat it with the same Idempotency-Key",
        ),
        CircuitOpenError: replace(_UNAVAILABLE, error_type="breaker_open"),
        BulkheadFullError: replace(_UNAVAILABLE, error_type="bulkhead_full"),
        LoadShedError: replace(
            _UNAVAILABLE,
            error_type="shed",
            code="overloaded",
            title="The service is overloaded",
            detail=_LESS_OFTEN,
        ),
        RateLimitExceededError: Problem(
            status=429, code="rate-limited", title="Too many requests", detail=_LESS_OFTEN
        ),
        OutcomeUnknownError: _UNKNOWN,
        OutcomeTimeoutError: replace(_UNKNOWN, status=504, error_type="deadline_exceeded"),
        InvalidInputError: Problem(
            status=422,
            code="invalid-input",
            title="A value cannot be stored",
            detail="Send another one: a text without NUL and lone surrogates, a number and a date"
            " within their bounds",
        ),
        **dict.fromkeys((DeadlineExceededError, StreamStalledError), _LATE),
        RejectedError: replace(_UNAVAILABLE, error_type="rejected"),
        FailedResponseError: Problem(
            status=502,
            code="bad-gateway",
            title="A service that this one needs has failed",
            detail=_MAY_HAVE_BEGUN,
            error_type="dependency_failed",
        ),
        ResilienceError: replace(_UNAVAILABLE, detail=""),
    }
)
"""The problem of every error of the library, or of the nearest class above it.

Immutable, see `Render`.
"""

# A path that `quote` leaves as it is.
_is_plain = re.compile(r"[A-Za-z0-9_.~/-]*").fullmatch
# RFC 9110 renamed three; Python knows the new phrases from 3.13 on.
_PHRASES: Final[Mapping[int, str]] = {
    **{status.value: status.phrase for status in HTTPStatus},
    413: "Content Too Large",
    414: "URI Too Long",
    422: "Unprocessable Content",
}


def problem_of(error: BaseException) -> Problem:
    """Return the problem of an error; all that is not ours is a 500 without its cause.

    Only a refusal has a `retry_after`: callers read `503` with `Retry-After` as "nothing was done",
    and send a write again. Where the work may have begun, that would double it.
    """
    for kind in type(error).__mro__:
        if kind in PROBLEMS and isinstance(error, ResilienceError):
            problem = PROBLEMS[kind]
            wait = error.retry_after if isinstance(error, RejectedError) else None
            return problem if wait is None else _after(problem, wait)
    return _INTERNAL


def _after(problem: Problem, wait: float) -> Problem:
    # `replace` looks at each field, which costs a flood four times as much.
    return Problem(
        status=problem.status,
        code=problem.code,
        title=problem.title,
        detail=problem.detail,
        error_type=problem.error_type,
        retry_after=wait,
    )


def begun(problem: Problem) -> Problem:
    """Return the problem of a refusal that came after the work may have begun."""
    return replace(problem, detail=_MAY_HAVE_BEGUN, retry_after=None)


def kind_members(problem: Problem) -> dict[str, object]:
    """Return the members that identify the type of problem, the same for each request."""
    status = problem.status
    phrase = _PHRASES.get(problem.status, "Error")
    detail = f"{problem.title}. {problem.detail}" if problem.detail else problem.title
    # With this type the title is the status' own phrase (RFC 9457, section 4.2.1).
    return {
        "type": "about:blank",
        "title": phrase,
        "status": status,
        "code": problem.code,
        "detail": detail,
    }


def request_of(scope: Scope) -> RequestContext | None:
    """Return the request context that the outermost layer put into the scope."""
    request = scope.get("postfacta.request")
    return request if isinstance(request, RequestContext) else None


def _rendered(problem: Problem, scope: Scope, render: Render | None) -> tuple[str, bytes]:
    if render is not None:
        # It is foreign code, and what it answers for counts more than why it failed.
        with suppress(Exception):
            if (rendered := render(problem, scope)) is not None:
                return rendered
    request = request_of(scope)
    before = _beginning(problem.status, problem.code, title=problem.title, detail=problem.detail)
    end = '"}' if request is None else f'", "request_id": "{request.request_id}"}}'
    # `instance` is a URI reference, and a client may have put anything into the path.
    path = scope["path"]
    instance = path if _is_plain(path) else quote(path, errors="replace")
    body = f"{before}{instance}{end}"
    return "application/problem+json", body.encode()


@lru_cache(256)
def _beginning(status: int, code: str, *, title: str, detail: str) -> str:
    """Return the JSON of a type of problem, up to the path: a flood has the same one each time."""
    problem = Problem(status=status, code=code, title=title, detail=detail)
    return json.dumps(kind_members(problem))[:-1] + ', "instance": "'


async def send_problem(
    scope: Scope,
    send: Send,
    problem: Problem,
    *,
    render: Render | None = None,
    close: bool = False,
    more_body: bool = False,
) -> None:
    """Send a problem.

    `close` ends the connection with it, and with `more_body` its caller sends the end of it.
    """
    content_type, body = _rendered(problem, scope, render)
    headers: list[tuple[bytes, bytes]] = []
    if problem.retry_after is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(problem.retry_after))).encode()))
    # HTTP/2 has no such field (RFC 9113, section 8.2.2).
    if close and scope.get("http_version", "1.1").startswith("1"):
        headers.append((b"connection", b"close"))
    kind = content_type.encode("latin-1")
    await send_whole(scope, send, problem.status, kind, body, *headers, more_body=more_body)


async def send_whole(  # noqa: PLR0917 - as a response is read
    scope: Scope,
    send: Send,
    status: int,
    content_type: bytes,
    body: bytes,
    *headers: tuple[bytes, bytes],
    more_body: bool = False,
) -> None:
    """Send a response that no cache keeps."""
    fields = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    fields += [(b"cache-control", b"no-store"), *headers]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    body = b"" if scope["method"] == "HEAD" else body
    await send({"type": "http.response.body", "body": body, "more_body": more_body})


def problem_response(error: BaseException, *, render: Render | None = None) -> ASGIApp:
    """Make an ASGI application that answers with an error's problem, in the shape of `render`."""
    problem = problem_of(error)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        request = request_of(scope)
        if request is not None:
            request.error_type = request.error_type or problem.error_type
        await send_problem(scope, send, problem, render=render)

    return answer


# Frameworks type a handler by their own Response, which is not named here: hence Any.
async def problem_handler(request: object, error: Exception) -> Any:
    """Answer a library error inside Starlette or FastAPI.

    `exception_handlers={ResilienceError: problem_handler}`.

    For `Exception` it makes a problem of the framework's own 500 as well.
    """
    return problem_response(error)
