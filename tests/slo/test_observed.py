"""The series of a scenario are those that the objective's own selectors select, and no others."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from postfacta_slo.promise.model import Objective, RatioIndicator, ThresholdIndicator
from postfacta_slo.promise.promql import Matcher, Query, Selector, selector
from postfacta_slo.proofs.detection import Counting, Slicing, Stretch
from postfacta_slo.proofs.scenario import Scenario
from tests.kit.every import every

from .files import APP, ORDERS, model, objective

SOURCE = model(APP).source
OBJECTIVES = [(file, one.name) for file in (APP, ORDERS) for one in model(file).objectives]
RATIOS = [
    (file, name)
    for file, name in OBJECTIVES
    if isinstance(objective(name, file).indicator, RatioIndicator)
]


def observed(name: str, file: object = APP, *, every: int = 1) -> Scenario:
    path = APP if file == APP else ORDERS
    return Scenario(model(path).source, objective(name, path), every)


def selects(wanted: Query | None, series: str) -> bool:
    assert isinstance(wanted, Selector)
    found = selector(series)
    values = {matcher.label: matcher.value for matcher in found.matchers}
    return wanted.metric == found.metric and all(
        matches(one, values.get(one.label, "")) for one in wanted.matchers
    )


def matches(matcher: Matcher, value: str) -> bool:
    same = (
        re.fullmatch(matcher.value, value) is not None
        if "~" in matcher.op
        else matcher.value == value
    )
    return same is not ("!" in matcher.op)


def grown(samples: str) -> int:
    """By how much a counter grows, or what the samples of a gauge add up to."""
    return sum(int(step) * int(times) for step, times in re.findall(r"([+-]\d+)x(\d+)", samples))


def test_what_is_scraped_is_what_the_objective_counts() -> None:
    with every() as case:
        for file, name in RATIOS:
            with case(file, name):
                one = observed(name, file)
                indicator = one.objective.indicator
                assert isinstance(indicator, RatioIndicator)
                scraped = one.scraped(one.traffic(Stretch(10, 100, 30)))
                assert len(scraped) == 2
                if not indicator.counter:
                    continue
                judged, share = (indicator.bad, 300) if indicator.bad else (indicator.good, 700)
                assert (
                    sum(
                        grown(samples)
                        for series, samples in scraped.items()
                        if selects(indicator.total, series)
                    )
                    == 1000
                )
                assert (
                    sum(
                        grown(samples)
                        for series, samples in scraped.items()
                        if selects(judged, series)
                    )
                    == share
                )


def test_what_is_left_out_is_selected_by_nothing() -> None:
    with every() as case:
        for file, name in OBJECTIVES:
            for failing in (True, False):
                with case(file, name, failing):
                    one = observed(name, file)
                    indicator = one.objective.indicator
                    left_out = one.left_out(10, failing=failing)
                    if isinstance(indicator, RatioIndicator):
                        assert selector(str(indicator.total)).matchers == () or left_out
                        judged = indicator.bad or indicator.good
                        assert not any(
                            selects(wanted, series)
                            for series in left_out
                            for wanted in (indicator.total, judged)
                        )
                    else:
                        assert bool(left_out) is bool(selector(str(indicator.metric)).matchers)
                        assert not any(selects(indicator.metric, series) for series in left_out)


def test_each_condition_of_the_apps_requests_is_missed_once_for_each_of_its_alternatives() -> None:
    left_out = observed("success-rate").left_out(10, failing=True)
    assert len(left_out) == 5
    for missed in (
        'job="other"',
        'traffic="other"',
        'http_route="/healthz"',
        'http_route="/metrics"',
        '"499"',
    ):
        assert sum(missed in series for series in left_out) == 1
    assert all('error_type="other"' in series for series in left_out)


def test_a_series_may_never_appear() -> None:
    one = observed("success-rate")
    traffic = one.traffic(Stretch(4, 10), Stretch(4, 10, 10))
    both, good, bad = (one.scraped(traffic, never=never) for never in ("", "bad", "good"))
    assert (len(both), len(good), len(bad)) == (2, 1, 1)
    assert both == good | bad


@pytest.mark.parametrize(
    ("op", "good", "bad"), [("lte", 600, 1200), ("lt", 0, 600), ("gte", 600, 0), ("gt", 1200, 600)]
)
def test_a_measured_value_is_on_its_side_of_the_threshold(op: str, good: float, bad: float) -> None:
    queue = objective("queue-is-short", ORDERS)
    assert isinstance(queue.indicator, ThresholdIndicator)
    one = Scenario(SOURCE, replace(queue, indicator=replace(queue.indicator, op=op)))
    assert one.volume == 1
    scraped = one.scraped(one.traffic(one.stretch(2), one.stretch(2, 1)))
    assert list(scraped.values()) == [f"{good:.1f}+0x2 {bad:.1f}+0x1"]


@pytest.mark.parametrize(("op", "below"), [("lte", 700), ("lt", 700), ("gte", 300), ("gt", 300)])
def test_a_histogram_has_its_events_on_both_sides_of_the_threshold(op: str, below: int) -> None:
    pages = objective("pages-are-quick", ORDERS)
    assert isinstance(pages.indicator, ThresholdIndicator)
    one = Scenario(model(ORDERS).source, replace(pages, indicator=replace(pages.indicator, op=op)))
    scraped = one.scraped(one.traffic(Stretch(10, 100, 30)))
    by_edge = {
        re.findall(r'le="([^"]+)"', series)[0]: grown(samples)
        for series, samples in scraped.items()
    }
    assert by_edge == {
        "0.05": 0,
        "0.1": 0,
        "0.25": 0,
        "0.5": 0,
        "1": below,
        "2.5": 1000,
        "+Inf": 1000,
    }


def test_what_counts_follows_from_the_objective() -> None:
    assert observed("success-rate").by == Counting(beyond=480, piece=20)
    assert observed("availability").by == Slicing(width=4, allowed=0.05)
    assert observed("latency-p95").by == Slicing(width=20, allowed=0.05, events=20)
    assert observed("queue-is-short", ORDERS).by == Slicing(width=0, allowed=0.0)
    pages = observed("pages-are-quick", ORDERS).by
    assert isinstance(pages, Slicing)
    assert pages.allowed == pytest.approx(0.1)
    assert (pages.width, pages.then) == (10, Slicing(width=20, allowed=0.5))


def test_a_quantile_that_must_not_be_small_tolerates_more() -> None:
    pages = objective("pages-are-quick", ORDERS)
    assert isinstance(pages.indicator, ThresholdIndicator)
    by = Scenario(
        SOURCE, replace(pages, slices=None, indicator=replace(pages.indicator, op="gte"))
    ).by
    assert by == Slicing(width=20, allowed=0.9)


def test_there_are_enough_events_to_be_above_every_floor() -> None:
    rate = objective("success-rate", APP)
    assert Scenario(SOURCE, rate).volume == 300
    assert Scenario(SOURCE, replace(rate, target=0.9999)).volume == 15_000
    tiers = tuple(replace(tier, min_failures=10_000) for tier in rate.tiers)
    assert Scenario(SOURCE, replace(rate, tiers=tiers)).volume == 33_400
    judged = with_slices(objective("latency-p95", APP), 20_000)
    assert Scenario(SOURCE, judged).volume == 40_000


def with_slices(one: Objective, requests: int) -> Objective:
    assert one.slices is not None
    return replace(one, slices=replace(one.slices, min_requests=requests))


def test_lengths_are_whole_evaluations() -> None:
    one = observed("availability", every=4)
    assert (one.scrapes(60), one.scrapes(61), one.whole(5)) == (4, 8, 8)
    verdicts = one.verdicts(one.traffic(one.stretch(240), one.stretch(80, 1)))
    assert {len(verdict) for verdict in verdicts.values()} == {81}
    # Nine of sixty slices, and two minutes: eleven minutes after the fault.
    assert verdicts["fast"].index(True) == 60 + 11


def test_what_a_probe_says_counts_instead_of_the_events() -> None:
    one = observed("availability")
    quiet = one.traffic(one.stretch(400))
    assert not any(True in verdict for verdict in one.verdicts(quiet).values())
    failing = replace(one.traffic(Stretch(240, 1), Stretch(160, 1, 1)), counted=False)
    assert True in one.verdicts(failing, Slicing(width=0, allowed=0.0))["fast"]
