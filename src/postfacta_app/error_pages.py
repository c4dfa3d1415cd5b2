"""Error pages, and the pages that explain each problem type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response

from postfacta_core.asgi import PROBLEMS, REFUSALS, problem_of
from postfacta_core.context import current_request

from .errors import AppError, NotFoundError, UnauthenticatedError
from .principal import Access
from .web.forms import TYPED
from .web.render import Pages
from .web.routes import PRINCIPAL
from .web.slices import Page, Routes

routes: Final = Routes("problem")


def error_page(pages: Pages, fault: AppError, scope: Mapping[str, Any]) -> Response:
    """Render an error; offer an unsaved form again, and lead unauthenticated users to sign-in."""
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
    # Absent if it was refused before authentication.
    principal = scope.get(PRINCIPAL)
    return pages.page("problem.html", context, principal=principal, status=fault.status)


@routes.page("/problems/{slug}", Access.OPEN)
async def explain(*, slug: str) -> Page:
    kinds = {cls.slug: (cls.title, cls.about) for cls in AppError.__subclasses__()}
    for problem in (*REFUSALS, *PROBLEMS.values(), problem_of(Exception())):
        kinds.setdefault(problem.code, (problem.title, problem.detail))
    if slug not in kinds:
        raise NotFoundError(f"No such problem: '{slug}'")
    title, detail = kinds[slug]
    context = {"title": title, "detail": detail.replace("`", ""), "request_id": "", "typed": None}
    return Page("problem.html", context)


def _page_of(scope: Mapping[str, Any]) -> str:
    if scope["method"] in {"GET", "HEAD"}:
        query = scope["query_string"].decode("latin-1")
        return str(scope["path"]) + (f"?{query}" if query else "")
    headers = Headers(raw=scope["headers"])
    try:
        came_from = urlsplit(headers.get("referer", ""))
    except ValueError:
        return "/"
    return (came_from.path if came_from.netloc == headers.get("host") else "") or "/"
