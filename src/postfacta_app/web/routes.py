"""The rules of the route table: access, limits, request and response of each route."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from postfacta_core.deadlines.requests import limit_request
from postfacta_core.errors import ResilienceError
from postfacta_core.limits._overload import Priority

from ..errors import ForbiddenError, MethodNotAllowedError, RateLimitedError, UnauthenticatedError
from ..principal import Access, Principal
from ..problems import keep_private
from .forms import is_same_origin, keep_typed

Handler = Callable[[Request, Principal], Awaitable[Response]]
PRINCIPAL = "postfacta.principal"  # the scope key of a request's sender, once authenticated


class RouteClass(StrEnum):
    """The kind of work of a route, and what follows from it."""

    seconds: float  # its deadline from the start of the request; a caller may request a shorter one
    body_bytes: int  # the most of its body
    priority: Priority  # how much it matters under overload
    rate: str  # which limit of signed-in callers counts it; empty for none

    PROBE = "probe", 1.0, 0, Priority.CRITICAL_PLUS, ""
    READ = "read", 2.0, 0, Priority.SHEDDABLE_PLUS, "read"
    SEARCH = "search", 5.0, 0, Priority.SHEDDABLE, "read"
    WRITE = "write", 5.0, 1_048_576, Priority.CRITICAL, "write"
    INGEST = "ingest", 10.0, 4_194_304, Priority.SHEDDABLE_PLUS, "ingest"
    AUTH = "auth", 5.0, 16_384, Priority.CRITICAL, ""

    def __new__(cls, name: str, *what: Any) -> Self:
        made = str.__new__(cls, name)
        made._value_ = name
        made.seconds, made.body_bytes, made.priority, made.rate = what
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row of the route table."""

    method: str  # GET includes HEAD
    path: str
    handler: Handler  # called with the request and the caller once access is granted
    access: Access
    route_class: RouteClass
    summary: str = ""  # for the OpenAPI document; empty leaves the route out of it (pages)
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    # The model of each success status; None for no body.
    answers: Mapping[int, type[BaseModel] | None] = field(default_factory=dict[int, type[BaseModel] | None])
    also: Sequence[str] = ()  # the media types of a 200 besides JSON
    problems: Sequence[str] = ()  # slugs besides those of every route
    headers: Mapping[str, bool] = field(
        default_factory=dict[str, bool]
    )  # it reads, and whether each is required
    stale: bool = False  # replays responses that the handler declares free of private data: see `allow_stale`
    only_5xx: bool = (
        False  # its callers retry after 5xx but not after 429: they get 503 for an exceeded limit
    )


Admit = Callable[[Request, Rule], Awaitable[Principal]]
"""Returns the sender of a request; raises if its credentials are wrong, or a limit is exceeded."""


def build_routes(rules: Iterable[Rule], admit: Admit) -> list[Route]:
    """Create one Starlette route for each path, so that a 405 can list all its methods."""
    paths: dict[str, dict[str, Rule]] = {}
    for rule in rules:
        methods = paths.setdefault(rule.path, {})
        if methods.setdefault(rule.method, rule) is not rule:
            msg = f"two rules for {rule.method} {rule.path}"
            raise ValueError(msg)
        if rule.method == "GET":
            methods["HEAD"] = rule
    return [Route(path, _Endpoint(methods, admit)) for path, methods in paths.items()]


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """The endpoint of one path. A class, so that Starlette leaves method checks to it."""

    rules: Mapping[str, Rule]
    admit: Admit

    async def __call__(self, scope: dict[str, object], receive: object, send: object) -> None:
        request = Request(scope, receive, send)  # type: ignore[arg-type]
        try:
            response = await self._answer(request)
        except (RateLimitedError, ResilienceError):
            await keep_typed(request)
            raise
        except UnauthenticatedError:
            # The session may have ended while the form was filled in. Cross-site requests are not read.
            if is_same_origin(request.headers):
                await keep_typed(request)
            raise
        keep_private(request.scope["path"], response)
        await response(scope, receive, send)  # type: ignore[arg-type]

    async def _answer(self, request: Request) -> Response:
        rule = self.rules.get(request.scope["method"])
        if rule is None:
            path = request.scope["path"]
            detail = f"Method '{request.method}' is not allowed for '{path}'"
            raise MethodNotAllowedError(detail, headers={"Allow": ", ".join(sorted(self.rules))})
        limit_request(rule.route_class.seconds)
        principal = await self.admit(request, rule)
        request.scope[PRINCIPAL] = principal
        if not principal.may(rule.access):
            if not principal.is_signed_in:
                raise UnauthenticatedError(
                    "Send a bearer token, or sign in at /signin", headers={"WWW-Authenticate": "Bearer"}
                )
            raise ForbiddenError(f"This needs '{rule.access}' rights, which {principal.name} does not have")
        return await rule.handler(request, principal)
