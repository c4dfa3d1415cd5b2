"""The identity routes as a small application on a real database, with clocks that a test sets."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from argon2 import PasswordHasher
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from postfacta_app.db import Transactions, Unit
from postfacta_app.errors import AppError, RateLimitedError
from postfacta_app.identity import pages as slice_
from postfacta_app.identity.accounts import (
    LocalAccounts,
    Passwords,
    add_secret,
    add_user,
    mint,
    session_cookie,
)
from postfacta_app.identity.guard import Guard
from postfacta_app.identity.model import Kind, NewUser, User
from postfacta_app.identity.supabase import Client, SupabaseAccounts
from postfacta_app.principal import NOBODY, Access, Role
from postfacta_app.settings import Rotation, Settings, load_settings
from postfacta_app.web.render import Pages, stale_answers
from postfacta_app.web.routes import Call, RouteClass, Rule, Tools, build_routes
from postfacta_core.guards.timeout import Timeout
from postfacta_postgres import Database
from postfacta_web.conditional import ConditionError
from postfacta_web.jwks import Jwks
from postfacta_web.sign_in import SignInThrottle
from tests.kit.keys import Key

from .project import FakeProject, running_project

Json = dict[str, Any]

PASSWORD = "correct horse battery"  # noqa: S105 - of nobody


class WeakHasher(PasswordHasher):
    """argon2id, as weak as it gets, that counts its verifications."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.verified = 0

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # type: ignore[override]  # noqa: A002 - argon2's name
        self.verified += 1
        return super().verify(hash, password)


@dataclass
class World:
    """A running application, and what a test may turn."""

    database: Database
    settings: Settings = field(default_factory=lambda: load_settings({}))
    hasher: WeakHasher = field(default_factory=WeakHasher)
    wall: float = 1_772_366_400.0
    monotonic: float = 0.0

    def __post_init__(self) -> None:
        self.transactions = Transactions(self.database)
        self.client, self.guard = self.instance(self.settings)

    def instance(
        self,
        settings: Settings,
        accounts: SupabaseAccounts | None = None,
    ) -> tuple[httpx2.AsyncClient, Guard]:
        """Start one more process of the service, as far as accounts go."""
        guard = Guard(
            self.database,
            settings,
            foreign=accounts.credential if accounts else None,
            clock=lambda: self.wall,
            monotonic=lambda: self.monotonic,
        )
        passwords = Passwords(self.hasher)
        signs_in = accounts or LocalAccounts(self.transactions, passwords=passwords)
        parts = [signs_in, guard]
        tools = Tools(
            self.transactions,
            Pages(version="1"),
            stale_answers("postgres"),
            lambda: self.wall,
            parts=parts,
        )
        table = [*slice_.routes.rules, *WHO]
        app = Starlette(
            routes=build_routes(table, lambda request, _: guard.authenticate(request), tools)
        )
        app.add_exception_handler(AppError, _refuse)
        app.add_exception_handler(ConditionError, _refuse_condition)
        transport = httpx2.ASGITransport(app, client=("192.0.2.7", 4711))
        return httpx2.AsyncClient(transport=transport, base_url="http://localhost"), guard

    def pass_time(self, seconds: float) -> None:
        """Let both clocks go on."""
        self.wall += seconds
        self.monotonic += seconds

    def now(self) -> datetime:
        """Read the wall clock."""
        return datetime.fromtimestamp(self.wall, UTC)

    async def person(self, email: str, role: Role = Role.VIEWER) -> User:
        """Add a person."""
        hashed = self.hasher.hash(PASSWORD)
        async with self.database.transaction() as connection:
            unit = Unit(connection, NOBODY, None)
            new = NewUser(email=email, password=PASSWORD, role=role)
            return await add_user(unit, new, password_hash=hashed)

    async def login(self, email: str) -> dict[str, str]:
        """Sign in; give the header that proves it."""
        answer = await self.client.post("/login", json={"email": email, "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        return {"Authorization": f"Bearer {answer.json()['token']}"}

    async def admin(self) -> dict[str, str]:
        """Add an administrator, and sign in."""
        await self.person("root@example.org", Role.ADMIN)
        return await self.login("root@example.org")

    async def cookie(self, user: User) -> dict[str, str]:
        """Begin a session of the browser; give the header that carries it."""
        minted = mint(Kind.SESSION, user.principal, self.now())
        async with self.database.transaction() as connection:
            await add_secret(Unit(connection, NOBODY, None), minted.token)
        return {
            "Cookie": session_cookie(minted.secret, timedelta(days=7), is_local=True).partition(
                ";"
            )[0]
        }


@dataclass
class Realm:
    """The service, and the project that it trusts."""

    world: World
    project: FakeProject
    client: httpx2.AsyncClient
    guard: Guard
    jwks: Jwks
    accounts: SupabaseAccounts
    attempts: list[str]

    def token(
        self, *, by: Key | str | None = None, header: Json | None = None, **claims: object
    ) -> str:
        """Sign a token that is good now, but for what is given."""
        return self.project.token(self.world.wall, by=by, header=header, **claims)

    async def get(self, token: str, path: str = "/api/v1/me") -> httpx2.Response:
        """Send a request with it."""
        return await self.client.get(path, headers={"Authorization": f"Bearer {token}"})

    async def people(self) -> list[Json]:
        """List all accounts."""
        select = "select external_sub, email, display_name, role, password_hash from users order by email"
        rows = await self.world.database.fetch(select, operation="test")
        return [dict(row) for row in rows]


async def _who(call: Call) -> Response:
    return JSONResponse({"actor": call.principal.actor, "csrf": call.principal.session_csrf})


# A few routes that only say who asks.
WHO = [
    Rule(method=method, path=path, handler=_who, access=access, route_class=RouteClass.WRITE)
    for method, path, access in (
        ("GET", "/healthz", Access.OPEN),
        ("GET", "/who", Access.OPEN),
        ("POST", "/who", Access.OPEN),
        ("GET", "/read", Access.READ),
        ("POST", "/write", Access.WRITE),
        ("POST", "/ingest", Access.INGEST),
        ("GET", "/admin", Access.ADMIN),
    )
]


async def _refuse_condition(request: Request, error: Exception) -> Response:
    assert isinstance(error, ConditionError)
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, AppError)
    errors = [{"pointer": it.pointer, "code": it.code} for it in error.errors]
    return JSONResponse(
        {"slug": error.slug, "detail": error.detail, "errors": errors}, error.status, error.headers
    )


@pytest.fixture(scope="session")
def project_server() -> Iterator[FakeProject]:
    """Run a Supabase project for all tests that ask."""
    with running_project() as made:
        yield made


@pytest.fixture
def project(project_server: FakeProject) -> FakeProject:
    """Give the project, as if it had just been made."""
    project_server.reset()
    return project_server


@pytest.fixture
async def world(app_database: Database) -> AsyncGenerator[World]:
    """Start the service without accounts."""
    made = World(app_database)
    async with made.client:
        yield made


@pytest.fixture
async def realm(world: World, project: FakeProject) -> AsyncGenerator[Realm]:
    """Start the service in auth mode supabase, beside the project that it trusts."""
    settings, attempts = project.settings(register_open=True), list[str]()
    transactions = world.transactions
    async with (
        Client("jwks", Rotation(settings), Timeout(20)) as publisher,
        Client("gotrue", Rotation(settings), Timeout(20)) as gotrue,
    ):
        jwks = Jwks(publisher.key_set, timeout=20, clock=lambda: world.monotonic)
        accounts = SupabaseAccounts(
            Rotation(settings),
            gotrue,
            jwks,
            transactions,
            clock=lambda: world.wall,
            throttle=SignInThrottle(
                uncounted=RateLimitedError, observer=None, clock=lambda: world.monotonic
            ),
            attempted=attempts.append,
        )
        client, guard = world.instance(settings, accounts)
        async with jwks.running(), client:
            yield Realm(world, project, client, guard, jwks, accounts, attempts)
