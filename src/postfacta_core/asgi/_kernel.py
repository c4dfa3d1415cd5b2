"""Serve a request through all parts of `harden` in one coroutine, and a WebSocket through its own.

`harden` is this kernel; a part whose option is off is absent. What is asked before the application
stands in `_parts`; its order stands in `_parts_in_order`, and is explained in
docs/reference/parts.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import Token
from dataclasses import dataclass, field
from typing import Any, Final

from anyio.lowlevel import checkpoint

from ..clock import random_id
from ..context import CURRENT, RequestContext
from ..deadlines.requests import RunningRequests
from ..errors import BulkheadFullError, ResilienceError
from ..events import ListenerFailed, Observer, fan_out, ignore
from ..limits._waiting import ADMIT, Shed, Wait
from ..telemetry.exchange import PREROUTING, UNMATCHED, ErrorTypes, Recorder, tells_of_disconnect
from ..telemetry.tracing import Tracing
from ._answering import Headers, Record, Shared
from ._concurrency import Shedding
from ._cookies import IS_SLOW
from ._cors import GRANTS, PREFLIGHT, CorsRules
from ._doors import Door
from ._exchange import HttpExchange
from ._parts import (
    ASKS_FOR_TIME,
    TRAFFIC_CLASS,
    TRAFFIC_KEY,
    Asked,
    CrossOrigin,
    Deadlines,
    Observation,
    OfTheTeam,
    Probes,
    Rates,
    Sizes,
    Step,
)
from ._problem import problem_of
from ._route import RouteReader, local_path
from ._rules import UNBOUNDED, Find, Rules
from ._settings import Secret, check_options
from ._state import UNSENT, WHOLE
from ._types import ASGIApp, Receive, Scope, Send
from ._websocket import WebSocketExchange
from .parts import Part

RouteOf = Callable[[Scope], str | None]
"""Returns the route template of a scope that the application is done with, or None."""

# The headers that some part asks for.
_HEADERS_OF_PARTS: Final = frozenset(
    {
        ASKS_FOR_TIME,
        b"x-request-id",
        b"traceparent",
        b"content-length",
        TRAFFIC_CLASS,
        TRAFFIC_KEY,
        b"origin",
        PREFLIGHT,
        b"access-control-request-headers",
        *([b"cookie"] if IS_SLOW else []),
    }
)
_SERVER_ERROR: Final = 500
# A response up to this size finds room in the buffers of server and kernel, whether or not its
# client reads.
_ROOM: Final = 65_536
# A request that came longer ago is not begun before its server was asked whether the client is
# still there.
_MAY_HAVE_LEFT: Final = 0.02
# W3C Trace Context, section 3.2: all zeros are invalid.
_trace_of = re.compile(
    rb"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?"
).fullmatch
# No more than this goes into headers, log lines and problems: it stops log injection.
_is_id = re.compile(rb"[A-Za-z0-9._-]{8,64}").fullmatch
_NO_RULES: Final = Rules()
_Either = HttpExchange | WebSocketExchange
_Served = tuple[
    type[_Either], Sequence[Record], Callable[[Any, Any, Scope], Coroutine[Any, Any, None]]
]
"""How a kind of connection is served: its exchange, what is called as it ends, and admission."""


@dataclass(kw_only=True, eq=False, repr=False)
class Kernel(Shared):
    """An ASGI application around another one, with those parts whose options are given."""

    app: ASGIApp = field(kw_only=False)
    observer: Observer = ignore
    recorders: Sequence[Recorder] = ()
    route_of: RouteOf | None = None
    quiet: Collection[str] = ()
    traffic_key: Secret = ""
    request_id_header: bool = False
    response_headers: Collection[tuple[str, str]] = ()
    cors: CorsRules | None = None
    parts: Sequence[Part] = ()  # Of a team's own.
    answers: bool = False
    # Answered before the application.
    doors: Mapping[str, Door] = field(default_factory=dict[str, Door])
    admission: Shedding | None = None
    rules: Rules = _NO_RULES
    find: Find | None = None  # The rules of a route, where not all have the same.
    _fresh_context: Callable[[], Callable[[], object] | None] = field(init=False)

    def __post_init__(self) -> None:
        checked = ("app", "clock", "render", "observer", "route_of")
        check_options(type(self).__name__, **{name: getattr(self, name) for name in checked})
        recorders = self.recorders
        rules = self.rules
        self.added: Headers = [
            (name.lower().encode("ascii"), value.encode("latin-1"))
            for name, value in self.response_headers
        ]
        owned = {name for name, _ in self.added} | {b"x-request-id"}
        self.owned: frozenset[bytes] = frozenset(owned if self.cors is None else owned | GRANTS)
        self.sweep: RunningRequests = RunningRequests() if self.requests is None else self.requests
        self.is_bounded: bool = rules.limits is not UNBOUNDED
        self.room: float = _ROOM if self.is_bounded else math.inf
        self.streaming: Sequence[Record] = _methods_for(recorders, "streaming")
        self.answered: Sequence[Record] = _methods_for(recorders, "answered")
        self.opened: Sequence[Record] = _methods_for(recorders, "opened")
        self.observe: Observer = fan_out([self.observer])
        # Mostly there is nothing, and to know that is cheaper than to begin a new context.
        self._leftover: Callable[[], object] = tuple
        for recorder in recorders:
            if isinstance(recorder, Tracing):
                self._leftover = recorder.leftover
                self._fresh_context = recorder.fresh_context
        self._is_recorded = bool(recorders)
        self._reader = RouteReader()
        self._error_types = ErrorTypes()
        ended = _methods_for(recorders, "end")
        closed = _methods_for(recorders, "closed")
        self._served: dict[str, _Served] = {
            "http": (HttpExchange, ended, Kernel._admit),
            "websocket": (WebSocketExchange, closed, Kernel._admit_socket),
        }
        self.order: Sequence[Asked] = tuple(self._parts_in_order())
        self._steps: tuple[Step, ...] = tuple([part.begin for part in self.order])

    def _parts_in_order(self) -> Iterator[Asked]:
        """Yield what is asked before the application, in its order."""
        if self._is_recorded:
            yield Observation(
                begin=_methods_for(self.recorders, "begin"),
                connect=_methods_for(self.recorders, "connect"),
                quiet=self.quiet,
                traffic_key=self.traffic_key,
                blame=self.blame,
            )
        if self.cors is not None:
            yield CrossOrigin(self.cors)
        if self.doors:
            yield Probes(self.doors)
        if self.is_bounded:
            yield Sizes()
        if self.rules.rates is not None:
            yield Rates()
        yield from map(OfTheTeam, self.parts)
        if self.requests is not None:
            yield Deadlines(self.requests, self.observe)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        served = self._served.get(scope["type"])
        if served is None:
            await self._serve_other(scope, receive, send)
            return
        make, end, admit = served
        put_back = self._fresh_context() if self._leftover() else None
        request, token, fields, path = self._open(scope)
        rules = self.rules if self.find is None else self.find(scope.get("method", "GET"), path)
        exchange = make(self, rules, request, scope, receive, send)
        exchange.local_path = path
        raised: BaseException | None = None
        try:
            for ask in self._steps:
                answering = ask(exchange, fields)
                if answering is not None and await answering:
                    return
            running = self.requests
            if running is None:
                await admit(self, exchange, scope)
            else:
                await running.run(exchange, admit(self, exchange, scope))
        except Exception as crash:
            if await self._is_settled(exchange, crash):
                return
            raised = crash
            raise
        except BaseException as cancellation:
            raised = cancellation
            raise
        finally:
            self._close(exchange, raised, end)
            raised = None
            CURRENT.reset(token)
            if put_back is not None:
                put_back()
            elif self._leftover():
                self._fresh_context()

    async def _serve_other(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)

    def _open(
        self, scope: Scope
    ) -> tuple[RequestContext, Token[RequestContext | None], Mapping[bytes, bytes], str]:
        """Return the request's context, the headers that parts ask for, and its path.

        The context is bound, and has to be released by the token.
        """
        # Its headers, once for all parts.
        headers: Headers = scope["headers"]
        if not isinstance(headers, list):  # Any iterable is legal, and may be read only once.
            headers = scope["headers"] = [*headers]
        fields: dict[bytes, bytes] = {}
        for name, value in headers:
            if name in _HEADERS_OF_PARTS:
                fields[name] = value  # noqa: PERF403 - a comprehension is a frame for each request
        path = scope["path"]
        root_path = scope.get("root_path", "")
        if root_path:
            path = local_path(path, root_path)
        sent_id = fields.get(b"x-request-id", b"")
        if sent_id and _is_id(sent_id):
            request_id = sent_id.decode("ascii")
        else:
            request_id = random_id()
            if self.request_id_header:
                pairs = [pair for pair in scope["headers"] if pair[0] != b"x-request-id"]
                scope["headers"] = [*pairs, (b"x-request-id", request_id.encode("ascii"))]
        request = RequestContext(request_id, self.clock(), self.clock, root_path)
        if b"traceparent" in fields and (trace := _trace_of(fields[b"traceparent"])):
            request.trace_id = trace[1].decode("ascii")
        scope["postfacta.request"] = request
        # What is bound must be released: else the task would hold its context, which holds the
        # task.
        return request, CURRENT.set(request), fields, path

    def template(self, scope: Scope, request: RequestContext, path: str) -> str:
        route = None
        try:
            if self.route_of is not None:
                route = self.route_of(scope)
            else:
                route = self._reader.read(scope, request.root_path, path)
        except Exception as failure:  # noqa: BLE001 - foreign code and foreign objects may raise anything
            self.observe(ListenerFailed("route_of", repr(failure)))
        return route or UNMATCHED

    def _close(
        self, exchange: _Either, raised: BaseException | None, end: Sequence[Record]
    ) -> None:
        """Settle what became of an exchange, and end its records."""
        if not self._is_recorded:
            return
        request = exchange.request
        # As `template`, whose call would cost each request a frame.
        route: str | None = request.route
        if not route:
            try:
                if self.route_of is not None:
                    route = self.route_of(exchange.scope)
                else:
                    path = exchange.local_path
                    route = self._reader.read(exchange.scope, request.root_path, path)
            except Exception as failure:  # noqa: BLE001 - foreign code and foreign objects may raise anything
                self.observe(ListenerFailed("route_of", repr(failure)))
        exchange.route = route or UNMATCHED
        if (
            exchange.response is not WHOLE
            or raised is not None
            or request.error_type
            or exchange.status >= _SERVER_ERROR
        ):
            error = raised if isinstance(raised, Exception) else None
            exchange.settle(error, self._error_types, was_cancelled=raised is not error)
        for record in end:
            try:
                record(exchange)
            except Exception as failure:  # noqa: BLE001 - a recorder is foreign code
                self.blame(record, failure)
        # The error's traceback holds the frame of the kernel, which holds the exchange: without
        # this, they would keep each other alive.
        exchange.error = None

    async def _is_settled(self, exchange: _Either, error: Exception) -> bool:
        """Answer for an application that raised; return whether that was no crash."""
        if exchange.has_cut_off and tells_of_disconnect(error):
            # The application's reaction to the disconnect is of no use; a crash is recorded all
            # the same.
            return True
        # That is no answer to the handshake of a WebSocket: the server closes it.
        if not self.answers or exchange.is_socket or exchange.response not in UNSENT:
            return False
        problem = problem_of(error)
        exchange.request.error_type = exchange.request.error_type or problem.error_type
        # If the client is gone, the answer cannot be sent; the crash is still recorded.
        with suppress(OSError):
            await exchange.reply(problem)
        return isinstance(error, ResilienceError)

    async def _admit(self, exchange: HttpExchange, scope: Scope) -> None:
        shedding = self.admission
        rules = exchange.rules
        if shedding is None or (shedding.is_off and rules.shedding is None):
            await self.app(scope, exchange.receive, exchange.send)
            return
        request = exchange.request
        came = admitted = self.clock()
        if shedding.is_special:
            decision = shedding.arrive(exchange, scope)
        else:
            request.priority = priority = rules.priority
            decision = shedding.limiter.arrive(
                priority, admitted, luck=shedding.luck(), client_of=exchange.whose
            )
        if decision is not ADMIT:
            if isinstance(decision, Wait):
                wait = decision
                decision = await shedding.wait(wait, rules, request)
                admitted = wait.decided
            if isinstance(decision, Shed) and not shedding.spares(request, rules):
                if self.permit is not None and await self.permit(exchange):
                    return
                await shedding.refuse(decision, request, scope, exchange.send)
                return
            if decision is not ADMIT:
                await self.app(scope, exchange.receive, exchange.send)
                return
        exchange.shedding = shedding
        exchange.is_held = True
        exchange.admitted = exchange.began = admitted
        try:
            shedding.begun += 1
            if not shedding.is_cheap:
                await checkpoint()
                exchange.began = self.clock()
            request.slot = exchange
            if exchange.began - came < _MAY_HAVE_LEFT or not await exchange.is_abandoned():
                await self.app(scope, exchange.receive, exchange.send)
        finally:
            if exchange.is_held:
                exchange.land()

    async def _admit_socket(self, exchange: WebSocketExchange, scope: Scope) -> None:
        """Serve a WebSocket; until accepted it has a bound and a time of its own, and no slot."""
        request = exchange.request
        rules = exchange.rules
        shedding = self.admission
        if self.requests is not None and rules.handshake < request.limit:
            request.limit = rules.handshake
            exchange.limit(min(request.caller_timeout, request.limit))
        if shedding is None or (shedding.is_off and rules.shedding is None):
            await self.app(scope, exchange.receive, exchange.send)
            return
        decision = shedding.arrive(exchange, scope)
        if isinstance(decision, Wait):
            decision = await shedding.wait(decision, rules, request)
        if decision is ADMIT:
            shedding.release_at_once()
        if isinstance(decision, Shed) and not shedding.spares(request, rules):
            await shedding.refuse(decision, request, scope, exchange.send)
            return
        handshakes = shedding.handshakes
        if not handshakes.has_room(exchange.client) and not shedding.spares(request, rules):
            problem = problem_of(BulkheadFullError("handshakes"))
            request.route = PREROUTING
            request.error_type = problem.error_type
            await exchange.reply(problem)
            return
        exchange.shedding = shedding
        exchange.is_held = True
        handshakes.enter(exchange.client)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        finally:
            if exchange.is_held:
                exchange.land()


def _methods_for(recorders: Sequence[Recorder], moment: str) -> tuple[Record, ...]:
    """Collect the methods for one moment, without those that do nothing."""
    nothing = getattr(Recorder, moment)
    methods = [getattr(recorder, moment, nothing) for recorder in recorders]
    return tuple(method for method in methods if getattr(method, "__func__", method) is not nothing)
