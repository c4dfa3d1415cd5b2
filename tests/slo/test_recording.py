"""What is recorded is what happened.

Prometheus's own engine is asked, and the answers are compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings

from postfacta_slo.promise.model import Objective, ThresholdIndicator
from postfacta_slo.promise.openslo import read
from postfacta_slo.rules.alerts import rules_of
from postfacta_slo.rules.recording import period_rules, recorded, sli_rules

from .files import APP, ORDERS, Documents, model, objective, some_documents
from .promtool import needs_promtool, refusal

pytestmark = pytest.mark.usefixtures("programs")

RATE: Final = objective("success-rate", APP)
MINUTES: Final = objective("availability", APP)
SLOW: Final = objective("latency-p95", APP)
CHECKOUTS, QUICK, QUEUE, WORKERS = model(ORDERS).objectives

ASKED: Final = 'http_server_requests_total{job="postfacta",traffic="user",http_route="/",'
GOOD: Final = ASKED + 'http_response_status_code="200"}'
BAD: Final = ASKED + 'http_response_status_code="500",error_type="500"}'
PROBE: Final = 'probe_success{job="postfacta-journey"}'
UP: Final = 'up{job="postfacta",instance="a"}'

Expected = tuple[str, str, float | None]


def error(one: Objective, window: str) -> str:
    return recorded(f"slo:sli_error:ratio_rate{window}", one)


def check(
    where: Path,
    one: Objective,
    series: Mapping[str, str],
    expected: Sequence[Expected],
    *,
    compress: int = 1,
) -> None:
    """Assert what is recorded of an objective.

    Expression, time, and value, or None for no sample at all.

    The series have a sample each 15 seconds.
    """
    found = replace(model(APP), services=(one.service,), objectives=(one,))
    tests = {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f"round(sum({expression}), 0.0001)",
                "eval_time": at,
                "exp_samples": [] if value is None else [{"labels": "{}", "value": value}],
            }
            for expression, at, value in expected
        ],
    }
    (where / "rules.yml").write_text(json.dumps(rules_of(found, compress=compress)))
    proof = {"rule_files": ["rules.yml"], "evaluation_interval": "15s", "tests": [tests]}
    (where / "tests.yml").write_text(json.dumps(proof))
    assert refusal(where, "test", "rules", "tests.yml") == ""


@needs_promtool
def test_nothing_failing_is_0_and_nothing_happening_is_nothing(tmp_path: Path) -> None:
    check(tmp_path, RATE, {GOOD: "0+10x40 400x40"}, [(error(RATE, "1m"), "8m", 0)])
    check(
        tmp_path,
        RATE,
        {GOOD: "400x80"},
        [(error(RATE, "1m"), "15m", None), (error(RATE, "30d"), "15m", None)],
    )


@needs_promtool
def test_what_fails_is_its_share_of_all_in_each_window(tmp_path: Path) -> None:
    expected = [
        (error(RATE, window), "40m", 0.25)
        for window in ("1m", "5m", "30m", "1h", "6h", "3d", "30d")
    ]
    check(tmp_path, RATE, {GOOD: "0+15x240", BAD: "0+5x240"}, expected)


@needs_promtool
def test_what_is_left_follows_from_what_failed(tmp_path: Path) -> None:
    expected = [
        (recorded(series, RATE), "40m", value)
        for series, value in {
            "slo:sli_error:increase5m": 100.0,
            "slo:objective:ratio": 0.995,
            "slo:error_budget:ratio": 0.005,
            "slo:time_period:days": 0.0417,
            "slo:info": 1.0,
            "slo:current_burn_rate:ratio": 50.0,
            "slo:period_burn_rate:ratio": 50.0,
            "slo:period_error_budget_remaining:ratio": -49.0,
            "slo:period_ok:bool": 0.0,
        }.items()
    ]
    check(tmp_path, RATE, {GOOD: "0+15x240", BAD: "0+5x240"}, expected)


@needs_promtool
def test_an_hour_in_which_little_failed_was_met(tmp_path: Path) -> None:
    series = {GOOD: "0+999x240", BAD: "0+1x240"}
    expected = [
        (recorded("slo:period_ok:bool", RATE), "40m", 1.0),
        (recorded("slo:period_error_budget_remaining:ratio", RATE), "40m", 0.8),
    ]
    check(tmp_path, RATE, series, expected)


@needs_promtool
def test_only_failures_are_all_bad(tmp_path: Path) -> None:
    check(tmp_path, RATE, {BAD: "0+5x120"}, [(error(RATE, "5m"), "20m", 1)])


@needs_promtool
def test_a_busy_hour_weighs_more_than_a_quiet_one(tmp_path: Path) -> None:
    # Three hours with a request a scrape, all well; then three with ninety-nine, a third of them
    # failing.
    series = {GOOD: "0+1x720 786+66x720", BAD: "0x720 33+33x720"}
    share = error(RATE, "6h")
    check(
        tmp_path,
        RATE,
        series,
        [(f"{share} > bool 0.32", "6h", 1), (f"{share} < bool 0.34", "6h", 1)],
    )


@needs_promtool
def test_good_events_say_as_much_as_bad_ones(tmp_path: Path) -> None:
    asked = 'http_requests_total{job="orders",handler='
    series = {
        f'{asked}"/buy",status="2xx"}}': "0+15x160",
        f'{asked}"/buy",status="5xx"}}': "0+5x160",
        f'{asked}"/docs",status="5xx"}}': "0+500x160",
    }
    failures = recorded("slo:sli_error:increase1h", CHECKOUTS)
    expected = [(error(CHECKOUTS, "5m"), "30m", 0.25), (error(CHECKOUTS, "1d"), "30m", 0.25)]
    check(tmp_path, CHECKOUTS, series, [*expected, (f"{failures} > bool 590", "30m", 1)])


@needs_promtool
def test_without_a_good_event_all_are_bad(tmp_path: Path) -> None:
    series = {'http_requests_total{job="orders",handler="/buy",status="5xx"}': "0+5x120"}
    check(tmp_path, CHECKOUTS, series, [(error(CHECKOUTS, "5m"), "20m", 1)])


@needs_promtool
def test_gauges_are_counted_sample_by_sample(tmp_path: Path) -> None:
    series = {"orders_workers": "8x120", "orders_workers_lost": "2x60 4x60"}
    check(
        tmp_path,
        WORKERS,
        series,
        [(error(WORKERS, "5m"), "14m", 0.25), (error(WORKERS, "5m"), "29m", 0.5)],
    )


def bad_slice(one: Objective = MINUTES) -> str:
    return recorded("slo:slice_bad:bool", one)


def judged(one: Objective = MINUTES) -> str:
    return recorded("slo:slice_judged:bool", one)


@needs_promtool
@pytest.mark.parametrize(
    ("good", "bad", "is_bad"),
    [("0+100x40", "0x40", 0), ("0+96x40", "0+4x40", 0), ("0+90x40", "0+10x40", 1)],
)
def test_a_slice_is_bad_if_too_much_in_it_failed(
    tmp_path: Path, good: str, bad: str, is_bad: int
) -> None:
    series = {GOOD: good, BAD: bad, UP: "1x40", PROBE: "1x40"}
    check(
        tmp_path,
        MINUTES,
        series,
        [(bad_slice(), "9m", is_bad), (judged(), "9m", 1), (error(MINUTES, "5m"), "9m", is_bad)],
    )


@needs_promtool
def test_a_slice_with_just_as_many_failures_as_it_may_have_is_good(tmp_path: Path) -> None:
    assert MINUTES.slices
    half = replace(MINUTES, slices=replace(MINUTES.slices, target=0.5))
    check(
        tmp_path, half, {GOOD: "0+50x40", BAD: "0+50x40", UP: "1x40"}, [(bad_slice(half), "9m", 0)]
    )


@needs_promtool
def test_a_slice_without_requests_is_good_only_while_the_probe_succeeds(tmp_path: Path) -> None:
    series = {UP: "1x40", PROBE: "1x20 0x20"}
    expected = [
        (bad_slice(), "4m", 0),
        (judged(), "4m", 1),
        (bad_slice(), "9m", 1),
        (judged(), "9m", 1),
    ]
    check(tmp_path, MINUTES, series, expected)


@needs_promtool
def test_a_slice_is_bad_while_no_instance_is_up(tmp_path: Path) -> None:
    for gone in ("1x20 0x20", "1x20 stale"):
        check(
            tmp_path,
            MINUTES,
            {UP: gone},
            [(bad_slice(), "4m", 0), (bad_slice(), "9m", 1), (judged(), "9m", 1)],
        )


@needs_promtool
def test_a_slice_of_which_nothing_is_known_is_not_judged(tmp_path: Path) -> None:
    check(tmp_path, MINUTES, {UP: "1x40"}, [(bad_slice(), "9m", 0), (judged(), "9m", 0)])


def quick_and_slow(quick: int, slow: int) -> dict[str, str]:
    asked = (
        'http_server_request_duration_seconds_{}{{job="postfacta",traffic="user",http_route="/",'
        'outcome="2xx"{}}}'
    )
    counts = {
        ("bucket", ',le="0.2"'): quick,
        ("bucket", ',le="0.5"'): quick + slow,
        ("count", ""): quick + slow,
    }
    return {asked.format(*key): f"0+{count}x80" for key, count in counts.items()}


@needs_promtool
@pytest.mark.parametrize(
    ("quick", "slow", "is_bad", "is_judged"), [(96, 4, 0, 1), (90, 10, 1, 1), (0, 1, 1, 1)]
)
def test_a_slice_is_slow_if_too_many_took_longer(
    tmp_path: Path, quick: int, slow: int, is_bad: int, is_judged: int
) -> None:
    expected = [(bad_slice(SLOW), "15m", is_bad), (judged(SLOW), "15m", is_judged)]
    check(tmp_path, SLOW, quick_and_slow(quick, slow), expected)


@needs_promtool
def test_a_slice_with_too_few_requests_does_no_harm(tmp_path: Path) -> None:
    # 1 in four scrapes is 5 in five minutes, and 20 are asked for.
    asked = (
        'http_server_request_duration_seconds_count{job="postfacta",traffic="user",http_route="/",'
        'outcome="2xx"}'
    )
    series = {asked: " ".join(f"{n}x3" for n in range(20))}
    check(tmp_path, SLOW, series, [(bad_slice(SLOW), "15m", 0), (judged(SLOW), "15m", 0)])


@needs_promtool
@pytest.mark.parametrize(("op", "at_the_edge"), [("lte", 0), ("lt", 1), ("gte", 0), ("gt", 1)])
def test_a_threshold_is_kept_on_the_side_that_was_promised(
    tmp_path: Path, op: str, at_the_edge: int
) -> None:
    assert isinstance(QUEUE.indicator, ThresholdIndicator)
    one = replace(QUEUE, indicator=replace(QUEUE.indicator, op=op))
    series = {'orders_oldest_unprocessed_seconds{queue="a"}': "600x20 601x20 599x20"}
    point = recorded("slo:point_bad:bool", one)
    above, below = (1, 0) if op in {"lte", "lt"} else (0, 1)
    check(
        tmp_path,
        one,
        series,
        [(point, "4m", at_the_edge), (point, "9m", above), (point, "14m", below)],
    )


@needs_promtool
def test_bad_samples_are_a_share_of_all_samples(tmp_path: Path) -> None:
    series = {'orders_oldest_unprocessed_seconds{queue="a"}': "0x39 900x40"}
    check(tmp_path, QUEUE, series, [(error(QUEUE, "1h"), "19m45s", 0.5)])
    check(tmp_path, QUEUE, {}, [(error(QUEUE, "1h"), "19m45s", None)])


@needs_promtool
def test_the_worst_of_several_series_counts(tmp_path: Path) -> None:
    name = "orders_oldest_unprocessed_seconds"
    series = {f'{name}{{queue="a"}}': "0x40", f'{name}{{queue="b"}}': "900x40"}
    check(tmp_path, QUEUE, series, [(error(QUEUE, "5m"), "9m", 1)])


@needs_promtool
def test_a_quantile_is_judged_while_there_is_traffic(tmp_path: Path) -> None:
    asked = 'http_request_duration_highr_seconds_bucket{job="orders",le='
    slow = {
        f'{asked}"1.0"}}': "0+8x80",
        f'{asked}"2.5"}}': "0+10x80",
        f'{asked}"+Inf"}}': "0+10x80",
    }
    check(tmp_path, QUICK, slow, [(bad_slice(QUICK), "19m", 1), (judged(QUICK), "19m", 1)])
    idle = dict.fromkeys(slow, "100x80")
    check(tmp_path, QUICK, idle, [(bad_slice(QUICK), "19m", 0), (judged(QUICK), "19m", 0)])


@needs_promtool
def test_compressed_rules_see_in_a_minute_what_the_others_see_in_an_hour(tmp_path: Path) -> None:
    series = {GOOD: "0+15x40 600+0x40", BAD: "0+5x40 200x40"}
    check(tmp_path, RATE, series, [(error(RATE, "1h"), "19m", 0.25)])
    check(
        tmp_path,
        RATE,
        series,
        [(error(RATE, "1h"), "8m", 0.25), (error(RATE, "1h"), "19m", None)],
        compress=30,
    )


def test_a_long_window_never_reads_the_series_of_the_service() -> None:
    for one in (*model(APP).objectives, *model(ORDERS).objectives):
        for rule in (*sli_rules(one), *period_rules(one)):
            if re.search(r"rate(6h|1d|3d|7d|28d|30d)$", rule["record"]):
                assert "slo:" in rule["expr"]


def test_compression_changes_no_name() -> None:
    for one in model(APP).objectives:
        names = [
            [rule["record"] for rule in sli_rules(one, n) + period_rules(one, n)] for n in (1, 60)
        ]
        assert names[0] == names[1]


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(some_documents())
def test_each_rule_stands_after_what_it_reads(file: Documents) -> None:
    for one in read(file).objectives:
        done: set[str] = set()
        for rule in (*sli_rules(one), *period_rules(one)):
            text = re.sub(r'"(?:[^"\\]|\\.)*"', "", rule["expr"])
            assert set(re.findall(r"slo:\w+:\w+", text)) <= done
            done.add(rule["record"])
