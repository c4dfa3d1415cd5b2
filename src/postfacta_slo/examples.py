"""Label sets that a selector selects, and some that it only just misses.

An empty value stands for a label that is not there, as it does in Prometheus.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Final

from .promql import Matcher, Selector, SloError

__all__ = ["near_misses", "selected", "series", "spared"]

# Plain values for a label that must only not be something: a status code looks like one.
_PLAIN: Final = ("200", "other", "another")
# How a pattern is turned into the simplest text that it matches, step by step; what comes out is checked.
_SIMPLER: Final = tuple(
    (re.compile(pattern), by)
    for pattern, by in (
        (r"\[\^[^\]]*\]", "~"),
        (r"\[\\?([^\]])[^\]]*\]", r"\1"),
        (r"(?<!\\)\.\*", ""),
        (r"\\d", "0"),
        (r"\\w", "a"),
        (r"(?<!\\)\.", "0"),
        (r"(?<!\\)[\^$]", ""),
        (r"\\([^a-zA-Z0-9])", r"\1"),
        (r"([^\\])[*?]", ""),
        (r"\+", ""),
    )
)
_GROUP: Final = re.compile(r"\((?:\?:)?([^()|]*)(?:\|[^()]*)?\)")
_TIMES: Final = re.compile(r"(\[[^\]]+\]|\\.|[^\\\])])\{(\d+)[^}]*\}")


def selected(*selectors: Selector) -> dict[str, str]:
    """Return labels that all of the selectors select.

    Raises:
        SloError: If no example was found: they exclude each other, or a pattern is beyond this module.
    """
    return _first(_assignments(_matchers(selectors)), " and ".join(map(str, selectors)))


def spared(selectors: Sequence[Selector], by: Selector) -> dict[str, str]:
    """Return labels that all of the selectors select, and one more does not.

    Raises:
        SloError: If no example was found.
    """
    matchers = _matchers(selectors)
    found = (labels for labels in _assignments(matchers, by.matchers) if not _selects(by.matchers, labels))
    return _first(found, f"{' and '.join(map(str, selectors))} without {by}")


def near_misses(selector: Selector, labels: Mapping[str, str]) -> list[dict[str, str]]:
    """Return label sets that satisfy all matchers but one of the selector, for each matcher in turn.

    Args:
        selector: A matcher that excludes a pattern is missed once for each of the pattern's alternatives.
        labels: A set that the selector selects. Each of the returned ones differs from it in one label.
    """
    return [
        {**labels, matcher.label: value}
        for matcher in selector.matchers
        for value in _misses(matcher, [one for one in selector.matchers if one != matcher])
    ]


def series(metric: str, labels: Mapping[str, str]) -> str:
    """Write a time series as promtool wants it named: each label with just one value, and none that is not there."""
    pairs = (f'{label}="{_escaped(value)}"' for label, value in labels.items() if value)
    return f"{metric}{{{','.join(pairs)}}}" if any(labels.values()) else metric


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _matchers(selectors: Iterable[Selector]) -> tuple[Matcher, ...]:
    return tuple(dict.fromkeys(matcher for selector in selectors for matcher in selector.matchers))


def _first(found: Iterator[dict[str, str]], wanted: str) -> dict[str, str]:
    labels = next(found, None)
    if labels is None:
        raise SloError(
            f"no example of a series was found for {wanted}: write its patterns as plain alternatives"
        )
    return labels


def _assignments(must: Sequence[Matcher], may: Sequence[Matcher] = ()) -> Iterator[dict[str, str]]:
    """All label sets of the likely values that satisfy the first matchers; the second ones widen the choice."""
    labels = dict.fromkeys(matcher.label for matcher in (*must, *may))
    choices = [
        [value for value in _likely(label, (*must, *may)) if _selects(must, {label: value}, only=label)]
        for label in labels
    ]
    return (dict(zip(labels, values, strict=True)) for values in product(*choices))


def _likely(label: str, matchers: Iterable[Matcher]) -> list[str]:
    """Values worth trying for a label: what its matchers name, then plain ones, then none at all."""
    mine = [matcher for matcher in matchers if matcher.label == label]
    named = [value for matcher in mine for value in _named(matcher)]
    digits = any(value.isdigit() for value in named)
    return list(dict.fromkeys([*named, *(_PLAIN if digits else _PLAIN[1:]), ""]))


def _named(matcher: Matcher) -> list[str]:
    """What a matcher names: its value, or the simplest text that each alternative of its pattern matches."""
    if matcher.op in {"=", "!="}:
        return [matcher.value]
    return [
        text for part in _alternatives(matcher.value) if re.fullmatch(matcher.value, text := _simplest(part))
    ]


def _misses(matcher: Matcher, others: Sequence[Matcher]) -> list[str]:
    """Values of a label that this matcher does not match and the others do."""
    if matcher.op.startswith("!"):
        return [
            value for value in _named(matcher) if _selects(others, {matcher.label: value}, only=matcher.label)
        ]
    likely = _likely(matcher.label, (matcher, *others))
    return [
        value
        for value in likely
        if not _matches(matcher, value) and _selects(others, {matcher.label: value}, only=matcher.label)
    ][:1]


def _alternatives(pattern: str) -> list[str]:
    """The parts of a pattern between the bars that stand in no parentheses."""
    parts, depth = [""], 0
    for char in pattern:
        depth += {"(": 1, ")": -1}.get(char, 0)
        if char == "|" and not depth:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def _simplest(pattern: str) -> str:
    while (grouped := _GROUP.sub(r"\1", pattern)) != pattern:
        pattern = grouped
    pattern = _TIMES.sub(lambda found: found[1] * int(found[2]), pattern)
    for wanted, by in _SIMPLER:
        pattern = wanted.sub(by, pattern)
    return pattern


def _selects(matchers: Iterable[Matcher], labels: Mapping[str, str], only: str | None = None) -> bool:
    """Whether the labels satisfy the matchers, or those of one label alone."""
    return all(
        _matches(matcher, labels.get(matcher.label, ""))
        for matcher in matchers
        if only is None or matcher.label == only
    )


def _matches(matcher: Matcher, value: str) -> bool:
    same = (
        matcher.value == value
        if matcher.op in {"=", "!="}
        else re.fullmatch(matcher.value, value) is not None
    )
    return same is not matcher.op.startswith("!")
