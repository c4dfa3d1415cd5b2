"""Around a course everything is well, and what belongs to others looks as if it were not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from postfacta_slo.promise.model import Objective
from postfacta_slo.proofs.scenario import Assertion, Scenario

from .files import APP, ORDERS, model, objective

UP = 'up{job="postfacta",instance="one"}'
PROBE = 'probe_success{job="postfacta-journey"}'


def scenario(name: str, *, compress: int = 1) -> Scenario:
    return Scenario(model(APP).source, objective(name, APP), compress=compress)


def shortened(one: Objective, *longest: int) -> Scenario:
    tiers = tuple(replace(tier, long=long) for tier, long in zip(one.tiers, longest, strict=False))
    return Scenario(model(APP).source, replace(one, tiers=tiers))


def test_probe_and_instance_are_well_and_those_of_others_are_the_opposite() -> None:
    test = scenario("availability").test("quiet", {}, [Assertion("up", 4, {})])
    assert {one["series"]: one["values"] for one in test["input_series"]} == {
        UP: "1+0x4",
        'up{job="other"}': "1+0x4",
        PROBE: "1+0x4",
        'probe_success{job="other"}': "0+0x4",
    }
    assert test["name"] == "availability: quiet"


def test_what_a_course_says_goes_before_its_surroundings() -> None:
    test = scenario("availability").test("quiet", {UP: "0", PROBE: ""}, [Assertion("up", 4, {})])
    scraped = {one["series"]: one["values"] for one in test["input_series"]}
    assert scraped[UP] == "0"
    assert PROBE not in scraped


def test_an_objective_without_slices_has_no_surroundings() -> None:
    bare = scenario("success-rate")
    assert (bare.probe, bare.instance("one")) == ("", "")
    assert bare.test("quiet", {}, [Assertion("up", 4, {})])["input_series"] == []


def test_a_fault_begins_when_the_windows_of_the_fastest_tiers_are_full() -> None:
    assert scenario("availability").history() == 240
    assert scenario("success-rate").history() == 120
    assert shortened(objective("availability", APP), 7_200, 90_000).history() == 480
    assert shortened(objective("availability", APP), 900_000, 900_000).history() == 1_440
    queue = objective("queue-is-short", ORDERS)
    assert Scenario(model(APP).source, queue).history() == 240


@pytest.mark.parametrize(
    ("name", "burst", "bad"),
    [("success-rate", 1, 1), ("availability", 1, 3), ("latency-p95", 2, 19)],
)
def test_a_burst_is_as_long_as_a_bad_slice_needs(name: str, burst: int, bad: int) -> None:
    assert scenario(name).burst() == (burst, bad)


def test_a_burst_of_points_lasts_until_their_slice_is_bad() -> None:
    pages = Scenario(model(ORDERS).source, objective("pages-are-quick", ORDERS))
    burst, bad = pages.burst()
    assert burst <= 16
    assert bad > 0


def test_times_are_compressed_in_series_and_in_queries() -> None:
    fast = scenario("success-rate", compress=15)
    assert fast.silence(40).expression.endswith("[41s])")
    assert (
        fast.test("quiet", {}, [Assertion("up", 4, {})])["promql_expr_test"][0]["eval_time"] == "4s"
    )


def test_half_an_hour_is_disturbed_and_before_and_after_it_all_is_well() -> None:
    traffic, well = scenario("availability").disturbed()
    assert (len(well), sum(well)) == (traffic.scrapes + 1, traffic.scrapes + 1 - 120)
    assert [one - other for one, other in zip(traffic.bads[1:], traffic.bads, strict=False)] == [
        1 - yes for yes in well[1:]
    ]
