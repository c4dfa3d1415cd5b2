"""A report is one file that needs nothing else, and shows what it is given as text."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, strategies as st

from postfacta_lab.engine.page import badge, chart, page, section, table


class Balance(HTMLParser):
    """Looks whether each element that is opened is closed in its place."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "line", "path"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in {"line", "path"}:
            assert self.open.pop() == tag


# A report names the commit, by git.
@pytest.mark.usefixtures("programs")
def test_a_report_is_self_contained() -> None:
    lines = {"p50": [(0, 0.1), (1, 0.2)], "p99": [(0, 1.0), (1, 2.5)]}
    whole = page(
        "Load",
        "pass",
        [
            section(
                "A chart",
                chart(lines, x="seconds", y="seconds", marks=[0.5]),
                about="Of two lines.",
            ),
            section("Rows", table(("route", "count"), [["GET /", 3], ["POST /", 4]])),
        ],
    )
    balance = Balance()
    balance.feed(whole)
    assert balance.open == []
    assert not re.search(r"src=|href=|@import|url\(", whole)
    assert "prefers-color-scheme: dark" in whole


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", '"><img src=x>', "a & b"])
def test_what_a_service_said_is_shown_as_text(hostile: str) -> None:
    parts = (
        page(hostile, hostile, []),
        section(hostile, about=hostile),
        table((hostile,), [[hostile]]),
        chart({hostile: [(0, 1), (1, 1)]}, x=hostile, y=hostile),
        badge(hostile),
    )
    assert not any(hostile in part for part in parts)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), min_size=1, max_size=20))
def test_each_point_of_a_chart_lies_inside_it(points: list[tuple[float, float]]) -> None:
    drawn = chart({"a line": sorted(points)}, x="x", y="y")
    path = re.search(r' d="M ([^"]+)"', drawn)
    assert path is not None
    for point in path[1].split(" L "):
        left, top = map(float, point.split())
        assert 56 <= left <= 848
        assert 24 <= top <= 206


def test_a_chart_of_nothing_says_so() -> None:
    assert "nothing to draw" in chart({}, x="x", y="y")
