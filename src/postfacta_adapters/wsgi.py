"""`harden` for applications of WSGI: Flask, Django and others, under gunicorn or waitress."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import cast

from postfacta_core.asgi import HardenOptions, Message, Telemetry
from postfacta_core.asgi.stack import Hardened
from postfacta_core.drain.resources import Resource
from postfacta_core.functions import is_async
from postfacta_core.health.registry import HealthRegistry
from postfacta_core.validation import validation

from ._wsgi import EXCHANGE, Environ, Inside, Service, StartResponse, WsgiApp, WsgiExchange

__all__ = ["HardenedWsgi", "harden"]


class HardenedWsgi:
    """A WSGI application with all parts around it; `harden` is another name of it.

        web = Flask(__name__)
        app = harden(web, service="billing")

    `gunicorn --threads 8 billing:app` serves it. Threads must be real ones: gevent and eventlet
    replace what the loop needs.

    Args:
        app: Flask, Django's `get_wsgi_application()`, or any WSGI application.
        service: Its name, for the access line.
        options: As for `postfacta_core.harden`. `write_timeout` and `cancel_on_disconnect` have no
            effect: the server alone sees a client that does not read.
        telemetry: Share one to let others report to its `observer`.
        health: A registry with checks; by default an empty one, which is ready at once.
        resources: Opened with the first request of a process, and closed as it exits. They live on
            the loop, not in the threads of the application.
        route_of: Returns the route template of an environment that the application is done with;
            by default Flask's and Django's are known.

    Attributes:
        hardened: The parts; their `lifecycle`, `shedding` and `rate_limits` are there.

    Raises:
        ValueError: If an argument is wrong, or the application is hardened already.
    """

    def __init__(
        self,
        app: WsgiApp,
        *,
        service: str,
        options: HardenOptions | None = None,
        telemetry: Telemetry | None = None,
        health: HealthRegistry | None = None,
        resources: Sequence[Resource] = (),
        route_of: Callable[[Environ], str | None] | None = None,
    ) -> None:
        if not callable(cast("object", app)) or isinstance(app, HardenedWsgi | Hardened):
            rule = "a WSGI application that is not hardened yet"
            validation.refuse("wsgi.harden.app", app, rule, example="Flask(__name__)")
        if is_async(app):
            rule = "a WSGI application; postfacta_core.harden takes those of ASGI"
            validation.refuse("wsgi.harden.app", app, rule, example="Flask(__name__)")
        options = options or HardenOptions()
        self._app = app
        self._hands_id_on = options.request_id_header
        self.hardened: Hardened = Hardened(
            Inside(app),
            service=service,
            options=options,
            telemetry=telemetry,
            health=health,
            resources=resources,
            route_of=None if route_of is None else lambda scope: route_of(scope[EXCHANGE].environ),
        )
        self._loops = _Loops(self.hardened)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        exchange = WsgiExchange(environ, self._loops.present())
        exchange.begin(self.hardened)
        service = Service(self._app, exchange, hands_id_on=self._hands_id_on)
        return service.respond(start_response)

    def close(self) -> None:
        """Finish the requests under way and close the resources, as the process's exit does.

        A further request begins anew.
        """
        self._loops.end()


harden = HardenedWsgi
"""Put all parts around a WSGI application, in their order."""


class _Loops:
    """The event loop of this process, with the lifespan of what runs on it."""

    def __init__(self, app: Hardened) -> None:
        self._app = app
        self._changing = threading.Lock()
        self._pid = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ends = asyncio.Event()
        self._thread = threading.current_thread()

    def present(self) -> asyncio.AbstractEventLoop:
        """Return the loop, which begins with the first request of a process.

        Raises what a resource raises that cannot be opened; the next request tries again.
        """
        loop = self._loop
        if loop is not None and self._pid == os.getpid():
            return loop
        with self._changing:
            if self._loop is None or self._pid != os.getpid():
                self._loop = self._begin()
                self._pid = os.getpid()
            return self._loop

    def _begin(self) -> asyncio.AbstractEventLoop:
        started: Future[asyncio.AbstractEventLoop] = Future()
        ends = self._ends = asyncio.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._live(started, ends)),
            name="postfacta-wsgi",
            daemon=True,  # Else the interpreter waits for it before it calls what is registered.
        )
        self._thread.start()
        atexit.register(self.end)
        return started.result()

    def end(self) -> None:
        """End the lifespan, if there is one in this process, and wait for it."""
        with self._changing:
            loop = self._loop
            if loop is None or self._pid != os.getpid():
                return
            self._loop = None
            loop.call_soon_threadsafe(self._ends.set)
            self._thread.join(self._app.lifecycle.limits.total)
            atexit.unregister(self.end)

    async def _live(self, started: Future[asyncio.AbstractEventLoop], ends: asyncio.Event) -> None:
        """Hold the lifespan open, and with it all resources, until the process exits."""
        phases = iter(("lifespan.startup", "lifespan.shutdown"))

        async def receive() -> Message:
            phase = next(phases)
            if phase == "lifespan.shutdown":
                await ends.wait()
            return {"type": phase}

        async def send(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                started.set_result(asyncio.get_running_loop())

        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}}
        try:
            await self._app(scope, receive, send)
        except BaseException as error:
            if not started.done():
                started.set_exception(error)
                return
            raise
