"""A request over a limit is refused before the application sees it, and nothing that a caller sends changes that."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable
from typing import Any, cast

import anyio
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from postfacta_adapters.limits import SharedStore
from postfacta_core.asgi import HardenOptions, Problem
from postfacta_core.asgi._ratelimit import LimitRule, RateLimit, Scopes, fast_plan, parse_rate_limit
from postfacta_core.asgi._types import ASGIApp, Message, Receive, Scope, Send
from postfacta_core.context import current_request
from postfacta_core.events import (
    ListenerFailed,
    Mode,
    ModeChanged,
    PolicyCreated,
    StoreChanged,
    ignore,
)
from postfacta_core.limits._rates import Rate, strictest
from postfacta_core.limits.rate import Charge, hit_all
from postfacta_core.testing import ManualClock, RecordingObserver, call_asgi
from postfacta_core.testing.asgi import AsgiResponse
from tests.kit.alone import WithRates
from tests.kit.every import every
from tests.kit.storage import HitLists


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1200.0)


@pytest.fixture
def observer() -> RecordingObserver:
    return RecordingObserver()


class App:
    """Answers 200, and keeps what it saw."""

    def __init__(self) -> None:
        self.clients: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = current_request()
        self.clients.append("" if request is None else request.client)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await send({"type": "http.response.body", "body": b"two"})


def limited(*rules: RateLimit | str, app: ASGIApp | None = None, **options: Any) -> WithRates:
    options.setdefault("luck", lambda: 0.0)
    of_harden = {
        name: options.pop(name)
        for name in ("trusted_proxies", "rate_limit_store")
        if name in options
    }
    return WithRates(app or App(), HardenOptions(rate_limits=rules, **of_harden), **options)


async def ask(
    app: ASGIApp, path: str = "/", *, peer: str | None = "192.0.2.1", **options: Any
) -> AsgiResponse:
    scope = {"client": None if peer is None else (peer, 4711), **options.pop("scope", {})}
    return await call_asgi(app, "GET", path, scope=scope, **options)


async def statuses(app: ASGIApp, count: int, **options: Any) -> list[int]:
    return [(await ask(app, **options)).status for _ in range(count)]


# Rules


def test_a_limit_can_be_written_as_it_is_said() -> None:
    cases: list[tuple[str, str, str]] = [
        ("100/minute per client", "100/minute", "client"),
        ("100/minute", "100/minute", "client"),
        ("100 per minute", "100 per minute", "client"),
        ("100 per minute per global", "100 per minute", "global"),
        ("10/second;1000/hour per Site", "10/second;1000/hour", "site"),
        ("5/10 seconds  per  global", "5/10 seconds", "global"),
    ]
    with every() as case:
        for text, rate, per in cases:
            with case(text, rate, per):
                assert parse_rate_limit(text) == RateLimit(rate, per=per)  # type: ignore[arg-type] # one of the scopes


@pytest.mark.parametrize(
    "text", ["", "100", "100/minute per user", "per client", "100/minute per client per client"]
)
def test_a_limit_that_cannot_be_read_is_refused_with_how_to_write_it(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text)) + ".*'100/minute"):
        limited(text)


def test_an_option_that_makes_no_sense_is_refused_at_once() -> None:
    async def waits(scope: Scope) -> Any:
        """Return a coroutine, whose text is another for each request.

        A key of its own, and so no limit.
        """

    cases: list[tuple[Callable[[], object], str]] = [
        (
            lambda: RateLimit("100/minute", per=lambda scope: ""),
            "RateLimit.name must be a text of 1 to 64",
        ),
        (
            lambda: RateLimit("1/minute", per=waits, name="x"),  # type: ignore[arg-type]
            "RateLimit.per must be a plain function",
        ),
        (lambda: RateLimit("1/minute", cost=waits), "RateLimit.cost must be a plain function"),  # type: ignore[arg-type]
        (lambda: limited("1/minute", "2/minute"), "are both named 'client'"),
    ]
    with every() as case:
        for wrong, message in cases:
            with case(wrong, message), pytest.raises(Exception, match=message):
                wrong()


# Answers


async def test_a_caller_over_its_rate_gets_429_with_retry_after(clock: ManualClock) -> None:
    app = App()
    service = limited("2/minute per client", app=app, clock=clock)
    first = await ask(service)
    assert (first.status, first.body, first.header("x-own")) == (200, b"onetwo", "1")
    assert first.header("ratelimit-policy") == '"client";q=2;w=60'
    assert first.header("ratelimit") == '"client";r=1;t=30'
    clock.advance(1.0)
    assert (await ask(service)).header("ratelimit") == '"client";r=0;t=59'
    refused = await ask(service, "/anything")
    assert refused.status == 429
    assert refused.header("content-type") == "application/problem+json"
    assert refused.json()["code"] == "rate-limited"
    assert refused.header("retry-after") == "29"
    assert refused.header("ratelimit-policy") == '"client";q=2;w=60'
    assert refused.header("ratelimit") == '"client";r=0;t=29'
    assert refused.header("x-request-id") == refused.json()["request_id"]
    assert len(app.clients) == 2
    assert (await ask(service, peer="192.0.2.2")).status == 200
    clock.advance(29.0)
    assert (await ask(service)).status == 200


@pytest.mark.parametrize(
    ("wait", "luck", "seconds"),
    [(0.6, 0.0, 1), (0.6, 0.99, 2), (600.0, 0.0, 600), (600.0, 0.5, 630)],
)
async def test_retry_after_is_rounded_up_and_spread(
    wait: float, luck: float, seconds: int, clock: ManualClock
) -> None:
    service = limited(RateLimit(Rate(amount=1, period=wait)), clock=clock, luck=lambda: luck)
    await ask(service)
    refused = await ask(service)
    assert refused.header("retry-after") == str(seconds)
    assert refused.header("ratelimit") == f'"client";r=0;t={seconds}'


async def test_a_cost_above_the_burst_gets_no_retry_after(clock: ManualClock) -> None:
    service = limited(RateLimit("2/minute", cost=3), clock=clock)
    refused = await ask(service)
    assert (refused.status, refused.header("retry-after")) == (429, None)
    assert refused.header("ratelimit") == '"client";r=2;t=0'


async def test_of_several_limits_the_strictest_is_shown_and_all_named(clock: ManualClock) -> None:
    service = limited(
        RateLimit("10/second;20/hour", name="burst"),
        RateLimit("12/minute", per="global", name="all"),
        clock=clock,
    )
    first = await ask(service)
    assert (
        first.header("ratelimit-policy")
        == '"burst-1s";q=10;w=1, "burst-3600s";q=20;w=3600, "all";q=12;w=60'
    )
    assert first.header("ratelimit") == '"burst-1s";r=9;t=1'
    for _ in range(9):
        await ask(service)
        clock.advance(0.1)
    assert (await ask(service)).header("ratelimit") == '"all";r=1;t=55'
    await ask(service)
    refused = await ask(service)
    assert (refused.status, refused.header("ratelimit")) == (429, '"all";r=0;t=5')


async def test_an_api_with_another_shape_of_error_keeps_it(clock: ManualClock) -> None:
    def render(problem: Problem, scope: Scope) -> tuple[str, bytes]:
        return "text/plain", f"{problem.status} {scope['path']}".encode()

    service = limited("1/minute", render=render, clock=clock)
    await ask(service)
    refused = await ask(service, "/v0")
    assert (refused.status, refused.body, refused.header("retry-after")) == (429, b"429 /v0", "60")


async def test_a_refusal_is_labelled_as_one_from_before_the_routes(clock: ManualClock) -> None:
    service = limited("1/minute", clock=clock)
    requests = [(await ask(service)).scope["postfacta.request"] for _ in range(2)]
    seen = [(request.route, request.error_type) for request in requests]
    assert seen == [(None, ""), ("_prerouting", "")]


async def test_the_response_starts_once_and_every_kind_of_message_passes(
    clock: ManualClock,
) -> None:
    start: Message = {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]}
    sent: list[Message] = [
        start,
        {"type": "http.response.pathsend", "path": "/x"},
        {"type": "http.response.trailers"},
    ]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in sent:
            await send(message)

    service = limited("9/minute", app=app, clock=clock)
    for _ in range(3):
        response = await ask(service)
        assert [message["type"] for message in response.messages] == [
            message["type"] for message in sent
        ]
        assert len(response.headers) == 4
        assert response.messages[1] is sent[1]
    # The application's own objects are as they were.
    assert start["headers"] == [(b"a", b"b")]


# Whom it counts for


async def test_limits_hold_for_mounted_included_and_unknown_routes_and_not_for_each_url(
    clock: ManualClock,
) -> None:
    async def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    web = Starlette(
        routes=[Route("/a/{id}", hello), Mount("/m/{tenant}", routes=[Route("/b/{id}", hello)])]
    )
    service = limited("6/minute", app=web, clock=clock)
    paths = ["/a/1", "/a/2", "/m/x/b/1", "/m/y/b/2", "/nothing/1", "/nothing/2"]
    assert [(await ask(service, path)).status for path in paths] == [200, 200, 200, 200, 404, 404]
    assert [(await ask(service, path)).status for path in paths] == [429] * 6
    assert (
        sum(
            sample.value
            for sample in service.limiters["client"].tally()
            if sample.metric.endswith("keys")
        )
        == 1
    )


@pytest.mark.parametrize(
    "spoofed",
    [
        [("x-forwarded-for", "203.0.113.{n}")],
        [("x-forwarded-for", "203.0.113.{n}, 198.51.100.7")],
        [("forwarded", "for=203.0.113.{n}")],
        [
            ("x-real-ip", "203.0.113.{n}"),
            ("true-client-ip", "203.0.113.{n}"),
            ("client-ip", "203.0.113.{n}"),
        ],
        [("x-forwarded-for", "203.0.113.{n}"), ("x-forwarded-for", "nonsense {n}")],
        [("x-request-id", "a-new-one-{n}"), ("host", "{n}.example.org"), ("user-agent", "{n}")],
    ],
)
@pytest.mark.parametrize("proxies", [(), ("10.0.0.0/8",)])
async def test_nothing_that_a_caller_sends_gives_it_another_budget(
    spoofed: list[tuple[str, str]], proxies: tuple[str, ...], clock: ManualClock
) -> None:
    service = limited("2/minute", trusted_proxies=proxies, clock=clock)
    answers: list[int] = []
    for number in range(5):
        headers = [(name, value.format(n=number)) for name, value in spoofed]
        if proxies:
            # The proxy adds the address that it saw, in a line of its own.
            response = await ask(
                service, peer="10.0.0.1", headers=[*headers, ("x-forwarded-for", "192.0.2.1")]
            )
        else:
            response = await ask(service, headers=headers)
        answers.append(response.status)
    assert answers == [200, 200, 429, 429, 429]


async def test_clients_behind_a_trusted_proxy_have_budgets_of_their_own(clock: ManualClock) -> None:
    app = App()
    service = limited("1/minute", app=app, trusted_proxies=["10.0.0.0/8"], clock=clock)
    for number in range(3):
        forwarded = [("x-forwarded-for", f"192.0.2.{number}")]
        assert await statuses(service, 2, peer="10.0.0.1", headers=forwarded) == [200, 429]
    assert app.clients == ["192.0.2.0", "192.0.2.1", "192.0.2.2"]


async def test_an_ipv6_client_is_its_network_and_a_mapped_address_the_old_one(
    clock: ManualClock,
) -> None:
    service = limited("2/minute", clock=clock)
    peers = ["2001:db8::1", "2001:db8::2", "2001:db8::ffff:ffff:ffff:ffff", "2001:db8:0:1::1"]
    assert [(await ask(service, peer=peer)).status for peer in peers] == [200, 200, 429, 200]
    peers = ["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1"]
    assert [(await ask(service, peer=peer)).status for peer in peers] == [200, 200, 429]


async def test_on_a_unix_socket_all_share_one_budget_unless_it_is_a_proxys(
    clock: ManualClock,
) -> None:
    assert await statuses(limited("1/minute", clock=clock), 2, peer=None) == [200, 429]
    service = limited("1/minute", trusted_proxies=["unix"], clock=clock)
    for address in ("192.0.2.1", "192.0.2.2"):
        forwarded = [("x-forwarded-for", address)]
        assert await statuses(service, 2, peer=None, headers=forwarded) == [200, 429]


async def test_a_limit_may_be_per_anything_that_a_function_tells(clock: ManualClock) -> None:
    def header(name: bytes) -> Callable[[Scope], str | None]:
        def value(scope: Scope) -> str | None:
            return dict(scope["headers"]).get(name, b"").decode() or None

        return value

    def route(scope: Scope) -> str | None:
        return None if scope["path"] == "/" else "/a/{id}"

    service = limited(
        RateLimit("1/minute", per=header(b"x-user"), name="user"),
        RateLimit("4/minute", per=route, name="route"),
        RateLimit("2/minute", per=header(b"x-tenant"), name="tenant"),
        RateLimit(
            "1/minute",
            per="global",
            name="writes",
            applies_to=lambda scope: scope["method"] == "POST",
        ),
        clock=clock,
    )

    async def status(path: str = "/", peer: str = "192.0.2.1", **headers: str) -> int:
        pairs = [(f"x-{name}", value) for name, value in headers.items()]
        return (await ask(service, path, peer=peer, headers=pairs)).status

    assert [await status(user="ann"), await status(user="ann"), await status(user="bob")] == [
        200,
        429,
        200,
    ]
    # What has no key is under no such limit.
    assert [await status() for _ in range(3)] == [200] * 3
    assert [await status("/a/1", peer=f"192.0.2.{n}") for n in range(2, 8)] == [200] * 4 + [429] * 2
    clock.advance(3600.0)
    assert [await status(tenant="t", user=f"{n}") for n in range(3)] == [200, 200, 429]
    posted = [
        (await call_asgi(service, "POST", headers=[("x-user", f"p{n}")])).status for n in range(2)
    ]
    assert posted == [200, 429]


async def test_a_request_may_cost_more_than_another(clock: ManualClock) -> None:
    def cost(scope: Scope) -> int:
        return 5 if scope["path"] == "/export" else 0 if scope["path"] == "/free" else 1

    service = limited(RateLimit("6/minute", cost=cost), clock=clock)
    paths = ["/export", "/x", "/x", "/free", "/export"]
    assert [(await ask(service, path)).status for path in paths] == [200, 200, 429, 200, 429]


def fails(scope: Scope) -> Any:
    raise KeyError(scope["path"])


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(RateLimit("2/minute", per=fails, name="client"), id="key"),
        pytest.param(RateLimit("2/minute", cost=fails), id="cost"),
        pytest.param(RateLimit("2/minute", applies_to=fails), id="applies_to"),
    ],
)
async def test_a_function_that_raises_neither_fails_a_request_nor_lets_it_by(
    rule: RateLimit, clock: ManualClock, observer: RecordingObserver
) -> None:
    service = limited(rule, clock=clock, observer=observer)
    assert await statuses(service, 3) == [200, 200, 429]
    assert observer.of(ListenerFailed) == [ListenerFailed("client", "KeyError('/')")] * 3


@pytest.mark.parametrize("strange", [7, 2.5, b"bytes", "\ud800", "k" * 100_000, True])
async def test_a_key_of_another_type_is_a_key(strange: Any, clock: ManualClock) -> None:
    service = limited(RateLimit("1/minute", per=lambda scope: strange, name="x"), clock=clock)
    assert await statuses(service, 2) == [200, 429]


@pytest.mark.parametrize(
    ("strange", "expected"),
    [(-5, [200, 200, 200]), ("x", [200, 429, 429]), (math.nan, [200, 429, 429])],
)
async def test_a_cost_that_makes_no_sense_is_one(
    strange: Any, expected: list[int], clock: ManualClock
) -> None:
    service = limited(RateLimit("1/minute", cost=lambda scope: strange), clock=clock)
    assert await statuses(service, 3) == expected


NUMBERED = ("3/minute", "9/minute", "2/second;4/minute")
COSTS, KEYS = (1, 2, 1), ("client", "global", "client")


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c" * 80]), st.floats(0, 5), st.sampled_from([None, *Mode])
        ),
        max_size=40,
    )
)
async def test_limits_known_beforehand_decide_and_count_as_their_hits_do_one_by_one(
    course: list[tuple[str, float, Mode | None]],
) -> None:
    clock = ManualClock()

    def limiters() -> list[LimitRule]:
        limits = [
            RateLimit(rate, per=cast("Scopes", key), name=f"one-{place}", cost=cost)
            for place, (rate, cost, key) in enumerate(zip(NUMBERED, COSTS, KEYS, strict=True))
        ]
        return [LimitRule(it, store=None, observer=ignore, clock=clock) for it in limits]

    def charges(of: list[LimitRule], caller: str) -> list[Charge]:
        return [
            limiter.charge(caller if key == "client" else "", cost)
            for limiter, cost, key in zip(of, COSTS, KEYS, strict=True)
        ]

    planned, single = limiters(), limiters()
    plan = fast_plan(planned)
    for caller, pause, mode in course:
        clock.advance(pause)
        if mode is not None:
            planned[1].mode = single[1].mode = mode
        expected = await hit_all(charges(single, caller))
        found = plan(caller, "", "")
        if found is None:
            assert await hit_all(charges(planned, caller)) == expected
        else:
            assert all(decision.allowed for decision in expected)
            assert planned.index(found.rule) == expected.index(strictest(expected))
            assert found.decision == strictest(expected)
    assert [list(limiter.tally()) for limiter in planned] == [
        list(limiter.tally()) for limiter in single
    ]


# Modes, stores and other protocols


async def test_a_limit_in_shadow_admits_all_and_only_metrics_show(
    clock: ManualClock, observer: RecordingObserver
) -> None:
    service = limited(
        RateLimit("1/minute", mode="shadow"),
        RateLimit("9/minute", per="global"),
        clock=clock,
        observer=observer,
    )
    responses = [await ask(service) for _ in range(3)]
    assert [response.status for response in responses] == [200] * 3
    assert responses[0].header("ratelimit-policy") == '"global";q=9;w=60'
    counted = {sample.labels: sample.value for sample in service.limiters["client"].tally()}
    assert counted["client", "limited", "shadow"] == 2
    service.limiters["client"].mode = Mode.ENFORCE
    assert (await ask(service)).status == 429
    service.limiters["client"].mode = Mode.OFF
    assert (await ask(service)).status == 200
    assert [event.new for event in observer.of(ModeChanged)] == [Mode.ENFORCE, Mode.OFF]
    assert [event.policy for event in observer.of(PolicyCreated)] == ["client", "global"]


@pytest.mark.parametrize("mode", ["shadow", "off"])
async def test_one_limit_alone_in_shadow_or_off_changes_nothing(
    mode: str, clock: ManualClock
) -> None:
    for rule in (RateLimit("1/minute", mode=mode), RateLimit("1/minute", mode=mode, per="global")):
        responses = [await ask(limited(rule, clock=clock)) for _ in range(3)]
        assert [response.status for response in responses] == [200] * 3
        assert all(response.headers[:-1] == [(b"x-own", b"1")] for response in responses)


async def test_without_a_limit_that_applies_nothing_is_changed(clock: ManualClock) -> None:
    for service in (
        limited(clock=clock),
        limited(RateLimit("1/minute", applies_to=lambda scope: False), clock=clock),
    ):
        responses = [await ask(service) for _ in range(2)]
        assert all((r.status, r.headers[:-1]) == (200, [(b"x-own", b"1")]) for r in responses)


async def test_a_shared_store_that_is_away_fails_no_request(
    clock: ManualClock, observer: RecordingObserver
) -> None:
    class Away(HitLists):
        async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
            raise OSError

    store = SharedStore(Away(clock), clock=clock)
    service = limited(
        "2/minute", "9/minute per global", rate_limit_store=store, clock=clock, observer=observer
    )
    responses = [await ask(service) for _ in range(3)]
    assert [response.status for response in responses] == [200, 200, 429]
    assert responses[0].header("ratelimit") == '"client";r=1;t=30'
    assert [event.policy for event in observer.of(StoreChanged)] == ["client", "global"]


async def test_processes_share_a_budget_through_a_store(clock: ManualClock) -> None:
    store = SharedStore(HitLists(clock), clock=clock, timeout=5.0)
    mine, others = (limited("3/minute", rate_limit_store=store, clock=clock) for _ in range(2))
    assert [await statuses(mine, 1), await statuses(others, 3)] == [[200], [200, 200, 429]]


async def test_a_websocket_counts_when_it_is_opened(clock: ManualClock) -> None:
    opened: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        opened.append(scope["type"])
        await send({"type": "websocket.accept"})

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    service = limited("1/minute", app=app, clock=clock)
    for _ in range(2):
        await service(
            {"type": "websocket", "path": "/", "headers": [], "client": ("192.0.2.1", 1)},
            receive,
            send,
        )
    assert (opened, sent) == (
        ["websocket"],
        [
            {"type": "websocket.accept"},
            {"type": "websocket.close", "code": 1013, "reason": "Too many requests"},
        ],
    )
    await service({"type": "lifespan"}, receive, send)
    assert opened == ["websocket", "lifespan"]


async def test_neither_a_thread_is_started_nor_anything_waited_for(clock: ManualClock) -> None:
    service = limited("100000/minute", "100000/minute per global", clock=clock)
    threads = threading.active_count()
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    scope: Scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "headers": [],
        "client": ("192.0.2.1", 1),
    }

    async def ignore(message: Message) -> None:
        pass

    async def receive() -> Message:
        return {"type": "http.request"}

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count_turns)
        await anyio.lowlevel.checkpoint()
        before = turns
        for _ in range(1000):
            await service(scope, receive, ignore)
        # The whole of it is one step: the loop had no turn in between.
        assert turns - before <= 1
        tasks.cancel_scope.cancel()
    assert threading.active_count() <= threads
