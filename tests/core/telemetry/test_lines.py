"""A line holds what the record says, and nothing that harms who reads it."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Generator
from contextlib import contextmanager
from itertools import product
from typing import Any

from postfacta_core.context import RequestContext, bind_request, release_request
from postfacta_core.events import ListenerFailed
from postfacta_core.telemetry.exchange import Exchange
from postfacta_core.telemetry.logs import (
    LOGGER,
    AccessLog,
    ConsoleFormatter,
    EventLog,
    EventRecord,
    JsonFormatter,
    RequestFilter,
    access_values,
)
from tests.kit.every import every


def record(
    message: str = "sent", *, level: int = logging.INFO, **fields: object
) -> logging.LogRecord:
    made = logging.LogRecord("shop", level, "shop.py", 7, message, (), None)
    made.created = 1_790_000_000.000_25
    made.__dict__.update(fields)
    return made


def failed() -> Any:
    try:
        raise ValueError("no \x1b[2J, password:canary")  # noqa: TRY301 - the stack trace is what is looked at
    except ValueError:
        return sys.exc_info()


@contextmanager
def listening(*filters: logging.Filter) -> Generator[list[logging.LogRecord]]:
    """Keep what the library logs."""
    kept: list[logging.LogRecord] = []
    handler, level = logging.Handler(), LOGGER.level
    handler.filters.extend(filters)
    handler.emit = kept.append  # type: ignore[assignment,method-assign]
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    try:
        yield kept
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)


def test_json_has_the_event_and_each_field() -> None:
    with listening() as kept:
        EventLog()(ListenerFailed("db", "boom"))
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


def exchange(path: str = "/items/7", **fields: Any) -> Exchange:
    request = RequestContext("request-12345", 100.0)
    request.caller_timeout, request.queued, request.principal = (
        fields.pop("asked", math.inf),
        fields.pop("queued", 0.0),
        fields.pop("principal", ""),
    )
    made = Exchange(request, fields.pop("method", "GET"), path)
    made.status, made.route, made.seconds = 200, "/items/{id}", 0.001_234_5
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def by_record(made: Exchange, formatter: JsonFormatter) -> dict[str, Any]:
    """Return the line of an exchange by way of a record and its filters."""
    token = bind_request(made.request)
    with listening(RequestFilter()) as kept:
        AccessLog(service="billing").end(made)
    release_request(token)
    kept[0].created = 1_790_000_000.25
    line: dict[str, Any] = json.loads(formatter.format(kept[0]))
    return line


def test_a_line_without_a_record_is_that_of_the_record() -> None:
    formatters = [JsonFormatter({"service": "shop", "version": "1.2"}), JsonFormatter()]
    constant = {"service": "billing"}
    cases = [
        exchange(),
        exchange('/a"b\\c\n\ud800é', principal="anna\u2028", client="2001:db8::1", method='G"ET'),
        exchange(asked=1.5, queued=0.25, request_bytes=7, response_bytes=9, traffic="load"),
        exchange(status=499, error_type="callers_deadline", seconds=12.0),
    ]
    with every() as case:
        for made, formatter in product(cases, formatters):
            with case(made.path):
                line = formatter.access_line(access_values(made), 1_790_000_000.25, constant)
                assert line is not None
                assert json.loads(line) == by_record(made, formatter)


def test_a_line_that_stands_for_several_says_so_and_one_with_a_secret_needs_a_record() -> None:
    formatter = JsonFormatter()
    line = formatter.access_line(access_values(exchange(), 7), 1.0, {})
    assert line is not None
    assert json.loads(line)["sample_rate"] == 7
    with_a_secret = access_values(exchange("/?token=canary-of-a-secret"))
    assert formatter.access_line(with_a_secret, 1.0, {}) is None


def test_a_line_has_at_most_2_kb_of_a_path() -> None:
    for path in (
        "/" + "a" * 60_000,
        "/" + "\U0001f4a3" * 60_000,
        "/" + "\x01" * 60_000,
        "/" + "\u00e9" * 400,
    ):
        exchange = Exchange(RequestContext("a-request-id", 0.0), "GET" * 20_000, path)
        exchange.status = 404
        text = JsonFormatter().access_line(access_values(exchange), 0.0, {})
        assert text is not None
        assert len(text) < 2048 + 600
        assert path.startswith(json.loads(text)["path"].removesuffix("...")[:10])


def test_a_refusals_line_has_at_most_512_bytes_of_a_path() -> None:
    for path in ("/" + "a" * 60_000, "/" + "\U0001f4a3" * 500):
        exchange = Exchange(RequestContext("a-request-id", 0.0), "GET", path)
        exchange.route = "_prerouting"
        assert len(json.dumps(access_values(exchange)[1][2])) <= 512 + 2


def test_a_path_that_fits_into_a_line_is_whole() -> None:
    for path in ("/" + "a" * 2047, "/" + "\u00e9" * 341, "/items/7"):
        exchange = Exchange(RequestContext("a-request-id", 0.0), "GET", path)
        assert access_values(exchange)[1][2] == path
    exchange = Exchange(RequestContext("a-request-id", 0.0), "GET", "/" + "a" * 2048)
    assert access_values(exchange)[1][2] == "/" + "a" * 2044 + "..."


def test_no_value_of_a_text_line_reads_as_another_field() -> None:
    fields: dict[str, Any] = {"title": 'x request_id=forged "quoted"', "odd key": "2"}
    line = ConsoleFormatter().format(record(**fields))
    assert line.endswith(r'sent title="x request_id=forged \"quoted\"" "odd key"=2')
    forged = exchange("/a 200 3.1ms request_id=forged", method="GET /")
    with listening() as kept:
        AccessLog().end(forged)
    assert (
        kept[0]
        .getMessage()
        .startswith('http.request "GET /" "/a 200 3.1ms request_id=forged" 200 1.2ms ')
    )
