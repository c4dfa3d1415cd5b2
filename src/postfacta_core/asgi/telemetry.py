"""Observe each request once, and pass the result to every recorder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, TypeVar

from ..clock import MONOTONIC, Clock, random_id
from ..context import RequestContext, bind_request, current_request, release_request
from ..events import ListenerFailed, Observer, ignore
from ..telemetry.exchange import ErrorTypes, Exchange, NullRecorder, Recorder, SocketExchange
from ..validation import validation
from ._problem import request_of
from ._reply import reply_of
from ._route import RouteReader, local_path
from ._secret import Secret, knows
from ._settings import settings
from ._types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["RouteOf", "RouteProbe", "TelemetryMiddleware"]

RouteOf = Callable[[Scope], str | None]
"""Returns the route template of a scope that the application is done with, or None."""

E = TypeVar("E", bound=Exchange)

_UNMATCHED: Final = "_unmatched"
_SWITCHING_PROTOCOLS: Final = 101
# The close codes of RFC 6455, section 7.4.1.
_NORMAL, _ABNORMAL = 1000, 1006
# What carries the response's bytes, or a file that the server sends in their place.
_BODY: Final = frozenset({"http.response.body", "http.response.pathsend", "http.response.zerocopysend"})
_TRAFFIC: Final = {b"synthetic": "synthetic", b"load": "load"}


class TelemetryMiddleware:
    """Make one `Exchange` of each HTTP request or WebSocket. What the application raises is recorded, and raised again.

    It belongs outside of all that may answer or refuse, and right inside of `ContextMiddleware`; without that
    it makes a request context of its own. A layer that answers before the application may set, on the
    scope's `postfacta.request`, `route` to `_prerouting` (or its own path) and `error_type` to the reason.

    Args:
        app: The application to observe.
        recorders: Each is called when the exchange begins, is answered and ends. Errors that they raise are reported
            as events.
        route_of: Returns the route for a framework that is neither Starlette, FastAPI nor Litestar.
        quiet: Paths of probes and scrapes: without span and log line.
        traffic_key: The secret that a caller must give in `X-Traffic-Key` for its `X-Traffic-Class` to count, or a
            function that returns all that hold now.
            Without one, all traffic is `user`.
        error_types: The closed set of error types; middlewares of one process may share it.
        clock: Monotonic seconds.
        observer: Receives each recorder that raised.
    """

    def __init__(
        self,
        app: ASGIApp,
        recorders: Sequence[Recorder],
        *,
        route_of: RouteOf | None = None,
        quiet: Collection[str] = (),
        traffic_key: Secret = "",
        error_types: ErrorTypes | None = None,
        clock: Clock = MONOTONIC,
        observer: Observer = ignore,
    ) -> None:
        settings.application("TelemetryMiddleware", app)
        settings.function_or_none("TelemetryMiddleware.route_of", route_of)
        if error_types is not None:
            validation.instance(
                "TelemetryMiddleware.error_types", error_types, ErrorTypes, example="ErrorTypes()"
            )
        validation.texts("TelemetryMiddleware.quiet", quiet, example='["/ping"]')
        settings.secret("TelemetryMiddleware.traffic_key", traffic_key)
        validation.functions("TelemetryMiddleware", clock=clock, observer=observer)
        self._app = app
        self._begin = _wanted(recorders, "begin")
        self._answered = _wanted(recorders, "answered")
        self._end = _wanted(recorders, "end")
        self._connect = _wanted(recorders, "connect")
        self._opened = _wanted(recorders, "opened")
        self._closed = _wanted(recorders, "closed")
        self._route_of = route_of
        self._reader = RouteReader()
        self._quiet = frozenset(quiet)
        self._traffic_key = traffic_key
        self._error_types = error_types or ErrorTypes()
        self._clock = clock
        self._observe = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        kind = scope["type"]
        if kind not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        request = request_of(scope)
        if request is None:
            await self._alone(scope, receive, send)
            return
        if kind == "websocket":
            await self._socket(request, scope, receive, send)
            return
        exchange = self._open(Exchange(request, scope["method"], scope["path"]), scope)
        self._tell(self._begin, exchange)
        reply = reply_of(send)
        reply.forward = self._watch_send(exchange, reply.forward)
        error: Exception | None = None
        was_cancelled = True
        try:
            await self._app(scope, _watch_receive(exchange, receive), reply)
            was_cancelled = False
        except Exception as raised:
            error, was_cancelled = raised, False
            raise
        finally:
            if not exchange.is_complete:
                self._answer(exchange)
            exchange.route = request.route or self._route(exchange, scope)
            exchange.settle(error, self._error_types, was_cancelled=was_cancelled)
            self._tell(self._end, exchange)
            # The error's traceback holds this frame: without this, the two would keep each other alive.
            error = exchange.error = None

    async def _alone(self, scope: Scope, receive: Receive, send: Send) -> None:
        # What is bound to the task may be left over from another request: only the scope is this one's own.
        request = RequestContext(random_id(), self._clock(), root_path=scope.get("root_path", ""))
        scope["postfacta.request"] = request
        token = bind_request(request)
        try:
            await self(scope, receive, send)
        finally:
            release_request(token)

    async def _socket(  # noqa: PLR0917 - called as `__call__` is
        self, request: RequestContext, scope: Scope, receive: Receive, send: Send
    ) -> None:
        exchange = self._open(SocketExchange(request, "GET", scope["path"]), scope)
        self._tell(self._connect, exchange)
        error: Exception | None = None
        was_cancelled = True
        try:
            watched = self._watch_socket(exchange, send)
            await self._app(scope, _watch_receive(exchange, receive), watched)
            was_cancelled = False
        except Exception as raised:
            error, was_cancelled = raised, False
            raise
        finally:
            exchange.seconds = self._clock() - request.started
            exchange.route = request.route or self._route(exchange, scope)
            exchange.settle(error, self._error_types, was_cancelled=was_cancelled)
            self._tell(self._closed, exchange)
            error = exchange.error = None

    def _watch_socket(self, exchange: SocketExchange, send: Send) -> Send:
        async def watched_send(message: Message) -> None:
            try:
                await send(message)
            except OSError:
                exchange.leave()
                raise
            kind = message["type"]
            if kind == "websocket.send":
                return
            if kind == "websocket.accept":
                exchange.status, exchange.is_open = _SWITCHING_PROTOCOLS, True
                self._tell(self._opened, exchange)
            elif kind == "websocket.close" and not exchange.has_left:
                exchange.close_code, exchange.is_complete = message.get("code", _NORMAL), True
            elif kind == "websocket.http.response.start":
                exchange.status = message["status"]

        return watched_send

    def _open(self, exchange: E, scope: Scope) -> E:
        request, path = exchange.request, exchange.path
        exchange.headers = scope["headers"]
        exchange.scheme = scope.get("scheme", "http")
        exchange.http_version = scope.get("http_version", "1.1")
        if client := scope.get("client"):
            exchange.client = client[0]
        if local_path(path, request.root_path) in self._quiet:
            exchange.quiet = True
        if self._traffic_key:
            exchange.traffic = self._traffic(exchange.headers)
        return exchange

    def _watch_send(self, exchange: Exchange, send: Send) -> Send:
        async def watched_send(message: Message) -> None:
            try:
                await send(message)
            except OSError:
                # So ASGI says that the client is gone.
                exchange.leave()
                raise
            kind = message["type"]
            if kind == "http.response.start":
                exchange.status = message["status"]
            elif kind in _BODY:
                exchange.response_bytes += len(message.get("body", b""))
                if not message.get("more_body", False) and not exchange.is_complete:
                    exchange.is_complete = True
                    self._answer(exchange)

        return watched_send

    def _answer(self, exchange: Exchange) -> None:
        exchange.seconds = self._clock() - exchange.request.started
        self._tell(self._answered, exchange)

    def _traffic(self, headers: Sequence[tuple[bytes, bytes]]) -> str:
        given, key = "user", b""
        for name, value in headers:
            if name == b"x-traffic-class":
                given = _TRAFFIC.get(value, "user")
            elif name == b"x-traffic-key":
                key = value
        return given if knows(self._traffic_key, key) else "user"

    def _route(self, exchange: Exchange, scope: Scope) -> str:
        root_path = exchange.request.root_path
        try:
            if self._route_of is not None:
                return self._route_of(scope) or _UNMATCHED
            return self._reader.read(scope, root_path, local_path(exchange.path, root_path)) or _UNMATCHED
        except Exception as error:  # noqa: BLE001 - foreign code and foreign objects may raise anything
            self._observe(ListenerFailed("route_of", repr(error)))
            return _UNMATCHED

    def _tell(self, recorders: tuple[Callable[[Any], None], ...], exchange: Exchange) -> None:
        for record in recorders:
            try:
                record(exchange)
            except Exception as error:  # noqa: BLE001 - what a recorder does never reaches the request it watches
                self._observe(ListenerFailed(getattr(record, "__qualname__", "recorder"), repr(error)))


def _wanted(recorders: Sequence[Recorder], moment: str) -> tuple[Callable[[Any], None], ...]:
    """Collect the methods for one moment, without those that do nothing."""
    empty = getattr(NullRecorder, moment)
    return tuple(
        getattr(recorder, moment)
        for recorder in recorders
        if getattr(type(recorder), moment, empty) is not empty
    )


def _watch_receive(exchange: Exchange, receive: Receive) -> Receive:
    async def watched_receive() -> Message:
        message = await receive()
        kind = message["type"]
        if kind == "http.request":
            exchange.request_bytes += len(message.get("body", b""))
        elif kind == "http.disconnect":
            exchange.leave()
        elif (
            kind == "websocket.disconnect"
            and isinstance(exchange, SocketExchange)
            and not exchange.is_complete
        ):
            exchange.close_code = message.get("code") or _ABNORMAL
            exchange.leave()
        return message

    return watched_receive


class RouteProbe:
    """Copy the route to the outer scope, past a middleware that copies the scope.

    Without it, a layer that hands on `dict(scope)` hides from all layers outside of it what the router put
    there. Put the probe innermost, around the router: in Starlette as the last of the `middleware`.

    Args:
        app: The router, or what stands around it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._reader = RouteReader()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        request = request_of(scope) or current_request()
        if scope["type"] == "lifespan" or request is None:
            await self._app(scope, receive, send)
            return
        path = local_path(scope["path"], request.root_path)
        try:
            await self._app(scope, receive, send)
        finally:
            if request.route is None:
                request.route = self._reader.read(scope, request.root_path, path)
