"""Serve a request through all parts of `harden` in one coroutine, and a WebSocket through its own.

`harden` and each single middleware are this kernel, with some parts absent. What the parts decide
stands in their own modules; their order stands in `__call__`, and is explained in
docs/reference/middlewares.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from contextvars import Token
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

from anyio.lowlevel import checkpoint

from ..clock import random_id
from ..context import CURRENT, RequestContext
from ..deadlines._limits import asked_timeout
from ..deadlines.requests import RunningRequests
from ..errors import BulkheadFullError, DeadlineExceededError, ResilienceError
from ..events import DeadlineExceeded, ListenerFailed, Observer, fan_out, ignore
from ..limits._waiting import ADMIT, Shed, Wait
from ..telemetry.exchange import PREROUTING, UNMATCHED, ErrorTypes, Recorder, tells_of_disconnect
from ..telemetry.tracing import Tracing
from ._answering import Headers, Record, Shared
from ._concurrency import Shedding
from ._cookies import IS_SLOW, are_costly
from ._cors import GRANTS, PREFLIGHT, CorsRules
from ._exchange import HttpExchange
from ._problem import DRAINING, HEADERS_TOO_LARGE, URI_TOO_LONG, problem_of, request_of
from ._route import RouteReader, local_path
from ._rules import UNBOUNDED, Find, Rules
from ._settings import Secret, check_options, knows
from ._state import UNSENT, WHOLE
from ._types import ASGIApp, Receive, Scope, Send
from ._websocket import WebSocketExchange

RouteOf = Callable[[Scope], str | None]
"""Returns the route template of a scope that the application is done with, or None."""

Door = Callable[[Scope, Send], Awaitable[None]]
"""Answers a probe or a scrape."""

_TRAFFIC: Final = {b"synthetic": "synthetic", b"load": "load"}
# A field line costs two bytes for ": " and two for its line end, and a parser's bookkeeping on top
# of that: RFC 7541 (section 4.1) counts 32 bytes a field, so a flood of empty fields is not free.
_FIELD_OVERHEAD: Final = 32
# A longer one is too large before it is even a number: 2**64 has 20 digits.
_LONGEST_LENGTH: Final = 20
_ASKS_FOR_TIME: Final = b"x-request-timeout"
# The headers that some part asks for.
_WANTED: Final = frozenset(
    {
        _ASKS_FOR_TIME,
        b"x-request-id",
        b"traceparent",
        b"content-length",
        b"x-traffic-class",
        b"x-traffic-key",
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
    type[_Either],
    Sequence[Record],
    Sequence[Record],
    Callable[[Any, Any, Scope], Coroutine[Any, Any, None]],
]
"""How a kind of connection is served: its exchange, and what is called as it begins and ends."""


class Doors:
    """An ASGI application around another one, with doors alone.

    All other requests cost next to nothing.
    """

    def __init__(self, app: ASGIApp, doors: Mapping[str, Door]) -> None:
        check_options(type(self).__name__, app=app)
        self.app: ASGIApp = app
        self.doors: Mapping[str, Door] = doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = local_path(scope.get("path", ""), scope.get("root_path", ""))
        door = self.doors.get(path) if scope["type"] == "http" else None
        if door is None:
            await self.app(scope, receive, send)
            return
        if (request := request_of(scope)) is not None:
            request.route = path
        await door(scope, send)


@dataclass(kw_only=True, eq=False, repr=False)
class Kernel(Shared):
    """An ASGI application around another one, with those parts whose options are given.

    See their middlewares.
    """

    app: ASGIApp = field(kw_only=False)
    observer: Observer = ignore
    recorders: Sequence[Recorder] = ()
    route_of: RouteOf | None = None
    quiet: Collection[str] = ()
    traffic_key: Secret = ""
    request_id_header: bool = False
    response_headers: Collection[tuple[str, str]] = ()
    cors: CorsRules | None = None
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
        owned = {name for name, _ in self.added} | (
            {b"x-request-id"} if self.identifies else set[bytes]()
        )
        self.owned: frozenset[bytes] = frozenset(owned if self.cors is None else owned | GRANTS)
        self.sweep: RunningRequests = RunningRequests() if self.requests is None else self.requests
        self.is_bounded: bool = rules.limits is not UNBOUNDED
        self.room: float = _ROOM if self.is_bounded else math.inf
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
        is_timed = self.requests is not None
        self._reads = (
            self.is_bounded
            or self.identifies
            or is_timed
            or self.cors is not None
            or bool(self.traffic_key)
        )
        # Who binds a context for itself, if none is there.
        self._binds = self._is_recorded or is_timed
        has_sockets = (
            self._binds or self.identifies or rules.rates is not None or self.admission is not None
        )
        self._served: dict[str, _Served] = {
            "http": (
                HttpExchange,
                _methods_for(recorders, "begin"),
                _methods_for(recorders, "end"),
                Kernel._admit,
            )
        }
        if has_sockets:
            connect = _methods_for(recorders, "connect")
            closed = _methods_for(recorders, "closed")
            self._served["websocket"] = (WebSocketExchange, connect, closed, Kernel._admit_socket)

    async def __call__(  # noqa: C901, PLR0911, PLR0912, PLR0915 - one straight line: a call more costs each request
        self, scope: Scope, receive: Receive, send: Send
    ) -> None:
        served = self._served.get(scope["type"])
        if served is None:
            await self._serve_other(scope, receive, send)
            return
        make, begin, end, admit = served
        # Its headers, once for all parts.
        headers: Headers = ()
        if self._reads:
            headers = scope["headers"]
            if not isinstance(headers, list):  # Any iterable is legal, and may be read only once.
                headers = scope["headers"] = [*headers]
        fields: dict[bytes, bytes] = {}
        for name, value in headers:
            if name in _WANTED:
                fields[name] = value  # noqa: PERF403 - a comprehension is a frame for each request
        # Identity.
        put_back = self._fresh_context() if self._leftover() else None
        path = scope["path"]
        root_path = scope.get("root_path", "")
        if root_path:
            path = local_path(path, root_path)
        request, token = self._identify(scope, fields, root_path)
        rules = self.rules if self.find is None else self.find(scope.get("method", "GET"), path)
        exchange = make(self, rules, request, scope, receive, send)
        raised: BaseException | None = None
        try:
            # What is seen.
            if self._is_recorded:
                if path in self.quiet:
                    exchange.quiet = True
                if self.traffic_key:
                    is_known = knows(self.traffic_key, fields.get(b"x-traffic-key", b""))
                    traffic = _TRAFFIC.get(fields.get(b"x-traffic-class", b""), "user")
                    exchange.traffic = traffic if is_known else "user"
                for record in begin:
                    try:
                        record(exchange)
                    except Exception as failure:  # noqa: BLE001 - a recorder is foreign code
                        self.blame(record, failure)
            # Pages of other origins, probes and scrapes.
            if self.cors is not None and await self._is_preflight(self.cors, exchange, fields):
                return
            if path in self.doors and not exchange.is_socket:
                request.route = path
                await self.doors[path](scope, exchange.emit)
                return
            # What is too large.
            if self.is_bounded:
                length = fields.get(b"content-length")
                limits = rules.limits
                line = len(scope["path"]) + len(scope.get("query_string", b""))
                size = _FIELD_OVERHEAD * len(headers) + sum(map(len, chain.from_iterable(headers)))
                if line + size > limits.max_header_bytes:
                    request.route = PREROUTING
                    await exchange.reply(URI_TOO_LONG if line > size else HEADERS_TOO_LARGE)
                    return
                if b"cookie" in fields and are_costly(headers):
                    request.route = PREROUTING
                    await exchange.reply(HEADERS_TOO_LARGE)
                    return
                # One that is no number is the server's business.
                if (
                    length is not None
                    and exchange.is_socket is False
                    and length.isdigit()
                    and (len(length) > _LONGEST_LENGTH or int(length) > limits.max_body_bytes)
                ):
                    request.route = PREROUTING
                    await exchange.refuse_unread()
                    return
            # Rates.
            rates = rules.rates
            if rates is not None:
                verdict = await rates.judge(scope, request)
                if verdict is not None:
                    if not verdict.decision.allowed:
                        problem, rate_fields = rates.refusal(verdict, request)
                        exchange.fields = (*exchange.fields, *rate_fields)
                        await exchange.reply(problem)
                        return
                    exchange.fields = (
                        *exchange.fields,
                        *verdict.fields(verdict.decision.reset_after),
                    )
            # The deadline, and admission.
            running = self.requests
            if running is None:
                await admit(self, exchange, scope)
                return
            if not running.is_closed and _ASKS_FOR_TIME not in fields:
                request.limit = limit = rules.timeout
                request.deadline = request.started + limit
            elif await self._is_late(exchange, running):
                return
            await running.run(exchange, admit(self, exchange, scope))
        except Exception as crash:
            if exchange.has_cut_off and tells_of_disconnect(crash):
                # The application's reaction to the disconnect is of no use; a crash is recorded all
                # the same.
                return
            if self.answers and await self._answer_for(exchange, crash):
                return
            raised = crash
            raise
        except BaseException as cancellation:
            raised = cancellation
            raise
        finally:
            if self._is_recorded:
                exchange.route = request.route or self._route(scope, request, path)
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
                    except Exception as failure:  # noqa: BLE001 - as above
                        self.blame(record, failure)
                # The error's traceback holds this frame: without this, the two would keep each
                # other alive.
                exchange.error = error = None
            raised = None
            if token is not None:
                CURRENT.reset(token)
            if put_back is not None:
                put_back()
            elif self._leftover():
                self._fresh_context()

    async def _serve_other(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)

    # Identity.

    def _identify(
        self, scope: Scope, fields: Mapping[bytes, bytes], root_path: str
    ) -> tuple[RequestContext, Token[RequestContext | None] | None]:
        """Return the request's context; if it is made here, it is bound, and has to be released."""
        if not self.identifies:
            # What is bound to the task may be left over from another request: the scope is this
            # one's own.
            outer = request_of(scope)
            if outer is not None:
                return outer, None
            if not self._binds:
                # If nothing binds one, nothing asks for its id or its time either.
                return RequestContext("", math.inf), None
            request_id = random_id()
        elif (sent_id := fields.get(b"x-request-id")) is not None and _is_id(sent_id):
            request_id = sent_id.decode("ascii")
        else:
            request_id = random_id()
            if self.request_id_header:
                headers = [pair for pair in scope["headers"] if pair[0] != b"x-request-id"]
                scope["headers"] = [*headers, (b"x-request-id", request_id.encode("ascii"))]
        request = RequestContext(request_id, self.clock(), self.clock, root_path)
        if b"traceparent" in fields and (trace := _trace_of(fields[b"traceparent"])):
            request.trace_id = trace[1].decode("ascii")
        scope["postfacta.request"] = request
        # What is bound must be released: else the task would hold its context, which holds the
        # task.
        return request, CURRENT.set(request)

    # What is seen.

    def _route(self, scope: Scope, request: RequestContext, path: str) -> str:
        try:
            if self.route_of is not None:
                return self.route_of(scope) or UNMATCHED
            return self._reader.read(scope, request.root_path, path) or UNMATCHED
        except Exception as error:  # noqa: BLE001 - foreign code and foreign objects may raise anything
            self.observe(ListenerFailed("route_of", repr(error)))
            return UNMATCHED

    async def _answer_for(self, exchange: _Either, error: Exception) -> bool:
        """Answer for an application that raised.

        Return whether that is the end of it, and no crash.
        """
        # That is no answer to the handshake of a WebSocket: the server closes it.
        if exchange.is_socket or exchange.response not in UNSENT:
            return False
        problem = problem_of(error)
        exchange.request.error_type = exchange.request.error_type or problem.error_type
        # If the client is gone, the answer cannot be sent; the crash is still recorded.
        with suppress(OSError):
            await exchange.reply(problem)
        return isinstance(error, ResilienceError)

    # What is refused.

    async def _is_preflight(
        self, cors: CorsRules, exchange: _Either, fields: Mapping[bytes, bytes]
    ) -> bool:
        origin = fields.get(b"origin")
        exchange.fields = cors.decision(origin)
        if origin is None or exchange.method != "OPTIONS" or PREFLIGHT not in fields:
            return False
        exchange.request.route = PREROUTING
        await cors.answer(fields, exchange.reply, exchange.emit)
        return True

    async def _is_late(self, exchange: _Either, running: RunningRequests) -> bool:
        request = exchange.request
        caller_timeout = asked_timeout(exchange.headers)
        request.limit = exchange.rules.timeout
        seconds = min(caller_timeout, request.limit)
        request.caller_timeout = caller_timeout
        request.deadline = request.started + seconds
        # What the outer parts took counts too, but only a caller can give so little that it
        # matters.
        is_late = seconds <= 0 or (caller_timeout < math.inf and request.age() >= seconds)
        if not is_late and not running.is_closed:
            return False
        problem = DRAINING
        if not running.is_closed:
            problem = problem_of(DeadlineExceededError("request"))
            self.observe(DeadlineExceeded("caller" if request.deadline_is_callers else "ingress"))
        request.route = PREROUTING
        request.error_type = problem.error_type
        await exchange.reply(problem)
        return True

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
