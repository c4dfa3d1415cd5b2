"""A family finds its series, takes no more of them than it may, and shows what prometheus-client's own would show."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from postfacta_core.events import HttpCallFinished, LogsSuppressed, TaskCrashed
from postfacta_core.telemetry.catalogue import INSTRUMENTS
from postfacta_core.telemetry.families import Family
from postfacta_core.telemetry.metrics import Metrics

CRASHES = "postfacta_task_crashes_total"
LAG = "postfacta_event_loop_lag_seconds"
CALLS = "http_client_request_duration_seconds"
LOGS = "postfacta_log_records_suppressed_total"


def plain(*, cap: int = 10) -> Metrics:
    return Metrics(CollectorRegistry(), label_cap=cap, with_process=False)


def test_a_series_is_the_same_each_time_it_is_asked_for() -> None:
    family = Family(INSTRUMENTS[CRASHES], 10)
    assert family["poller",] is family["poller",]
    assert family["poller",] is not family["sweeper",]
    assert list(family) == [("poller",), ("sweeper",)]


def test_past_the_cap_a_new_value_goes_to_other_and_is_counted() -> None:
    metrics = plain(cap=2)
    for name in ("one", "two", "three", "four", "one"):
        metrics(TaskCrashed(name, ValueError()))
    counted = {
        name: metrics.registry.get_sample_value(CRASHES, {"task": name})
        for name in ("one", "two", "three", "_OTHER")
    }
    assert counted == {"one": 2, "two": 1, "three": None, "_OTHER": 2}
    overflows = metrics.registry.get_sample_value(
        "postfacta_metrics_label_overflow_total", {"metric": CRASHES}
    )
    assert overflows == 2


def test_a_name_is_taken_once() -> None:
    registry = plain().registry
    for taken in (
        Counter(CRASHES, "Taken.", registry=None),
        Histogram(LAG, "Taken.", registry=None),
    ):
        with pytest.raises(ValueError, match="Duplicated"):
            registry.register(taken)


def lines(registry: CollectorRegistry, name: str) -> list[str]:
    page = generate_latest(registry).decode().splitlines()
    return [line for line in page if name.removesuffix("_total") in line and "_created" not in line]


VALUES = st.one_of(st.floats(0, 20), st.sampled_from(INSTRUMENTS[CALLS].buckets))


@given(st.lists(VALUES))
def test_a_histogram_reads_as_prometheus_clients(values: list[float]) -> None:
    ours, theirs, about = plain(), CollectorRegistry(), INSTRUMENTS[CALLS]
    model = Histogram(CALLS, about.text, about.labels, buckets=about.buckets, registry=theirs)
    for number, value in enumerate(values):
        ours(HttpCallFinished("x", "GET", "x", 1, 200, value, str(number % 2)))
        model.labels("GET", "x", "1", "200", str(number % 2)).observe(value)
    assert [one for one in lines(ours.registry, CALLS) if "overflow" not in one] == lines(
        theirs, CALLS
    )


@given(st.lists(st.sampled_from([1, 17])))
def test_a_counter_reads_as_prometheus_clients(values: list[int]) -> None:
    ours, theirs, about = plain(), CollectorRegistry(), INSTRUMENTS[LOGS]
    model = Counter(LOGS, about.text, about.labels, registry=theirs)
    for number, value in enumerate(values):
        ours(LogsSuppressed(str(number % 2), value))
        model.labels(str(number % 2)).inc(value)
    assert [one for one in lines(ours.registry, LOGS) if "overflow" not in one] == lines(
        theirs, LOGS
    )
