"""The route table: every route of the service, in one place."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from pydantic import JsonValue, RootModel
from starlette.requests import Request
from starlette.responses import Response

from .identity import model as identity
from .identity.http import IdentityHttp
from .identity.sessions import SessionHttp
from .incidents import v0
from .principal import Access, Principal
from .reliability import about
from .screens import Screens, screen_rules
from .signals import model as signals
from .signals.alertmanager import Webhook
from .signals.http import SignalHttp
from .timeline import annotations as remarks, edits, query as timeline
from .timeline.http import TimelineHttp
from .web.routes import RouteClass, Rule

__all__ = ["Handlers", "rules"]

OPEN, SIGNED_IN, READ, WRITE, INGEST, ADMIN = (
    Access.OPEN,
    Access.SIGNED_IN,
    Access.READ,
    Access.WRITE,
    Access.INGEST,
    Access.ADMIN,
)
_ONCE = ("idempotency-in-progress", "idempotency-mismatch", "conflict")
_VERSIONED = ("precondition-failed", "precondition-required", "conflict")


class Document(RootModel[dict[str, JsonValue]]):
    """An OpenAPI document."""


@dataclass(frozen=True, slots=True)
class Handlers:
    """The handlers of the routes."""

    about: about.About
    v0: v0.V0Http
    signals: SignalHttp
    timeline: TimelineHttp
    identity: IdentityHttp
    sessions: SessionHttp
    screens: Screens
    slices: Sequence[Rule]
    openapi: Callable[[Request, Principal], Awaitable[Response]]


def rules(on: Handlers) -> list[Rule]:
    """List every route in matching order, most requested first."""
    return [
        *on.slices,
        *_v1_signals(on),
        *_v1_timeline(on),
        *_v0(on),
        *screen_rules(on.screens),
        *_v1_identity(on),
        *_system(on),
    ]


def _system(on: Handlers) -> list[Rule]:
    probe, read, auth = RouteClass.PROBE, RouteClass.READ, RouteClass.AUTH
    credentials = ("rate-limited", "unauthenticated")
    return [
        Rule(
            method="GET", path="/", handler=on.about.root, access=OPEN, route_class=read,
            summary="Greet API clients; redirect browsers to the incidents", answers={200: about.Greeting, 303: None},
        ),
        Rule(
            method="GET", path="/home", handler=on.about.home, access=OPEN, route_class=read,
            summary="Greet", answers={200: about.Greeting},
        ),
        Rule(
            method="GET", path="/healthz", handler=on.about.healthz, access=OPEN, route_class=probe,
            summary="Report that the process is running", answers={200: about.Healthy},
        ),
        Rule(
            method="GET", path="/service-info", handler=on.about.service_info, access=OPEN, route_class=read,
            summary="Describe this service", answers={200: about.ServiceInfo},
        ),
        Rule(
            method="GET", path="/openapi.json", handler=on.openapi, access=OPEN, route_class=read,
            summary="Read this OpenAPI document", answers={200: Document},
        ),
        Rule(
            method="POST", path="/login", handler=on.identity.login, access=OPEN, route_class=auth,
            summary="Exchange e-mail and password for a bearer token", body=identity.Credentials,
            answers={200: identity.SignedIn}, problems=credentials,
        ),
        Rule(
            method="POST", path="/register", handler=on.identity.register, access=OPEN, route_class=auth,
            summary="Register an account, if registration is open", body=identity.Registration,
            answers={201: identity.Registered}, problems=("registration-closed", "conflict", "rate-limited"),
        ),
        Rule(
            method="POST", path="/logout", handler=on.identity.logout, access=SIGNED_IN, route_class=auth,
            summary="End the current session or bearer token", answers={204: None},
        ),
    ]  # fmt: skip


def _v0(on: Handlers) -> list[Rule]:
    read, search, write = RouteClass.READ, RouteClass.SEARCH, RouteClass.WRITE
    return [
        Rule(
            method="GET", path="/api/v0/incidents", handler=on.v0.list, access=READ, route_class=search,
            summary="List the newest incidents", query=v0.V0Query, answers={200: v0.ShownIncidents},
            problems=("invalid-cursor",), stale=True,
        ),
        Rule(
            method="GET", path="/api/v0/incidents/{id:uuid}", handler=on.v0.get, access=READ, route_class=read,
            summary="Read an incident", answers={200: v0.ShownIncident}, stale=True,
        ),
        Rule(
            method="POST", path="/api/v0/incidents/start", handler=on.v0.start, access=WRITE, route_class=write,
            summary="Start an incident", body=v0.Start, answers={201: v0.Started}, problems=_ONCE,
            headers={"Idempotency-Key": False},
        ),
    ]  # fmt: skip


def _v1_signals(on: Handlers) -> list[Rule]:
    read, search, write, ingest = RouteClass.READ, RouteClass.SEARCH, RouteClass.WRITE, RouteClass.INGEST
    root, of_incident = "/api/v1/signals", "/api/v1/incidents/{ref}/signals"
    return [
        Rule(
            method="GET", path=root, handler=on.signals.page, access=READ, route_class=search,
            summary="List signals", query=signals.SignalQuery, answers={200: signals.SignalPage},
            problems=("invalid-cursor",),
        ),
        Rule(
            method="POST", path=root, handler=on.signals.ingest, access=INGEST, route_class=ingest,
            summary="Store signals, with a result for each", body=signals.Batch,
            answers={200: signals.Ingested}, problems=("conflict", "not-found"),
        ),
        Rule(
            method="GET", path=f"{root}/{{id}}", handler=on.signals.read, access=READ, route_class=read,
            summary="Read a signal, its conflicts and its incidents", answers={200: signals.SignalDetail},
        ),
        Rule(
            method="POST", path="/api/v1/ingest/alertmanager", handler=on.signals.alertmanager, access=INGEST,
            route_class=ingest, summary="Store the alerts of an Alertmanager notification", body=Webhook,
            answers={200: signals.Ingested}, only_5xx=True,
        ),
        Rule(
            method="POST", path=of_incident, handler=on.signals.attach, access=WRITE, route_class=write,
            summary="Attach signals to an incident", body=signals.Attachments, answers={200: signals.AttachedPage},
            problems=_ONCE, headers={"Idempotency-Key": False},
        ),
        Rule(
            method="DELETE", path=f"{of_incident}/{{id}}", handler=on.signals.detach, access=WRITE, route_class=write,
            summary="Detach a signal", answers={204: None}, problems=("conflict",),
        ),
    ]  # fmt: skip


def _v1_timeline(on: Handlers) -> list[Rule]:
    read, write = RouteClass.READ, RouteClass.WRITE
    one, cursor = "/api/v1/incidents/{ref}", ("invalid-cursor",)
    http, remark = on.timeline, "/api/v1/annotations/{root}"
    return [
        Rule(
            method="GET", path=f"{one}/timeline", handler=http.timeline, access=READ, route_class=read,
            summary="Read the timeline of an incident", query=timeline.TimelineQuery,
            answers={200: timeline.TimelinePage, 304: None}, problems=cursor, headers={"If-None-Match": False},
            stale=True,
        ),
        Rule(
            method="GET", path=f"{one}/edits", handler=http.edits, access=READ, route_class=read,
            summary="List the edits of a timeline", query=timeline.Paging,
            answers={200: edits.EditPage}, problems=cursor,
        ),
        Rule(
            method="POST", path=f"{one}/edits", handler=http.add_edit, access=WRITE, route_class=write,
            summary="Edit a timeline; originals are kept", body=edits.AnyEdit, answers={201: edits.AddedEdit},
            problems=_ONCE, headers={"Idempotency-Key": False},
        ),
        Rule(
            method="GET", path=f"{one}/annotations", handler=http.annotations, access=READ, route_class=read,
            summary="List notes, decisions, hypotheses and questions", query=timeline.Paging,
            answers={200: remarks.AnnotationPage}, problems=cursor,
        ),
        Rule(
            method="POST", path=f"{one}/annotations", handler=http.annotate, access=Access.ANNOTATE, route_class=write,
            summary="Add a note, decision, hypothesis or question", body=remarks.NewAnnotation,
            answers={201: remarks.ShownAnnotation}, problems=_ONCE, headers={"Idempotency-Key": False},
        ),
        Rule(
            method="GET", path=remark, handler=http.annotation, access=READ, route_class=read,
            summary="Read an annotation", answers={200: remarks.ShownAnnotation},
        ),
        Rule(
            method="PUT", path=remark, handler=http.change, access=Access.ANNOTATE, route_class=write,
            summary="Change the text or state of an annotation", body=remarks.AnnotationChange,
            answers={200: remarks.ShownAnnotation}, problems=_VERSIONED, headers={"If-Match": True},
        ),
        Rule(
            method="DELETE", path=remark, handler=http.retract, access=Access.ANNOTATE, route_class=write,
            summary="Retract an annotation", answers={204: None}, problems=_VERSIONED, headers={"If-Match": True},
        ),
    ]  # fmt: skip


def _v1_identity(on: Handlers) -> list[Rule]:
    read, search, write = RouteClass.READ, RouteClass.SEARCH, RouteClass.WRITE
    http, sessions, cursor = on.identity, on.sessions, ("invalid-cursor",)
    return [
        Rule(
            method="GET", path="/api/v1/me", handler=http.me, access=SIGNED_IN, route_class=read,
            summary="Read the current user or token", answers={200: identity.Me},
        ),
        Rule(
            method="PUT", path="/api/v1/me/password", handler=sessions.change_password, access=SIGNED_IN,
            route_class=write, summary="Change your password and end your other sessions",
            body=identity.PasswordChange, answers={204: None}, problems=("conflict",),
        ),
        Rule(
            method="GET", path="/api/v1/me/sessions", handler=sessions.list, access=SIGNED_IN, route_class=search,
            summary="List your sessions", answers={200: identity.SessionList},
        ),
        Rule(
            method="DELETE", path="/api/v1/me/sessions", handler=sessions.end, access=SIGNED_IN, route_class=write,
            summary="Sign out everywhere", answers={204: None},
        ),
        Rule(
            method="DELETE", path="/api/v1/me/sessions/{session}", handler=sessions.end, access=SIGNED_IN,
            route_class=write, summary="End one of your sessions", answers={204: None},
        ),
        Rule(
            method="POST", path="/api/v1/users/{id}/password", handler=sessions.reset, access=ADMIN,
            route_class=write, summary="Reset a person's password; the new one is returned once",
            answers={200: identity.IssuedPassword}, problems=("conflict",),
        ),
        Rule(
            method="GET", path="/api/v1/users/{id}/sessions", handler=sessions.list, access=ADMIN,
            route_class=search, summary="List a person's sessions", answers={200: identity.SessionList},
        ),
        Rule(
            method="DELETE", path="/api/v1/users/{id}/sessions", handler=sessions.end, access=ADMIN,
            route_class=write, summary="Sign a person out everywhere", answers={204: None},
        ),
        Rule(
            method="DELETE", path="/api/v1/users/{id}/sessions/{session}", handler=sessions.end, access=ADMIN,
            route_class=write, summary="End one of a person's sessions", answers={204: None},
        ),
        Rule(
            method="GET", path="/api/v1/tokens", handler=http.tokens, access=ADMIN, route_class=search,
            summary="List API tokens", query=identity.Paging, answers={200: identity.TokenPage}, problems=cursor,
        ),
        Rule(
            method="POST", path="/api/v1/tokens", handler=http.add_token, access=ADMIN, route_class=write,
            summary="Create an API token; its secret is returned once", body=identity.NewToken,
            answers={201: identity.IssuedToken},
        ),
        Rule(
            method="DELETE", path="/api/v1/tokens/{id}", handler=http.revoke_token, access=ADMIN, route_class=write,
            summary="Revoke an API token", answers={204: None},
        ),
        Rule(
            method="GET", path="/api/v1/users", handler=http.users, access=ADMIN, route_class=search,
            summary="List people", query=identity.Paging, answers={200: identity.UserPage}, problems=cursor,
        ),
        Rule(
            method="POST", path="/api/v1/users", handler=http.add_user, access=ADMIN, route_class=write,
            summary="Add a person", body=identity.NewUser, answers={201: identity.User},
            problems=("conflict", "rate-limited", "registration-closed"),
        ),
        Rule(
            method="GET", path="/api/v1/users/{id}", handler=http.user, access=ADMIN, route_class=read,
            summary="Read a person", answers={200: identity.User},
        ),
        Rule(
            method="PATCH", path="/api/v1/users/{id}", handler=http.change_user, access=ADMIN, route_class=write,
            summary="Change a person's role, or disable an account", body=identity.UserChange,
            body_type="application/merge-patch+json", answers={200: identity.User},
            problems=_VERSIONED, headers={"If-Match": True},
        ),
        Rule(
            method="GET", path="/api/v1/audit", handler=http.audit, access=ADMIN, route_class=search,
            summary="Read the audit log", query=identity.AuditQuery, answers={200: identity.AuditPage},
            problems=cursor,
        ),
    ]  # fmt: skip
