"""How objectives are reported: to people, to programs, and on a page."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from postfacta_slo.status.query import SloStatus
from postfacta_slo.status.report import FORMATS, Report, facts, percent, render
from tests.kit.every import every
from tests.slo.test_status import DAY, MONTH, ONE

AT = 1_790_000_000.0
RICH = replace(
    ONE,
    judged=0.981,
    burn={"1h": 0.0, "6h": 0.5, "3d": 14.4},
    spent=[(AT - MONTH, 0.0), (AT - MONTH / 2, 0.2), (AT, 0.25)],
    routes=[("/pay/{id}", 312.4), ("/cart", 7.0)],
)
HOURLY = SloStatus(
    service="shop",
    slo="success-rate",
    objective=0.995,
    window=MONTH,
    unit="events",
    coverage=0.95,
    error=0.001,
    total=2_000_000,
    burn={"6h": 2.0},
    hours=(702, 719),
)
SHORT = replace(ONE, slo="latency-p99", coverage=0.333, error=0.5, burn={})
REPORT = Report(
    source="http://prometheus:9090", at=AT, window=MONTH, statuses=[RICH, HOURLY, SHORT]
)


def test_a_person_reads_what_is_left_how_fast_it_goes_and_until_when() -> None:
    assert render(REPORT, "text") == (
        """\
Objectives over 30 d up to 2026-09-21 14:13 UTC, from http://prometheus:9090

shop / availability: 99 %
  achieved      99.75 %
  budget        432 min
  spent         108 min (25 %)
  remaining     324 min (75 %)
  burn          0x over 1h, 0.5x over 6h, 14.4x over 3d
  exhausted in  45 d
  judged slices 98.1 %
  coverage      100 %
  failed        312 at /pay/{id}
  failed        7 at /cart

shop / success-rate: 99.5 %
  achieved      99.9 %
  budget        10,000 events
  spent         2,000 events (20 %)
  remaining     8,000 events (80 %)
  burn          2x over 6h
  exhausted in  12 d
  hours met     702 of 719
  coverage      95 %

shop / latency-p99: 99 %
  state         insufficient data: 33.3 % of the window is recorded, 90 % is needed
  burn          unknown
  coverage      33.3 %
"""
    )


def test_a_program_reads_numbers_and_null_where_unknown() -> None:
    document = json.loads(render(REPORT, "json"))
    assert document["at"] == "2026-09-21T14:13:20+00:00"
    assert (document["source"], document["window_seconds"]) == ("http://prometheus:9090", MONTH)
    first, second, third = document["objectives"]
    assert first["remaining_ratio"] == pytest.approx(0.75)
    assert first["budget"] == pytest.approx(432)
    assert first["exhausted_in_seconds"] == pytest.approx(45 * DAY)
    assert first["failures"] == {"/pay/{id}": 312.4, "/cart": 7.0}
    assert (first["hours"], second["hours"]) == (None, {"met": 702, "known": 719})
    assert third["sufficient"] is False
    assert "achieved" not in third
    assert "remaining_ratio" not in third


def test_a_program_reads_shares_where_event_counts_are_unknown() -> None:
    report = replace(REPORT, statuses=[replace(HOURLY, total=None)])
    (only,) = json.loads(render(report, "json"))["objectives"]
    assert (only["total"], only["budget"]) == (None, None)
    assert only["remaining_ratio"] == pytest.approx(0.8)
    assert ("remaining", "80 %") in facts(replace(HOURLY, total=None))
    assert ("budget", "0.5 % of all") in facts(replace(HOURLY, total=None))


def test_markdown_has_a_table_for_each_objective() -> None:
    lines = render(
        replace(REPORT, statuses=[replace(RICH, routes=[("/a|b", 7.0)]), SHORT]), "md"
    ).splitlines()
    assert [line for line in lines if line.startswith("#")] == [
        "# Objectives over 30 d up to 2026-09-21 14:13 UTC",
        "## shop / availability: 99 %",
        "## shop / latency-p99: 99 %",
    ]
    assert {line.count("|") for line in lines if line.startswith("|")} == {3}
    assert "| achieved | 99.75 % |" in lines
    assert "| failed | 7 at /a&#124;b |" in lines
    assert any(line.startswith("| state | insufficient data: ") for line in lines)


def test_markdown_holds_names_as_inert_lines() -> None:
    odd = "a\n# <img src=x> [b](http://c.example)"
    status = replace(RICH, service=odd, slo=odd, routes=[(odd, 7.0)])
    text = render(replace(REPORT, statuses=[status], source=odd), "md")
    assert "<img" not in text
    assert "[b](" not in text
    assert [line[:3] for line in text.splitlines() if line.startswith("#")] == ["# O", "## "]


class _Tags(HTMLParser):
    """Keeps track of what is open, and refuses what is closed out of turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_sound_and_draws_what_is_known_alone() -> None:
    tags = _Tags(render(REPORT, "html"))
    assert tags.open == []
    assert tags.seen.count("section") == 3
    assert tags.seen.count("svg") == 1
    assert "script" not in tags.seen
    assert "insufficient data" in render(REPORT, "html")


def test_names_of_strangers_are_inert_on_the_page() -> None:
    evil = "<script>alert(1)</script>"
    standing = replace(RICH, service=evil, slo=evil, routes=[(evil, 1.0)])
    page = render(replace(REPORT, source=evil, statuses=[standing]), "html")
    assert "<script" not in page
    assert (
        page.count("&lt;script&gt;") == 5
    )  # the source, service, name and route, and the plot's title


@pytest.mark.parametrize(
    ("one", "told"),
    [
        (replace(ONE, error=0.01), "already exhausted"),
        (replace(ONE, burn={"6h": 0.0}), "not at this rate"),
        (replace(ONE, burn={}), "unknown"),
        (replace(ONE, burn={"6h": 270.0}), "2 h"),
    ],
)
def test_the_end_of_the_budget_is_written_in_words(one: SloStatus, told: str) -> None:
    assert ("exhausted in", told) in facts(one)


def test_an_objective_that_nothing_happened_to_is_not_called_kept() -> None:
    assert facts(replace(ONE, error=None))[0] == (
        "state",
        "insufficient data: there was nothing to judge",
    )


def test_an_overspent_budget_has_less_than_nothing_left() -> None:
    assert ("remaining", "-108 min (-25 %)") in facts(replace(ONE, error=0.0125))


def test_what_is_just_missed_is_not_rounded_to_be_met() -> None:
    cases: list[tuple[float, str]] = [
        (0.994999, "99.499 %"),
        (0.995, "99.5 %"),
        (0.9999999, "99.999 %"),
        (1.0, "100 %"),
        (0.0, "0 %"),
        (-2.5, "-250 %"),
    ]
    with every() as case:
        for ratio, told in cases:
            with case(ratio, told):
                assert percent(ratio) == told


@pytest.mark.parametrize("form", FORMATS)
def test_each_format_ends_its_last_line(form: str) -> None:
    assert render(REPORT, form).endswith("\n")
