"""Turn every error into a response in the format of its path.

Under `/api/v1` that is an RFC 9457 problem, for browsers HTML, else `{"message", "requestId", "serviceVersion"?}`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any, Final
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Match

from postfacta_core.asgi import ASGIApp, Problem, Scope, problem_response
from postfacta_core.context import current_request
from postfacta_core.errors import ResilienceError
from postfacta_core.telemetry.redaction import redact_text

from .errors import AppError, MalformedError, MethodNotAllowedError, NotFoundError, SchemaMissingError

Html = Callable[[AppError, Scope], Response]  # Renders an error as a page.
_SPECIAL: Final = str.maketrans({char: f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"})


def encode(value: object) -> bytes:
    """Serialize JSON as the original does: compact, and safe inside HTML."""
    # In JSON these characters only occur in strings.
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(_SPECIAL)
    return text.encode("utf-8", "replace")


def render(fault: AppError, *, path: str, request_id: str, version: str = "") -> tuple[str, bytes]:
    """Return the content type and body of an error, in the format of its path; only v0 shows a `version`."""
    detail, message = redact_text(fault.detail), redact_text(fault.message)
    if not f"{path}/".startswith("/api/v1/"):
        shown = {"serviceVersion": version} if version else {}
        # This format has no list of fields: the message names them.
        fields = "; ".join(f"{it.pointer.lstrip('/') or 'the body'} {it.message}" for it in fault.errors)
        message = fields or message or detail
        return "application/json; charset=utf-8", encode(
            {"message": message, "requestId": request_id} | shown
        )
    members: dict[str, object] = {
        "type": f"/problems/{fault.slug}",
        "title": fault.title,
        "status": fault.status,
        "detail": detail,
        "instance": quote(redact_text(path), errors="replace"),
        "request_id": request_id,
    }
    if fault.errors:
        members["errors"] = [asdict(error) for error in fault.errors]
    return "application/problem+json", encode({**fault.extra, **members})


# The original names what failed, not why. The core reports a crash like any other error.
_CRASHES: Final = {
    "/api/v0/incidents": "Failed to retrieve incidents",
    "/api/v0/incidents/start": "Failed to store incident",
}


def _of_core(problem: Problem, path: str) -> AppError:
    fault = AppError.of(problem, problem.detail or problem.title)
    if problem.status == 500:  # noqa: PLR2004 - the status of a crash
        fault.message = _CRASHES.get(path, problem.title)
    else:
        fault.message = f"{problem.title}. {problem.detail}".removesuffix(". ")
    return fault


class Problems:
    """Handles errors inside the application; `core` does so for the layers around it.

    v0 shows the `version`, if it is not empty; without `html`, which renders a page, browsers get JSON too.
    """

    def __init__(self, *, version: str = "", html: Html | None = None) -> None:
        self._version = version
        self._html = html

    @property
    def handlers(self) -> dict[Any, Any]:
        return {
            AppError: self._app_error,
            HTTPException: self._http_exception,
            ResilienceError: self._core_error,
            Exception: self._core_error,
        }

    def core(self, problem: Problem, scope: Scope) -> tuple[str, bytes]:
        shown = self._show(_of_core(problem, scope["path"]), scope)
        return shown.headers["content-type"], bytes(shown.body)

    def _show(self, fault: AppError, scope: Scope) -> Response:
        if self._html is not None and _wants_page(scope):
            return self._html(fault, scope)
        context = current_request()
        request_id = context.request_id if context else ""
        kind, body = render(fault, path=scope["path"], request_id=request_id, version=self._version)
        return Response(body, fault.status, {"content-type": kind})

    async def _core_error(self, request: Request, error: Exception) -> ASGIApp:
        return problem_response(error, render=self.core)

    async def _app_error(self, request: Request, error: AppError) -> Response:
        response = self._show(error, request.scope)
        response.headers.update({"cache-control": "no-store", **error.headers})
        keep_private(request.scope["path"], response)
        return response

    async def schema_missing(self, request: Request, error: Exception) -> Response:
        if (context := current_request()) is not None and not context.error_type:
            context.error_type = "schema_missing"
        detail = "The database is not ready: an operator must run `postfacta doctor`"
        return await self._app_error(request, SchemaMissingError(detail, headers={"Retry-After": "10"}))

    async def _http_exception(self, request: Request, error: HTTPException) -> Response:
        path: str = request.scope["path"]
        if error.status_code == MethodNotAllowedError.status:
            detail = f"Method '{request.method}' is not allowed for '{path}'"
            return await self._app_error(request, MethodNotAllowedError(detail, headers=error.headers))
        if error.status_code != NotFoundError.status:
            return await self._app_error(request, MalformedError("The request cannot be read"))
        target = redirect_target(path, request.app.routes)
        if target is None:
            return await self._app_error(request, NotFoundError(f"Endpoint '{path}' does not exist"))
        query = request.scope["query_string"].decode("latin-1")
        status = 301 if request.method in {"GET", "HEAD"} else 307
        return RedirectResponse(target + (f"?{query}" if query else ""), status)


def keep_private(path: str, response: Response) -> None:
    """Keep caches from sharing API responses, or reusing them without revalidation."""
    if path.startswith("/api/"):
        headers = response.raw_headers
        names = [name for name, _ in headers]
        if b"cache-control" not in names:
            headers.append((b"cache-control", b"private, no-cache"))
        if b"vary" in names:
            response.headers.add_vary_header("Authorization, Cookie")
        else:
            headers.append((b"vary", b"Authorization, Cookie"))


def _wants_page(scope: Scope) -> bool:
    if scope["path"].startswith("/api/"):
        return False
    return any(name == b"accept" and b"text/html" in value.lower() for name, value in scope["headers"])


def redirect_target(path: str, routes: Iterable[BaseRoute]) -> str | None:
    """Return the route that a path with a trailing slash means, if any: never `host` for `//host/`."""
    target = path[:-1]
    if not path.endswith("/") or not target.startswith("/") or target.startswith("//"):
        return None
    scope = {"type": "http", "method": "GET", "path": target}
    known = any(route.matches(scope)[0] is not Match.NONE for route in routes)
    return quote(target) if known else None
