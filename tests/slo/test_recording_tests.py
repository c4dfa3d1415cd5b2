"""What is recorded is asked for in each state of an objective, with what it must leave out beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from postfacta_slo.promise.model import Objective, ThresholdIndicator
from postfacta_slo.proofs.recording_tests import recording_tests
from postfacta_slo.proofs.scenario import Scenario
from tests.kit.every import every

from .files import APP, ORDERS, model, objective

OBJECTIVES = [(file, one.name) for file in (APP, ORDERS) for one in model(file).objectives]


def made(one: Objective, file: Path = APP) -> dict[str, dict[str, Any]]:
    source = model(file).source
    tests = recording_tests(Scenario(source, one, 60 // source.scrape_interval))
    return {test["name"].removeprefix(f"{one.name}: "): test for test in tests}


def asked(test: dict[str, Any], what: str) -> list[float | None]:
    """What must be found where an expression is asked for, None for nothing."""
    return [
        check["exp_samples"][0]["value"] if check["exp_samples"] else None
        for check in test["promql_expr_test"]
        if what in check["expr"]
    ]


def test_each_window_is_proved_silent_and_burning() -> None:
    with every() as case:
        for file, name in OBJECTIVES:
            with case(file, name):
                one = objective(name, file)
                tests = made(one, file)
                assert asked(
                    tests["what is left out fails, and none of it counts"], "ratio_rate.*"
                ) == [len(one.windows)]
                assert asked(
                    tests["what is left out goes well, and hides nothing"], "ratio_rate.*"
                ) == [len(one.windows)]


def test_the_budget_is_seen_untouched_touched_and_spent() -> None:
    with every() as case:
        for file, name in OBJECTIVES:
            with case(file, name):
                tests = made(objective(name, file), file)
                left = "period_error_budget_remaining"
                assert asked(tests["what is left out fails, and none of it counts"], left) == [1]
                spent = tests["the budget is touched, then spent"]
                assert asked(spent, "< 0") == [1]
                assert asked(spent, "> 0 < 1") == [1]
                alerts = [
                    check["exp_samples"]
                    for check in spent["promql_expr_test"]
                    if "Exhausted" in check["expr"]
                ]
                assert bool(alerts) is bool(objective(name, file).exhausted_severity)
                if alerts:
                    assert alerts[0] == []
                    assert alerts[-1] == [{"labels": '{severity="ticket"}', "value": 1}]


def test_a_budget_that_a_touch_would_spend_is_only_spent() -> None:
    tiny = replace(objective("success-rate", APP), target=0.99999, tiers=())
    spent = made(tiny)["the budget is touched, then spent"]
    assert asked(spent, "> 0 < 1") == []
    assert asked(spent, "< 0") == [1]


def test_without_traffic_there_is_no_share_of_events_and_no_slice_is_bad() -> None:
    assert asked(made(objective("success-rate", APP))["nothing ever happens"], "ratio_rate.*") == [
        None
    ]
    latency = made(objective("latency-p95", APP))["nothing ever happens"]
    assert (asked(latency, "slice_bad"), asked(latency, "slice_judged")) == ([0], [0])
    tests = made(objective("availability", APP))
    assert asked(tests["nothing ever happens"], "slice_judged") == [1]
    assert asked(tests["nothing ever happens, and no scrape succeeds"], "slice_judged") == [0]
    assert "nothing ever happens" not in made(objective("queue-is-short", ORDERS), ORDERS)


def test_a_quantile_without_slices_is_unknown_without_traffic() -> None:
    pages = replace(objective("pages-are-quick", ORDERS), slices=None)
    test = made(pages, ORDERS)["nothing ever happens"]
    assert asked(test, "point_bad") == [None]
    assert asked(test, "slice_bad") == []


def test_several_reasons_make_one_bad_slice() -> None:
    test = made(objective("availability", APP))["nothing has ever gone well"]
    assert (asked(test, "slice_bad"), asked(test, "slice_judged")) == ([1], [1])
    ill = [one["series"] for one in test["input_series"] if one["values"].startswith("0+0x")]
    assert any(series.startswith("probe_success") for series in ill)
    assert any(series.startswith("up{") for series in ill)


def test_a_probe_counts_and_its_absence_does_not() -> None:
    tests = made(objective("availability", APP))
    probe = 'probe_success{job="postfacta-journey"}'
    assert probe in {
        one["series"]
        for one in tests["the probe fails and there are no other requests"]["input_series"]
    }
    missing = tests["there is no probe"]
    assert probe not in {one["series"] for one in missing["input_series"]}
    assert asked(missing, "slice_bad") == [0]
    assert asked(missing, "ALERTS") == [None]


def test_the_last_instance_counts_and_one_of_two_does_not() -> None:
    tests = made(objective("availability", APP))
    for name in ("the last instance goes down", "the last instance is gone"):
        fires = [
            check["exp_samples"]
            for check in tests[name]["promql_expr_test"]
            if "count by" in check["expr"]
        ]
        assert {"labels": '{burnrate_tier="fast", severity="page"}', "value": 1} in [
            one for some in fires for one in some
        ]
        assert asked(tests[name], "slice_judged") == [1]
    gone = {
        one["series"]: one["values"] for one in tests["the last instance is gone"]["input_series"]
    }
    assert " stale _x" in gone['up{job="postfacta",instance="one"}']
    assert asked(tests["one of two instances goes down"], "ALERTS") == [None]
    assert "the last instance is gone" not in made(objective("latency-p95", APP))


def test_a_slice_with_too_few_requests_is_proved_not_to_count_and_one_with_enough_to() -> None:
    few = made(objective("latency-p95", APP))["too few to judge, then enough"]
    assert (asked(few, "slice_bad"), asked(few, "slice_judged")) == ([0, 1], [0, 1])
    assert any('traffic="other"' in one["series"] for one in few["input_series"])
    availability = objective("availability", APP)
    assert availability.slices is not None
    probed = replace(availability, slices=replace(availability.slices, min_requests=20))
    assert asked(made(probed)["too few to judge, then enough"], "slice_judged") == []


def test_a_measured_value_has_no_events_that_could_all_fail() -> None:
    queue = objective("queue-is-short", ORDERS)
    assert isinstance(queue.indicator, ThresholdIndicator)
    assert set(made(queue, ORDERS)) == {
        "what is left out fails, and none of it counts",
        "what is left out goes well, and hides nothing",
        "the budget is touched, then spent",
    }


def test_a_probe_is_proved_to_count_where_no_alert_would_tell() -> None:
    mute = replace(objective("availability", APP), tiers=())
    for name in ("the probe fails and there are no other requests", "the last instance is gone"):
        assert asked(made(mute)[name], "slice_bad") == [1]
