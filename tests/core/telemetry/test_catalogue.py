"""What the catalogue says is what Prometheus takes, and what the library makes."""

from __future__ import annotations

import re

import pytest

from postfacta_core.telemetry.catalogue import (
    CALL_BUCKETS,
    HTTP_BUCKETS,
    INSTRUMENTS,
    LAG_BUCKETS,
    POLICY_METRICS,
    RUNTIME_METRICS,
)
from postfacta_core.telemetry.metrics import Metrics
from tests.kit.every import every


def test_the_objective_of_200_ms_is_a_bucket_edge() -> None:
    assert 0.2 in HTTP_BUCKETS


@pytest.mark.parametrize("bounds", [HTTP_BUCKETS, CALL_BUCKETS, LAG_BUCKETS])
def test_bounds_go_upwards(bounds: tuple[float, ...]) -> None:
    assert sorted(set(bounds)) == list(bounds)


def test_an_instrument_is_well_formed() -> None:
    with every() as case:
        for name in INSTRUMENTS:
            with case(name):
                instrument = INSTRUMENTS[name]
                assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
                assert not (instrument.buckets and name.endswith("_total"))
                assert instrument.text.endswith(".")
                assert len(set(instrument.labels)) == len(instrument.labels)
                assert set(instrument.values) <= set(instrument.labels)


def test_each_name_stands_in_one_table() -> None:
    tables = (INSTRUMENTS, POLICY_METRICS, RUNTIME_METRICS)
    assert len({name for table in tables for name in table}) == sum(map(len, tables))


def test_nothing_is_made_that_is_not_in_a_table() -> None:
    metrics = Metrics(with_process=False)
    made = {
        name
        for collector in metrics.registry._collector_to_names.values()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - nothing public lists them
        for name in collector
    }
    tables = {*INSTRUMENTS, *POLICY_METRICS, *RUNTIME_METRICS, "postfacta_build_info"}
    # A counter takes its name without the ending too, a histogram what it is made of.
    known = {known for name in tables for known in (name, name.removesuffix("_total"))}
    ends = ("_bucket", "_count", "_sum", "_created", "_info")
    stray = {name for name in made if name not in known and not name.endswith(ends)} - {
        "postfacta_build"
    }
    assert stray == set()
    assert set(INSTRUMENTS) <= made
