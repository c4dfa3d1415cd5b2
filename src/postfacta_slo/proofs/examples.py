"""Label sets that a selector selects, and some that it only just misses.

An empty value stands for a label that is not there, as it does in Prometheus. An example of a
pattern is one of its plain alternatives, such as `500`, `5..` or `/health.*`. Of any other none is
found, and the objective is not proved.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Final

from ..promise.promql import Matcher, Selector, SloError, quoted

# Plain values for a label that must only not be something: a status code looks like one.
_PLAIN: Final = ("200", "other", "another")
_GROUP: Final = re.compile(r"\((?:\?:)?([^()]*)\)")
_ANY: Final = re.compile(r"\\(.)|\.([*+]?)")


def selected(*selectors: Selector, without: Selector | None = None) -> dict[str, str]:
    """Return labels that all of the selectors select, and one more does not.

    Raise if no example was found.
    """
    must = [matcher for selector in selectors for matcher in selector.matchers]
    matchers = (*must, *(without.matchers if without else ()))
    labels = dict.fromkeys(matcher.label for matcher in matchers)
    choices = [
        [value for value in _likely(label, matchers) if _selects(_on(label, must), {label: value})]
        for label in labels
    ]
    for values in product(*choices):
        found = dict(zip(labels, values, strict=True))
        if not (without and _selects(without.matchers, found)):
            return found
    raise _no_example(
        " and ".join(map(str, selectors)) + (f" without {without}" if without else "")
    )


def near_misses(selector: Selector, labels: Mapping[str, str]) -> list[dict[str, str]]:
    """Return label sets that satisfy all matchers of the selector but one, each in turn.

    Each differs in one label from the given ones, which the selector selects. A matcher that
    excludes a pattern is missed once for each of the pattern's alternatives.
    """
    found: list[dict[str, str]] = []
    for matcher in selector.matchers:
        others = [one for one in _on(matcher.label, selector.matchers) if one != matcher]
        excludes = matcher.op.startswith("!")
        if excludes and len(_named(matcher)) < len(_alternatives(matcher)):
            raise _no_example(f"what {selector} leaves out by {matcher}")
        values = _named(matcher) if excludes else _likely(matcher.label, (matcher, *others))
        missed = [
            value
            for value in values
            if not _matches(matcher, value) and all(_matches(one, value) for one in others)
        ]
        found += [
            {**labels, matcher.label: value} for value in (missed if excludes else missed[:1])
        ]
    return found


def series(metric: str, labels: Mapping[str, str]) -> str:
    """Write a time series as promtool wants it named.

    Each label with just one value, and none that is not there.
    """
    pairs = ",".join(f"{label}={quoted(value)}" for label, value in labels.items() if value)
    return f"{metric}{{{pairs}}}" if pairs else metric


def example(selector: Selector, **more: str) -> str:
    """Write a time series that the selector selects, with more labels."""
    return series(selector.metric, selected(selector) | more)


def _no_example(wanted: str) -> SloError:
    return SloError(
        f"no example of a series was found for {wanted}: write its patterns as plain alternatives"
    )


def _on(label: str, matchers: Iterable[Matcher]) -> list[Matcher]:
    return [one for one in matchers if one.label == label]


def _likely(label: str, matchers: Iterable[Matcher]) -> list[str]:
    """Values worth trying for a label.

    What its matchers name, then plain ones, then none at all.
    """
    named = [value for matcher in _on(label, matchers) for value in _named(matcher)]
    digits = any(value.isdigit() for value in named)
    return list(dict.fromkeys([*named, *(_PLAIN if digits else _PLAIN[1:]), ""]))


def _named(matcher: Matcher) -> list[str]:
    """What a matcher names.

    Its value, or the simplest text of each plain alternative of its pattern.
    """
    return [
        text
        for text in _alternatives(matcher)
        if _matches(matcher, text) is not matcher.op.startswith("!")
    ]


def _alternatives(matcher: Matcher) -> list[str]:
    if matcher.op in {"=", "!="}:
        return [matcher.value]
    whole = _GROUP.fullmatch(matcher.value)
    return [_ANY.sub(_simplest, part) for part in (whole[1] if whole else matcher.value).split("|")]


def _simplest(found: re.Match[str]) -> str:
    return found[1] or ("" if found[2] == "*" else "0")


def _selects(matchers: Iterable[Matcher], labels: Mapping[str, str]) -> bool:
    return all(_matches(matcher, labels.get(matcher.label, "")) for matcher in matchers)


def _matches(matcher: Matcher, value: str) -> bool:
    is_plain = matcher.op in {"=", "!="}
    same = matcher.value == value if is_plain else re.fullmatch(matcher.value, value) is not None
    return same is not matcher.op.startswith("!")
