"""Resources live exactly as long as the application, whether it knows the lifespan or not."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette

from postfacta_core.asgi._types import ASGIApp, Message, Receive, Scope, Send
from postfacta_core.asgi.lifespan import LifespanMiddleware


class Server:
    """Drives one lifespan as a server does, and notes what happened in which order."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self._script = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive(self) -> Message:
        name = next(self._script)
        self.log.append(name)
        return {"type": name}

    async def send(self, message: Message) -> None:
        self.log.append(message["type"])

    @asynccontextmanager
    async def resource(self, name: str) -> AsyncGenerator[None]:
        self.log.append(f"open {name}")
        try:
            yield
        finally:
            self.log.append(f"close {name}")

    async def run(self, app: ASGIApp, *names: str) -> None:
        resources = [self.resource(name) for name in names]
        await LifespanMiddleware(app, resources)({"type": "lifespan", "state": {}}, self.receive, self.send)


async def no_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http", "this application knows no lifespan"


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    """Return at once from whatever it does not know."""


async def test_resources_are_open_before_startup_and_closed_before_the_server_hears_of_the_end() -> None:
    server = Server()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        server.log.append("app up")
        yield
        server.log.append("app down")

    await server.run(Starlette(lifespan=lifespan), "db", "health")
    assert server.log == [
        *("open db", "open health", "lifespan.startup", "app up", "lifespan.startup.complete"),
        *("lifespan.shutdown", "app down", "close health", "close db", "lifespan.shutdown.complete"),
    ]


@pytest.mark.parametrize("app", [no_lifespan, silent])
async def test_an_application_without_lifespan_has_its_resources_until_shutdown(app: ASGIApp) -> None:
    server = Server()
    await server.run(app, "db")
    assert server.log == [
        *("open db", "lifespan.startup", "lifespan.startup.complete"),
        *("lifespan.shutdown", "close db", "lifespan.shutdown.complete"),
    ]


async def test_a_startup_that_fails_closes_what_is_open_and_is_told_once() -> None:
    server = Server()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        if server.log:
            raise RuntimeError("no way")
        yield

    with pytest.raises(RuntimeError, match="no way"):
        await server.run(Starlette(lifespan=lifespan), "db")
    assert server.log == ["open db", "lifespan.startup", "lifespan.startup.failed", "close db"]


async def test_a_resource_that_cannot_open_stops_the_startup() -> None:
    server = Server()

    @asynccontextmanager
    async def broken() -> AsyncGenerator[None]:
        if server.log:
            raise OSError("cannot open")
        yield

    app = LifespanMiddleware(silent, [server.resource("db"), broken()])
    with pytest.raises(OSError, match="cannot open"):
        await app({"type": "lifespan"}, server.receive, server.send)
    assert server.log == ["open db", "close db", "lifespan.startup", "lifespan.startup.failed"]


async def test_a_resource_that_fails_to_close_is_told_as_a_failed_shutdown() -> None:
    server = Server()

    @asynccontextmanager
    async def stuck() -> AsyncGenerator[None]:
        yield
        raise OSError("cannot close")

    app = LifespanMiddleware(Starlette(), [server.resource("db"), stuck()])
    with pytest.raises(OSError, match="cannot close"):
        await app({"type": "lifespan", "state": {}}, server.receive, server.send)
    assert server.log[-2:] == ["close db", "lifespan.shutdown.failed"]


async def test_a_request_passes_untouched() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    server = Server()
    await LifespanMiddleware(app, [server.resource("db")])({"type": "http"}, server.receive, server.send)
    assert seen == ["http"]
    assert server.log == []
