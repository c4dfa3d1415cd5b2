"""One request and its outcome, observed once for metrics, span, log line alike."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from json.encoder import encode_basestring_ascii
from typing import Any, Final, Protocol, cast

from ..context import RequestContext

OTHER: Final = "_OTHER"
"""The label of all that is outside of a closed set; OpenTelemetry's word."""

UNMATCHED: Final = "_unmatched"
"""The route of a request that no route of the application matched."""

PREROUTING: Final = "_prerouting"
"""The route of a request that was refused before a handler saw it."""

MAX_PATH: Final = 2048
"""Bytes that a path takes in a line, and characters in a span.

A client may send as many as its server takes.
"""
MAX_METHOD: Final = 32
"""Characters of a method that is none of HTTP's. The longest that IANA has registered has 17."""

# The caller gave the request less time than the service would have, and it failed as that was up.
CALLERS_DEADLINE: Final = "callers_deadline"
CLIENT_DISCONNECTED: Final = "client_disconnected"
INCOMPLETE: Final = "incomplete_response"
# The application sent nothing for longer than its route allows.
STREAM_IDLE: Final = "stream_idle"

_CLIENT_CLOSED_REQUEST: Final = 499  # nginx's status for it; RFC 9110 has none
_FORBIDDEN: Final = 403
_SERVER_ERROR: Final = 500
_DISCONNECTS: Final = frozenset({"ClientDisconnect", "WebSocketDisconnect"})

# The error types of this library's own refusals. They are not counted as class names.
_OWN: Final = frozenset(
    {
        "",
        CALLERS_DEADLINE,
        CLIENT_DISCONNECTED,
        INCOMPLETE,
        "breaker_open",
        "bulkhead_full",
        "database_unavailable",
        "deadline_exceeded",
        "draining",
        "lock_timeout",
        "pool_timeout",
        "rejected",
        "shed",
        STREAM_IDLE,
        "unavailable",
    }
)


class ErrorTypes(dict[str, str]):
    """The closed set of error types of one process: the first `limit` foreign names.

    All others are `_OTHER`.
    """

    def __init__(self, limit: int = 30) -> None:
        super().__init__(zip(_OWN, _OWN, strict=True))
        self._most = len(_OWN) + limit

    def __missing__(self, name: str) -> str:
        return self.setdefault(name, name) if len(self) < self._most else OTHER


class Exchange:
    """One request and its response. It refers to nothing of the request that refers back to it.

    Attributes:
        request: The request context; its ids are the ones to record.
        method: As the client sent it, and `path` as the server gives it, without the query: no
            labels.
        scope: The request's, as its server gave it.
        headers: The request's, in lower case.
        fields: More headers of its response, in lower case.
        quiet: A probe or a scrape, which gets no span and no log line.
        is_stream: The answer is sent in pieces, for as long as its content takes: its length says
            nothing of the service's speed.
        first_byte: Of a stream, the seconds from the first sight to its first piece.
        is_live: A stream of no announced length. That its client leaves it is no error.
        traffic: `user`, `synthetic` or `load`.
        status: Sent to the client; 0 until then. After `settle` never 0, and 499 for what its
            client ended.
        seconds: From the first sight to the last byte sent: a background task after the response is
            not latency.
        route: The route template; known at the end.
        error_type: Empty if all went well, or the client was at fault.
        error: The exception of a crash, while the recorders look at it.
        has_left: The client was seen to leave before the response was complete.
        span: What the tracing recorder keeps for itself.
        caller_trace: The trace that its caller named, if it has another one; else empty.
    """

    # Of most requests, many of these never change: what is not set for each costs nothing.
    scope: MutableMapping[str, Any]
    headers: Sequence[tuple[bytes, bytes]] = ()
    fields: Sequence[tuple[bytes, bytes]] = ()
    quiet: bool = False
    is_stream: bool = False
    first_byte: float = 0.0
    is_live: bool = False
    traffic: str = "user"
    scheme: str = "http"
    http_version: str = "1.1"
    client: str = ""
    status: int = 0
    seconds: float = 0.0
    route: str = ""
    error_type: str = ""
    error: Exception | None = None
    has_left: bool = False
    left_unanswered: bool = False
    is_complete: bool = False
    request_bytes: int = 0
    response_bytes: int = 0
    span: Any = None
    caller_trace: str = ""

    def __init__(self, request: RequestContext, method: str, path: str) -> None:
        self.request: RequestContext = request
        self.method: str = method
        self.path: str = path

    @property
    def is_followed(self) -> bool:
        """Whether its caller is trusted to name the trace that it belongs to."""
        return False

    def leave(self) -> None:
        # After the last byte that is how every connection ends.
        if not self.is_complete:
            self.has_left = True
            self.left_unanswered = self.status == 0

    @property
    def stream_outcome(self) -> str:
        """How a stream ended, after `settle`: one of the catalogue's."""
        if self.is_complete:
            return "whole"
        if self.error is not None:
            return "crashed"
        if self.error_type == STREAM_IDLE:
            return "idle"
        return "left" if self.error_type in {"", CLIENT_DISCONNECTED} else "cut"

    def settle(
        self, error: Exception | None, types: ErrorTypes, *, was_cancelled: bool = False
    ) -> None:
        """Decide status and error type, once the application returned, raised, or was cancelled."""
        if error is not None and not (self.has_left and tells_of_disconnect(error)):
            self.error = error
            self.status = self.status or _SERVER_ERROR
            self.error_type = types[type(error).__name__]
        elif self.left_unanswered or (was_cancelled and not self.status):
            self.error_type = CLIENT_DISCONNECTED
        else:
            left = self.has_left or was_cancelled
            self.error_type = types[self.request.error_type] or self._why_failed(left=left)
            self.status = self.status or _SERVER_ERROR
        if self.error_type:
            self._blame_client()

    def _blame_client(self) -> None:
        request = self.request
        # An error of a background task, after an answer that was fine, has nothing to do with the
        # request's time.
        has_answer = self.is_complete and self.status < _SERVER_ERROR
        if not has_answer and request.is_out_of_callers_time(self.seconds):
            self.error = None
            self.error_type = CALLERS_DEADLINE
            self.status = _CLIENT_CLOSED_REQUEST
        elif self.error_type == CLIENT_DISCONNECTED:
            self.status = _CLIENT_CLOSED_REQUEST

    def _why_failed(self, *, left: bool) -> str:
        if not self.is_complete and self.status:
            if not left:
                return INCOMPLETE
            return "" if self.is_live and self.has_left else CLIENT_DISCONNECTED
        # Without any response at all, the server makes it a 500.
        status = self.status or _SERVER_ERROR
        return str(status) if status >= _SERVER_ERROR else ""


class SocketExchange(Exchange):
    """One WebSocket, from its handshake to its close.

    Attributes:
        status: Of the handshake: 101 once it is accepted, 403 if it was refused without a status of
            its own.
        close_code: As the application or its client closed it; 0 if neither did.
        outcome: After `settle` one of the catalogue's; `unfinished` if the application returned
            without closing it.
        is_open: It was accepted.
    """

    status: int
    error: Exception | None
    error_type: str
    close_code: int = 0
    outcome: str = ""
    is_open: bool = False

    def settle(
        self, error: Exception | None, types: ErrorTypes, *, was_cancelled: bool = False
    ) -> None:
        self.status = self.status or _FORBIDDEN
        named = types[self.request.error_type]
        if error is not None and not (self.has_left and tells_of_disconnect(error)):
            self.outcome = "crashed"
            self.error = error
            self.error_type = types[type(error).__name__]
        elif not self.is_open:
            # A client that gives up in the handshake was not refused.
            self.outcome = "left" if self.has_left or was_cancelled else "refused"
            self.error_type = named
        elif self.has_left or was_cancelled:
            self.outcome = "left"
        elif self.is_complete:
            self.outcome = "closed"
            self.error_type = named
        else:
            self.outcome = "unfinished"
            self.error_type = named or INCOMPLETE


def excerpt(text: str, limit: int) -> str:
    """Return the beginning of a text, which takes at most `limit` bytes as JSON.

    `...` stands for what is left out.
    """
    if len(encode_basestring_ascii(text)) - 2 <= limit:
        return text
    text = text[: limit - 3]
    # What is no printable ASCII takes up to twelve bytes a character.
    while len(encode_basestring_ascii(text)) > limit - 1:
        text = text[: len(text) // 2]
    return f"{text}..."


def tells_of_disconnect(error: BaseException) -> bool:
    """Return whether an application raised this only because its client is gone."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return all(map(tells_of_disconnect, group.exceptions))
    # ASGI lets `send` raise OSError to a client that is gone; frameworks turn it into a class of
    # one of these names.
    return isinstance(error, OSError) or type(error).__name__ in _DISCONNECTS


class Recorder(Protocol):
    """A recorder of exchanges.

    Inherit from it and write only what is wanted: the rest is not even called.

    Each is called once, in this order, and must not wait: `begin` before the application,
    `streaming` with the first piece of a stream (`route` and `first_byte` are known), `answered`
    with the last byte or the end without one (`seconds` is known), `end` with the settled exchange,
    once the application has returned; for a WebSocket `connect`, `opened` if it is accepted,
    `closed`.
    """

    def begin(self, exchange: Exchange, /) -> None:
        return

    def streaming(self, exchange: Exchange, /) -> None:
        return

    def answered(self, exchange: Exchange, /) -> None:
        return

    def end(self, exchange: Exchange, /) -> None:
        return

    def connect(self, exchange: SocketExchange, /) -> None:
        return

    def opened(self, exchange: SocketExchange, /) -> None:
        return

    def closed(self, exchange: SocketExchange, /) -> None:
        return
