"""`harden` keeps callers within their rates and the service within its strength, and shows what it refuses."""

from __future__ import annotations

from collections import Counter

import anyio
import anyio.lowlevel
import pytest
from prometheus_client import CollectorRegistry

from postfacta_core.asgi import HardenOptions, Telemetry, harden
from postfacta_core.asgi._types import Receive, Scope, Send
from postfacta_core.asgi.stack import Hardened
from postfacta_core.context import current_request
from postfacta_core.drain._course import DrainLimits
from postfacta_core.events import Mode
from postfacta_core.limits._overload import OverloadConfig
from postfacta_core.limits._waiting import Priority
from postfacta_core.telemetry.metrics import Metrics
from postfacta_core.testing import call_asgi
from tests.core.virtual import loop_clock, on_real_loops
from tests.kit.lifespan import running

SMALL = OverloadConfig(start=4, patience=0.1)


async def client(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the key that the request is counted for, and its priority."""
    request = current_request()
    assert request is not None
    body = f"{request.client} {request.priority}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def hardened(policy: HardenOptions, app: object = client) -> Hardened:
    telemetry = Telemetry(metrics=Metrics(CollectorRegistry(), with_process=False))
    return harden(app, service="billing", options=policy, telemetry=telemetry)  # type: ignore[arg-type]


def value(app: Hardened, name: str, **labels: str) -> float | None:
    return app.telemetry.metrics.registry.get_sample_value(name, labels)


def seen(app: Hardened, status: int, error_type: str) -> float | None:
    return value(
        app,
        "http_server_requests_total",
        http_request_method="_OTHER",
        http_route="_prerouting",
        http_response_status_code=str(status),
        error_type=error_type,
        traffic="user",
    )


async def test_a_caller_over_its_rate_is_refused_and_counted() -> None:
    app = hardened(HardenOptions(rate_limits=["2/minute per client"]))
    answers = [await call_asgi(app, path="/x") for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    refused = answers[2]
    assert refused.json()["code"] == "rate-limited"
    assert refused.header("ratelimit-policy") == '"client";q=2;w=60'
    assert int(refused.header("retry-after") or 0) > 0
    assert refused.header("x-content-type-options") == "nosniff"
    assert refused.header("x-request-id")
    assert seen(app, 429, "") == 1
    decisions = {
        decision: value(
            app,
            "postfacta_ratelimit_decisions_total",
            policy="client",
            decision=decision,
            mode="enforce",
        )
        for decision in ("allowed", "limited")
    }
    assert decisions == {"allowed": 2, "limited": 1}


@on_real_loops  # The metrics are rendered in a thread.
async def test_probes_and_metrics_have_no_rate() -> None:
    app = hardened(HardenOptions(rate_limits=["1/hour per client"]))
    await call_asgi(app, path="/x")
    for _ in range(3):
        assert (await call_asgi(app, path="/healthz/live")).status == 200
        assert (await call_asgi(app, path="/metrics")).status == 200


async def test_a_limit_in_shadow_counts_and_lets_pass() -> None:
    app = hardened(HardenOptions(rate_limits=["1/minute per client"]))
    assert app.rate_limits is not None
    app.rate_limits.limiters["client"].mode = Mode.SHADOW
    assert [(await call_asgi(app, path="/x")).status for _ in range(3)] == [200, 200, 200]
    limited = value(
        app,
        "postfacta_ratelimit_decisions_total",
        policy="client",
        decision="limited",
        mode="shadow",
    )
    assert limited == 2


async def test_only_a_trusted_proxy_names_the_client() -> None:
    spoofed = [("x-forwarded-for", "203.0.113.9, 198.51.100.7")]
    trusting = hardened(HardenOptions(trusted_proxies=["127.0.0.0/8"]))
    assert (await call_asgi(trusting, headers=spoofed)).body == b"198.51.100.7 1"
    careful = hardened(HardenOptions(rate_limits=["9/minute"]))
    assert (await call_asgi(careful, headers=spoofed)).body == b"127.0.0.1 1"


async def test_without_limits_no_request_is_limited() -> None:
    app = hardened(HardenOptions())
    assert app.rate_limits is None
    assert {(await call_asgi(app)).status for _ in range(300)} == {200}


async def crowd(app: Hardened, count: int, leave: anyio.Event) -> Counter[int]:
    """Send this many requests at once, and let those that are served end once all others are decided."""
    statuses: Counter[int] = Counter()

    async def one() -> None:
        statuses[(await call_asgi(app, path="/slow")).status] += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(one)
        # Those that may wait do so for a tenth of a second.
        with anyio.fail_after(5):
            while statuses[503] < count - 4:
                await anyio.sleep(0.01)
        assert (await call_asgi(app, path="/healthz/live")).status == 200
        leave.set()
    return statuses


@pytest.mark.parametrize("mode", [Mode.ENFORCE, Mode.SHADOW])
async def test_late_requests_are_refused_early_but_not_in_shadow(mode: Mode) -> None:
    leave = anyio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        if mode is Mode.ENFORCE:
            await leave.wait()
        await client(scope, receive, send)

    app = hardened(HardenOptions(concurrency=SMALL, shedding=mode), slow)
    if mode is Mode.SHADOW:
        async with anyio.create_task_group() as tasks:
            for _ in range(30):
                tasks.start_soon(call_asgi, app, "GET", "/slow")
        shed = 0.0
    else:
        statuses = await crowd(app, 30, leave)
        assert statuses == {200: 4, 503: 26}
        shed = statuses[503]
        assert seen(app, 503, "shed") == shed
    names = {"limiter": "requests", "priority": "critical"}
    decisions = value(
        app, "postfacta_limiter_decisions_total", **names, decision="admitted", mode=mode
    )
    assert decisions is not None
    counted = (
        value(app, "postfacta_limiter_decisions_total", **names, decision="shed", mode=mode)
        or value(
            app, "postfacta_limiter_decisions_total", **names, decision="would_shed", mode=mode
        )
        or 0.0
    )
    assert decisions + counted == 30
    assert counted >= shed
    assert counted > 0


async def test_priority_comes_from_the_service_or_a_caller_with_key() -> None:
    policy = HardenOptions(
        priority_of=lambda scope: Priority.SHEDDABLE if scope["path"] == "/export" else None,
        priority_key="a-key-of-the-mesh",
        rate_limits=["1000/minute"],
    )
    app = hardened(policy)
    said = ("x-priority", "critical_plus")
    assert (await call_asgi(app, path="/export")).body.endswith(b" 3")
    assert (await call_asgi(app, path="/x")).body.endswith(b" 1")
    assert (await call_asgi(app, headers=[said])).body.endswith(b" 1")
    known = [said, ("x-priority-key", "a-key-of-the-mesh")]
    assert (await call_asgi(app, headers=known)).body.endswith(b" 0")


async def test_a_mode_may_be_changed_while_it_serves() -> None:
    leave = anyio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await leave.wait()
        await client(scope, receive, send)

    app = hardened(HardenOptions(concurrency=SMALL), slow)
    app.shedding.mode = Mode.OFF
    statuses: list[int] = []

    async def one() -> None:
        statuses.append((await call_asgi(app, path="/slow")).status)

    async with anyio.create_task_group() as tasks:
        for _ in range(30):
            tasks.start_soon(one)
        await anyio.sleep(0.2)  # Longer than anybody would wait to be admitted.
        leave.set()
    assert statuses == [200] * 30


async def test_what_a_drain_finds_under_way_is_not_shed_and_what_comes_later_is() -> None:
    begun = 0
    go_on = anyio.Event()

    async def hold(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal begun
        if scope["type"] == "lifespan":
            return
        begun += 1
        await go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    # One clock for the queue and the loop: by the real one, a busy machine is late for the queue.
    options = HardenOptions(concurrency=SMALL, drain=DrainLimits(drain_delay=30))
    app = harden(hold, service="billing", options=options, clock=loop_clock())
    statuses: list[int] = []
    late: list[int] = []

    async def ask() -> None:
        statuses.append((await call_asgi(app)).status)

    with anyio.fail_after(20):
        async with running(app), anyio.create_task_group() as tasks:
            # Of a kind that was never answered, slots are lent to what comes later.
            go_on.set()
            await ask()
            begun = 0
            go_on = anyio.Event()
            # As many as may be in the handler and in the queue before it: who waits there is shed
            # in the end.
            for _ in range(SMALL.start + 3):
                tasks.start_soon(ask)
            while len(app.running) < SMALL.start + 3:
                await anyio.lowlevel.checkpoint()
            app.lifecycle.drain()
            while begun < SMALL.start + 3:
                await anyio.sleep(0.01)
            await anyio.sleep(0.3)  # Longer than the loop was ever late.
            late.extend([(await call_asgi(app)).status for _ in range(3)])
            go_on.set()
    assert statuses == [200] * (1 + SMALL.start + 3)
    assert late == [503] * 3
