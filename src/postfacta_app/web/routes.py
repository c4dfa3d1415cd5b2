"""The table of routes: who may call each, within which limits, and what a call works with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Any, Final, Self, TypeVar

from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from postfacta_core.clock import WALL, Clock
from postfacta_core.deadlines import TransferLimits
from postfacta_core.deadlines.requests import limit_request
from postfacta_core.errors import ResilienceError
from postfacta_core.limits import Priority
from postfacta_web.stale import StaleAnswers

from .. import errors
from ..db import Transactions, Work
from ..principal import Access, Principal
from .forms import Typed, is_same_origin, keep_typed, received, same_input
from .render import Pages

T = TypeVar("T")
Handler = Callable[["Call"], Awaitable[Response]]
PRINCIPAL = "postfacta.principal"  # the scope key of a request's sender, once authenticated
_NOTHING: Final = Typed()
# Bytes below which compression is no gain; level 4 takes about 1 ms for the largest page, and saves
# within a tenth of what level 9 does.
packed: Final = partial(GZipMiddleware, minimum_size=1024, compresslevel=4)


class RouteClass(StrEnum):
    """The kind of work of a route, and what follows from it."""

    seconds: float  # its deadline from the start of the request; a caller may request a shorter one
    limits: TransferLimits  # of its body
    priority: Priority  # how much it matters under overload
    rate: str  # which limit of signed-in callers counts it; empty for none

    PROBE = "probe", 1.0, 0, Priority.CRITICAL_PLUS, ""
    READ = "read", 2.0, 0, Priority.SHEDDABLE_PLUS, "read"
    SEARCH = "search", 5.0, 0, Priority.SHEDDABLE, "read"
    WRITE = "write", 5.0, 1_048_576, Priority.CRITICAL, "write"
    INGEST = "ingest", 10.0, 4_194_304, Priority.SHEDDABLE_PLUS, "ingest"
    # No more important than reads: a sign-in precedes no request of a signed-in caller.
    AUTH = "auth", 5.0, 16_384, Priority.SHEDDABLE_PLUS, ""

    def __new__(cls, name: str, *properties: Any) -> Self:
        member = str.__new__(cls, name)
        member._value_ = name
        member.seconds, max_body_bytes, member.priority, member.rate = properties
        member.limits = TransferLimits(max_body_bytes=max_body_bytes)
        return member


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row of the route table."""

    method: str  # GET includes HEAD
    path: str
    handler: Handler  # called once access is granted
    access: Access
    route_class: RouteClass
    noun: str = ""  # what it is about, as errors call it
    summary: str = ""  # for the OpenAPI document; empty leaves the route out of it (pages)
    # Its id there, if a verb of HTTP and the nouns of the path make none that reads well.
    operation: str = ""
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    # The model of each success status; None for no body.
    answers: Mapping[int, type[BaseModel] | None] = field(
        default_factory=dict[int, type[BaseModel] | None]
    )
    also: Sequence[str] = ()  # the media types of a 200 besides JSON
    problems: Sequence[str] = ()  # slugs besides those of every route
    # The request headers that it reads, and whether each is required.
    headers: Mapping[str, bool] = field(default_factory=dict[str, bool])
    # Replays responses that the handler declares free of private data: see `allow_stale`.
    stale: bool = False
    # Its callers retry after 5xx but not after 429, so an exceeded limit is a 503.
    only_5xx: bool = False


Admit = Callable[[Request, Rule], Awaitable[Principal]]
"""Returns the sender of a request; raises if its credentials are wrong, or a limit is exceeded."""


def build_routes(rules: Iterable[Rule], admit: Admit, tools: Tools) -> list[Route]:
    """Create one Starlette route for each path, so that a 405 can list all its methods."""
    paths: dict[str, dict[str, Rule]] = {}
    for rule in rules:
        methods = paths.setdefault(rule.path, {})
        if methods.setdefault(rule.method, rule) is not rule:
            raise ValueError(f"two rules for {rule.method} {rule.path}")
        if rule.method == "GET":
            methods["HEAD"] = rule
    return [
        Route(path, _packed(path, _Endpoint(methods, admit, tools)))
        for path, methods in paths.items()
    ]


def _packed(path: str, endpoint: _Endpoint) -> ASGIApp:
    """Compress pages. Machines get JSON as it is, from a network that is faster than zlib."""
    if path.startswith("/api/"):
        return endpoint
    return packed(endpoint)


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """The endpoint of one path. A class, so that Starlette leaves method checks to it."""

    rules: Mapping[str, Rule]
    admit: Admit
    tools: Tools

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        rule = self.rules.get(request.method)
        if rule is None:
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(self.rules))})
        limit_request(rule.route_class.seconds)
        now = datetime.fromtimestamp(self.tools.clock(), UTC)
        try:
            principal = scope[PRINCIPAL] = await self.admit(request, rule)
            if not principal.may(rule.access):
                raise _refusal(rule, principal)
            call = Call(request, principal, self.tools, rule.noun, now)
            if rule.stale:
                response = await self.tools.stale.answer(
                    request, principal, lambda _: rule.handler(call)
                )
            else:
                response = await rule.handler(call)
        except (errors.RateLimitedError, ResilienceError, errors.UnauthenticatedError) as error:
            # The session may have ended while the form was filled in. Cross-site requests are not
            # read.
            has_session = not isinstance(error, errors.UnauthenticatedError)
            if has_session or is_same_origin(request.headers):
                await keep_typed(request, now)
            raise
        keep_private(request.scope["path"], response)
        await response(scope, receive, send)


def _refusal(rule: Rule, principal: Principal) -> errors.AppError:
    if principal.is_signed_in:
        detail = f"This needs '{rule.access}' rights, which {principal.name} does not have"
        return errors.ForbiddenError(detail)
    detail = "Send a bearer token, or sign in at /signin"
    return errors.UnauthenticatedError(detail, headers={"WWW-Authenticate": "Bearer"})


def keep_private(path: str, response: Response) -> None:
    """Keep caches from sharing API responses, or reusing them without revalidation."""
    if path.startswith("/api/"):
        headers = response.raw_headers
        names = [name for name, _ in headers]
        if b"cache-control" not in names:
            headers.append((b"cache-control", b"private, no-cache"))
        if b"vary" in names:
            response.headers.add_vary_header("Authorization, Cookie")
        else:
            headers.append((b"vary", b"Authorization, Cookie"))


@dataclass(frozen=True, slots=True)
class Tools:
    """What the routes of every slice work with.

    `parts` are what some need besides, by their type.
    """

    transactions: Transactions
    pages: Pages
    stale: StaleAnswers
    clock: Clock = WALL
    parts: Sequence[object] = ()

    def part(self, of: type[T]) -> T:
        return next(part for part in self.parts if isinstance(part, of))


@dataclass(slots=True)
class Call:
    """A request, from which the parameters of its function are filled."""

    request: Request
    principal: Principal
    tools: Tools
    noun: str  # what the route is about
    now: datetime  # when the request came
    fields: dict[str, str] = field(default_factory=dict[str, str])  # the input of a form
    typed: Typed = _NOTHING  # the same, if it was not saved
    # Called once the request is over, saved or not.
    afterwards: list[Callable[[], object]] = field(default_factory=list[Callable[[], object]])

    @property
    def received(self) -> datetime:
        """When the request came; of a form that is sent again, when it came first."""
        return received(self.fields, self.now)

    async def write(self, work: Work, key: str | None = None) -> Response:
        """Run a transaction of the caller, then what must happen once it is over."""
        try:
            content = same_input(self.fields) if self.fields else None
            return await self.tools.transactions.write(
                self.request, self.principal, work, key=key, content=content
            )
        finally:
            for act in self.afterwards:
                act()
