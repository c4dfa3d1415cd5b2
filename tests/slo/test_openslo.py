"""A file of objectives is understood whole, or refused with the place that is not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from postfacta_slo.promise.model import DAY, RatioIndicator, ThresholdIndicator
from postfacta_slo.promise.openslo import read
from postfacta_slo.promise.promql import SloError
from tests.kit.every import every

from .files import (
    APP,
    DATA,
    ORDERS as ORDERS_FILE,
    Documents,
    changed,
    documents,
    model,
    objective,
    promised,
    some_documents,
    source,
)

FAST = "AlertCondition fast"
ORDERS = "SLO checkouts-succeed"
SLICED = "SLO pages-are-quick"
QUEUE = "SLO queue-is-short"
TERMS = ("spec", "objectives", 0)
INLINE = ("spec", "alertPolicies", 1)
DETAILS = ("spec", "connectionDetails")
LATENCY = "SLI answered-within-200ms"
BUCKETS = ("spec", "ratioMetric", "good", "metricSource", "spec", "query")
THRESHOLD = ("spec", "indicator", "spec", "thresholdMetric", "metricSource", "spec")


def test_the_app_promises_what_was_asked_of_it() -> None:
    terms = {
        one.name: (one.target, one.period // DAY, bool(one.slices)) for one in model(APP).objectives
    }
    assert terms == {
        "availability": (0.99, 30, True),
        "success-rate": (0.995, 0, False),
        "latency-p95": (0.99, 30, True),
        "latency-p99": (0.99, 30, True),
    }
    assert objective("success-rate", APP).period == 3600


def test_the_tiers_are_those_of_the_design() -> None:
    tiers = {
        one.name: [
            (t.name, t.severity, t.factor, t.long, t.short, t.hold, t.min_failures)
            for t in one.tiers
        ]
        for one in model(APP).objectives
    }
    month = [
        ("fast", "page", 14.4, 3600, 300, 120, 0),
        ("medium", "page", 6, 21600, 1800, 900, 0),
        ("slow", "ticket", 3, 86400, 7200, 3600, 0),
        ("long", "ticket", 1, 259200, 21600, 10800, 0),
    ]
    assert tiers["availability"] == tiers["latency-p99"] == month
    assert tiers["success-rate"] == [
        ("fast", "page", 12, 300, 60, 60, 10),
        ("slow", "ticket", 2, 1800, 300, 300, 10),
    ]


def test_latency_of_most_requests_never_pages() -> None:
    assert {tier.severity for tier in objective("latency-p95", APP).tiers} == {"ticket"}


def test_only_the_hourly_promise_asks_for_an_alert_on_silence() -> None:
    silent = [
        (one.name, t.name) for one in model(APP).objectives for t in one.tiers if t.when_no_data
    ]
    assert silent == [("success-rate", "fast")]


def test_the_budget_of_an_objective_without_alerts_runs_out_in_silence() -> None:
    assert objective("checkouts-succeed").exhausted_severity == "ticket"
    assert objective("success-rate", APP).exhausted_severity is None


def test_what_would_be_ignored_or_misunderstood_is_refused() -> None:
    cases: list[tuple[str, Sequence[str | int], object, str]] = [
        (
            "DataSource main",
            ("spec", "type"),
            "Datadog",
            r"spec\.type: must be Prometheus, not 'Datadog'",
        ),
        ("DataSource main", (*DETAILS, "url"), "http://x", r"connectionDetails\.url: is not known"),
        ("DataSource main", (*DETAILS, "scrapeInterval"), "0s", "at most once a second"),
        (
            "DataSource main",
            (*DETAILS, "histograms"),
            None,
            "is measured by the histogram http_request_duration_highr",
        ),
        (
            "Service orders-api",
            ("metadata", "annotations", "prometheus/down-severity"),
            "sev1",
            "no AlertNotification",
        ),
        ("Service orders-api", ("spec", "x"), 1, r"\(Service orders-api\): spec\.x: is not known"),
        ("AlertNotificationTarget backlog", ("spec", "target"), "page", "ticket"),
        (
            FAST,
            ("spec", "severity"),
            "ticket",
            r"notificationTargets: receive page, but the severity is ticket",
        ),
        (FAST, ("spec", "condition", "kind"), "anomaly", r"condition\.kind: must be burnrate"),
        (FAST, ("spec", "condition", "op"), "lt", r"condition\.op: must be gt"),
        (FAST, ("spec", "condition", "threshold"), 0, "factor above 0"),
        (
            FAST,
            ("spec", "condition", "threshold"),
            1000,
            r"SLO checkouts-succeed\): alert policy fast can never fire",
        ),
        (FAST, ("spec", "condition", "typo"), 1, r"condition\.typo: is not known"),
        (
            FAST,
            ("metadata", "annotations", "prometheus/short-window"),
            "1M",
            "short-window: must be a duration",
        ),
        (
            FAST,
            ("metadata", "annotations", "prometheus/short-window"),
            "1m",
            "fast has a window of 60 s",
        ),
        (
            FAST,
            ("metadata", "annotations", "other/key"),
            "x",
            "annotations.other/key: is not known",
        ),
        (
            "AlertPolicy fast",
            ("spec", "alertWhenBreaching"),
            False,
            "alertWhenBreaching: must be true",
        ),
        (
            "AlertPolicy fast",
            ("spec", "alertWhenBreaching"),
            None,
            "alertWhenBreaching: must be true",
        ),
        (
            "AlertPolicy fast",
            ("spec", "alertWhenResolved"),
            True,
            "alertWhenResolved: would be ignored",
        ),
        ("AlertPolicy fast", ("spec", "conditions"), [], "conditions: must have exactly one item"),
        ("AlertPolicy fast", ("spec", "notificationTargets"), [], "receive nothing"),
        ("SLI checkouts", ("spec", "ratioMetric", "raw"), {}, r"ratioMetric\.raw: is not known"),
        ("SLI checkouts", ("spec", "ratioMetric", "good"), None, "either good or bad"),
        (
            "SLI checkouts",
            ("spec", "ratioMetric", "total", "metricSource", "type"),
            None,
            "type: must be Prometheus, and is missing",
        ),
        (
            "SLI checkouts",
            ("spec", "ratioMetric", "total", "metricSource", "type"),
            "X",
            "type: must be Prometheus",
        ),
        (
            "SLI checkouts",
            ("spec", "ratioMetric", "total", "metricSource", "metricSourceRef"),
            "x",
            "no DataSource 'x'",
        ),
        (
            "SLI checkouts",
            ("spec", "ratioMetric", "total", "metricSource", "spec", "query"),
            "sum(up",
            r"spec\.query: has a parenthesis too few",
        ),
        (
            "SLI checkouts",
            ("spec", "ratioMetric", "total", "metricSource", "spec", "x"),
            1,
            r"spec\.x: is not known",
        ),
        (
            "SLI checkouts",
            ("spec", "ratioMetric", "total", "metricSource", "x"),
            1,
            r"metricSource\.x: is not known",
        ),
        ("SLI checkouts", ("spec", "ratioMetric", "total", "x"), 1, r"total\.x: is not known"),
        ("SLI checkouts", ("spec", "thresholdMetric"), {}, r"spec\.thresholdMetric: is not known"),
        (ORDERS, ("spec", "indicator"), {}, r"spec\.indicator: is not known"),
        (QUEUE, ("spec", "indicator"), None, r"spec\.indicator: must be a mapping"),
        (QUEUE, (*THRESHOLD, "quantile"), 0.5, r"spec\.aggregate: is not known"),
        (QUEUE, THRESHOLD, {"query": "age_seconds", "quantile": 0.5}, "ask for age_seconds_bucket"),
        (
            QUEUE,
            (*TERMS, "op"),
            None,
            r"objectives\[0\]\.op: must be lte or gte or lt or gt, and is missing",
        ),
        (
            QUEUE,
            (*TERMS, "op"),
            "eq",
            r"objectives\[0\]\.op: must be lte or gte or lt or gt, not 'eq'",
        ),
        (
            QUEUE,
            (*THRESHOLD, "aggregate"),
            "median",
            r"aggregate: must be max or min or avg or sum, not",
        ),
        (
            QUEUE,
            (*THRESHOLD, "aggregate"),
            "quantile",
            r"aggregate: must be max or min or avg or sum, not",
        ),
        (QUEUE, (*TERMS, "value"), "many", r"objectives\[0\]\.value: must be a number"),
        (
            QUEUE,
            (*TERMS, "timeSliceTarget"),
            0.5,
            r"objectives\[0\]\.timeSliceTarget: is not known",
        ),
        (
            QUEUE,
            ("metadata", "annotations"),
            {"prometheus/slice-probe": "up"},
            "slice-probe: is not known",
        ),
        (
            QUEUE,
            ("metadata", "annotations"),
            {"prometheus/severity": "page"},
            "prometheus/severity: is not known",
        ),
        (
            QUEUE,
            ("metadata", "annotations"),
            {"prometheus/exhausted-severity": "page"},
            "exhausted-severity: is not k",
        ),
        (ORDERS, (*TERMS, "op"), "lt", r"objectives\[0\]\.op: must be gte or gt"),
        (ORDERS, (*TERMS, "value"), 5, r"objectives\[0\]\.value: is not known"),
        (ORDERS, (*TERMS, "target"), 0.5, r"objectives\[0\]\.target: is not known"),
        (
            ORDERS,
            ("spec", "objectives"),
            [],
            "objectives: must have at least one item",
        ),
        (ORDERS, ("spec", "service"), "orders", r"spec\.service: there is no Service 'orders'"),
        (ORDERS, ("spec", "indicatorRef"), "x", r"spec\.indicatorRef: there is no SLI 'x'"),
        (
            ORDERS,
            ("spec", "budgetingMethod"),
            "RatioTimeslices",
            "must be Occurrences or Timeslices",
        ),
        (ORDERS, ("spec", "timeWindow", 0, "isRolling"), "no", r"isRolling: must be true or false"),
        (ORDERS, ("spec", "timeWindow", 0, "duration"), "1M", "must be a duration"),
        (
            ORDERS,
            ("spec", "timeWindow", 0, "calendar"),
            {},
            r"timeWindow\[0\]\.calendar: is not known",
        ),
        (
            ORDERS,
            (*INLINE, "spec", "conditions", 0, "spec", "x"),
            1,
            r"\(AlertCondition slow\): spec\.x: is not known",
        ),
        (ORDERS, ("metadata", "annotations"), {"prometheus/severity": "sev1"}, "`target: sev1`"),
        (
            ORDERS,
            ("metadata", "annotations"),
            {"prometheus/exhausted-severity": "sev1"},
            "`target: sev1`",
        ),
        (ORDERS, ("metadata", "labels"), {"severity": "x"}, "severity='x'"),
        (
            SLICED,
            (*TERMS, "timeSliceWindow"),
            None,
            "timeSliceWindow: must be a duration .*or a number of minutes",
        ),
        (
            SLICED,
            (*TERMS, "timeSliceWindow"),
            True,
            "timeSliceWindow: must be a duration .*or a number of minutes",
        ),
        (SLICED, (*TERMS, "timeSliceWindow"), "1M", "must be a duration"),
        (SLICED, (*TERMS, "timeSliceWindow"), 0, "a minute or more"),
        (
            SLICED,
            (*TERMS, "value"),
            0.7,
            "0.7 is no bucket edge of http_request_duration_highr_seconds; it has 0.05, ",
        ),
        (
            SLICED,
            ("metadata", "annotations"),
            {"prometheus/slice-needs-instance": "yes"},
            '"true" or "false"',
        ),
        (
            SLICED,
            ("metadata", "annotations"),
            {"prometheus/slice-min-requests": "3"},
            "counts none",
        ),
        (
            SLICED,
            ("metadata", "annotations"),
            {"prometheus/slice-probe": "1 - up"},
            "slice-probe: must be one metric",
        ),
    ]
    with every() as case:
        for which, keys, value, why in cases:
            with case(which, keys, value, why), pytest.raises(SloError, match=why):
                read(changed(which, keys, value))


def test_a_latency_that_is_no_bucket_edge_is_refused() -> None:
    cases: list[tuple[str, str]] = [
        (
            'took_bucket{le="0.2"}',
            r"good\.metricSource\.spec\.query: is measured by the histogram took",
        ),
        ('http_server_request_duration_seconds_bucket{le="0.3"}', "0.3 is no bucket edge of"),
        ('http_server_request_duration_seconds_bucket{le="0.20"}', "0.20 is no bucket edge of"),
        ("http_server_request_duration_seconds_bucket", "no le is no bucket edge of"),
        ('http_server_request_duration_seconds_bucket{le=~"0.2"}', "no le is no bucket edge of"),
        ('http_server_request_duration_seconds_bucket{le="+Inf"}', "it has 0.005, 0.01, "),
    ]
    with every() as case:
        for selector, why in cases:
            with case(selector, why), pytest.raises(SloError, match=why):
                read(changed(LATENCY, BUCKETS, selector, APP))


@pytest.mark.parametrize("edge", ["1", "1.0", "2.5", "10"])
def test_an_edge_may_be_written_as_any_client_writes_it(edge: str) -> None:
    selector = f'http_server_request_duration_seconds_bucket{{le="{edge}"}}'
    assert read(changed(LATENCY, BUCKETS, selector, APP)).objectives


def test_an_edge_of_a_million_is_written_as_a_power() -> None:
    file = changed(
        "DataSource prometheus", (*DETAILS, "histograms"), {"size_bytes": [1000000]}, APP
    )
    quick = next(one for one in file if one["metadata"]["name"] == "answered-within-200ms")
    slow = next(one for one in file if one["metadata"]["name"] == "answered-within-500ms")
    for one in (quick, slow):
        one["spec"]["ratioMetric"]["good"]["metricSource"]["spec"]["query"] = (
            'size_bytes_bucket{le="1e+06"}'
        )
    assert read(file).objectives


@pytest.mark.parametrize(
    ("op", "never"),
    [("lte", "could never be missed"), ("gt", "could never be met"), ("lt", ""), ("gte", "")],
)
def test_a_quantile_at_the_last_edge_must_be_one_that_can_be_missed_and_met(
    op: str, never: str
) -> None:
    file = changed(SLICED, TERMS, {**terms_of(SLICED), "op": op, "value": 2.5})
    if never:
        with pytest.raises(
            SloError, match=rf"objectives\[0\]\.value: 2.5 is the last bucket edge, so it {never}"
        ):
            read(file)
    else:
        assert read(file).objectives
    assert read(changed(SLICED, TERMS, {**terms_of(SLICED), "op": op, "value": 1})).objectives


def terms_of(which: str) -> dict[str, Any]:
    """Return what an objective of the file promises."""
    name = which.split()[1]
    one = next(it for it in documents() if it["kind"] == "SLO" and it["metadata"]["name"] == name)
    found: dict[str, Any] = one["spec"]["objectives"][0]
    return found


def another(kind: str, name: str, new: str) -> Documents:
    """Return the file with a copy of an object that nothing refers to."""
    file = documents()
    copied = next(
        one for one in documents() if one["kind"] == kind and one["metadata"]["name"] == name
    )
    copied["metadata"]["name"] = new
    return [*file, copied]


@pytest.mark.parametrize(
    ("kind", "name"),
    [("Service", "orders-api"), ("SLI", "checkouts"), ("AlertPolicy", "fast"), ("AlertCondition", "fast"),
     ("AlertNotificationTarget", "on-call")],
)  # fmt: skip
def test_an_object_that_nothing_refers_to_is_refused(kind: str, name: str) -> None:
    with pytest.raises(SloError, match=rf"\({kind} unused\): nothing refers to it"):
        read(another(kind, name, "unused"))


@pytest.mark.parametrize("kind", ["SLO", "SLI", "Service"])
def test_two_objects_of_one_name_are_refused(kind: str) -> None:
    one = next(one for one in documents() if one["kind"] == kind)
    with pytest.raises(SloError, match=f"there is another {kind} of this name"):
        read([*documents(), one])


def test_there_is_one_prometheus_and_at_least_one_promise() -> None:
    with pytest.raises(SloError, match=r"needs one DataSource, .*, and has several"):
        read(another("DataSource", "main", "other"))
    with pytest.raises(SloError, match="needs objectives"):
        read([])
    with pytest.raises(SloError, match="needs objectives"):
        read([one for one in documents() if one["kind"] == "DataSource"])


def foreign() -> list[object]:
    """Write an SLO as other tools take it: many things that no rule could be written from."""
    return [
        {
            "apiVersion": "openslo/v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"owner": "me"},
        },
        {
            "apiVersion": "openslo/v1",
            "kind": "SLO",
            "metadata": {"name": "latency"},
            "spec": {
                "service": "web",
                "indicator": {
                    "metadata": {"name": "quick"},
                    "spec": {
                        "ratioMetric": {
                            "counter": "yes",
                            "good": {
                                "metricSource": {"type": "Datadog", "spec": {"query": "sum:x{*}"}}
                            },
                            "total": {
                                "metricSource": {"type": "Datadog", "spec": {"query": "sum:y{*}"}}
                            },
                        }
                    },
                },
                "timeWindow": [
                    {"duration": "1M", "isRolling": True, "calendar": {"timeZone": "UTC"}}
                ],
                "budgetingMethod": "RatioTimeslices",
                "objectives": [{"target": "99"}],
                "region": "eu",
            },
        },
        {"apiVersion": "openslo/v2", "kind": "SLO", "metadata": {"name": "later"}, "spec": {}},
        None,
    ]


def test_all_that_is_wrong_is_reported_in_one_message() -> None:
    with pytest.raises(SloError) as caught:
        read(foreign())
    first, *rest = str(caught.value).split("\n  ")
    assert first == f"{len(rest)} things are wrong:"
    whole = "\n".join(rest)
    for part in (
        "spec.owner: is not known here",
        "spec.region: is not known here",
        "counter: must be true or false, not 'yes'",
        "good.metricSource.type: must be Prometheus, not 'Datadog'",
        "budgetingMethod: must be Occurrences or Timeslices",
        "must be a duration such as 30s, 5m, 1h, 30d or 4w, not '1M'",
        "calendar: is not known here",
        "document 3.apiVersion: must be openslo/v1",
        "document 4: must be a mapping",
    ):
        assert part in whole, whole


@pytest.mark.parametrize(("file", "name"), [(ORDERS_FILE, "main"), (APP, "prometheus")])
def test_what_follows_from_an_error_is_not_reported(file: Path, name: str) -> None:
    wrong = changed(f"DataSource {name}", (*DETAILS, "scrapeInterval"), "soon", file)
    with pytest.raises(
        SloError, match=rf"^document 1 \(DataSource {name}\): spec\.[^\n]*not 'soon'$"
    ):
        read(wrong)


def test_a_file_may_leave_out_the_usual() -> None:
    file = changed("Service orders-api", ("metadata", "annotations"), None)
    service = read(file).services[0]
    assert (service.job, service.runbook_url, service.dashboard_url) == ("orders-api", "", "")


def test_without_a_source_the_usual_prometheus_is_meant() -> None:
    slow = [one for one in documents() if one["kind"] != "DataSource" and "quick" not in str(one)]
    source = read(slow).source
    assert (source.name, source.scrape_interval, source.histograms) == ("prometheus", 30, ())


def test_an_empty_document_is_refused_with_its_number() -> None:
    with pytest.raises(SloError, match=r"^document 1: must be a mapping, not nothing$"):
        read([None])


def test_one_severity_may_be_put_over_those_of_the_policies() -> None:
    quiet = read(changed(ORDERS, ("metadata", "annotations"), {"prometheus/severity": "ticket"}))
    assert [tier.severity for tier in quiet.objectives[0].tiers] == ["ticket", "ticket"]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(some_documents())
def test_whatever_is_well_formed_is_accepted(file: Documents) -> None:
    found = read(file)
    assert [one.name for one in found.objectives] == [
        d["metadata"]["name"] for d in file if d["kind"] == "SLO"
    ]


SHAPES = DATA / "openslo"
UNSUPPORTED = {
    "ratio-timeslices": [
        "budgetingMethod: must be Occurrences or Timeslices, not 'RatioTimeslices'",
    ],
    "elsewhere": [
        "(DataSource cloud): spec.type: must be Prometheus, not 'CloudWatch'",
        "connectionDetails.accessKeyID: is not known here",
        "connectionDetails.secretAccessKey: is not known here",
        "(Service hits): severity page: no AlertNotificationTarget has `target: page`",
        "alertWhenResolved: would be ignored",
        "condition.op: must be gt, not 'lte'",
        "spec.timeWindow: must be a list, and is missing",
        "good.metricSource.type: must be Prometheus, not 'CloudWatch'",
        "total.metricSource.type: must be Prometheus, not 'CloudWatch'",
        "budgetingMethod: must be Occurrences or Timeslices, and is missing",
    ],
}


def test_each_shape_of_the_specification_loads_or_says_all_that_it_lacks() -> None:
    with every() as case:
        for file in sorted(SHAPES.glob("*.yaml")):
            with case(file.stem):
                if file.stem not in UNSUPPORTED:
                    assert model(file).objectives
                    continue
                with pytest.raises(SloError) as caught:
                    model(file)
                wanted = UNSUPPORTED[file.stem]
                rest = str(caught.value).split("\n  ")
                if len(wanted) > 1:
                    assert rest.pop(0) == f"{len(wanted)} things are wrong:"
                for part, line in zip(wanted, rest, strict=True):
                    assert part in line


ANY = "spec.ratioMetric.{}.metricSource.type: Any is read as Prometheus: write PromQL there"


def test_a_window_of_the_calendar_is_served_as_a_rolling_one_and_noted() -> None:
    notes: list[str] = []
    aimed, signed = read(documents(SHAPES / "calendar.yaml"), note=notes.append).objectives
    assert (aimed.name, aimed.title) == ("line-is-up-what-we-aim-at", "What we aim at")
    assert (signed.name, signed.title) == ("line-is-up-what-was-signed", "What was signed")
    assert [(one.target, one.period // DAY) for one in (aimed, signed)] == [(0.997, 30), (0.99, 30)]
    assert aimed.slices == signed.slices is not None
    place = "document 1 (SLO line-is-up): "
    calendar = "a window of the calendar is measured as a rolling one of 30 days"
    assert notes == [
        f"{place}spec.timeWindow[0]: {calendar}: no rule begins with the calendar",
        *(f"{place}spec.indicator (SLI line): {ANY.format(word)}" for word in ("good", "total")),
    ]


def test_slices_shorter_than_the_usual_scrapes_are_noted() -> None:
    notes: list[str] = []
    file = documents(SHAPES / "calendar.yaml")
    for terms in file[0]["spec"]["objectives"]:
        terms["timeSliceWindow"] = "1m"
    source = read(file, note=notes.append).source
    assert (source.scrape_interval, source.evaluation_interval) == (15, 15)
    assert "must scrape and evaluate each 15 s, as a slice of 60 s needs 4 samples" in notes[-1]


@pytest.mark.parametrize(
    ("written", "days"), [("1w", 7), ("1m", 30), ("1M", 30), ("1Q", 90), ("1Y", 365)]
)
def test_each_duration_of_the_calendar_has_a_rolling_length(written: str, days: int) -> None:
    window = [{"duration": written, "isRolling": False}]
    file = changed(QUEUE, ("spec", "timeWindow"), window)
    found = next(one for one in read(file).objectives if one.name == "queue-is-short")
    assert found.period == days * DAY


def test_a_file_that_is_served_as_written_has_no_notes() -> None:
    notes: list[str] = []
    for file in (ORDERS_FILE, APP, SHAPES / "ratio.yaml", SHAPES / "timeslices.yaml"):
        read(documents(file), note=notes.append)
    assert notes == []


@pytest.mark.parametrize("titles", [("", "Signed"), ("Signed", "signed!")])
def test_objectives_that_titles_cannot_tell_apart_are_numbered(titles: tuple[str, str]) -> None:
    terms = [{"displayName": title, "target": 0.999} for title in titles]
    names = [one.name for one in read(changed(ORDERS, ("spec", "objectives"), terms)).objectives]
    assert {"checkouts-succeed-1", "checkouts-succeed-2"} <= set(names)


def test_what_a_file_leaves_out_has_a_usual_value() -> None:
    (quotes,) = model(SHAPES / "timeslices.yaml").objectives
    (tier,) = quotes.tiers
    assert (tier.name, tier.long, tier.short, tier.hold) == ("burns-fast", 3600, 300, 300)
    assert (quotes.service.name, quotes.service.job, quotes.service.down_severity) == (
        "quotes",
        "quotes",
        "page",
    )
    found = model(SHAPES / "timeslices.yaml").source
    assert (found.scrape_interval, found.evaluation_interval) == (30, 30)
    no_wait = read(changed(FAST, ("spec", "condition", "alertAfter"), None)).objectives[0]
    assert [one.hold for one in no_wait.tiers if one.policy == "fast"] == [0]


def queried(good: str, total: str, **more: object) -> RatioIndicator:
    """Return the indicator that two queries become."""
    ratio = {"ratioMetric": {"good": source(good), "total": source(total), **more}}
    found = read(promised(ratio)).objectives[0].indicator
    assert isinstance(found, RatioIndicator)
    return found


def test_sums_of_rates_are_read_as_the_counters_they_are_of() -> None:
    cases: list[tuple[str, str, dict[str, bool]]] = [
        ("good_total", "all_total", {}),
        ("sum(good_total)", "sum by (job) (all_total)", {"counter": True}),
        ("sum(rate(good_total[5m]))", "sum(rate(all_total[5m]))", {"counter": False}),
        ("sum(rate(good_total[{{window}}]))", "sum(increase(all_total[{{.window}}])) by (job)", {}),
        ("rate(good_total[1h])", "all_total", {"counter": True}),
    ]
    plain = queried("good_total", "all_total", counter=True)
    with every() as case:
        for good, total, more in cases:
            with case(good, total):
                assert queried(good, total, **more) == plain
    assert not queried("sum(good)", "all", counter=False).counter
    assert (
        str(queried('sum(rate(took_bucket{le="0.2"}[5m]))', "all_total").good)
        == 'took_bucket{le="0.2"}'
    )


def test_any_other_promql_is_taken_as_it_is() -> None:
    mixed = queried("sum(rate(a_total[{{window}}])) + sum(rate(b_total[{{window}}]))", "all_total")
    assert mixed.is_expression
    assert not mixed.counts
    assert str(mixed.total) == "rate(all_total[{{window}}])"
    gauges = queried("sum(rate(a_total[5m]))", "max(workers)", counter=False)
    assert (str(gauges.good), str(gauges.total)) == ("sum(rate(a_total[5m]))", "max(workers)")
    assert [str(one) for one in mixed.watched] == ["all_total"]
    one_rate = queried("sum(rate(a_total[5m]))", "workers", counter=False)
    assert (str(one_rate.good), str(one_rate.total)) == ("sum(rate(a_total[5m]))", "workers")


def test_counters_are_not_added_up_as_they_are() -> None:
    with pytest.raises(SloError, match=r"query: adds up counters, .*rate.*counter: false"):
        queried("a_total + b_total", "all_total")
    assert queried("a + b", "all", counter=False).is_expression


def measured_by(query: str, op: str = "lt", **more: object) -> ThresholdIndicator:
    """Return the indicator that a query for a value at most 1 becomes, beside a histogram with known edges."""
    edges = documents()[0]
    file = [edges, *promised({"thresholdMetric": source(query, **more)}, op=op, value=1)]
    found = read(file).objectives[0].indicator
    assert isinstance(found, ThresholdIndicator)
    return found


def test_a_measured_value_may_be_asked_by_any_promql() -> None:
    buckets = "rate(http_request_duration_highr_seconds_bucket[5m])"
    cases: list[tuple[str, str, str, float | None]] = [
        ("depth", "depth", "max", None),
        ("min(depth)", "depth", "min", None),
        ("avg(depth) / 2", "avg(depth) / 2", "max", None),
        ("max(depth) - max(done)", "max(depth) - max(done)", "max", None),
        (f"histogram_quantile(0.9, sum by (le) ({buckets}))", "http_request_duration_highr_seconds_bucket", "quantile", 0.9),
        (f"histogram_quantile(0.9, sum({buckets}) by (le))", "http_request_duration_highr_seconds_bucket", "quantile", 0.9),
        (
            f"histogram_quantile(0.9, sum by (le, path) ({buckets}))",
            f"histogram_quantile(0.9, sum by (le, path) ({buckets}))",
            "max",
            None,
        ),
        (
            "histogram_quantile(0.9, sum by (le) (rate(other_bucket[5m])))",
            "histogram_quantile(0.9, sum by (le) (rate(other_bucket[5m])))",
            "max",
            None,
        ),
    ]  # fmt: skip
    with every() as case:
        for query, metric, aggregate, quantile in cases:
            with case(query):
                one = measured_by(query)
                assert (str(one.metric), one.aggregate, one.quantile) == (
                    metric,
                    aggregate,
                    quantile,
                )
    assert measured_by("depth", "gte").aggregate == "min"
    assert [str(one) for one in measured_by("max(depth) - max(done)").watched] == ["depth", "done"]
    assert measured_by("avg(depth) / 2", aggregate="sum").aggregate == "sum"
