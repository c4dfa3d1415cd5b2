"""The pages of sign-in, of one's own account, and of people."""

from __future__ import annotations

from functools import partial
from typing import Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ..db import Unit
from ..errors import AppError, ForbiddenError, NotFoundError, invalid
from ..principal import Access
from ..web.body import parse
from ..web.forms import Typed, attempt, fields_of, formed, is_same_origin, read_form, sent_fields
from ..web.routes import RouteClass
from ..web.slices import Fields, Matches, Page
from . import api, model, postgres
from .local import LocalAccounts, session_cookie

OPEN, SIGNED_IN, ADMIN = Access.OPEN, Access.SIGNED_IN, Access.ADMIN
AUTH = RouteClass.AUTH
routes: Final = api.routes

_AWAY: Final = "Sign-in is temporarily unavailable. Please try again in a moment."
_DONE: Final = {
    "password": "Password changed. All other sessions have ended.",
    "sessions": "Signed out.",
    "token": "The token is revoked.",
    "user": "Saved.",
}
_MOST: Final = 1000


@routes.page("/signin", OPEN)
async def sign_in(*, request: Request) -> Page:
    return _sign_in(request.query_params.get("next", ""))


@routes.page("POST /signin", OPEN, kind=AUTH)
async def submit(*, request: Request, desk: api.Desk) -> Page | Response:
    if not is_same_origin(request.headers):
        raise ForbiddenError("This request came from another site; open the sign-in page here")
    fields = await sent_fields(request)
    email, target = fields.get("email", ""), _local_path(fields.get("next", ""))

    async def begin() -> Response:
        sent = parse(model.Credentials, {"email": email, "password": fields.get("password", "")})
        minted = await desk.accounts.sign_in(request, sent, model.Kind.SESSION, now=desk.now)
        life = minted.token.expires_at - desk.now
        cookie = session_cookie(minted.secret, life, is_local=desk.is_local)
        done = Response(status_code=303, headers={"Location": target, "Cache-Control": "no-store"})
        for each in filter(None, (cookie, minted.device)):
            done.headers.append("Set-Cookie", each)
        return done

    done = await attempt(begin())
    return done if isinstance(done, Response) else _sign_in(target, email, done)


@routes.page("POST /signout", OPEN, kind=AUTH)
async def leave(*, request: Request, desk: api.Desk) -> Response:
    headers: dict[str, str] = {}
    if desk.caller.is_signed_in:
        if desk.caller.session_csrf is None:
            raise ForbiddenError("Only browser sessions end here; send POST /logout instead")
        await read_form(request, desk.caller)
        headers["Set-Cookie"] = (await desk.write(partial(api.logout, desk=desk))).headers["set-cookie"]
    return RedirectResponse("/signin", 303, headers)


def _sign_in(target: str, email: str = "", refusal: AppError | None = None) -> Page:
    context = {"here": "signin", "next": _local_path(target), "email": email[:320], "error": ""}
    if refusal is None:
        return Page("signin.html", context)
    is_away = Typed(refusal=refusal).is_away
    context["error"] = "Wrong e-mail or password" if refusal.errors else _AWAY if is_away else refusal.detail
    return Page("signin.html", context, refusal.status, headers=refusal.headers)


def _local_path(target: str) -> str:
    """Return a path of this site; anything else becomes the incident list."""
    # Control characters would end the header; browsers read `//` and `/\` as the start of a host.
    is_here = target.startswith("/") and not target.startswith(("//", "/\\"))
    return target if is_here and target.isascii() and target.isprintable() else "/incidents"


@routes.page("/account", SIGNED_IN)
async def own(desk: api.Desk, *, typed: Typed) -> Page:
    account = await postgres.person(desk.q, desk.caller.user_id or "")
    if account is None:
        raise NotFoundError("This account has no password or sessions here")
    return await _account(account, desk, typed, is_own=True)


@routes.form("/account/password", SIGNED_IN, again=own, kind=AUTH)
async def change(owner: api.Owner, sent: model.PasswordChange, *, fields: Fields, desk: api.Desk) -> str:
    if fields.get("password_again") != sent.password:
        raise invalid("/password_again", "invalid", "does not match the new password")
    await api.change_password(owner, sent, desk)
    return "/account?done=password"


@routes.page("/people", ADMIN, kind=RouteClass.SEARCH)
async def people(desk: api.Desk) -> Page:
    return await _people(desk)


@routes.form("/people", ADMIN, again=people, kind=AUTH)
async def add_person(*, fields: Fields, desk: api.Desk) -> Page:
    new = formed(model.NewUser, {**fields, "password": (password := api.new_password())})
    await api.add_user(new, desk)
    return await _people(desk, person=new.email, secret=password)


async def _people(desk: api.Desk, **more: str) -> Page:
    context = {
        "here": "people",
        "new": fields_of(model.NewUser),
        "new_token": fields_of(model.NewToken),
        "scopes": list(model.Scope),
        "people": await postgres.users(desk.q, None, _MOST),
        "tokens": await postgres.tokens(desk.q, None, _MOST),
        "most": _MOST,
        "now": desk.now,
        "done": _DONE.get(desk.request.query_params.get("done", "")),
        "secret": "",
        "token": "",
        **more,
    }
    return Page("people.html", context)


@routes.form("/people/tokens", ADMIN, again=people, kind=AUTH)
async def add_machine(*, fields: Fields, desk: api.Desk) -> Page:
    scopes = [it for it in model.Scope if f"scope-{it}" in fields]
    new = formed(model.NewToken, {**fields, "scopes": scopes}, desk.now)
    secrets: list[str] = []

    async def work(unit: Unit) -> None:
        secrets[:] = [(await api.create_token(unit, new, desk)).value.secret]

    await desk.write(work)
    return await _people(desk, token=new.name, secret=secrets[0])


@routes.form("/people/tokens/{id}", ADMIN, again=people)
async def revoke(unit: Unit, id: UUID, desk: api.Desk) -> str:
    await api.revoke_token(unit, id, desk)
    return "/people?done=token"


@routes.page("/people/{id}", ADMIN)
async def person(owner: api.Owner, desk: api.Desk, typed: Typed) -> Page:
    return await _account(owner, desk, typed)


@routes.form("/people/{id}", ADMIN, again=person)
async def change_access(
    unit: Unit, id: UUID, wish: model.UserChange, *, matches: Matches, desk: api.Desk
) -> str:
    await api.change_user(unit, id, wish, matches=matches, desk=desk)
    return f"/people/{id}?done=user"


@routes.form("/people/{id}/password", ADMIN, again=person, kind=AUTH)
async def reset_shown(owner: api.Owner, desk: api.Desk, typed: Typed) -> Page:
    issued = await api.reset(owner, desk)
    return await _account(owner, desk, typed, password=issued.value.password)


@routes.form("/account/sessions", SIGNED_IN, again=own)
@routes.form("/people/{id}/sessions", ADMIN, again=person)
async def end_others(unit: Unit, owner: api.Owner, desk: api.Desk) -> str:
    await api.end_sessions(unit, owner, desk, keep=desk.this)
    return _done(desk, "sessions")


@routes.form("/account/sessions/{session}", SIGNED_IN, again=own)
@routes.form("/people/{id}/sessions/{session}", ADMIN, again=person)
async def end_named(unit: Unit, owner: api.Owner, *, session: UUID, desk: api.Desk) -> str:
    await api.end_sessions(unit, owner, desk, only=session)
    return _done(desk, "sessions")


def _done(desk: api.Desk, what: str) -> str:
    """Return the page that the form is on, which then says what was done."""
    return f"{desk.request.scope['path'].partition(f'/{what}')[0]}?done={what}"


async def _account(
    account: model.Account, desk: api.Desk, typed: Typed, *, is_own: bool = False, password: str = ""
) -> Page:
    refusal = typed.refusal
    context = {
        "here": "account" if is_own else "people",
        "user": account,
        "path": "/account" if is_own else f"/people/{account.id}",
        "is_own": is_own,
        "changed": fields_of(model.UserChange),
        "has_password": isinstance(desk.accounts, LocalAccounts) and account.password_hash is not None,
        "sessions": (await api.sessions(account, desk)).items,
        "refusal": refusal,
        "errors": refusal.by_field if refusal else {},
        "password": password,
        "done": _DONE.get(desk.request.query_params.get("done", "")),
    }
    return Page("account.html", context)
