"""The routes of HTML pages."""

from __future__ import annotations

from dataclasses import dataclass

from .incident_page import IncidentPage
from .principal import Access
from .web.routes import RouteClass, Rule

__all__ = ["Screens", "screen_rules"]

READ, ANNOTATE, WRITE = Access.READ, Access.ANNOTATE, Access.WRITE


@dataclass(frozen=True, slots=True)
class Screens:
    """The handlers of the page routes."""

    incident: IncidentPage


def screen_rules(on: Screens) -> list[Rule]:
    """List these routes for the route table."""
    read, write = RouteClass.READ, RouteClass.WRITE
    one, path = on.incident, "/incidents/{ref}"
    return [
        Rule(method="GET", path=path, handler=one.show, access=READ, route_class=read, stale=True),
        Rule(method="POST", path=f"{path}/moves", handler=one.move, access=WRITE, route_class=write),
        Rule(method="POST", path=f"{path}/edits", handler=one.edit, access=WRITE, route_class=write),
        Rule(method="POST", path=f"{path}/notes", handler=one.note, access=ANNOTATE, route_class=write),
        Rule(method="POST", path=f"{path}/notes/{{root}}", handler=one.renote, access=ANNOTATE, route_class=write),
        Rule(method="POST", path=f"{path}/links", handler=one.link, access=WRITE, route_class=write),
    ]  # fmt: skip
