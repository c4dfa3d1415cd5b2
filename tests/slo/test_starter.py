"""A first file of objectives says what it promises, and can be read at once."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from postfacta_core.asgi import HardenOptions, harden
from postfacta_core.asgi.stack import Hardened
from postfacta_core.testing import ManualClock, call_asgi
from postfacta_slo.__main__ import METRICS, starter
from postfacta_slo.promise.openslo import read
from postfacta_slo.promise.promql import SloError
from tests.attack.test_headers import Objectives
from tests.kit.exposition import OPEN_METRICS


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("metrics", METRICS)
def test_it_promises_success_and_speed(metrics: str) -> None:
    model = read(yaml.safe_load_all(starter("shop", "web", metrics)))
    assert [(one.name, one.target) for one in model.objectives] == [
        ("requests-succeed", 0.995),
        ("requests-are-quick", 0.99),
    ]
    assert {tier.name for one in model.objectives for tier in one.tiers} == {
        "fast",
        "medium",
        "slow",
        "long",
    }
    assert model.services[0].job == "web"


def selectors(text: str) -> set[str]:
    """Return what the objectives in this text ask for, without the job and the edge."""
    found = re.findall(r"http_server_requests?_\w+\{[^}]*\}", re.sub(r",\s+", ",", text))
    return {re.sub(r'job="[^"]*",|,le="[^"]*"', "", each) for each in found}


def test_the_app_and_the_starter_count_the_same_requests() -> None:
    ours = (Path(__file__).parents[2] / "deploy/slo/postfacta.openslo.yaml").read_text()
    theirs = selectors(starter("shop", "web", "postfacta"))
    assert len(theirs) == 4
    assert selectors(ours) == theirs


def shop(clock: ManualClock) -> Hardened:
    async def events() -> AsyncIterator[str]:
        for _ in range(3):
            clock.advance(10)
            yield "data: x\n\n"

    async def stream(request: Request) -> Response:
        return StreamingResponse(events(), media_type="text/event-stream")

    async def slow(request: Request) -> Response:
        clock.advance(1)
        return PlainTextResponse("slow")

    async def fail(request: Request) -> Response:
        return PlainTextResponse("no", 503)

    routes = [Route("/stream", stream), Route("/slow", slow), Route("/fail", fail)]
    options = HardenOptions(access_lines=None)
    return harden(Starlette(routes=routes), service="shop", options=options, clock=clock)


def objectives() -> Objectives:
    found = Objectives({})
    for document in yaml.safe_load_all(starter("shop", "web", "postfacta")):
        if document["kind"] == "SLO":
            ratio = document["spec"]["indicator"]["spec"]["ratioMetric"]
            for part in ratio.keys() & {"bad", "good", "total"}:
                name = f"{document['metadata']['name']} {part}"
                found.queries[name] = ratio[part]["metricSource"]["spec"]["query"]
    return found


async def page_of(app: Hardened) -> str:
    page = await call_asgi(app, "GET", "/metrics", headers=[("accept", OPEN_METRICS)])
    return page.body.decode()


async def test_what_is_no_failure_of_the_service_burns_no_budget() -> None:
    app = shop(ManualClock())
    for _ in range(5):
        late = await call_asgi(app, "GET", "/slow", headers=[("x-request-timeout", "0")])
        assert late.status == 504
        assert (await call_asgi(app, "GET", "/stream")).status == 200
        await call_asgi(app, "GET", "/stream", disconnect_after=0, raise_errors=False)
    counts = objectives().ask(await page_of(app))
    assert counts["requests-succeed bad"] == 0
    assert counts["requests-succeed total"] >= 5
    assert counts["requests-are-quick total"] == counts["requests-are-quick good"] == 0


async def test_what_the_service_fails_at_burns_its_budget() -> None:
    app = shop(ManualClock())
    await call_asgi(app, "GET", "/fail")
    await call_asgi(app, "GET", "/slow")
    assert objectives().ask(await page_of(app)) == {
        "requests-succeed bad": 1,
        "requests-succeed total": 2,
        "requests-are-quick good": 0,
        "requests-are-quick total": 1,
    }


@pytest.mark.parametrize(
    ("service", "job", "why"),
    [
        ("a shop", "web", "needs a name"),
        ("shop", "", "job"),
        ("shop", 'a"b', "without quotes"),
        ("shop", "a\nb", "quotes"),
    ],
)
def test_a_name_that_would_break_the_file_is_refused(service: str, job: str, why: str) -> None:
    with pytest.raises(SloError, match=why):
        starter(service, job, "postfacta")
