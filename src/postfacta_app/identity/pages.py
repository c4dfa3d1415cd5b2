"""The sign-in page."""

from __future__ import annotations

import math
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from postfacta_core.asgi import problem_of
from postfacta_core.errors import ResilienceError

from ..db import Answer
from ..errors import AppError, ForbiddenError, InvalidFieldsError
from ..principal import Principal
from ..web.body import parse
from ..web.forms import is_same_origin, read_form
from ..web.render import Pages
from .http import Accounts, IdentityHttp
from .local import session_cookie
from .model import Credentials, Kind, Minted

__all__ = ["SignInPages"]

_AWAY = "Sign-in is temporarily unavailable. Please try again in a moment."


class SignInPages:
    """The pages `/signin` and `/signout`.

    Args:
        accounts: Checks passwords.
        http: Ends sessions.
        pages: Renders templates.
        is_local: Whether the cookie may be sent without TLS.
    """

    def __init__(self, accounts: Accounts, http: IdentityHttp, pages: Pages, *, is_local: bool) -> None:
        self._accounts = accounts
        self._http = http
        self._pages = pages
        self._is_local = is_local

    async def form(self, request: Request, principal: Principal) -> Response:
        """GET /signin."""
        return self._render(request.query_params.get("next", ""), "", "")

    async def submit(self, request: Request, principal: Principal) -> Response:
        """POST /signin: begin a session and redirect to the requested page."""
        if not is_same_origin(request.headers):
            raise ForbiddenError("This request came from another site; open the sign-in page here")
        fields = await _form(request)
        email, target = fields.get("email", ""), _local_path(fields.get("next", ""))

        def answer(minted: Minted) -> Answer:
            life = minted.token.expires_at - self._accounts.now()
            cookie = session_cookie(minted.secret, life, is_local=self._is_local)
            return Answer(303, {"Location": target, "Set-Cookie": cookie, "Cache-Control": "no-store"})

        try:
            sent = parse(Credentials, {"email": email, "password": fields.get("password", "")})
            return await self._accounts.sign_in(request, sent, Kind.SESSION, answer=answer)
        except InvalidFieldsError:
            return self._render(target, email, "Wrong e-mail or password", status=422)
        except AppError as refusal:
            return self._render(target, email, refusal.detail, status=refusal.status, headers=refusal.headers)
        except ResilienceError as failure:
            wait = str(max(1, math.ceil(failure.retry_after or 0)))
            status = problem_of(failure).status
            return self._render(target, email, _AWAY, status=status, headers={"retry-after": wait})

    async def leave(self, request: Request, principal: Principal) -> Response:
        """POST /signout."""
        if principal.is_signed_in:
            if principal.session_csrf is None:
                raise ForbiddenError("Only browser sessions end here; send POST /logout instead")
            await read_form(request, principal)
            ended = await self._http.logout(request, principal)
            return RedirectResponse("/signin", 303, {"Set-Cookie": ended.headers["set-cookie"]})
        return RedirectResponse("/signin", 303)

    def _render(
        self, target: str, email: str, error: str, *, status: int = 200, headers: dict[str, str] | None = None
    ) -> Response:
        context = {"here": "signin", "next": _local_path(target), "email": email[:320], "error": error}
        return self._pages.page("signin.html", context, status=status, headers=headers)


async def _form(request: Request) -> dict[str, str]:
    # Three short fields need no form library; the last of a repeated name counts.
    text = (await request.body()).decode("utf-8", "replace")
    try:
        return {name: values[-1] for name, values in parse_qs(text, max_num_fields=10).items()}
    except ValueError:
        return {}


def _local_path(target: str) -> str:
    """Return a path of this site; anything else becomes the incident list."""
    # Control characters would end the header; browsers read `//` and `/\` as the start of a host.
    is_here = target.startswith("/") and not target.startswith(("//", "/\\"))
    return target if is_here and target.isascii() and target.isprintable() else "/incidents"
