"""What is asked about objectives, and what the answers come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from postfacta_slo.promise.model import Objective, RatioIndicator, Service, ThresholdIndicator
from postfacta_slo.promise.promql import Matcher, Selector, SloError
from postfacta_slo.status.prometheus import Line, Point, Prometheus
from postfacta_slo.status.query import MONTH, query_status

AT = 1_790_000_000.0
TIMED, COUNTED = (
    {"service": "shop", "slo": "availability"},
    {"service": "shop", "slo": "success-rate"},
)
RECORDED = {
    "slo:objective:ratio{}": [Point(COUNTED, 0.995), Point(TIMED, 0.99)],
    "slo:time_period:days{}": [Point(COUNTED, 1 / 24), Point(TIMED, 30.0)],
    "avg_over_time(slo:slice_bad:bool{}[30d]) or avg_over_time(slo:point_bad:bool{}[30d])": [
        Point(TIMED, 0.004)
    ],
    "(sum_over_time(slo:sli_bad:rate5m{}[30d]) or sum_over_time(slo:sli_bad:sample{}[30d]))"
    " / ((sum_over_time(slo:sli_total:rate5m{}[30d]) or sum_over_time(slo:sli_total:sample{}[30d])) > 0)": [
        Point(COUNTED, 0.001)
    ],
    "avg_over_time(slo:sli_total:rate5m{}[30d])": [Point(COUNTED, 2.0)],
    "count_over_time(slo:slice_bad:bool{}[30d:5m]) or count_over_time(slo:point_bad:bool{}[30d:5m])"
    " or count_over_time(slo:sli_total:rate5m{}[30d:5m]) or count_over_time(slo:sli_total:sample{}[30d:5m])": [
        Point(TIMED, 8641.0),
        Point(COUNTED, 8208.0),
    ],
    "avg_over_time(slo:slice_judged:bool{}[30d])": [Point(TIMED, 0.9)],
    "sum_over_time(slo:period_ok:bool{}[30d:1h])": [Point(COUNTED, 700.0), Point(TIMED, 720.0)],
    "count_over_time(slo:period_ok:bool{}[30d:1h])": [Point(COUNTED, 710.0), Point(TIMED, 720.0)],
    "slo:sli_error:ratio_rate1h{}": [Point(TIMED, 0.0)],
    "slo:sli_error:ratio_rate6h{}": [Point(TIMED, 0.02), Point(COUNTED, 0.01)],
    "slo:sli_error:ratio_rate3d{}": [],
}
CURVE = (
    "avg_over_time(slo:slice_bad:bool{}[6h]) or avg_over_time(slo:point_bad:bool{}[6h])"
    " or avg_over_time(slo:sli_bad:rate5m{}[6h]) or avg_over_time(slo:sli_bad:sample{}[6h])"
)


@dataclass
class Told(Prometheus):
    """Returns the given answers, and keeps its queries."""

    points: Mapping[str, list[Point]]
    lines: Mapping[str, list[Line]] = field(default_factory=dict[str, list[Line]])
    asked: list[str] = field(default_factory=list[str])

    def instant(self, query: str, *, at: float | None = None) -> list[Point]:
        assert at == AT
        self.asked.append(query)
        return self.points.get(query, [])

    def over_time(self, query: str, *, start: float, end: float, step: float) -> list[Line]:
        assert (end, step) == (AT, 21_600)
        assert start == AT - MONTH + step
        self.asked.append(query)
        return self.lines.get(query, [])


def test_minutes_and_events_are_those_that_were_recorded() -> None:
    availability, success = query_status(Told(RECORDED), at=AT)
    assert (availability.slo, availability.unit, availability.total) == (
        "availability",
        "minutes",
        43_200,
    )
    assert availability.remaining == pytest.approx(0.6)
    assert availability.coverage == 1.0
    assert availability.judged == 0.9
    assert availability.burn == pytest.approx({"1h": 0.0, "6h": 2.0})
    assert availability.hours is None
    assert (success.slo, success.unit, success.total) == ("success-rate", "events", 2.0 * MONTH)
    assert success.remaining == pytest.approx(0.8)
    assert success.coverage == pytest.approx(0.95)
    assert success.burn == pytest.approx({"6h": 2.0})
    assert success.hours == (700, 710)


def test_the_curve_ends_at_what_was_spent_in_all() -> None:
    lines = {
        CURVE: [
            Line(TIMED, [(AT - 43_200, 0.0), (AT - 21_600, 0.6), (AT, 0.2)]),
            Line(COUNTED, [(AT, 0.0)]),
        ]
    }
    availability, success = query_status(Told(RECORDED, lines), at=AT)
    assert [at for at, _ in availability.spent] == [AT - MONTH, AT - 43_200, AT - 21_600, AT]
    assert [share for _, share in availability.spent] == pytest.approx([0.0, 0.0, 0.3, 0.4])
    # Where each step says that nothing was bad, there is nothing to share out.
    assert [share for _, share in success.spent] == [0.0, 0.0]


def test_of_an_aim_without_any_measurement_nothing_is_known() -> None:
    (only,) = query_status(Told({"slo:objective:ratio{}": [Point(TIMED, 0.99)]}), at=AT)
    assert (only.coverage, only.error, only.total, only.spent) == (0.0, None, None, [])
    assert not only.is_known


def test_where_no_objective_is_recorded_nothing_else_is_asked() -> None:
    told = Told({})
    assert query_status(told, at=AT) == []
    assert told.asked == ["slo:objective:ratio{}"]


def test_one_service_and_one_objective_can_be_asked_for_whatever_they_are_called() -> None:
    told = Told({'slo:objective:ratio{service="a\\"b",slo="c"}': [Point(TIMED, 0.99)]})
    assert len(query_status(told, at=AT, service='a"b', slo="c")) == 1
    assert all('{service="a\\"b",slo="c"}' in query for query in told.asked)


@pytest.mark.parametrize("window", [0, 3_599])
def test_a_window_that_says_nothing_is_refused(window: int) -> None:
    with pytest.raises(SloError, match="an hour or more"):
        query_status(Told({}), at=AT, window=window)


def _objective(indicator: RatioIndicator | ThresholdIndicator) -> Objective:
    service = Service(
        name="shop", title="Shop", description="", job="shop", runbook_url="https://shop.example/{alert}", dashboard_url="https://shop.example/", down_severity="page"
    )  # fmt: skip
    return Objective(
        name="availability",
        title="",
        description="",
        service=service,
        indicator=indicator,
        target=0.99,
        period=MONTH,
        slices=None,
        tiers=(),
        exhausted_severity="ticket",
    )


TOTAL = Selector("http_total", (Matcher("job", "=", "shop"),))
BAD, GOOD = Selector("http_bad"), Selector("http_good")
BY_BAD = "topk(5, (sum by (path) (increase(http_bad[30d]))) > 0)"
BY_GOOD = (
    'topk(5, (sum by (path) (increase(http_total{job="shop"}[30d])) - (sum by (path) (increase(http_good[30d]))'
    ' or sum by (path) (increase(http_total{job="shop"}[30d])) * 0)) > 0)'
)


@pytest.mark.parametrize(("bad", "good", "query"), [(BAD, None, BY_BAD), (None, GOOD, BY_GOOD)])
def test_with_the_file_the_worst_places_are_reported(
    bad: Selector | None, good: Selector | None, query: str
) -> None:
    indicator = RatioIndicator(name="i", description="", good=good, bad=bad, total=TOTAL)
    found = [Point({"path": "/b"}, 3.0), Point({}, 3.0), Point({"path": "/a"}, 5.0)]
    told = Told(RECORDED | {query: found})
    availability, success = query_status(told, at=AT, objectives=[_objective(indicator)], by="path")
    assert availability.routes == [("/a", 5.0), ("", 3.0), ("/b", 3.0)]
    assert success.routes == []


def test_a_measured_value_has_no_worst_places() -> None:
    indicator = ThresholdIndicator(
        name="i", description="", metric=TOTAL, aggregate="max", quantile=None, op="lt", value=1.0
    )
    told = Told(RECORDED)
    assert [
        one.routes for one in query_status(told, at=AT, objectives=[_objective(indicator)])
    ] == [[], []]
    assert not any("topk" in query for query in told.asked)
