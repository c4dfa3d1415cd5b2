"""A route is a function: its signature says what it reads, its return type what it responds.

    @routes.api("POST /api/v1/incidents/{ref}/action-items", WRITE, "Create one", once=True)
    async def add(unit: Unit, ref: Ref, new: NewAction) -> Action: ...

The first parameter is what it works with: `Unit` is a transaction, `Snapshot` one that only reads,
`Reader` reads without one. The others are filled by type: a model is the JSON body, the fields of a
form, or the query of a GET; `UUID`, `int` and enums are parts of the path; `Matches` checks
`If-Match`, `Now` is the clock. An app adds types of its own with `Fill`. All are filled before the
transaction begins, so a malformed request never reaches the database. The OpenAPI document follows
from the same signature.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, partial
from types import CoroutineType, MappingProxyType
from typing import Annotated, Any, Final, Generic, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from postfacta_web.conditional import check_if_match, idempotency_key, is_not_modified

from .. import errors
from ..aside import aside
from ..db import Query, Reader, Unit
from ..principal import Access
from .body import format_time, next_link, read_body, read_query
from .forms import RECEIVED, Typed, attempt, formed, read_form
from .routes import Call, Handler, RouteClass, Rule

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
Function = Callable[..., Awaitable[Any]]
F = TypeVar("F", bound=Function)

_ONCE = ("idempotency-in-progress", "idempotency-mismatch", "conflict")
_VERSIONED = ("precondition-failed", "precondition-required", "conflict")
_REDIRECTED = 300  # From this status on, a response has no body of the model.


@dataclass(frozen=True, slots=True)
class Fill:
    """Says how parameters of an annotated type are filled: from the call, and their name."""

    of: Callable[[Call, str], Any]


def part(of: type[T]) -> Fill:
    return Fill(lambda call, _: call.tools.part(of))


Fields = Annotated[dict[str, str], Fill(lambda call, _: call.fields)]  # the input of a form
Matches = Annotated[
    Callable[[str], None], Fill(lambda call, _: partial(check_if_match, call.request))
]
"""Raises if the caller did not start from the version with this ETag."""
# The time of the request; of a form that is sent again, of its first receipt.
Now = Annotated[datetime, Fill(lambda call, _: call.received)]
# A transaction that only reads: all its queries see the same state.
Snapshot = Annotated[Unit, "snapshot"]
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
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    # Works out the rest of what it shows, there, once the transaction is over.
    more: Callable[[], Mapping[str, object]] = dict[str, object]


def as_json(status: int, body: BaseModel, headers: Mapping[str, str] | None = None) -> Response:
    content = body.__pydantic_serializer__.to_json(body)
    return Response(content, status, headers, "application/json")


def answer(
    request: Request, value: BaseModel | Reply[Any] | Response | None, status: int = 200
) -> Response:
    """Return the response that shows a value, with its ETag and the link to the next page."""
    if value is None or isinstance(value, Response):
        return value or Response(status_code=204)
    body: Any = value
    more_headers: Mapping[str, str] = {}
    if isinstance(value, Reply):
        body = value.value
        status = value.status
        more_headers = value.headers
    has_etag, has_cursor = _shows(body.__class__)
    headers: dict[str, str] = {"ETag": body.etag} if has_etag else {}
    if has_cursor:
        headers |= next_link(request, body.next_cursor)
    return as_json(status, body, {**headers, **more_headers})


@cache
def _shows(model: type[BaseModel]) -> tuple[bool, bool]:
    """Return whether it has an ETag, and whether a cursor.

    A model takes long to say that it has no such attribute.
    """
    return hasattr(model, "etag"), "next_cursor" in model.model_fields


class _Plan:
    """How a function is called, from its signature; read once, when its route is declared."""

    def __init__(
        self, function: Function, read_model: Callable[[Call, type[BaseModel]], Any]
    ) -> None:
        hints = get_type_hints(function, include_extras=True)
        self.function = function
        self.returns = _model_of(hints.pop("return"))
        self.works_in: Any = None
        first = next(iter(hints), "")
        if hints.get(first) in WORKS_IN:
            self.works_in = WORKS_IN[hints.pop(first)]
        self.fills: list[tuple[str, Callable[[Call, str], Any]]] = []
        self.model: Any = None
        for name, annotation in hints.items():
            self.fills.append((name, _fill(annotation, read_model)))
            if self.model is None and _is_model(annotation):
                self.model = annotation
        self.is_versioned = Matches in hints.values()

    def status(self, method: str) -> int:
        """Return the status of success, unless the route has another."""
        if self.returns is None:
            return 204
        return 201 if method == "POST" else 200

    async def arguments(self, call: Call) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, fill in self.fills:
            value = fill(call, name)
            values[name] = await value if type(value) is CoroutineType else value
        return values

    async def read(self, call: Call) -> Any:
        function = partial(self.function, **await self.arguments(call))
        if self.works_in is None:
            return await function()
        transactions = call.tools.transactions
        if self.works_in is Reader:
            reader = transactions.reader(call.principal)
            return await function(reader)
        return await transactions.read(call.principal, function)

    async def write(self, call: Call, show: Callable[[Any], Response], key: str | None) -> Response:
        arguments = await self.arguments(call)

        async def work(unit: Unit) -> Response:
            value = await self.function(unit, **arguments)
            return show(value)

        return await call.write(work, key)

    async def show(self, call: Call) -> Response:
        """Return the page of the function, or redirect to the address that it returns."""
        page = await self.read(call)
        if isinstance(page, str):
            return _go(page)
        if isinstance(page, Response):
            return page
        refusal = call.typed.refusal
        status = refusal.status if refusal else page.status
        headers = refusal.headers if refusal else page.headers

        def render() -> Response:
            context = {
                "principal": call.principal,
                "typed": call.typed,
                **page.context,
                **page.more(),
            }
            return call.tools.pages.page(page.template, context, status=status, headers=headers)

        return await aside(page.size, render)


def _fill(
    annotation: Any, read_model: Callable[[Call, type[BaseModel]], Any]
) -> Callable[[Call, str], Any]:
    for mark in getattr(annotation, "__metadata__", ()):
        if isinstance(mark, Fill):
            fill: Callable[[Call, str], Any] = mark.of
            return fill
    if annotation is Typed:
        return lambda call, _: call.typed
    if annotation is Request:
        return lambda call, _: call.request
    if _is_model(annotation):
        return lambda call, _: read_model(call, annotation)
    return partial(from_path, annotation)


def _is_model(of: object) -> bool:
    return isinstance(of, type) and issubclass(of, BaseModel)


def _model_of(returns: Any) -> Any:
    """Return the model that a function returns: itself, in a `Reply`, or noted at a response."""
    noted = getattr(returns, "__metadata__", ())
    model = noted[0] if noted else returns
    if get_origin(model) is Reply:
        model = get_args(model)[0]
    return model if _is_model(model) else None


def from_path(of: Callable[[str], Any], call: Call, name: str) -> Any:
    try:
        return of(str(call.request.path_params[name]))
    except ValueError:
        raise errors.NotFoundError(f"No such {call.noun}") from None


class Routes:
    """The routes of one slice in the order of their declaration.

    Errors call what they are about a `noun`.
    """

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
        """Declare an operation of the API, such as `GET /api/v1/incidents`.

        `Rule` says what the others mean.

        `status` is that of success, or several if the function returns `Reply`. `kind` is by
        default a write, a search (a GET with a cursor) or a read. With `once`, `Idempotency-Key`
        makes a repeat safe; with `conditional`, `If-None-Match` may get a 304. `reads` is the model
        of what the function reads by itself.
        """
        method, _, path = route.partition(" ")
        is_read = method == "GET"
        read_model = _of_query if is_read else _of_body

        def declare(function: F) -> F:
            plan = _Plan(function, read_model)
            statuses = status if isinstance(status, tuple) else (status or plan.status(method),)
            is_list = is_read and plan.model is not None and "cursor" in plan.model.model_fields
            answers = _answers(plan, statuses)
            if conditional:
                answers[304] = None

            async def handle(call: Call) -> Response:
                show = partial(answer, call.request, status=statuses[0])
                if plan.works_in is Unit:
                    key = idempotency_key(call.request) if once else None
                    return await plan.write(call, show, key)
                value = await plan.read(call)
                if isinstance(value, Response):
                    return value
                if conditional and is_not_modified(call.request, value.etag):
                    return Response(status_code=304, headers={"ETag": value.etag})
                return show(value)

            self._add(
                method,
                path,
                handle,
                access=access,
                summary=summary,
                route_class=kind or _usual_class(is_read=is_read, is_list=is_list),
                **{"query" if is_read else "body": reads or plan.model},
                answers=answers,
                problems=_problems(plan, problems, once=once, is_list=is_list),
                headers=_headers(plan, headers, once=once, conditional=conditional),
                **more,
            )
            return function

        return declare

    def page(
        self, route: str, access: Access, *, kind: RouteClass = RouteClass.READ, stale: bool = False
    ) -> Callable[[F], F]:
        """Declare a page.

        Its function returns a `Page`, and gets what was `Typed` if it shows a form again.
        """
        method, _, path = route.rpartition(" ")

        def declare(function: F) -> F:
            show = _Plan(function, _of_page).show
            self._add(method or "GET", path, show, access=access, route_class=kind, stale=stale)
            return function

        return declare

    def form(
        self, path: str, access: Access, *, again: Function, kind: RouteClass = RouteClass.WRITE
    ) -> Callable[[F], F]:
        """Declare what a form sends; its function returns where to go, or a page.

        If it is not saved, `again` shows one.
        """
        page = _Plan(again, _of_page)

        def declare(function: F) -> F:
            plan = _Plan(function, lambda call, of: formed(of, call.fields, call.received))

            async def handle(call: Call) -> Response:
                call.fields = await read_form(call.request, call.principal)
                call.fields.setdefault(RECEIVED, format_time(call.now))
                if plan.works_in is Unit:
                    work = plan.write(call, _go, call.fields.get("key"))
                else:
                    work = plan.show(call)
                outcome = await attempt(work)
                if isinstance(outcome, Response):
                    return outcome
                call.typed = Typed(call.fields, outcome)
                return await page.show(call)

            self._add("POST", path, handle, access=access, route_class=kind)
            return function

        return declare

    def _add(self, method: str, path: str, handle: Handler, **about: Any) -> None:
        rule = Rule(method=method, path=path, handler=handle, noun=self._noun, **about)
        self.rules.append(rule)


def _usual_class(*, is_read: bool, is_list: bool) -> RouteClass:
    if is_list:
        return RouteClass.SEARCH
    return RouteClass.READ if is_read else RouteClass.WRITE


def _answers(plan: _Plan, statuses: Sequence[int]) -> dict[int, type[BaseModel] | None]:
    """Return the model of the body of each status, if it has one."""
    answers: dict[int, type[BaseModel] | None] = {}
    for status in statuses:
        answers[status] = plan.returns if status < _REDIRECTED else None
    return answers


def _problems(plan: _Plan, declared: Sequence[str], *, once: bool, is_list: bool) -> Sequence[str]:
    """Return the problems of an operation: those of its declaration, and what follows from it."""
    slugs = [*declared]
    if once:
        slugs += _ONCE
    if plan.is_versioned:
        slugs += _VERSIONED
    if plan.works_in is Unit:
        slugs.append("conflict")
    if is_list:
        slugs.append("invalid-cursor")
    return slugs


def _headers(
    plan: _Plan, declared: Mapping[str, bool], *, once: bool, conditional: bool
) -> Mapping[str, bool]:
    """Return the request headers that an operation reads, and whether each is required."""
    headers: dict[str, bool] = {}
    if conditional:
        headers["If-None-Match"] = False
    headers |= declared
    if plan.is_versioned:
        headers["If-Match"] = True
    if once:
        headers["Idempotency-Key"] = False
    return headers


def _of_query(call: Call, of: type[BaseModel], *, is_page: bool = False) -> BaseModel:
    return read_query(call.request.query_params, of, is_page=is_page)


_of_page: Final = partial(_of_query, is_page=True)


def _of_body(call: Call, of: type[M]) -> Awaitable[M]:
    return read_body(call.request, of)


def _go(place: str) -> Response:
    return Response(status_code=303, headers={"Location": place})
