"""Pages of several workers become one that Prometheus can read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, Info
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from postfacta_core.asgi.metrics import merge
from postfacta_core.context import RequestContext
from postfacta_core.telemetry.exchange import Exchange
from postfacta_core.telemetry.metrics import Metrics
from tests.kit.exposition import OPEN_METRICS, read_open_metrics


def page(worker: int, accept: str = "", *, requests: int = 1, route: str = "/i") -> bytes:
    metrics = Metrics(CollectorRegistry(), version=f"1.{worker}")
    for _ in range(requests):
        exchange = Exchange(RequestContext("an-id-of-some-kind", 0.0), "GET", "/i")
        exchange.status, exchange.route = 200, route
        metrics.begin(exchange)
        metrics.answered(exchange)
        metrics.end(exchange)
    return metrics.render(accept, labels={"worker": str(worker)}).body


def read_plain_text(page: str) -> dict[str, Metric]:
    return {metric.name: metric for metric in text_string_to_metric_families(page)}


def count(metrics: Mapping[str, Metric], worker: str) -> float:
    (sample,) = (
        one
        for one in metrics["http_server_request_duration_seconds"].samples
        if one.name.endswith("_count") and one.labels["worker"] == worker
    )
    return sample.value


@pytest.mark.parametrize(
    ("accept", "read"), [("", read_plain_text), (OPEN_METRICS, read_open_metrics)]
)
def test_the_page_holds_the_series_of_all_and_each_metric_once(
    accept: str, read: Callable[[str], dict[str, Metric]]
) -> None:
    text = merge([page(0, accept, requests=2), page(1, accept, requests=5)], silent=1).decode()
    metrics = read(text)
    assert (count(metrics, "0"), count(metrics, "1")) == (2, 5)
    types = [line for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(types) == len(set(types))
    assert 'postfacta_metrics_workers{state="answered"} 2.0' in text
    assert 'postfacta_metrics_workers{state="silent"} 1.0' in text
    assert text.count("# EOF") == (accept == OPEN_METRICS)
    assert text.endswith("# EOF\n" if accept else "\n")


def test_what_one_worker_alone_has_is_there_and_a_new_heading_takes_no_part() -> None:
    one, two = CollectorRegistry(), CollectorRegistry()
    Counter("jobs", "Done.", registry=one).inc()
    Counter("jobs", "Done by the new version.", registry=two).inc(2)
    Histogram("more", "Of the new version.", registry=two).observe(1)
    pages = [
        Metrics(registry, with_process=False).render(labels={"worker": worker}).body
        for registry, worker in ((one, "0"), (two, "1"))
    ]
    text = merge(pages).decode()
    assert text.count("# HELP jobs_total ") == 1
    assert 'jobs_total{worker="0"} 1.0\njobs_total{worker="1"} 2.0\n' in text
    assert 'more_count{worker="1"} 1.0' in text


def test_a_label_may_hold_what_looks_like_the_end_of_a_line() -> None:
    registry = CollectorRegistry()
    Info("odd", "Odd.", registry=registry).info({"name": "a\rb\x0bc"})
    text = merge(
        [Metrics(registry, with_process=False).render(OPEN_METRICS, labels={"worker": "0"}).body]
    )
    assert b'name="a\rb\x0bc"' in text


def test_no_page_at_all_says_how_many_are_silent() -> None:
    for pages in ([], [b""]):
        assert b'postfacta_metrics_workers{state="silent"} 3.0' in merge(pages, silent=3)
