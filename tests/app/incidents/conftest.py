"""The incident routes as a small application on a real database, once for each caller."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from uuid import uuid4

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from postfacta_app.db import Transactions
from postfacta_app.errors import AppError
from postfacta_app.incidents.api import routes
from postfacta_app.principal import Principal, Role
from postfacta_app.web.render import Pages, stale_answers
from postfacta_app.web.routes import Rule, Tools, build_routes
from postfacta_postgres import Database
from postfacta_web.conditional import ConditionError

ClientFor = Callable[[Principal], httpx2.AsyncClient]


def a_person(role: Role) -> Principal:
    user = uuid4()
    return Principal(actor=f"user:{user}", name=role.title(), user_id=user, role=role)


@pytest.fixture
def responder() -> Principal:
    """A user who may write."""
    return a_person(Role.RESPONDER)


@pytest.fixture
def other() -> Principal:
    """Another user who may write."""
    return a_person(Role.RESPONDER)


@pytest.fixture
def viewer() -> Principal:
    """A user who may only read."""
    return a_person(Role.VIEWER)


@pytest.fixture
def admin() -> Principal:
    """An administrator."""
    return a_person(Role.ADMIN)


@pytest.fixture
def machine() -> Principal:
    """An API token that may read and write."""
    scopes = frozenset({"incidents:read", "incidents:write"})
    return Principal(actor=f"token:{uuid4()}", name="ci", scopes=scopes)


@pytest.fixture
async def client_for(app_database: Database) -> AsyncGenerator[ClientFor]:
    """Make HTTP clients, each of them signed in."""
    stale = stale_answers(app_database.name)
    tools = Tools(Transactions(app_database), Pages(version=""), stale)
    async with AsyncExitStack() as stack:
        made: dict[Principal, httpx2.AsyncClient] = {}

        def make(principal: Principal) -> httpx2.AsyncClient:
            async def admit(request: Request, rule: Rule) -> Principal:
                return principal

            app = Starlette(routes=build_routes(routes.rules, admit, tools))
            app.add_exception_handler(AppError, _refuse)
            app.add_exception_handler(ConditionError, _refuse_condition)
            transport = httpx2.ASGITransport(app, client=("192.0.2.7", 4711))
            return httpx2.AsyncClient(transport=transport, base_url="http://test")

        def lend(principal: Principal) -> httpx2.AsyncClient:
            if principal not in made:
                made[principal] = make(principal)
                stack.push_async_callback(made[principal].aclose)
            return made[principal]

        yield lend


async def _refuse_condition(request: Request, error: Exception) -> Response:
    assert isinstance(error, ConditionError)
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, AppError)
    errors = [
        {"pointer": it.pointer, "code": it.code, "message": it.message} for it in error.errors
    ]
    body = {"slug": error.slug, "detail": error.detail, "errors": errors, **error.extra}
    return JSONResponse(body, error.status, error.headers)
