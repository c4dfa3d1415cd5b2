"""A line holds what the record says, and nothing that harms who reads it."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from postfacta_core.events import ListenerFailed
from postfacta_core.telemetry.lines import ConsoleFormatter, JsonFormatter
from postfacta_core.telemetry.logs import EventLog, EventRecord
from tests.kit.every import every


def record(message: str = "sent", *, level: int = logging.INFO, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("shop", level, "shop.py", 7, message, (), None)
    made.created = 1_790_000_000.000_25
    made.__dict__.update(fields)
    return made


def failed() -> Any:
    try:
        raise ValueError("no \x1b[2J, password:canary")  # noqa: TRY301 - the stack trace is what is looked at
    except ValueError:
        return sys.exc_info()


def test_json_has_the_event_and_each_field() -> None:
    kept: list[logging.LogRecord] = []
    logger = logging.Logger("postfacta")  # noqa: LOG001 - nobody else is to find it
    handler = logging.Handler()
    handler.handle = kept.append  # type: ignore[assignment,method-assign]
    logger.addHandler(handler)
    EventLog(logger)(ListenerFailed("db", "boom"))
    assert isinstance(kept[0], EventRecord)
    line = json.loads(JsonFormatter({"service": "shop"}).format(kept[0]))
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "error",
        "event": "listener.failed",
        "logger": "postfacta",
        "service": "shop",
        "policy": "db",
        "error": "boom",
    }


def test_json_writes_what_another_encoder_cannot() -> None:
    def encode(members: object) -> str:
        raise ValueError(members)

    assert json.loads(JsonFormatter(encode=encode).format(record(half="\ud800")))["half"] == "\ud800"
    assert JsonFormatter(encode=lambda members: "fast").format(record()) == "fast"


def test_json_has_the_error_without_secrets() -> None:
    line = JsonFormatter().format(record(exc_info=failed()))
    assert json.loads(line)["exception.type"] == "builtins.ValueError"
    assert "canary" not in line


def test_text_is_one_line_with_the_fields_that_say_something() -> None:
    fields: dict[str, Any] = {"count": 3, "empty": "", "request_id": "abc", "password": "two words"}
    line = ConsoleFormatter().format(record(**fields))
    assert line == "2026-09-21T14:13:20.000Z INFO     shop: sent count=3 password=[redacted]"


def test_text_escapes_what_would_move_the_cursor_or_end_the_line() -> None:
    cases = ["\x1b[2J", "\x07", "\u2028", "\n2026 ERROR forged", "\r", "\x9b", "\u202e"]
    with every() as case:
        for hostile in cases:
            with case(hostile):
                line = ConsoleFormatter().format(record(f"sent{hostile}", name_of_it=hostile))
                assert line.isprintable()
                assert ascii(hostile)[1:-1] in line


def test_text_has_the_stack_trace_below() -> None:
    first, *rest = ConsoleFormatter().format(record(exc_info=failed())).split("\n")
    assert first.endswith("shop: sent")
    assert rest[0] == "Traceback (most recent call last):"
    assert rest[-1] == r"ValueError: no \x1b[2J, password:[redacted]"


def test_a_text_without_an_error_has_no_stack_trace() -> None:
    assert "\n" not in ConsoleFormatter().format(record(exc_info=(None, None, None)))


def test_warnings_and_errors_have_a_colour_where_one_is_wanted() -> None:
    assert "\x1b[33mWARNING \x1b[0m" in ConsoleFormatter(colours=True).format(record(level=logging.WARNING))
    assert "\x1b" not in ConsoleFormatter(colours=True).format(record())
