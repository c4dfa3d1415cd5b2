"""The shape of the route table: what each route is, asks of its caller, takes in, and answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from postfacta_core.aio.deadline import limit_request
from postfacta_core.errors import LoadShedError, ResilienceError

from .errors import ForbiddenError, MethodNotAllowedError, RateLimitedError, UnauthenticatedError
from .principal import Access, Principal
from .problems import keep_private
from .web.forms import is_same_origin, keep_typed
from .web.stale import StaleAnswers

__all__ = ["PRINCIPAL", "Authenticate", "Handler", "RouteClass", "Rule", "Spend", "build_routes"]

Handler = Callable[[Request, Principal], Awaitable[Response]]
Authenticate = Callable[[Request], Awaitable[Principal]]
"""Tells who sends a request."""
PRINCIPAL = "postfacta.principal"
"""Where the scope of a request says who sends it, once that is known."""


class RouteClass(StrEnum):
    """What kind of work a route does, and so how much it may be sent and how long it may take."""

    PROBE = "probe"
    READ = "read"
    SEARCH = "search"
    WRITE = "write"
    INGEST = "ingest"
    AUTH = "auth"

    @property
    def body_bytes(self) -> int:
        """The largest body it takes."""
        return _BODY_BYTES.get(self, 0)

    @property
    def seconds(self) -> float:
        """Its deadline, from the request's beginning; a caller may ask for less."""
        return _SECONDS[self]


_SECONDS = {
    RouteClass.PROBE: 1.0,
    RouteClass.READ: 2.0,
    RouteClass.SEARCH: 5.0,
    RouteClass.WRITE: 5.0,
    RouteClass.INGEST: 10.0,
    RouteClass.AUTH: 5.0,
}
_BODY_BYTES = {RouteClass.WRITE: 1_048_576, RouteClass.INGEST: 4_194_304, RouteClass.AUTH: 16_384}


Spend = Callable[[Principal, RouteClass], Awaitable[None]]
"""Counts a request for whoever sends it, and raises if it is one too many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row of the table.

    Attributes:
        method: The HTTP method; GET answers HEAD too.
        path: A Starlette path template.
        handler: Called with the request and whoever asks, once access is granted.
        access: What the caller must be allowed.
        route_class: Its kind, which sets its limits.
        summary: One line for the OpenAPI document; empty leaves the route out of it (pages).
        body: The model of the JSON body, `body_type` its media type.
        query: The model of the query parameters.
        answers: Status to model, or to None for no body.
        also: The media types that a 200 may have beside JSON.
        problems: The problem slugs this route adds to those that every route may answer.
        headers: Request headers it reads, such as `If-Match`, with whether each is required.
        stale: Whether its last answer may be given again while the database is away. The handler must also say of
            each answer that it shows nothing private: see `allow_stale`.
        only_5xx: Whether its callers try again after 5xx alone, and give up after 429: then a rate limit is told by
            503.
    """

    method: str
    path: str
    handler: Handler
    access: Access
    route_class: RouteClass
    summary: str = ""
    body: type[BaseModel] | None = None
    body_type: str = "application/json"
    query: type[BaseModel] | None = None
    answers: Mapping[int, type[BaseModel] | None] = field(default_factory=dict[int, type[BaseModel] | None])
    also: Sequence[str] = ()
    problems: Sequence[str] = ()
    headers: Mapping[str, bool] = field(default_factory=dict[str, bool])
    stale: bool = False
    only_5xx: bool = False


def build_routes(
    rules: Iterable[Rule],
    authenticate: Authenticate,
    *,
    spend: Spend | None = None,
    stale: StaleAnswers | None = None,
) -> list[Route]:
    """Make one Starlette route for each path, so that a 405 can name every method of it."""
    paths: dict[str, dict[str, Rule]] = {}
    for rule in rules:
        methods = paths.setdefault(rule.path, {})
        if rule.method in methods:
            msg = f"two rules for {rule.method} {rule.path}"
            raise ValueError(msg)
        methods[rule.method] = rule
    return [
        Route(path, _Endpoint(methods, authenticate, spend=spend, stale=stale))
        for path, methods in paths.items()
    ]


class _Endpoint:
    """Answer the methods of one path. A class, so that Starlette leaves the methods to it."""

    def __init__(
        self,
        rules: Mapping[str, Rule],
        authenticate: Authenticate,
        *,
        spend: Spend | None,
        stale: StaleAnswers | None,
    ) -> None:
        self._rules = dict(rules)
        if "GET" in rules:
            self._rules.setdefault("HEAD", rules["GET"])
        self._authenticate = authenticate
        self._spend = spend
        self._stale = stale

    async def __call__(self, scope: dict[str, object], receive: object, send: object) -> None:
        request = Request(scope, receive, send)  # type: ignore[arg-type]
        try:
            response = await self._answer(request)
        except (RateLimitedError, ResilienceError):
            await keep_typed(request)
            raise
        except UnauthenticatedError:
            # Somebody's session may have ended while he wrote. What a page of others sends is not even read.
            if is_same_origin(request.headers):
                await keep_typed(request)
            raise
        keep_private(request.scope["path"], response)
        await response(scope, receive, send)  # type: ignore[arg-type]

    async def _answer(self, request: Request) -> Response:
        rule = self._rules.get(request.method)
        if rule is None:
            path = request.scope["path"]
            detail = f"Method '{request.method}' is not allowed for '{path}'"
            raise MethodNotAllowedError(detail, headers={"Allow": ", ".join(sorted(self._rules))})
        limit_request(rule.route_class.seconds)
        principal = await self._admit(request, rule)
        request.scope[PRINCIPAL] = principal
        if not principal.may(rule.access):
            if not principal.is_signed_in:
                raise UnauthenticatedError(
                    "Send a token, or sign in at /signin", headers={"WWW-Authenticate": "Bearer"}
                )
            raise ForbiddenError(f"This needs '{rule.access}' rights, which {principal.name} does not have")
        if rule.stale and self._stale is not None:
            return await self._stale.answer(request, principal, rule.handler)
        return await rule.handler(request, principal)

    async def _admit(self, request: Request, rule: Rule) -> Principal:
        try:
            principal = await self._authenticate(request)
            if self._spend is not None:
                await self._spend(principal, rule.route_class)
        except RateLimitedError as error:
            if not rule.only_5xx:
                raise
            raise LoadShedError(rule.route_class, float(error.headers["Retry-After"])) from error
        return principal
