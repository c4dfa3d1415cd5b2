"""A page of metrics is what prometheus-client would write, with exemplars and further labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

from postfacta_core.context import RequestContext
from postfacta_core.events import (
    LoopLagged,
)
from postfacta_core.telemetry.exchange import Exchange
from postfacta_core.telemetry.metrics import Metrics
from postfacta_core.testing import ManualClock
from tests.kit.bytecodes import bytecodes_of, refusal
from tests.kit.exposition import OPEN_METRICS, read_open_metrics

MOST_OF_A_SERIES = 3300  # Bytecodes of 18 lines; prometheus-client's writer took 46,505.


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def finished(
    metrics: Metrics, route: str = "/i/{id}", method: str = "GET", *, error: str = ""
) -> None:
    exchange = Exchange(RequestContext("an-id-of-some-kind", 990.0), method, "/i/7")
    metrics.begin(exchange)
    exchange.seconds = 0.15
    metrics.answered(exchange)
    exchange.status, exchange.route, exchange.error_type = 500 if error else 200, route, error
    exchange.error = ValueError() if error else None
    metrics.end(exchange)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(
        CollectorRegistry(),
        version="1.2.3",
        revision="abc",
        clock=ManualClock(1000),
        wall=lambda: 5000.0,
    )


TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def exemplars(metrics: Metrics, **labels: str) -> dict[str, tuple[dict[str, str], float, float]]:
    family = read_open_metrics(metrics.render(OPEN_METRICS, labels=labels).body)[
        "http_server_request_duration_seconds"
    ]
    return {
        sample.labels["le"]: (one.labels, one.value, float(one.timestamp or 0))
        for sample in family.samples
        if (one := sample.exemplar) is not None
    }


def traced(metrics: Metrics, flags: str, *, span: str = SPAN, seconds: float = 0.15) -> None:
    request = RequestContext("an-id-of-some-kind", 990.0)
    request.trace_id, request.span_id, request.trace_flags = TRACE, span, flags
    exchange = Exchange(request, "GET", "/i/7")
    exchange.status, exchange.route, exchange.seconds = 200, "/i/{id}", seconds
    metrics.end(exchange)


@pytest.mark.parametrize(
    ("flags", "is_stored"), [("01", True), ("03", True), ("00", False), ("02", False), ("", False)]
)
def test_an_exemplar_leads_to_a_trace_that_is_stored(
    metrics: Metrics, flags: str, *, is_stored: bool
) -> None:
    traced(metrics, flags)
    found = [labels for labels, _, _ in exemplars(metrics).values()]
    assert found == [{"trace_id": TRACE, "span_id": SPAN}] * is_stored


def test_the_latest_value_of_a_bucket_stands_for_it() -> None:
    metrics = Metrics(wall=lambda: 1000.5)
    for span, seconds in (("1" * 16, 0.12), ("2" * 16, 0.15), ("3" * 16, 11.0)):
        traced(metrics, "01", span=span, seconds=seconds)
    traced(metrics, "00", span="4" * 16)
    expected = {
        "0.2": ({"trace_id": TRACE, "span_id": "2" * 16}, 0.15, 1000.5),
        "+Inf": ({"trace_id": TRACE, "span_id": "3" * 16}, 11.0, 1000.5),
    }
    # Those of several workers are on one page, under one more label.
    assert exemplars(metrics) == exemplars(metrics, worker="1") == expected
    # The older format has no place for them.
    assert TRACE.encode() not in metrics.render().body


def test_a_page_may_have_one_more_label_on_all_series(metrics: Metrics) -> None:
    finished(metrics)
    for _ in range(2):
        lines = metrics.render(labels={"worker": "3"}).body.decode().splitlines()
        assert all('worker="3"' in line for line in lines if not line.startswith("#"))
    assert b"worker" not in metrics.render().body


class Foreign(Collector):
    """A collector of the application's own."""

    def __init__(self, *samples: Metric, fails: bool = False) -> None:
        self._samples = samples
        self._fails = fails

    def collect(self) -> Iterator[Metric]:
        yield from self._samples
        if self._fails:
            raise RuntimeError("no")


def gauge(name: str, label: object) -> Metric:
    metric = Metric(name, "A gauge of the application.", "gauge")
    labels: dict[str, Any] = {"shop": label}
    metric.add_sample(name, labels, 1.0)
    return metric


@pytest.mark.parametrize("accept", ["", OPEN_METRICS])
@pytest.mark.parametrize(
    "broken",
    [Foreign(gauge("shop_open", "x"), fails=True), Foreign(gauge("shop_open", 7))],
    ids=["raises", "label"],
)
@pytest.mark.parametrize("labels", [{}, {"worker": "1"}], ids=["one", "workers"])
def test_a_foreign_collector_that_fails_costs_its_own_series_and_is_logged_once(
    metrics: Metrics,
    broken: Foreign,
    accept: str,
    labels: dict[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics.registry.register(broken)
    metrics.registry.register(Foreign(gauge("shop_doors", "y")))
    for _ in range(3):
        page = metrics.render(accept, labels=labels).body.decode()
        assert "shop_open{" not in page
        assert 'shop="y"' in page
        assert "postfacta_build_info{" in page
    assert [(record.message, vars(record)["collector"]) for record in caplog.records] == [
        ("metrics.collector_failed", "Foreign")
    ]


@pytest.mark.parametrize("accept", ["", OPEN_METRICS, f"{OPEN_METRICS}; escaping=allow-utf-8"])
@pytest.mark.parametrize("labels", [{}, {"worker": "1"}, {"a": 'x"\\\n', "zone": "é"}])
def test_a_histogram_is_written_as_prometheus_client_does(
    accept: str, labels: dict[str, str]
) -> None:
    metrics = Metrics(clock=ManualClock(1000), wall=lambda: 1000.5, with_process=False)
    for route in ("/i", '/"\\\n/é', "_unmatched"):
        for seconds in (0.0, 0.15, 0.2, 11.0, 1e7):
            exchange = Exchange(RequestContext("an-id-of-some-kind", 990.0), "GET", "/i/7")
            exchange.status, exchange.route, exchange.seconds = 200, route, seconds
            metrics.end(exchange)
    traced(metrics, "01", seconds=0.3)
    recorded = next(iter(vars(metrics)["_recorded"].values()))
    recorded.counts[3] += 1_234_567
    metrics(LoopLagged(0.003))
    # In the registry of another one they are foreign, and prometheus-client writes them.
    foreign = Metrics(with_process=False)
    foreign.registry.unregister(foreign)
    foreign.registry.register(Foreign(*metrics.collect()))
    ours, theirs = (each.render(accept, labels=labels).body for each in (metrics, foreign))
    assert b"1.23456" in ours
    assert sorted(ours.splitlines()) == sorted(theirs.splitlines())


async def test_a_series_of_a_histogram_costs_no_more_than_it_did() -> None:
    metrics = Metrics(with_process=False)
    for number in range(300):
        finished(metrics, f"/{number}")

    async def scrape() -> None:
        metrics.render(OPEN_METRICS)

    cost = await bytecodes_of(scrape)
    # Of each route a duration and a first byte.
    assert refusal(cost.bytecodes // 600, MOST_OF_A_SERIES) == ""
