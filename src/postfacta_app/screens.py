"""The routes of HTML pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from .identity.account_pages import AccountPages
from .identity.pages import SignInPages
from .incident_page import IncidentPage
from .principal import Access, Principal
from .reliability.pages import ReliabilityPage
from .web.routes import RouteClass, Rule

__all__ = ["Screens", "screen_rules"]

OPEN, READ, ANNOTATE, WRITE = Access.OPEN, Access.READ, Access.ANNOTATE, Access.WRITE
SIGNED_IN, ADMIN = Access.SIGNED_IN, Access.ADMIN


@dataclass(frozen=True, slots=True)
class Screens:
    """The handlers of the page routes."""

    incident: IncidentPage
    sign_in: SignInPages
    accounts: AccountPages
    reliability: ReliabilityPage
    problem_page: Callable[[Request, Principal], Awaitable[Response]]


def screen_rules(on: Screens) -> list[Rule]:
    """List these routes for the route table."""
    read, search, write, auth = RouteClass.READ, RouteClass.SEARCH, RouteClass.WRITE, RouteClass.AUTH
    one, account, path = on.incident, on.accounts, "/incidents/{ref}"
    return [
        Rule(method="GET", path=path, handler=one.show, access=READ, route_class=read, stale=True),
        Rule(method="POST", path=f"{path}/moves", handler=one.move, access=WRITE, route_class=write),
        Rule(method="POST", path=f"{path}/edits", handler=one.edit, access=WRITE, route_class=write),
        Rule(method="POST", path=f"{path}/notes", handler=one.note, access=ANNOTATE, route_class=write),
        Rule(method="POST", path=f"{path}/notes/{{root}}", handler=one.renote, access=ANNOTATE, route_class=write),
        Rule(method="POST", path=f"{path}/links", handler=one.link, access=WRITE, route_class=write),
        Rule(method="GET", path="/reliability", handler=on.reliability.show, access=READ, route_class=read),
        Rule(method="GET", path="/signin", handler=on.sign_in.form, access=OPEN, route_class=read),
        Rule(method="GET", path="/account", handler=account.own, access=SIGNED_IN, route_class=read),
        Rule(method="POST", path="/account/password", handler=account.change, access=SIGNED_IN, route_class=auth),
        Rule(method="POST", path="/account/sessions", handler=account.end, access=SIGNED_IN, route_class=write),
        Rule(method="POST", path="/account/sessions/{session}", handler=account.end, access=SIGNED_IN, route_class=write),
        Rule(method="GET", path="/people", handler=account.people, access=ADMIN, route_class=search),
        Rule(method="POST", path="/people/tokens/{id}", handler=account.revoke_token, access=ADMIN, route_class=write),
        Rule(method="GET", path="/people/{id}", handler=account.person, access=ADMIN, route_class=read),
        Rule(method="POST", path="/people/{id}/password", handler=account.reset, access=ADMIN, route_class=auth),
        Rule(method="POST", path="/people/{id}/sessions", handler=account.end, access=ADMIN, route_class=write),
        Rule(method="POST", path="/people/{id}/sessions/{session}", handler=account.end, access=ADMIN, route_class=write),
        Rule(method="POST", path="/signin", handler=on.sign_in.submit, access=OPEN, route_class=auth),
        Rule(method="POST", path="/signout", handler=on.sign_in.leave, access=OPEN, route_class=auth),
        Rule(method="GET", path="/problems/{slug}", handler=on.problem_page, access=OPEN, route_class=read),
    ]  # fmt: skip
