"""The parts that `harden` asks in turn before a request reaches its application.

1. A part is asked once for each request and each WebSocket, in the order of the list.
2. It answers by a coroutine of its own, and then no later part is asked; or it returns None.
3. A coroutine that ends with False has not answered: the next part is asked.
4. What a part needs of the request it reads from the exchange and from `fields`, which has those
   headers that some part asks for, by name.

The kernel knows none of them: it runs the list.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from inspect import isawaitable
from itertools import chain
from typing import Any, Final, Protocol

from ..context import RequestContext
from ..deadlines._limits import asked_timeout
from ..deadlines.requests import RunningRequests
from ..errors import DeadlineExceededError
from ..events import DeadlineExceeded, Observer
from ..telemetry.exchange import PREROUTING
from ._answering import Headers, Record
from ._cookies import are_costly
from ._cors import PREFLIGHT, CorsRules
from ._doors import Door
from ._exchange import HttpExchange
from ._problem import DRAINING, HEADERS_TOO_LARGE, URI_TOO_LONG, Problem, problem_of
from ._settings import Secret, knows
from ._websocket import WebSocketExchange
from .parts import Part

AnyExchange = HttpExchange | WebSocketExchange
Fields = Mapping[bytes, bytes]
Step = Callable[[Any, Fields], Awaitable[bool] | None]
"""Asks a part; returns None, or what answers and then returns whether it has answered."""

ASKS_FOR_TIME: Final = b"x-request-timeout"
TRAFFIC_CLASS: Final = b"x-traffic-class"
TRAFFIC_KEY: Final = b"x-traffic-key"
_TRAFFIC: Final = {b"synthetic": "synthetic", b"load": "load"}
# A field line costs two bytes for ": " and two for its line end, and a parser's bookkeeping on top
# of that: RFC 7541 (section 4.1) counts 32 bytes a field, so a flood of empty fields is not free.
_FIELD_OVERHEAD: Final = 32
# A longer one is too large before it is even a number: 2**64 has 20 digits.
_LONGEST_LENGTH: Final = 20


class Asked(Protocol):
    """A part, by its name in the list that a team may print."""

    name: str

    def begin(self, exchange: Any, fields: Fields, /) -> Awaitable[bool] | None: ...


class Observation:
    """Begins the records of a request, and finds out what kind of traffic it is."""

    name = "telemetry"

    def __init__(
        self,
        *,
        begin: Sequence[Record],
        connect: Sequence[Record],
        quiet: Collection[str],
        traffic_key: Secret,
        blame: Callable[[Record, Exception], None],
    ) -> None:
        self._records = {False: begin, True: connect}
        self._quiet = quiet
        self._traffic_key = traffic_key
        self._blame = blame

    def begin(self, exchange: AnyExchange, fields: Fields) -> None:
        if exchange.local_path in self._quiet:
            exchange.quiet = True
        if self._traffic_key:
            is_known = knows(self._traffic_key, fields.get(TRAFFIC_KEY, b""))
            traffic = _TRAFFIC.get(fields.get(TRAFFIC_CLASS, b""), "user")
            exchange.traffic = traffic if is_known else "user"
        for record in self._records[exchange.is_socket]:
            try:
                record(exchange)
            except Exception as failure:  # noqa: BLE001 - a recorder is foreign code
                self._blame(record, failure)


class CrossOrigin:
    """Decides what pages of other origins may do, and answers their preflights."""

    name = "cors"

    def __init__(self, rules: CorsRules) -> None:
        self._rules = rules

    def begin(self, exchange: AnyExchange, fields: Fields) -> Coroutine[Any, Any, bool] | None:
        origin = fields.get(b"origin")
        exchange.fields = self._rules.decision(origin)
        if origin is None or exchange.method != "OPTIONS" or PREFLIGHT not in fields:
            return None
        return self._answer(exchange, fields)

    async def _answer(self, exchange: AnyExchange, fields: Fields) -> bool:
        exchange.request.route = PREROUTING
        await self._rules.answer(fields, exchange.reply, exchange.emit)
        return True


class Probes:
    """Answers probes and scrapes."""

    name = "probes"

    def __init__(self, doors: Mapping[str, Door]) -> None:
        self._doors = doors

    def begin(self, exchange: AnyExchange, fields: Fields) -> Coroutine[Any, Any, bool] | None:
        path = exchange.local_path
        if path not in self._doors or exchange.is_socket:
            return None
        return self._answer(exchange, path)

    async def _answer(self, exchange: AnyExchange, path: str) -> bool:
        exchange.request.route = path
        await self._doors[path](exchange.scope, exchange.emit)
        return True


class Sizes:
    """Refuses what is too large before any of its body is read."""

    name = "sizes"

    def begin(self, exchange: AnyExchange, fields: Fields) -> Coroutine[Any, Any, bool] | None:
        scope = exchange.scope
        headers = exchange.headers
        limits = exchange.rules.limits
        line = len(scope["path"]) + len(scope.get("query_string", b""))
        size = _FIELD_OVERHEAD * len(headers) + sum(map(len, chain.from_iterable(headers)))
        if line + size > limits.max_header_bytes:
            return _refuse(exchange, URI_TOO_LONG if line > size else HEADERS_TOO_LARGE)
        if b"cookie" in fields and are_costly(headers):
            return _refuse(exchange, HEADERS_TOO_LARGE)
        length = fields.get(b"content-length")
        # One that is no number is the server's business.
        if (
            length is not None
            and exchange.is_socket is False
            and length.isdigit()
            and (len(length) > _LONGEST_LENGTH or int(length) > limits.max_body_bytes)
        ):
            return self._refuse_body(exchange)
        return None

    async def _refuse_body(self, exchange: HttpExchange) -> bool:
        exchange.request.route = PREROUTING
        await exchange.refuse_unread()
        return True


async def _refuse(exchange: AnyExchange, problem: Problem) -> bool:
    exchange.request.route = PREROUTING
    await exchange.reply(problem)
    return True


class Rates:
    """Refuses what is over a rate."""

    name = "rates"

    async def begin(self, exchange: AnyExchange, fields: Fields) -> bool:
        rates = exchange.rules.rates
        request = exchange.request
        verdict = None if rates is None else await rates.judge(exchange.scope, request)
        if rates is None or verdict is None:
            return False
        if verdict.decision.allowed:
            left = verdict.fields(verdict.decision.reset_after)
            exchange.fields = (*exchange.fields, *left)
            return False
        problem, left = rates.refusal(verdict, request)
        exchange.fields = (*exchange.fields, *left)
        await exchange.reply(problem)
        return True


class Deadlines:
    """Gives a request its deadline, and refuses what is late already or comes in a drain."""

    name = "deadlines"

    def __init__(self, running: RunningRequests, observe: Observer) -> None:
        self._running = running
        self._observe = observe

    def begin(self, exchange: AnyExchange, fields: Fields) -> Coroutine[Any, Any, bool] | None:
        request = exchange.request
        request.limit = limit = exchange.rules.timeout
        request.deadline = request.started + limit
        is_late = ASKS_FOR_TIME in fields and self._has_too_little(request, exchange.headers)
        if self._running.is_closed:
            return self._refuse(exchange, DRAINING)
        if is_late:
            self._observe(DeadlineExceeded("caller" if request.deadline_is_callers else "ingress"))
            return self._refuse(exchange, problem_of(DeadlineExceededError("request")))
        return None

    def _has_too_little(self, request: RequestContext, headers: Headers) -> bool:
        """Give a request the time that its caller asks for; return whether that is up."""
        caller_timeout = asked_timeout(headers)
        seconds = min(caller_timeout, request.limit)
        request.caller_timeout = caller_timeout
        request.deadline = request.started + seconds
        # What the outer parts took counts too, but only a caller can give so little that it
        # matters.
        return seconds <= 0 or (caller_timeout < math.inf and request.age() >= seconds)

    async def _refuse(self, exchange: AnyExchange, problem: Problem) -> bool:
        exchange.request.error_type = problem.error_type
        return await _refuse(exchange, problem)


class OfTheTeam:
    """Asks a part that a team has added."""

    def __init__(self, part: Part) -> None:
        self.name: str = part.name
        self._part = part

    def begin(self, exchange: AnyExchange, fields: Fields) -> Coroutine[Any, Any, bool] | None:
        decision = self._part.decide(exchange)
        return None if decision is None else self._answer(exchange, decision)

    async def _answer(
        self, exchange: AnyExchange, decision: Problem | Awaitable[Problem | None]
    ) -> bool:
        problem = await decision if isawaitable(decision) else decision
        if problem is None:
            return False
        exchange.request.error_type = problem.error_type
        return await _refuse(exchange, problem)
