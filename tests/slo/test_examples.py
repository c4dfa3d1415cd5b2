"""An example of a series is one that Prometheus would take, or would leave out, for the reason that is meant."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, strategies as st

from postfacta_slo.promise.promql import Matcher, Selector, SloError
from postfacta_slo.proofs.examples import near_misses, selected, series
from tests.kit.every import every

TOTAL = Selector(
    "requests_count",
    (
        Matcher("job", "=", "shop"),
        Matcher("route", "!~", "/health.*|/metrics"),
        Matcher("status", "!=", "499"),
    ),
)
BAD = Selector(TOTAL.metric, (*TOTAL.matchers, Matcher("error", "!=", "")))


def matches(matcher: Matcher, labels: dict[str, str]) -> bool:
    value = labels.get(matcher.label, "")
    same = (
        re.fullmatch(matcher.value, value) is not None
        if "~" in matcher.op
        else matcher.value == value
    )
    return same is not ("!" in matcher.op)


def test_an_event_that_is_not_bad_is_still_one_of_all() -> None:
    labels = selected(TOTAL, without=BAD)
    assert all(matches(matcher, labels) for matcher in TOTAL.matchers)
    assert labels["error"] == ""


def test_each_matcher_is_missed_alone_and_in_each_of_its_alternatives() -> None:
    missed = near_misses(TOTAL, selected(TOTAL, BAD))
    wrong = [[m.label for m in TOTAL.matchers if not matches(m, labels)] for labels in missed]
    assert wrong == [["job"], ["route"], ["route"], ["status"]]
    assert [labels["route"] for labels in missed[1:3]] == ["/health", "/metrics"]
    assert missed[3]["status"] == "499"
    assert all(labels["error"] for labels in missed)


def test_a_matcher_that_cannot_be_missed_with_the_others_held_is_passed_over() -> None:
    asked = Selector("m", (Matcher("code", "=", "500"), Matcher("code", "!=", "404")))
    assert near_misses(asked, {"code": "500"}) == [{"code": "200"}]


def test_a_pattern_has_an_example_and_a_counterexample() -> None:
    patterns = ["5..", "500|503", "(?:GET|HEAD)", "(5..|429)", "/api/.+", "/x/.*|/y", "a\\.b", ""]
    with every() as case:
        for pattern in patterns:
            for op in ("=~", "!~"):
                with case(pattern, op):
                    matcher = Matcher("label", op, pattern)
                    if pattern or op == "!~":
                        assert matches(matcher, selected(Selector("m", (matcher,))))
                    missed = near_misses(Selector("m", (matcher,)), {})
                    assert missed
                    assert all(not matches(matcher, labels) for labels in missed)


def test_an_involved_pattern_has_no_example_and_says_so() -> None:
    for pattern in ("5[0-9]{2}", "[abc]", "5\\d\\d", "/x(/.*)?", "^/(a|b)$"):
        with pytest.raises(SloError, match="write its patterns as plain alternatives"):
            selected(Selector("m", (Matcher("label", "=~", pattern),)))
        excluded = Selector("m", (Matcher("label", "!~", pattern),))
        assert selected(excluded).keys() == {"label"}
        with pytest.raises(
            SloError, match=r"leaves out by label!~.*: write its patterns as plain alternatives"
        ):
            near_misses(excluded, {})


def test_what_excludes_itself_has_no_example_and_says_so() -> None:
    never = Selector("m", (Matcher("a", "=", "1"), Matcher("a", "=", "2")))
    with pytest.raises(SloError, match=r"no example .* m\{a=\"1\",a=\"2\"\}"):
        selected(never)
    once = Selector("m", (Matcher("a", "=", "1"),))
    with pytest.raises(SloError, match="no example"):
        selected(once, without=once)


@given(
    st.lists(
        st.builds(
            Matcher,
            st.sampled_from("abc"),
            st.sampled_from(["=", "!=", "=~", "!~"]),
            st.sampled_from(["", "x", "5..", "x|y", "200"]),
        ),
        max_size=4,
    )
)
def test_no_example_breaks_a_matcher_whatever_the_matchers(matchers: list[Matcher]) -> None:
    selector = Selector("m", tuple(matchers))
    try:
        labels = selected(selector)
    except SloError:
        return
    assert all(matches(matcher, labels) for matcher in matchers)
    for missed in near_misses(selector, labels):
        wrong = {str(matcher) for matcher in matchers if not matches(matcher, missed)}
        assert len(wrong) == 1


def test_a_label_that_is_not_there_is_not_written() -> None:
    assert series("up", {"job": "shop", "error": ""}) == 'up{job="shop"}'
    assert series("up", {}) == "up"
