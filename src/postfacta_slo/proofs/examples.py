"""Label sets that a selector selects, and some that it only just misses.

An empty value stands for a label that is not there, as it does in Prometheus. An example of a
pattern is one of its plain alternatives, such as `500`, `5..` or `/health.*`. Of any other none is
found, and the objective is not proved.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Final

from ..promise.promql import Matcher, Selector, SloError, quoted

# Plain values for a label that must only not be something. The first is for a status code.
_PLAIN: Final = ("200", "other", "another")
_GROUP: Final = re.compile(r"\((?:\?:)?([^()]*)\)")
_ANY: Final = re.compile(r"\\(.)|\.([*+]?)")


def selected(*selectors: Selector, without: Selector | None = None) -> dict[str, str]:
    """Return labels that all of the selectors select, and one more does not.

    Raise if no example was found.
    """
    required: list[Matcher] = []
    for selector in selectors:
        required += selector.matchers
    excluded = without.matchers if without else ()
    matchers = (*required, *excluded)
    labels = dict.fromkeys(matcher.label for matcher in matchers)
    choices: list[list[str]] = []
    for label in labels:
        conditions = _on(label, required)
        likely = _likely(label, matchers)
        choices.append([value for value in likely if _selects(conditions, {label: value})])
    for values in product(*choices):
        candidate = dict(zip(labels, values, strict=True))
        if not without or not _selects(excluded, candidate):
            return candidate
    selection = " and ".join(map(str, selectors))
    if without:
        selection += f" without {without}"
    raise _no_example(selection)


def near_misses(selector: Selector, labels: Mapping[str, str]) -> list[dict[str, str]]:
    """Return label sets that satisfy all matchers of the selector but one, each in turn.

    Each differs in one label from the given ones, which the selector selects. A matcher that
    excludes a pattern is missed once for each of the pattern's alternatives.
    """
    label_sets: list[dict[str, str]] = []
    for matcher in selector.matchers:
        label = matcher.label
        same_label = _on(label, selector.matchers)
        conditions = [condition for condition in same_label if condition != matcher]
        if _is_negative(matcher):
            values = _named(matcher)
            if len(values) < len(_alternatives(matcher)):
                raise _no_example(f"what {selector} leaves out by {matcher}")
            missing = _missing(matcher, conditions, values)
        else:
            values = _likely(label, (matcher, *conditions))
            missing = _missing(matcher, conditions, values)[:1]
        label_sets += [{**labels, label: value} for value in missing]
    return label_sets


def _missing(matcher: Matcher, conditions: Sequence[Matcher], values: Iterable[str]) -> list[str]:
    """Return each value that satisfies all conditions, but not the matcher."""
    unmatched = [value for value in values if not _matches(matcher, value)]
    return [value for value in unmatched if _selects(conditions, {matcher.label: value})]


def series(metric: str, labels: Mapping[str, str]) -> str:
    """Write a time series as promtool wants it named.

    Each label with just one value, and none that is not there.
    """
    present = {label: value for label, value in labels.items() if value}
    if not present:
        return metric
    pairs = ",".join(f"{label}={quoted(value)}" for label, value in present.items())
    return f"{metric}{{{pairs}}}"


def example(selector: Selector, **more: str) -> str:
    """Write a time series that the selector selects, with more labels."""
    return series(selector.metric, selected(selector) | more)


def _no_example(selection: str) -> SloError:
    advice = "write its patterns as plain alternatives"
    return SloError(f"no example of a series was found for {selection}: {advice}")


def _on(label: str, matchers: Iterable[Matcher]) -> list[Matcher]:
    return [matcher for matcher in matchers if matcher.label == label]


def _likely(label: str, matchers: Iterable[Matcher]) -> list[str]:
    """Return values worth trying for a label.

    What its matchers name, then plain ones, then none at all.
    """
    named: list[str] = []
    for matcher in _on(label, matchers):
        named += _named(matcher)
    digits = any(value.isdigit() for value in named)
    plain = _PLAIN if digits else _PLAIN[1:]
    unique = dict.fromkeys([*named, *plain, ""])
    return list(unique)


def _named(matcher: Matcher) -> list[str]:
    """Return what a matcher names.

    Its value, or the simplest text of each plain alternative of its pattern.
    """
    negative = _is_negative(matcher)
    return [text for text in _alternatives(matcher) if _matches(matcher, text) is not negative]


def _alternatives(matcher: Matcher) -> list[str]:
    if matcher.op in {"=", "!="}:
        return [matcher.value]
    group = _GROUP.fullmatch(matcher.value)
    pattern = group[1] if group else matcher.value
    return [_ANY.sub(_simplest, part) for part in pattern.split("|")]


def _simplest(element: re.Match[str]) -> str:
    """Return the character that is escaped, nothing for `.*`, and a digit for `.` and `.+`."""
    escaped = element[1]
    if escaped:
        return escaped
    return "" if element[2] == "*" else "0"


def _selects(matchers: Iterable[Matcher], labels: Mapping[str, str]) -> bool:
    return all(_matches(matcher, labels.get(matcher.label, "")) for matcher in matchers)


def _matches(matcher: Matcher, value: str) -> bool:
    if matcher.op in {"=", "!="}:
        is_equal = matcher.value == value
    else:
        is_equal = re.fullmatch(matcher.value, value) is not None
    return is_equal is not _is_negative(matcher)


def _is_negative(matcher: Matcher) -> bool:
    return matcher.op.startswith("!")
