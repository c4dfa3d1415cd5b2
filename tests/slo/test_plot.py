"""How a spent budget is drawn."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis.strategies import floats, integers, lists

from postfacta_slo.status.report import plot
from tests.slo.test_status import DAY, MONTH, ONE

START = 1_790_000_000.0


def curve(*shares: float) -> list[tuple[float, float]]:
    return [(START + number * MONTH / len(shares), share) for number, share in enumerate(shares)]


def ordinates(svg: str) -> list[float]:
    """The heights of the curve, from left to right."""
    path = re.search(r'class="plot-curve"[^>]* d="M48 ([\d.]+)(.*?)"', svg)
    assert path
    return [float(path[1]), *(float(y) for y in re.findall(r"V([\d.]+)", path[2]))]


def words(svg: str) -> list[str]:
    return [text.text or "" for text in ET.fromstring(svg).iter("text")]  # noqa: S314 - it is ours


def test_the_curve_goes_down_as_the_budget_is_spent() -> None:
    heights = ordinates(plot(replace(ONE, spent=curve(0.0, 0.0, 0.2, 0.25))))
    assert heights[0] == heights[1] < heights[2] < heights[3]
    assert "25%" in words(plot(replace(ONE, spent=curve(0.0, 0.25))))


def test_what_is_overspent_is_drawn_below_nothing_but_not_for_ever() -> None:
    svg = plot(replace(ONE, spent=curve(0.0, 1.2, 9.0)))
    assert {"0%", "-50%"} <= {*words(svg)}
    assert ordinates(svg)[-1] == 168 - 26
    assert "-50%" not in words(plot(replace(ONE, spent=curve(0.0, 0.9))))
    assert "-25%" in words(plot(replace(ONE, spent=curve(0.0, 1.3))))


@pytest.mark.parametrize(("days", "first"), [(30.0, "2026-09-21"), (2.0, "09-21 14:13")])
def test_a_short_window_is_labelled_by_the_hour(days: float, first: str) -> None:
    svg = plot(replace(ONE, window=days * DAY, spent=[(START, 0.0), (START + days * DAY, 0.1)]))
    assert first in words(svg)


def test_what_is_not_known_is_not_drawn() -> None:
    assert plot(replace(ONE, spent=[])) == ""
    assert plot(replace(ONE, spent=curve(0.0))) == ""
    assert plot(replace(ONE, coverage=0.5, spent=curve(0.0, 0.1))) == ""


def test_it_has_a_text_alternative_and_no_own_style() -> None:
    svg = plot(replace(ONE, slo="a<b", spent=curve(0.0, 0.25)))
    root = ET.fromstring(svg)  # noqa: S314 - it is ours
    assert root.get("role") == "img"
    assert root.findtext("title") == "Budget of a<b that was left"
    assert "75% is left" in (root.findtext("desc") or "")
    assert not any(
        element.get("style") or element.tag in {"style", "script"} for element in root.iter()
    )


@given(shares=lists(floats(0, 50), min_size=2, max_size=40), width=integers(300, 900))
def test_nothing_is_ever_drawn_outside_the_frame(shares: list[float], width: int) -> None:
    svg = plot(replace(ONE, spent=curve(*shares)), width=width)
    assert all(10 <= y <= 168 - 26 for y in ordinates(svg))
    assert all(48 <= float(x) <= width - 12 for x in re.findall(r"H([\d.]+) V", svg))
