"""A metric of plain numbers shows what prometheus-client's own would show."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from postfacta_core.telemetry.catalogue import HTTP_BUCKETS
from postfacta_core.telemetry.plain import PlainHistogram, ReadGauge
from tests.kit.exposition import open_metrics_of, read_open_metrics


def lines(registry: CollectorRegistry) -> list[str]:
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


@given(st.lists(st.one_of(st.floats(0, 20), st.sampled_from(HTTP_BUCKETS))))
def test_a_histogram_reads_as_prometheus_clients(values: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    plain = PlainHistogram("h_seconds", "How long.", ["a", "b"], bounds=HTTP_BUCKETS, registry=ours)
    model = Histogram("h_seconds", "How long.", ["a", "b"], buckets=HTTP_BUCKETS, registry=theirs)
    for number, value in enumerate(values):
        plain.labels("x", str(number % 2)).observe(value)
        model.labels("x", str(number % 2)).observe(value)
    assert lines(ours) == lines(theirs)


def test_a_gauge_is_read_at_the_scrape() -> None:
    registry = CollectorRegistry()
    stands: dict[tuple[str, ...], float] = {("x",): 2.0}
    ReadGauge("g", "Where it stands.", ["a"], registry=registry, read=lambda: stands)
    stands["x",] = 4.0
    assert registry.get_sample_value("g", {"a": "x"}) == 4


def test_a_name_is_taken_once() -> None:
    registry = CollectorRegistry()
    ReadGauge("g", "Where it stands.", ["a"], registry=registry, read=dict)
    with pytest.raises(ValueError, match="Duplicated"):
        ReadGauge("g", "Where it stands.", ["a"], registry=registry, read=dict)
    PlainHistogram("h", "How long.", ["a"], bounds=[1], registry=registry)
    with pytest.raises(ValueError, match="Duplicated"):
        PlainHistogram("h", "How long.", ["a"], bounds=[1], registry=registry)


def test_the_latest_value_of_a_bucket_stands_for_it() -> None:
    registry = CollectorRegistry()
    series = PlainHistogram("h_seconds", "How long.", [], bounds=[1, 2], registry=registry).labels()
    for value, name in ((0.5, "first"), (0.75, "alpha"), (9.0, "late")):
        series.observe(value)
        series.exemplify(value, {"trace_id": name}, 1000.5)
    family = read_open_metrics(open_metrics_of(registry))["h_seconds"]
    exemplars = {one.labels["le"]: one.exemplar for one in family.samples if one.name == "h_seconds_bucket"}
    stood_for = {
        le: (one.labels["trace_id"], one.value, float(one.timestamp or 0))
        for le, one in exemplars.items()
        if one
    }
    assert stood_for == {"1.0": ("alpha", 0.75, 1000.5), "+Inf": ("late", 9.0, 1000.5)}
    # The older format has no place for them.
    assert b"alpha" not in generate_latest(registry)
