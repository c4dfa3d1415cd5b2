"""The pages of sign-in, people and accounts, which call the API."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Final
from uuid import UUID

from pydantic import TypeAdapter
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ..db import Unit
from ..errors import ForbiddenError, invalid
from ..web.body import parse
from ..web.forms import Typed, attempt, fields_of, formed, is_same_origin, read_form, sent_fields
from ..web.merging import any_version, merged
from ..web.slices import Fields, Page
from . import accounts, model
from .accounts import LocalAccounts, session_cookie
from .api import (
    ADMIN,
    AUTH,
    NO_STORE,
    OPEN,
    SEARCH,
    SIGNED_IN,
    Desk,
    Only,
    Owner,
    RequestAccounts,
    add_user,
    change_password,
    change_user,
    create_token,
    end_sessions_of,
    logout,
    new_password,
    reset,
    revoke_token,
    routes as routes,
    sessions,
)

_MOST: Final = 1000  # People or tokens on a page.
_ONCE: Final = "postfacta-once"
_SHOWN_ONCE: Final = {"added", "password", "token"}
_SECRETS: Final = TypeAdapter(dict[str, str])


@routes.page("/signin", OPEN)
async def sign_in(*, request: Request) -> Page:
    target = _local_path(request.query_params.get("next", ""))
    return Page("signin.html", {"next": target})


@routes.page("/login", OPEN)
async def login_page() -> str:
    return "/signin"


@routes.page("POST /signin", OPEN, kind=AUTH)
async def submit(*, request: Request, desk: Desk) -> Page | Response:
    if not is_same_origin(request.headers):
        raise ForbiddenError("This request came from another site; open the sign-in page here")
    fields = await sent_fields(request)
    target = _local_path(fields.get("next", ""))

    outcome = await attempt(_begin_session(desk, fields, target))
    if isinstance(outcome, Response):
        return outcome
    desk.call.typed = Typed(fields, outcome)
    return Page("signin.html", {"next": target})


async def _begin_session(desk: RequestAccounts, fields: Fields, target: str) -> Response:
    """Sign in, and redirect to the target with the cookie of the session."""
    members = {"email": fields.get("email", ""), "password": fields.get("password", "")}
    credentials = parse(model.Credentials, members)
    minted = await desk.accounts.sign_in(desk.call, credentials, model.Kind.SESSION)
    life = minted.token.expires_at - desk.now
    session = session_cookie(minted.secret, life, is_local=desk.settings.is_local)
    response = Response(status_code=303, headers={"Location": target, **NO_STORE})
    response.headers.append("Set-Cookie", session)
    if minted.device:
        response.headers.append("Set-Cookie", minted.device)
    return response


@routes.page("POST /signout", OPEN, kind=AUTH)
async def leave(*, request: Request, desk: Desk) -> Response:
    caller = desk.call.principal
    if not caller.is_signed_in:
        return RedirectResponse("/signin", 303)
    if caller.session_csrf is None:
        raise ForbiddenError("Only browser sessions end here; send POST /logout instead")
    await read_form(request, caller)
    ended = await desk.call.write(partial(logout, desk=desk))
    return RedirectResponse("/signin", 303, {"Set-Cookie": ended.headers["set-cookie"]})


def _local_path(target: str) -> str:
    """Return a path of this site; anything else becomes the incident list."""
    # Control characters would end the header; browsers read `//` and `/\` as the start of a host.
    is_here = target.startswith("/") and not target.startswith(("//", "/\\"))
    return target if is_here and target.isascii() and target.isprintable() else "/incidents"


def _show_once(desk: RequestAccounts, page: str, **notices: str) -> Response:
    """Go to a page that shows a secret; to load it again neither shows nor creates another.

    The secret is in a cookie of that page, for a minute.
    """
    value = base64.urlsafe_b64encode(to_json(notices)).decode()
    cookie = _cookie_once(desk, page, value=value, seconds=60)
    return Response(status_code=303, headers={"Location": page, "Set-Cookie": cookie, **NO_STORE})


def _notices(desk: RequestAccounts) -> tuple[Mapping[str, object], Mapping[str, str]]:
    """Return what a page shows once, and the header that lets its browser forget it."""
    notices: dict[str, object] = {"done": desk.request.query_params.get("done")}
    value = desk.request.cookies.get(_ONCE)
    if not value or desk.request.method != "GET":
        return notices, {}
    with suppress(ValueError):
        shown = _SECRETS.validate_json(base64.urlsafe_b64decode(value))
        notices |= {name: text for name, text in shown.items() if name in _SHOWN_ONCE}
    return notices, {"Set-Cookie": _cookie_once(desk, desk.request.scope["path"])}


def _cookie_once(desk: RequestAccounts, page: str, *, value: str = "", seconds: int = 0) -> str:
    secure = "" if desk.settings.is_local else "; Secure"
    return f"{_ONCE}={value}; Max-Age={seconds}; Path={page}{secure}; HttpOnly; SameSite=Strict"


@routes.page("/people", ADMIN, kind=SEARCH)
async def people(desk: Desk) -> Page:
    notices, headers = _notices(desk)
    context = {
        "new": fields_of(model.NewUser),
        "new_token": fields_of(model.NewToken),
        "people": await accounts.users(desk.q, None, _MOST),
        "tokens": await accounts.tokens(desk.q, None, _MOST),
        "most": _MOST,
        "now": desk.now,
        **notices,
    }
    return Page("people.html", context, headers=headers)


@routes.form("/people", ADMIN, again=people, kind=AUTH)
async def add_person(*, fields: Fields, desk: Desk) -> Response:
    password = new_password()
    new = formed(model.NewUser, {**fields, "password": password})
    await add_user(new, desk)
    return _show_once(desk, "/people", added=new.email, password=password)


@routes.form("/people/tokens", ADMIN, again=people, kind=AUTH)
async def add_machine(*, fields: Fields, desk: Desk) -> Response:
    scopes = [scope for scope in model.Scope if f"scope-{scope}" in fields]
    new = formed(model.NewToken, {**fields, "scopes": scopes}, desk.now)

    async def work(unit: Unit) -> Response:
        issued = await create_token(unit, new, desk)
        return _show_once(desk, "/people", added=new.name, token=issued.value.secret)

    return await desk.call.write(work)


@routes.form("/people/tokens/{id}", ADMIN, again=people)
async def revoke(unit: Unit, id: UUID, desk: Desk) -> str:
    await revoke_token(unit, id, desk)
    return "/people?done=token"


@routes.page("/account", SIGNED_IN)
@routes.page("/people/{id}", ADMIN)
async def account(owner: Owner, desk: Desk) -> Page:
    open_sessions = await sessions(owner, desk)
    has_password = isinstance(desk.accounts, LocalAccounts) and owner.password_hash is not None
    notices, headers = _notices(desk)
    context = {
        "user": owner,
        "is_own": "id" not in desk.request.path_params,
        "changed": fields_of(model.UserChange),
        "has_password": has_password,
        "sessions": open_sessions.items,
        **notices,
    }
    return Page("account.html", context, headers=headers)


@routes.form("/account/password", SIGNED_IN, again=account, kind=AUTH)
async def change(owner: Owner, sent: model.PasswordChange, *, fields: Fields, desk: Desk) -> str:
    if fields.get("password_again") != sent.password:
        raise invalid("/password_again", "invalid", "does not match the new password")
    await change_password(owner, sent, desk)
    return "/account?done=password"


@routes.form("/people/{id}", ADMIN, again=account)
async def change_access(unit: Unit, id: UUID, *, fields: Fields, desk: Desk) -> str:
    user, _ = await accounts.lock_user(unit, id)
    is_disabled = "false" if user.disabled_at is None else "true"
    stored = {"role": user.role, "disabled": is_disabled}
    sent = await merged(unit, fields, stored, incident_id=None, of=user.actor)
    if sent:
        change = formed(model.UserChange, sent)
        await change_user(unit, id, change, matches=any_version, desk=desk)
    return f"/people/{id}?done=user"


@routes.form("/people/{id}/password", ADMIN, again=account, kind=AUTH)
async def reset_shown(owner: Owner, desk: Desk) -> Response:
    issued = await reset(owner, desk)
    return _show_once(desk, f"/people/{owner.id}", password=issued.value.password)


@routes.form("/account/sessions/{session}", SIGNED_IN, again=account)
@routes.form("/people/{id}/sessions/{session}", ADMIN, again=account)
@routes.form("/account/sessions", SIGNED_IN, again=account)
@routes.form("/people/{id}/sessions", ADMIN, again=account)
async def end_shown(unit: Unit, owner: Owner, *, session: Only, desk: Desk) -> str:
    """End a session, or all but this one, and go back to the page that the form is on."""
    keep = None if session else desk.token_id
    await end_sessions_of(unit, owner, desk, only=session, keep=keep)
    page = desk.request.scope["path"].partition("/sessions")[0]
    return f"{page}?done=sessions"
