"""Format log records as lines without secrets: JSON for machines, text for people."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from .exchange import Exchange
from .failure import failure_fields
from .logs import STANDARD, EventRecord, printable, shown
from .redaction import redact, redact_text

__all__ = ["ConsoleFormatter", "JsonFormatter"]

# What uvicorn adds for its own colours.
_HIDDEN: Final = frozenset({"color_message", "service", "request_id", "trace_id", "span_id", "trace_flags"})
_COLOURS: Final = {logging.WARNING: "\x1b[33m", logging.ERROR: "\x1b[31m", logging.CRITICAL: "\x1b[31m"}


class JsonFormatter(logging.Formatter):
    """Write a record as one JSON object: its time, level, event, logger, and each of its fields.

    Args:
        constant: Further members of each line, such as the service and its version.
        encode: Writes the members as JSON; it may raise `ValueError` for what it cannot write.
    """

    def __init__(
        self, constant: Mapping[str, object] | None = None, *, encode: Callable[[Any], str] | None = None
    ) -> None:
        super().__init__()
        self._constant = dict(constant or {})
        self._encode = encode or _encode
        self._second = -1.0
        self._day = ""

    def format(self, record: logging.LogRecord) -> str:
        """Return one object, without a line end."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")
        fields: dict[str, object] = {
            "timestamp": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": str(record.msg) if isinstance(record, EventRecord) else record.getMessage(),
            "logger": record.name,
            **self._constant,
        }
        fields |= {name: value for name, value in vars(record).items() if name not in STANDARD}
        if record.exc_info and record.exc_info[1] is not None:
            fields |= failure_fields(record.exc_info[1])
        clean = redact(fields)
        try:
            return self._encode(clean)
        except ValueError:  # Such as half of a surrogate pair.
            return _encode(clean)

    def access_line(  # noqa: PLR0917 - by position: it is made for each request
        self, exchange: Exchange, at: float, constant: Mapping[str, object], weight: int
    ) -> str | None:
        """Write the line of an exchange without a record; None if it holds a secret, so that it needs one.

        It has the members that `format` writes of the record, at a fraction of the cost.

        Args:
            exchange: What was served.
            at: Seconds since the epoch.
            constant: Members of each such line.
            weight: How many requests it stands for.
        """
        request = exchange.request
        text = f"{exchange.path}\n{exchange.method}\n{request.principal}\n{exchange.error_type}\n{exchange.client}"
        if redact_text(text) != text:
            return None
        second = at // 1
        if second != self._second:
            self._second = second
            self._day = datetime.fromtimestamp(second, UTC).isoformat()[:19]
        members: dict[str, object] = {
            "timestamp": f"{self._day}.{int((at - second) * 1e6):06d}Z",
            **self._constant,
            **constant,
            "method": exchange.method,
            "route": exchange.route,
            "path": exchange.path,
            "status": exchange.status,
            # To the microsecond, for a tenth of what `round` costs.
            "duration_ms": (exchange.seconds * 1e6 + 0.5) // 1 / 1000,
            "error_type": exchange.error_type,
            "client": exchange.client,
            "principal": request.principal,
            "request_bytes": exchange.request_bytes,
            "bytes": exchange.response_bytes,
            "traffic": exchange.traffic,
            "request_id": request.request_id,
            "trace_id": request.trace_id,
            "span_id": request.span_id,
            "trace_flags": request.trace_flags,
        }
        limit = min(request.asked, request.limit)
        if limit < math.inf:
            members["deadline_remaining_ms"] = ((limit - exchange.seconds) * 1e6 + 0.5) // 1 / 1000
        if request.queued:
            members["queue_ms"] = (request.queued * 1e6 + 0.5) // 1 / 1000
        if weight > 1:
            members["sample_rate"] = weight
        return self._encode(members)


# `json.dumps` makes an encoder for each call.
_encode: Final = json.JSONEncoder(default=str).encode


class ConsoleFormatter(logging.Formatter):
    """Write a record as one line of text, and the stack trace of its error below. Control characters are escaped.

    Args:
        colours: Whether warnings and errors have a colour, by ANSI escapes.
    """

    def __init__(self, *, colours: bool = False) -> None:
        super().__init__()
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines, without a line end."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        level = f"{record.levelname:<8}"
        if self._colours and (colour := _COLOURS.get(record.levelno)):
            level = f"{colour}{level}\x1b[0m"
        text = printable(redact_text(record.getMessage()))
        if not isinstance(record, EventRecord):
            fields = {name: value for name, value in shown(vars(record)).items() if name not in _HIDDEN}
            text = " ".join([text, *(printable(f"{name}={value}") for name, value in redact(fields).items())])
        line = f"{at.replace('+00:00', 'Z')} {level} {record.name}: {text}"
        if record.exc_info and record.exc_info[1] is not None:
            trace = redact_text(str(failure_fields(record.exc_info[1])["exception.stacktrace"]))
            line = "\n".join([line, *map(printable, trace.rstrip().split("\n"))])
        return line
