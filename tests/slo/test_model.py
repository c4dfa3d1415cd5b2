"""A promise that cannot be kept watch over is refused when it is made, and the message says why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from postfacta_slo.promise.model import (
    DAY,
    DataSource,
    Model,
    RatioIndicator,
    Service,
    Slices,
    ThresholdIndicator,
    Tier,
)
from postfacta_slo.promise.promql import Selector, SloError
from tests.kit.every import every

from .files import APP, model, objective

TIER = Tier(policy="p", name="fast", severity="page", factor=14.4, long=3600, short=300, hold=120)


@pytest.mark.parametrize(
    ("edges", "why"),
    [((), "needs its bucket edges"), ((0.2, 0.1), "ascending"), ((0.1, 0.1), "ascending")],
)
def test_a_histogram_without_ascending_edges_is_refused(edges: tuple[float, ...], why: str) -> None:
    with pytest.raises(SloError, match=why):
        DataSource(
            name="p", scrape_interval=15, evaluation_interval=15, histograms=(("took", edges),)
        )


def test_a_source_that_never_scrapes_is_refused() -> None:
    with pytest.raises(SloError, match="once a second"):
        DataSource(name="p", scrape_interval=0, evaluation_interval=15)


def test_the_edges_of_a_histogram_are_known_by_its_name() -> None:
    source = model(APP).source
    assert 0.2 in source.edges_of("http_server_request_duration_seconds")
    assert source.edges_of("another") == ()


def test_a_service_whose_alerts_would_lead_nowhere_is_refused() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"runbook_url": "a runbook"}, "address of a runbook"),
        ({"dashboard_url": "a b"}, "address of a dashboard"),
        ({"job": ""}, "job"),
        ({"name": 'a"b'}, "needs a name"),
        ({"down_severity": ""}, "needs a name"),
        ({"labels": (("severity", "page"),)}, "severity"),
        ({"labels": (("__name__", "x"),)}, "__name__"),
        ({"labels": (("a-b", "x"),)}, "a-b"),
        ({"labels": (("team", ""),)}, "team"),
    ]
    with every() as case:
        for change, why in cases:
            with case(change, why), pytest.raises(SloError, match=why):
                replace(model().services[0], **change)


@pytest.mark.parametrize(
    ("name", "prefix"), [("orders-api", "OrdersApi"), ("postfacta", "Postfacta"), ("a.b--c", "ABC")]
)
def test_alerts_begin_with_the_service_in_camel_case(name: str, prefix: str) -> None:
    service: Service = replace(model().services[0], name=name)
    assert service.alert_prefix == prefix


def test_a_ratio_needs_one_of_good_and_bad() -> None:
    wrong: list[dict[str, Any]] = [
        {"good": Selector("g"), "bad": Selector("b")},
        {"good": None, "bad": None},
    ]
    for given in wrong:
        with pytest.raises(SloError, match="either good or bad"):
            RatioIndicator(name="r", description="", total=Selector("t"), **given)


@pytest.mark.parametrize("quantile", [0.0, 1.0])
def test_a_quantile_that_cannot_be_asked_for_is_refused(quantile: float) -> None:
    with pytest.raises(SloError, match="above 0 and below 1"):
        ThresholdIndicator(
            name="age", description="", metric=Selector("age_bucket"), aggregate="quantile", quantile=quantile,
            op="lte", value=1.0,
        )  # fmt: skip


@pytest.mark.parametrize(
    "given",
    [{"window": 59, "target": 0.9}, {"window": 60, "target": 0.0}, {"window": 60, "target": 1.1}],
)
def test_slices_shorter_than_a_minute_or_without_a_target_are_refused(
    given: dict[str, Any],
) -> None:
    with pytest.raises(SloError, match="slice"):
        Slices(**given)


def test_a_slice_asks_for_no_negative_number_of_requests() -> None:
    with pytest.raises(SloError, match="no fewer than 0"):
        Slices(window=60, target=1, min_requests=-1)


def test_a_tier_that_makes_no_sense_is_refused() -> None:
    cases: list[dict[str, Any]] = [
        {"factor": 0.0},
        {"factor": float("inf")},
        {"short": 3600},
        {"short": 0},
        {"hold": -1},
        {"min_failures": -1},
        {"name": "a b"},
        {"severity": "a|b"},
    ]
    with every() as case:
        for change in cases:
            with case(change), pytest.raises(SloError, match=r"needs|waits"):
                replace(TIER, **change)


@pytest.mark.parametrize("target", [0.0, 1.0, 1 - 1e-16, 1.5])
def test_all_or_nothing_is_no_objective(target: float) -> None:
    with pytest.raises(SloError, match="target"):
        replace(objective("queue-is-short"), target=target)


def test_an_alert_that_can_never_fire_is_refused() -> None:
    with pytest.raises(SloError, match="can never fire"):
        replace(objective("availability", APP), target=0.93)
    replace(objective("availability", APP), target=0.94)


def test_an_objective_whose_alerts_contradict_it_is_refused() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"tiers": (TIER, TIER)}, "different names"),
        ({"tiers": (replace(TIER, long=7200), replace(TIER, name="b"))}, "shortest first"),
        ({"tiers": (replace(TIER, long=31 * DAY),)}, "further than"),
        ({"period": 60}, "time window"),
        ({"tiers": (replace(TIER, min_failures=1),)}, "counts no events"),
        ({"name": 'a"'}, "needs a name"),
        ({"labels": (("slo", "x"),)}, "label"),
    ]
    with every() as case:
        for change, why in cases:
            with case(change, why), pytest.raises(SloError, match=why):
                replace(objective("availability", APP), **change)


def test_the_labels_of_an_objective_go_over_those_of_its_service() -> None:
    one = objective("checkouts-succeed")
    assert one.alert_labels == {"team": "checkout", "component": "checkout"}
    assert replace(one, labels=(("team", "cart"),)).alert_labels == {"team": "cart"}


def with_interval(seconds: int, file_model: Model, **change: Any) -> Model:
    source = replace(file_model.source, scrape_interval=seconds)
    return replace(file_model, source=source, **change)


def test_a_window_shorter_than_four_scrapes_is_refused() -> None:
    with pytest.raises(SloError, match="success-rate: alert policy hour-fast has a window of 60 s"):
        with_interval(16, replace(model(APP), objectives=(objective("success-rate", APP),)))
    with pytest.raises(SloError, match="availability: its slice has a window of 60 s"):
        with_interval(16, model(APP))
    quiet = replace(objective("queue-is-short"), tiers=())
    with pytest.raises(SloError, match="present burn rate"):
        with_interval(76, model(), objectives=(quiet,))
    assert with_interval(75, model(), objectives=(quiet,)).source.scrape_interval == 75


def test_the_rules_are_evaluated_often_enough_for_each_window() -> None:
    found = model(APP)
    with pytest.raises(SloError, match="a sample each 20 s"):
        replace(found, source=replace(found.source, evaluation_interval=20))


def test_a_service_knows_what_it_promises() -> None:
    found = model()
    assert found.of(found.services[0]) == found.objectives
    assert found.of(model(APP).services[0]) == ()
