"""Read and write the subset of PromQL that objectives are made of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_SELECTOR: Final = re.compile(r"\s*([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{(.*)\})?\s*", re.DOTALL)
_MATCHER: Final = re.compile(
    r"""\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*(["'])((?:(?!\3)[^\\\n]|\\[nt\\"'])*)\3\s*(?:,|$)"""
)
_ESCAPED: Final = {"n": "\n", "t": "\t"}

# `{{window}}`, or `{{.window}}` as Sloth spells it.
_WINDOW: Final = re.compile(r"\{\{\s*\.?window\s*\}\}")
_TEXT: Final = r"""(?>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`[^`]*`)"""
_TOKEN: Final = re.compile(
    rf"""\s+
    | \b(?:by|without|on|ignoring|group_left|group_right)\b\s*(?:\([^()]*\))?
    | \b(?:and|or|unless|offset|bool|atan2|inf|nan)\b
    | (?P<open>(?>[a-zA-Z_][a-zA-Z0-9_]*)?\s*\() | (?P<close>\))
    | (?P<series>(?>[a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?>\{{(?:[^{{}}"'`]|{_TEXT})*\}})?)
      (?!\s*(?:\(|(?:by|without)\b))
    | (?:sum|min|max|avg|count|group|stddev|stdvar|topk|bottomk|quantile|count_values)\b
      (?=\s*(?:by|without)\b)
    | \[[^\[\]]*\] | [0-9.]+[a-zA-Z0-9.]* | {_TEXT} | [-+*/%^<>=!~@,]+
    """,
    re.VERBOSE | re.IGNORECASE,
)
_BY: Final = r"(?:\s*(?:by|without)\s*\([^()]*\))?"
_SUM: Final = re.compile(rf"sum{_BY}\s*\((?P<inner>.*?)\){_BY}", re.DOTALL)
_RATE: Final = re.compile(r"(?:rate|increase)\s*\((?P<inner>.*)\[[^\[\]]+\]\s*\)", re.DOTALL)


class SloError(ValueError):
    """An objective that cannot be read or measured. The message has its place and the reason."""


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on one label."""

    label: str  # Its name.
    op: str  # `=`, `!=`, `=~` or `!~`.
    value: str  # What it is compared with, unquoted.

    def __str__(self) -> str:
        op = self.op
        value = self.value
        if self.label == "le" and op == "=" and value.isdecimal():
            # Go's clients write le="1", Python's le="1.0", and Prometheus 2 keeps what it was
            # given.
            op = "=~"
            value = rf"{value}|{value}\.0"
        return f"{self.label}{op}{quoted(value)}"


@dataclass(frozen=True, slots=True)
class Selector:
    """Which time series are meant.

    A metric and conditions on its labels, as PromQL when made a string.
    """

    metric: str  # Its name.
    matchers: tuple[Matcher, ...] = ()  # In the order in which they were written.

    def __str__(self) -> str:
        if not self.matchers:
            return self.metric
        conditions = ",".join(map(str, self.matchers))
        return f"{self.metric}{{{conditions}}}"

    @property
    def selectors(self) -> tuple[Selector, ...]:
        """Itself, as an expression has several."""
        return (self,)

    @property
    def of_job(self) -> Selector:
        """The metric with no condition but on its job."""
        of_job = (matcher for matcher in self.matchers if matcher.label == "job")
        return Selector(self.metric, tuple(of_job))

    def value_of(self, label: str) -> str | None:
        """Return what the label must be equal to; None if there is no condition, or another one."""
        for matcher in self.matchers:
            if matcher.label == label and matcher.op == "=":
                return matcher.value
        return None


@dataclass(frozen=True, slots=True)
class Expression:
    """A query that is more than one selector: any PromQL, taken as it is."""

    # The query. `{{window}}` stands for the length of each window that it is asked for; without it,
    # it is asked at each evaluation, and windows add up its samples.
    text: str
    selectors: tuple[Selector, ...]  # The series that it reads.

    def __str__(self) -> str:
        return self.text

    @property
    def has_window(self) -> bool:
        return bool(_WINDOW.search(self.text))

    def over(self, window: str) -> str:
        return _WINDOW.sub(window, self.text)


Query = Selector | Expression


def query(text: str) -> Query:
    return _bare(text) or expression(text)


def _bare(text: str) -> Selector | None:
    try:
        return selector(text)
    except SloError:
        return None


def expression(text: str) -> Expression:
    """Read any PromQL, as far as is needed to see which series it reads."""
    promql = _WINDOW.sub("1m", text)
    selectors: dict[Selector, None] = {}
    place = 0
    depth = 0
    after_series = False
    while place < len(promql):
        token = _TOKEN.match(promql, place)
        if token:
            depth += (token["open"] is not None) - (token["close"] is not None)
        if not token or depth < 0 or (after_series and token["series"]):
            raise SloError(f"is no PromQL from here on: {promql[place:].strip()!r}")
        if token["series"]:
            selectors[selector(token["series"])] = None
        after_series = bool(token["series"] or (after_series and token[0].isspace()))
        place = token.end()
    if depth or not selectors:
        raise SloError(f"{'has a parenthesis too few' if depth else 'names no metric'}: {text!r}")
    return Expression(" ".join(text.split()), tuple(selectors))


_VALUE: Final = re.compile(r"(max|min|avg|sum)\s*\((.*)\)", re.DOTALL)
_QUANTILE: Final = re.compile(r"histogram_quantile\s*\(\s*(0?\.[0-9]+)\s*,\s*(.*)\)", re.DOTALL)
_BY_EDGE: Final = re.compile(r"by\s*\(\s*le\s*\)")


def counted(query: Query) -> tuple[Query, bool]:
    """Return the selector that a query only puts `sum` and `rate` around, if it is such a one.

    Else the query.
    """
    if isinstance(query, Selector):
        return query, False
    inner = query.text
    if sum_ := _SUM.fullmatch(inner):
        inner = sum_["inner"].strip()
    rate = _RATE.fullmatch(_WINDOW.sub("1m", inner))
    series = _bare(rate["inner"] if rate else inner)
    return (series, bool(rate)) if series else (query, False)


def measured(query: Query) -> tuple[Query, str, float | None]:
    """Return the selector, the aggregate and the quantile of a query that is no more than these.

    Else the query.

    The aggregate is empty if the query names none.
    """
    if isinstance(query, Selector):
        return query, "", None
    if call := _VALUE.fullmatch(query.text):
        bare = _bare(call[2])
        if bare:
            return bare, call[1], None
    if call := _QUANTILE.fullmatch(query.text):
        series, is_rate = counted(expression(call[2]))
        if isinstance(series, Selector) and is_rate and _BY_EDGE.search(call[2]):
            return series, "quantile", float(call[1])
    return query, "", None


def selector(text: str) -> Selector:
    """Read one vector selector, such as `requests_total{job="shop",code!~"5.."}`."""
    parts = _SELECTOR.fullmatch(text)
    if not parts:
        raise SloError(
            'must be one metric with conditions on its labels, such as up{job="shop"}, not'
            f" {text!r}; rates, sums and windows are put around it here"
        )
    inner = (parts[2] or "").rstrip()
    conditions = list(_MATCHER.finditer(inner))
    if "".join(condition[0] for condition in conditions) != inner:
        raise SloError(f'is no list of label="value", with a backslash written twice: {inner}')
    matchers = (
        Matcher(condition[1], condition[2], _unescaped(condition[4])) for condition in conditions
    )
    return Selector(parts[1], tuple(matchers))


def _unescaped(value: str) -> str:
    def character(escape: re.Match[str]) -> str:
        return _ESCAPED.get(escape[1], escape[1])

    return re.sub(r"\\(.)", character, value)


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def number(value: float) -> str:
    """Write a number as short as possible, but never as a power of ten."""
    return f"{round(value, 12):.12f}".rstrip("0").rstrip(".")
