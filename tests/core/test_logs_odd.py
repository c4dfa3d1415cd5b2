"""Whatever is logged, the caller goes on, and there is one line that can be read."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Generator, Mapping
from typing import Any

import pytest

from postfacta_core import logs
from postfacta_core.telemetry.logs import ConsoleFormatter
from tests.kit.every import every

# Below no other: pytest has handlers of its own, which are not as patient.
LOG = logging.getLoggerClass()("tests.odd")


class Frame:
    """Compares as a DataFrame or an array does."""

    def __eq__(self, other: object) -> Any:
        return Frame()

    def __hash__(self) -> int:
        return 7

    def __bool__(self) -> bool:
        raise ValueError("the truth value is ambiguous")

    def __repr__(self) -> str:
        return "a frame"


class Mute:
    """Has no text."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")


class Endless(Mapping[str, object]):
    """Raises as soon as one looks inside."""

    def __getitem__(self, key: str) -> object:
        raise RuntimeError(key)

    def __iter__(self) -> Any:
        raise RuntimeError("no keys")

    def __len__(self) -> int:
        return 1


circle: list[object] = []
circle.append(circle)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Generator[Any]:
    """Return what reads the lines that were logged since the last time."""
    reader, writer = os.pipe()
    monkeypatch.setattr(logs, "_STDOUT", writer)
    root = logging.getLogger()
    before = root.handlers[:], root.level
    handler = logs.configure()
    LOG.handlers[:] = [handler]

    def read() -> list[bytes]:
        handler.flush()
        return os.read(reader, 1_000_000).splitlines()

    yield read
    handler.close()
    root.handlers[:], root.level = before
    os.close(reader)
    os.close(writer)


def strict(line: bytes) -> dict[str, Any]:
    """Read JSON as those do that know neither NaN nor Infinity."""
    read: dict[str, Any] = json.loads(line, parse_constant=pytest.fail)
    return read


MESSAGES: list[tuple[object, tuple[object, ...]]] = [
    *((Frame(), ()), ({"a": Frame()}, ()), (b"bytes", ()), (None, ()), (7, ()), (ValueError("no"), ())),
    *((Mute(), ()), ("%s", (Mute(),)), ("%d", ("no number",)), ("%s and %s", ("one",)), ("%(name)s", ({},))),
    *(("half \ud800", ()), ("line\nbreak \x1b[2J", ())),
]  # fmt: skip
FIELDS: list[object] = [
    *(Frame(), Mute(), Endless(), circle, b"\xff", {1, 2}, 10**5000, object, float("nan"), [float("inf")]),
    *({b"k": 1}, {("a", 1): 2}, {None: 3}, {float("nan"): 4}, {"deep": {Frame(): Mute()}}, "half \ud800"),
]  # fmt: skip


@pytest.mark.parametrize("form", ["json", "console"])
def test_any_message_and_any_field_is_one_line(form: str, written: Any) -> None:
    if form == "console":
        LOG.handlers[0].setFormatter(ConsoleFormatter())
    with every() as case:
        for message, arguments in MESSAGES:
            with case(type(message).__name__, arguments):
                LOG.warning(message, *arguments)
                (line,) = written()
                assert form == "console" or strict(line)["logger"] == "tests.odd"
        for value in FIELDS:
            with case(type(value).__name__):
                LOG.warning("odd", extra={"value": value, "beside": 7})
                (line,) = written()
                assert b"odd" in line
                assert form == "console" or strict(line)["beside"] == 7


def test_a_key_that_is_no_text_becomes_one(written: Any) -> None:
    LOG.warning("odd", extra={b"bytes": 1, ("a", "tuple"): 2, None: 3})  # type: ignore[dict-item] # the point of it
    (line,) = written()
    read = strict(line)
    assert [read["bytes"], read["('a', 'tuple')"], read["None"]] == [1, 2, 3]


def test_a_secret_key_that_is_no_text_hides_its_value(written: Any) -> None:
    LOG.warning("odd", extra={b"password": "canary", "deep": {b"token": "canary"}})  # type: ignore[dict-item] # see above
    (line,) = written()
    assert b"canary" not in line


def test_a_field_never_replaces_what_every_line_has(written: Any) -> None:
    LOG.warning(
        "real", extra={"level": "debug", "event": "forged", "timestamp": "now", "logger": "other"}
    )
    (line,) = written()
    read = strict(line)
    assert (read["level"], read["event"], read["logger"]) == ("warning", "real", "tests.odd")
    assert read["timestamp"].endswith("Z")
    assert [read[f"extra.{name}"] for name in ("level", "event", "logger")] == [
        "debug",
        "forged",
        "other",
    ]


def test_a_line_that_cannot_be_made_leaves_one_that_says_so(written: Any) -> None:
    class Broken(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            raise RuntimeError("password=canary")

    LOG.handlers[0].setFormatter(Broken())
    LOG.warning("lost %s", "words")
    (line,) = written()
    read = strict(line)
    assert (read["event"], read["logger"], read["template"]) == (
        "log.broken",
        "tests.odd",
        "lost %s",
    )
    assert read["error_type"] == "RuntimeError"


def test_a_pipe_that_does_not_block_gets_each_line_whole(
    written: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    handler = logs.LineWriter(writer)
    handler.removeFilter(handler.flood)
    LOG.handlers[:] = [handler]
    for number in range(600):
        LOG.warning("%d %s", number, "x" * 1000)
    data, end = b"", time.monotonic() + 60
    while data.count(b"\n") < 600 and time.monotonic() < end:
        data += os.read(reader, 4096)
    handler.close()
    os.close(reader)
    os.close(writer)
    assert [int(line.split()[0]) for line in data.splitlines()] == list(range(600))


def test_a_line_after_a_torn_one_begins_a_new_line(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []

    def write(_: int, data: bytes) -> int:
        if not written:
            written.append(bytes(data[:5]))
            return 5
        if len(written) == 1:
            written.append(b"")
            raise OSError(28, "No space left on device")
        written.append(bytes(data))
        return len(data)

    monkeypatch.setattr(os, "write", write)
    handler = logs.LineWriter(1)
    LOG.handlers[:] = [handler]
    LOG.warning("the first")
    handler.flush()
    LOG.warning("the second")
    handler.flush()
    handler.close()
    assert b"".join(written).splitlines()[:2] == [b"the f", b"the second"]


def test_a_second_configuration_leaves_no_thread_behind(written: Any) -> None:
    before = threading.active_count()
    for _ in range(5):
        logs.configure()
    assert threading.active_count() == before
    logging.getLogger().handlers[0].close()


def test_a_line_after_the_end_is_written_at_once(written: Any) -> None:
    LOG.handlers[0].close()
    LOG.warning("last words")
    (line,) = written()
    assert strict(line)["event"] == "last words"


def test_the_filter_of_servers_takes_any_message(written: Any) -> None:
    for message, arguments in (("%d", ("no number",)), (Frame(), ())):
        record = logging.LogRecord(
            "uvicorn.error", logging.WARNING, "a.py", 7, message, arguments, None
        )
        assert logging.getLogger("uvicorn.error").filter(record)
