"""Read the route template that a framework left in the scope, or make it leave one.

No framework is imported: Starlette, FastAPI and Litestar are recognised by what they put into the
scope; Django and Quart, which put nothing there, by their classes. A template holds nothing that a
client chose. Where that is unknown, there is no template.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

from ..context import current_request
from ._types import Scope

_MOUNT_END: Final = "/{path}"
_MAX_LAYERS: Final = 50
# One entry for each route below a parameterised mount: an application has no more of them than
# this.
_MAX_KNOWN: Final = 1000


def local_path(path: str, root_path: str) -> str:
    """Return the path without the server's `root_path`, which newer servers put in front of it."""
    return path[len(root_path) :] if root_path and path.startswith(root_path + "/") else path


def note_routes(app: object) -> None:
    """Make Django or Quart, or one inside of other layers, note each request's route in its context."""
    for _ in range(_MAX_LAYERS):
        for kind in type(app).__mro__:
            if (prepare := _PREPARATIONS.get(f"{kind.__module__}.{kind.__qualname__}")) is not None:
                prepare(app)
                break
        # Middleware calls what it wraps `app` as a rule, Django's for static files does not.
        app = getattr(app, "app", None) or getattr(app, "application", None)


def _note(template: str) -> None:
    if (request := current_request()) is not None:
        request.route = template


def _prepare_django(handler: Any) -> None:
    if "resolve_request" in vars(handler):
        return
    resolve = handler.resolve_request

    def resolve_request(request: Any) -> object:
        view = resolve(request)
        _note("/" + request.resolver_match.route)
        return view

    handler.resolve_request = resolve_request


def _prepare_quart(app: object) -> None:
    signals = sys.modules["quart.signals"]
    # Connected again, they stay connected once.
    signals.request_started.connect(_note_rule, app)
    signals.websocket_started.connect(_note_rule, app)


async def _note_rule(app: object) -> None:
    quart = sys.modules["quart"]
    connection: Any = quart.request if quart.has_request_context() else quart.websocket
    if connection.url_rule is not None:
        _note(connection.url_rule.rule)


_PREPARATIONS: Final[Mapping[str, Callable[[Any], None]]] = {
    "django.core.handlers.asgi.ASGIHandler": _prepare_django,
    "quart.app.Quart": _prepare_quart,
}


class RouteReader:
    """Finds the route template of a scope after the application has run."""

    def __init__(self) -> None:
        # What is searched for is kept, so that its id stays its own.
        self._known: dict[int, tuple[object, str | None]] = {}
        self._plain: dict[int, tuple[object, str | None]] = {}

    def read(self, scope: Scope, root_path: str, path: str) -> str | None:
        """Return the template of a scope as the application left it; at entry, it had this `root_path` and path."""
        route = scope.get("route")
        if route is None:
            found = _of_litestar(scope, path) if "path_template" in scope else None
            # A Starlette route in a FastAPI application leaves only the endpoint in the scope.
            endpoint = scope.get("endpoint")
            return found if found or endpoint is None else self._search(scope, endpoint)
        growth: str = scope.get("root_path", "")[len(root_path) :]
        if not growth and "fastapi" not in scope:
            return self._of_plain(scope, route)
        template = _of_route(scope, route)
        if template is None or not growth:
            return template
        if len(scope.get("path_params", ())) > template.removesuffix(_MOUNT_END).count("{"):
            # The mounts' values stand in the root_path: their templates have to be looked for.
            return self._search(scope, route)
        # A mount without parameters grew it by its own words, and a mount at the end by itself as
        # well.
        return growth + (_MOUNT_END if _is_mount(route) else template)

    def _of_plain(self, scope: Scope, route: object) -> str | None:
        known = self._plain.get(id(route))
        if known is None:
            known = (route, _of_route(scope, route))
            if len(self._plain) < _MAX_KNOWN:
                self._plain[id(route)] = known
        return known[1]

    def _search(self, scope: Scope, wanted: object) -> str | None:
        """Join the templates of the mounts around a route; if it has two places, it is not known which it was."""
        known = self._known.get(id(wanted))
        if known is None:
            places = list(_places(wanted, getattr(scope.get("router"), "routes", ()), "", depth=0))
            known = (wanted, places[0] if len(places) == 1 else None)
            if len(self._known) < _MAX_KNOWN:
                self._known[id(wanted)] = known
        return known[1]


def _of_route(scope: Scope, route: object) -> str | None:
    if _is_mount(route) and getattr(route, "routes", None):
        return None  # the mount of a router that matched nothing
    template = _of_included(scope, route) if "fastapi" in scope else None
    template = template or getattr(route, "path_format", None)
    return template if isinstance(template, str) else None


def _of_included(scope: Scope, route: object) -> str | None:
    """Return the template with the prefixes of `include_router`, which FastAPI 0.165 keeps in a private place."""
    fastapi: object = scope.get("fastapi")
    if not isinstance(fastapi, Mapping):
        return None
    context: object = cast("Mapping[str, object]", fastapi).get("effective_route_context")
    inner = getattr(context, "starlette_route", None)
    # A context may be left over from a router outside of the mount that the route is in.
    if route is not getattr(context, "original_route", None) and route is not inner:
        return None
    template = getattr(inner or context, "path_format", None)
    return template if isinstance(template, str) else None


def _is_mount(route: object) -> bool:
    return getattr(route, "path_format", "").endswith(_MOUNT_END) and hasattr(route, "routes")


def _places(wanted: object, routes: Sequence[Any], mounts: str, *, depth: int) -> Iterator[str]:
    """Yield the whole template of each place of a route or an endpoint in the tree of routes."""
    for route in routes:
        template = mounts + getattr(route, "path_format", "")
        inner = getattr(route, "routes", None)
        if route is wanted or (
            not inner and wanted in (getattr(route, "endpoint", None), getattr(route, "app", None))
        ):
            yield template
        elif inner and depth < 10:  # noqa: PLR2004 - deep enough, and no circle
            yield from _places(wanted, inner, template.removesuffix(_MOUNT_END), depth=depth + 1)


def _of_litestar(scope: Scope, path: str) -> str | None:
    """Return Litestar's template; a mounted ASGI application has none, so its place is derived."""
    template = scope.get("path_template")
    if not isinstance(template, str):
        return None
    if template or not getattr(scope.get("route_handler"), "is_mount", False):
        return template or None
    # Litestar leaves the rest below the mount in the scope's path.
    whole = path.rstrip("/")
    rest = str(scope["path"]).rstrip("/")
    return whole[: len(whole) - len(rest)] + _MOUNT_END if whole.endswith(rest) else None
