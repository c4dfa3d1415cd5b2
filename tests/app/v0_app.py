"""The application as v0 sees it, over stores in memory."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx2
from starlette.responses import Response
from starlette.types import ASGIApp

from postfacta_app.app import create_app
from postfacta_app.errors import ConflictError
from postfacta_app.incidents.v0 import PostgresV0, ShownIncident, ShownNote
from postfacta_app.settings import AuthMode, Settings, load_settings
from postfacta_app.web.routes import Call

__all__ = ["FailingStore", "FixedStore", "MemoryStore", "a_client", "an_application"]


@dataclass
class MemoryStore(PostgresV0):
    """Keeps incidents in a list."""

    incidents: list[ShownIncident] = field(default_factory=list[ShownIncident])

    async def list(
        self, before: tuple[datetime, uuid.UUID] | None
    ) -> tuple[Sequence[ShownIncident], bool]:
        """Give them in their order."""
        return self.incidents, False

    async def get(self, incident_id: uuid.UUID) -> ShownIncident | None:
        """Find one."""
        return next((incident for incident in self.incidents if incident.id == incident_id), None)

    async def start(
        self, call: Call, new: ShownIncident, *, answer: Response, key: str | None
    ) -> Response:
        """Keep it."""
        self.incidents.append(new)
        return answer


class FailingStore(MemoryStore):
    """Fails whatever it is asked, for a reason that callers must not learn."""

    async def list(
        self, before: tuple[datetime, uuid.UUID] | None
    ) -> tuple[Sequence[ShownIncident], bool]:
        """Fail."""
        raise OSError("db unavailable")

    async def start(
        self, call: Call, new: ShownIncident, *, answer: Response, key: str | None
    ) -> Response:
        """Fail."""
        raise OSError("write failed")


class FixedStore(MemoryStore):
    """Holds three incidents in three states, and refuses every new one."""

    def __init__(self) -> None:
        super().__init__(_three_incidents())

    async def start(
        self, call: Call, new: ShownIncident, *, answer: Response, key: str | None
    ) -> Response:
        """Refuse."""
        raise ConflictError("Incident with the same ID already exists: incident conflict")


def _incident(**told: object) -> ShownIncident:
    rest = {
        "status": "OPEN",
        "initial_notes": None,
        "additional_notes": None,
        "end_time": datetime.min.replace(tzinfo=UTC),
    }
    return ShownIncident.model_validate(rest | told)


def _three_incidents() -> list[ShownIncident]:
    return [
        _incident(
            id=uuid.UUID("11111111-1111-4111-8111-111111111111"),
            title="DB outage",
            description="Primary database unavailable",
            severity="HIGH",
            reporter="sre",
            start_time=datetime(2025, 11, 1, 10, tzinfo=UTC),
        ),
        _incident(
            id=uuid.UUID("22222222-2222-4222-8222-222222222222"),
            title="Cache saturation",
            description="Cache hit rate dropped",
            severity="MEDIUM",
            status="IN_PROGRESS",
            reporter="infra",
            owner="platform",
            start_time=datetime(2025, 11, 2, 11, 30, 0, 500_000, tzinfo=UTC),
            additional_notes=[
                ShownNote(timestamp="2025-11-02T12:00:00Z", message="evicted hot keys")
            ],
        ),
        _incident(
            id=uuid.UUID("33333333-3333-4333-8333-333333333333"),
            title="Queue stuck",
            description="Consumer stopped reading",
            severity="LOW",
            status="CLOSED",
            reporter="infra",
            start_time=datetime(2025, 11, 3, 8, 0, 0, 123_456, tzinfo=UTC),
            initial_notes=[],
            end_time=datetime(2025, 11, 3, 9, 15, tzinfo=UTC),
        ),
    ]


def an_application(store: PostgresV0, settings: Settings | None = None) -> ASGIApp:
    """Assemble the whole service around a store, with every caller signed in as a responder."""
    settings = settings or load_settings({})
    # As a copy, it may be so outside of `local` too: the settings themselves refuse that at the
    # start.
    return create_app(settings.model_copy(update={"auth_mode": AuthMode.NONE}), v0_store=store)


@asynccontextmanager
async def a_client(app: ASGIApp) -> AsyncGenerator[httpx2.AsyncClient]:
    """Open a client that sees a crash as its answer, as one on the other side of a network does."""
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client
