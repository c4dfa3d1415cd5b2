"""The account page, and the administrators' page of people."""

from __future__ import annotations

import json
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ..errors import FieldError, NotFoundError
from ..principal import Principal
from ..web.forms import Refusal, attempt, parse, read_form
from ..web.render import Pages
from .http import IdentityHttp
from .model import PasswordChange
from .postgres import PostgresIdentity
from .sessions import SessionHttp

__all__ = ["AccountPages"]

_DONE: Final = {
    "password": "Password changed. All other sessions have ended.",
    "sessions": "Signed out.",
    "token": "The token is revoked.",
}
_MOST: Final = 1000


class AccountPages:
    """The pages `/account` and `/people`.

    Args:
        store: Stores people, sessions and tokens.
        http: Revokes API tokens.
        sessions: Changes passwords, and ends sessions.
        pages: Renders templates.
    """

    def __init__(
        self, store: PostgresIdentity, http: IdentityHttp, sessions: SessionHttp, *, pages: Pages
    ) -> None:
        self._store = store
        self._http = http
        self._sessions = sessions
        self._pages = pages

    async def own(self, request: Request, principal: Principal) -> Response:
        """GET /account."""
        if principal.user_id is None:
            raise NotFoundError("This account has no password or sessions here")
        return await self._account(request, principal)

    async def person(self, request: Request, principal: Principal) -> Response:
        """GET /people/{id}."""
        return await self._account(request, principal)

    async def people(self, request: Request, principal: Principal) -> Response:
        """GET /people."""
        context = {
            "here": "people",
            "people": await self._store.users(None, _MOST),
            "tokens": await self._store.tokens(None, _MOST),
            "most": _MOST,
            "now": self._sessions.now(),
            "done": _DONE.get(request.query_params.get("done", "")),
        }
        return self._pages.page("people.html", context, principal=principal)

    async def change(self, request: Request, principal: Principal) -> Response:
        """POST /account/password."""
        fields = await read_form(request, principal)
        sent = parse(PasswordChange, fields)
        if isinstance(sent, tuple):
            return await self._account(request, principal, Refusal(errors=sent))
        if fields.get("password_again") != sent.password:
            errors = [FieldError("/password_again", "invalid", "does not match the new password")]
            return await self._account(request, principal, Refusal(errors=errors))
        done = await attempt(self._sessions.change(request, principal, sent))
        if isinstance(done, Refusal):
            return await self._account(request, principal, done)
        return RedirectResponse("/account?done=password", 303)

    async def reset(self, request: Request, principal: Principal) -> Response:
        """POST /people/{id}/password: the new password is on the page, once."""
        await read_form(request, principal)
        done = await attempt(self._sessions.reset(request, principal))
        if isinstance(done, Refusal):
            return await self._account(request, principal, done)
        password: str = json.loads(bytes(done.body))["password"]
        return await self._account(request, principal, password=password)

    async def end(self, request: Request, principal: Principal) -> Response:
        """POST …/sessions: end all but the current session; POST …/sessions/{session}: end one."""
        await read_form(request, principal)
        is_own = "id" not in request.path_params
        work = self._sessions.end(
            request, principal, keep_this=is_own and "session" not in request.path_params
        )
        target = "/account" if is_own else f"/people/{request.path_params['id']}"
        done = await attempt(work)
        if isinstance(done, Refusal):
            return await self._account(request, principal, done)
        return RedirectResponse(f"{target}?done=sessions", 303)

    async def revoke_token(self, request: Request, principal: Principal) -> Response:
        """POST /people/tokens/{id}."""
        await read_form(request, principal)
        await self._http.revoke_token(request, principal)
        return RedirectResponse("/people?done=token", 303)

    async def _account(
        self,
        request: Request,
        principal: Principal,
        refusal: Refusal | None = None,
        *,
        password: str = "",
    ) -> Response:
        account = await self._sessions.owner(request, principal)
        is_own = "id" not in request.path_params
        context = {
            "here": "account" if is_own else "people",
            "user": account.user,
            "path": "/account" if is_own else f"/people/{account.user.id}",
            "is_own": is_own,
            "has_password": self._sessions.is_kept_here(account),
            "sessions": (await self._sessions.sessions(request, account.user)).items,
            "refusal": refusal,
            "errors": refusal.by_field if refusal else {},
            "password": password,
            "done": _DONE.get(request.query_params.get("done", "")),
        }
        status, headers = (refusal.status, refusal.headers) if refusal else (200, None)
        return self._pages.page("account.html", context, principal=principal, status=status, headers=headers)
