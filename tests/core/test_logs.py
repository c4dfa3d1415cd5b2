"""A log line is one object with the names that operators search for, and holds no secret."""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest

from postfacta_core import logs
from postfacta_core.context import RequestContext, bind_request, release_request
from postfacta_core.events import LogsSuppressed, process_observer
from postfacta_core.logs import LineWriter, instance
from postfacta_core.telemetry.exchange import Exchange
from postfacta_core.telemetry.logs import AccessLog, FloodFilter
from postfacta_core.testing import RecordingObserver


@pytest.fixture(autouse=True)
def root_logger() -> Generator[None]:
    """Restore the process's own logging.

    Tests that served with uvicorn in this process left its levels behind.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    yield
    for handler in set(root.handlers) - set(handlers):
        handler.flush()
    root.handlers[:] = handlers
    root.setLevel(level)


def configure(**options: Any) -> LineWriter:
    return logs.configure(service="billing", version="1.2.3", environment="production", **options)


def said(capture: pytest.CaptureFixture[str]) -> str:
    logging.getLogger().handlers[0].flush()
    return capture.readouterr().out


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Generator[tuple[int, int]]:
    """Give both ends of a pipe that stands for standard output."""
    reader, writer = os.pipe()
    monkeypatch.setattr(logs, "_STDOUT", writer)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def read_lines(reader: int, last: str) -> list[dict[str, Any]]:
    """Read until an event has come."""
    data, end = b"", time.monotonic() + 20
    while True:
        ready, _, _ = select.select([reader], [], [], 1)
        data += os.read(reader, 65536) if ready else b""
        lines = [json.loads(line) for line in data.splitlines()] if data.endswith(b"\n") else []
        if any(line["event"] == last for line in lines):
            return lines
        assert time.monotonic() < end, f"no line {last}"


def test_json_lines_carry_the_service_the_request_and_the_fields(
    capfd: pytest.CaptureFixture[str],
) -> None:
    configure()
    token = bind_request(RequestContext("request-12345", 0.0))
    logging.getLogger("postfacta.test").warning("something.happened", extra={"retry_after": 2.5})
    release_request(token)
    line = json.loads(said(capfd))
    assert line["event"] == "something.happened"
    assert line["level"] == "warning"
    assert line["logger"] == "postfacta.test"
    assert line["request_id"] == "request-12345"
    assert line["retry_after"] == 2.5
    assert (line["service"], line["version"], line["environment"]) == (
        "billing",
        "1.2.3",
        "production",
    )
    assert line["timestamp"].endswith("Z")
    ids = {"request_id", "trace_id", "span_id", "trace_flags"}
    constant = {"service", "version", "environment", "instance"}
    assert set(line) == {"timestamp", "level", "event", "logger", "retry_after"} | ids | constant


def test_a_line_that_speaks_of_no_exception_has_none(capfd: pytest.CaptureFixture[str]) -> None:
    configure()
    logging.getLogger("test").error("no.crash", exc_info=True)  # noqa: LOG014 - as careless code does
    assert not [name for name in json.loads(said(capfd)) if name.startswith("exception")]


def test_each_process_has_a_name_of_its_own_which_spans_have_too(
    capfd: pytest.CaptureFixture[str],
) -> None:
    configure()
    logging.getLogger("test").error("one.line")
    assert json.loads(said(capfd))["instance"] == instance()
    assert instance().endswith(f"-{os.getpid()}")


def test_an_event_that_comes_too_often_is_held_back_and_counted(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_LOOK", 0.01)
    monkeypatch.setattr("postfacta_core.telemetry.logs._TELL_AFTER", 0.001)
    configure()
    [handler] = logging.getLogger().handlers
    assert isinstance(handler, LineWriter)
    assert handler.flood.observer is process_observer
    handler.flood = FloodFilter(3)
    handler.filters[:] = [handler.flood]
    observer = RecordingObserver()
    process_observer.use(observer)
    for _ in range(10):
        logging.getLogger("test").info("the.same")
    end = time.monotonic() + 20
    # Nobody logs any more: the handler's own thread looks.
    while sum(event.count for event in observer.of(LogsSuppressed)) < 7:
        assert time.monotonic() < end
        time.sleep(0.01)  # noqa: TID251 - there is no loop to block
    lines = [json.loads(line) for line in said(capfd).splitlines()]
    assert [line["event"] for line in lines].count("the.same") == 3
    told = [line for line in lines if line["event"] == "log.suppressed"]
    assert {line["suppressed_event"] for line in told} == {"the.same"}
    assert sum(line["count"] for line in told) == 7


@pytest.mark.parametrize("style", ["json", "console"])
def test_secrets_reach_no_sink(capfd: pytest.CaptureFixture[str], style: str) -> None:
    configure(format=style)
    extra = {"password": "canary-1", "headers": {"authorization": "Bearer canary-2"}}
    logging.getLogger("test").error("at postgresql://me:canary-3@host/db", extra=extra)
    try:
        raise ValueError("postgresql://me:canary-4@host/db")  # noqa: TRY301 - the stack trace is what is looked at
    except ValueError:
        logging.getLogger("test").exception(
            "crashed", extra={"deep": [{"note": "Bearer canary-55555"}]}
        )
    out = said(capfd)
    assert "ValueError" in out
    assert "canary" not in out


def test_text_lines_leave_out_what_is_empty(capfd: pytest.CaptureFixture[str]) -> None:
    configure(format="console")
    logging.getLogger("test").info("quiet", extra={"color_message": "x"})
    text = said(capfd)
    assert "request_id" not in text
    assert "color_message" not in text


def test_the_servers_own_word_on_a_crash_is_not_a_second_line(
    capfd: pytest.CaptureFixture[str],
) -> None:
    configure()
    logging.getLogger("uvicorn.error").error("Exception in ASGI application\n")
    assert said(capfd) == ""


def test_levels_below_the_setting_are_not_written(capfd: pytest.CaptureFixture[str]) -> None:
    configure(level="error")
    logging.getLogger("test").warning("too low")
    assert said(capfd) == ""


def test_a_line_tells_its_time_to_the_microsecond_in_utc(capfd: pytest.CaptureFixture[str]) -> None:
    configure()
    record = logging.makeLogRecord({"msg": "then", "levelno": 40, "created": 1_790_000_000.000_25})
    logging.getLogger().handle(record)
    assert json.loads(said(capfd))["timestamp"] == "2026-09-21T14:13:20.000250Z"


def test_lines_wait_for_each_other_but_a_warning_waits_for_nothing(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_COLLECT", 60.0)
    configure()
    log = logging.getLogger("test")
    log.info("first")
    log.info("second")
    assert not select.select([pipe[0]], [], [], 0.2)[0]
    log.warning("third")
    assert [line["event"] for line in read_lines(pipe[0], "third")] == ["first", "second", "third"]


def test_a_line_below_a_warning_is_written_soon_too(pipe: tuple[int, int]) -> None:
    configure()
    logging.getLogger("test").info("one")
    assert read_lines(pipe[0], "one")
    logging.getLogger("test").info("two")
    assert read_lines(pipe[0], "two")


def test_without_a_reader_no_request_waits_and_drops_are_counted(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_COLLECT", 60.0)
    monkeypatch.setattr(logs, "_MOST_LINES", 100)
    configure()
    log = logging.getLogger("test")
    for _ in range(89):
        log.info("x" * 1000)
    log.warning("x" * 1000)  # These are more than a pipe holds: now the thread waits.
    end = time.monotonic() + 20
    while select.select([], [pipe[1]], [], 0)[1]:
        assert time.monotonic() < end
    for _ in range(30):
        log.warning("y" * 1000)
    lines = read_lines(pipe[0], "log.dropped")
    told = [line.get("count", line["event"][0]) for line in lines]
    assert sorted(told, key=str) == [20, *"x" * 90, *"y" * 10]


def test_a_reader_that_is_gone_ends_nothing_and_is_reported(pipe: tuple[int, int]) -> None:
    configure()
    reader, writer = os.pipe()
    os.dup2(writer, pipe[1])
    os.close(writer)
    os.close(reader)  # Now nobody reads.
    logging.getLogger("test").warning("lost")
    logging.getLogger().handlers[0].flush()
    reader, writer = os.pipe()
    os.dup2(writer, pipe[1])
    os.close(writer)
    logging.getLogger("test").warning("found")
    lines = read_lines(reader, "log.dropped")
    os.close(reader)
    assert [line.get("count", line["event"]) for line in lines] == ["found", 1]


_PROGRAM = """
import logging, sys
from postfacta_core import logs
logs.configure()
for number in range(int(sys.argv[1])):
    logging.getLogger(f"one.of.{number % 10}").info("x" * 1000)
"""


@pytest.mark.usefixtures("programs")
def test_the_end_of_the_process_loses_no_line() -> None:
    command = [sys.executable, "-c", _PROGRAM, "300"]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=60, check=True)  # noqa: S603 - our own
    assert len(done.stdout.splitlines()) == 300


@pytest.mark.usefixtures("programs")
def test_the_end_of_the_process_tells_what_was_held_back() -> None:
    command = [sys.executable, "-c", _PROGRAM, "4000"]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=60, check=True)  # noqa: S603 - our own
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    told = {
        line["suppressed_event"]: line["count"]
        for line in lines
        if line["event"] == "log.suppressed"
    }
    assert set(told) == {f"one.of.{number}" for number in range(10)}
    assert sum(told.values()) + len(lines) - len(told) == 4000


@pytest.mark.usefixtures("programs")
def test_a_reader_that_is_stuck_does_not_keep_the_process_from_its_end() -> None:
    command = [sys.executable, "-c", _PROGRAM, "300"]
    out = subprocess.PIPE
    with subprocess.Popen(command, stdout=out, stderr=out) as process:  # noqa: S603 - our own
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


_FORKS = """
import logging, os, sys, threading
from postfacta_core import logs
handler = logs.configure()
log = logging.getLogger("test")
lines = 50
for number in range(lines):
    log.info("parent.before")
busy = threading.Event()
holder = threading.Thread(target=lambda: (handler.flood._lock.acquire(), busy.set()), daemon=True)
if sys.argv[1] == "held":
    holder.start()
    busy.wait()
child = os.fork()
if not child:
    for number in range(lines):
        log.info("child.line")
    logging.shutdown()
    os._exit(0)
if sys.argv[1] == "held":
    handler.flood._lock.release()
os.waitpid(child, 0)
log.info("parent.after")
"""


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("lock", ["free", "held"])
def test_a_forked_process_writes_its_own_lines_and_no_line_twice(lock: str) -> None:
    command = [sys.executable, "-c", _FORKS, lock]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=60, check=True)  # noqa: S603 - our own
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    counts = Counter((line["event"], line["instance"]) for line in lines)
    assert {event: count for (event, _), count in counts.items()} == {
        "parent.before": 50,
        "child.line": 50,
        "parent.after": 1,
    }
    assert len({instance for _, instance in counts}) == 2


@pytest.mark.parametrize(
    "options", [{"format": "xml"}, {"format": None}, {"level": "LOUD"}, {"level": 10}], ids=repr
)
def test_a_wrong_setting_is_refused(options: dict[str, Any]) -> None:
    [(field, value)] = options.items()
    handlers = logging.getLogger().handlers[:]
    with pytest.raises(ValueError, match=rf"{field}=\) must be .*, not {value!r}; for example"):
        configure(**options)
    assert logging.getLogger().handlers == handlers


def test_the_lines_of_a_server_go_with_the_rest_and_its_access_lines_nowhere(
    capfd: pytest.CaptureFixture[str],
) -> None:
    server, access = logging.getLogger("uvicorn.error"), logging.getLogger("uvicorn.access")
    for logger in (server, access):
        logger.addHandler(logging.StreamHandler(sys.stdout))
        logger.propagate = False
    configure()
    server.info("started")
    access.info("127.0.0.1 - GET / 200")
    (line,) = said(capfd).splitlines()
    assert json.loads(line)["event"] == "started"
    access.propagate = True


def test_an_access_line_needs_no_record_unless_a_filter_wants_to_see_one(
    capfd: pytest.CaptureFixture[str],
) -> None:
    handler = configure()
    seen: list[logging.LogRecord] = []

    class Watching(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            seen.append(record)
            return True

    log, request = AccessLog(service="billing"), RequestContext("request-12345", 0.0)
    made = Exchange(request, "GET", "/items/7")
    made.status, made.route = 200, "/items/{id}"
    lines: list[dict[str, Any]] = []
    for watches in (False, True):
        if watches:
            handler.addFilter(Watching())
        token = bind_request(request)
        log.end(made)
        release_request(token)
        lines.append(json.loads(said(capfd)))
        assert len(seen) == watches
    for line in lines:
        assert line.pop("timestamp").endswith("Z")
    assert lines[0] == lines[1]
    assert lines[0]["request_id"] == "request-12345"
    handler.removeFilter(handler.filters[-1])
    formatter, seen[:] = handler.formatter, []
    handler.setFormatter(logging.Formatter("own %(levelname)s"))
    log.end(made)
    assert said(capfd) == "own INFO\n"
    handler.setFormatter(formatter)
    handler.addFilter(Watching())
    with_a_secret = Exchange(request, "GET", "/items/password=canary-of-a-secret")
    log.end(with_a_secret)
    assert "canary" not in said(capfd)
    assert len(seen) == 1
