"""Each tier has a course in which it fires and stops, and one in which it is silent although half of it would fire."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from postfacta_slo.promise.reading import seconds
from postfacta_slo.proofs.burn_tests import SHARES, burn_tests, outage
from postfacta_slo.proofs.detection import Burn, Stretch, Traffic, verdicts
from postfacta_slo.proofs.scenario import Scenario
from tests.kit.every import every

from .files import APP, ORDERS, model, objective

TIERS = [
    (file, one.name, tier.name)
    for file in (APP, ORDERS)
    for one in model(file).objectives
    for tier in one.tiers
]
MADE: dict[str, list[dict[str, Any]]] = {}


def scenario(file: Path, name: str) -> Scenario:
    # Once a minute is enough for all but those that look at one minute alone.
    one = objective(name, file)
    source = model(file).source
    slow = all(tier.short >= 300 for tier in one.tiers)
    return Scenario(source, one, 60 // source.scrape_interval if slow else 1)


def made(file: Path, name: str) -> list[dict[str, Any]]:
    if name not in MADE:
        MADE[name] = burn_tests(scenario(file, name))
    return MADE[name]


def the(tests: list[dict[str, Any]], what: str) -> dict[str, Any]:
    (found,) = (test for test in tests if what in test["name"])
    return found


def fired(test: dict[str, Any], tier: str) -> list[bool]:
    """Whether the tier must fire, check by check in which it is asked for."""
    asked = [
        check
        for check in test["promql_expr_test"]
        if check["expr"].startswith("count by (burnrate_tier")
    ]
    return [
        any(f'"{tier}"' in sample["labels"] for sample in check["exp_samples"])
        for check in asked
        if "=~" not in check["expr"] or re.search(rf'=~"[^"]*\b{tier}\b', check["expr"])
    ]


@pytest.mark.parametrize(("file", "name", "tier"), TIERS)
def test_each_tier_fires_in_a_course_of_its_own_and_has_stopped_when_it_ends(
    file: Path, name: str, tier: str
) -> None:
    said = fired(the(made(file, name), f"for tier {tier}"), tier)
    assert said[0] is False
    assert True in said
    assert said[-1] is False


def test_where_a_tier_fires_alone_no_faster_one_does() -> None:
    with every() as case:
        for file, name, tier in TIERS:
            with case(file, name, tier):
                test = the(made(file, name), f"for tier {tier}")
                names = [one.name for one in objective(name, file).tiers]
                for faster in names[: names.index(tier)]:
                    assert True not in fired(test, faster)


def test_no_tier_minds_a_blip() -> None:
    with every() as case:
        for file, name, tier in TIERS:
            with case(file, name, tier):
                test = the(made(file, name), f"a blip that tier {tier} ")
                assert True not in fired(test, tier)
                silence = test["promql_expr_test"][-1]
                assert silence["exp_samples"] == []
                assert re.search(rf'burnrate_tier=~"[^"]*\b{tier}\b', silence["expr"])


def played(test: dict[str, Any]) -> list[tuple[int, int]]:
    """What goes well and what fails between two scrapes, from the series of the app's requests."""
    bad: list[str] = []
    good: list[str] = []
    for series in test["input_series"]:
        if 'traffic="user"' in series["series"] and 'http_route="/' not in series["series"]:
            (bad if "error_type" in series["series"] else good).append(series["values"])
    return list(zip(steps(good[0]), steps(bad[0]), strict=True))


def steps(samples: str) -> list[int]:
    counts: list[int] = []
    for first, step, times in re.findall(r"(\d+)(?:\+(\d+)x(\d+))?", samples):
        counts += [int(first) + int(step or 0) * time for time in range(int(times or 0) + 1)]
    return [other - one for one, other in pairwise(counts)]


@pytest.mark.parametrize("name", ["availability", "success-rate"])
def test_without_its_long_window_a_tier_would_mind_the_blip(name: str) -> None:
    here = scenario(APP, name)
    for tier in here.objective.tiers:
        course = played(the(made(APP, name), f"a blip that tier {tier.name} "))
        traffic = Traffic(tuple(Stretch(1, good + bad, bad) for good, bad in course))
        burn = here.burn(tier)
        assert True not in said(here, traffic, burn)
        assert True in said(here, traffic, replace(burn, long=burn.short))


def said(here: Scenario, traffic: Traffic, burn: Burn) -> list[bool | None]:
    return verdicts(traffic, burn, here.by, every=here.every)


@pytest.mark.parametrize("tier", ["fast", "slow"])
def test_without_its_floor_a_tier_would_page_for_a_handful(tier: str) -> None:
    test = the(made(APP, "success-rate"), f"and tier {tier} waits")
    expected = fired(test, tier)
    assert expected.index(True) > 0
    here = scenario(APP, "success-rate")
    burn = here.burn(next(one for one in here.objective.tiers if one.name == tier))
    own = [
        one
        for one in test["input_series"]
        if '"499"' not in one["series"] and 'job="other"' not in one["series"]
    ]
    course = played({"input_series": own})
    traffic = Traffic(tuple(Stretch(1, good + bad, bad) for good, bad in course))
    with_floor, without = (said(here, traffic, one) for one in (burn, replace(burn, failures=0)))
    assert without.index(True) < with_floor.index(True)


def test_an_outage_is_detected_no_sooner_and_hardly_later_than_its_burn_rate_says() -> None:
    cases: list[tuple[Path, str, str]] = [
        (APP, "success-rate", "fast"),
        (APP, "success-rate", "slow"),
        (ORDERS, "checkouts-succeed", "fast"),
    ]
    with every() as case:
        for file, name, tier in cases:
            for share in SHARES:
                with case(file, name, tier, share):
                    here = scenario(file, name)
                    verdict = here.verdicts(outage(here, share))[tier]
                    watched = next(one for one in here.objective.tiers if one.name == tier)
                    expected = here.objective.fires_after(watched, share)
                    if expected > 1_800:
                        assert True not in verdict
                        continue
                    scrape = here.source.scrape_interval
                    step = here.every * scrape
                    detected = verdict.index(True) * step - here.history() * scrape
                    assert expected - step <= detected <= expected + 2 * step


def test_outages_that_are_detected_alike_are_proved_once() -> None:
    names = [test["name"] for test in made(APP, "availability") if "half an hour" in test["name"]]
    assert names[0] == "availability: 100 % fail for half an hour"
    assert 2 <= len(names) < len(SHARES)
    assert len([test for test in made(APP, "success-rate") if "half an hour" in test["name"]]) >= 5


def test_an_outage_in_which_half_an_event_would_fail_is_not_proved() -> None:
    # A gauge has one value a scrape, which is good or bad.
    tiers = tuple(replace(tier, min_failures=0) for tier in objective("checkouts-succeed").tiers)
    gauge = replace(objective("queue-is-short"), tiers=tiers)
    names = [test["name"] for test in burn_tests(Scenario(model().source, gauge, 1))]
    outages = [name for name in names if "half an hour" in name]
    assert outages == ["queue-is-short: 100 % fail for half an hour"]


def test_an_objective_without_alerts_has_no_course() -> None:
    assert burn_tests(scenario(ORDERS, "queue-is-short")) == []


def test_the_end_of_a_fault_is_asked_for_within_the_short_window_and_a_minute() -> None:
    test = the(made(APP, "success-rate"), "100 % fail")
    end = max(seconds(check["eval_time"]) for check in test["promql_expr_test"])
    assert end == (30 + 30 + 1 + 1) * 60
    assert fired(test, "fast")[-1] is False
