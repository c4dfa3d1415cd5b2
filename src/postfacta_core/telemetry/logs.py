"""Write log records through the standard library: one for each exchange, one for each notable event.

A record's `msg` is a constant event name, and its fields are attributes, for formatters that write them
(`telemetry.lines`). As plain text its message reads as a line, with any formatter.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Final

from .. import events
from ..clock import LUCK, MONOTONIC, WALL, Clock, Luck
from ..context import current_request
from ..validation import validation
from .exchange import OTHER, Exchange, Recorder, SocketExchange
from .redaction import redact_text

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
_SLOW: Final = 0.5
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


def _write(
    logger: logging.Logger,
    level: int,
    event: str,
    *,
    fields: Iterable[tuple[str, object]],
    error: BaseException | None = None,
) -> None:
    """Write a record, for a level that is on."""
    # `log` would look for its caller, and check that each field is new: half of its cost, for nothing.
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    # Respect a custom record factory.
    make = EventRecord if logging.getLogRecordFactory() is logging.LogRecord else logger.makeRecord
    record = make(logger.name, level, __file__, 0, event, (), exc_info, "end")
    record.__dict__.update(fields)
    logger.handle(record)


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
    """Limit each kind of line to `most` in a second.

    Add it to a handler, not to a logger. What it holds back is counted: ten seconds after the first, one
    `log.suppressed` line for each kind has the number, and so does the event `LogsSuppressed`. It comes with the next
    record of any kind, or by `tell`, which a timer should call.

    A kind is an event, such as `pool.connection_failed`. All records of a logger whose message is no event's name are
    of one kind, which has the logger's name; kinds beyond the first 500 of a second share one, called `_OTHER`. Access
    lines pass: `AccessLog` samples them itself, and never the errors.

    Args:
        most: Lines of each kind in a second.
        logger: Where the `log.suppressed` lines go.
        clock: Monotonic seconds.

    Attributes:
        observer: Receives `LogsSuppressed`. It may be set at any time.
    """

    def __init__(
        self,
        most: int = 200,
        *,
        logger: logging.Logger = LOGGER,
        observer: events.Observer = events.ignore,
        clock: Clock = MONOTONIC,
    ) -> None:
        super().__init__()
        self._most = validation.whole("FloodFilter.most", most, example="200")
        self.observer: events.Observer = observer
        self._logger = logger
        self._clock = clock
        # A handler is called by all threads.
        self._lock = threading.Lock()
        self._seen, self._suppressed = Counter[str](), Counter[str]()
        self._until, self._tell_at = -math.inf, math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg in (_ACCESS, _SUPPRESSED):
            return True
        now, name = self._clock(), record.msg
        is_event = isinstance(name, str) and len(name) <= _LONGEST_EVENT and _is_event(name)
        kind = name if is_event else record.name
        with self._lock:
            if now >= self._until:
                self._until = now + 1.0
                self._seen.clear()
            if kind not in self._seen and len(self._seen) >= _MOST_KINDS:
                kind = OTHER
            self._seen[kind] += 1
            passes = self._seen[kind] <= self._most
            if not passes:
                self._suppressed[kind] += 1
                self._tell_at = min(self._tell_at, now + _TELL_AFTER)
        if now >= self._tell_at:
            self.tell()
        return passes

    def tell(self, *, at_once: bool = False) -> None:
        """Report suppressed lines, if that is due or the process ends."""
        with self._lock:
            if not at_once and self._clock() < self._tell_at:
                return
            due, self._suppressed, self._tell_at = self._suppressed, Counter[str](), math.inf
        # Outside of the lock: the line comes back to this filter.
        for kind, count in due.items():
            fields = (("suppressed_event", kind), ("count", count))
            _write(self._logger, logging.WARNING, _SUPPRESSED, fields=fields)
            events.fan_out([self.observer])(events.LogsSuppressed(kind, count))


class AccessSampler:
    """Returns the number of requests that an ordinary access line represents; 0 if it is left out.

    Up to `most` lines a second all are written. Above that, each is written with the same chance, 1 in N, and says N:
    the sum of all N is then about the number of requests, of each route and caller too. N follows the second before; in
    the first second of a sudden crowd of `r` requests, about `most * (1 + ln(r / most))` lines are written. By chance, and
    not each N-th: else two requests that take turns would look like one. What took more than half a second is always
    written. It must be called from one thread, or lines may be miscounted.

    Args:
        most: Lines a second, at least 1.
        luck: Draws.
    """

    def __init__(self, most: int = 100, *, luck: Luck = LUCK) -> None:
        self._most = validation.whole("AccessSampler.most", most, example="100")
        self._luck = luck
        self._every = 1
        self._seen = 0
        self._until = -math.inf

    def weigh(self, seconds: float, now: float) -> int:
        """Return the number of requests that this line represents; a step back of the clock is no new second."""
        if seconds > _SLOW:
            return 1
        if now >= self._until:
            # After a pause of a second, earlier lines do not count.
            is_fresh = now < self._until + 1.0
            self._every = max(1, math.ceil(self._seen / self._most)) if is_fresh else 1
            self._seen, self._until = 0, now + 1.0
        every = max(self._every, 1 + self._seen // self._most)
        self._seen += 1
        return every if every == 1 or self._luck() * every < 1.0 else 0


class AccessLog(Recorder):
    """Write a line for each exchange, `http.request` or `websocket.closed`: at ERROR with the stack trace for a crash.

    Probes and scrapes are left out, unless they crash. With a sampler, a line stands for `sample_rate` requests if it has
    that field, else for one. What failed, what was refused with 429 and what was slow is never left out.

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
        fields = chain(self._constant.items(), _members(values))
        _write(self._logger, level, _ACCESS, fields=fields, error=error)

    def closed(self, exchange: SocketExchange, /) -> None:
        error = exchange.error
        level = logging.INFO if error is None else logging.ERROR
        if not self._logger.isEnabledFor(level):
            return
        members = dict(_members(access_values(exchange)))
        members |= {**self._constant, "outcome": exchange.outcome, "close_code": exchange.close_code}
        fields = ((name, value) for name, value in members.items() if name not in _REQUESTS)
        _write(self._logger, level, "websocket.closed", fields=fields, error=error)


def access_values(exchange: Exchange, weight: int = 1) -> Values:
    """Return what an access line says of an exchange that stands for this many: names, and texts and numbers in their order."""
    request, seconds = exchange.request, exchange.seconds
    texts = (
        exchange.method, exchange.route, exchange.path, exchange.error_type, exchange.client, request.principal,
        exchange.traffic, request.request_id, request.trace_id, request.span_id, request.trace_flags,
    )  # fmt: skip
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


def _members(values: Values) -> Iterable[tuple[str, Any]]:
    names, texts, numbers = values
    return zip(names, chain(texts, numbers), strict=True)


class EventLog:
    """Write a line to the logger for each notable event; of a health check, when its verdict changes or is down at first."""

    def __init__(self, logger: logging.Logger = LOGGER) -> None:
        self._logger = logger
        self._verdicts: dict[str, bool] = {}

    def __call__(self, event: events.Event, /) -> None:
        about = _LINES.get(type(event))
        if about is None or (isinstance(event, events.HealthChecked) and not self._has_changed(event)):
            return
        level, name, fields = about(event)
        if level and self._logger.isEnabledFor(level):
            crash = event.error if isinstance(event, events.TaskCrashed) else None
            members = {field: getattr(event, field) for field in fields.split()}
            if crash is not None:
                members["error_type"] = type(crash).__name__
            _write(self._logger, level, name, fields=members.items(), error=crash)

    def _has_changed(self, event: events.HealthChecked) -> bool:
        before = self._verdicts.get(event.check, True)
        self._verdicts[event.check] = event.up
        return before != event.up


_INFO, _WARNING, _ERROR = logging.INFO, logging.WARNING, logging.ERROR


def _always(level: int, name: str, fields: str) -> Callable[[Any], tuple[int, str, str]]:
    return lambda _: (level, name, fields)


# The level, the name and the fields of an event's line; without a level there is none.
_LINES: Final[Mapping[type, Callable[[Any], tuple[int, str, str]]]] = {
    events.CircuitChanged: _always(_WARNING, "breaker.changed", "breaker old new reason"),
    events.ListenerFailed: _always(_ERROR, "listener.failed", "policy error"),
    events.TaskCrashed: _always(_ERROR, "task.crashed", "task"),
    events.ModeChanged: _always(_WARNING, "policy.mode_changed", "policy old new"),
    events.RetryScheduled: _always(_INFO, "retry.scheduled", "policy error_type attempt delay"),
    events.PhaseChanged: _always(_INFO, "lifecycle.changed", "old new"),
    events.ResourceStuck: _always(_ERROR, "resource.stuck", "resource seconds"),
    events.HealthChecked: lambda event: (_INFO if event.up else _WARNING, "health.changed", "check critical up error"),
    events.ConnectionOpened: lambda event: (
        _WARNING if event.error_type else 0, "pool.connection_failed", "pool error_type"
    ),
    events.StoreChanged: lambda event: (
        (_INFO, "ratelimit.store_back", "policy")
        if event.available
        else (_ERROR, "ratelimit.store_away", "policy error")
    ),
    events.SignalsIntercepted: lambda event: (
        _INFO if event.in_place else _WARNING, "lifecycle.signals", "mechanism in_place"
    ),
    events.Drained: lambda event: (
        _WARNING if event.cancelled or event.left else _INFO, "lifecycle.drained", "cancelled left seconds"
    ),
}  # fmt: skip
