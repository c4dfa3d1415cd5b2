"""Routes of post-mortems, factors, action items, links and exports."""

from __future__ import annotations

from .export import model as export
from .export.http import NDJSON, ExportHttp
from .incidents.query import IncidentFilters
from .links import model as links
from .links.http import LinkHttp
from .postmortems import model as postmortems
from .postmortems.http import PostMortemHttp
from .principal import Access
from .web.routes import RouteClass, Rule

__all__ = ["aftermath_rules"]

READ, WRITE = Access.READ, Access.WRITE
_ONCE = ("idempotency-in-progress", "idempotency-mismatch", "conflict")
_VERSIONED = ("precondition-failed", "precondition-required", "conflict")
_INCIDENT = "/api/v1/incidents/{ref}"


def aftermath_rules(on: PostMortemHttp, *, links: LinkHttp, export: ExportHttp) -> list[Rule]:
    """List these routes for the route table."""
    return [*_postmortems(on), *_links(links), *_exports(export)]


def _postmortems(http: PostMortemHttp) -> list[Rule]:
    read, search, write = RouteClass.READ, RouteClass.SEARCH, RouteClass.WRITE
    one = f"{_INCIDENT}/postmortem"
    written = {200: postmortems.Revision, 201: postmortems.Revision}
    starts_from = {"If-Match": False, "If-None-Match": False}
    once = {**starts_from, "Idempotency-Key": False}
    return [
        Rule(
            method="GET", path=one, handler=http.read, access=READ, route_class=read,
            summary="Read the post-mortem, and how its timeline has changed since",
            answers={200: postmortems.PostMortem, 304: None}, headers={"If-None-Match": False}, stale=True,
        ),
        Rule(
            method="PUT", path=one, handler=http.write, access=WRITE, route_class=write,
            summary="Write the post-mortem's next revision", body=postmortems.Draft, answers=written,
            problems=_VERSIONED, headers=starts_from,
        ),
        Rule(
            method="POST", path=f"{one}/transitions", handler=http.move, access=WRITE, route_class=write,
            summary="Change the status of the post-mortem", body=postmortems.Transition, answers=written,
            problems=(*_ONCE, *_VERSIONED, "illegal-transition", "not-publishable"), headers=once,
        ),
        Rule(
            method="POST", path=f"{one}/restore", handler=http.restore, access=WRITE, route_class=write,
            summary="Restore the content of an older revision", body=postmortems.Restore, answers=written,
            problems=(*_ONCE, *_VERSIONED), headers=once,
        ),
        Rule(
            method="GET", path=f"{one}/revisions", handler=http.revisions, access=READ, route_class=read,
            summary="List the revisions", query=postmortems.RevisionsQuery,
            answers={200: postmortems.RevisionPage}, problems=("invalid-cursor",),
        ),
        Rule(
            method="GET", path=f"{one}/revisions/{{rev}}", handler=http.revision, access=READ, route_class=read,
            summary="Read a revision, or compare it with another", query=postmortems.RevisionQuery,
            answers={200: postmortems.RevisionWithDifferences},
        ),
        Rule(
            method="GET", path="/api/v1/factors", handler=http.factors, access=READ, route_class=search,
            summary="Count the factors of published post-mortems", query=IncidentFilters,
            answers={200: postmortems.FactorList},
        ),
    ]  # fmt: skip


def _links(http: LinkHttp) -> list[Rule]:
    read, write, root = RouteClass.READ, RouteClass.WRITE, f"{_INCIDENT}/links"
    return [
        Rule(
            method="GET", path=root, handler=http.of_incident, access=READ, route_class=read,
            summary="List the links of an incident", answers={200: links.LinkList},
        ),
        Rule(
            method="POST", path=root, handler=http.link, access=WRITE, route_class=write,
            summary="Link an incident to another", body=links.NewLink, answers={200: links.IncidentLink, 201: links.IncidentLink},
            problems=_ONCE, headers={"Idempotency-Key": False},
        ),
        Rule(
            method="DELETE", path=f"{root}/{{other}}/{{type}}", handler=http.unlink, access=WRITE,
            route_class=write, summary="Remove a link", answers={204: None}, problems=("conflict",),
        ),
    ]  # fmt: skip


def _exports(http: ExportHttp) -> list[Rule]:
    search = RouteClass.SEARCH
    return [
        Rule(
            method="GET", path=f"{_INCIDENT}/export", handler=http.one, access=READ, route_class=search,
            summary="Export an incident", query=export.OneQuery, answers={200: export.Document, 304: None},
            also=("text/markdown",), headers={"If-None-Match": False},
        ),
        Rule(
            method="GET", path="/api/v1/export", handler=http.all, access=READ, route_class=search,
            summary="Export incidents as NDJSON, least recently changed first", query=export.ExportQuery,
            answers={200: None}, also=(NDJSON,), problems=("invalid-cursor",),
        ),
    ]  # fmt: skip
