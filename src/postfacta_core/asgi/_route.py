"""Read the route template that a framework left in the scope, or make it leave one.

No framework is imported: Starlette, FastAPI and Litestar are recognised by what they put into the
scope; Django and Quart, which put nothing there, by their classes. A template holds nothing that a
client chose. Where that is unknown, there is no template.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from ..context import current_request
from ._types import Scope

_MOUNT_END: Final = "/{path}"
_MAX_LAYERS: Final = 50  # More than an application has, and the end of a circle.
# What a layer calls the application inside: most, Django's for static files, and socketio's.
_INNER: Final = ("app", "application", "other_asgi_app")
# One entry for each route below a parameterised mount: an application has no more of them than
# this.
_MAX_KNOWN: Final = 1000
# Deep enough, and no circle.
_DEEPEST: Final = 10
# The values of Starlette's `Match`; between them is a path that matches without its method.
_NO_MATCH: Final = 0
_FULL_MATCH: Final = 2


def local_path(path: str, root_path: str) -> str:
    """Return the path without the server's `root_path`, which newer servers put in front of it."""
    return path[len(root_path) :] if root_path and path.startswith(root_path + "/") else path


def layers(app: object) -> Iterator[Any]:
    """Yield an application and those inside of it, as far as layers name what they wrap."""
    for _ in range(_MAX_LAYERS):
        if app is None:
            return
        yield app
        app = _inner(app)


def _inner(app: object) -> object:
    for name in _INNER:
        inner = getattr(app, name, None)
        if inner:
            return inner
    return None


def note_routes(app: object) -> None:
    """Make Django or Quart, also inside of layers, note each request's route in its context."""
    for layer in layers(app):
        for kind in type(layer).__mro__:
            prepare = _PREPARATIONS.get(f"{kind.__module__}.{kind.__qualname__}")
            if prepare is not None:
                prepare(layer)
                break


def _note(template: str) -> None:
    request = current_request()
    if request is not None:
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


def _prepare_flask(app: object) -> None:
    sys.modules["flask.signals"].request_started.connect(_note_flask_rule, app)


def _note_flask_rule(app: object, **_: object) -> None:
    rule: Any = sys.modules["flask"].request.url_rule
    if rule is not None:
        _note(rule.rule)


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
    "django.core.handlers.wsgi.WSGIHandler": _prepare_django,
    "flask.app.Flask": _prepare_flask,
    "quart.app.Quart": _prepare_quart,
}


class RouteReader:
    """Finds the route template of a scope after the application has run."""

    def __init__(self) -> None:
        # What is searched for is kept, so that its id stays its own.
        self._places: dict[int, tuple[object, Sequence[_Place]]] = {}
        self._plain: dict[int, tuple[object, str | None]] = {}

    def read(self, scope: Scope, root_path: str, path: str) -> str | None:
        """Return the template of a scope as the application left it.

        At entry, it had this `root_path` and path.
        """
        route = scope.get("route")
        if route is None:
            template = _of_litestar(scope, path) if "path_template" in scope else None
            # A Starlette route in a FastAPI application leaves only the endpoint in the scope.
            endpoint = scope.get("endpoint")
            if template or endpoint is None:
                return template
            return self._of_endpoint(scope, endpoint, path)
        growth: str = scope.get("root_path", "")[len(root_path) :]
        if not growth and "fastapi" not in scope:
            return self._of_plain(scope, route)
        template = _of_route(scope, route)
        if template is None or not growth:
            return template
        if _is_mount(route):
            template = _MOUNT_END  # Its own words are part of the growth.
        mounts = self._of_mounts(scope, growth, path)
        return None if mounts is None else mounts + template

    def _of_plain(self, scope: Scope, route: object) -> str | None:
        entry = self._plain.get(id(route))
        if entry is None:
            entry = (route, _of_route(scope, route))
            if len(self._plain) < _MAX_KNOWN:
                self._plain[id(route)] = entry
        return entry[1]

    def _of_endpoint(self, scope: Scope, endpoint: object, path: str) -> str | None:
        """Join the templates around an endpoint.

        Of several places, take that which matches the request.
        """
        places = self._find(scope, endpoint, _endpoints)
        if len(places) == 1:
            return places[0].template
        # The router takes the first full match, else the first whose method alone is another.
        best = _NO_MATCH
        template: str | None = None
        for place in places:
            match, _ = _replay(place.routes, scope, path)
            if match > best:
                best = match
                template = place.template
        return template

    def _of_mounts(self, scope: Scope, growth: str, path: str) -> str | None:
        """Return the template of the mounts by which the root_path grew.

        None if it may hold a parameter's value.
        """
        mounts = self._find(scope, scope.get("router"), _mounts)
        if not scope.get("path_params") or any(growth == mount.template for mount in mounts):
            return growth
        for mount in mounts:
            if "{" not in mount.template:
                continue
            _, root_path = _replay(mount.routes, scope, path)
            if root_path == growth:
                return mount.template
        return None

    def _find(self, scope: Scope, target: object, search: _Search) -> Sequence[_Place]:
        """Search the tree of routes, and keep what was found."""
        entry = self._places.get(id(target))
        if entry is None:
            routes = getattr(scope.get("router"), "routes", ())
            entry = (target, [*search(target, routes, _Place("", ()))])
            if len(self._places) < _MAX_KNOWN:
                self._places[id(target)] = entry
        return entry[1]


def _of_route(scope: Scope, route: object) -> str | None:
    if _is_mount(route) and getattr(route, "routes", None):
        return None  # the mount of a router that matched nothing
    template = _of_included(scope, route) if "fastapi" in scope else None
    template = template or getattr(route, "path_format", None)
    return template if isinstance(template, str) else None


def _of_included(scope: Scope, route: object) -> str | None:
    """Return the template with the prefixes of `include_router`, private in FastAPI 0.165."""
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


@dataclass(frozen=True, slots=True)
class _Place:
    """A place in the tree of routes: its whole template, and the routes that lead there."""

    template: str
    routes: Sequence[Any]

    def within(self, route: Any) -> _Place:
        template = self.template.removesuffix(_MOUNT_END) + getattr(route, "path_format", "")
        return _Place(template, (*self.routes, route))


_Search = Callable[[object, Sequence[Any], _Place], Iterator[_Place]]


def _endpoints(target: object, routes: Sequence[Any], around: _Place) -> Iterator[_Place]:
    """Yield each place of an endpoint."""
    for route in routes:
        place = around.within(route)
        inner = getattr(route, "routes", None)
        if inner:
            if len(place.routes) < _DEEPEST:
                yield from _endpoints(target, inner, place)
        elif target in (getattr(route, "endpoint", None), getattr(route, "app", None)):
            yield place


def _mounts(target: object, routes: Sequence[Any], around: _Place) -> Iterator[_Place]:
    """Yield each mount, by the template of what it adds to the root_path."""
    for route in routes:
        if not hasattr(route, "routes"):
            continue
        place = around.within(route)
        yield _Place(place.template.removesuffix(_MOUNT_END), place.routes)
        if route.routes and len(place.routes) < _DEEPEST:
            yield from _mounts(target, route.routes, place)


def _replay(routes: Sequence[Any], scope: Scope, path: str) -> tuple[int, str]:
    """Return how well nested routes match a request, as their router asks, and the root_path."""
    replayed: Scope = {**scope, "path": path, "root_path": "", "path_params": {}}
    worst = _FULL_MATCH
    for route in routes:
        match, more = route.matches(replayed)
        worst = min(worst, match.value)
        if worst == _NO_MATCH:
            break
        replayed.update(more)
    return worst, replayed["root_path"]


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
    if not whole.endswith(rest):
        return None
    return whole.removesuffix(rest) + _MOUNT_END
