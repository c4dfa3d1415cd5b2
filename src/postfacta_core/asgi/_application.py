"""Look once, as it starts, at what an application does itself that `harden` does around it.

No framework is imported. Starlette's and Litestar's CORS rules are read by the names of their
attributes, and so are those of a middleware that has the same ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from ..clock import random_id
from ..telemetry.logs import LOGGER
from ._cors import PREFLIGHT, Cors, CorsRules
from ._exchange import HttpExchange
from ._route import layers
from ._rules import pattern_of
from ._types import Scope

_UNKNOWN_CORS: Final = (
    "The application's %s has rules of its own that are not known here: a page of another origin"
    " cannot read what is refused in its place, such as a 429. Set HardenOptions(cors=Cors(...))"
)


_TAKEN: Final = (
    "The application has routes at %s, which are not reached: harden answers there. Set"
    " HardenOptions(%s) to another path, or remove the routes"
)
_first_part: Final = re.compile(r"/[^/]*").sub


@dataclass(frozen=True, slots=True, kw_only=True)
class _FoundCors(Cors):
    """The rules of an application, which are its own business and not checked."""

    is_allowed: Callable[[str], bool]

    def __post_init__(self) -> None:
        pass

    def allows(self, origin: str) -> bool:
        return self.is_allowed(origin)


def cors_rules(app: object) -> CorsRules | None:
    """Return the rules of the outermost CORS middleware of an application, if it has one.

    Warn if they are unknown.
    """
    for layer in layers(app):
        middleware = _cors_of(layer)
        if middleware is None:
            continue
        try:
            return CorsRules(_read(middleware, layer))
        except Exception:  # noqa: BLE001 - foreign objects may raise anything
            kind: Any = getattr(middleware, "cls", middleware.__class__)
            LOGGER.warning(_UNKNOWN_CORS, kind.__name__)
            return None
    return None


def _cors_of(layer: Any) -> Any:
    """Return what a layer knows of CORS.

    Itself, Litestar's settings, or an entry in Starlette's list of middleware.
    """
    if _is_cors(layer.__class__):
        return layer
    for entry in getattr(layer, "user_middleware", ()):
        if _is_cors(getattr(entry, "cls", None)):
            return entry
    return getattr(layer, "cors_config", None)


def _is_cors(kind: object) -> bool:
    bases = getattr(kind, "__mro__", (kind,))
    return any("cors" in getattr(base, "__name__", "").lower() for base in bases)


def _read(middleware: Any, layer: Any) -> Cors:
    if hasattr(middleware, "cls"):
        middleware = middleware.cls(layer, *middleware.args, **middleware.kwargs)
    is_allowed = getattr(middleware, "is_allowed_origin", None) or middleware.is_origin_allowed
    exposed = middleware.simple_headers.get("Access-Control-Expose-Headers", "")
    preflight = middleware.preflight_headers
    return _FoundCors(
        allow_origins=["*"] if "*" in middleware.allow_origins else [],
        allow_methods=preflight["Access-Control-Allow-Methods"].split(", "),
        allow_headers=middleware.allow_headers,
        allow_credentials=middleware.allow_credentials,
        expose_headers=[name for name in exposed.split(", ") if name],
        max_age=int(preflight["Access-Control-Max-Age"]),
        is_allowed=is_allowed,
    )


async def permit(cors: CorsRules, exchange: HttpExchange) -> bool:
    """Let a page read a refusal, by the application's own rules.

    Return whether it was a preflight, and is answered.

    A browser shows its page nothing of a preflight that is refused. So it is answered, and what the
    page sends then has its own refusal.
    """
    fields = dict(exchange.headers)
    origin = fields.get(b"origin")
    if origin is None:
        return False
    exchange.fields = (*exchange.fields, *cors.decision(origin))
    has_body = b"content-length" in fields or exchange.request_bytes > 0  # A browser's has none.
    is_preflight = exchange.method == "OPTIONS" and PREFLIGHT in fields and not has_body
    if not is_preflight or cors.refused(fields):
        return False
    await cors.answer(fields, exchange.reply, exchange.emit)
    return True


def note_taken(app: object, paths: Iterable[str], *, metrics_path: str) -> None:
    """Warn of an application's routes at paths where `harden` answers in their place."""
    taken: list[str] = []
    changes: list[str] = []
    for path in paths:
        if any(_has_route(layer, path) for layer in layers(app)):
            taken.append(path)
            option = "metrics_path=..." if path == metrics_path else "health_prefix=..."
            if option not in changes:
                changes.append(option)
    if taken:
        LOGGER.warning(_TAKEN, ", ".join(taken), ", ".join(changes))


def _has_route(layer: Any, path: str) -> bool:
    """Return whether routes of Starlette or Litestar match a path, and not any path."""
    sibling = _first_part("/" + random_id(), path, count=1)
    with suppress(Exception):  # Foreign objects may raise anything.
        # Starlette sends a client on to the path with a slash.
        for target, control in ((path, sibling), (f"{path}/", f"{sibling}/")):
            endpoint = _endpoint(layer.routes, target)
            if endpoint is not None and endpoint is not _endpoint(layer.routes, control):
                return True
    return False


def _endpoint(routes: Iterable[Any], path: str) -> object:
    """Return what serves a path, by whatever method; None if that is nothing."""
    scope: Scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "headers": []}
    for route in routes:
        endpoint: object = None
        if hasattr(route, "matches"):
            endpoint = _matching(route, scope)
        elif _is_of_litestar(route, path):
            endpoint = route
        if endpoint is not None:
            return endpoint
    return None


def _matching(route: Any, scope: Scope) -> object:
    match, more = route.matches(scope)
    if not match.value:
        return None
    inner: Sequence[Any] = getattr(route, "routes", None) or ()
    if not inner:
        return more.get("endpoint", route)
    inner_scope = {**scope, **more}
    for child in inner:
        endpoint = _matching(child, inner_scope)
        if endpoint is not None:
            return endpoint
    return None


def _is_of_litestar(route: Any, path: str) -> bool:
    is_mount = getattr(getattr(route, "route_handler", None), "is_mount", False)
    template = route.path.rstrip("/") + "/{rest:path}" if is_mount else route.path
    return re.fullmatch(pattern_of(template), path) is not None
