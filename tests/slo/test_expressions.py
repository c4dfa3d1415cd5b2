"""Objectives that are measured by PromQL of their author's are recorded and alerted upon as any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from postfacta_slo.__main__ import main
from postfacta_slo.promise.model import Model
from postfacta_slo.promise.openslo import read
from postfacta_slo.rules.recording import sli_rules
from tests.kit.every import every

from .files import DATA, promised, source
from .promtool import needs_promtool, refusal

# A fifth of what is answered is rejected: of 10 a second 2.
SERIES = {
    "good_total": "0+240x240",
    "rejected_total": "0+60x240",
    "all_total": "0+300x240",
    "depth": "7x240",
}
RATIOS = {
    "windows": (
        "sum(rate(good_total[{{window}}])) + 0 * sum(rate(rejected_total[{{window}}]))",
        "sum(rate(all_total[{{window}}]))",
    ),
    "samples": ("sum(rate(good_total[5m])) or vector(0)", "sum(rate(all_total[5m]))"),
    "mixed": ("sum(rate(good_total[5m])) * 1", "all_total"),
}


SLICED: dict[str, Any] = {"timeSliceTarget": 0.9, "timeSliceWindow": "5m"}


def ratio(good: str, total: str) -> dict[str, Any]:
    return {"ratioMetric": {"good": source(good), "total": source(total)}}


def written(where: Path, documents: list[dict[str, Any]]) -> Model:
    """Generate all files in a folder."""
    file = where / "shop.yaml"
    # JSON is YAML.
    file.write_text("\n---\n".join(map(json.dumps, documents)))
    paths = {
        name: str(where / name) for name in ("rules.yml", "tests.yml", "board.json", "table.md")
    }
    flags = zip(("--rules", "--tests", "--dashboard", "--table"), paths.values(), strict=True)
    assert main(["generate", str(file), *(word for pair in flags for word in pair)]) == 0
    return read(documents)


def asked(expressions: dict[str, float]) -> str:
    """Write a test by hand: what these are after an hour of all that was scraped."""
    return json.dumps(
        {
            "rule_files": ["rules.yml"],
            "evaluation_interval": "30s",
            "tests": [
                {
                    "interval": "30s",
                    "input_series": [
                        {"series": name, "values": text} for name, text in SERIES.items()
                    ],
                    "promql_expr_test": [
                        {
                            "expr": f"round({expression}, 0.001)",
                            "eval_time": "1h",
                            "exp_samples": [{"labels": "{}", "value": value}],
                        }
                        for expression, value in expressions.items()
                    ],
                }
            ],
        }
    )


@pytest.mark.usefixtures("programs")
@needs_promtool
def test_the_error_over_each_window_is_that_of_the_expression(tmp_path: Path) -> None:
    errors = {
        f"sum(slo:sli_error:ratio_rate{window})": 0.2 for window in ("5m", "1h", "6h", "3d", "30d")
    }
    fires = {'count(ALERTS{alertname="ShopErrorBudgetBurn",alertstate="firing"})': 1.0}
    with every() as case:
        for name, queries in RATIOS.items():
            for sliced in (False, True):
                with case(name, sliced):
                    where = tmp_path / f"{name}{sliced}"
                    where.mkdir()
                    written(where, promised(ratio(*queries), **(SLICED if sliced else {})))
                    own = (
                        {"sum(slo:slice_error:ratio)": 0.2, "sum(slo:slice_bad:bool)": 1.0}
                        if sliced
                        else errors
                    )
                    (where / "own.yml").write_text(asked({**own, **fires}))
                    assert (
                        refusal(where, "check", "rules", "--lint=all", "--lint-fatal", "rules.yml")
                        == ""
                    )
                    assert (
                        refusal(where, "test", "rules", "own.yml", "tests.yml", "tests.slow.yml")
                        == ""
                    )


@pytest.mark.usefixtures("programs")
@needs_promtool
def test_a_measured_expression_is_bad_on_the_wrong_side(tmp_path: Path) -> None:
    documents = promised({"thresholdMetric": source("sum(depth) / 2")}, op="lt", value=3.5)
    written(tmp_path, documents)
    (tmp_path / "own.yml").write_text(
        asked({"sum(slo:point_bad:bool)": 1.0, "sum(slo:sli_error:ratio_rate1h)": 1.0})
    )
    assert refusal(tmp_path, "check", "rules", "--lint=all", "--lint-fatal", "rules.yml") == ""
    assert refusal(tmp_path, "test", "rules", "own.yml", "tests.yml") == ""


@pytest.mark.usefixtures("programs")
@needs_promtool
def test_promtool_proves_each_shape_that_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with every() as case:
        for name in ("ratio", "threshold", "timeslices"):
            with case(name):
                where = tmp_path / name
                where.mkdir()
                words = ("--rules", str(where / "rules.yml"), "--tests", str(where / "tests.yml"))
                assert main(["generate", str(DATA / f"openslo/{name}.yaml"), *words]) == 0
                told = "is an expression, and no series can be made up for one"
                assert (told in capsys.readouterr().out) is (name != "ratio")
                assert (told in (where / "tests.yml").read_text()) is (name != "ratio")
                assert (
                    refusal(where, "check", "rules", "--lint=all", "--lint-fatal", "rules.yml")
                    == ""
                )
                assert refusal(where, "test", "rules", "tests.yml", "tests.slow.yml") == ""


def test_events_of_an_expression_are_compared_and_not_counted(tmp_path: Path) -> None:
    documents = promised(ratio(*RATIOS["windows"]))
    annotations = {"prometheus/min-failures": "5"}
    condition = documents[2]["spec"]["alertPolicies"][0]["spec"]["conditions"][0]
    condition["metadata"]["annotations"] = annotations
    with pytest.raises(ValueError, match="counts failures, and this objective counts no events"):
        read(documents)
    sliced = promised(ratio(*RATIOS["windows"]), **SLICED)
    sliced[2]["metadata"]["annotations"] = {"prometheus/slice-min-requests": "5"}
    with pytest.raises(ValueError, match="its indicator counts none"):
        read(sliced)


def test_what_is_not_proved_is_said_in_the_output_and_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path, promised(ratio(*RATIOS["samples"])))
    why = "shop-sells: its query is an expression, and no series can be made up for one"
    assert f"tests.yml: does not prove {why}" in capsys.readouterr().out
    assert f"# Not proved: {why}\n" in (tmp_path / "tests.yml").read_text()
    proved = [
        test["name"] for test in yaml.safe_load((tmp_path / "tests.yml").read_text())["tests"]
    ]
    assert proved == [
        "shop: all is well, and nothing fires",
        "shop: one of two instances is down",
        "shop: everything is gone",
        "shop: all_total is gone",
    ]


def test_samples_are_recorded_before_windows_add_them_up() -> None:
    own = '{service="shop",slo="shop-sells"}'
    for more in ({}, SLICED):
        rules = sli_rules(read(promised(ratio(*RATIOS["samples"]), **more)).objectives[0])
        names = [rule["record"] for rule in rules]
        assert names[:2] == ["slo:sli_bad:sample", "slo:sli_total:sample"]
        adds_up = f"sum_over_time(slo:sli_bad:sample{own}[5m])\n/\n(sum_over_time(slo:sli_total:sample{own}[5m]) > 0)"
        assert adds_up in [rule["expr"] for rule in rules]
    asked = sli_rules(read(promised(ratio(*RATIOS["windows"]))).objectives[0])
    assert "sum(rate(all_total[1h]))" in next(
        rule["expr"] for rule in asked if rule["record"] == "slo:sli_error:ratio_rate1h"
    )


def test_the_worst_of_what_is_measured_is_bad_and_no_number_is_neither() -> None:
    asked = source("rate(depth[{{window}}]) / 2")
    (objective,) = read(promised({"thresholdMetric": asked}, op="lt", value=3)).objectives
    assert sli_rules(objective)[0]["expr"] == "(max(rate(depth[5m]) / 2) >= -Inf) >= bool 3"
