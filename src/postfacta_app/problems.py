"""Turn every error into a response in the format of its path; pages explain each problem type.

Under `/api/v1` that is an RFC 9457 problem, for browsers HTML, else `{"message", "requestId",
"serviceVersion"?}`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Match

from postfacta_core.asgi import (
    PROBLEMS,
    REFUSALS,
    ASGIApp,
    Problem,
    Scope,
    problem_of,
    problem_response,
)
from postfacta_core.context import current_request
from postfacta_core.errors import ResilienceError
from postfacta_core.telemetry.redaction import redact_text
from postfacta_web.conditional import ConditionError

from . import errors
from .db import SCHEMA_ERRORS
from .errors import AppError
from .principal import Access
from .web.forms import TYPED
from .web.render import Pages, encode
from .web.routes import PRINCIPAL, keep_private
from .web.slices import Page, Routes

routes: Final = Routes("problem")


def render(fault: AppError, *, path: str, request_id: str, version: str = "") -> tuple[str, bytes]:
    """Return the content type and body of an error, in the format of its path.

    Only v0 shows a `version`.
    """
    detail = redact_text(fault.detail)
    message = redact_text(fault.message)
    if not f"{path}/".startswith("/api/v1/"):
        # This format has no list of fields: the message names them.
        fields = "; ".join(
            f"{error.pointer.lstrip('/') or 'the body'} {error.message}" for error in fault.errors
        )
        members = {"message": fields or message or detail, "requestId": request_id}
        if version:
            members["serviceVersion"] = version
        return "application/json; charset=utf-8", encode(members)
    document: dict[str, object] = {
        "type": f"/problems/{fault.slug}",
        "title": fault.title,
        "status": fault.status,
        "detail": detail,
        "instance": quote(redact_text(path), errors="replace"),
        "request_id": request_id,
    }
    if fault.errors:
        document["errors"] = [asdict(error) for error in fault.errors]
    return "application/problem+json", encode({**fault.extra, **document})


# The original names what failed, not why. The core reports a crash like any other error.
_CRASHES: Final = {
    "/api/v0/incidents": "Failed to retrieve incidents",
    "/api/v0/incidents/start": "Failed to store incident",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problems:
    """Handles errors inside the application; `core` does so for the layers around it."""

    version: str = ""  # for v0
    pages: Pages | None = None  # without them, browsers get JSON too

    @property
    def handlers(self) -> dict[Any, Any]:
        return {
            AppError: self._app_error,
            HTTPException: self._http_exception,
            ResilienceError: self._core_error,
            Exception: self._core_error,
            **dict.fromkeys(SCHEMA_ERRORS, self._schema_missing),
        }

    def core(self, problem: Problem, scope: Scope) -> tuple[str, bytes]:
        fault = AppError.of(problem, problem.detail or problem.title)
        if problem.status == 500:  # noqa: PLR2004 - the status of a crash
            fault.message = _CRASHES.get(scope["path"], problem.title)
        else:
            fault.message = f"{problem.title}. {problem.detail}".removesuffix(". ")
        response = self._show(fault, scope)
        return response.headers["content-type"], bytes(response.body)

    def _show(self, fault: AppError, scope: Scope) -> Response:
        context = current_request()
        path = scope["path"]
        request_id = context.request_id if context else ""
        accepted = ", ".join(Headers(scope=scope).getlist("accept")).lower()
        if self.pages is not None and "text/html" in accepted and not path.startswith("/api/"):
            return _page(self.pages, fault, scope, request_id=request_id)
        kind, body = render(fault, path=path, request_id=request_id, version=self.version)
        return Response(body, fault.status, {"content-type": kind})

    async def _core_error(self, request: Request, error: Exception) -> ASGIApp:
        return problem_response(error, render=self.core)

    async def _app_error(self, request: Request, error: AppError) -> Response:
        response = self._show(error, request.scope)
        response.headers.update({"cache-control": "no-store", **error.headers})
        keep_private(request.scope["path"], response)
        return response

    async def _schema_missing(self, request: Request, error: Exception) -> Response:
        context = current_request()
        if context is not None and not context.error_type:
            context.error_type = "schema_missing"
        detail = "The database is not ready: an operator must run `postfacta doctor`"
        fault = errors.SchemaMissingError(detail, headers={"Retry-After": "10"})
        return await self._app_error(request, fault)

    async def _http_exception(self, request: Request, error: HTTPException) -> Response:
        path: str = request.scope["path"]
        fault = errors.MalformedError("The request cannot be read")
        if isinstance(error, ConditionError):
            # Of several kinds with a status, the first.
            kinds = {kind.status: kind for kind in reversed(AppError.__subclasses__())}
            fault = kinds[error.status_code](error.detail, headers=error.headers or {})
        elif error.status_code == errors.MethodNotAllowedError.status:
            detail = f"Method '{request.method}' is not allowed for '{path}'"
            fault = errors.MethodNotAllowedError(detail, headers=error.headers or {})
        elif error.status_code == errors.NotFoundError.status:
            target = redirect_target(path, request.app.routes)
            if target is not None:
                status = 301 if request.method in {"GET", "HEAD"} else 307
                return RedirectResponse(_with_query(target, request.scope), status)
            fault = errors.NotFoundError(f"Endpoint '{path}' does not exist")
        return await self._app_error(request, fault)


def _with_query(path: str, scope: Scope) -> str:
    query = scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path


def redirect_target(path: str, routes: Iterable[BaseRoute]) -> str | None:
    """Return the route that a path with a trailing slash means, if any.

    Never `host` for `//host/`.
    """
    target = path[:-1]
    if not path.endswith("/") or not target.startswith("/") or target.startswith("//"):
        return None
    scope = {"type": "http", "method": "GET", "path": target}
    is_route = any(route.matches(scope)[0] is not Match.NONE for route in routes)
    return quote(target) if is_route else None


def _page(pages: Pages, fault: AppError, scope: Scope, *, request_id: str) -> Response:
    """Render an error; offer an unsaved form again, and lead unauthenticated users to sign-in."""
    sign_in = None
    typed = scope.get(TYPED)
    if fault.status == errors.UnauthenticatedError.status:
        sign_in = f"/signin?next={quote(_came_from(scope), safe='/')}"
        if not typed:
            return RedirectResponse(sign_in, 303)
    context = {
        "here": "problem",
        "title": fault.title,
        "detail": fault.detail,
        "slug": fault.slug,
        "request_id": request_id,
        "typed": typed,
        "path": quote(scope["path"]),
        "sign_in": sign_in,
        # There is no principal if it was refused before authentication.
        "principal": scope.get(PRINCIPAL),
    }
    return pages.page("problem.html", context, status=fault.status)


def _came_from(scope: Scope) -> str:
    if scope["method"] in {"GET", "HEAD"}:
        return _with_query(scope["path"], scope)
    headers = Headers(scope=scope)
    host, _, path = headers.get("referer", "").partition("://")[2].partition("/")
    return f"/{path.partition('?')[0]}" if host == headers.get("host") else "/"


@routes.page("/problems/{slug}", Access.OPEN)
async def explain(*, slug: str) -> Page:
    problems = (*REFUSALS, *PROBLEMS.values(), problem_of(Exception()))
    # Of several with a code, the first.
    texts = {problem.code: (problem.title, problem.detail) for problem in reversed(problems)}
    texts |= {kind.slug: (kind.title, "") for kind in AppError.__subclasses__()}
    if slug not in texts:
        raise errors.NotFoundError(f"No such problem: '{slug}'")
    title, detail = texts[slug]
    context = {"title": title, "detail": detail, "slug": slug, "request_id": "", "typed": None}
    return Page("problem.html", context)
