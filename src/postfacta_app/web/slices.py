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

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, partial
from types import CoroutineType, MappingProxyType
from typing import Annotated, Any, Final, Generic, TypeVar, cast, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from postfacta_adapters.stale import StaleAnswers
from postfacta_core.clock import WALL, Clock

from ..aside import aside
from ..db import Answer, Query, Reader, Transactions, Unit, Work
from ..errors import NotFoundError, PreconditionFailedError
from ..principal import Access, Principal
from .body import idempotency_key, if_match, if_none_match, read_body, read_query
from .forms import Typed, attempt, formed, read_form
from .paging import next_link
from .render import Pages
from .routes import RouteClass, Rule

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
Handler = Callable[..., Awaitable[Any]]
H = TypeVar("H", bound=Handler)

_ONCE = ("idempotency-in-progress", "idempotency-mismatch", "conflict")
_VERSIONED = ("precondition-failed", "precondition-required", "conflict")
_CREATED, _REDIRECTED = 201, 300


NOTHING: Final = Typed()


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
    noun: str  # what the routes of the slice are about
    fields: dict[str, str] = field(default_factory=dict[str, str])  # the input of a form
    typed: Typed = NOTHING  # the same, if it was not saved
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
    def found(call: Call, _: str) -> T:
        return call.tools.part(of)

    return Fill(found)


def _matches(call: Call, _: str) -> Callable[[str], None]:
    if "version" not in call.fields:
        return partial(if_match, call.request)

    def of_form(etag: str) -> None:
        if etag.rpartition("-")[2] != f'{call.fields["version"]}"':
            detail = f"This {call.noun} was changed by someone else in the meantime. Check its current state, then repeat your change."
            raise PreconditionFailedError(detail)

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


def made(value: M, *, is_new: bool) -> Reply[M]:
    """Return 201 for what was created, 200 for what was there already."""
    return Reply(value, _CREATED if is_new else 200)


@dataclass(frozen=True, slots=True)
class Page:
    """A template and what it shows."""

    template: str
    context: Mapping[str, object]
    status: int = 200
    size: int = 0  # its approximate bytes; a large page is rendered in a thread
    headers: Mapping[str, str] | None = None
    # Works out the rest of what it shows, there, once the transaction is over.
    more: Callable[[], Mapping[str, object]] = dict[str, object]


def answer(request: Request, value: BaseModel | Reply[Any] | Answer | None, status: int = 200) -> Answer:
    """Return the response that shows a value, with its ETag and the link to the next page."""
    if value is None or isinstance(value, Answer):
        return value or Answer(204)
    shown: Any = value
    more: Mapping[str, str] = {}
    if isinstance(value, Reply):
        shown, status, more = value.value, value.status, value.headers
    has_etag, has_cursor = _shows(shown.__class__)
    headers: dict[str, str] = {"ETag": shown.etag} if has_etag else {}
    if has_cursor:
        headers |= next_link(request, shown.next_cursor)
    return Answer.of(status, shown, {**headers, **more})


@cache
def _shows(model: type[BaseModel]) -> tuple[bool, bool]:
    """Return whether it has an ETag, and whether a cursor; a model takes long to say that it has no such attribute."""
    return hasattr(model, "etag"), "next_cursor" in model.model_fields


class _Plan:
    """What the signature of a function says; read once, when its route is declared."""

    def __init__(self, function: Handler, read_model: Callable[[Call, type[BaseModel]], Any]) -> None:
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

    async def write(self, call: Call, show: Callable[[Any], Answer], key: str | None) -> Response:
        given = await self.arguments(call)

        async def work(unit: Unit) -> Answer:
            return show(await self.function(unit, **given))

        return await call.write(work, key)

    async def show(self, call: Call) -> Response:
        """Return the page that it returns, or go where it says."""
        shown = await self.read(call)
        if isinstance(shown, str):
            return _go(shown).response()
        if isinstance(shown, Response):
            return shown
        refusal = call.typed.refusal
        status, headers = (refusal.status, refusal.headers) if refusal else (shown.status, shown.headers)
        draw = partial(call.tools.pages.page, principal=call.principal, status=status, headers=headers)

        def drawn() -> Response:
            return draw(shown.template, {"typed": call.typed, **shown.context, **shown.more()})

        return await aside(shown.size, drawn)


def _fill(of: Any, read_model: Callable[[Call, type[BaseModel]], Any]) -> Callable[[Call, str], Any]:
    if own := [it for it in getattr(of, "__metadata__", ()) if isinstance(it, Fill)]:
        return own[0].of
    if of is Typed:
        return lambda call, _: call.typed
    if of is Request:
        return lambda call, _: call.request
    return (lambda call, _: read_model(call, of)) if _is_model(of) else partial(_from_path, of)


def _is_model(of: object) -> bool:
    return isinstance(of, type) and issubclass(of, BaseModel)


def _from_path(of: Callable[[str], Any], call: Call, name: str) -> Any:
    try:
        return of(str(call.request.path_params[name]))
    except ValueError:
        raise NotFoundError(f"No such {call.noun}") from None


class Routes:
    """The routes of one slice in the order of their declaration; errors call what they are about a `noun`."""

    def __init__(self, noun: str) -> None:
        self._noun = noun
        self._made: list[Rule] = []

    def rules(self, tools: Tools | None) -> list[Rule]:
        """Return them with handlers that work with these tools; without any, none can be called."""
        if tools is None:
            return self._made

        def bound(rule: Rule) -> Handler:
            handle = cast("Callable[[Call], Awaitable[Response]]", rule.handler)

            def answered(request: Request, principal: Principal) -> Awaitable[Response]:
                def handled(request: Request) -> Awaitable[Response]:
                    return handle(Call(request, principal, tools, self._noun))

                return tools.stale.answer(request, principal, handled) if rule.stale else handled(request)

            return answered

        return [replace(rule, handler=bound(rule)) for rule in self._made]

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
    ) -> Callable[[H], H]:
        """Declare an operation of the API, such as `GET /api/v1/incidents`; `Rule` says what the others mean.

        `status` is that of success, or several if the function returns `Reply`. `kind` is by default a write, a search (a
        GET with a cursor) or a read. With `once`, `Idempotency-Key` makes a repeat safe; with `conditional`,
        `If-None-Match` may get a 304. `reads` is the model of what the function reads by itself.
        """
        method, _, path = route.partition(" ")
        is_read = method == "GET"

        def declare(function: H) -> H:
            plan = _Plan(function, _of_query if is_read else _of_body)
            usual = 204 if plan.returns is None else _CREATED if method == "POST" else 200
            statuses = status if isinstance(status, tuple) else (status or usual,)

            async def handle(call: Call) -> Response:
                show = partial(answer, call.request, status=statuses[0])
                if plan.works_in is Unit:
                    return await plan.write(call, show, idempotency_key(call.request) if once else None)
                value = await plan.read(call)
                if isinstance(value, Response):
                    return value
                done = show(value)
                etag = done.headers.get("ETag", "")
                if conditional and if_none_match(call.request, etag):
                    return Response(status_code=304, headers={"ETag": etag})
                return done.response()

            is_list = is_read and plan.model is not None and "cursor" in plan.model.model_fields
            answers = {status: plan.returns if status < _REDIRECTED else None for status in statuses}
            refusals = (
                *problems,
                *(_ONCE if once else ()),
                *(_VERSIONED if plan.is_versioned else ()),
                *(("conflict",) if plan.works_in is Unit else ()),
                *(("invalid-cursor",) if is_list else ()),
            )
            self._add(
                method,
                path,
                handle,
                access=access,
                summary=summary,
                route_class=kind
                or (RouteClass.SEARCH if is_list else RouteClass.READ if is_read else RouteClass.WRITE),
                **{"query" if is_read else "body": reads or plan.model},
                answers=answers | ({304: None} if conditional else {}),
                problems=tuple(dict.fromkeys(refusals)),
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
    ) -> Callable[[H], H]:
        """Declare a page; its function returns a `Page`, and gets what was `Typed` if it shows a form again."""
        method, _, path = route.rpartition(" ")

        def declare(function: H) -> H:
            show = _Plan(function, _of_page).show
            self._add(method or "GET", path, show, access=access, route_class=kind, stale=stale)
            return function

        return declare

    def form(
        self, path: str, access: Access, *, again: Handler, kind: RouteClass = RouteClass.WRITE
    ) -> Callable[[H], H]:
        """Declare what a form sends; its function returns where to go, or a page. If it is not saved, `again` shows one."""
        page = _Plan(again, _of_page)

        def declare(function: H) -> H:
            plan = _Plan(function, lambda call, of: formed(of, call.fields, call.now))

            async def handle(call: Call) -> Response:
                call.fields = await read_form(call.request, call.principal)
                is_unit = plan.works_in is Unit
                done = await attempt(
                    plan.write(call, _go, call.fields.get("key")) if is_unit else plan.show(call)
                )
                if isinstance(done, Response):
                    return done
                call.typed = Typed(call.fields, done)
                return await page.show(call)

            self._add("POST", path, handle, access=access, route_class=kind)
            return function

        return declare

    def _add(self, method: str, path: str, handle: Any, **about: Any) -> None:
        self._made.append(Rule(method=method, path=path, handler=handle, **about))


def _of_body(call: Call, of: type[BaseModel]) -> Awaitable[BaseModel]:
    return read_body(call.request, of)


def _of_query(call: Call, of: type[BaseModel], *, is_page: bool = False) -> BaseModel:
    return read_query(call.request.query_params, of, is_page=is_page)


_of_page: Final = partial(_of_query, is_page=True)


def _go(place: str) -> Answer:
    return Answer(303, {"Location": place})
