"""A family finds its series, and takes no more of them than it may."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from postfacta_core.telemetry.families import Families


def test_a_series_is_the_same_each_time_it_is_asked_for() -> None:
    family = Families(CollectorRegistry(), 10).make("postfacta_task_crashes_total")
    assert family.child(("poller",)) is family.child(("poller",))
    assert family.child(("poller",)) is not family.child(("sweeper",))
    assert [labels for labels, _ in family.known()] == [("poller",), ("sweeper",)]


def test_past_the_cap_a_new_value_goes_to_other_and_is_counted() -> None:
    registry = CollectorRegistry()
    family = Families(registry, 2).make("postfacta_task_crashes_total")
    for name in ("one", "two", "three", "four", "one"):
        family.child((name,)).inc()
    counted = {
        name: registry.get_sample_value("postfacta_task_crashes_total", {"task": name})
        for name in ("one", "two", "three", "_OTHER")
    }
    assert counted == {"one": 2, "two": 1, "three": None, "_OTHER": 2}
    overflow = {"metric": "postfacta_task_crashes_total"}
    assert registry.get_sample_value("postfacta_metrics_label_overflow_total", overflow) == 2


def test_each_kind_is_made_with_its_labels() -> None:
    registry = CollectorRegistry()
    families = Families(registry, 10)
    families.make("postfacta_event_loop_lag_seconds").child(()).observe(0.002)
    families.gauge("postfacta_requests_overdue", lambda: {(): 3})
    families.gauge("postfacta_lifecycle_state", lambda: {("ready",): 1})
    assert registry.get_sample_value("postfacta_event_loop_lag_seconds_bucket", {"le": "0.0025"}) == 1
    assert registry.get_sample_value("postfacta_requests_overdue") == 3
    assert registry.get_sample_value("postfacta_lifecycle_state", {"state": "ready"}) == 1
