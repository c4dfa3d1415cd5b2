"""The route table: every route of the service, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .principal import Access
from .screens import Screens, screen_rules
from .signals import model as signals
from .signals.alertmanager import Webhook
from .signals.http import SignalHttp
from .timeline import annotations as remarks, edits, query as timeline
from .timeline.http import TimelineHttp
from .web.routes import RouteClass, Rule

__all__ = ["Handlers", "rules"]

READ, WRITE, INGEST = Access.READ, Access.WRITE, Access.INGEST
_ONCE = ("idempotency-in-progress", "idempotency-mismatch", "conflict")
_VERSIONED = ("precondition-failed", "precondition-required", "conflict")


@dataclass(frozen=True, slots=True)
class Handlers:
    """The handlers of the routes."""

    signals: SignalHttp
    timeline: TimelineHttp
    screens: Screens
    slices: Sequence[Rule]


def rules(on: Handlers) -> list[Rule]:
    """List every route in matching order, most requested first."""
    return [
        *on.slices,
        *_v1_signals(on),
        *_v1_timeline(on),
        *screen_rules(on.screens),
    ]


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
