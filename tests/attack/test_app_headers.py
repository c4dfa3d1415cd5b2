"""What a caller writes into headers or into the query never makes an error of the incident service."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import httpx2
import pytest

from tests.app.live import Service, in_process
from tests.attack.test_headers import CALLERS_OWN, READ, VALUES, Objectives
from tests.kit.exposition import OPEN_METRICS, read_open_metrics

TIMES = {"x-request-timeout"}
ROUTES = ("/api/v1/incidents", "/api/v1/signals", "/incidents", "/home")


@pytest.fixture(scope="module")
async def service(shared_app_dsn: str) -> AsyncGenerator[Service]:
    async with in_process(shared_app_dsn) as running:
        yield running


async def assert_unharmed(service: Service) -> None:
    page = (await service.client.get("/metrics", headers={"Accept": OPEN_METRICS})).text
    assert Objectives.read().ask(page)["requests-failed bad"] == 0
    for metric in read_open_metrics(page).values():
        for sample in metric.samples:
            if sample.name == "http_server_requests_total":
                assert sample.labels["error_type"] in CALLERS_OWN, sample
            assert sample.name != "postfacta_unhandled_exceptions_total", sample
            if (
                sample.name == "postfacta_breaker_calls_total"
                and "failure" in sample.labels.values()
            ):
                assert sample.value == 0, sample


@pytest.mark.parametrize("name", sorted(READ))
async def test_no_header_makes_an_error_of_the_service(name: str, service: Service) -> None:
    viewer = await service.as_role("viewer")
    for value in VALUES:
        for path in ROUTES:
            given = [*viewer.items(), (name, value), (name, "0")]
            headers = [(key.encode(), text.encode("latin-1")) for key, text in given]
            try:
                request = service.client.build_request("GET", path, headers=headers)
            except httpx2.InvalidURL:
                continue  # the client reads `Host` itself
            answer = await service.client.send(request)
            # Who gives no time is told that it was up; what it is counted as is looked at below.
            assert answer.status_code < 500 or name in TIMES, (path, value, answer.text)
    await assert_unharmed(service)
