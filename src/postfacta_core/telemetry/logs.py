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
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

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
from .exchange import Exchange, NullRecorder, SocketExchange
from .redaction import redact_text
from .sampling import AccessSampler, EventBudget

__all__ = ["LOGGER", "STANDARD", "AccessLog", "EventLog", "EventRecord", "FloodFilter", "RequestFilter"]

LOGGER: Final = logging.getLogger("postfacta")

_ROOT: Final = logging.getLogger()
_USUAL: Final = logging.LogRecord
_ACCESS: Final = "http.request"
_SUPPRESSED: Final = "log.suppressed"
_TOO_MANY_REQUESTS: Final = 429
# The event names of this library, and of code that logs in the same way. Other messages may hold anything.
_is_event = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z0-9_]+)+").fullmatch
_LONGEST_EVENT: Final = 64
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
        """Accept every record, and add its ids."""
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
    """Limit each kind of line to 100 a second, after a burst of 200.

    Add it to a handler, not to a logger. What it holds back is counted: ten seconds after the first, one
    `log.suppressed` line for each kind has the number, and so does the event `LogsSuppressed`. It comes with the next
    record of any kind, or by `tell`, which a timer should call.

    A kind is an event, such as `pool.connection_failed`. All records of a logger whose message is no event's name are
    of one kind, which has the logger's name. Access lines pass: `AccessLog` samples them itself, and never the errors.

    Args:
        budget: How many of each kind.
        logger: Where the `log.suppressed` lines go.
        clock: Monotonic seconds.

    Attributes:
        observer: Receives `LogsSuppressed`. It may be set at any time.
    """

    def __init__(
        self,
        budget: EventBudget | None = None,
        *,
        logger: logging.Logger = LOGGER,
        observer: Observer = ignore,
        clock: Clock = MONOTONIC,
    ) -> None:
        super().__init__()
        self.observer: Observer = observer
        self._budget = budget or EventBudget()
        self._logger = logger
        self._clock = clock
        # A handler is called by all threads.
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether there is room for a record of its kind."""
        if record.msg in (_ACCESS, _SUPPRESSED):
            return True
        kind, now = _kind(record), self._clock()
        with self._lock:
            passes = self._budget.admit(kind, now)
            due = self._budget.due(now)
        self._tell(due)
        return passes

    def tell(self, *, at_once: bool = False) -> None:
        """Report suppressed lines, if that is due or the process ends."""
        with self._lock:
            due = self._budget.due(math.inf if at_once else self._clock())
        self._tell(due)

    def _tell(self, due: Sequence[LogsSuppressed]) -> None:
        # Outside of the lock: the line comes back to this filter.
        for told in due:
            record = _record(self._logger, logging.WARNING, _SUPPRESSED)
            record.__dict__.update(suppressed_event=told.event, count=told.count)
            self._logger.handle(record)
            fan_out([self.observer])(told)


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

    A line is a `logging.LogRecord` with all that logging puts on one, for every handler, filter and formatter.
    Only `taskName` (Python 3.12) is None: a server's names of its tasks say nothing of a request.

    Args:
        logger: Where the lines go.
        service: Its name, on each line if it has one.
        sampler: Thins out the lines when there are many; without one all are written.
        wall: Seconds since the epoch, for the time of a line.
    """

    def __init__(
        self,
        logger: logging.Logger = LOGGER,
        *,
        service: str = "",
        sampler: AccessSampler | None = None,
        wall: Clock = WALL,
    ) -> None:
        self._logger = logger
        self._constant: dict[str, object] = {"service": service} if service else {}
        self._line = {"level": "info", "event": _ACCESS, "logger": logger.name, **self._constant}
        self._sampler = sampler
        self._wall = wall
        self._mould = _Mould(0.0, 0, {}, 0.0)

    def end(self, exchange: Exchange, /) -> None:
        """Write the line."""
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
        is_usual = error is None and logging.getLogRecordFactory() is _USUAL
        # With one handler alone, which takes lines, none needs a record.
        logger, handlers = self._logger, _ROOT.handlers
        if (
            is_usual
            and len(handlers) == 1
            and not logger.handlers
            and not logger.filters
            and logger.propagate
        ):
            write: Any = getattr(handlers[0], "write_access", None) if logger.parent is _ROOT else None
            if write is not None and write(exchange, self._wall(), self._line, weight):
                return
        record = self._cast() if is_usual else self._make(level, error)
        fields = record.__dict__
        _fill(fields, exchange)
        if weight > 1:
            fields["sample_rate"] = weight
        self._logger.handle(record)

    def closed(self, exchange: SocketExchange, /) -> None:
        """Write the line of a WebSocket: `websocket.closed`, at ERROR with the stack trace for a crash, else at INFO."""
        error = exchange.error
        level = logging.INFO if error is None else logging.ERROR
        if not self._logger.isEnabledFor(level):
            return
        request = exchange.request
        record = _record(self._logger, level, "websocket.closed", error=error)
        record.__dict__.update(
            self._constant,
            route=exchange.route,
            path=exchange.path,
            status=exchange.status,
            outcome=exchange.outcome,
            close_code=exchange.close_code,
            duration_ms=round(exchange.seconds * 1000, 3),
            error_type=exchange.error_type,
            client=exchange.client,
            principal=request.principal,
            request_id=request.request_id,
            trace_id=request.trace_id,
            span_id=request.span_id,
            trace_flags=request.trace_flags,
        )
        self._logger.handle(record)

    def _make(self, level: int, error: Exception | None) -> logging.LogRecord:
        record = _record(self._logger, level, _ACCESS, error=error)
        record.__dict__.update(self._constant)
        return record

    def _cast(self) -> logging.LogRecord:
        """Make a record like the one before, but for its time.

        Logging would look up file, thread and process for each: here they are looked up once a second, and in
        another thread. To ask for the process id is a system call, which costs 1 microsecond.
        """
        now, thread = self._wall(), threading.get_ident()
        mould = self._mould
        if mould.second != now // 1 or mould.thread != thread:
            mould = self._mould = self._make_mould(now // 1, thread)
        record = EventRecord.__new__(EventRecord)
        fields = record.__dict__ = mould.fields.copy()
        fields["created"] = now
        fields["msecs"] = now % 1 * 1000 // 1
        fields["relativeCreated"] = (now - mould.loaded_at) * 1000
        return record

    def _make_mould(self, second: float, thread: int) -> _Mould:
        model = self._make(logging.INFO, None)
        loaded_at = model.created - model.relativeCreated / 1000
        # The task is another one for the next request; before Python 3.12 a record does not know it.
        fields = {**vars(model), **dict.fromkeys(vars(model).keys() & {"taskName"})}
        return _Mould(second, thread, fields, loaded_at)


class _Mould(NamedTuple):
    """What all records of one thread in one second have in common; `loaded_at` is when logging was imported."""

    second: float
    thread: int
    fields: dict[str, Any]
    loaded_at: float


def _fill(fields: dict[str, Any], exchange: Exchange) -> None:
    request = exchange.request
    fields["method"] = exchange.method
    fields["route"] = exchange.route
    fields["path"] = exchange.path
    fields["status"] = exchange.status
    # To the microsecond, for a tenth of what `round` costs.
    fields["duration_ms"] = (exchange.seconds * 1e6 + 0.5) // 1 / 1000
    fields["error_type"] = exchange.error_type
    fields["client"] = exchange.client
    fields["principal"] = request.principal
    fields["request_bytes"] = exchange.request_bytes
    fields["bytes"] = exchange.response_bytes
    fields["traffic"] = exchange.traffic
    limit = min(request.asked, request.limit)
    if limit < math.inf:
        # Below 0 it came too late.
        left = limit - exchange.seconds
        fields["deadline_remaining_ms"] = (left * 1e6 + 0.5) // 1 / 1000
    if request.queued:
        fields["queue_ms"] = (request.queued * 1e6 + 0.5) // 1 / 1000
    fields["request_id"] = request.request_id
    if request.trace_id:
        # The filter would add them too, but not every handler has it.
        fields["trace_id"] = request.trace_id
        fields["span_id"] = request.span_id
        fields["trace_flags"] = request.trace_flags


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
        """Write a line, or none."""
        match event:
            case CircuitChanged():
                fields = {"breaker": event.breaker, "old": event.old, "new": event.new}
                self._write(logging.WARNING, "breaker.changed", **fields, reason=event.reason)
            case ListenerFailed():
                self._write(logging.ERROR, "listener.failed", policy=event.policy, error=event.error)
            case TaskCrashed():
                fields = {"task": event.task, "error_type": type(event.error).__name__}
                self._write(logging.ERROR, "task.crashed", event.error, **fields)
            case HealthChecked():
                self._check(event)
            case ConnectionOpened() if event.error_type:
                fields = {"pool": event.pool, "error_type": event.error_type}
                self._write(logging.WARNING, "pool.connection_failed", **fields)
            case ModeChanged() | RetryScheduled() | StoreChanged():
                self._policy(event)
            case _:
                self._live(event)

    def _policy(self, event: ModeChanged | RetryScheduled | StoreChanged) -> None:
        match event:
            case ModeChanged():
                fields = {"policy": event.policy, "old": event.old, "new": event.new}
                self._write(logging.WARNING, "policy.mode_changed", **fields)
            case RetryScheduled():
                fields = {"policy": event.policy, "error_type": event.error_type}
                self._write(
                    logging.INFO, "retry.scheduled", **fields, attempt=event.attempt, delay=event.delay
                )
            case StoreChanged() if event.available:
                self._write(logging.INFO, "ratelimit.store_back", policy=event.policy)
            case _:
                fields = {"policy": event.policy, "fallback": event.fallback, "error": event.error}
                self._write(logging.ERROR, "ratelimit.store_away", **fields)

    def _live(self, event: Event) -> None:
        match event:
            case SignalsIntercepted():
                level = logging.INFO if event.in_place else logging.WARNING
                self._write(
                    level,
                    "lifecycle.signals",
                    mechanism=event.mechanism,
                    in_place=event.in_place,
                )
            case PhaseChanged():
                self._write(logging.INFO, "lifecycle.changed", old=event.old, new=event.new)
            case Drained():
                level = logging.WARNING if event.cancelled or event.left else logging.INFO
                fields = {"cancelled": event.cancelled, "left": event.left, "seconds": event.seconds}
                self._write(level, "lifecycle.drained", **fields)
            case ResourceStuck():
                stuck: dict[str, object] = {"resource": event.resource, "seconds": event.seconds}
                self._write(logging.ERROR, "resource.stuck", **stuck)
            case _:
                pass

    def _check(self, event: HealthChecked) -> None:
        before = self._verdicts.get(event.check, True)
        self._verdicts[event.check] = event.up
        if before != event.up:
            level = logging.INFO if event.up else logging.WARNING
            self._write(
                level,
                "health.changed",
                check=event.check,
                critical=event.critical,
                up=event.up,
                error=event.error,
            )

    # By position: a field may be called `error`.
    def _write(self, level: int, name: str, crash: BaseException | None = None, /, **fields: object) -> None:
        if self._logger.isEnabledFor(level):
            record = _record(self._logger, level, name, error=crash)
            record.__dict__.update(fields)
            self._logger.handle(record)
