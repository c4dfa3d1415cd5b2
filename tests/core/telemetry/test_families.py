"""A family finds its series, takes no more of them than it may, and shows what prometheus-client's own would show."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from postfacta_core.telemetry.catalogue import INSTRUMENTS
from postfacta_core.telemetry.families import Numbers
from tests.kit.exposition import open_metrics_of, read_open_metrics

CRASHES = "postfacta_task_crashes_total"
LAG = "postfacta_event_loop_lag_seconds"
CALLS = "http_client_request_duration_seconds"


def test_a_series_is_the_same_each_time_it_is_asked_for() -> None:
    family = Numbers(10, list).families[CRASHES]
    assert family.child(("poller",)) is family.child(("poller",))
    assert family.child(("poller",)) is not family.child(("sweeper",))
    assert list(family.series) == [("poller",), ("sweeper",)]


def test_past_the_cap_a_new_value_goes_to_other_and_is_counted() -> None:
    registry, numbers = CollectorRegistry(), Numbers(2, list)
    family = numbers.families[CRASHES]
    registry.register(numbers)
    for name in ("one", "two", "three", "four", "one"):
        family.child((name,)).observe(1)
    counted = {
        name: registry.get_sample_value(CRASHES, {"task": name}) for name in ("one", "two", "three", "_OTHER")
    }
    assert counted == {"one": 2, "two": 1, "three": None, "_OTHER": 2}
    overflows = registry.get_sample_value("postfacta_metrics_label_overflow_total", {"metric": CRASHES})
    assert overflows == 2


def test_a_name_is_taken_once() -> None:
    registry = CollectorRegistry()
    registry.register(Numbers(10, list))
    for taken in (Counter(CRASHES, "Taken.", registry=None), Histogram(LAG, "Taken.", registry=None)):
        with pytest.raises(ValueError, match="Duplicated"):
            registry.register(taken)


def lines(registry: CollectorRegistry, name: str) -> list[str]:
    page = generate_latest(registry).decode().splitlines()
    return [line for line in page if name.removesuffix("_total") in line and "_created" not in line]


VALUES = st.one_of(st.floats(0, 20), st.sampled_from(INSTRUMENTS[CALLS].buckets))


@given(st.lists(VALUES))
def test_a_histogram_reads_as_prometheus_clients(values: list[float]) -> None:
    ours, theirs, numbers = CollectorRegistry(), CollectorRegistry(), Numbers(10, list)
    about, plain = INSTRUMENTS[CALLS], numbers.families[CALLS]
    ours.register(numbers)
    model = Histogram(CALLS, about.text, about.labels, buckets=about.buckets, registry=theirs)
    for number, value in enumerate(values):
        plain.child(("x", "x", "x", "x", str(number % 2))).observe(value)
        model.labels("x", "x", "x", "x", str(number % 2)).observe(value)
    assert [one for one in lines(ours, CALLS) if "overflow" not in one] == lines(theirs, CALLS)


@given(st.lists(st.sampled_from([1, 17])))
def test_a_counter_reads_as_prometheus_clients(values: list[int]) -> None:
    ours, theirs, numbers = CollectorRegistry(), CollectorRegistry(), Numbers(10, list)
    about, plain = INSTRUMENTS[CRASHES], numbers.families[CRASHES]
    ours.register(numbers)
    model = Counter(CRASHES, about.text, about.labels, registry=theirs)
    for number, value in enumerate(values):
        plain.child((str(number % 2),)).observe(value)
        model.labels(str(number % 2)).inc(value)
    assert [one for one in lines(ours, CRASHES) if "overflow" not in one] == lines(theirs, CRASHES)


def test_the_latest_value_of_a_bucket_stands_for_it() -> None:
    registry, numbers = CollectorRegistry(), Numbers(10, list)
    series = numbers.families[LAG].child(())
    registry.register(numbers)
    for value, name in ((0.003, "first"), (0.004, "alpha"), (9.0, "late")):
        series.observe(value)
        series.exemplify(value, {"trace_id": name}, 1000.5)
    family = read_open_metrics(open_metrics_of(registry))[LAG]
    exemplars = {one.labels["le"]: one.exemplar for one in family.samples if one.name == f"{LAG}_bucket"}
    stood_for = {
        le: (one.labels["trace_id"], one.value, float(one.timestamp or 0))
        for le, one in exemplars.items()
        if one
    }
    assert stood_for == {"0.005": ("alpha", 0.004, 1000.5), "+Inf": ("late", 9.0, 1000.5)}
    # The older format has no place for them.
    assert b"alpha" not in generate_latest(registry)
