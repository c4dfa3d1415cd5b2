"""Log lines carry the request's ids, and say each thing once."""

from __future__ import annotations

import io
import itertools
import json
import logging
import math
import threading
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given, strategies as st

from postfacta_core.asgi import HardenOptions
from postfacta_core.asgi._types import Receive, Scope, Send
from postfacta_core.context import RequestContext
from postfacta_core.events import (
    CircuitChanged,
    ConnectionOpened,
    DeadlineExceeded,
    Drained,
    Event,
    FeedRead,
    HealthChecked,
    ListenerFailed,
    LogsSuppressed,
    Mode,
    ModeChanged,
    PhaseChanged,
    QueryFinished,
    RequestsOverdue,
    ResourceStuck,
    RetryScheduled,
    SignalsIntercepted,
    StoreChanged,
    TaskCrashed,
)
from postfacta_core.telemetry.exchange import Exchange, SocketExchange
from postfacta_core.telemetry.logs import (
    LOGGER,
    AccessLog,
    EventLog,
    FloodFilter,
    JsonFormatter,
    RequestFilter,
)
from postfacta_core.telemetry.sampling import AccessSampler
from postfacta_core.testing import ManualClock, RecordingObserver, call_asgi
from tests.kit.alone import WithTelemetry
from tests.kit.every import every


class Lines(logging.Handler):
    """Keeps the records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def events(self) -> list[str]:
        return [str(record.msg) for record in self.records]


@pytest.fixture
def lines() -> Generator[Lines]:
    handler = Lines()
    handler.addFilter(RequestFilter())
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    yield handler
    LOGGER.handlers.clear()
    LOGGER.setLevel(logging.NOTSET)
    LOGGER.propagate = True


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    scope["postfacta.request"].principal = "user:7"
    LOGGER.info("handler.line")
    if "crash" in scope["path"]:
        raise ValueError("a crash")
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"four"})


STACK = WithTelemetry(app, [AccessLog()], HardenOptions(quiet=["/quiet", "/quiet/crash"]))
ID = "a-good-request-id"


async def test_a_request_is_one_line_with_its_fields_and_without_its_query(lines: Lines) -> None:
    await call_asgi(STACK, "GET", "/a/b", query="token=canary", headers=[("X-Request-ID", ID)])
    assert lines.events == ["handler.line", "http.request"]
    fields = vars(lines.records[1])
    expected = {
        "method": "GET",
        "route": "_unmatched",
        "path": "/a/b",
        "status": 200,
        "error_type": "",
        "principal": "user:7",
        "client": "127.0.0.1",
        "bytes": 4,
        "traffic": "user",
        "request_id": ID,
    }
    assert {key: fields[key] for key in expected} == expected
    assert fields["duration_ms"] >= 0
    assert "canary" not in str(fields)
    assert vars(lines.records[0])["request_id"] == ID


async def test_a_crash_is_one_line_at_error_with_its_stack_trace(lines: Lines) -> None:
    await call_asgi(STACK, "GET", "/crash", raise_errors=False)
    assert lines.events == ["handler.line", "http.request"]
    record = lines.records[1]
    assert (record.levelname, vars(record)["error_type"], vars(record)["status"]) == (
        "ERROR",
        "ValueError",
        500,
    )
    assert 'raise ValueError("a crash")' in logging.Formatter().format(record)


async def test_probes_are_silent_unless_they_crash(lines: Lines) -> None:
    await call_asgi(STACK, "GET", "/quiet")
    assert "http.request" not in lines.events
    await call_asgi(STACK, "GET", "/quiet/crash", raise_errors=False)
    assert "http.request" in lines.events


async def test_a_level_that_is_off_costs_no_record(lines: Lines) -> None:
    LOGGER.setLevel(logging.ERROR)
    await call_asgi(STACK, "GET", "/")
    assert lines.records == []


def test_outside_of_a_request_a_format_string_may_still_name_the_ids() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(RequestFilter())
    handler.setFormatter(
        logging.Formatter("[%(request_id)s %(trace_id)s %(span_id)s %(trace_flags)s] %(message)s")
    )
    handler.handle(logging.makeLogRecord({"msg": "no request"}))
    assert stream.getvalue() == "[   ] no request\n"


def health(*, up: bool) -> HealthChecked:
    return HealthChecked(
        "db", critical=True, passed=up, up=up, seconds=0.1, error="" if up else "refused"
    )


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([ModeChanged("db", Mode.SHADOW, Mode.ENFORCE)], ["policy.mode_changed"]),
        ([RetryScheduled("db", 1, 0.1, "TimeoutError")], ["retry.scheduled"]),
        (
            [StoreChanged("limit", available=False, error="ConnectionError()")],
            ["ratelimit.store_away"],
        ),
        ([StoreChanged("limit", available=True)], ["ratelimit.store_back"]),
        ([FeedRead("orders", available=False, error="OSError")], ["feed.stale"]),
        ([FeedRead("orders", available=True)], ["feed.fresh"]),
        ([CircuitChanged("db", "closed", "open", 1.0, "failures")], ["breaker.changed"]),
        ([ListenerFailed("db", "boom")], ["listener.failed"]),
        ([TaskCrashed("poller", ValueError("a crash"))], ["task.crashed"]),
        (
            [ConnectionOpened("main", 0.1), ConnectionOpened("main", 1, "OSError")],
            ["pool.connection_failed"],
        ),
        ([QueryFinished("main", "postgresql", "SELECT", "incidents", 0.02)], []),
        ([SignalsIntercepted("wrap", in_place=True)], ["lifecycle.signals"]),
        ([PhaseChanged("ready", "draining", 1.0)], ["lifecycle.changed"]),
        ([Drained(1, 0, 2.0)], ["lifecycle.drained"]),
        ([ResourceStuck("Database", 5.0)], ["resource.stuck"]),
        ([DeadlineExceeded("handler"), RequestsOverdue(1)], []),
        ([health(up=True), health(up=True)], []),
        (
            [health(up=False), health(up=False), health(up=True)],
            ["health.changed", "health.changed"],
        ),
    ],
)
def test_what_a_person_may_want_to_know_is_a_line(
    lines: Lines, events: list[Event], expected: list[str]
) -> None:
    log = EventLog()
    for event in events:
        log(event)
    assert lines.events == expected


@pytest.mark.parametrize(
    ("event", "level", "fields"),
    [
        (
            SignalsIntercepted("wrap", in_place=True),
            "INFO",
            {"mechanism": "wrap", "in_place": True},
        ),
        (
            SignalsIntercepted("none", in_place=False),
            "WARNING",
            {"mechanism": "none", "in_place": False},
        ),
        (PhaseChanged("ready", "draining", 1.0), "INFO", {"old": "ready", "new": "draining"}),
        (Drained(0, 0, 2.0), "INFO", {"cancelled": 0, "left": 0, "seconds": 2.0}),
        (Drained(1, 0, 2.0), "WARNING", {"cancelled": 1}),
        (Drained(0, 1, 2.0), "WARNING", {"left": 1}),
        (ResourceStuck("Database", 5.0), "ERROR", {"resource": "Database", "seconds": 5.0}),
    ],
)
def test_lifecycle_events_are_logged_with_fields_and_fitting_levels(
    lines: Lines, event: Event, level: str, fields: dict[str, object]
) -> None:
    EventLog()(event)
    (record,) = lines.records
    assert record.levelname == level
    assert {key: vars(record)[key] for key in fields} == fields


def test_a_crashed_task_has_its_stack_trace(lines: Lines) -> None:
    with pytest.raises(ValueError, match="a crash") as crash:
        raise ValueError("a crash")
    EventLog()(TaskCrashed("poller", crash.value))
    assert 'raise ValueError("a crash")' in logging.Formatter().format(lines.records[0])
    assert vars(lines.records[0])["task"] == "poller"


def test_a_record_that_names_its_request_keeps_it_outside_of_one() -> None:
    record = logging.makeLogRecord({"request_id": "from-another-thread"})
    assert RequestFilter().filter(record)
    assert vars(record)["request_id"] == "from-another-thread"


async def two_lines(lines: Lines) -> list[logging.LogRecord]:
    for _ in range(2):
        await call_asgi(STACK, "GET", "/a/b")
    return [record for record in lines.records if record.msg == "http.request"]


async def test_an_access_line_has_all_that_logging_itself_puts_on_a_record(lines: Lines) -> None:
    _, line = await two_lines(lines)
    model = vars(
        logging.LogRecord(
            "postfacta", logging.INFO, line.pathname, 0, "http.request", (), None, "end"
        )
    )
    model.pop("taskName", None)
    times = {"created", "msecs", "relativeCreated"}
    assert isinstance(line, logging.LogRecord)
    assert {key: vars(line)[key] for key in model if key not in times} == {
        key: value for key, value in model.items() if key not in times
    }


async def test_an_access_line_names_the_thread_and_the_process_that_wrote_it(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AccessLog()
    exchange = Exchange(RequestContext(ID, 0.0), "GET", "/")
    thread = threading.Thread(target=log.end, args=(exchange,), name="another")
    log.end(exchange)
    thread.start()
    thread.join()
    log.end(exchange)
    # As after a fork.
    monkeypatch.setattr("os.getpid", lambda: -1)
    log.end(exchange)
    names = [record.threadName for record in lines.records]
    assert names == ["MainThread", "another", "MainThread", "MainThread"]
    assert [record.process == -1 for record in lines.records] == [False, False, False, True]


async def test_a_record_factory_is_asked_for_each_access_line(lines: Lines) -> None:
    numbers = itertools.count()

    def factory(*args: Any, **options: Any) -> logging.LogRecord:
        record = logging.LogRecord(*args, **options)
        record.number = next(numbers)
        return record

    logging.setLogRecordFactory(factory)
    try:
        first, second = await two_lines(lines)
    finally:
        logging.setLogRecordFactory(logging.LogRecord)
    assert vars(first)["number"] < vars(second)["number"]


def test_what_one_line_has_does_not_show_on_the_next(lines: Lines) -> None:
    log = AccessLog()
    traced, plain = (Exchange(RequestContext(ID, 0.0), "GET", "/") for _ in "ab")
    traced.request.trace_id = "a" * 32
    log.end(traced)
    vars(lines.records[0])["tenant"] = "acme"
    log.end(plain)
    assert vars(lines.records[0])["trace_id"] == "a" * 32
    assert not vars(lines.records[1]).get("trace_id")
    assert "tenant" not in vars(lines.records[1])


@pytest.mark.parametrize(("seconds", "shown"), [(0.0, 0.0), (0.001_234_6, 1.235), (2.5, 2500.0)])
def test_a_duration_is_logged_in_milliseconds_to_the_microsecond(
    lines: Lines, seconds: float, shown: float
) -> None:
    exchange = Exchange(RequestContext(ID, 0.0), "GET", "/")
    exchange.seconds = seconds
    AccessLog().end(exchange)
    assert vars(lines.records[0])["duration_ms"] == shown


@pytest.mark.parametrize(
    ("deadline", "left"), [(2.0, 1_500.0), (0.25, -250.0), (0.501_234_6, 1.235), (math.inf, None)]
)
def test_an_access_line_tells_how_much_of_the_requests_time_was_left(
    lines: Lines, deadline: float, left: float | None
) -> None:
    exchange = Exchange(RequestContext(ID, 1000.0), "GET", "/")
    exchange.request.limit, exchange.seconds = deadline, 0.5
    AccessLog().end(exchange)
    assert vars(lines.records[0]).get("deadline_remaining_ms") == left


def ended(status: int = 200, *, error_type: str = "", seconds: float = 0.01) -> Exchange:
    exchange = Exchange(RequestContext(ID, 1000.0), "GET", "/")
    exchange.status, exchange.error_type, exchange.seconds = status, error_type, seconds
    return exchange


def test_lines_above_the_most_are_left_out_or_say_for_how_many_they_stand(lines: Lines) -> None:
    draws = iter([0.9, 0.1])
    log = AccessLog(sampler=AccessSampler(2, luck=lambda: next(draws)))
    for _ in range(4):
        log.end(ended())
    assert [vars(record).get("sample_rate") for record in lines.records] == [None, None, 2]


@pytest.mark.parametrize(
    "exchange",
    [
        ended(503, error_type="shed"),
        ended(500, error_type="ValueError"),
        ended(200, error_type="incomplete_response"),
        ended(499, error_type="client_disconnected"),
        ended(200, seconds=0.6),
    ],
    ids=lambda exchange: f"{exchange.status} {exchange.error_type}",
)
def test_what_a_person_looks_for_first_is_never_left_out(lines: Lines, exchange: Exchange) -> None:
    log = AccessLog(sampler=AccessSampler(1, luck=lambda: 0.999))
    for _ in range(50):
        log.end(ended())
    written = len(lines.records)
    for _ in range(50):
        log.end(exchange)
    assert len(lines.records) == written + 50
    assert "sample_rate" not in vars(lines.records[-1])


def test_of_refusals_the_first_of_each_client_and_minute_is_written(lines: Lines) -> None:
    log = AccessLog(sampler=AccessSampler(100))
    for moment in (1000.0, 1030.0, 1061.0):
        for client in ("198.51.100.1", "198.51.100.2"):
            exchange = ended(429)
            exchange.client, exchange.request.started = client, moment
            log.end(exchange)
    for _ in range(5000):
        exchange = ended(503, error_type="shed")
        exchange.client, exchange.route, exchange.request.started = (
            "198.51.100.1",
            "_prerouting",
            1062.0,
        )
        log.end(exchange)
    rates = [vars(record).get("sample_rate", 1) for record in lines.records]
    assert rates.count(1) >= 4
    assert len(rates) < 60
    assert max(rates) > 1


def test_a_line_that_is_left_out_costs_no_record(lines: Lines) -> None:
    made = 0

    def factory(*args: Any, **options: Any) -> logging.LogRecord:
        nonlocal made
        made += 1
        return logging.LogRecord(*args, **options)

    logging.setLogRecordFactory(factory)
    try:
        log = AccessLog(sampler=AccessSampler(1, luck=lambda: 0.999))
        for _ in range(50):
            log.end(ended())
    finally:
        logging.setLogRecordFactory(logging.LogRecord)
    assert made == len(lines.records) == 1


class Flood:
    """The logger with a filter at its only handler, and the clock of both."""

    def __init__(self, most: int = 2) -> None:
        self.clock = ManualClock(1000)
        self.observer = RecordingObserver()
        self.logger = LOGGER
        self.kept = Lines()
        self.filter = FloodFilter(most, clock=self.clock)
        self.filter.observer = self.observer
        self.kept.addFilter(self.filter)
        LOGGER.handlers[:] = [self.kept]

    def passed(self, event: str, times: int) -> int:
        """Log an event so often, and return how many lines passed."""
        before = len(self.kept.records)
        for _ in range(times):
            self.logger.info(event)
        return self.kept.events[before:].count(event)


@pytest.mark.usefixtures("lines")
def test_a_too_frequent_event_is_suppressed_and_reported_once() -> None:
    flood = Flood()
    for _ in range(5):
        flood.logger.info("pool.connection_failed")
    flood.logger.info("something.else")
    assert flood.kept.events == ["pool.connection_failed"] * 2 + ["something.else"]
    flood.clock.advance(10)
    flood.logger.info("something.else")
    told = flood.kept.records[-2]
    assert (told.msg, told.levelname) == ("log.suppressed", "WARNING")
    assert (vars(told)["suppressed_event"], vars(told)["count"]) == ("pool.connection_failed", 3)
    assert flood.kept.events[-1] == "something.else"
    assert flood.observer.events == [LogsSuppressed("pool.connection_failed", 3)]


@pytest.mark.usefixtures("lines")
def test_the_end_does_not_wait_until_it_is_time_to_tell() -> None:
    flood = Flood()
    flood.filter.tell(at_once=True)
    for _ in range(5):
        flood.logger.info("a.b")
    flood.filter.tell(at_once=True)
    assert flood.observer.events == [LogsSuppressed("a.b", 3)]


@pytest.mark.usefixtures("lines")
def test_a_message_that_is_no_event_counts_for_its_logger_and_names_nothing() -> None:
    cases: list[object] = [
        "no event: %s",
        "user.7 said hello",
        "a.b" * 30,
        "Traceback",
        7,
        "deadbeef",
    ]
    with every() as case:
        for message in cases:
            with case(message):
                flood = Flood()
                for number in range(4):
                    record = {
                        "name": "a.server",
                        "msg": message,
                        "args": (number,),
                        "levelno": logging.INFO,
                    }
                    flood.logger.handle(logging.makeLogRecord(record))
                flood.clock.advance(10)
                flood.filter.tell()
                assert flood.observer.events == [LogsSuppressed("a.server", 2)]


@pytest.mark.usefixtures("lines")
def test_an_event_has_its_lines_anew_each_second() -> None:
    flood = Flood(20)
    assert flood.passed("a.b", 100) == 20
    flood.clock.advance(0.99)
    assert flood.passed("a.b", 100) == 0
    flood.clock.advance(0.01)
    assert flood.passed("a.b", 100) == 20


@pytest.mark.usefixtures("lines")
def test_an_event_takes_nothing_from_another() -> None:
    flood = Flood(1)
    assert [flood.passed(event, 1) for event in ("a.b", "a.b", "c.d")] == [1, 0, 1]


@pytest.mark.usefixtures("lines")
def test_suppressed_lines_are_reported_once_ten_seconds_after_the_first() -> None:
    flood = Flood(1)
    flood.passed("a.b", 4)
    flood.passed("c.d", 1)
    flood.clock.advance(9)
    flood.passed("e.f", 2)
    flood.clock.advance(0.99)
    flood.filter.tell()
    assert flood.observer.events == []
    flood.clock.advance(0.01)
    flood.filter.tell()
    first = [LogsSuppressed("a.b", 3), LogsSuppressed("e.f", 1)]
    assert flood.observer.events == first
    flood.clock.advance(1000)
    assert flood.passed("a.b", 3) == 1
    assert flood.observer.events == first
    flood.clock.advance(10)
    flood.filter.tell()
    assert flood.observer.events == [*first, LogsSuppressed("a.b", 2)]


def test_a_clock_that_steps_back_begins_no_new_second() -> None:
    now, kept = iter([1000.0, 500.0, 500.0]), Lines()
    kept.addFilter(FloodFilter(2, clock=lambda: next(now)))
    for _ in range(3):
        kept.handle(logging.makeLogRecord({"msg": "a.b"}))
    assert kept.events == ["a.b"] * 2


@pytest.mark.usefixtures("lines")
def test_events_beyond_the_most_share_one_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postfacta_core.telemetry.logs._MOST_KINDS", 2)
    flood = Flood(1)
    assert [flood.passed(f"{letter}.x", 1) for letter in "abcd"] == [1, 1, 1, 0]
    flood.filter.tell(at_once=True)
    assert flood.observer.events == [LogsSuppressed("_OTHER", 1)]


@given(st.lists(st.floats(0, 5), min_size=1, max_size=200))
@pytest.mark.usefixtures("lines")
def test_no_event_has_more_lines_than_its_seconds_allow(gaps: list[float]) -> None:
    flood, passed = Flood(3), 0
    for gap in gaps:
        flood.clock.advance(gap)
        passed += flood.passed("a.b", 1)
    assert passed <= 3 * (1 + sum(gaps) // 1)
    flood.filter.tell(at_once=True)
    assert passed + sum(told.count for told in flood.observer.of(LogsSuppressed)) == len(gaps)


def test_a_filter_that_lets_nothing_through_is_refused() -> None:
    with pytest.raises(ValueError, match=r"FloodFilter\.most must be a whole number"):
        FloodFilter(0)


@pytest.mark.usefixtures("lines")
def test_access_lines_are_not_held_back_a_second_time() -> None:
    flood = Flood()
    log = AccessLog()
    for _ in range(50):
        log.end(ended(503, error_type="shed"))
    assert len(flood.kept.records) == 50


@pytest.mark.usefixtures("lines")
def test_an_observer_that_raises_costs_no_line() -> None:
    def raises(event: Event, /) -> None:
        raise ValueError

    flood = Flood()
    flood.filter.observer = raises
    for _ in range(3):
        flood.logger.info("a.b")
    flood.clock.advance(10)
    flood.logger.info("a.b")
    assert flood.kept.events == ["a.b", "a.b", "log.suppressed", "a.b"]


def test_a_request_that_waited_to_be_admitted_says_for_how_long(lines: Lines) -> None:
    waited, admitted = ended(), ended()
    waited.request.queued = 0.012_345_6
    for exchange in (waited, admitted):
        AccessLog().end(exchange)
    assert [vars(record).get("queue_ms") for record in lines.records] == [12.346, None]


def test_with_any_formatter_an_access_record_reads_as_a_line(lines: Lines) -> None:
    exchange = ended(503, error_type="shed", seconds=0.0123)
    exchange.path = "/invoices/\x1b[2J\u2028/7"
    AccessLog(service="billing").end(exchange)
    text = logging.Formatter().format(lines.records[0])
    assert text == (
        r"http.request GET /invoices/\x1b[2J\u2028/7 503 12.3ms error_type=shed request_id=a-good-request-id"
    )


def test_with_any_formatter_an_event_reads_as_a_line(lines: Lines) -> None:
    EventLog()(health(up=False))
    assert logging.Formatter().format(lines.records[0]) == (
        "health.changed check=db critical=True up=False error=refused"
    )


def test_a_message_holds_no_secret(lines: Lines) -> None:
    EventLog()(ListenerFailed("db", "OSError('password:canary')"))
    assert "canary" not in lines.records[0].getMessage()


def test_a_text_that_a_queue_made_stays_as_it_is(lines: Lines) -> None:
    EventLog()(ListenerFailed("db", "boom"))
    (record,) = lines.records
    record.msg = text = record.getMessage()
    assert record.getMessage() == text


def test_a_level_that_is_off_costs_no_event_record(lines: Lines) -> None:
    LOGGER.setLevel(logging.CRITICAL)
    EventLog()(ListenerFailed("db", "boom"))
    assert lines.records == []


@pytest.mark.parametrize("error", [None, ValueError("no")])
def test_a_websocket_is_one_line_with_its_end(lines: Lines, error: Exception | None) -> None:
    exchange = SocketExchange(RequestContext(ID, 1000.0), "GET", "/rooms/7")
    exchange.outcome, exchange.close_code, exchange.seconds, exchange.error = (
        "left",
        1001,
        1.5,
        error,
    )
    log = AccessLog(service="chat")
    log.closed(exchange)
    (record,) = lines.records
    assert (record.msg, record.levelno) == (
        "websocket.closed",
        logging.ERROR if error else logging.INFO,
    )
    assert record.getMessage().startswith("websocket.closed ")
    fields = vars(record)
    assert (fields["outcome"], fields["close_code"], fields["duration_ms"]) == (
        "left",
        1001,
        1500.0,
    )
    assert (fields["service"], fields["request_id"], bool(record.exc_info)) == (
        "chat",
        ID,
        bool(error),
    )
    LOGGER.setLevel(logging.CRITICAL)
    log.closed(exchange)
    assert len(lines.records) == 1


def test_of_refused_handshakes_the_first_of_a_client_and_minute_is_written(lines: Lines) -> None:
    log = AccessLog(sampler=AccessSampler(100))
    for _ in range(500):
        exchange = SocketExchange(RequestContext(ID, 1000.0), "GET", "/rooms/7")
        exchange.client, exchange.outcome = "198.51.100.1", "refused"
        log.closed(exchange)
    assert 1 <= len(lines.records) < 50


def test_a_forked_process_replaces_what_is_constant_and_adds_nothing() -> None:
    formatter = JsonFormatter({"service": "billing", "instance": "parent"})
    record = logging.makeLogRecord({"msg": "a.line", "name": "a.library"})
    assert json.loads(formatter.format(record))["instance"] == "parent"
    formatter.replace(instance="child", zone="a")
    line = json.loads(formatter.format(record))
    assert (line["service"], line["instance"]) == ("billing", "child")
    assert "zone" not in line


def test_a_forked_process_reports_no_lines_that_its_parent_suppressed(lines: Lines) -> None:
    flood = FloodFilter(1, clock=lambda: 1000.0)
    record = logging.makeLogRecord({"msg": "a.flood", "name": "a.library"})
    assert [flood.filter(record) for _ in range(3)] == [True, False, False]
    flood.restart()
    flood.tell(at_once=True)
    assert lines.records == []
