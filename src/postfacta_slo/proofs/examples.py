"""Label sets that a selector selects, and some that it only just misses.

An empty value stands for a label that is not there, as it does in Prometheus. An example of a pattern is one of its
plain alternatives. Of a character class or a counted repetition none is found, and the objective is not proved.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Final

from ..promise.promql import Matcher, Selector, SloError, quoted

__all__ = ["example", "near_misses", "selected", "series", "spared"]

# Plain values for a label that must only not be something: a status code looks like one.
_PLAIN: Final = ("200", "other", "another")
_WHOLE: Final = re.compile(r"\^?(?:\((?:\?:)?([^()]*)\)|(.*?))\$?", re.DOTALL)
_GROUP: Final = re.compile(r"\((?:\?:)?([^()|]*)(?:\|[^()]*)?\)([?*]?)")
_ANY: Final = re.compile(r"\\(.)|\.([*+]?)")


def selected(*selectors: Selector) -> dict[str, str]:
    """Return labels that all of the selectors select. Raise if no example was found."""
    return _first(_assignments(_matchers(selectors)), " and ".join(map(str, selectors)))


def spared(selectors: Sequence[Selector], by: Selector) -> dict[str, str]:
    """Return labels that all of the selectors select, and one more does not. Raise if no example was found."""
    found = _assignments(_matchers(selectors), by.matchers)
    left = (labels for labels in found if not _selects(by.matchers, labels))
    return _first(left, f"{' and '.join(map(str, selectors))} without {by}")


def near_misses(selector: Selector, labels: Mapping[str, str]) -> list[dict[str, str]]:
    """Return label sets that satisfy all matchers but one of the selector, for each matcher in turn.

    Each differs in one label from the given ones, which the selector selects. A matcher that excludes a pattern is
    missed once for each of the pattern's alternatives.
    """
    found: list[dict[str, str]] = []
    for matcher in selector.matchers:
        others = [one for one in selector.matchers if one != matcher and one.label == matcher.label]
        excludes = matcher.op.startswith("!")
        if excludes and len(_named(matcher)) < len(_alternatives(matcher)):
            _first(iter(()), f"what {selector} leaves out by {matcher}")
        values = _named(matcher) if excludes else _likely(matcher.label, (matcher, *others))
        missed = [
            value
            for value in values
            if not _matches(matcher, value) and all(_matches(one, value) for one in others)
        ]
        found += [{**labels, matcher.label: value} for value in (missed if excludes else missed[:1])]
    return found


def series(metric: str, labels: Mapping[str, str]) -> str:
    """Write a time series as promtool wants it named: each label with just one value, and none that is not there."""
    pairs = ",".join(f"{label}={quoted(value)}" for label, value in labels.items() if value)
    return f"{metric}{{{pairs}}}" if pairs else metric


def example(selector: Selector, **more: str) -> str:
    """Write a time series that the selector selects, with more labels."""
    return series(selector.metric, selected(selector) | more)


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
        [
            value
            for value in _likely(label, (*must, *may))
            if _selects([one for one in must if one.label == label], {label: value})
        ]
        for label in labels
    ]
    return (dict(zip(labels, values, strict=True)) for values in product(*choices))


def _likely(label: str, matchers: Iterable[Matcher]) -> list[str]:
    """Values worth trying for a label: what its matchers name, then plain ones, then none at all."""
    named = [value for matcher in matchers if matcher.label == label for value in _named(matcher)]
    digits = any(value.isdigit() for value in named)
    return list(dict.fromkeys([*named, *(_PLAIN if digits else _PLAIN[1:]), ""]))


def _named(matcher: Matcher) -> list[str]:
    """What a matcher names: its value, or the simplest text of each plain alternative of its pattern."""
    return [
        text for text in _alternatives(matcher) if _matches(matcher, text) is not matcher.op.startswith("!")
    ]


def _alternatives(matcher: Matcher) -> list[str]:
    if matcher.op in {"=", "!="}:
        return [matcher.value]
    whole = _WHOLE.fullmatch(matcher.value)
    pattern = (whole[1] or whole[2] or "") if whole else matcher.value
    while (grouped := _GROUP.sub(lambda found: "" if found[2] else found[1], pattern)) != pattern:
        pattern = grouped
    return [_ANY.sub(_simplest, part) for part in pattern.split("|")]


def _simplest(found: re.Match[str]) -> str:
    return {"d": "0", "w": "a"}.get(found[1], found[1]) if found[1] else "" if found[2] == "*" else "0"


def _selects(matchers: Iterable[Matcher], labels: Mapping[str, str]) -> bool:
    return all(_matches(matcher, labels.get(matcher.label, "")) for matcher in matchers)


def _matches(matcher: Matcher, value: str) -> bool:
    is_plain = matcher.op in {"=", "!="}
    same = matcher.value == value if is_plain else re.fullmatch(matcher.value, value) is not None
    return same is not matcher.op.startswith("!")
