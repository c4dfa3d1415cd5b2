"""The proofs of a model are complete, in one of two files each, and the same each time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from postfacta_slo.promise.openslo import read
from postfacta_slo.proofs.files import proofs_of, unproved
from postfacta_slo.rules.alerts import rules_of

from .files import APP, ORDERS, changed, model, promised, source


def by_name(proof: dict[str, Any], whose: str) -> dict[str, dict[str, Any]]:
    return {
        test["name"].removeprefix(f"{whose}: "): test
        for test in proof["tests"]
        if test["name"].startswith(f"{whose}: ")
    }


@pytest.fixture(scope="module")
def quick() -> dict[str, Any]:
    return proofs_of(model(APP))


@pytest.mark.parametrize("file", [APP, ORDERS])
def test_each_objective_and_each_service_is_proved_in_one_of_the_two_files(file: Path) -> None:
    promised = model(file)
    names = [
        {test["name"].split(": ")[0] for test in proofs_of(promised, slow=slow)["tests"]}
        for slow in (False, True)
    ]
    assert names[0] & names[1] == set()
    assert names[0] | names[1] == {
        *(one.name for one in promised.services),
        *(one.name for one in promised.objectives),
    }


def test_only_what_looks_at_less_than_five_minutes_is_evaluated_at_the_rules_own_pace(
    quick: dict[str, Any],
) -> None:
    slow = proofs_of(model(APP), slow=True)
    assert (quick["evaluation_interval"], slow["evaluation_interval"]) == ("15s", "1m")
    assert {test["name"].split(": ")[0] for test in quick["tests"]} == {"postfacta", "success-rate"}
    assert proofs_of(model(ORDERS))["evaluation_interval"] == "30s"


def test_groups_are_evaluated_in_the_order_in_which_they_read_each_other(
    quick: dict[str, Any],
) -> None:
    assert quick["group_eval_order"] == [group["name"] for group in rules_of(model(APP))["groups"]]


def test_no_two_tests_have_one_name_and_each_asks_for_something(quick: dict[str, Any]) -> None:
    names = [test["name"] for test in quick["tests"]]
    assert len(set(names)) == len(names)
    assert all(test["promql_expr_test"] and test["input_series"] for test in quick["tests"])


def test_the_same_objectives_give_the_same_bytes(quick: dict[str, Any]) -> None:
    assert json.dumps(proofs_of(model(APP))) == json.dumps(quick)


def test_an_outage_is_proved_to_page_within_two_minutes(quick: dict[str, Any]) -> None:
    test = by_name(quick, "success-rate")["100 % fail for half an hour"]
    firing = [check for check in test["promql_expr_test"] if "count by" in check["expr"]]
    page = {"labels": '{burnrate_tier="fast", severity="page"}', "value": 1}
    before, after = (
        next(c for c in firing if (page in c["exp_samples"]) is yes) for yes in (False, True)
    )
    # The fault begins after half an hour.
    assert (before["eval_time"], after["eval_time"]) == ("1875s", "1890s")


def test_a_service_that_is_gone_is_down_and_its_metrics_are_absent(quick: dict[str, Any]) -> None:
    gone = by_name(quick, "postfacta")["everything is gone"]
    assert [(c["eval_time"], c["exp_samples"]) for c in gone["promql_expr_test"]] == [
        ("16m", []),
        ("975s", [{"labels": '{severity="page"}', "value": 1.0}]),
        ("18m", []),
        (
            "1095s",
            [
                {
                    "labels": '{metric="http_server_requests_total",severity="page"}',
                    "value": 1.0,
                }
            ],
        ),
    ]
    series = {one["series"]: one["values"] for one in gone["input_series"]}
    assert series['up{job="other"}'] == "1+0x120"
    assert all(
        values.endswith("stale")
        for name, values in series.items()
        if "postfacta" in name and "up{" not in name
    )


def test_a_metric_that_is_gone_alone_does_not_mean_that_the_service_is_down(
    quick: dict[str, Any],
) -> None:
    gone = by_name(quick, "postfacta")["http_server_requests_total is gone"]
    assert gone["promql_expr_test"][-1]["exp_samples"] == []
    assert "PostfactaDown" in gone["promql_expr_test"][-1]["expr"]


def test_a_service_without_absence_alerts_is_only_proved_down() -> None:
    silent = changed("AlertPolicy hour-fast", ["spec", "alertWhenNoData"], value=False, file=APP)
    tests = by_name(proofs_of(read(silent)), "postfacta")
    assert set(tests) == {
        "all is well, and nothing fires",
        "one of two instances is down",
        "everything is gone",
    }


def test_a_rehearsals_proofs_are_as_many_times_shorter() -> None:
    compressed = proofs_of(model(APP), compress=15)
    assert compressed["evaluation_interval"] == "1s"
    assert {test["interval"] for test in compressed["tests"]} == {"1s"}


def test_what_no_series_can_be_made_up_for_is_named_and_not_proved() -> None:
    query = 'http_requests_total{job="orders",job="other"}'
    keys = ["spec", "ratioMetric", "total", "metricSource", "spec", "query"]
    impossible = read(changed("SLI checkouts", keys, query))
    assert "no example" in unproved(impossible)["checkouts-succeed"]
    assert not [
        test
        for test in proofs_of(impossible, slow=True)["tests"]
        if test["name"].startswith("checkouts")
    ]
    ratio = {
        "ratioMetric": {"bad": source("sum(rate(a_total[5m])) / 2"), "total": source("b_total")}
    }
    assert "is an expression" in unproved(read(promised(ratio)))["shop-sells"]
    assert unproved(model()) == unproved(model(APP)) == {}


def test_a_metric_is_missed_as_loudly_as_each_of_its_alerts_says() -> None:
    loud = changed("AlertPolicy hour-slow", ["spec", "alertWhenNoData"], value=True, file=APP)
    gone = by_name(proofs_of(read(loud)), "postfacta")["http_server_requests_total is gone"]
    assert [one["labels"].split(",")[1] for one in gone["promql_expr_test"][1]["exp_samples"]] == [
        'severity="page"}',
        'severity="ticket"}',
    ]
