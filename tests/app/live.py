"""The whole application inside the test's process, on a real database, and everybody who may call it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import anyio
import asyncpg
import httpx2

from postfacta_app.app import create_app
from postfacta_app.incidents.v0 import V0Store
from postfacta_app.settings import load_settings
from postfacta_core.asgi._types import Message
from postfacta_core.asgi.stack import Hardened

__all__ = ["NEW", "Service", "in_process", "lifespan"]

NEW: dict[str, object] = {
    "title": "Checkout is down",
    "description": "Nobody can pay since noon.",
    "severity": "HIGH",
}
_TOKEN = """
insert into tokens (id, kind, secret_sha256, user_id, name, prefix, scopes, source, created_at, expires_at, revoked_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"""

_UNKNOWN = {"Authorization": f"Bearer {'x' * 43}"}


@dataclass
class Service:
    """A running application.

    Attributes:
        app: It, for what an HTTP client does not send.
        client: Sends requests to it as nobody.
        database: A connection of the owner's.
    """

    app: Hardened
    client: httpx2.AsyncClient
    database: asyncpg.Connection[asyncpg.Record]
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    async def person(self, role: str, *, disabled: bool = False) -> UUID:
        """Add somebody."""
        user = uuid4()
        await self.database.execute(
            "insert into users (id, email, display_name, role, disabled_at) values ($1, $2, $3, $4, $5)",
            *(user, f"{user}@example.org", role.title(), role, self.now if disabled else None),
        )
        return user

    async def bearer(self, user: UUID, *, expired: bool = False, revoked: bool = False) -> dict[str, str]:
        """Make a bearer token, as `/login` does."""
        secret = await self._secret("bearer", user, expired=expired, revoked=revoked)
        return {"Authorization": f"Bearer {secret}"}

    async def cookie(self, user: UUID, *, expired: bool = False) -> dict[str, str]:
        """Begin a session, as the sign-in page does."""
        return {"Cookie": f"postfacta={await self._secret('session', user, expired=expired)}"}

    async def machine(self, *scopes: str, expired: bool = False, revoked: bool = False) -> dict[str, str]:
        """Make an API token."""
        secret = await self._secret("api", None, scopes, expired=expired, revoked=revoked)
        return {"Authorization": f"Bearer {secret}"}

    async def as_role(self, role: str) -> dict[str, str]:
        """Make a new person with a role, and sign in."""
        return await self.bearer(await self.person(role))

    async def record(self, headers: Mapping[str, str], **fields: object) -> dict[str, Any]:
        """Record an incident."""
        answer = await self.client.post("/api/v1/incidents", json={**NEW, **fields}, headers=headers)
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
        expired: bool,
        revoked: bool = False,
    ) -> str:
        prefix = secrets.token_hex(4) if kind == "api" else None
        secret = (f"pf_{prefix}_" if prefix else "") + secrets.token_urlsafe(32)
        source = "ci" if "signals:write" in scopes else None
        times = (
            self.now - timedelta(hours=2),
            self.now + timedelta(hours=-1 if expired else 1),
            self.now if revoked else None,
        )
        machine = ("machine", prefix, list(scopes), source) if prefix else (None, None, [], None)
        sha256 = hashlib.sha256(secret.encode()).digest()
        await self.database.execute(_TOKEN, uuid4(), kind, sha256, user, *machine, *times)
        return secret


@asynccontextmanager
async def in_process(
    dsn: str, *, v0_store: V0Store | None = None, **settings: object
) -> AsyncGenerator[Service]:
    """Run the application on a migrated database until the block ends."""
    # Patient enough for a busy machine.
    patient = {"pool_acquire_timeout": 30, "statement_timeout": 30}
    # The tests' server writes nothing to disk at once, which keeps the service from being ready.
    given = {"database_dsn": dsn, "ready_requires_db": False, **patient, **settings}
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
        tasks.start_soon(app, {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
        with anyio.fail_after(30):
            await heard.wait()
        try:
            yield
        finally:
            told.set()
