"""What policies count is shown at the scrape, and a broken policy spoils no other's numbers."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from functools import partial

import pytest
from prometheus_client import CollectorRegistry

from postfacta_core import Bulkhead, CircuitBreaker
from postfacta_core.events import PolicyCreated, Sample
from postfacta_core.telemetry.catalogue import POLICY_METRICS
from postfacta_core.telemetry.metrics import Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry(), label_cap=3, with_process=False)


def _of_one(name: str, value: float) -> list[Sample]:
    return [Sample("postfacta_bulkhead_used", (name,), value)]


def used(metrics: Metrics, bulkhead: str) -> float | None:
    return metrics.registry.get_sample_value("postfacta_bulkhead_used", {"bulkhead": bulkhead})


def test_a_number_is_read_at_the_scrape_and_not_before(metrics: Metrics) -> None:
    now = [1.0]
    metrics(PolicyCreated("db", lambda: [Sample("postfacta_bulkhead_used", ("db",), now[0])]))
    assert used(metrics, "db") == 1
    now[0] = 4.0
    assert used(metrics, "db") == 4


def test_a_counter_keeps_its_name(metrics: Metrics) -> None:
    labels = ("db", "success", "enforce")
    metrics(PolicyCreated("db", lambda: [Sample("postfacta_breaker_calls_total", labels, 7.0)]))
    found = metrics.registry.get_sample_value(
        "postfacta_breaker_calls_total", {"breaker": "db", "outcome": "success", "mode": "enforce"}
    )
    assert found == 7


def test_two_policies_of_one_name_are_added_up_and_not_a_broken_scrape(metrics: Metrics) -> None:
    for value in (1.0, 2.0):
        metrics(PolicyCreated("db", partial(_of_one, "db", value)))
    assert used(metrics, "db") == 3
    assert metrics.render().body.count(b'postfacta_bulkhead_used{bulkhead="db"}') == 1


def test_a_tally_that_raises_does_not_take_the_scrape_of_the_others(metrics: Metrics) -> None:
    def broken() -> Iterable[Sample]:
        raise RuntimeError("no")

    metrics(PolicyCreated("a", broken))
    metrics(PolicyCreated("b", lambda: [Sample("postfacta_bulkhead_used", ("b",), 1.0)]))
    assert used(metrics, "b") == 1


def test_an_undeclared_metric_is_left_out(metrics: Metrics) -> None:
    metrics(PolicyCreated("a", lambda: [Sample("unheard_of", (), 1.0)]))
    assert b"unheard_of" not in metrics.render().body


def test_policies_without_end_are_counted_and_left_out(metrics: Metrics) -> None:
    for number in range(5):
        name = f"p{number}"
        metrics(PolicyCreated(name, partial(_of_one, name, 1.0)))
    assert [used(metrics, f"p{number}") for number in range(5)] == [1, 1, 1, None, None]
    overflows = metrics.registry.get_sample_value(
        "postfacta_metrics_label_overflow_total", {"metric": "policies"}
    )
    assert overflows == 2


def test_another_collector_cannot_take_a_name_of_ours(metrics: Metrics) -> None:
    from prometheus_client import Gauge  # noqa: PLC0415 - only this test makes a metric by hand

    with pytest.raises(ValueError, match="Duplicated"):
        Gauge("postfacta_bulkhead_used", "Taken.", registry=metrics.registry)


def test_all_names_and_labels_are_ones_that_prometheus_takes() -> None:
    for name, metric in POLICY_METRICS.items():
        assert name.startswith(("postfacta_", "db_client_connection_"))
        assert metric.text.endswith(".")
        assert len(set(metric.labels)) == len(metric.labels)


@pytest.mark.parametrize(
    "bad",
    [
        Sample("postfacta_bulkhead_used", (3,), 1.0),  # type: ignore[arg-type] # a name that is no text
        Sample("postfacta_bulkhead_used", ("a", "b"), 1.0),
        Sample("postfacta_bulkhead_used", (), 1.0),
        Sample("postfacta_bulkhead_used", ("a",), "many"),  # type: ignore[arg-type]
        Sample("postfacta_bulkhead_used", ("a",), None),  # type: ignore[arg-type]
        Sample("postfacta_bulkhead_used", None, 1.0),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_a_number_that_cannot_be_shown_costs_itself_and_is_logged_once(
    metrics: Metrics, bad: Sample, caplog: pytest.LogCaptureFixture
) -> None:
    metrics(PolicyCreated("a", lambda: [bad]))
    metrics(PolicyCreated("b", partial(_of_one, "b", 1.0)))
    for _ in range(3):
        assert b'postfacta_bulkhead_used{bulkhead="b"} 1.0' in metrics.render().body
        assert b'bulkhead="a"' not in metrics.render().body
    assert [(record.message, vars(record)["policy"]) for record in caplog.records] == [
        ("metrics.policy_failed", "a")
    ]


def test_two_circuits_of_one_name_show_each_state_that_one_is_in(metrics: Metrics) -> None:
    breakers = [CircuitBreaker("db", observer=metrics) for _ in range(3)]
    breakers[0].open()
    page = metrics.render().body.decode()
    for state, number in (("open", 1), ("closed", 1), ("half_open", 0)):
        assert f'postfacta_breaker_state{{breaker="db",state="{state}"}} {number}.0' in page


def test_two_limiters_of_one_name_are_up_if_both_stores_are(metrics: Metrics) -> None:
    for value in (1.0, 0.0):
        sample = Sample("postfacta_ratelimit_store_up", ("db",), value)
        metrics(PolicyCreated("db", partial(list[Sample], [sample])))
    assert metrics.registry.get_sample_value("postfacta_ratelimit_store_up", {"policy": "db"}) == 0


class _Policy:
    def tally(self) -> list[Sample]:
        return _of_one("last", 0.0)


def test_a_new_policy_at_the_address_of_a_dead_one_is_read() -> None:
    metrics = Metrics(CollectorRegistry(), label_cap=1, with_process=False)
    addresses = set[int]()
    for _ in range(10):
        last = None  # frees the former, whose place the next one takes
        last = _Policy()
        addresses.add(id(last))
        metrics(PolicyCreated("last", last.tally))
        assert used(metrics, "last") == 0
        metrics.registry.collect()
    assert len(addresses) < 10


def test_what_died_makes_room_for_new_policies(metrics: Metrics) -> None:
    for number in range(10):
        bulkhead = Bulkhead(f"b{number}", 1, observer=metrics)
        del bulkhead
        gc.collect()
    kept = Bulkhead("kept", 1, observer=metrics)
    assert used(metrics, "kept") == 0
    assert kept.used == 0
