"""Write log lines through the standard library: one for each exchange, one for each notable event.

JSON or text.

A record's `msg` is a constant event name, and its fields are attributes, for formatters that write
them. With any other, its message reads as a line.
"""

from __future__ import annotations

import json
import logging
import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from json.encoder import encode_basestring_ascii as _quote
from typing import Any, Final

from ..clock import MONOTONIC, WALL, Clock
from ..context import current_request
from ..events import (
    CircuitChanged,
    ConnectionHeld,
    ConnectionOpened,
    Drained,
    Event,
    FeedRead,
    HealthChecked,
    ListenerFailed,
    LogsSuppressed,
    LoopBlocked,
    ModeChanged,
    Observer,
    PhaseChanged,
    ResourceStuck,
    RetryScheduled,
    SignalsIntercepted,
    StoreChanged,
    TaskCrashed,
    fan_out,
    process_observer,
)
from ..validation import validation
from .exchange import (
    MAX_METHOD,
    MAX_PATH,
    OTHER,
    PREROUTING,
    Exchange,
    Recorder,
    SocketExchange,
    excerpt,
)
from .redaction import failure_fields, redact, redact_fields, redact_text, text_of
from .sampling import AccessSampler, RefusalSampler

LOGGER: Final = logging.getLogger("postfacta")

_ROOT: Final = logging.getLogger()
# `getLogRecordFactory` is a call for each line.
_LOGGING: Final = vars(logging)
_ACCESS: Final = "http.request"
_SUPPRESSED: Final = "log.suppressed"
_TOO_MANY_REQUESTS: Final = 429
# What a WebSocket's line does not have.
_REQUESTS: Final = frozenset(
    {"method", "traffic", "request_bytes", "bytes", "deadline_remaining_ms", "queue_ms"}
)
# The event names of this library, and of code that logs in the same way. Other messages may hold
# anything.
_is_event = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z0-9_]+)+").fullmatch
_ends_field = re.compile(r"""[ ="]""").search
# Of the flood filter: a longer name is a message. More kinds than these share one, since a message
# with a number in it makes a new kind each time.
_LONGEST_EVENT: Final = 64
_MOST_KINDS: Final = 500
_TELL_AFTER: Final = 10.0  # Seconds from the first suppressed line to the report.
_REFUSED_PATH: Final = 512  # Bytes of the path of a request that no handler saw.
# Characters that fit in any case: JSON has at most 12 bytes for each.
_SHORT_PATH: Final = _REFUSED_PATH // 12
_NAMES: Final[tuple[str, ...]] = (
    "method",
    "route",
    "path",
    "error_type",
    "client",
    "principal",
    "traffic",
    "request_id",
    "trace_id",
    "span_id",
    "trace_flags",
    "status",
    "duration_ms",
    "request_bytes",
    "bytes",
)
_NAMES_AND_LIMIT: Final = (*_NAMES, "deadline_remaining_ms")
_READ_BY_PEOPLE: Final = ("error_type", "request_id", "trace_id", "caller_trace_id")
Values = tuple[tuple[str, ...], tuple[str, ...], Sequence[float]]
"""Of an access line: the names, and the texts and the numbers in their order."""
# The attributes of a record that are no fields of its own.
_OURS: Final = frozenset({"timestamp", "level", "event", "logger"})
_STANDARD: Final = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})
# And what uvicorn adds for its own colours.
_HIDDEN: Final = _STANDARD | {
    "color_message",
    "service",
    "request_id",
    "trace_id",
    "span_id",
    "trace_flags",
}
# `json.dumps` makes an encoder for each call. NaN is no JSON.
_strict: Final = json.JSONEncoder(allow_nan=False).encode


class EventRecord(logging.LogRecord):
    """A record whose `msg` is an event's name.

    Its message is the name and its fields, as one line of text.
    """

    def getMessage(self) -> str:  # noqa: N802 - logging's own name
        event = str(self.msg)
        fields = dict(vars(self))
        # A queue's handler has made a text of it already.
        if not _is_event(event):
            return event
        if event == _ACCESS:
            fields |= {name: _shown(fields.get(name)) for name in ("method", "path")}
            event = "http.request {method} {path} {status} {duration_ms:.1f}ms".format_map(fields)
            fields = {name: fields.get(name) for name in _READ_BY_PEOPLE}
        return _as_text(event, fields)


def _as_text(message: str, fields: Mapping[str, object]) -> str:
    """Add the fields that a person reads: those of the record itself and empty ones left out."""
    own_fields = redact({name: value for name, value in fields.items() if name not in _STANDARD})
    shown = (
        f"{_shown(name)}={_shown(value)}"
        for name, value in own_fields.items()
        if value not in ("", None)
    )
    return _printable(redact_text(" ".join([message, *shown])))


def _shown(value: object) -> str:
    """Return a value as it stands in a line of text.

    In quotes if it could be read as more fields.
    """
    text = str(value)
    if not _ends_field(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _encode(fields: Mapping[str, object]) -> str:
    try:
        return _strict(fields)
    except ValueError:
        return _strict(redact_fields(fields))


def _message_of(record: logging.LogRecord) -> str:
    if isinstance(record, EventRecord):
        return str(record.msg)
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - the message and its arguments are foreign, and may not fit
        message = record.msg if isinstance(record.msg, str) else text_of(record.msg)
        return f"{message} {text_of(record.args)}" if record.args else message


def _printable(text: str) -> str:
    """Escape what would move a terminal's cursor or end the line.

    Control characters and Unicode's line ends.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )


def _write(
    level: int,
    event: str,
    *,
    fields: Iterable[tuple[str, object]],
    error: BaseException | None = None,
) -> None:
    # `log` would look for its caller, and check that each field is new: half of its cost, for
    # nothing.
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    # Respect a custom record factory.
    make = EventRecord if logging.getLogRecordFactory() is logging.LogRecord else LOGGER.makeRecord
    record = make(LOGGER.name, level, __file__, 0, event, (), exc_info, "end")
    record.__dict__.update(fields)
    LOGGER.handle(record)


class JsonFormatter(logging.Formatter):
    """Write a record as one JSON object.

    Time, level, event, logger, what is `constant`, and each of its fields.
    """

    def __init__(self, constant: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self._constant: dict[str, object] = dict(constant or {})
        self._second = -1.0
        self._day = ""
        self._for: Mapping[str, object] | None = None
        # A template for each set of members.
        self._forms: dict[tuple[str, ...], str] = {}

    def replace(self, **constant: object) -> None:
        """Replace what is constant, where it is there: in a forked process, `instance`."""
        self._constant |= {
            name: value for name, value in constant.items() if name in self._constant
        }
        self._for = None

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")
        fields: dict[str, object] = {
            "timestamp": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": _message_of(record),
            "logger": record.name,
            **self._constant,
        }
        for name, value in vars(record).items():
            if name not in _STANDARD:
                fields[f"extra.{name}" if name in _OURS else name] = value
        fields = redact(fields)
        if record.exc_info and record.exc_info[1] is not None:
            fields |= failure_fields(record.exc_info[1])
        return _encode(fields)

    def access_line(self, values: Values, at: float, constant: Mapping[str, object]) -> str | None:
        """Write an access line as `format` writes its record, at a fraction of the cost.

        None if it holds a secret.
        """
        names, texts, numbers = values
        text = "\n".join(texts)
        if redact_text(text) != text:
            return None
        second = at // 1
        if second != self._second:
            self._second = second
            self._day = datetime.fromtimestamp(second, UTC).isoformat()[:19]
        micros = (at - second) * 1e6
        if constant is not self._for:
            self._for = constant
            self._forms = {}
        if (form := self._forms.get(names)) is None:
            line = {
                "level": "info",
                "event": _ACCESS,
                "logger": LOGGER.name,
                **self._constant,
                **constant,
            }
            head = _encode(redact(line))[1:-1].replace("%", "%%")
            form = "".join(f', "{name}": %s' for name in names)
            form = self._forms[names] = f'{{"timestamp": "%s.%06dZ", {head}{form}}}'
        return form % (self._day, micros, *map(_quote, texts), *numbers)


class ConsoleFormatter(logging.Formatter):
    """Write a record as one line of text, and the stack trace of its error below.

    Control characters are escaped.
    """

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        if isinstance(record, EventRecord):
            text = record.getMessage()
        else:
            fields = {name: value for name, value in vars(record).items() if name not in _HIDDEN}
            text = _as_text(_message_of(record), fields)
        line = f"{at.replace('+00:00', 'Z')} {record.levelname:<8} {record.name}: {text}"
        if record.exc_info and record.exc_info[1] is not None:
            trace = str(failure_fields(record.exc_info[1])["exception.stacktrace"])
            line = "\n".join([line, *map(_printable, trace.rstrip().split("\n"))])
        return line


class RequestFilter(logging.Filter):
    """Add the present request's ids to each record.

    `request_id`, `trace_id`, `span_id`, `trace_flags`.

    Add it to a handler, not to a logger, whose filters do not see the records of the loggers below
    it. Outside of a request the four are empty, so that a format string may always name them.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        request = current_request()
        if request is not None:
            record.request_id = request.request_id
            record.trace_id = request.trace_id
            record.span_id = request.span_id
            record.trace_flags = request.trace_flags
        elif not hasattr(record, "request_id"):
            record.request_id = record.trace_id = record.span_id = record.trace_flags = ""
        return True


class FloodFilter(logging.Filter):
    """Limit each kind of line to `most` in a second. Add it to a handler, not to a logger.

    What it holds back is counted: ten seconds after the first, a `log.suppressed` line for each
    kind has the number. It comes with the next record of any kind, or by `tell`, which a timer
    should call. A kind is an event, or all other records of a logger; kinds beyond the first 500 of
    a second share one. `AccessLog` samples its own lines.

    Attributes:
        observer: Receives `LogsSuppressed`. It may be set at any time.
    """

    def __init__(self, most: int = 200, *, clock: Clock = MONOTONIC) -> None:
        super().__init__()
        self._most = validation.whole("FloodFilter.most", most, example="200")
        self.observer: Observer = process_observer
        self._clock = clock
        # A handler is called by all threads.
        self._lock = threading.Lock()
        self._counts = Counter[str]()
        self._suppressed = Counter[str]()
        self._until = -math.inf
        self._tell_at = math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        # What a DataFrame returns when it is compared has no truth.
        name = record.msg if isinstance(record.msg, str) else ""
        if name in {_ACCESS, _SUPPRESSED}:
            return True
        now = self._clock()
        kind = name if len(name) <= _LONGEST_EVENT and _is_event(name) else record.name
        with self._lock:
            if now >= self._until:
                self._until = now + 1.0
                self._counts.clear()
            if kind not in self._counts and len(self._counts) >= _MOST_KINDS:
                kind = OTHER
            self._counts[kind] += 1
            passes = self._counts[kind] <= self._most
            if not passes:
                self._suppressed[kind] += 1
                self._tell_at = min(self._tell_at, now + _TELL_AFTER)
        if now >= self._tell_at:
            self.tell()
        return passes

    def restart(self) -> None:
        """Forget, in a forked process, what its parent counts and which of its threads hold."""
        self._lock = threading.Lock()
        self._suppressed = Counter[str]()
        self._tell_at = math.inf

    def tell(self, *, at_once: bool = False) -> None:
        """Report suppressed lines, if that is due or the process ends."""
        with self._lock:
            if not at_once and self._clock() < self._tell_at:
                return
            due = self._suppressed
            self._suppressed = Counter[str]()
            self._tell_at = math.inf
        # Outside of the lock: the line comes back to this filter.
        for kind, count in due.items():
            _write(
                logging.WARNING, _SUPPRESSED, fields=(("suppressed_event", kind), ("count", count))
            )
            fan_out([self.observer])(LogsSuppressed(kind, count))


class AccessLog(Recorder):
    """Write a line for each exchange, `http.request` or `websocket.closed`.

    At ERROR with the stack trace for a crash.

    Probes and scrapes are left out, unless they crash. With a sampler, a line stands for
    `sample_rate` requests if it has that field, else for one; what failed and what was slow is
    never left out. Of refusals see `RefusalSampler`.

    A line is a complete `logging.LogRecord` for every handler; that of `logs.configure`, if alone,
    gets it without one.
    """

    def __init__(self, *, service: str = "", sampler: AccessSampler | None = None) -> None:
        self._constant: dict[str, object] = {"service": service} if service else {}
        self._sampler = sampler
        self._refusals = RefusalSampler()

    def end(self, exchange: Exchange, /) -> None:
        error = exchange.error
        level = logging.INFO if error is None else logging.ERROR
        if (exchange.quiet and error is None) or not LOGGER.isEnabledFor(level):
            return
        weight = 1
        if self._sampler is not None:
            # The moment of its last byte: so no clock is read.
            now = exchange.request.started + exchange.seconds
            if error is None and (
                exchange.route == PREROUTING or exchange.status == _TOO_MANY_REQUESTS
            ):
                weight = self._refusals.weigh(exchange.request.client or exchange.client, now)
            elif not exchange.error_type:
                weight = self._sampler.weigh(exchange.seconds, now)
            if not weight:
                return
        values = access_values(exchange, weight)
        if error is None and _LOGGING["_logRecordFactory"] is logging.LogRecord:
            handlers = _ROOT.handlers
            # With one handler alone, which takes lines, none needs a record.
            is_alone = len(handlers) == 1 and LOGGER.parent is _ROOT and LOGGER.propagate
            if is_alone and not (LOGGER.handlers or LOGGER.filters):
                write: Any = getattr(handlers[0], "write_access", None)
                if write is not None and write(values, WALL(), self._constant):
                    return
        _write(level, _ACCESS, fields=chain(self._constant.items(), _members(values)), error=error)

    def closed(self, exchange: SocketExchange, /) -> None:
        error = exchange.error
        level = logging.INFO if error is None else logging.ERROR
        if not LOGGER.isEnabledFor(level):
            return
        weight = 1
        if self._sampler is not None and exchange.outcome == "refused":
            now = exchange.request.started + exchange.seconds
            weight = self._refusals.weigh(exchange.request.client or exchange.client, now)
            if not weight:
                return
        members = dict(_members(access_values(exchange, weight)))
        members |= {
            **self._constant,
            "outcome": exchange.outcome,
            "close_code": exchange.close_code,
        }
        fields = ((name, value) for name, value in members.items() if name not in _REQUESTS)
        _write(level, "websocket.closed", fields=fields, error=error)


def access_values(exchange: Exchange, weight: int = 1) -> Values:
    """Return what an access line says of an exchange that stands for this many."""
    request = exchange.request
    seconds = exchange.seconds
    method = exchange.method
    path = exchange.path
    if len(path) > _SHORT_PATH or len(method) > MAX_METHOD:
        longest = _REFUSED_PATH if exchange.route == PREROUTING else MAX_PATH
        method = method[:MAX_METHOD]
        path = excerpt(path, longest)
    texts: tuple[str, ...] = (
        method,
        exchange.route,
        path,
        exchange.error_type,
        exchange.client,
        request.principal,
        exchange.traffic,
        request.request_id,
        request.trace_id,
        request.span_id,
        request.trace_flags,
    )
    # To the microsecond, for a tenth of what `round` costs.
    took = (seconds * 1e6 + 0.5) // 1 / 1000
    names = _NAMES
    numbers = [exchange.status, took, exchange.request_bytes, exchange.response_bytes]
    limit = min(request.caller_timeout, request.limit)
    if limit < math.inf:
        # Below 0 it came too late.
        names = _NAMES_AND_LIMIT
        numbers.append(((limit - seconds) * 1e6 + 0.5) // 1 / 1000)
    if exchange.caller_trace:
        names = ("caller_trace_id", *names)
        texts = (exchange.caller_trace, *texts)
    if request.queued:
        names = (*names, "queue_ms")
        numbers.append((request.queued * 1e6 + 0.5) // 1 / 1000)
    if exchange.is_stream:
        names = (*names, "first_byte_ms")
        numbers.append((exchange.first_byte * 1e6 + 0.5) // 1 / 1000)
    if weight > 1:
        names = (*names, "sample_rate")
        numbers.append(weight)
    return names, texts, numbers


def _members(values: Values) -> Iterable[tuple[str, Any]]:
    names, texts, numbers = values
    return zip(names, chain(texts, numbers), strict=True)


class EventLog:
    """Write a line for each notable event.

    Of a health check, when its verdict changes or is down at first.
    """

    def __init__(self) -> None:
        self._verdicts: dict[str, bool] = {}

    def __call__(self, event: Event, /) -> None:
        about = _LINES.get(type(event))
        if about is None or (isinstance(event, HealthChecked) and not self._has_changed(event)):
            return
        level, name, fields = about(event)
        if level and LOGGER.isEnabledFor(level):
            crash = event.error if isinstance(event, TaskCrashed) else None
            members = {field: getattr(event, field) for field in fields.split()}
            if crash is not None:
                members["error_type"] = type(crash).__name__
            _write(level, name, fields=members.items(), error=crash)

    def _has_changed(self, event: HealthChecked) -> bool:
        before = self._verdicts.get(event.check, True)
        self._verdicts[event.check] = event.up
        return before != event.up


_INFO = logging.INFO
_WARNING = logging.WARNING
_ERROR = logging.ERROR

# The level, the name and the fields of an event's line; without a level there is none.
_LINES: Final[Mapping[type, Callable[[Any], tuple[int, str, str]]]] = {
    CircuitChanged: lambda _: (_WARNING, "breaker.changed", "breaker old new reason"),
    ListenerFailed: lambda _: (_ERROR, "listener.failed", "policy error"),
    TaskCrashed: lambda _: (_ERROR, "task.crashed", "task"),
    LoopBlocked: lambda event: (
        _WARNING if event.is_told else 0,
        "loop.blocked",
        "route request_id seconds where",
    ),
    ModeChanged: lambda _: (_WARNING, "policy.mode_changed", "policy old new"),
    RetryScheduled: lambda _: (_INFO, "retry.scheduled", "policy error_type attempt delay"),
    PhaseChanged: lambda _: (_INFO, "lifecycle.changed", "old new"),
    ResourceStuck: lambda _: (_ERROR, "resource.stuck", "resource seconds"),
    HealthChecked: lambda event: (
        _INFO if event.up else _WARNING,
        "health.changed",
        "check critical up error",
    ),
    ConnectionOpened: lambda event: (
        _WARNING if event.error_type else 0,
        "pool.connection_failed",
        "pool error_type",
    ),
    ConnectionHeld: lambda _: (_WARNING, "pool.connection_held", "pool route request_id seconds"),
    StoreChanged: lambda event: (
        (_INFO, "ratelimit.store_back", "policy")
        if event.available
        else (_ERROR, "ratelimit.store_away", "policy error")
    ),
    FeedRead: lambda event: (
        (_INFO, "feed.fresh", "feed") if event.available else (_ERROR, "feed.stale", "feed error")
    ),
    SignalsIntercepted: lambda event: (
        _INFO if event.in_place else _WARNING,
        "lifecycle.signals",
        "mechanism in_place",
    ),
    Drained: lambda event: (
        _WARNING if event.cancelled or event.left else _INFO,
        "lifecycle.drained",
        "cancelled left seconds work tasks",
    ),
}
