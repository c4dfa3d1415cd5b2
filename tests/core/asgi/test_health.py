"""A probe gets its answer from memory, whatever the application does."""

from __future__ import annotations

import pytest

from postfacta_core.asgi import HardenOptions
from postfacta_core.asgi._types import Receive, Scope, Send
from postfacta_core.asgi.health import HealthEndpoint
from postfacta_core.context import RequestContext
from postfacta_core.health.registry import HealthRegistry
from postfacta_core.testing import ManualClock, call_asgi
from postfacta_core.testing.asgi import AsgiResponse


class App:
    """Answers 204 to all, and remembers what reached it."""

    def __init__(self) -> None:
        self.reached: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.reached.append(scope.get("path", scope["type"]))
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})


class Database:
    """Is up or down as a test wants."""

    def __init__(self) -> None:
        self.up = True

    async def __call__(self) -> None:
        if not self.up:
            raise ConnectionRefusedError("postgres://user:hunter2@db")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
def registry(clock: ManualClock, database: Database) -> HealthRegistry:
    registry = HealthRegistry(clock=clock)
    registry.add("db", database, interval=3600, fall=1, rise=1)
    return registry


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def probes(app: App, registry: HealthRegistry) -> HealthEndpoint:
    return HealthEndpoint(app, registry)


async def states(probes: HealthEndpoint) -> list[tuple[int, str]]:
    answers = [
        await call_asgi(probes, path=f"/healthz/{name}") for name in ("live", "ready", "startup")
    ]
    return [(answer.status, answer.json()["status"]) for answer in answers]


async def test_the_probes_follow_the_service_from_its_start_to_its_end(
    probes: HealthEndpoint, registry: HealthRegistry, database: Database
) -> None:
    assert await states(probes) == [(200, "live"), (503, "unready"), (503, "starting")]
    async with registry:
        await registry.run_once("db")
        assert await states(probes) == [(200, "live"), (200, "ready"), (200, "started")]
        database.up = False
        await registry.run_once("db")
        assert await states(probes) == [(200, "live"), (503, "unready"), (200, "started")]
        database.up = True
        await registry.run_once("db")
        assert await states(probes) == [(200, "live"), (200, "ready"), (200, "started")]
        registry.drain()
        await registry.run_once("db")
        assert await states(probes) == [(200, "live"), (503, "draining"), (200, "started")]


async def test_an_answer_is_json_that_is_not_cached(probes: HealthEndpoint) -> None:
    answer = await call_asgi(probes, path="/healthz/live")
    assert answer.body == b'{"status":"live"}'
    assert answer.headers == [
        (b"content-type", b"application/json"),
        (b"content-length", b"17"),
        (b"cache-control", b"no-store"),
    ]


@pytest.mark.parametrize("name", ["live", "ready", "startup"])
async def test_head_is_get_without_the_body(probes: HealthEndpoint, name: str) -> None:
    path = f"/healthz/{name}"
    got, head = await call_asgi(probes, path=path), await call_asgi(probes, "HEAD", path)
    assert (head.status, head.headers, head.body) == (got.status, got.headers, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get"])
async def test_other_methods_get_the_allowed_ones(
    probes: HealthEndpoint, app: App, method: str
) -> None:
    for name in ("live", "ready", "startup"):
        answer = await call_asgi(probes, method, f"/healthz/{name}", body=b"x")
        assert (answer.status, answer.header("allow")) == (405, "GET, HEAD")
        assert answer.header("content-type") == "application/problem+json"
        assert answer.json()["status"] == 405
    assert app.reached == []


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/healthz",
        "/healthz/",
        "/healthz/live/",
        "/healthz/deps",
        "/Healthz/live",
        "/x/healthz/live",
    ],
)
async def test_other_paths_go_on_to_the_application(
    probes: HealthEndpoint, app: App, path: str
) -> None:
    assert (await call_asgi(probes, path=path)).status == 204
    assert app.reached == [path]


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
async def test_what_is_not_http_goes_on_to_the_application(
    probes: HealthEndpoint, app: App, kind: str
) -> None:
    await call_asgi(probes, path="/healthz/live", scope={"type": kind})
    assert len(app.reached) == 1


async def test_the_prefix_can_be_another(app: App, registry: HealthRegistry) -> None:
    probes = HealthEndpoint(app, registry, HardenOptions(health_prefix="/-"))
    assert (await call_asgi(probes, path="/-/live")).status == 200
    assert (await call_asgi(probes, path="/healthz/live")).status == 204
    assert (
        await call_asgi(
            HealthEndpoint(app, registry, HardenOptions(health_prefix="")), path="/live"
        )
    ).status == 200


@pytest.mark.parametrize("prefix", ["healthz", "/healthz/", "/"])
async def test_a_prefix_that_no_path_can_have_is_refused(
    app: App, registry: HealthRegistry, prefix: str
) -> None:
    with pytest.raises(ValueError, match=r"HardenOptions\.health_prefix must be "):
        HealthEndpoint(app, registry, HardenOptions(health_prefix=prefix))


async def test_the_root_path_is_not_part_of_a_probes_path(probes: HealthEndpoint) -> None:
    answer = await call_asgi(probes, path="/api/healthz/live", root_path="/api")
    assert answer.status == 200


async def test_a_probe_tells_its_route(probes: HealthEndpoint) -> None:
    request = RequestContext("12345678", 0.0)
    scope = {"postfacta.request": request}
    await call_asgi(probes, path="/api/healthz/ready", root_path="/api", scope=scope)
    assert request.route == "/healthz/ready"
    other = RequestContext("12345678", 0.0)
    await call_asgi(probes, path="/incidents", scope={"postfacta.request": other})
    assert other.route is None


def with_token(scope: Scope) -> bool:
    return (b"authorization", b"Bearer right") in scope["headers"]


async def deps(
    probes: HealthEndpoint, method: str = "GET", *, bearer: str = "right"
) -> AsgiResponse:
    return await call_asgi(
        probes, method, "/healthz/deps", headers=[("Authorization", f"Bearer {bearer}")]
    )


async def test_details_are_for_those_who_may_see_them(
    registry: HealthRegistry, database: Database, clock: ManualClock
) -> None:
    probes = HealthEndpoint(App(), registry, HardenOptions(allow_health_detail=with_token))
    async with registry:
        database.up = False
        await registry.run_once("db")
        clock.advance(2.0)
        answer = await deps(probes)
        assert answer.status == 200
        assert answer.header("cache-control") == "no-store"
        assert answer.json() == {
            "status": "unready",
            "live": True,
            "ready": False,
            "started": False,
            "draining": False,
            "checks": [
                {
                    "name": "db",
                    "critical": True,
                    "up": False,
                    "passed": False,
                    "latency": 0.0,
                    "age": 2.0,
                    "since": 2.0,
                    "error": "ConnectionRefusedError",
                }
            ],
            "holders": [],
        }
        assert b"hunter2" not in answer.body
        assert (await deps(probes, "HEAD")).body == b""
        assert (await deps(probes, "POST")).status == 405


async def test_details_say_how_the_service_stands(app: App) -> None:
    registry = HealthRegistry()
    probes = HealthEndpoint(app, registry, HardenOptions(allow_health_detail=with_token))
    async with registry:
        assert (await deps(probes)).json()["status"] == "ready"
        registry.drain()
        assert (await deps(probes)).json()["status"] == "draining"


async def test_all_other_paths_are_404(app: App, registry: HealthRegistry) -> None:
    probes = HealthEndpoint(app, registry, HardenOptions(allow_health_detail=with_token))
    for method in ("GET", "HEAD", "POST"):
        answer = await deps(probes, method, bearer="wrong")
        assert answer.status == 404
        assert answer.header("content-type") == "application/problem+json"
    assert b"db" not in (await deps(probes, bearer="wrong")).body
    assert app.reached == []


async def test_a_rule_that_raises_admits_no_one(app: App, registry: HealthRegistry) -> None:
    def broken(scope: Scope) -> bool:
        raise LookupError(scope["path"])

    assert (
        await deps(HealthEndpoint(app, registry, HardenOptions(allow_health_detail=broken)))
    ).status == 404
