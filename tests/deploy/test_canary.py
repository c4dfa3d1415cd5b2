"""A canary is judged as Argo Rollouts would, and what is shipped promotes nothing without data."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from promql_parser import parse

from deploy.canary.analysis import (
    Metric,
    Phase,
    assessed,
    holds,
    measured,
    metrics_of,
    weights_of,
    worst,
)

OVERLAY = Path(__file__).parents[2] / "deploy/k8s/overlays/canary"
TEMPLATE: dict[str, Any] = yaml.safe_load((OVERLAY / "analysis.yaml").read_text())
ROLLOUT: dict[str, Any] = yaml.safe_load((OVERLAY / "rollout.yaml").read_text())
ARGUMENTS = {"canary-hash": "new", "stable-hash": "old"}
NAN = math.nan
BOTH = Metric(
    name="errors",
    query="",
    delay="2m",
    interval="30s",
    count=4,
    success="len(result) > 0 && !isNaN(result[0]) && result[0] <= 0.01",
    failure="len(result) > 0 && !isNaN(result[0]) && result[0] > 0.05",
    failures=1,
    inconclusive=2,
    errors=1,
)
GOOD, BAD, OPEN, ERROR, RUNNING = (
    Phase.SUCCESSFUL,
    Phase.FAILED,
    Phase.INCONCLUSIVE,
    Phase.ERROR,
    Phase.RUNNING,
)


@pytest.mark.parametrize(
    ("condition", "result", "expected"),
    [
        ("len(result) > 0", [], False),
        ("len(result) > 0 && result[0] <= 1", [], False),
        ("len(result) > 0 && result[0] <= 1", [1.0], True),
        ("result[0] <= 0.95", [0.96], False),
        ("result[0] >= -2", [-2.0], True),
        ("result[1] == 3", [0.0, 3.0], True),
        ("result[0] != 3", [3.0], False),
        ("result[0] < 1", [NAN], False),
        ("result[0] > 1", [NAN], False),
        ("isNaN(result[0])", [NAN], True),
        ("isNaN(result[0])", [1.0], False),
        ("!isNaN(result[0])", [NAN], False),
    ],
)
def test_a_condition_is_evaluated(condition: str, result: list[float], *, expected: bool) -> None:
    assert holds(condition, result) is expected


@pytest.mark.parametrize(
    "condition",
    ["result[0] <= 1 || true", "default(result, 0) < 1", "result <= 1", "", "result[0]<=1", "true"],
)
def test_what_is_not_known_of_the_language_is_refused(condition: str) -> None:
    with pytest.raises(ValueError, match="not known here"):
        holds(condition, [0.0])


@pytest.mark.parametrize(
    ("metric", "result", "expected"),
    [
        (BOTH, [0.0], GOOD),
        (BOTH, [0.03], OPEN),
        (BOTH, [0.06], BAD),
        (BOTH, [], OPEN),
        (BOTH, [NAN], OPEN),
        (replace(BOTH, failure=""), [], BAD),
        (replace(BOTH, failure=""), [NAN], BAD),
        (replace(BOTH, failure=""), [0.0], GOOD),
        (replace(BOTH, success=""), [NAN], GOOD),
        (replace(BOTH, success=""), [0.06], BAD),
        (replace(BOTH, success="", failure=""), [], GOOD),
        (replace(BOTH, success="result[0] <= 1"), [], ERROR),
    ],
)
def test_a_measurement_is_judged_by_both_conditions(
    metric: Metric, result: list[float], expected: Phase
) -> None:
    assert measured(metric, result) is expected


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        ([], RUNNING),
        ([GOOD, GOOD, GOOD], RUNNING),
        ([GOOD, GOOD, GOOD, GOOD], GOOD),
        ([BAD, GOOD, GOOD, GOOD], GOOD),
        ([BAD, GOOD, BAD], BAD),
        ([OPEN, OPEN], RUNNING),
        ([OPEN, OPEN, OPEN], OPEN),
        ([ERROR, GOOD, ERROR], RUNNING),
        ([ERROR, ERROR], ERROR),
    ],
)
def test_a_metric_is_judged_by_its_limits(phases: list[Phase], expected: Phase) -> None:
    assert assessed(BOTH, phases) is expected


def test_the_worst_metric_decides() -> None:
    for phases in product(Phase, repeat=2):
        assert worst(phases) in phases
    assert worst([GOOD, RUNNING]) is RUNNING
    assert worst([GOOD, OPEN, RUNNING]) is OPEN
    assert worst([BAD, OPEN, ERROR]) is BAD


def shipped() -> list[Metric]:
    return metrics_of(TEMPLATE, ARGUMENTS)


def test_what_is_shipped_can_be_executed() -> None:
    assert weights_of(ROLLOUT) == [5, 25, 50]
    assert [it.name for it in shipped()] == [
        "samples",
        "errors",
        "latency-p95",
        "loop-lag-p99",
        "memory",
        "restarts",
    ]
    for it in shipped():
        for condition in filter(None, (it.success, it.failure)):
            holds(condition, [0.0])
        parse(it.query)
        assert 'rollouts_pod_template_hash="new"' in it.query


@pytest.mark.parametrize("result", [[], [NAN]], ids=["empty", "nan"])
def test_nothing_that_is_shipped_passes_without_data(result: list[float]) -> None:
    assert {it.name: measured(it, result) for it in shipped()} == {
        it.name: BAD if it.name == "samples" else OPEN for it in shipped()
    }


def test_a_canary_without_data_is_aborted_before_it_would_pause() -> None:
    ended = dict[str, int]()
    for it in shipped():
        phases: list[Phase] = []
        while assessed(it, phases) is RUNNING:
            phases.append(measured(it, []))
        ended[it.name] = len(phases)
    assert ended.pop("samples") == 2
    assert set(ended.values()) == {3}


def test_an_argument_without_a_value_is_refused() -> None:
    with pytest.raises(ValueError, match="stable-hash"):
        metrics_of(TEMPLATE, {"canary-hash": "new"})


Steps = list[dict[str, Any]]
DISORDERS: dict[str, Callable[[Steps], object]] = {
    "missing": lambda it: it.pop(),
    "pause": lambda it: it.insert(0, {"pause": {}}),
    "order": lambda it: it.reverse(),
}


@pytest.mark.parametrize("disorder", DISORDERS)
def test_a_weight_without_an_analysis_is_refused(disorder: str) -> None:
    rollout = deepcopy(ROLLOUT)
    DISORDERS[disorder](rollout["spec"]["strategy"]["canary"]["steps"])
    with pytest.raises(ValueError, match="followed by an analysis"):
        weights_of(rollout)
