"""The application as v0 sees it, over stores in memory that write down who called them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx2
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from postfacta_app.db import Answer
from postfacta_app.errors import ConflictError
from postfacta_app.incidents.v0 import Listing, Note, V0Http, V0Incident, V0Store
from postfacta_app.principal import ANONYMOUS, Access, Principal
from postfacta_app.problems import Problems
from postfacta_app.reliability.about import About, load_codebase
from postfacta_app.routes import RouteClass, Rule, build_routes
from postfacta_app.settings import Settings, load_settings
from postfacta_core.clock import random_id
from postfacta_core.context import RequestContext, bind_request, release_request

__all__ = ["FailingStore", "FixedStore", "MemoryStore", "a_client", "an_application"]


@dataclass
class MemoryStore:
    """Keeps incidents in a list."""

    incidents: list[V0Incident] = field(default_factory=list[V0Incident])
    calls: list[str] = field(default_factory=list[str])

    async def list(self, before: tuple[datetime, uuid.UUID] | None) -> Listing:
        """Give them in their order."""
        self.calls.append("list")
        return Listing(self.incidents)

    async def get(self, incident_id: uuid.UUID) -> V0Incident | None:
        """Find one."""
        self.calls.append("get")
        return next((incident for incident in self.incidents if incident.id == incident_id), None)

    async def start(
        self, request: Request, principal: Principal, incident: V0Incident, *, answer: Answer, key: str | None
    ) -> Response:
        """Keep it."""
        self.calls.append("start")
        self.incidents.append(incident)
        return answer.response()


class FailingStore(MemoryStore):
    """Fails whatever it is asked, for a reason that callers must not learn."""

    async def list(self, before: tuple[datetime, uuid.UUID] | None) -> Listing:
        """Fail."""
        self.calls.append("list")
        raise OSError("db unavailable")

    async def start(
        self, request: Request, principal: Principal, incident: V0Incident, *, answer: Answer, key: str | None
    ) -> Response:
        """Fail."""
        self.calls.append("start")
        raise OSError("write failed")


class FixedStore(MemoryStore):
    """Holds three incidents in three states, and refuses every new one."""

    def __init__(self) -> None:
        super().__init__(_three_incidents())

    async def start(
        self, request: Request, principal: Principal, incident: V0Incident, *, answer: Answer, key: str | None
    ) -> Response:
        """Refuse."""
        self.calls.append("start")
        raise ConflictError("incident conflict")


def _three_incidents() -> list[V0Incident]:
    return [
        V0Incident(
            id=uuid.UUID("11111111-1111-4111-8111-111111111111"),
            title="DB outage",
            description="Primary database unavailable",
            severity="HIGH",
            reporter="sre",
            owner=None,
            start_time=datetime(2025, 11, 1, 10, tzinfo=UTC),
            initial_notes=None,
        ),
        V0Incident(
            id=uuid.UUID("22222222-2222-4222-8222-222222222222"),
            title="Cache saturation",
            description="Cache hit rate dropped",
            severity="MEDIUM",
            status="IN_PROGRESS",
            reporter="infra",
            owner="platform",
            start_time=datetime(2025, 11, 2, 11, 30, 0, 500_000, tzinfo=UTC),
            initial_notes=None,
            additional_notes=[Note("2025-11-02T12:00:00Z", "evicted hot keys")],
        ),
        V0Incident(
            id=uuid.UUID("33333333-3333-4333-8333-333333333333"),
            title="Queue stuck",
            description="Consumer stopped reading",
            severity="LOW",
            status="CLOSED",
            reporter="infra",
            owner=None,
            start_time=datetime(2025, 11, 3, 8, 0, 0, 123_456, tzinfo=UTC),
            initial_notes=[],
            end_time=datetime(2025, 11, 3, 9, 15, tzinfo=UTC),
        ),
    ]


def an_application(store: V0Store, settings: Settings | None = None) -> ASGIApp:
    """Assemble what v0 needs."""
    settings = settings or load_settings({})
    version = "" if settings.is_local else settings.app_version
    app = Starlette(
        routes=build_routes(_rules(store, settings), _anonymous),
        middleware=[Middleware(CORSMiddleware, allow_origins=settings.cors_origins)],
        exception_handlers=Problems(version=version).handlers,
    )
    app.router.redirect_slashes = False
    return _Identify(app)


def _rules(store: V0Store, settings: Settings) -> list[Rule]:
    v0 = V0Http(store)
    about = About(load_codebase(), environment=settings.environment)
    rows = (
        ("GET", "/", about.root, Access.OPEN, RouteClass.PROBE),
        ("GET", "/home", about.home, Access.OPEN, RouteClass.PROBE),
        ("GET", "/healthz", about.healthz, Access.OPEN, RouteClass.PROBE),
        ("GET", "/service-info", about.service_info, Access.OPEN, RouteClass.PROBE),
        ("GET", "/api/v0/incidents", v0.list, Access.READ, RouteClass.SEARCH),
        ("GET", "/api/v0/incidents/{id:uuid}", v0.get, Access.READ, RouteClass.READ),
        ("POST", "/api/v0/incidents/start", v0.start, Access.WRITE, RouteClass.WRITE),
    )
    return [
        Rule(method=method, path=path, handler=handler, access=access, route_class=kind)
        for method, path, handler, access, kind in rows
    ]


async def _anonymous(request: Request) -> Principal:
    return ANONYMOUS


class _Identify:
    """Give each request its id, as the core's outermost layer does."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = RequestContext(random_id(), 0.0)
        scope["postfacta.request"] = context

        async def identified_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", context.request_id.encode())]
            await send(message)

        token = bind_request(context)
        try:
            await self._app(scope, receive, identified_send)
        finally:
            release_request(token)


@asynccontextmanager
async def a_client(app: ASGIApp) -> AsyncGenerator[httpx2.AsyncClient]:
    """Open a client that sees a crash as its answer, as one on the other side of a network does."""
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client
