"""What a service that is not PostFacta sees of its requests in its own metrics and log."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from tests.servers.serving import BIND
from tests.strangers.kit import Environments, Served

COUNT = "http_server_request_duration_seconds_count"
FASTAPI = """
    import asyncio

    from fastapi import FastAPI, WebSocket
    from postfacta_core.asgi import Policy, harden
    from postfacta_core.policy.transfer import TransferLimits

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
        policy=Policy(
            request_timeout=2,
            limits=TransferLimits(max_body_bytes=100, max_header_bytes=4000, body_idle_timeout=0.3),
        ),
    )
"""
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
    return [line for line in metrics(served) if line.startswith(name) and all(part in line for part in parts)]


def test_a_websocket_that_crashes_is_counted_and_logged(environments: Environments, tmp_path: Path) -> None:
    environment = environments(*PACKAGES)
    with environment.serve(FASTAPI, cwd=tmp_path) as served:
        done = environment.script(TALK.replace("PORT", str(served.port)), cwd=tmp_path)
        assert done.stdout.split() == ["open", "closed"], done.stderr
        (crashed,) = series(served, name="postfacta_websocket_duration_seconds_count")
        for label in ('http_route="/rooms/{name}"', 'outcome="crashed"', 'error_type="LookupError"'):
            assert label in crashed
        assert "postfacta_websocket_open 0.0" in metrics(served)
        assert 'postfacta_unhandled_exceptions_total{error_type="LookupError"} 1.0' in metrics(served)
        assert "websocket.closed" in served.log


def raw(served: Served, request: bytes, *, wait: float = 5.0) -> bytes:
    """Send bytes and return the answer's first line."""
    with socket.create_connection((BIND, served.port), timeout=wait) as connection:
        connection.sendall(request)
        return connection.makefile("rb").readline()


def until(condition: Callable[[], object], *, within: float = 20.0) -> None:
    """Wait for something that a server does a little later."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)  # noqa: TID251 - a real server


def leave(served: Served, path: str, after: float) -> None:
    """Ask for something, and go away meanwhile."""
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.get(served.url + path, timeout=httpx2.Timeout(10, read=after))


@pytest.mark.parametrize("server", sorted(SERVERS))
def test_a_client_that_leaves_is_499(server: str, environments: Environments, tmp_path: Path) -> None:
    environment = environments(*PACKAGES)
    with environment.serve(FASTAPI, cwd=tmp_path, command=SERVERS[server]) as served:
        leave(served, "/slow/1.5", 0.4)
        httpx2.get(f"{served.url}/slow/0.6", timeout=10)
        until(lambda: bool(series(served, 'http_route="/slow/{seconds}"', 'status_code="499"')))
        (left,) = series(served, 'http_route="/slow/{seconds}"', 'status_code="499"')
        assert 'error_type="client_disconnected"' in left
        (whole,) = series(served, 'http_route="/slow/{seconds}"', 'status_code="200"')
        assert left.endswith(" 1.0")
        assert whole.endswith(" 1.0")
