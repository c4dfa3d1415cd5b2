"""Prometheus takes whatever is generated, and takes it twice for the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings

from postfacta_slo.promise.openslo import read
from postfacta_slo.promise.promql import SloError
from postfacta_slo.rules.alerts import rules_of

from .files import APP, ORDERS, Documents, documents, model, some_documents
from .promtool import needs_promtool, refusal


def lint(where: Path, rules: object) -> str:
    (where / "rules.yml").write_text(json.dumps(rules, ensure_ascii=False))
    return refusal(where, "check", "rules", "--lint=all", "--lint-fatal", "rules.yml")


@pytest.mark.usefixtures("programs")
@needs_promtool
@pytest.mark.parametrize("compress", [1, 7, 60, 150])
@pytest.mark.parametrize("file", [APP, ORDERS], ids=["app", "orders"])
def test_promtool_finds_nothing_wrong(tmp_path: Path, file: Path, compress: int) -> None:
    assert lint(tmp_path, rules_of(model(file), compress=compress)) == ""


@pytest.mark.usefixtures("programs")
@needs_promtool
@settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(some_documents())
def test_promtool_finds_nothing_wrong_with_any_file(tmp_path: Path, file: Documents) -> None:
    assert lint(tmp_path, rules_of(read(file))) == ""


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(some_documents())
def test_the_same_file_gives_the_same_rules(file: Documents) -> None:
    assert json.dumps(rules_of(read(file))) == json.dumps(rules_of(read(file)))


def test_the_order_of_keys_in_the_file_changes_nothing() -> None:
    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: turned(one) for key, one in reversed(cast("dict[str, Any]", value).items())
            }
        return [turned(one) for one in value] if isinstance(value, list) else value  # pyright: ignore[reportUnknownVariableType]

    there = [
        {**one, "metadata": {k: v for k, v in one["metadata"].items() if k != "labels"}}
        for one in documents()
    ]
    assert json.dumps(rules_of(read([turned(one) for one in there]))) == json.dumps(
        rules_of(read(there))
    )


def test_each_service_and_each_objective_has_groups_of_its_own() -> None:
    names = [group["name"] for group in rules_of(model())["groups"]]
    assert names[:3] == [
        "slo:orders-api",
        "slo:orders-api:checkouts-succeed",
        "slo:orders-api:checkouts-succeed:period",
    ]
    assert len(names) == len(set(names)) == 9


def test_what_alerts_read_is_evaluated_as_often_as_it_is_scraped() -> None:
    intervals = {group["name"]: group["interval"] for group in rules_of(model(APP))["groups"]}
    assert intervals["slo:postfacta:availability"] == "15s"
    assert intervals["slo:postfacta:availability:period"] == "1m"
    assert {group["interval"] for group in rules_of(model(APP), compress=60)["groups"]} == {
        "250ms",
        "1s",
    }


def test_no_word_of_ours_is_in_the_rules_of_another_service() -> None:
    assert "postfacta" not in json.dumps(rules_of(model())).lower()


@pytest.mark.parametrize("compress", [0, -1, 151])
def test_what_prometheus_could_not_keep_pace_with_is_refused(compress: int) -> None:
    with pytest.raises(SloError, match=f"1 to 150 times, not {compress}"):
        rules_of(model(APP), compress=compress)
