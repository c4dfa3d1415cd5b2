"""Read and write the subset of PromQL that objectives are made of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

__all__ = ["Matcher", "Selector", "SloError", "number", "selector"]

_METRIC: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_WHOLE: Final = re.compile(r"\s*([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{(.*)\})?\s*", re.DOTALL)
_ONE: Final = re.compile(
    r"""\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*(?:"((?:[^"\\\n]|\\.)*)"|'((?:[^'\\\n]|\\.)*)')\s*(?:,|$)"""
)
_ESCAPED: Final = {"n": "\n", "t": "\t", "\\": "\\", '"': '"', "'": "'"}


class SloError(ValueError):
    """An objective that cannot be read or measured. The message has its place and the reason."""


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on one label.

    Attributes:
        label: Its name.
        op: `=`, `!=`, `=~` or `!~`.
        value: What it is compared with, unquoted.
    """

    label: str
    op: str
    value: str

    def __post_init__(self) -> None:
        if not _LABEL.fullmatch(self.label) or self.op not in {"=", "!=", "=~", "!~"}:
            raise SloError(f"is no matcher of a label: {self.label}{self.op}")

    def __str__(self) -> str:
        op, value = self.op, self.value
        if self.label == "le" and op == "=" and value.isdecimal():
            # Go's clients write le="1", Python's le="1.0", and Prometheus 2 keeps what it was given.
            op, value = "=~", rf"{value}|{value}\.0"
        value = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'{self.label}{op}"{value}"'


@dataclass(frozen=True, slots=True)
class Selector:
    """Which time series are meant: a metric and conditions on its labels, as PromQL when made a string.

    Attributes:
        metric: Its name.
        matchers: In the order in which they were written.
    """

    metric: str
    matchers: tuple[Matcher, ...] = ()

    def __post_init__(self) -> None:
        if not _METRIC.fullmatch(self.metric):
            raise SloError(f"is no name of a metric: {self.metric!r}")

    def __str__(self) -> str:
        return self.metric + (f"{{{','.join(map(str, self.matchers))}}}" if self.matchers else "")

    def value_of(self, label: str) -> str | None:
        """Return what the label must be equal to; None if there is no condition, or another one."""
        return next((m.value for m in self.matchers if m.label == label and m.op == "="), None)


def selector(text: str, path: str) -> Selector:
    """Read one vector selector, such as `requests_total{job="shop",code!~"5.."}`.

    Args:
        text: The selector: no function, no range, no offset.
        path: Where it stands in the file, for the message.

    Raises:
        SloError: If it is anything else.
    """
    whole = _WHOLE.fullmatch(text)
    if not whole:
        raise SloError(
            f'{path}: must be one metric with conditions on its labels, such as up{{job="shop"}}, not {text!r}; '
            "rates, sums and windows are put around it here"
        )
    return Selector(whole[1], _matchers(whole[2] or "", path))


def _matchers(text: str, path: str) -> tuple[Matcher, ...]:
    found: list[Matcher] = []
    place = 0
    while place < len(text.rstrip()):
        one = _ONE.match(text, place)
        if not one:
            raise SloError(f'{path}: is no list of label="value" from here on: {text[place:].strip()!r}')
        value = one[3] if one[3] is not None else one[4]
        found.append(Matcher(one[1], one[2], _unescaped(value, path)))
        place = one.end()
    return tuple(found)


def _unescaped(value: str, path: str) -> str:
    def char(found: re.Match[str]) -> str:
        if found[1] not in _ESCAPED:
            raise SloError(f"{path}: has an escape that is not known here: {found[0]}")
        return _ESCAPED[found[1]]

    return re.sub(r"\\(.)", char, value)


def number(value: float) -> str:
    """Write a number as short as possible, but never as a power of ten."""
    return f"{round(value, 12):.12f}".rstrip("0").rstrip(".")
