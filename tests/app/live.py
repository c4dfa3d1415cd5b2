"""The whole application inside the test's process, on a real database, with users of each role."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch
from uuid import UUID, uuid4

import anyio
import asyncpg
import httpx2

from postfacta_app.app import create_app
from postfacta_app.incidents.v0 import PostgresV0
from postfacta_app.settings import load_settings
from postfacta_app.web.routes import RouteClass
from postfacta_core.asgi._types import Message
from postfacta_core.asgi.stack import Hardened
from postfacta_core.clock import WALL

__all__ = [
    "JSON_ROUTES", "NEW", "ONE", "PATCH_JSON", "ROUTES", "START", "V0", "Body", "Service", "World", "content_type",
    "in_process", "lifespan", "said", "world_of",
]  # fmt: skip

Body = dict[str, Any]
PASSWORD = "correct horse battery"  # noqa: S105 - of nobody

NEW: Body = {
    "title": "Checkout is down",
    "description": "Nobody can pay since noon.",
    "severity": "HIGH",
}
ONE = "/api/v1/incidents/INC-1"
PATCH_JSON = "application/merge-patch+json"
LOGIN: Body = {"email": "ada@example.org", "password": PASSWORD}
# Each route that takes JSON, with a body that it would accept and all its fields.
JSON_ROUTES: list[tuple[str, str, Body, Sequence[str]]] = [
    ("POST", "/api/v1/incidents", NEW, ("title", "description", "severity", "kind", "reporter", "owner", "services", "teams", "visibility", "members", "declared_at")),
    ("PATCH", ONE, {}, ("title", "description", "severity", "reporter", "owner", "services", "teams", "visibility", "members")),
    ("POST", f"{ONE}/transitions", {"to": "RESOLVED"}, ("to", "occurred_at", "outcome", "reason")),
    ("POST", "/api/v1/signals", {"items": [7]}, ("incident",)),
    ("POST", f"{ONE}/signals", {"ids": ["00000000-0000-4000-8000-000000000000"]}, ("ids",)),
    ("POST", f"{ONE}/postmortem/transitions", {"to": "in_review"}, ("to", "message")),
    ("POST", f"{ONE}/postmortem/restore", {"rev": 1}, ("rev",)),
    ("POST", f"{ONE}/action-items", {"type": "learn", "title": "Ask"}, ("type", "title", "factor", "owner", "priority", "due_on", "url")),
    ("POST", f"{ONE}/links", {"to": "INC-1", "type": "related"}, ("to", "type", "note")),
    ("POST", f"{ONE}/edits", {"op": "pin", "entry": {"source": "a", "id": "b"}}, ("op", "entry", "reason")),
    ("POST", f"{ONE}/annotations", {"kind": "note", "body": "Said"}, ("kind", "body", "state", "entry", "occurred_at", "precision")),
    ("POST", "/api/v1/tokens", {"name": "ci", "scopes": ["incidents:read"]}, ("name", "scopes", "source", "expires_at")),
    ("POST", "/api/v1/users", LOGIN, ("email", "password", "display_name", "role")),
    ("PATCH", "/api/v1/users/{user}", {}, ("role", "disabled")),
    ("POST", "/login", LOGIN, ("email", "password")),
    ("POST", "/register", LOGIN, ("email", "password", "display_name")),
]  # fmt: skip
V0 = ("POST", "/api/v0/incidents/start")
START: Body = {
    "title": "DB outage",
    "description": "Primary is away",
    "reporter": "sre",
    "severity": "HIGH",
}
ROUTES = [(method, path) for method, path, _, _ in JSON_ROUTES]

_INSERT = """
insert into tokens (id, kind, secret_sha256, user_id, name, prefix, scopes, source, created_at, expires_at, revoked_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"""

_UNKNOWN = {"Authorization": f"Bearer {'x' * 43}"}


@dataclass
class Service:
    """A running application.

    Attributes:
        app: It, for what an HTTP client does not send.
        client: Sends anonymous requests to it.
        database: A connection of the owner's.
    """

    app: Hardened
    client: httpx2.AsyncClient
    database: asyncpg.Connection[asyncpg.Record]
    now: datetime = field(default_factory=lambda: datetime.fromtimestamp(WALL(), UTC))

    async def person(self, role: str, *, disabled: bool = False) -> UUID:
        """Add a person."""
        user = uuid4()
        await self.database.execute(
            "insert into users (id, email, display_name, role, disabled_at) values ($1, $2, $3, $4, $5)",
            *(user, f"{user}@example.org", role.title(), role, self.now if disabled else None),
        )
        return user

    async def bearer(
        self, user: UUID, *, expired: bool = False, revoked: bool = False
    ) -> dict[str, str]:
        """Make a bearer token, as `/login` does."""
        secret = await self._secret("bearer", user, expired=expired, revoked=revoked)
        return {"Authorization": f"Bearer {secret}"}

    async def cookie(self, user: UUID, *, expired: bool = False) -> dict[str, str]:
        """Begin a session, as the sign-in page does."""
        return {"Cookie": f"postfacta={await self._secret('session', user, expired=expired)}"}

    async def machine(
        self, *scopes: str, source: str = "ci", expired: bool = False, revoked: bool = False
    ) -> dict[str, str]:
        """Make an API token; the source counts if it may send signals."""
        secret = await self._secret(
            "api", None, scopes, source=source, expired=expired, revoked=revoked
        )
        return {"Authorization": f"Bearer {secret}"}

    async def as_role(self, role: str) -> dict[str, str]:
        """Make a new person with a role, and sign in."""
        return await self.bearer(await self.person(role))

    async def record(self, headers: Mapping[str, str], **fields: object) -> dict[str, Any]:
        """Record an incident."""
        answer = await self.client.post(
            "/api/v1/incidents", json={**NEW, **fields}, headers=headers
        )
        assert answer.status_code == 201, answer.text
        recorded: dict[str, Any] = answer.json()
        return recorded

    async def rows(self) -> dict[str, int]:
        """Count the rows of all tables."""
        tables = await self.database.fetch(
            "select tablename from pg_tables where schemaname = 'public' and tablename <> 'alembic_version'"
        )
        assert len(tables) >= 13
        # Each name comes out of the catalogue.
        counts = [f"select '{row[0]}', count(*) from {row[0]}" for row in tables]  # noqa: S608
        return {row[0]: row[1] for row in await self.database.fetch(" union all ".join(counts))}

    async def _secret(
        self,
        kind: str,
        user: UUID | None,
        scopes: tuple[str, ...] = (),
        *,
        source: str = "",
        expired: bool,
        revoked: bool = False,
    ) -> str:
        prefix = secrets.token_hex(4) if kind == "api" else None
        secret = (f"pf_{prefix}_" if prefix else "") + secrets.token_urlsafe(32)
        times = (
            self.now - timedelta(hours=2),
            self.now + timedelta(hours=-1 if expired else 1),
            self.now if revoked else None,
        )
        name = "machine" if prefix else None
        sha256 = hashlib.sha256(secret.encode()).digest()
        written = source if "signals:write" in scopes else None
        await self.database.execute(
            _INSERT, uuid4(), kind, sha256, user, name, prefix, list(scopes), written, *times
        )
        return secret


@dataclass
class World:
    """A service that holds one incident, and an administrator who asks."""

    service: Service
    admin: dict[str, str]
    user_id: str
    before: dict[str, int] = field(default_factory=dict[str, int])

    async def send(self, method: str, path: str, **request: Any) -> httpx2.Response:
        """Send a request as the administrator."""
        headers = httpx2.Headers(
            self.admin | {"If-Match": '"inc-1"', "Sec-Fetch-Site": "same-origin"}
        )
        headers.update(request.pop("headers", {}))
        path = path.replace("{user}", self.user_id)
        return await self.service.client.request(method, path, headers=headers, **request)

    async def assert_untouched(self) -> None:
        """See that no table has another number of rows than at the last look, and the incident is what it was."""
        before, self.before = self.before, await self.service.rows()
        assert self.before == before
        version = await self.service.database.fetchval("select max(version) from incidents")
        assert version == 1


async def world_of(service: Service) -> World:
    """Record the incident, and count what is there then."""
    admin = await service.person("admin")
    headers = await service.bearer(admin)
    await service.record(headers)
    return World(service, headers, str(admin), await service.rows())


def content_type(method: str) -> dict[str, str]:
    return {"Content-Type": PATCH_JSON if method == "PATCH" else "application/json"}


def said(answer: httpx2.Response) -> str:
    """Give the sentence of either shape."""
    body = answer.json()
    assert body["request_id" if "type" in body else "requestId"] == answer.headers["X-Request-ID"]
    return str(body.get("detail") or body["message"])


@asynccontextmanager
async def in_process(
    dsn: str, *, v0_store: PostgresV0 | None = None, **settings: object
) -> AsyncGenerator[Service]:
    """Run the application on a migrated database until the block ends."""
    # Patient enough for a busy machine.
    patient = {"pool_acquire_timeout": 30, "statement_timeout": 30}
    with patient_routes():
        async with _served(dsn, v0_store, patient | settings) as service:
            yield service


@contextmanager
def patient_routes() -> Generator[None]:
    """Give each request of the applications that are made in the block half a minute."""
    with ExitStack() as stack:
        for of in RouteClass:
            stack.enter_context(patch.object(of, "seconds", 30.0))
        yield


@asynccontextmanager
async def _served(
    dsn: str, v0_store: PostgresV0 | None, settings: Mapping[str, object]
) -> AsyncGenerator[Service]:
    # The tests' server writes nothing to disk at once, which keeps the service from being ready.
    given = {"database_dsn": dsn, "ready_requires_db": False, **settings}
    app = create_app(load_settings({}, **given), v0_store=v0_store)
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False, client=("192.0.2.7", 4711))
    database = await asyncpg.connect(dsn, timeout=10)
    try:
        async with (
            lifespan(app),
            httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client,
        ):
            with anyio.fail_after(30):
                while (await client.get("/api/v1/me", headers=_UNKNOWN)).status_code != 401:
                    await anyio.sleep(0.01)
            yield Service(app, client, database)
    finally:
        await database.close()


@asynccontextmanager
async def lifespan(app: Hardened) -> AsyncGenerator[None]:
    """Start an application as a server does, and shut it down at the end."""
    told, heard = anyio.Event(), anyio.Event()
    messages = [{"type": "lifespan.startup"}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await told.wait()
        return {"type": "lifespan.shutdown"}

    async def send(message: Message) -> None:
        assert "failed" not in message["type"], message
        heard.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(
            app, {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send
        )
        with anyio.fail_after(30):
            await heard.wait()
        try:
            yield
        finally:
            told.set()
