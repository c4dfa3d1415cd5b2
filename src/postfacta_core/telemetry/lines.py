"""Format log records as lines without secrets: JSON for machines, text for people."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as _quote
from typing import Final

from .failure import failure_fields
from .logs import STANDARD, EventRecord, Values, printable, shown
from .redaction import redact, redact_text

# What uvicorn adds for its own colours.
_HIDDEN: Final = frozenset({"color_message", "service", "request_id", "trace_id", "span_id", "trace_flags"})


class JsonFormatter(logging.Formatter):
    """Write a record as one JSON object: its time, level, event, logger, and each of its fields.

    Args:
        constant: Further members of each line, such as the service and its version.
    """

    def __init__(self, constant: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self._constant = dict(constant or {})
        self._second, self._day = -1.0, ""
        self._for: Mapping[str, object] | None = None
        # A template for each set of members.
        self._forms: dict[tuple[str, ...], str] = {}

    def format(self, record: logging.LogRecord) -> str:
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
        return _encode(redact(fields))

    def access_line(self, values: Values, at: float, constant: Mapping[str, object]) -> str | None:
        """Write an access line that has no record; None if it needs one, for it holds a secret.

        It has the members that `format` writes of the record, at a fraction of the cost.
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
            self._for, self._forms = constant, {}
        form = self._forms.get(names) or self._make_form(names, constant)
        return form % (self._day, micros, *map(_quote, texts), *numbers)

    def _make_form(self, names: tuple[str, ...], constant: Mapping[str, object]) -> str:
        head = _encode({**self._constant, **constant})[1:-1].replace("%", "%%")
        form = "".join(f', "{name}": %s' for name in names)
        form = self._forms[names] = f'{{"timestamp": "%s.%06dZ", {head}{form}}}'
        return form


# `json.dumps` makes an encoder for each call.
_encode: Final = json.JSONEncoder(default=str).encode


class ConsoleFormatter(logging.Formatter):
    """Write a record as one line of text, and the stack trace of its error below. Control characters are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        text = printable(redact_text(record.getMessage()))
        if not isinstance(record, EventRecord):
            fields = {name: value for name, value in shown(vars(record)).items() if name not in _HIDDEN}
            text = " ".join([text, *(printable(f"{name}={value}") for name, value in redact(fields).items())])
        line = f"{at.replace('+00:00', 'Z')} {record.levelname:<8} {record.name}: {text}"
        if record.exc_info and record.exc_info[1] is not None:
            trace = redact_text(str(failure_fields(record.exc_info[1])["exception.stacktrace"]))
            line = "\n".join([line, *map(printable, trace.rstrip().split("\n"))])
        return line
