"""The gate lets nothing through that users would have noticed, nor a run that proves nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from postfacta_lab.load.gate import Limits, Run, Sample, Verdict, judge, judge_overload, percentile


def run_of(*samples: Sample, planned: int | None = None, **more: Any) -> Run:
    base = Run(samples=samples, planned=len(samples) if planned is None else planned, seconds=10.0)
    return replace(base, **more)


def good(
    count: int, *, latency: float = 0.01, error: str = "", route: str = "GET /"
) -> list[Sample]:
    step = 9.9 / max(count, 1)
    return [Sample(route, at * step, at * step, at * step + latency, error) for at in range(count)]


def test_a_quick_run_without_failures_passes() -> None:
    outcome = judge(run_of(*good(1000)), Limits())
    assert (outcome.verdict, outcome.reasons) == (Verdict.PASS, [])


def test_one_percent_of_failures_fails() -> None:
    outcome = judge(run_of(*good(990), *good(10, error="500")), Limits())
    assert outcome.verdict == Verdict.FAIL
    assert outcome.errors == {"500": 10}


def test_a_run_with_nothing_but_failures_never_passes() -> None:
    assert judge(run_of(*good(1000, error="503")), Limits()).verdict == Verdict.FAIL


@pytest.mark.parametrize("error", ["ConnectionRefused", "404", "401", "302"])
def test_a_run_that_reached_no_service_measured_nothing(error: str) -> None:
    assert judge(run_of(*good(1000, error=error)), Limits()).verdict == Verdict.NOTHING
    both = judge(run_of(*good(500, error=error), *good(500, error="TimeoutError")), Limits())
    assert both.verdict == Verdict.NOTHING


@pytest.mark.parametrize("error", ["", "500", "429", "408"])
def test_one_answer_of_the_service_is_a_measurement(error: str) -> None:
    run = run_of(*good(999, error="404"), *good(1, error=error))
    assert judge(run, Limits()).verdict == Verdict.FAIL


def test_a_service_that_dies_after_the_warm_up_was_there() -> None:
    samples = [
        replace(sample, error="Refused" if sample.intended > 2 else "") for sample in good(1000)
    ]
    assert judge(run_of(*samples, warm_up=2.0), Limits()).verdict == Verdict.FAIL


@pytest.mark.parametrize(("slow", "named"), [(60, "p95"), (20, "p99")])
def test_a_slow_share_fails_by_its_percentile(slow: int, named: str) -> None:
    outcome = judge(run_of(*good(1000 - slow), *good(slow, latency=3.0)), Limits())
    assert outcome.verdict == Verdict.FAIL
    assert any(named in reason for reason in outcome.reasons)


def test_a_slow_route_cannot_hide_among_quick_ones() -> None:
    outcome = judge(run_of(*good(10_000), *good(50, latency=3.0, route="POST /")), Limits())
    assert outcome.verdict == Verdict.FAIL
    assert all("POST /" in reason for reason in outcome.reasons)


def test_dropped_arrivals_make_a_run_invalid_however_good_it_looks() -> None:
    outcome = judge(run_of(*good(1000), planned=1002, dropped=(1.0, 2.0)), Limits())
    assert outcome.verdict == Verdict.INVALID


def test_a_generator_that_lags_makes_a_run_invalid() -> None:
    late = [replace(sample, began=sample.began * 1.1) for sample in good(1000)]
    assert judge(run_of(*late), Limits()).verdict == Verdict.INVALID


def test_requests_without_an_end_make_a_run_invalid() -> None:
    assert judge(run_of(*good(1000), planned=1001), Limits()).verdict == Verdict.INVALID


def test_too_few_requests_prove_nothing() -> None:
    assert judge(run_of(*good(99)), Limits()).verdict == Verdict.INVALID
    assert judge(run_of(), Limits()).verdict == Verdict.NOTHING


def test_what_happens_in_the_warm_up_is_not_judged() -> None:
    samples = [replace(sample, error="503" if sample.intended < 2 else "") for sample in good(1000)]
    assert judge(run_of(*samples), Limits()).verdict == Verdict.FAIL
    assert judge(run_of(*samples, warm_up=2.0), Limits()).verdict == Verdict.PASS


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_the_smallest_sample_that_enough_do_not_exceed(
    values: list[float], share: float
) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    smaller = [value for value in values if value < found]
    assert len(smaller) < share * len(values) + 1e-9


def test_the_exit_codes_are_the_documented_ones() -> None:
    assert [(verdict.name, int(verdict)) for verdict in Verdict] == [
        ("PASS", 0),
        ("FAIL", 1),
        ("INVALID", 2),
        ("NOTHING", 3),
    ]


def test_overload_is_judged_by_good_answers_alone() -> None:
    samples = [
        replace(sample, error="503") if number % 2 else sample
        for number, sample in enumerate(good(1000))
    ]
    run = run_of(*samples)
    goodput = judge_overload(run, Limits(), least=0.0).goodput
    assert judge_overload(run, Limits(), least=goodput).verdict == Verdict.PASS
    assert judge_overload(run, Limits(), least=goodput + 1).reasons == [
        f"{goodput:.1f} good answers a second, at least {goodput + 1:.1f} needed"
    ]
    late = run_of(*[replace(sample, began=sample.began * 1.1) for sample in good(1000)])
    assert judge_overload(late, Limits(), least=0.0).verdict == Verdict.INVALID
    assert judge_overload(run_of(), Limits(), least=0.0).verdict == Verdict.NOTHING


def test_what_other_figures_show_makes_a_pass_a_failure() -> None:
    grown = judge(run_of(*good(1000)), Limits(), faults=["memory grows"])
    assert (grown.verdict, grown.reasons) == (Verdict.FAIL, ["memory grows"])
    assert grown.as_json()["exit_code"] == 1
    assert judge(run_of(), Limits(), faults=["memory grows"]).verdict == Verdict.NOTHING
