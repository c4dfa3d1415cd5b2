"""Whatever strangers send, the series stay those that the code knows."""

from __future__ import annotations

import random
import string

import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from postfacta_core.asgi import HardenOptions, Telemetry, harden
from postfacta_core.asgi.stack import Hardened
from postfacta_core.events import Mode
from postfacta_core.telemetry.metrics import Metrics
from postfacta_core.testing import call_asgi
from tests.kit.lifespan import running


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # What runs calls is tested on both loops, in `guards`.


def service() -> Hardened:
    async def item(request: Request) -> Response:
        await request.body()
        return PlainTextResponse("item")

    app = Starlette(
        routes=[Mount("/v1/{tenant}", routes=[Route("/i/{id}", item, methods=["GET", "POST"])])]
    )
    metrics = Metrics(CollectorRegistry(), with_process=False)
    policy = HardenOptions(
        shedding=Mode.OFF, rate_limits=["1000000/minute per client"], traffic_key="known"
    )
    return harden(app, service="items", options=policy, telemetry=Telemetry(metrics=metrics))


def series(app: Hardened) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    families = app.telemetry.metrics.registry.collect()
    return {
        (one.name, frozenset(one.labels.items())) for family in families for one in family.samples
    }


def word(luck: random.Random) -> str:
    return "".join(luck.choices(string.ascii_letters + string.digits, k=luck.randint(1, 24)))


async def ask(app: Hardened, luck: random.Random) -> None:
    """Send what was never sent before."""
    path = "/" + "/".join(word(luck) for _ in range(luck.randint(1, 5)))
    if luck.random() < 0.3:
        path = f"/v1/{word(luck)}/i/{word(luck)}"
    headers = [
        ("host", f"{word(luck)}.example:{luck.randint(1, 65535)}"),
        ("x-request-id", word(luck) + "-0123456789"),
        ("authorization", f"Bearer {word(luck)}"),
        ("user-agent", word(luck)),
        ("x-forwarded-for", f"{luck.randint(1, 9)}.2.3.{luck.randint(1, 250)}"),
        ("x-traffic-class", word(luck)),
        ("x-traffic-key", word(luck)),
        ("x-priority", word(luck)),
        ("traceparent", f"00-{luck.getrandbits(128):032x}-{luck.getrandbits(64):016x}-01"),
    ]
    method = luck.choice(["GET", "POST", "BREW", word(luck).upper()])
    client = (f"10.{luck.randint(0, 255)}.{luck.randint(0, 255)}.7", 1)
    await call_asgi(
        app,
        method,
        path,
        headers=headers,
        scope={"client": client, "query_string": word(luck).encode()},
    )


@pytest.mark.parametrize("number", [1000, pytest.param(10_000, marks=pytest.mark.long)])
async def test_strange_requests_add_no_series_to_those_of_the_first_few(number: int) -> None:
    luck = random.Random(5)  # noqa: S311 - the same strangers each time
    app = service()
    async with running(app):
        for method in ("GET", "POST", "BREW"):
            await call_asgi(app, method, "/v1/acme/i/7")
            await call_asgi(app, method, "/nothing")
        before = series(app)
        for _ in range(number):
            await ask(app, luck)
        after = series(app)
    assert {one for one in after - before if "postfacta_event_loop" not in one[0]} == set()
    (requests,) = {
        sum(one.value for one in family.samples if one.name.endswith("_total"))
        for family in app.telemetry.metrics.registry.collect()
        if family.name == "http_server_requests"
    }
    assert requests == number + 6
