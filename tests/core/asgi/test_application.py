"""What an application does itself: its CORS rules count for refusals, and its routes at our paths are named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import anyio
import pytest
from fastapi import APIRouter, FastAPI
from litestar import Litestar, asgi, get
from litestar.config.cors import CORSConfig
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from postfacta_core.asgi import Cors, HardenOptions, RouteOptions, harden
from postfacta_core.asgi._types import ASGIApp, Receive, Scope, Send
from postfacta_core.asgi.stack import Hardened
from postfacta_core.deadlines._limits import TransferLimits
from postfacta_core.limits._overload import OverloadConfig
from postfacta_core.testing import call_asgi
from postfacta_core.testing.asgi import AsgiResponse
from tests.kit.every import every
from tests.kit.lifespan import running

pytestmark = pytest.mark.usefixtures("no_growth")

LISTED, FOREIGN = "https://console.example.org", "https://evil.example.net"
RULES: dict[str, Any] = {
    "allow_origins": [LISTED],
    "allow_methods": ["GET", "PUT"],
    "allow_headers": ["Authorization"],
    "expose_headers": ["ETag"],
}


class Held:
    """Requests wait until they are let go."""

    def __init__(self) -> None:
        self.entered = anyio.Event()
        self.let_go = anyio.Event()

    async def wait(self) -> None:
        self.entered.set()
        await self.let_go.wait()


def starlette_app(held: Held, **rules: Any) -> ASGIApp:
    async def hold(request: Request) -> Response:
        await held.wait()
        return PlainTextResponse("held")

    app = Starlette(routes=[Route("/hold", hold)])
    app.add_middleware(CORSMiddleware, **rules)
    return app


def fastapi_app(held: Held, **rules: Any) -> ASGIApp:
    app = FastAPI()
    app.add_middleware(CORSMiddleware, **rules)
    app.add_api_route("/hold", held.wait)
    return app


def wrapped_app(held: Held, **rules: Any) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        await held.wait()
        await PlainTextResponse("held")(scope, receive, send)

    return CORSMiddleware(app, **rules)


def litestar_app(held: Held, **rules: Any) -> ASGIApp:
    @get("/hold")
    async def hold() -> None:
        await held.wait()

    # Litestar is typed by its own ASGI shapes, which are narrower than the protocol's.
    return cast("ASGIApp", Litestar([hold], cors_config=CORSConfig(**rules)))


APPLICATIONS = [starlette_app, fastapi_app, wrapped_app, litestar_app]


async def refusals(app: Hardened, held: Held, origin: str) -> dict[int, AsgiResponse]:
    """Let the service refuse requests of a page for each reason."""
    page = ("origin", origin)
    big = [page, ("content-length", "100")]
    answers = [
        await call_asgi(app, "PUT", "/hold", headers=big),
        await call_asgi(app, path="/hold", headers=[page, ("x-large", "x" * 2000)]),
        await call_asgi(app, path="/hold", headers=[page, ("x-request-timeout", "0")]),
    ]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call_asgi, app, "GET", "/hold")
        await held.entered.wait()
        answers.append(await call_asgi(app, path="/hold", headers=[page]))
        held.let_go.set()
    answers.append(await call_asgi(app, path="/limited", headers=[page]))
    answers.append(await call_asgi(app, path="/limited", headers=[page]))
    return {answer.status: answer for answer in answers}


def hardened(app: ASGIApp, **options: Any) -> Hardened:
    chosen = HardenOptions(
        limits=TransferLimits(max_body_bytes=10, max_header_bytes=1000),
        concurrency=OverloadConfig(start=1, patience=0.001),
        routes=[RouteOptions(routes=["/limited"], rate_limits=["1/hour per client"])],
        **options,
    )
    return harden(app, service="web", options=chosen)


def granted(response: AsgiResponse) -> dict[str, str]:
    return {
        name.decode().lower().removeprefix("access-control-"): value.decode()
        for name, value in response.headers
        if name.lower().startswith(b"access-control-")
    }


@pytest.mark.parametrize("make", APPLICATIONS)
async def test_a_refusal_has_the_rules_of_the_applications_own_middleware(
    make: Callable[..., ASGIApp],
) -> None:
    held = Held()
    app = hardened(make(held, **RULES, allow_credentials=True))
    async with running(app):
        answers = await refusals(app, held, LISTED)
    with every() as case:
        for status in (413, 429, 431, 503, 504):
            with case(status):
                has = granted(answers[status])
                assert (has["allow-origin"], has["allow-credentials"]) == (LISTED, "true")
                assert {"Retry-After", "X-Request-ID", "ETag"} <= {
                    *has["expose-headers"].split(", ")
                }
                assert answers[status].header("vary") == "Origin"


@pytest.mark.parametrize("make", APPLICATIONS)
async def test_a_foreign_page_reads_no_refusal(make: Callable[..., ASGIApp]) -> None:
    held = Held()
    app = hardened(make(held, **RULES))
    async with running(app):
        answers = await refusals(app, held, FOREIGN)
    assert len(answers) == 6
    for status in (413, 429, 431, 503, 504):
        assert granted(answers[status]) == {}


@pytest.mark.parametrize("make", APPLICATIONS)
async def test_a_preflight_is_answered_where_its_request_would_be_refused(
    make: Callable[..., ASGIApp],
) -> None:
    app = hardened(make(Held(), **RULES))
    asked = [("origin", LISTED), ("access-control-request-method", "PUT")]
    asked.append(("access-control-request-headers", "authorization"))
    late = ("x-request-timeout", "0")
    async with running(app):
        own = await call_asgi(app, "OPTIONS", "/hold", headers=asked)
        refused = await call_asgi(app, "OPTIONS", "/hold", headers=[*asked, late])
        foreign = [("origin", FOREIGN), *asked[1:], late]
        unwanted = await call_asgi(app, "OPTIONS", "/hold", headers=foreign)
        big = [*asked, ("content-length", "100")]  # A browser sends none.
        large = await call_asgi(app, "OPTIONS", "/hold", headers=big)
    assert large.status == 413
    assert (own.status // 100, refused.status) == (2, 200)
    for name in ("allow-origin", "allow-methods", "max-age"):
        assert granted(refused)[name] == granted(own)[name]
    assert "authorization" in granted(refused)["allow-headers"].lower()
    assert (unwanted.status, "allow-origin" in granted(unwanted)) == (504, False)


async def test_the_origin_is_decided_as_the_application_decides_it() -> None:
    cases: dict[str, tuple[dict[str, Any], dict[str, str | None]]] = {
        "all": ({"allow_origins": ["*"]}, {LISTED: "*", FOREIGN: "*"}),
        "all with credentials": (
            {"allow_origins": ["*"], "allow_credentials": True},
            {LISTED: LISTED, FOREIGN: FOREIGN},
        ),
        "an expression": (
            {"allow_origins": [], "allow_origin_regex": r"https://[a-z]+\.example\.org"},
            {LISTED: LISTED, FOREIGN: None},
        ),
    }
    with every() as case:
        for name, (rules, expected) in cases.items():
            for make in APPLICATIONS:
                app = hardened(make(Held(), **rules))
                async with running(app):
                    for origin, allowed in expected.items():
                        with case(name, make.__name__, origin):
                            headers = [("origin", origin), ("x-request-timeout", "0")]
                            answer = await call_asgi(app, headers=headers)
                            assert granted(answer).get("allow-origin") == allowed


async def test_a_subclass_decides_as_it_does_for_its_own_answers() -> None:
    class Tenants(CORSMiddleware):
        def is_allowed_origin(self, origin: str) -> bool:
            return origin.endswith(".example.net")

    app = hardened(Starlette(middleware=[Middleware(Tenants)]))
    async with running(app):
        headers = [("origin", FOREIGN), ("x-request-timeout", "0")]
        answer = await call_asgi(app, headers=headers)
    assert granted(answer)["allow-origin"] == FOREIGN


async def test_rules_that_cannot_be_read_are_named_at_the_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class TenantCors:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await self.app(scope, receive, send)

    inner = Starlette()
    warning = "The application's TenantCors has rules of its own"
    with every() as case:
        for app in (TenantCors(inner), Starlette(middleware=[Middleware(TenantCors)])):
            with case(app):
                caplog.clear()
                async with running(hardened(app)):
                    pass
                assert caplog.text.count(warning) == 1
        for quiet in (
            hardened(inner),
            hardened(CORSMiddleware(inner)),
            hardened(TenantCors(inner), cors=Cors(allow_origins=[LISTED])),
        ):
            with case(quiet):
                caplog.clear()
                async with running(quiet):
                    pass
                assert "cors" not in caplog.text.lower()


async def test_the_applications_own_answers_are_left_as_they_are() -> None:
    held = Held()
    held.let_go.set()
    for make in APPLICATIONS:
        bare = make(held, **RULES)
        headers = [("origin", LISTED)]
        expected = granted(await call_asgi(bare, path="/hold", headers=headers))
        app = hardened(bare)
        async with running(app):
            assert granted(await call_asgi(app, path="/hold", headers=headers)) == expected


def page() -> str:
    return "own"


def routed(*paths: str) -> FastAPI:
    app = FastAPI()
    for path in paths:
        app.add_api_route(path, page)
    return app


def included(prefix: str, path: str) -> FastAPI:
    router = APIRouter()
    router.add_api_route(path, page)
    app = FastAPI()
    app.include_router(router, prefix=prefix)
    return app


def of_litestar(path: str) -> ASGIApp:
    def own() -> str:
        return "own"

    handler = get(path, sync_to_thread=False)(own)
    # Its own logging would take the root's handlers away.
    return cast("ASGIApp", Litestar([handler], logging_config=None))


async def plain(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("plain")(scope, receive, send)


def mounted(path: str, *routes: str) -> Starlette:
    inner = Starlette(routes=[Route(each, plain) for each in routes]) if routes else plain
    return Starlette(routes=[Mount(path, inner)])


def litestar_mount(path: str) -> ASGIApp:
    @asgi(path, is_mount=True, copy_scope=True)
    async def files(scope: Any, receive: Any, send: Any) -> None:
        await plain(scope, receive, send)

    return cast("ASGIApp", Litestar([files], logging_config=None))


PROBES = [f"/healthz/{name}" for name in ("live", "ready", "startup")]


async def test_routes_that_are_not_reached_are_named_once_at_the_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    posted = Starlette(routes=[Route("/metrics", plain, methods=["POST"])])
    taken: dict[str, tuple[object, list[str], str]] = {
        "a route": (routed("/metrics"), ["/metrics"], "metrics_path"),
        "another method": (posted, ["/metrics"], "metrics_path"),
        "a mount": (mounted("/metrics"), ["/metrics"], "metrics_path"),
        "within a mount": (mounted("/", "/healthz/live"), PROBES[:1], "health_prefix"),
        "within the path": (mounted("/healthz", "/ready"), PROBES[1:2], "health_prefix"),
        "all below": (mounted("/healthz"), PROBES, "health_prefix"),
        "a parameter": (routed("/healthz/{name}"), PROBES, "health_prefix"),
        "included": (included("/healthz", "/live"), PROBES[:1], "health_prefix"),
        "both": (
            routed("/healthz/live", "/metrics"),
            [PROBES[0], "/metrics"],
            "health_prefix=..., metrics_path",
        ),
        "in a layer": (CORSMiddleware(routed("/metrics")), ["/metrics"], "metrics_path"),
        "Litestar": (of_litestar("/metrics"), ["/metrics"], "metrics_path"),
        "Litestar's parameter": (of_litestar("/healthz/{name:str}"), PROBES, "health_prefix"),
        "Litestar's mount": (litestar_mount("/healthz"), PROBES, "health_prefix"),
    }
    with every() as case:
        for name, (app, paths, options) in taken.items():
            with case(name):
                caplog.clear()
                async with running(harden(cast("ASGIApp", app), service="web")):
                    pass
                warnings = [text for text in caplog.messages if "not reached" in text]
                assert len(warnings) == 1
                assert f"routes at {', '.join(paths)}," in warnings[0]
                assert f"HardenOptions({options}=...)" in warnings[0]


async def test_a_route_for_any_path_is_no_route_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    quiet: dict[str, tuple[object, HardenOptions]] = {
        "none": (routed("/orders"), HardenOptions()),
        "any path": (routed("/{rest:path}"), HardenOptions()),
        "any name": (routed("/{name}", "/{kind}/{name}"), HardenOptions()),
        "a page": (mounted("/"), HardenOptions()),
        "a longer name": (routed("/metrics2", "/healthz"), HardenOptions()),
        "the detail": (routed("/healthz/deps"), HardenOptions()),
        "moved": (
            routed("/metrics", "/healthz/live"),
            HardenOptions(metrics_path="/ours/metrics", health_prefix="/ours"),
        ),
        "Litestar": (of_litestar("/{rest:path}"), HardenOptions()),
        "Litestar's mount": (litestar_mount("/"), HardenOptions()),
        "a function": (plain, HardenOptions()),
    }
    with every() as case:
        for name, (app, options) in quiet.items():
            with case(name):
                caplog.clear()
                hardened = harden(cast("ASGIApp", app), service="web", options=options)
                await call_asgi(hardened, path="/")
                assert "not reached" not in caplog.text
