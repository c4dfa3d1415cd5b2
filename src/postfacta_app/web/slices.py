"""A route is a function: its signature says what it reads, its return type what it responds.

    @routes.api("POST /api/v1/incidents/{ref}/action-items", WRITE, "Create an action item", once=True)
    async def add(unit: Unit, ref: Ref, new: NewAction) -> Action: ...

The first parameter is what it works with: `Unit` is a transaction, `Snapshot` one that only reads, `Reader` reads without
one. The others are filled by type: a model is the JSON body, the fields of a form, or the query of a GET; `UUID`, `int`
and enums are parts of the path; `Matches` checks `If-Match`, `Now` is the clock. An app adds types of its own with `Fill`.
All are filled before the transaction begins, so a malformed request never reaches the database. The OpenAPI document
follows from the same signature.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache, partial
from types import CoroutineType, MappingProxyType
from typing import Annotated, Any, Final, Generic, Self, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from postfacta_adapters.conditional import check_if_match, idempotency_key, is_not_modified
from postfacta_adapters.stale import StaleAnswers
from postfacta_core.clock import WALL, Clock
from postfacta_core.deadlines._limits import TransferLimits
from postfacta_core.deadlines.requests import limit_request
from postfacta_core.errors import ResilienceError
from postfacta_core.limits._overload import Priority

from .. import errors
from ..aside import aside
from ..db import Query, Reader, Transactions, Unit, Work
from ..principal import Access, Principal
from .body import next_link, read_body, read_query
from .forms import Typed, attempt, formed, is_same_origin, keep_typed, read_form
from .render import Pages

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
Function = Callable[..., Awaitable[Any]]
F = TypeVar("F", bound=Function)
Handler = Callable[["Call"], Awaitable[Response]]
PRINCIPAL = "postfacta.principal"  # the scope key of a request's sender, once authenticated

_ONCE = ("idempotency-in-progress", "idempotency-mismatch", "conflict")
_VERSIONED = ("precondition-failed", "precondition-required", "conflict")
_REDIRECTED = 300
_NOTHING: Final = Typed()


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
    AUTH = "auth", 5.0, 16_384, Priority.CRITICAL, ""

    def __new__(cls, name: str, *what: Any) -> Self:
        made = str.__new__(cls, name)
        made._value_ = name
        made.seconds, most, made.priority, made.rate = what
        made.limits = TransferLimits(max_body_bytes=most)
        return made


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
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    # The model of each success status; None for no body.
    answers: Mapping[int, type[BaseModel] | None] = field(default_factory=dict[int, type[BaseModel] | None])
    also: Sequence[str] = ()  # the media types of a 200 besides JSON
    problems: Sequence[str] = ()  # slugs besides those of every route
    # It reads, and whether each is required.
    headers: Mapping[str, bool] = field(default_factory=dict[str, bool])
    stale: bool = False  # replays responses that the handler declares free of private data: see `allow_stale`
    only_5xx: bool = False  # its callers retry after 5xx but not after 429, so an exceeded limit is a 503


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
    return [Route(path, _Endpoint(methods, admit, tools)) for path, methods in paths.items()]


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """The endpoint of one path. A class, so that Starlette leaves method checks to it."""

    rules: Mapping[str, Rule]
    admit: Admit
    tools: Tools

    async def __call__(self, scope: dict[str, object], receive: object, send: object) -> None:
        request = Request(scope, receive, send)  # type: ignore[arg-type]
        rule = self.rules.get(request.method)
        if rule is None:
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(self.rules))})
        limit_request(rule.route_class.seconds)
        try:
            principal = scope[PRINCIPAL] = await self.admit(request, rule)
            if not principal.may(rule.access):
                raise _refusal(rule, principal)
            call = Call(request, principal, self.tools, rule.noun)
            if rule.stale:
                response = await self.tools.stale.answer(request, principal, lambda _: rule.handler(call))
            else:
                response = await rule.handler(call)
        except (errors.RateLimitedError, ResilienceError, errors.UnauthenticatedError) as error:
            # The session may have ended while the form was filled in. Cross-site requests are not read.
            if not isinstance(error, errors.UnauthenticatedError) or is_same_origin(request.headers):
                await keep_typed(request)
            raise
        keep_private(request.scope["path"], response)
        await response(scope, receive, send)  # type: ignore[arg-type]


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
    """What the routes of every slice work with; `parts` are what some need besides, by their type."""

    transactions: Transactions
    pages: Pages
    stale: StaleAnswers
    clock: Clock = WALL
    parts: Sequence[object] = ()

    def part(self, of: type[T]) -> T:
        return next(it for it in self.parts if isinstance(it, of))


@dataclass(slots=True)
class Call:
    """A request, from which the parameters of its function are filled."""

    request: Request
    principal: Principal
    tools: Tools
    noun: str  # what the route is about
    fields: dict[str, str] = field(default_factory=dict[str, str])  # the input of a form
    typed: Typed = _NOTHING  # the same, if it was not saved
    # Called once the request is over, saved or not.
    afterwards: list[Callable[[], object]] = field(default_factory=list[Callable[[], object]])

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.tools.clock(), UTC)

    async def write(self, work: Work, key: str | None = None) -> Response:
        """Run a transaction of the caller, then what must happen once it is over."""
        try:
            return await self.tools.transactions.write(self.request, self.principal, work, key=key)
        finally:
            for act in self.afterwards:
                act()


@dataclass(frozen=True, slots=True)
class Fill:
    """Says how parameters of an annotated type are filled: from the call, and their name."""

    of: Callable[[Call, str], Any]


def part(of: type[T]) -> Fill:
    return Fill(lambda call, _: call.tools.part(of))


def _matches(call: Call, _: str) -> Callable[[str], None]:
    if "version" not in call.fields:
        return partial(check_if_match, call.request)

    def of_form(etag: str) -> None:
        if etag.rpartition("-")[2] != f'{call.fields["version"]}"':
            detail = f"This {call.noun} was changed by someone else in the meantime. Check its current state, then repeat your change."
            raise errors.PreconditionFailedError(detail)

    return of_form


Fields = Annotated[Mapping[str, str], Fill(lambda call, _: call.fields)]  # the input of a form
Matches = Annotated[Callable[[str], None], Fill(_matches)]
"""Raises if the caller did not start from the version with this ETag."""
Now = Annotated[datetime, Fill(lambda call, _: call.now)]  # the time of the request
Snapshot = Annotated[Unit, "snapshot"]  # a transaction that only reads: all its queries see the same state
WORKS_IN: Final[Mapping[Any, Any]] = {Unit: Unit, Snapshot: Snapshot, Reader: Reader, Query: Reader}


@dataclass(frozen=True, slots=True)
class Reply(Generic[M]):
    """A value with another status than that of its route, or further headers."""

    value: M
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Page:
    """A template and what it shows."""

    template: str
    context: Mapping[str, object]
    status: int = 200
    size: int = 0  # its approximate bytes; a large page is rendered in a thread
    # Works out the rest of what it shows, there, once the transaction is over.
    more: Callable[[], Mapping[str, object]] = dict[str, object]


def as_json(status: int, body: BaseModel, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body.__pydantic_serializer__.to_json(body), status, headers, "application/json")


def answer(request: Request, value: BaseModel | Reply[Any] | Response | None, status: int = 200) -> Response:
    """Return the response that shows a value, with its ETag and the link to the next page."""
    if value is None or isinstance(value, Response):
        return value or Response(status_code=204)
    shown: Any = value
    more: Mapping[str, str] = {}
    if isinstance(value, Reply):
        shown, status, more = value.value, value.status, value.headers
    has_etag, has_cursor = _shows(shown.__class__)
    headers: dict[str, str] = {"ETag": shown.etag} if has_etag else {}
    if has_cursor:
        headers |= next_link(request, shown.next_cursor)
    return as_json(status, shown, {**headers, **more})


@cache
def _shows(model: type[BaseModel]) -> tuple[bool, bool]:
    """Return whether it has an ETag, and whether a cursor; a model takes long to say that it has no such attribute."""
    return hasattr(model, "etag"), "next_cursor" in model.model_fields


class _Plan:
    """What the signature of a function says; read once, when its route is declared."""

    def __init__(self, function: Function, read_model: Callable[[Call, type[BaseModel]], Any]) -> None:
        hints = get_type_hints(function, include_extras=True)
        returns = hints.pop("return")
        returns = getattr(returns, "__metadata__", (returns,))[0]  # Of a response, the model of its body.
        returns = get_args(returns)[0] if get_origin(returns) is Reply else returns
        first = next(iter(hints), "")
        self.function = function
        self.works_in = WORKS_IN[hints.pop(first)] if hints.get(first) in WORKS_IN else None
        self.fills = [(name, _fill(of, read_model)) for name, of in hints.items()]
        self.model = next((of for of in hints.values() if _is_model(of)), None)
        self.returns = returns if _is_model(returns) else None
        self.is_versioned = Matches in hints.values()

    async def arguments(self, call: Call) -> dict[str, Any]:
        given: dict[str, Any] = {}
        for name, fill in self.fills:
            value = fill(call, name)
            given[name] = await value if type(value) is CoroutineType else value
        return given

    async def read(self, call: Call) -> Any:
        function = partial(self.function, **await self.arguments(call))
        if self.works_in is None:
            return await function()
        if self.works_in is Reader:
            return await function(call.tools.transactions.reader(call.principal))
        return await call.tools.transactions.read(call.principal, function)

    async def write(self, call: Call, show: Callable[[Any], Response], key: str | None) -> Response:
        given = await self.arguments(call)

        async def work(unit: Unit) -> Response:
            return show(await self.function(unit, **given))

        return await call.write(work, key)

    async def show(self, call: Call) -> Response:
        """Return the page that it returns, or go where it says."""
        shown = await self.read(call)
        if isinstance(shown, str):
            return _go(shown)
        if isinstance(shown, Response):
            return shown
        refusal = call.typed.refusal
        status, headers = (refusal.status, refusal.headers) if refusal else (shown.status, None)

        def drawn() -> Response:
            context = {"principal": call.principal, "typed": call.typed, **shown.context, **shown.more()}
            return call.tools.pages.page(shown.template, context, status=status, headers=headers)

        return await aside(shown.size, drawn)


def _fill(of: Any, read_model: Callable[[Call, type[BaseModel]], Any]) -> Callable[[Call, str], Any]:
    if own := [it for it in getattr(of, "__metadata__", ()) if isinstance(it, Fill)]:
        return own[0].of
    if of is Typed:
        return lambda call, _: call.typed
    if of is Request:
        return lambda call, _: call.request
    return (lambda call, _: read_model(call, of)) if _is_model(of) else partial(from_path, of)


def _is_model(of: object) -> bool:
    return isinstance(of, type) and issubclass(of, BaseModel)


def from_path(of: Callable[[str], Any], call: Call, name: str) -> Any:
    try:
        return of(str(call.request.path_params[name]))
    except ValueError:
        raise errors.NotFoundError(f"No such {call.noun}") from None


class Routes:
    """The routes of one slice in the order of their declaration; errors call what they are about a `noun`."""

    def __init__(self, noun: str) -> None:
        self._noun = noun
        self.rules: list[Rule] = []

    def api(
        self,
        route: str,
        access: Access,
        summary: str,
        *,
        status: int | tuple[int, ...] | None = None,
        kind: RouteClass | None = None,
        once: bool = False,
        conditional: bool = False,
        problems: Sequence[str] = (),
        headers: Mapping[str, bool] = MappingProxyType({}),
        reads: type[BaseModel] | None = None,
        **more: Any,
    ) -> Callable[[F], F]:
        """Declare an operation of the API, such as `GET /api/v1/incidents`; `Rule` says what the others mean.

        `status` is that of success, or several if the function returns `Reply`. `kind` is by default a write, a search (a
        GET with a cursor) or a read. With `once`, `Idempotency-Key` makes a repeat safe; with `conditional`,
        `If-None-Match` may get a 304. `reads` is the model of what the function reads by itself.
        """
        method, _, path = route.partition(" ")
        is_read = method == "GET"

        def declare(function: F) -> F:
            plan = _Plan(function, _of_query if is_read else lambda call, of: read_body(call.request, of))
            usual = 204 if plan.returns is None else 201 if method == "POST" else 200
            statuses = status if isinstance(status, tuple) else (status or usual,)

            async def handle(call: Call) -> Response:
                show = partial(answer, call.request, status=statuses[0])
                if plan.works_in is Unit:
                    return await plan.write(call, show, idempotency_key(call.request) if once else None)
                value = await plan.read(call)
                if isinstance(value, Response):
                    return value
                if conditional and is_not_modified(call.request, value.etag):
                    return Response(status_code=304, headers={"ETag": value.etag})
                return show(value)

            is_list = is_read and plan.model is not None and "cursor" in plan.model.model_fields
            answers = {status: plan.returns if status < _REDIRECTED else None for status in statuses}
            usual_class = RouteClass.SEARCH if is_list else RouteClass.READ if is_read else RouteClass.WRITE
            self._add(
                method,
                path,
                handle,
                access=access,
                summary=summary,
                route_class=kind or usual_class,
                **{"query" if is_read else "body": reads or plan.model},
                answers=answers | ({304: None} if conditional else {}),
                problems=(
                    *problems,
                    *(_ONCE if once else ()),
                    *(_VERSIONED if plan.is_versioned else ()),
                    *(("conflict",) if plan.works_in is Unit else ()),
                    *(("invalid-cursor",) if is_list else ()),
                ),
                headers={
                    **({"If-None-Match": False} if conditional else {}),
                    **headers,
                    **({"If-Match": True} if plan.is_versioned else {}),
                    **({"Idempotency-Key": False} if once else {}),
                },
                **more,
            )
            return function

        return declare

    def page(
        self, route: str, access: Access, *, kind: RouteClass = RouteClass.READ, stale: bool = False
    ) -> Callable[[F], F]:
        """Declare a page; its function returns a `Page`, and gets what was `Typed` if it shows a form again."""
        method, _, path = route.rpartition(" ")

        def declare(function: F) -> F:
            show = _Plan(function, _of_page).show
            self._add(method or "GET", path, show, access=access, route_class=kind, stale=stale)
            return function

        return declare

    def form(
        self, path: str, access: Access, *, again: Function, kind: RouteClass = RouteClass.WRITE
    ) -> Callable[[F], F]:
        """Declare what a form sends; its function returns where to go, or a page. If it is not saved, `again` shows one."""
        page = _Plan(again, _of_page)

        def declare(function: F) -> F:
            plan = _Plan(function, lambda call, of: formed(of, call.fields, call.now))

            async def handle(call: Call) -> Response:
                call.fields = await read_form(call.request, call.principal)
                is_unit, key = plan.works_in is Unit, call.fields.get("key")
                done = await attempt(plan.write(call, _go, key) if is_unit else plan.show(call))
                if isinstance(done, Response):
                    return done
                call.typed = Typed(call.fields, done)
                return await page.show(call)

            self._add("POST", path, handle, access=access, route_class=kind)
            return function

        return declare

    def _add(self, method: str, path: str, handle: Handler, **about: Any) -> None:
        self.rules.append(Rule(method=method, path=path, handler=handle, noun=self._noun, **about))


def _of_query(call: Call, of: type[BaseModel], *, is_page: bool = False) -> BaseModel:
    return read_query(call.request.query_params, of, is_page=is_page)


_of_page: Final = partial(_of_query, is_page=True)


def _go(place: str) -> Response:
    return Response(status_code=303, headers={"Location": place})
