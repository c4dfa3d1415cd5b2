"""What a request to another service carries of the present one, and what its response means.

Here is no client, and nothing is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final

from postfacta_core.clock import WALL, Clock
from postfacta_core.context import current_request
from postfacta_core.deadlines.present import asked_timeout, current_deadline
from postfacta_core.errors import DeadlineExceededError, RejectedError
from postfacta_core.limits import Priority
from postfacta_core.telemetry.tracing import trace_headers

_TIMEOUT: Final = "X-Request-Timeout"
_REQUEST_ID: Final = "X-Request-ID"
_PRIORITIES: Final = tuple(priority.name.lower() for priority in Priority)
# The longest that a dependency may send us away for: more is nonsense, or means "never".
_LONGEST: Final = 86_400.0


def outgoing_headers(name: str = "outgoing", *, priority_key: str = "") -> dict[str, str]:
    """Write the headers for a call made now, on behalf of the present request.

    `X-Request-Timeout` is less than what is left, see `Deadline.for_next_hop`; without a deadline
    there is none. Outside of a request there is no `X-Priority` and no `X-Request-ID` either.

    Args:
        name: The dependency, for the `DeadlineExceededError` if there is no time left: do not call.
        priority_key: The secret that makes the dependency trust the priority; sent as
            `X-Priority-Key`.
    """
    headers = trace_headers()
    request = current_request()
    deadline = current_deadline()
    if request is not None:
        headers[_REQUEST_ID] = request.request_id
        headers["X-Priority"] = _PRIORITIES[min(max(request.priority, 0), len(_PRIORITIES) - 1)]
        if priority_key:
            headers["X-Priority-Key"] = priority_key
    if deadline is not None:
        headers[_TIMEOUT] = deadline.header()
        if float(headers[_TIMEOUT]) <= 0:
            raise DeadlineExceededError(name)
    return headers


def is_failure(response: Any) -> bool:
    """Return whether a response is a failure of the dependency.

    A status of 500 or more, but 501, or 429.
    """
    status: int = response.status_code
    return status == HTTPStatus.TOO_MANY_REQUESTS or (
        status >= 500 and status != HTTPStatus.NOT_IMPLEMENTED  # noqa: PLR2004 - the class of 5xx
    )


def refusal_in(response: Any, name: str, *, wall: Clock = WALL) -> RejectedError | None:
    """Make an error of a response by which the dependency refused before it did anything, or None.

    That is 429, and 503 with `Retry-After`. A 503 without it may be anything, such as a proxy that
    lost its server in the middle: it is the caller's to judge.
    """
    if response.status_code not in {429, 503}:
        return None
    seconds = retry_after(response.headers, wall)
    if seconds is None and response.status_code != HTTPStatus.TOO_MANY_REQUESTS:
        return None
    return RejectedError(name, seconds)


def add_headers(ours: dict[str, str], theirs: MutableMapping[str, str]) -> None:
    """Add headers to those of a request, which keeps what it has that is stricter."""
    if _TIMEOUT in ours and _TIMEOUT in theirs:
        caller_timeout = asked_timeout(
            [(b"x-request-timeout", theirs[_TIMEOUT].encode("latin-1", "replace"))]
        )
        if caller_timeout < float(ours[_TIMEOUT]):
            ours[_TIMEOUT] = theirs[_TIMEOUT]
    if "traceparent" in theirs:
        ours = {
            name: value for name, value in ours.items() if name not in {"traceparent", "tracestate"}
        }
    if _REQUEST_ID in theirs:
        ours = {name: value for name, value in ours.items() if name != _REQUEST_ID}
    theirs.update(ours)


def retry_after(headers: Mapping[str, str], wall: Clock) -> float | None:
    """Read `Retry-After`, seconds or a date (RFC 9110, section 10.2.3).

    What cannot be read is None.
    """
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


def shown(url: Any, *, is_own: bool) -> str:
    """Write an address without what may be secret: user, password, query, and a stranger's path."""
    path = url.path if is_own else "/"
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{url.scheme}://{host}{f':{url.port}' if url.port else ''}{path}"
