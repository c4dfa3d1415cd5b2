"""Shortens the lengths of time in Prometheus' rules and configuration, so that a day of alerting fits into an hour.

What is shortened is what Prometheus itself waits for: windows in brackets, offsets, `for`,
intervals. What an expression compares with is left alone: a lag of a quarter of a second, or a
backup of a day, is as long as ever.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

__all__ = ["compress_expression", "compress_rules", "divide", "seconds"]

_UNITS = {
    "ms": 0.001,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "w": 604800.0,
    "y": 31536000.0,
}
_PART = r"\d+(?:ms|[smhdwy])"
_LENGTH = re.compile(rf"(?:{_PART})+")
# A string and a comment may hold anything, so they are found first, and left as they are.
_TOKEN = re.compile(
    r'"(?:\\.|[^"\\])*"'
    r"|'(?:\\.|[^'\\])*'|`[^`]*`|#[^\n]*"
    rf"|\[[^\]]*\]|\boffset\s+-?(?:{_PART})+"
)
_WAITS = frozenset({"for", "keep_firing_for", "interval"})


def seconds(text: str) -> float:
    """Read a length of time, such as `1h30m`.

    Raises:
        ValueError: It is none.
    """
    if not _LENGTH.fullmatch(text) and text != "0":
        raise ValueError(f"no length of time: {text!r}; write 30s, 5m or 1h30m")
    return sum(
        int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)(ms|[smhdwy])", text)
    )


def divide(text: str, by: float) -> str:
    """Return a length of time divided by a factor, to the millisecond.

    Never nothing out of something.
    """
    length = seconds(text)
    return f"{max(1, round(1000 * length / by))}ms" if length else "0s"


def compress_expression(expression: str, by: float) -> str:
    """Divide the windows, the steps of subqueries and the offsets of an expression in PromQL."""

    def shorter(found: re.Match[str]) -> str:
        text = found.group()
        if text[0] not in "[o":
            return text
        return _LENGTH.sub(lambda length: divide(length.group(), by), text)

    return _TOKEN.sub(shorter, expression)


def compress_rules(document: object, by: float) -> object:
    """Divide every length of time in a file of rules; labels and annotations stay as they are.

    Args:
        document: As `yaml.safe_load` gives it.
        by: The factor; with 10, `for: 5m` becomes `30000ms`.
    """
    if isinstance(document, list):
        return [compress_rules(one, by) for one in cast("list[object]", document)]
    if not isinstance(document, Mapping):
        return document
    return {
        key: _shorter(key, value, by) for key, value in cast("Mapping[str, Any]", document).items()
    }


def _shorter(key: str, value: object, by: float) -> object:
    if key in {"labels", "annotations"}:
        return value
    if key == "expr":
        return compress_expression(str(value), by)
    return divide(str(value), by) if key in _WAITS else compress_rules(value, by)
