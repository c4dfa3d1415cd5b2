"""Resources live exactly as long as the application, whether it knows the lifespan or not."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware

from postfacta_core.asgi._types import ASGIApp, Message, Receive, Scope, Send
from postfacta_core.asgi.lifespan import LifespanMiddleware
from postfacta_core.asgi.operator import OperatorEndpoint
from postfacta_core.context import RequestContext
from postfacta_core.deadlines.requests import Running, RunningRequests
from postfacta_core.drain._course import DrainLimits
from postfacta_core.drain.lifecycle import Lifecycle
from postfacta_core.events import ResourceStuck
from postfacta_core.testing import RecordingObserver
from tests.kit.every import every


class Server:
    """Drives one lifespan as a server does, and notes what happened in which order."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.reason = ""
        self._script = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive(self) -> Message:
        name = next(self._script)
        self.log.append(name)
        return {"type": name}

    async def send(self, message: Message) -> None:
        self.log.append(message["type"])
        self.reason = message.get("message", "")

    @asynccontextmanager
    async def resource(self, name: str) -> AsyncGenerator[None]:
        self.log.append(f"open {name}")
        try:
            yield
        finally:
            self.log.append(f"close {name}")

    async def run(self, app: ASGIApp, *names: str) -> None:
        resources = [self.resource(name) for name in names]
        await LifespanMiddleware(app, resources)(
            {"type": "lifespan", "state": {}}, self.receive, self.send
        )


async def no_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http", "this application knows no lifespan"


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    """Return at once from whatever it does not know."""


async def test_resources_are_open_from_before_startup_until_after_shutdown() -> None:
    server = Server()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        server.log.append("app up")
        yield
        server.log.append("app down")

    await server.run(Starlette(lifespan=lifespan), "db", "health")
    assert server.log == [
        *("open db", "open health", "lifespan.startup", "app up", "lifespan.startup.complete"),
        *(
            "lifespan.shutdown",
            "app down",
            "close health",
            "close db",
            "lifespan.shutdown.complete",
        ),
    ]


async def confused(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer whatever comes as a request."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


async def confused_later(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await confused(scope, receive, send)


async def reads_its_path(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["path"]


def raising(error: Exception) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    return app


# Texts of Django, asgiref and channels.
WITHOUT_LIFESPAN: Mapping[str, ASGIApp] = {
    "asserts": no_lifespan,
    "returns": silent,
    "answers as if it were a request": confused,
    "answers it after it was asked": confused_later,
    "looks for its path": reads_its_path,
    "does not implement it": raising(NotImplementedError()),
    "Django": raising(ValueError("Django can only handle ASGI/HTTP connections, not lifespan.")),
    "asgiref": raising(ValueError("WSGI wrapper received a non-HTTP scope")),
    "channels": raising(ValueError("No application configured for scope type 'lifespan'")),
    "our endpoint for operators": OperatorEndpoint(local=True),
}


async def test_an_application_without_lifespan_has_its_resources_until_shutdown() -> None:
    with every() as case:
        for name, app in WITHOUT_LIFESPAN.items():
            with case(name):
                server = Server()
                await server.run(app, "db")
                assert server.log == [
                    *("open db", "lifespan.startup", "lifespan.startup.complete"),
                    *("lifespan.shutdown", "close db", "lifespan.shutdown.complete"),
                ]


class Signed:
    """A middleware that cannot be made without its key."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app = app


SIGNED = Middleware(cast("Any", Signed))


class OnlyHttp:
    """A middleware that no lifespan passes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await no_lifespan(scope, receive, send)


def inside(app: ASGIApp) -> ASGIApp:
    async def around(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    return around


async def takes_two(scope: Scope, receive: Receive) -> None:
    """Have a signature of no use."""


def returns_none(scope: Scope, receive: Receive, send: Send) -> None:
    """Have nothing that could be awaited."""


BROKEN: Mapping[str, ASGIApp] = {
    "Starlette without a key": Starlette(middleware=[SIGNED]),
    "FastAPI without a key": FastAPI(middleware=[SIGNED]),
    "inside of a function": inside(FastAPI(middleware=[SIGNED])),
    "a middleware inside of Starlette that asserts": Starlette(middleware=[Middleware(OnlyHttp)]),
    "any other error": raising(RuntimeError("no licence")),
    "a function of no use": inside(cast("Any", takes_two)),
    "a plain function": cast("Any", returns_none),
}


async def test_an_error_before_the_first_message_fails_the_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with every() as case:
        for name, app in BROKEN.items():
            with case(name):
                server = Server()
                caplog.clear()
                with pytest.raises((TypeError, AssertionError, RuntimeError)):
                    await server.run(app, "db")
                assert server.log == [
                    "open db",
                    "close db",
                    "lifespan.startup",
                    "lifespan.startup.failed",
                ]
                (record,) = caplog.records
                assert record.exc_info is not None
                assert record.getMessage() == "The application's startup failed"


async def test_an_error_of_unknown_meaning_says_how_to_have_no_lifespan() -> None:
    with pytest.raises(RuntimeError, match="no licence") as raised:
        await Server().run(raising(RuntimeError("no licence")))
    assert "or raise NotImplementedError" in raised.value.__notes__[0]


async def test_a_lifespan_that_raises_after_its_yield_is_a_failed_shutdown() -> None:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        yield
        raise OSError("cannot flush")

    server = Server()
    with pytest.raises(OSError, match="cannot flush"):
        await server.run(Starlette(lifespan=lifespan), "db")
    assert server.log[-2:] == ["close db", "lifespan.shutdown.failed"]
    assert "cannot flush" in server.reason


async def test_a_startup_that_fails_closes_resources_and_is_reported_once() -> None:
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


async def test_a_resource_that_fails_to_close_is_a_failed_shutdown() -> None:
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
    await LifespanMiddleware(app, [server.resource("db")])(
        {"type": "http"}, server.receive, server.send
    )
    assert seen == ["http"]
    assert server.log == []


class Interception:
    """Stands for the handling of signals, of which there are none here."""

    mechanism = "wrap"

    def __init__(self, heard: Callable[[int], None]) -> None:
        pass

    def release(self) -> None:
        """Do nothing: no server listens."""

    def close(self) -> None:
        """Do nothing."""


@pytest.fixture
def lifecycle(monkeypatch: pytest.MonkeyPatch) -> Lifecycle:
    monkeypatch.setattr("postfacta_core.drain.lifecycle.Interception", Interception)
    limits = DrainLimits(drain_delay=0.05, drain_timeout=0.1, close_timeout=0.6)
    return Lifecycle(limits, running=RunningRequests())


async def drive(app: ASGIApp, server: Server) -> None:
    with anyio.fail_after(20):
        await app({"type": "lifespan", "state": {}}, server.receive, server.send)


async def test_a_lifecycle_is_the_first_to_begin_and_the_last_to_end(lifecycle: Lifecycle) -> None:
    server, phases = Server(), list[str]()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        phases.append(lifecycle.phase)
        yield
        phases.append(lifecycle.phase)

    @asynccontextmanager
    async def resource() -> AsyncGenerator[None]:
        phases.append(lifecycle.phase)
        yield
        phases.append(lifecycle.phase)

    await drive(
        LifespanMiddleware(Starlette(lifespan=lifespan), [resource()], lifecycle=lifecycle), server
    )
    assert phases == ["starting", "starting", "stopping", "stopping"]
    assert lifecycle.phase == "stopped"
    assert server.log[-1] == "lifespan.shutdown.complete"


async def test_the_application_gets_the_shutdown_after_its_handlers_have_ended(
    lifecycle: Lifecycle,
) -> None:
    log: list[str] = []
    running = RunningRequests()
    lifecycle = Lifecycle(lifecycle.limits, running=running)

    async def handler() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.1)
            log.append("handler")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(running.run, Running(RequestContext("request-id", 0.0)), handler())
            await anyio.sleep(0.01)
            yield
            log.append("application")

    @asynccontextmanager
    async def resource() -> AsyncGenerator[None]:
        yield
        log.append("resource")

    app = LifespanMiddleware(
        Starlette(lifespan=lifespan), [running, resource()], lifecycle=lifecycle
    )
    await drive(app, Server())
    assert log == ["handler", "application", "resource"]


async def test_a_resource_that_hangs_takes_its_share_and_not_the_others(
    lifecycle: Lifecycle,
) -> None:
    server, observer = Server(), RecordingObserver()

    @asynccontextmanager
    async def hangs() -> AsyncGenerator[None]:
        yield
        await anyio.sleep_forever()

    resources = [server.resource("db"), hangs(), hangs()]
    app = LifespanMiddleware(silent, resources, lifecycle=lifecycle, observer=observer)
    began = anyio.current_time()
    await drive(app, server)
    assert anyio.current_time() - began < 0.6 + 0.4
    assert server.log[-2:] == ["close db", "lifespan.shutdown.complete"]
    assert [event.resource for event in observer.of(ResourceStuck)] == ["hangs", "hangs"]


async def test_a_crashed_resource_starts_a_drain_and_is_reported_last(
    lifecycle: Lifecycle,
) -> None:
    server = Server()
    gate = anyio.Event()

    @asynccontextmanager
    async def crashes() -> AsyncGenerator[None]:
        async def live() -> None:
            await gate.wait()
            raise OSError("lost")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(live)
            yield
            tasks.cancel_scope.cancel()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        gate.set()
        while not lifecycle.is_draining:
            await anyio.sleep(0.01)
        server.log.append("draining")
        yield

    app = LifespanMiddleware(
        Starlette(lifespan=lifespan), [server.resource("db"), crashes()], lifecycle=lifecycle
    )
    with pytest.raises(ExceptionGroup) as raised:
        await drive(app, server)
    assert raised.group_contains(OSError, match="lost")
    assert server.log == [
        *("open db", "lifespan.startup", "draining", "lifespan.startup.complete"),
        *("lifespan.shutdown", "close db", "lifespan.shutdown.failed"),
    ]


async def test_a_startup_that_fails_under_a_lifecycle_is_reported_unchanged(
    lifecycle: Lifecycle,
) -> None:
    server = Server()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        if server.log:
            raise RuntimeError("no way")
        yield

    app = LifespanMiddleware(
        Starlette(lifespan=lifespan), [server.resource("db")], lifecycle=lifecycle
    )
    with pytest.raises(RuntimeError, match="no way"):
        await drive(app, server)
    assert server.log == ["open db", "lifespan.startup", "lifespan.startup.failed", "close db"]
    assert lifecycle.phase == "stopped"


async def test_an_application_that_raises_after_its_startup_was_asked_for_has_failed() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        raise OSError("no licence")

    server = Server()
    with pytest.raises(OSError, match="no licence"):
        await server.run(app, "db")
    assert server.log == ["open db", "lifespan.startup", "close db", "lifespan.startup.failed"]
