"""A route finds its rules by one look-up, and gets exactly those that the first match says."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable
from functools import partial
from types import SimpleNamespace

import pytest
from hypothesis import given, strategies as st

from postfacta_core.asgi import HardenOptions, RateLimit, RouteOptions, harden
from postfacta_core.asgi._rules import Rules, check_route, route_table
from postfacta_core.asgi._types import Message, Receive, Scope, Send
from postfacta_core.context import current_request
from postfacta_core.deadlines._limits import TransferLimits
from postfacta_core.limits._waiting import Priority
from postfacta_core.testing import call_asgi
from tests.kit.bytecodes import bytecodes_of, fewest_bytecodes
from tests.kit.every import every

SCOPE: Scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
OTHERS = Rules()


def test_the_first_route_that_matches_counts() -> None:
    names = [
        ["GET /items", "POST /items"],
        ["GET /items/{id}", "/items/{id:int}/parts"],
        ["/items/new"],
        ["/static/{rest:path}"],
        ["DELETE /{rest:path}"],
        ["DELETE /items"],
        ["GET /{a}/{b}/c.d"],
    ]
    classes = [(routes, Rules()) for routes in names]
    find = route_table(classes, OTHERS)
    expected = {
        "GET /items": 0,
        "HEAD /items": 0,
        "POST /items": 0,
        "PUT /items": None,
        "GET /items/": 0,
        "GET /items//": 0,
        "GET //items": 0,
        "GET /items/7": 1,
        "HEAD /items/7": 1,
        "GET /items/new": 1,
        "POST /items/new": 2,
        "POST /items/7": None,
        "GET /items//7/": 1,
        "GET /items/7/8": None,
        "PATCH /items/7/parts": 1,
        "GET /static/": 3,
        "POST /static/a/b": 3,
        "DELETE /static/a": 3,
        "DELETE /items": 4,
        "DELETE /": 4,
        "GET /x/y/c.d": 6,
        "GET /x/y/c-d": None,
        "HEAD /x/y\nz/c.d": 6,
        "OPTIONS /items": None,
        "odd /static/a": 3,
    }
    with every() as case:
        for route, place in expected.items():
            with case(route):
                assert find(*route.split(" ")) is (OTHERS if place is None else classes[place][1])


def test_what_grants_more_is_no_other_spellings() -> None:
    granted, bounded = Rules(grants=True), Rules()
    routes = ["GET /healthz/live", "POST /ingest/{name}"]
    find = route_table([(routes, granted), (["GET /{rest:path}"], bounded)], OTHERS)
    expected = {
        "GET /healthz/live": granted,
        "GET /healthz/live/": bounded,
        "GET //healthz///live": bounded,
        "POST /ingest/alertmanager": granted,
        "POST /ingest/alertmanager/": OTHERS,
        "POST //ingest/alertmanager": OTHERS,
    }
    with every() as case:
        for route, rules in expected.items():
            with case(route):
                assert find(*route.split(" ")) is rules


PARTS = st.sampled_from(["a", "b", "{x}", "a.b", "{x}.b", "a{x}"])
NOTHING: list[str] = []
TAILS = st.sampled_from([NOTHING, NOTHING, ["{r:path}"], ["a{r:path}"], ["{r:path}", "b"]])
PATHS = st.tuples(st.lists(PARTS, max_size=3), TAILS).map(
    lambda parts: "/" + "/".join([*parts[0], *parts[1]])
)
ROUTES = st.tuples(st.sampled_from(["", "GET ", "POST "]), PATHS).map("".join)


@given(
    st.lists(st.tuples(ROUTES, st.booleans()), max_size=8),
    st.sampled_from(["GET", "HEAD", "POST", "PUT"]),
    PATHS,
    st.sampled_from(["", "/", "//"]),
)
def test_a_look_up_finds_what_a_search_in_order_would(
    routes: list[tuple[str, bool]], method: str, path: str, slashes: str
) -> None:
    path = path.replace("{r:path}", "r/s").replace("{x}", "x") + slashes
    classes = [([route], Rules(grants=grants)) for route, grants in routes]

    def matches(route: str, rules: Rules) -> bool:
        of, template = check_route("route", route)
        pattern = re.escape(template).replace(r"\{r:path\}", ".*").replace(r"\{x\}", "[^/]+")
        is_method = of in {"", method} or (of, method) == ("GET", "HEAD")
        if rules.grants:
            return is_method and "//" not in path and re.fullmatch(pattern, path) is not None
        return is_method and re.fullmatch(f"{pattern}/?", re.sub("/+", "/", path)) is not None

    first = next((rules for (route,), rules in classes if matches(route, rules)), OTHERS)
    assert route_table(classes, OTHERS)(method, path) is first


def classes_of(count: int) -> list[tuple[list[str], Rules]]:
    names = ["GET /api/r{}/{{id}}", "/api/r{}", "/{{tenant}}/r{}", "/files/r{}/{{rest:path}}"]
    return [([names[n % 4].format(n)], Rules()) for n in range(count)]


async def cost(work: Callable[[], object]) -> int:
    async def run() -> None:
        work()

    return await fewest_bytecodes(run)


async def test_a_look_up_costs_the_same_among_ten_and_a_thousand_routes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[str] = []

    def compiled(pattern: str, flags: int) -> object:
        def fullmatch(text: str) -> object:
            tried.append(pattern)
            return re.fullmatch(pattern, text, flags)

        return SimpleNamespace(fullmatch=fullmatch)

    class Expressions:
        """What is asked of `re`, which costs no bytecodes."""

        compile, escape, fullmatch, DOTALL = (
            staticmethod(compiled),
            re.escape,
            re.fullmatch,
            re.DOTALL,
        )

    monkeypatch.setattr("postfacta_core.asgi._rules.re", Expressions)
    few = route_table(classes_of(10), OTHERS)
    classes = classes_of(1000)
    many = route_table(classes, OTHERS)
    places = {
        "/api/r4/7": 4,
        "/api/r1": 1,
        "/acme/r2": 2,
        "/files/r3/a/b": 3,
        "/files//r7/a": 7,
        "/nowhere": None,
        "/api/r4/7/8": None,
    }
    with every() as case:
        for path, place in places.items():
            with case(path):
                assert many("GET", path) is (OTHERS if place is None else classes[place][1])
                tried.clear()
                many("GET", path)
                assert len("".join(tried)) < 40
                look_ups = (partial(few, "GET", path), partial(many, "GET", path))
                assert len({await cost(look_up) for look_up in look_ups}) == 1


def listing(count: int) -> Callable[[], Awaitable[object]]:
    classes = classes_of(count)

    async def run() -> None:
        route_table(classes, OTHERS)

    return run


async def test_to_list_ten_times_as_many_routes_costs_ten_times_as_much() -> None:
    few = await bytecodes_of(listing(20))
    many = await bytecodes_of(listing(200))
    assert many.bytecodes < 11 * few.bytecodes


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with what the request was given."""
    request = current_request()
    assert request is not None
    message: Message = {"type": "http.request"}
    if scope["method"] == "POST":
        message = await receive()
    if message["type"] == "http.disconnect":
        return
    said = f"{request.limit:g} {request.priority}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": said})


async def test_routes_have_their_own_options_and_all_others_those_of_all() -> None:
    ingest = RateLimit("2/hour", name="ingest")
    options = HardenOptions(
        limits=TransferLimits(max_body_bytes=10),
        request_timeout=5,
        rate_limits=["3/hour per client"],
        routes=[
            RouteOptions(
                routes=["POST /signals", "POST /alerts"],
                limits=TransferLimits(max_body_bytes=20),
                request_timeout=math.inf,
                priority=Priority.SHEDDABLE,
                rate_limits=[ingest],
            ),
            RouteOptions(routes=["/free"], rate_limits=[], priority=Priority.CRITICAL_PLUS),
        ],
    )
    app = harden(echo, service="billing", options=options)

    async def ask(method: str, path: str, size: int = 0) -> tuple[int, bytes]:
        answer = await call_asgi(app, method, path, body=b"x" * size)
        return answer.status, answer.body if answer.status == 200 else b""

    assert await ask("POST", "/signals", 20) == (200, b"inf 3")
    assert (await ask("POST", "/signals", 21))[0] == 413
    assert (await ask("POST", "/alerts", 20))[0] == 429, "one limit for both"
    assert [await ask("GET", "/free") for _ in range(3)] == [(200, b"5 0")] * 3
    assert (await ask("POST", "/others", 11))[0] == 413
    assert [(await ask("GET", "/others"))[0] for _ in range(2)] == [200, 200]
    assert (await ask("GET", "/others"))[0] == 429
    assert app.rate_limits is not None
    assert set(app.rate_limits.limiters) == {"client", "ingest"}


async def test_a_function_for_priorities_goes_before_the_route() -> None:
    def priority_of(scope: Scope) -> Priority | None:
        return Priority.CRITICAL_PLUS if scope["path"] == "/a" else None

    route = RouteOptions(routes=["GET /{x}"], priority=Priority.SHEDDABLE)
    app = harden(
        echo, service="billing", options=HardenOptions(routes=[route], priority_of=priority_of)
    )
    assert [(await call_asgi(app, "GET", path)).body for path in ("/a", "/b")] == [b"30 0", b"30 3"]


def test_a_route_is_listed_once() -> None:
    twice = [RouteOptions(routes=["GET /a"]), RouteOptions(routes=["GET /b", "GET /a"])]
    with pytest.raises(
        ValueError, match=r"HardenOptions.routes must be in one RouteOptions only, not 'GET /a'"
    ):
        HardenOptions(routes=twice)


def test_limits_of_one_name_are_equal() -> None:
    other = RouteOptions(routes=["GET /a"], rate_limits=["1/minute per client"])
    assert (
        len(HardenOptions(rate_limits=["1/minute per client"], routes=[other]).all_rate_limits) == 1
    )
    with pytest.raises(ValueError, match="must be of different names"):
        HardenOptions(rate_limits=["2/minute per client"], routes=[other])
