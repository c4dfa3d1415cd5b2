"""The identity routes as a small application on a real database, with clocks that a test sets."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import httpx2
import pytest
from argon2 import PasswordHasher
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from postfacta_app.db import Transactions, Unit
from postfacta_app.errors import AppError
from postfacta_app.identity.guard import Guard
from postfacta_app.identity.http import IdentityHttp
from postfacta_app.identity.local import LocalAccounts, Passwords, mint, session_cookie
from postfacta_app.identity.model import Kind, NewUser, User
from postfacta_app.identity.postgres import PostgresIdentity
from postfacta_app.principal import NOBODY, Access, Principal, Role
from postfacta_app.routes import RouteClass, Rule, build_routes
from postfacta_app.settings import Settings, load_settings
from postfacta_core.aio.database import Database

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
        self.store = PostgresIdentity(self.database)
        self.transactions = Transactions(self.database)
        self.client, self.guard = self.instance(self.settings)

    def instance(self, settings: Settings) -> tuple[httpx2.AsyncClient, Guard]:
        """Start one more process of the service, as far as accounts go."""
        guard = Guard(self.store, settings, clock=lambda: self.wall, monotonic=lambda: self.monotonic)
        passwords = Passwords(self.hasher)
        accounts = LocalAccounts(self.store, self.transactions, passwords=passwords, clock=lambda: self.wall)
        http = IdentityHttp(settings, self.store, self.transactions, accounts=accounts, forget=guard.forget)
        app = Starlette(routes=build_routes(rules(http), guard.authenticate))
        app.add_exception_handler(AppError, _refuse)
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
        """Add somebody."""
        hashed = self.hasher.hash(PASSWORD)
        async with self.database.transaction() as connection:
            unit = Unit(connection, NOBODY, None)
            user = await self.store.add_user(unit, NewUser(email=email, password=PASSWORD, role=role), hashed)
        assert user is not None
        return user

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
            await self.store.add_secret(Unit(connection, NOBODY, None), minted.token)
        return {"Cookie": session_cookie(minted.secret, timedelta(days=7), is_local=True).partition(";")[0]}


def rules(http: IdentityHttp) -> list[Rule]:
    """Make the table, with a few routes that only say who asks."""

    async def who(request: Request, principal: Principal) -> Response:
        return JSONResponse({"actor": principal.actor, "csrf": principal.session_csrf})

    users, tokens, api = "/api/v1/users", "/api/v1/tokens", "/api/v1"
    rows = (
        ("POST", "/login", http.login, Access.OPEN),
        ("POST", "/register", http.register, Access.OPEN),
        ("POST", "/logout", http.logout, Access.OPEN),
        ("GET", f"{api}/me", http.me, Access.SIGNED_IN),
        ("GET", tokens, http.tokens, Access.ADMIN),
        ("POST", tokens, http.add_token, Access.ADMIN),
        ("DELETE", f"{tokens}/{{id}}", http.revoke_token, Access.ADMIN),
        ("GET", users, http.users, Access.ADMIN),
        ("POST", users, http.add_user, Access.ADMIN),
        ("PATCH", f"{users}/{{id}}", http.change_user, Access.ADMIN),
        ("GET", f"{api}/audit", http.audit, Access.ADMIN),
        ("GET", "/healthz", who, Access.OPEN),
        ("GET", "/who", who, Access.OPEN),
        ("POST", "/who", who, Access.OPEN),
        ("GET", "/read", who, Access.READ),
        ("POST", "/write", who, Access.WRITE),
        ("POST", "/ingest", who, Access.INGEST),
        ("GET", "/admin", who, Access.ADMIN),
    )
    return [
        Rule(method=method, path=path, handler=handler, access=access, route_class=RouteClass.WRITE)
        for method, path, handler, access in rows
    ]


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, AppError)
    errors = [{"pointer": it.pointer, "code": it.code} for it in error.errors]
    return JSONResponse(
        {"slug": error.slug, "detail": error.detail, "errors": errors}, error.status, error.headers
    )


@pytest.fixture
def anyio_backend() -> str:
    """Use asyncio: asyncpg knows no other loop."""
    return "asyncio"


@pytest.fixture
async def world(app_database: Database) -> AsyncGenerator[World]:
    """Start the service, with nobody in it."""
    made = World(app_database)
    async with made.client:
        yield made
