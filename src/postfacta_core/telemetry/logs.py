"""Write log records through the standard library: one for each exchange, one for each notable event.

A record's `msg` is a constant event name, and its fields are attributes, for formatters that write them
(`telemetry.lines`). As plain text its message reads as a line, with any formatter. Nothing is put together for a record
whose level is switched off, or that is left out.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from ..clock import MONOTONIC, WALL, Clock
from ..context import current_request
from ..events import (
    CircuitChanged,
    ConnectionOpened,
    Drained,
    Event,
    HealthChecked,
    ListenerFailed,
    LogsSuppressed,
    ModeChanged,
    Observer,
    PhaseChanged,
    ResourceStuck,
    RetryScheduled,
    SignalsIntercepted,
    StoreChanged,
    TaskCrashed,
    fan_out,
    ignore,
)
from ..validation import validation
from .exchange import OTHER, Exchange, NullRecorder, SocketExchange
from .redaction import redact_text
from .sampling import AccessSampler

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
# The event names of this library, and of code that logs in the same way. Other messages may hold anything.
_is_event = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z0-9_]+)+").fullmatch
_LONGEST_EVENT: Final = 64
_MOST_KINDS: Final = 500
_TELL_AFTER: Final = 10.0
_NAMES: Final[tuple[str, ...]] = (
    "method", "route", "path", "error_type", "client", "principal", "traffic", "request_id", "trace_id", "span_id",
    "trace_flags", "status", "duration_ms", "request_bytes", "bytes",
)  # fmt: skip
_NAMES_AND_LIMIT: Final = (*_NAMES, "deadline_remaining_ms")
Values = tuple[tuple[str, ...], tuple[str, ...], Sequence[float]]
STANDARD: Final = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})
"""The attributes of a record that are no fields of its own."""


class EventRecord(logging.LogRecord):
    """A record whose `msg` is an event's name. Its message is the name and its fields, as one line of text."""

    def getMessage(self) -> str:  # noqa: N802 - logging's own name
        """Return the event as text, without secrets, control characters and empty fields."""
        event, fields = str(self.msg), dict(vars(self))
        # A queue's handler has made a text of it already.
        if not _is_event(event):
            return event
        said = [event]
        if event == _ACCESS:
            line = "{method} {path} {status} {duration_ms:.1f}ms"
            said.append(line.format_map(fields))
            fields = {name: fields.get(name) for name in ("error_type", "request_id", "trace_id")}
        said += [f"{name}={value}" for name, value in shown(fields).items()]
        return printable(redact_text(" ".join(said)))


def shown(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the fields that a person reads: those of the record itself and empty ones left out."""
    return {name: value for name, value in fields.items() if name not in STANDARD and value not in ("", None)}


def printable(text: str) -> str:
    """Escape what would move a terminal's cursor or end the line: control characters and Unicode's line ends."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _record(
    logger: logging.Logger, level: int, event: str, *, error: BaseException | None = None
) -> logging.LogRecord:
    # `log` would look for its caller, and check that each field is new: half of its cost, for nothing.
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    if logging.getLogRecordFactory() is logging.LogRecord:
        return EventRecord(logger.name, level, __file__, 0, event, (), exc_info, "end")
    # Respect a custom record factory.
    return logger.makeRecord(logger.name, level, __file__, 0, event, (), exc_info, "end")


class RequestFilter(logging.Filter):
    """Add the present request's ids to each record: `request_id`, `trace_id`, `span_id`, `trace_flags`.

    Add it to a handler, not to a logger: a logger's filters do not see the records of the loggers below it.
    Outside of a request the four are empty strings, so that a format string may always name them.
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
    """Limit each kind of line to `rate` a second, after a burst.

    Add it to a handler, not to a logger. What it holds back is counted: ten seconds after the first, one
    `log.suppressed` line for each kind has the number, and so does the event `LogsSuppressed`. It comes with the next
    record of any kind, or by `tell`, which a timer should call.

    A kind is an event, such as `pool.connection_failed`. All records of a logger whose message is no event's name are
    of one kind, which has the logger's name; kinds beyond the first 500 share one, called `_OTHER`. Access lines pass:
    `AccessLog` samples them itself, and never the errors.

    Args:
        rate: Lines a second, of each kind.
        burst: Lines at once.
        logger: Where the `log.suppressed` lines go.
        clock: Monotonic seconds.

    Attributes:
        observer: Receives `LogsSuppressed`. It may be set at any time.
    """

    def __init__(
        self,
        *,
        rate: float = 100.0,
        burst: int = 200,
        logger: logging.Logger = LOGGER,
        observer: Observer = ignore,
        clock: Clock = MONOTONIC,
    ) -> None:
        super().__init__()
        self._rate = validation.number("FloodFilter.rate", rate, above=0, example="rate=100.0")
        self._burst = validation.number("FloodFilter.burst", burst, at_least=1, example="burst=200")
        self.observer: Observer = observer
        self._logger = logger
        self._clock = clock
        # A handler is called by all threads.
        self._lock = threading.Lock()
        self._buckets: dict[str, _Bucket] = {}
        self._tell_at = math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg in (_ACCESS, _SUPPRESSED):
            return True
        now = self._clock()
        with self._lock:
            passes = self._admit(_kind(record), now)
        if now >= self._tell_at:
            self.tell()
        return passes

    def _admit(self, kind: str, now: float) -> bool:
        if kind not in self._buckets and len(self._buckets) >= _MOST_KINDS:
            kind = OTHER
        bucket = self._buckets.setdefault(kind, _Bucket(self._burst, now))
        bucket.tokens = min(self._burst, bucket.tokens + max(0.0, now - bucket.at) * self._rate)
        bucket.at = now
        if bucket.tokens >= 1.0:
            bucket.tokens -= 1.0
            return True
        bucket.suppressed += 1
        self._tell_at = min(self._tell_at, now + _TELL_AFTER)
        return False

    def tell(self, *, at_once: bool = False) -> None:
        """Report suppressed lines, if that is due or the process ends."""
        with self._lock:
            if not at_once and self._clock() < self._tell_at:
                return
            self._tell_at = math.inf
            due = [(kind, bucket) for kind, bucket in self._buckets.items() if bucket.suppressed]
            news = [LogsSuppressed(kind, bucket.suppressed) for kind, bucket in due]
            for _, bucket in due:
                bucket.suppressed = 0
        # Outside of the lock: the line comes back to this filter.
        for told in news:
            record = _record(self._logger, logging.WARNING, _SUPPRESSED)
            record.__dict__.update(suppressed_event=told.event, count=told.count)
            self._logger.handle(record)
            fan_out([self.observer])(told)


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float
    suppressed: int = 0


def _kind(record: logging.LogRecord) -> str:
    message = record.msg
    if isinstance(message, str) and len(message) <= _LONGEST_EVENT and _is_event(message):
        return message
    return record.name


class AccessLog(NullRecorder):
    """Write one `http.request` line for each exchange: at ERROR with the stack trace for a crash, else at INFO.

    Probes and scrapes are left out, unless they crash. It is a `Recorder`.

    With a sampler, a line stands for `sample_rate` requests if it has that field, else for one. What failed, what was
    refused with 429 and what was slow is never left out.

    A line is a complete `logging.LogRecord` for every handler; that of `logs.configure`, if alone, gets it without one.

    Args:
        logger: Where the lines go.
        service: Its name, on each line if it has one.
        sampler: Thins out the lines when there are many; without one all are written.
    """

    def __init__(
        self,
        logger: logging.Logger = LOGGER,
        *,
        service: str = "",
        sampler: AccessSampler | None = None,
    ) -> None:
        self._logger = logger
        self._constant: dict[str, object] = {"service": service} if service else {}
        self._line = {"level": "info", "event": _ACCESS, "logger": logger.name, **self._constant}
        self._sampler = sampler

    def end(self, exchange: Exchange, /) -> None:
        error = exchange.error
        level = logging.INFO if error is None else logging.ERROR
        if (exchange.quiet and error is None) or not self._logger.isEnabledFor(level):
            return
        weight = 1
        if self._sampler is not None and not exchange.error_type and exchange.status != _TOO_MANY_REQUESTS:
            # The moment of its last byte: so no clock is read.
            weight = self._sampler.weigh(exchange.seconds, exchange.request.started + exchange.seconds)
            if not weight:
                return
        values = access_values(exchange, weight)
        if error is None and _LOGGING["_logRecordFactory"] is logging.LogRecord:
            logger, handlers = self._logger, _ROOT.handlers
            # With one handler alone, which takes lines, none needs a record.
            is_alone = len(handlers) == 1 and logger.parent is _ROOT and logger.propagate
            if is_alone and not (logger.handlers or logger.filters):
                write: Any = getattr(handlers[0], "write_access", None)
                if write is not None and write(values, WALL(), self._line):
                    return
        record = self._make(level, error)
        record.__dict__.update(members_of(values))
        self._logger.handle(record)

    def closed(self, exchange: SocketExchange, /) -> None:
        """Write the line of a WebSocket: `websocket.closed`, at ERROR with the stack trace for a crash, else at INFO."""
        error = exchange.error
        level = logging.INFO if error is None else logging.ERROR
        if not self._logger.isEnabledFor(level):
            return
        record = self._make(level, error, "websocket.closed")
        members = members_of(access_values(exchange))
        record.__dict__.update({name: value for name, value in members if name not in _REQUESTS})
        record.__dict__.update(outcome=exchange.outcome, close_code=exchange.close_code)
        self._logger.handle(record)

    def _make(self, level: int, error: Exception | None, event: str = _ACCESS) -> logging.LogRecord:
        record = _record(self._logger, level, event, error=error)
        record.__dict__.update(self._constant)
        return record


def access_values(exchange: Exchange, weight: int = 1) -> Values:
    """Return what an access line says of an exchange that stands for this many: names, and texts and numbers in their order."""
    request, seconds = exchange.request, exchange.seconds
    texts = (
        exchange.method,
        exchange.route,
        exchange.path,
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
    names, numbers = _NAMES, [exchange.status, took, exchange.request_bytes, exchange.response_bytes]
    limit = min(request.asked, request.limit)
    if limit < math.inf:
        # Below 0 it came too late.
        names = _NAMES_AND_LIMIT
        numbers.append(((limit - seconds) * 1e6 + 0.5) // 1 / 1000)
    if request.queued:
        names = (*names, "queue_ms")
        numbers.append((request.queued * 1e6 + 0.5) // 1 / 1000)
    if weight > 1:
        names = (*names, "sample_rate")
        numbers.append(weight)
    return names, texts, numbers


def members_of(values: Values) -> Iterable[tuple[str, Any]]:
    names, texts, numbers = values
    return zip(names, chain(texts, numbers), strict=True)


class EventLog:
    """Write a line for each notable event. It is an `Observer`.

    A health check is worth a line when its verdict changes, and when its first verdict is down.

    Args:
        logger: Where the lines go.
    """

    def __init__(self, logger: logging.Logger = LOGGER) -> None:
        self._logger = logger
        self._verdicts: dict[str, bool] = {}

    def __call__(self, event: Event, /) -> None:
        about = _LINES.get(type(event))
        if about is None or (isinstance(event, HealthChecked) and not self._has_changed(event)):
            return
        level, name, fields = about(event)
        if level and self._logger.isEnabledFor(level):
            crash = event.error if isinstance(event, TaskCrashed) else None
            record = _record(self._logger, level, name, error=crash)
            record.__dict__.update({field: getattr(event, field) for field in fields.split()})
            if crash is not None:
                record.__dict__["error_type"] = type(crash).__name__
            self._logger.handle(record)

    def _has_changed(self, event: HealthChecked) -> bool:
        before = self._verdicts.get(event.check, True)
        self._verdicts[event.check] = event.up
        return before != event.up


_INFO, _WARNING, _ERROR = logging.INFO, logging.WARNING, logging.ERROR


def _always(level: int, name: str, fields: str) -> Callable[[Any], tuple[int, str, str]]:
    return lambda _: (level, name, fields)


# The level, the name and the fields of an event's line; without a level there is none.
_LINES: Final[Mapping[type, Callable[[Any], tuple[int, str, str]]]] = {
    CircuitChanged: _always(_WARNING, "breaker.changed", "breaker old new reason"),
    ListenerFailed: _always(_ERROR, "listener.failed", "policy error"),
    TaskCrashed: _always(_ERROR, "task.crashed", "task"),
    ModeChanged: _always(_WARNING, "policy.mode_changed", "policy old new"),
    RetryScheduled: _always(_INFO, "retry.scheduled", "policy error_type attempt delay"),
    PhaseChanged: _always(_INFO, "lifecycle.changed", "old new"),
    ResourceStuck: _always(_ERROR, "resource.stuck", "resource seconds"),
    HealthChecked: lambda event: (_INFO if event.up else _WARNING, "health.changed", "check critical up error"),
    ConnectionOpened: lambda event: (
        _WARNING if event.error_type else 0, "pool.connection_failed", "pool error_type"
    ),
    StoreChanged: lambda event: (
        (_INFO, "ratelimit.store_back", "policy")
        if event.available
        else (_ERROR, "ratelimit.store_away", "policy error")
    ),
    SignalsIntercepted: lambda event: (
        _INFO if event.in_place else _WARNING, "lifecycle.signals", "mechanism in_place"
    ),
    Drained: lambda event: (
        _WARNING if event.cancelled or event.left else _INFO, "lifecycle.drained", "cancelled left seconds"
    ),
}  # fmt: skip
