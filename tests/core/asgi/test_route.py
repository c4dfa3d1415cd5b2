"""FastAPI and Litestar leave the template in places of their own.

What a client chose is never part of it.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fastapi import APIRouter, FastAPI
from litestar import Litestar, Router as LitestarRouter, asgi, get
from litestar.params import FromPath
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route, Router

from postfacta_core.asgi._route import RouteReader, local_path, note_routes
from postfacta_core.asgi._types import ASGIApp, Receive, Scope, Send
from postfacta_core.context import RequestContext, bind_request, release_request
from postfacta_core.testing import call_asgi
from tests.kit.every import every

reader = RouteReader()


async def route_of(
    app: ASGIApp, path: str, method: str = "GET", *, root_path: str = ""
) -> str | None:
    response = await call_asgi(app, method, path, root_path=root_path)
    return reader.read(response.scope, root_path, local_path(path, root_path))


def ok() -> str:
    return "ok"


async def plain(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("plain")(scope, receive, send)


async def by_other(request: Request) -> PlainTextResponse:
    return PlainTextResponse("other")


async def by_request(request: Request) -> PlainTextResponse:
    return PlainTextResponse("plain")


async def another(scope: Scope, receive: Receive, send: Send) -> None:
    await plain(scope, receive, send)


def fastapi_app() -> FastAPI:
    inner = APIRouter(prefix="/v1")
    inner.add_api_route("/in/{id}", ok)
    inner.routes.append(Route("/starlette/{id}", by_request))
    inner.routes.append(Mount("/static", plain))
    outer = APIRouter(prefix="/api/tenants/{t}")
    outer.include_router(inner)
    mounted, of_someone = FastAPI(), FastAPI()
    mounted.include_router(inner, prefix="/m")
    for each in (mounted, of_someone):
        each.add_api_route("/top/{id}", ok)
    app = FastAPI()
    app.add_api_route("/plain/{id}", ok)
    app.include_router(outer)
    app.mount("/sub", mounted)
    app.mount("/of/{who}", of_someone)
    app.mount("/also-of/{who}", mounted)
    app.mount("/files", plain)
    app.mount("/files-of/{who}", another)
    return app


async def test_fastapi() -> None:
    cases: list[tuple[str, str, str | None]] = [
        ("GET", "/plain/7", "/plain/{id}"),
        ("DELETE", "/plain/7", "/plain/{id}"),
        ("GET", "/api/tenants/acme/v1/in/7", "/api/tenants/{t}/v1/in/{id}"),
        ("DELETE", "/api/tenants/acme/v1/in/7", "/api/tenants/{t}/v1/in/{id}"),
        ("GET", "/api/tenants/acme/v1/in/7/", None),
        ("GET", "/api/tenants/acme/v1/nothing", None),
        ("GET", "/sub/top/7", "/sub/top/{id}"),
        ("GET", "/sub/m/v1/in/7", "/sub/m/v1/in/{id}"),
        ("GET", "/sub/nothing", None),
        ("GET", "/of/acme/top/7", "/of/{who}/top/{id}"),
        ("GET", "/also-of/acme/top/7", "/also-of/{who}/top/{id}"),
        ("GET", "/also-of/acme/m/v1/in/7", "/also-of/{who}/m/v1/in/{id}"),
        ("GET", "/files/a.css", "/files/{path}"),
        ("GET", "/files-of/acme/a.css", "/files-of/{who}/{path}"),
        ("GET", "/openapi.json", "/openapi.json"),
    ]
    with every() as case:
        for method, path, template in cases:
            for prefix in ("", "/pre"):
                with case(method, path, template, prefix):
                    assert (
                        await route_of(fastapi_app(), prefix + path, method, root_path=prefix)
                        == template
                    )


async def test_what_fastapi_hides_is_left_out_and_never_replaced_by_what_the_client_sent() -> None:
    app = fastapi_app()
    for tenant in ("acme", "other"):
        seen = {
            await route_of(app, f"/also-of/{tenant}/m/v1/in/7"),
            await route_of(app, f"/api/tenants/{tenant}/v1/static/x"),
            await route_of(app, f"/api/tenants/{tenant}/v1/starlette/7"),
        }
        assert not [template for template in seen if tenant in (template or "")]


async def test_a_fastapi_without_its_private_place_gives_the_routes_own_template() -> None:
    response = await call_asgi(fastapi_app(), "GET", "/api/tenants/acme/v1/in/7")
    for instead in ({}, {"effective_route_context": None}, None):
        scope: dict[str, Any] = {**response.scope, "fastapi": instead, "path_params": {"id": "7"}}
        assert reader.read(scope, "", "/api/tenants/acme/v1/in/7") == "/v1/in/{id}"


async def test_the_host_is_no_part_of_the_route() -> None:
    inner = Router([Mount("/m", routes=[Route("/i/{id}", by_request)]), Route("/j", by_request)])
    app = Starlette(routes=[Host("{sub}.example.org", inner)])
    for path, template in [("/m/i/7", "/m/i/{id}"), ("/j", "/j"), ("/nothing", None)]:
        response = await call_asgi(app, "GET", path, headers=[("host", "acme.example.org")])
        assert reader.read(response.scope, "", path) == template


def litestar_app() -> Litestar:
    @get("/in/{id:int}", sync_to_thread=False)
    def item(id: FromPath[int]) -> str:  # noqa: A002 - the parameter of the path
        return "ok"

    @get("/plain", sync_to_thread=False)
    def flat() -> str:
        return "ok"

    @asgi("/static", is_mount=True, copy_scope=False)
    async def files(scope: Any, receive: Any, send: Any) -> None:
        await plain(scope, receive, send)

    @asgi("/copied", is_mount=True, copy_scope=True)
    async def copied(scope: Any, receive: Any, send: Any) -> None:
        await plain(scope, receive, send)

    return Litestar(
        [LitestarRouter("/v1/{tenant:str}", route_handlers=[item]), flat, files, copied]
    )


async def test_litestar() -> None:
    cases: list[tuple[str, str, str | None]] = [
        ("GET", "/v1/acme/in/7", "/v1/{tenant}/in/{id}"),
        (
            "HEAD",
            "/plain",
            None,
        ),  # Litestar has no HEAD of its own: 405, and it does not say of what
        ("GET", "/plain", "/plain"),
        ("GET", "/plain/", "/plain"),
        ("GET", "/static/a/b.css", "/static/{path}"),
        ("GET", "/static/a/static", "/static/{path}"),
        ("GET", "/copied/a/b.css", "/copied/{path}"),
        ("GET", "/nothing", None),
    ]
    with every() as case:
        for method, path, template in cases:
            for prefix in ("", "/pre"):
                with case(method, path, template, prefix):
                    # Litestar is typed by its own ASGI shapes, which are narrower than the
                    # protocol's.
                    app: Any = litestar_app()
                    assert await route_of(app, prefix + path, method, root_path=prefix) == template


async def test_one_route_under_two_prefixes_has_two_templates() -> None:
    inner = APIRouter()
    inner.add_api_route("/in/{id}", ok)
    app = FastAPI()
    app.include_router(inner, prefix="/a")
    app.include_router(inner, prefix="/b")
    assert [await route_of(app, path) for path in ("/a/in/1", "/b/in/1", "/a/in/2")] == [
        "/a/in/{id}",
        "/b/in/{id}",
        "/a/in/{id}",
    ]


def test_an_application_hardened_twice_notes_each_route_once() -> None:
    class ASGIHandler:
        resolved = 0

        def resolve_request(self, request: Any) -> str:
            self.resolved += 1
            return "view"

    class Layer:
        def __init__(self, app: object) -> None:
            self.application = app

    class Sockets:
        def __init__(self, app: object) -> None:
            self.other_asgi_app = app

    # The frameworks themselves are tested from outside, in `tests/strangers`.
    ASGIHandler.__module__, ASGIHandler.__qualname__ = "django.core.handlers.asgi", "ASGIHandler"
    handler, context = ASGIHandler(), RequestContext("request-id", 0.0)
    note_routes(Layer(Sockets(handler)))
    first = handler.resolve_request
    note_routes(handler)
    asked: Any = SimpleNamespace(resolver_match=SimpleNamespace(route="orders/<int:number>/"))
    assert handler.resolve_request is first
    assert handler.resolve_request(asked) == "view"
    token = bind_request(context)
    try:
        handler.resolve_request(asked)
    finally:
        release_request(token)
    assert (context.route, handler.resolved) == ("/orders/<int:number>/", 2)
    note_routes(object())


def starlette_app() -> Starlette:
    inner = Router([Route("/items/{id}", by_request), Route("/items", by_request)])
    return Starlette(
        routes=[
            Route("/items/{id:int}", by_request),
            Route("/items", by_request),
            Route("/{name}", by_other, methods=["POST"]),
            Route("/{id}", by_other),
            Mount("/plain", inner),
            Mount("/of/{tenant}", inner),
            Mount("/same/{id}", inner),
            Mount("/files/{tenant}/all", plain),
            Mount("/live", another),
            Mount("/live-of/{tenant}", another),
            Host("{tenant}.example.org", Router([Route("/{tenant}/{id}", by_request)])),
        ]
    )


async def test_one_function_at_several_routes_has_the_template_that_matched() -> None:
    cases: list[tuple[str, str, str | None]] = [
        ("GET", "/items/7", "/items/{id}"),
        ("GET", "/items", "/items"),
        ("GET", "/acme", "/{id}"),
        ("POST", "/acme", "/{name}"),
        ("DELETE", "/acme", "/{name}"),
        ("GET", "/plain/items/7", "/plain/items/{id}"),
        ("GET", "/of/acme/items/7", "/of/{tenant}/items/{id}"),
        ("GET", "/of/acme/items", "/of/{tenant}/items"),
        ("GET", "/same/acme/items/7", "/same/{id}/items/{id}"),
        ("GET", "/same/acme/nothing", None),
        ("GET", "/files/acme/all/a.css", "/files/{tenant}/all/{path}"),
        ("GET", "/a/b", "/{tenant}/{id}"),
        ("GET", "/live/socket.io/", "/live/{path}"),
        ("GET", "/live-of/acme/socket.io/", "/live-of/{tenant}/{path}"),
    ]
    app = starlette_app()
    with every() as case:
        for method, path, template in cases:
            for prefix in ("", "/pre"):
                with case(method, path, template, prefix):
                    headers = [("host", "acme.example.org" if path == "/a/b" else "localhost")]
                    response = await call_asgi(
                        app, method, prefix + path, root_path=prefix, headers=headers
                    )
                    scope = response.scope
                    assert RouteReader().read(scope, prefix, path) == template
                    # Starlette 1.0 leaves only the endpoint in the scope.
                    scope.pop("route", None)
                    assert RouteReader().read(scope, prefix, path) == template
