"""What the process reports about itself, compared with recorded requests."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, Histogram

from postfacta_app.reliability.pages import PROMISES, Numbers, Promise, kept
from postfacta_core.telemetry.metrics import Metrics
from postfacta_slo.promise.model import Objective, RatioIndicator
from postfacta_slo.promise.openslo import read
from postfacta_slo.promise.promql import Selector

ROOT = Path(__file__).parents[3]
SUCCESS, P95, P99 = PROMISES


def recorded(*requests: tuple[str, str, str, float], traffic: str = "user") -> Numbers:
    """Record requests by route, status, error and seconds, as the library's metrics have them."""
    registry = CollectorRegistry()
    labels = ["http_request_method", "http_route", "http_response_status_code", "error_type", "traffic"]
    name = "http_server_request_duration_seconds"
    durations = Histogram(name, "x", labels, buckets=(0.1, 0.2, 0.5, 1), registry=registry)
    for route, status, error, seconds in requests:
        durations.labels("GET", route, status, error, traffic).observe(seconds)
    return Numbers(registry)


def test_a_failure_counts_against_success_and_not_for_speed() -> None:
    numbers = recorded(("/a", "200", "", 0.05), ("/a", "500", "ValueError", 0.01), ("/b", "503", "shed", 0.0))
    assert kept(SUCCESS, numbers) == (1, 3)
    assert kept(P95, numbers) == (1, 1)


def test_each_percentile_has_its_own_bound() -> None:
    numbers = recorded(
        ("/a", "200", "", 0.15), ("/a", "200", "", 0.2), ("/a", "404", "", 0.4), ("/a", "200", "", 0.9)
    )
    assert kept(P95, numbers) == (2, 4)
    assert kept(P99, numbers) == (3, 4)


@pytest.mark.parametrize(
    ("route", "status", "error"),
    [("/healthz", "200", ""), ("/healthz/ready", "503", "503"), ("/metrics", "500", "X"), ("/a", "499", "client_disconnected")],
)  # fmt: skip
def test_probes_scrapes_and_who_left_do_not_count(route: str, status: str, error: str) -> None:
    numbers = recorded((route, status, error, 0.01))
    assert [kept(promise, numbers)[1] for promise in PROMISES] == [0, 0, 0]


@pytest.mark.parametrize("traffic", ["synthetic", "load"])
def test_what_is_no_users_traffic_does_not_count(traffic: str) -> None:
    numbers = recorded(("/a", "500", "X", 0.01), traffic=traffic)
    assert [kept(promise, numbers)[1] for promise in PROMISES] == [0, 0, 0]


def test_a_refusal_of_a_client_is_a_success_that_says_nothing_of_speed() -> None:
    numbers = recorded(("/a", "429", "", 0.0))
    assert (kept(SUCCESS, numbers)[0], kept(P99, numbers)[1]) == (1, 0)


def test_a_process_that_has_just_begun_has_numbers_too() -> None:
    numbers = Numbers(Metrics(with_process=False).registry)
    assert [kept(promise, numbers)[1] for promise in PROMISES] == [0, 0, 0]
    assert list(numbers.names("postfacta_breaker_state", "breaker")) == []
    assert numbers.sum("db_client_connection_max") == 0


def _objectives() -> dict[str, Objective]:
    model = read(yaml.safe_load_all((ROOT / "deploy/slo/postfacta.openslo.yaml").read_text()))
    return {one.name: one for one in model.objectives}


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.name)
def test_what_a_process_promises_is_what_the_file_of_objectives_says(promise: Promise) -> None:
    objective = _objectives()[promise.name]
    assert isinstance(objective.indicator, RatioIndicator)
    if promise.seconds is None:
        assert promise.aim == objective.target
        return
    assert objective.slices is not None
    assert isinstance(objective.indicator.good, Selector)
    assert promise.aim == objective.slices.target
    assert objective.indicator.good.value_of("le") == f"{promise.seconds:g}"


def test_an_objective_is_judged_once_ten_requests_may_miss_it() -> None:
    assert [promise.minimum for promise in PROMISES] == [2000, 200, 1000]
