"""What is read from a file of objectives means the same to Prometheus."""

from __future__ import annotations

import promql_parser
import pytest
from hypothesis import given, strategies as st

from postfacta_slo.promise.promql import Matcher, Selector, SloError, expression, number, selector
from tests.kit.every import every

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)


def test_a_selector_is_read_and_written() -> None:
    cases: list[tuple[str, str]] = [
        ("up", "up"),
        (" up {} ", "up"),
        ('up{job="a"}', 'up{job="a"}'),
        ("up{job='a', code!~'5..',}", 'up{job="a",code!~"5.."}'),
        ('job:up:sum{a=~"x|y",b!=""}', 'job:up:sum{a=~"x|y",b!=""}'),
        (r'up{path="a\\b\"c\n"}', r'up{path="a\\b\"c\n"}'),
        (r"up{path='it\'s\t'}", 'up{path="it\'s\t"}'),
        ('up{\n  job="a",\n  code="200"\n}', 'up{job="a",code="200"}'),
    ]
    with every() as case:
        for text, written in cases:
            with case(text, written):
                assert str(selector(text)) == written


def test_anything_but_one_selector_is_refused() -> None:
    cases = [
        "",
        "sum(up)",
        "up[5m]",
        "up offset 5m",
        "{job='a'}",
        "up{job}",
        'up{job="a}',
        'up{job=="a"}',
        'up{job<"a"}',
        'up{jo-b="a"}',
        'u p{job="a"}',
        r'up{job="\d"}',
        "up{job=`a`}",
        "up + up",
        'up{job="a" code="b"}',
        "up{,}",
    ]
    with every() as case:
        for text in cases:
            with case(text), pytest.raises(SloError, match=r"^(must be one metric|is no list)"):
                selector(text)


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b_1"]), st.sampled_from(["=", "!=", "=~", "!~"]), TEXTS),
        max_size=3,
    )
)
def test_what_was_written_is_read_again(matchers: list[tuple[str, str, str]]) -> None:
    one = Selector("up", tuple(Matcher(*parts) for parts in matchers))
    assert selector(str(one)) == one


def test_a_whole_bucket_edge_is_found_as_any_client_writes_it() -> None:
    assert str(Matcher("le", "=", "1")) == r'le=~"1|1\\.0"'
    assert str(Matcher("le", "=", "0.2")) == 'le="0.2"'
    assert str(Matcher("other", "=", "1")) == 'other="1"'


def test_only_equality_pins_a_label_down() -> None:
    one = selector('up{a="x",b!="y"}')
    assert one.value_of("a") == "x"
    assert one.value_of("b") is None
    assert one.value_of("c") is None


def test_a_number_is_written_without_the_dust_of_floats() -> None:
    cases: list[tuple[float, str]] = [
        (0.1 + 0.2, "0.3"),
        (1 - 0.95, "0.05"),
        (0.00001, "0.00001"),
        (600.0, "600"),
        (0.0, "0"),
        (-2.5, "-2.5"),
    ]
    with every() as case:
        for value, text in cases:
            with case(value, text):
                assert number(value) == text


EXPRESSIONS = {
    'sum(rate(a{b="c",d=~"x|y"}[5m]))': ['a{b="c",d=~"x|y"}'],
    "sum by (x) (increase(a[1m]))": ["a"],
    "sum(a) by (job)": ["a"],
    'sum(a) + sum(b{x="}"})': ["a", 'b{x="}"}'],
    "histogram_quantile(0.9, sum by (le) (rate(x_bucket[5m])))": ["x_bucket"],
    '1 - avg(rate(cpu{mode="idle"}[5m])) * 100 > bool 3e2': ['cpu{mode="idle"}'],
    "a / on (instance) group_left (x) b offset 5m": ["a", "b"],
    "sum without (le) (a) and on (x) b or c unless d": ["a", "b", "c", "d"],
    'a{x="1"} @ start()': ['a{x="1"}'],
    "max_over_time(sum(rate(a[5m]))[1h:1m])": ["a"],
    "count_values('v', a) ^ -Inf": ["a"],
    "sum(a\n  - ignoring (code) b\n)": ["a", "b"],
    "by_hand + sum_of_all": ["by_hand", "sum_of_all"],
    "(a)": ["a"],
}


def test_an_expression_is_known_by_the_series_that_it_reads() -> None:
    with every() as case:
        for text, series in EXPRESSIONS.items():
            with case(text):
                promql_parser.parse(text)
                assert [str(one) for one in expression(text).selectors] == series


def test_what_is_no_promql_is_refused_where_it_goes_wrong() -> None:
    cases = {
        "sum(a": "has a parenthesis too few",
        "sum(a))": r"from here on: '\)'",
        "SELECT a FROM b": "from here on: 'a FROM b'",
        "a # as before": "from here on: '# as before'",
        "sum:a{b}": "is no list of label",
        "vector(1)": "names no metric",
        "": "names no metric",
        'a{b="c}': "from here on",
    }
    with every() as case:
        for text, why in cases.items():
            with case(text), pytest.raises(SloError, match=why):
                expression(text)


def test_an_expression_is_asked_for_each_window() -> None:
    asked = expression("sum(rate(a[{{window}}])) - sum(rate(b[{{ .window }}]))")
    assert asked.has_window
    assert asked.over("3d") == "sum(rate(a[3d])) - sum(rate(b[3d]))"
    assert not expression("sum(rate(a[5m]))").has_window
