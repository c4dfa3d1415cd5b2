"""A scrape is answered beside the event loop, and only to those who may read."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import anyio
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from postfacta_core.asgi import HardenOptions
from postfacta_core.asgi._types import Receive, Scope, Send
from postfacta_core.asgi.metrics import MetricsEndpoint
from postfacta_core.telemetry.metrics import Exposition, Metrics
from postfacta_core.testing import call_asgi
from tests.kit.alone import WithTelemetry


async def teapot(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 418})
    await send({"type": "http.response.body", "body": b"tea"})


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry(), version="1.2.3", revision="abc")


async def test_the_metrics_are_served_in_the_format_that_is_asked_for(metrics: Metrics) -> None:
    app = MetricsEndpoint(teapot, metrics)
    text = await call_asgi(app, "GET", "/metrics")
    open_metrics = await call_asgi(
        app, "GET", "/metrics", headers=[("Accept", "application/openmetrics-text; version=1.0.0")]
    )
    assert text.status == open_metrics.status == 200
    assert (text.header("content-type") or "").startswith("text/plain")
    assert text.header("cache-control") == "no-store"
    assert int(text.header("content-length") or "") == len(text.body)
    names = {family.name for family in text_string_to_metric_families(text.body.decode())}
    assert {"postfacta_build_info", "http_server_active_requests", "python_gc_collections"} <= names
    assert (open_metrics.header("content-type") or "").startswith("application/openmetrics-text")
    assert open_metrics.body.endswith(b"# EOF\n")


async def test_head_has_the_length_and_no_body(metrics: Metrics) -> None:
    response = await call_asgi(MetricsEndpoint(teapot, metrics), "HEAD", "/metrics")
    assert response.status == 200
    assert int(response.header("content-length") or "") > 0
    assert response.body == b""


async def test_other_methods_are_refused_and_other_paths_passed_on(metrics: Metrics) -> None:
    app = MetricsEndpoint(teapot, metrics, HardenOptions(metrics_path="/m"))
    refused = await call_asgi(app, "POST", "/m")
    assert (refused.status, refused.header("allow")) == (405, "GET, HEAD")
    for path in ("/metrics", "/m/", "/mm", "/"):
        assert (await call_asgi(app, "GET", path)).status == 418
    assert (await call_asgi(app, "GET", "/pre/m", root_path="/pre")).status == 200


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ("Bearer s3cret", 200),
        ("bearer s3cret", 200),
        ("BEARER  s3cret", 200),
        ("Basic s3cret", 401),
        ("Bearer wrong", 401),
        ("s3cret", 401),
        ("", 401),
        ("Bearer \xe9", 401),
    ],
)
async def test_a_token_is_asked_for_if_there_is_one(
    metrics: Metrics, given: str, status: int
) -> None:
    app = MetricsEndpoint(teapot, metrics, HardenOptions(metrics_token="s3cret"))  # noqa: S106 - it opens nothing
    response = await call_asgi(app, "GET", "/metrics", headers=[("Authorization", given)])
    assert response.status == status
    assert (b"postfacta" in response.body) == (status == 200)
    assert (response.header("www-authenticate") == "Bearer") == (status == 401)
    assert (await call_asgi(app, "GET", "/metrics")).status == 401


async def test_scrapes_are_rendered_one_at_a_time_and_not_on_the_event_loop(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most, threads = 0, 0, set[int]()
    gate = threading.Event()

    def render(accept: str = "", *, labels: Mapping[str, str]) -> Exposition:
        nonlocal running, most
        running += 1
        most = max(most, running)
        threads.add(threading.get_ident())
        gate.wait(5)
        running -= 1
        return Exposition(b"page", "text/plain")

    monkeypatch.setattr(metrics, "render", render)
    app = MetricsEndpoint(teapot, metrics)
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(call_asgi, app, "GET", "/metrics")
        while not threads:
            await anyio.lowlevel.checkpoint()
        gate.set()
    assert most == 1
    assert threading.get_ident() not in threads


async def test_a_scrape_is_a_route_of_its_own(metrics: Metrics) -> None:
    app = WithTelemetry(MetricsEndpoint(teapot, metrics), [metrics])
    await call_asgi(app, "GET", "/metrics")
    page = await call_asgi(app, "GET", "/metrics")
    assert b'http_route="/metrics"' in page.body


async def test_workers_that_share_a_folder_show_each_other(tmp_path: Path) -> None:
    one, two = (
        MetricsEndpoint(
            teapot,
            Metrics(CollectorRegistry(), version=version),
            HardenOptions(metrics_workers=tmp_path / "w"),
        )
        for version in ("one", "two")
    )
    assert one.siblings is not None
    assert two.siblings is not None
    async with one.siblings, two.siblings:
        pages = [(await call_asgi(app, "GET", "/metrics")).body.decode() for app in (one, two)]
        accept = [("Accept", "application/openmetrics-text; version=1.0.0")]
        open_metrics = (await call_asgi(app=one, path="/metrics", headers=accept)).body.decode()
    for page in (*pages, open_metrics):
        assert 'version="one",worker="0"}' in page
        assert 'version="two",worker="1"}' in page
        assert 'postfacta_metrics_workers{state="answered"} 2.0' in page
    assert open_metrics.endswith("# EOF\n")
    assert [page.count("# EOF") for page in pages] == [0, 0]


async def test_a_worker_by_itself_has_no_number(metrics: Metrics) -> None:
    app = MetricsEndpoint(teapot, metrics)
    assert app.siblings is None
    assert b"worker=" not in (await call_asgi(app, "GET", "/metrics")).body
