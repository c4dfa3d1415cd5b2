"""What a service that is not PostFacta sees of its requests in its own metrics and log."""

from __future__ import annotations

import socket
from pathlib import Path

import httpx2
import pytest

from tests.kit.every import every
from tests.kit.waiting import wait_until
from tests.servers.serving import BIND
from tests.strangers.kit import Environments, Served

COUNT = "http_server_requests_total"
FASTAPI = """
    import asyncio

    from fastapi import FastAPI, WebSocket
    from postfacta_core.asgi import HardenOptions, harden
    from postfacta_core.deadlines._limits import TransferLimits

    web = FastAPI()


    @web.get("/slow/{seconds}")
    async def slow(seconds: float):
        await asyncio.sleep(seconds)
        return {"slept": seconds}


    @web.get("/crash")
    def crash():
        raise ZeroDivisionError


    @web.post("/orders")
    async def order(order: dict):
        return order


    @web.websocket("/rooms/{name}")
    async def room(socket: WebSocket, name: str):
        await socket.accept()
        await socket.receive_text()
        raise LookupError(name)


    app = harden(
        web,
        service="billing",
        options=HardenOptions(
            request_timeout=2,
            limits=TransferLimits(max_body_bytes=100, max_header_bytes=4000, body_idle_timeout=0.3),
        ),
    )
"""
EXPORTER = """
    from asgi_correlation_id import CorrelationIdMiddleware, correlation_id
    from prometheus_client import REGISTRY
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette_exporter import PrometheusMiddleware, handle_metrics

    from postfacta_core.asgi import HardenOptions, Telemetry, harden


    async def id_(request):
        return PlainTextResponse(correlation_id.get())


    web = Starlette()
    web.add_middleware(PrometheusMiddleware)
    web.add_middleware(CorrelationIdMiddleware)
    web.add_route("/id", id_)
    web.add_route("/metrics", handle_metrics)
    telemetry = Telemetry()
    telemetry.metrics.registry.register(REGISTRY)
    options = HardenOptions(request_id_header=True)
    app = harden(web, service="shop", telemetry=telemetry, options=options)
"""
DJANGO = """
    import django
    from django.conf import settings

    settings.configure(ROOT_URLCONF="service", ALLOWED_HOSTS=["*"], SECRET_KEY="only-of-a-test")
    django.setup()

    from django.core.handlers.asgi import ASGIHandler
    from django.http import HttpResponse
    from django.urls import include, path

    from postfacta_core.asgi import harden


    async def order(request, number):
        return HttpResponse(str(number))


    def crash(request):
        raise ZeroDivisionError


    urlpatterns = [path("orders/", include([path("<int:number>/", order), path("crash/", crash)]))]
    app = harden(ASGIHandler(), service="shop")
"""
QUART = """
    from quart import Blueprint, Quart

    from postfacta_core.asgi import harden

    orders = Blueprint("orders", __name__, url_prefix="/orders")


    @orders.get("/<int:number>/")
    async def order(number):
        return str(number)


    @orders.get("/crash/")
    def crash():
        raise ZeroDivisionError


    web = Quart(__name__)
    web.register_blueprint(orders)
    app = harden(web, service="shop")
"""
LITESTAR = """
    from litestar import Litestar, get

    from postfacta_core.asgi import harden


    @get("/orders/{number:int}", sync_to_thread=False)
    def order(number: int) -> int:
        return number


    @get("/crash", sync_to_thread=False)
    def crash() -> str:
        raise ZeroDivisionError


    app = harden(Litestar([order, crash]), service="shop")
"""
MOUNTS = """
    from a2wsgi import WSGIMiddleware
    from flask import Flask, request
    from socketio import ASGIApp, AsyncServer
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route

    from postfacta_core import current_request
    from postfacta_core.asgi import harden

    flask = Flask(__name__)


    @flask.before_request
    def note():
        context = current_request()
        if context is not None and request.url_rule is not None:
            context.route = request.root_path + request.url_rule.rule


    @flask.get("/orders/<int:number>")
    def order(number):
        return str(number)


    async def item(_):
        return PlainTextResponse("item")


    sockets = ASGIApp(AsyncServer(async_mode="asgi"))
    tenants = ASGIApp(AsyncServer(async_mode="asgi"), socketio_path=None)
    web = Starlette(
        routes=[
            Route("/items/{id}", item),
            Route("/items", item),
            Mount("/socket.io", sockets),
            Mount("/live/{tenant}", tenants),
            Mount("/old", WSGIMiddleware(flask)),
            Mount("/old-of/{tenant}", WSGIMiddleware(lambda _, start: start("204 No Content", []) and [])),
        ]
    )
    app = harden(web, service="shop")
"""
OTHERS = {
    "django": (DJANGO, "/orders/<int:number>/", "5.2.19"),
    "quart": (QUART, "/orders/<int:number>/", "0.22.0"),
}
TALK = """
    import urllib.request

    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    with connect("ws://127.0.0.1:PORT/rooms/red") as room:
        page = urllib.request.urlopen("http://127.0.0.1:PORT/metrics").read()
        print("open" if b"postfacta_websocket_open 1.0" in page else page)
        room.send("hello")
        try:
            room.recv(timeout=20)
        except ConnectionClosed:
            print("closed")
"""
SERVERS = {
    "uvicorn": "uvicorn service:app --port {port}",
    "uvicorn-h11": "uvicorn service:app --port {port} --http h11",
    "hypercorn": "hypercorn service:app --bind 127.0.0.1:{port}",
    "granian": "granian service:app --interface asgi --host 127.0.0.1 --port {port}",
}
PACKAGES = ("fastapi", "uvicorn", "httptools", "websockets", "hypercorn", "granian")


def metrics(served: Served) -> list[str]:
    return httpx2.get(f"{served.url}/metrics", timeout=10).text.splitlines()


def series(served: Served, *parts: str, name: str = COUNT) -> list[str]:
    return [
        line
        for line in metrics(served)
        if line.startswith(name) and all(part in line for part in parts)
    ]


def test_a_websocket_that_crashes_is_counted_and_logged(
    environments: Environments, tmp_path: Path
) -> None:
    environment = environments(*PACKAGES)
    with environment.serve(FASTAPI, cwd=tmp_path) as served:
        done = environment.script(TALK.replace("PORT", str(served.port)), cwd=tmp_path)
        assert done.stdout.split() == ["open", "closed"], done.stderr
        (crashed,) = series(served, name="postfacta_websocket_duration_seconds_count")
        for label in (
            'http_route="/rooms/{name}"',
            'outcome="crashed"',
            'error_type="LookupError"',
        ):
            assert label in crashed
        assert "postfacta_websocket_open 0.0" in metrics(served)
        assert 'postfacta_unhandled_exceptions_total{error_type="LookupError"} 1.0' in metrics(
            served
        )
        assert "websocket.closed" in served.log


def test_refusals_and_crashes_are_counted_as_what_they_are(
    environments: Environments, tmp_path: Path
) -> None:
    with environments(*PACKAGES).serve(FASTAPI, cwd=tmp_path) as served:
        url = served.url
        assert httpx2.get(f"{url}/crash", timeout=10).status_code == 500
        assert httpx2.post(f"{url}/orders", json={"a": "x" * 200}, timeout=10).status_code == 413
        assert (
            httpx2.get(f"{url}/nowhere", headers={"x-a": "x" * 5000}, timeout=10).status_code == 431
        )
        half = b"POST /orders HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        assert b" 408 " in raw(served, half)
        assert httpx2.get(f"{url}/slow/5", timeout=10).status_code == 504
        hasty = httpx2.get(f"{url}/slow/5", headers={"X-Request-Timeout": "0.2"}, timeout=10)
        assert hasty.status_code == 504
        for labels in (
            ('route="/crash"', 'status_code="500"', 'error_type="ZeroDivisionError"'),
            ('route="_prerouting"', 'status_code="413"', 'error_type=""'),
            ('route="_prerouting"', 'status_code="431"', 'error_type=""'),
            ('route="/orders"', 'status_code="408"', 'error_type=""'),
            ('route="/slow/{seconds}"', 'status_code="504"', 'error_type="deadline_exceeded"'),
            ('route="/slow/{seconds}"', 'status_code="499"', 'error_type="callers_deadline"'),
        ):
            assert len(series(served, *labels)) == 1, labels


def test_what_a_service_had_before_goes_on_beside_it(
    environments: Environments, tmp_path: Path
) -> None:
    environment = environments("starlette", "uvicorn", "starlette-exporter", "asgi-correlation-id")
    with environment.serve(EXPORTER, cwd=tmp_path) as served:
        answer = httpx2.get(f"{served.url}/id", timeout=10)
        given = httpx2.get(f"{served.url}/id", headers={"X-Request-ID": "a" * 32}, timeout=10)
        assert answer.text == answer.headers["x-request-id"]
        assert given.text == given.headers["x-request-id"] == "a" * 32
        assert series(served, 'path="/id"', name="starlette_requests_total")
        assert series(served, 'http_route="/id"')


@pytest.mark.parametrize("framework", sorted(OTHERS))
def test_the_routes_of_other_frameworks_are_labelled(
    framework: str, environments: Environments, tmp_path: Path
) -> None:
    code, template, version = OTHERS[framework]
    with environments("uvicorn", f"{framework}=={version}").serve(code, cwd=tmp_path) as served:
        assert httpx2.get(f"{served.url}/orders/7/", timeout=10).text == "7"
        assert httpx2.get(f"{served.url}/nowhere", timeout=10).status_code == 404
        assert httpx2.get(f"{served.url}/orders/crash/", timeout=10).status_code == 500
        assert len(series(served, f'http_route="{template}"', 'status_code="200"')) == 1
        assert len(series(served, 'http_route="/orders/crash/"', 'status_code="500"')) == 1
        assert len(series(served, 'http_route=""', 'status_code="404"')) == 1


def test_mounts_and_a_function_at_two_routes_are_labelled(
    environments: Environments, tmp_path: Path
) -> None:
    environment = environments("starlette", "uvicorn", "python-socketio", "a2wsgi", "flask")
    paths = {
        "/items/7": "/items/{id}",
        "/items": "/items",
        "/socket.io/?EIO=4&transport=polling": "/socket.io/{path}",
        "/live/acme/?EIO=4&transport=polling": "/live/{tenant}/{path}",
        "/old/orders/7": "/old/orders/<int:number>",
        "/old-of/acme/x": "/old-of/{tenant}/{path}",
    }
    with environment.serve(MOUNTS, cwd=tmp_path) as served, every() as case:
        for path, template in paths.items():
            with case(path):
                assert httpx2.get(served.url + path, timeout=10).is_success
                assert len(series(served, f'http_route="{template}"')) == 1


def test_litestar_on_granian_is_observed(environments: Environments, tmp_path: Path) -> None:
    environment = environments("litestar", "granian")
    with environment.serve(LITESTAR, cwd=tmp_path, command=SERVERS["granian"]) as served:
        assert httpx2.get(f"{served.url}/orders/7", timeout=10).json() == 7
        assert httpx2.get(f"{served.url}/crash", timeout=10).status_code == 500
        assert series(served, 'http_route="/orders/{number}"', 'status_code="200"')
        assert series(served, 'http_route="/crash"', 'status_code="500"')


def raw(served: Served, request: bytes, *, wait: float = 5.0) -> bytes:
    """Send bytes and return the answer's first line."""
    with socket.create_connection((BIND, served.port), timeout=wait) as connection:
        connection.sendall(request)
        return connection.makefile("rb").readline()


def leave(served: Served, path: str, after: float) -> None:
    """Ask for something, and go away meanwhile."""
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.get(served.url + path, timeout=httpx2.Timeout(10, read=after))


@pytest.mark.parametrize("server", sorted(SERVERS))
def test_a_client_that_leaves_is_499(
    server: str, environments: Environments, tmp_path: Path
) -> None:
    environment = environments(*PACKAGES)
    with environment.serve(FASTAPI, cwd=tmp_path, command=SERVERS[server]) as served:
        leave(served, "/slow/1.5", 0.4)
        httpx2.get(f"{served.url}/slow/0.6", timeout=10)
        wait_until(
            lambda: bool(series(served, 'http_route="/slow/{seconds}"', 'status_code="499"'))
        )
        (left,) = series(served, 'http_route="/slow/{seconds}"', 'status_code="499"')
        assert 'error_type="client_disconnected"' in left
        (whole,) = series(served, 'http_route="/slow/{seconds}"', 'status_code="200"')
        assert left.endswith(" 1.0")
        assert whole.endswith(" 1.0")
