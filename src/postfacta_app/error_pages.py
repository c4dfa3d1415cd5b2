"""The pages that tell people of errors, and what each kind of problem means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from postfacta_core.asgi import PROBLEMS, problem_of
from postfacta_core.context import current_request

from .errors import AppError, NotFoundError, UnauthenticatedError
from .principal import Principal
from .problems import Fault
from .routes import PRINCIPAL
from .web.forms import TYPED
from .web.render import Pages

__all__ = ["ErrorPages"]


class ErrorPages:
    """The page of an error, and `/problems/{slug}`.

    Args:
        pages: Renders.
    """

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def fault(self, fault: Fault, scope: Mapping[str, Any]) -> Response:
        """Tell of an error; a form that was not saved is offered again, and who is nobody is led to sign in."""
        sign_in = None
        if fault.status == UnauthenticatedError.status:
            sign_in = f"/signin?next={quote(_page_of(scope), safe='/')}"
            if not scope.get(TYPED):
                return RedirectResponse(sign_in, 303)
        request = current_request()
        context = {
            "here": "problem",
            "title": fault.title,
            "detail": fault.detail,
            "request_id": request.request_id if request else "",
            "typed": scope.get(TYPED),
            "path": quote(scope["path"]),
            "sign_in": sign_in,
        }
        # Unless it was refused before anybody looked who asks.
        principal = scope.get(PRINCIPAL)
        return self._pages.page("problem.html", context, principal=principal, status=fault.status)

    async def explain(self, request: Request, principal: Principal) -> Response:
        """GET /problems/{slug}."""
        slug = request.path_params["slug"]
        kinds = {cls.slug: (cls.title, cls.__doc__) for cls in AppError.__subclasses__()}
        for problem in (*PROBLEMS.values(), problem_of(Exception())):
            kinds.setdefault(problem.code, (problem.title, problem.detail))
        if slug not in kinds:
            raise NotFoundError(f"There is no problem called '{slug}'")
        title, detail = kinds[slug]
        context = {"title": title, "detail": (detail or "").replace("`", ""), "request_id": "", "typed": None}
        return self._pages.page("problem.html", context, principal=principal)


def _page_of(scope: Mapping[str, Any]) -> str:
    """Give the page on which somebody is: where it was asked for, or that whose form was sent."""
    if scope["method"] in {"GET", "HEAD"}:
        query = scope["query_string"].decode("latin-1")
        return str(scope["path"]) + (f"?{query}" if query else "")
    headers = Headers(raw=scope["headers"])
    try:
        came_from = urlsplit(headers.get("referer", ""))
    except ValueError:
        return "/"
    return (came_from.path if came_from.netloc == headers.get("host") else "") or "/"
