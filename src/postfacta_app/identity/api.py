"""The routes of accounts.

An API of sign-in, people, tokens and the audit log, with the pages that call it.
"""

from __future__ import annotations

import secrets
from datetime import timedelta
from functools import partial
from typing import Annotated, Final
from uuid import UUID

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from postfacta_web.sign_in import client_of

from ..db import Reader, Unit
from ..errors import ConflictError, ForbiddenError, NotFoundError, RegistrationClosedError, invalid
from ..principal import Access
from ..web.body import Paged, parse
from ..web.forms import Typed, attempt, fields_of, formed, is_same_origin, read_form, sent_fields
from ..web.routes import Call, RouteClass
from ..web.slices import Fields, Fill, Matches, Page, Reply, Routes, as_json, from_path
from . import accounts, model
from .accounts import Accounts, LocalAccounts, session_cookie
from .guard import PRESENTED, Guard

OPEN = Access.OPEN
SIGNED_IN = Access.SIGNED_IN
ADMIN = Access.ADMIN
AUTH = RouteClass.AUTH
SEARCH = RouteClass.SEARCH
routes: Final = Routes("id")

_MOST: Final = 1000  # People or tokens on a page.
_NO_STORE: Final = {"Cache-Control": "no-store"}


class _Desk:
    """Accounts and the guard, at the service of one request.

    `token_id` is of the token that the request presents, if any.
    """

    def __init__(self, call: Call, _: str) -> None:
        self.call = call
        self.request = call.request
        self.now = call.now
        self.accounts = call.tools.part(Accounts)
        self._guard = call.tools.part(Guard)
        self.settings = self._guard.settings
        self.q = call.tools.transactions.reader(call.principal)
        self.token_id: UUID | None = call.request.scope.get(PRESENTED)
        # What a page shows once: a secret, or the change before it.
        self.notices: dict[str, object] = {"done": call.request.query_params.get("done")}

    def lose(self, revoked: str | UUID) -> None:
        """Stop trusting these tokens once the transaction is over.

        Even a failed one may be committed.
        """
        self.call.afterwards.append(partial(self._guard.forget, revoked))

    def local(self) -> LocalAccounts:
        if isinstance(self.accounts, LocalAccounts):
            return self.accounts
        raise RegistrationClosedError(
            "Add people in the Supabase project; they appear here when they first sign in"
        )

    def local_password(self, account: model.Account) -> tuple[LocalAccounts, str]:
        """Return who checks an account's password, and its hash.

        Raise if it is managed elsewhere.
        """
        if not isinstance(self.accounts, LocalAccounts) or account.password_hash is None:
            raise ConflictError("This account's password is managed by your sign-in provider")
        return self.accounts, account.password_hash


def _id_in_path(call: Call, name: str) -> UUID | None:
    return from_path(UUID, call, name) if name in call.request.path_params else None


async def _owner(call: Call, _: str) -> model.Account:
    user_id = _id_in_path(call, "id") or call.principal.user_id
    if user_id is None:
        raise ForbiddenError("Only a person with an account has a password and sessions")
    account = await accounts.person(call.tools.transactions.reader(call.principal), user_id)
    if account is None:
        raise NotFoundError("No such id")
    return account


Desk = Annotated[_Desk, Fill(_Desk)]
Owner = Annotated[model.Account, Fill(_owner)]
"""The person a request is about: the one in its path, else the caller."""
Only = Annotated[UUID | None, Fill(_id_in_path)]
"""The session in the path; without it, all."""


@routes.api(
    "POST /login",
    OPEN,
    "Exchange e-mail and password for a bearer token",
    status=200,
    kind=AUTH,
    problems=("rate-limited", "unauthenticated"),
)
async def login(sent: model.Credentials, desk: Desk) -> Reply[model.SignedIn]:
    minted = await desk.accounts.sign_in(desk.call, sent, model.Kind.BEARER)
    return Reply(
        model.SignedIn(token=minted.secret, expires_at=minted.token.expires_at), 200, _NO_STORE
    )


@routes.api(
    "POST /register",
    OPEN,
    "Register an account, if registration is open",
    kind=AUTH,
    problems=("registration-closed", "conflict", "rate-limited"),
)
async def register(sent: model.Registration, desk: Desk) -> Annotated[Response, model.Registered]:
    if not desk.settings.register_open:
        raise RegistrationClosedError("Registration is closed; ask an administrator for an account")
    new = model.NewUser.model_validate(sent.model_dump())  # As a viewer.
    async with desk.local().limited(client_of(desk.request.scope)):
        return await _add(desk, new, model.Registered)


@routes.api("POST /logout", SIGNED_IN, "End the current session or bearer token", kind=AUTH)
async def logout(unit: Unit, desk: Desk) -> Response:
    caller = unit.principal
    if caller.scopes:
        raise ForbiddenError("An administrator must revoke API tokens: DELETE /api/v1/tokens/{id}")
    if caller.user_id is not None and desk.token_id is not None:
        desk.lose(desk.token_id)
        await accounts.end_sessions(unit, caller.user_id, "session.end", only=desk.token_id)
    cookie = session_cookie("", timedelta(0), is_local=desk.settings.is_local)
    return Response(status_code=204, headers={"Set-Cookie": cookie})


@routes.api("GET /api/v1/me", SIGNED_IN, "Read the current user or token")
async def me(q: Reader) -> model.Me:
    principal = q.principal
    return model.Me(
        actor=principal.actor,
        name=principal.name,
        role=principal.role,
        scopes=sorted(principal.scopes),
        source=principal.source,
    )


@routes.api(
    "PUT /api/v1/me/password",
    SIGNED_IN,
    "Change your password and end your other sessions",
    problems=("conflict",),
)
async def change_password(owner: Owner, sent: model.PasswordChange, desk: Desk) -> Response:
    local, stored = desk.local_password(owner)
    if sent.password.strip().lower() == owner.email:
        raise invalid("/password", "invalid", "must not be the e-mail address")
    # Only the holder of this session can use up its attempts.
    async with local.limited("", device=f"password of {owner.id}") as accept:
        if not await local.passwords.verify(stored, sent.current_password, is_known=True):
            raise invalid("/current_password", "invalid", "is wrong")
        accept()
    hashed = await local.passwords.hash(sent.password)
    desk.lose(owner.actor)
    change = partial(
        accounts.change_password, user_id=owner.id, hashed=hashed, old=stored, keep=desk.token_id
    )
    return await desk.call.write(change)


@routes.api(
    "POST /api/v1/users/{id}/password",
    ADMIN,
    "Reset a person's password; the new one is returned once",
    status=200,
    problems=("conflict",),
)
async def reset(owner: Owner, desk: Desk) -> Reply[model.IssuedPassword]:
    local, _ = desk.local_password(owner)
    password = new_password()
    hashed = await local.passwords.hash(password)
    desk.lose(owner.actor)
    await desk.call.write(partial(accounts.change_password, user_id=owner.id, hashed=hashed))
    return Reply(model.IssuedPassword(password=password), 200, _NO_STORE)


def new_password() -> str:
    return secrets.token_urlsafe(15)


@routes.api("GET /api/v1/me/sessions", SIGNED_IN, "List your sessions", kind=SEARCH)
@routes.api("GET /api/v1/users/{id}/sessions", ADMIN, "List a person's sessions", kind=SEARCH)
async def sessions(owner: Owner, desk: Desk) -> model.SessionList:
    return model.SessionList(
        items=await accounts.sessions(desk.q, owner.id, current=desk.token_id, now=desk.now)
    )


@routes.api("DELETE /api/v1/me/sessions/{session}", SIGNED_IN, "End one of your sessions")
@routes.api("DELETE /api/v1/users/{id}/sessions/{session}", ADMIN, "End one of a person's sessions")
@routes.api("DELETE /api/v1/me/sessions", SIGNED_IN, "Sign out everywhere")
@routes.api("DELETE /api/v1/users/{id}/sessions", ADMIN, "Sign a person out everywhere")
async def end_sessions(unit: Unit, owner: Owner, *, session: Only, desk: Desk) -> None:
    await _end_sessions(unit, owner, desk, only=session)


async def _end_sessions(
    unit: Unit, owner: model.Account, desk: _Desk, *, only: UUID | None, keep: UUID | None = None
) -> None:
    """End a person's sessions, but never `keep`; or `only` one, which must be there."""
    desk.lose(owner.actor)
    ended = await accounts.end_sessions(unit, owner.id, "session.revoke", only=only, keep=keep)
    if only is not None and not ended:
        raise NotFoundError("No such id")


@routes.api("GET /api/v1/users", ADMIN, "List people")
async def users(q: Reader, query: Paged) -> model.UserPage:
    people = await accounts.users(q, query.after("users"), query.limit + 1)
    return query.page(model.UserPage, people, "users", key=lambda user: (user.created_at, user.id))


@routes.api(
    "POST /api/v1/users",
    ADMIN,
    "Add a person",
    problems=("conflict", "rate-limited", "registration-closed"),
)
async def add_user(new: model.NewUser, desk: Desk) -> Annotated[Response, model.User]:
    return await _add(desk, new, model.User)


async def _add(desk: _Desk, new: model.NewUser, answer: type[BaseModel]) -> Response:
    hashed = await desk.local().passwords.hash(new.password)

    async def work(unit: Unit) -> Response:
        user = await accounts.add_user(unit, new, password_hash=hashed)
        return as_json(201, answer.model_validate(user, from_attributes=True), {"ETag": user.etag})

    return await desk.call.write(work)


@routes.api("GET /api/v1/users/{id}", ADMIN, "Read a person")
async def user(owner: Owner) -> model.User:
    return owner


@routes.api("PATCH /api/v1/users/{id}", ADMIN, "Change a person's role, or disable an account")
async def change_user(
    unit: Unit, id: UUID, change: model.UserChange, *, matches: Matches, desk: Desk
) -> model.User:
    desk.lose(f"user:{id}")
    return await accounts.change_user(unit, id, change, matches=matches)


@routes.api("GET /api/v1/tokens", ADMIN, "List API tokens")
async def tokens(q: Reader, query: Paged) -> model.TokenPage:
    machines = await accounts.tokens(q, query.after("tokens"), query.limit + 1)
    return query.page(
        model.TokenPage, machines, "tokens", key=lambda token: (token.created_at, token.id)
    )


@routes.api("POST /api/v1/tokens", ADMIN, "Create an API token; its secret is returned once")
async def create_token(unit: Unit, new: model.NewToken, desk: Desk) -> Reply[model.IssuedToken]:
    latest = desk.now + timedelta(days=3650)
    if new.expires_at is not None and not desk.now < new.expires_at <= latest:
        raise invalid("/expires_at", "out_of_range", "must be within the next ten years")
    issued = await accounts.create_token(unit, new, desk.now)
    return Reply(issued, 201, {"Location": f"/api/v1/tokens/{issued.id}", **_NO_STORE})


@routes.api("DELETE /api/v1/tokens/{id}", ADMIN, "Revoke an API token")
async def revoke_token(unit: Unit, id: UUID, desk: Desk) -> None:
    desk.lose(id)
    if not await accounts.revoke_token(unit, id):
        raise NotFoundError("No such id")


@routes.api("GET /api/v1/audit", ADMIN, "Read the audit log")
async def audit(q: Reader, query: model.AuditQuery) -> model.AuditPage:
    (before,) = query.after("audit", int) or (None,)
    entries = await accounts.audit(q, query, before)
    return query.page(model.AuditPage, entries, "audit", key=lambda entry: [entry.seq])


# Pages


@routes.page("/signin", OPEN)
async def sign_in(*, request: Request) -> Page:
    return Page("signin.html", {"next": _local_path(request.query_params.get("next", ""))})


@routes.page("POST /signin", OPEN, kind=AUTH)
async def submit(*, request: Request, desk: Desk) -> Page | Response:
    if not is_same_origin(request.headers):
        raise ForbiddenError("This request came from another site; open the sign-in page here")
    fields = await sent_fields(request)
    target = _local_path(fields.get("next", ""))

    async def begin() -> Response:
        members = {name: fields.get(name, "") for name in ("email", "password")}
        sent = parse(model.Credentials, members)
        minted = await desk.accounts.sign_in(desk.call, sent, model.Kind.SESSION)
        life = minted.token.expires_at - desk.now
        session = session_cookie(minted.secret, life, is_local=desk.settings.is_local)
        done = Response(status_code=303, headers={"Location": target, **_NO_STORE})
        for cookie in filter(None, (session, minted.device)):
            done.headers.append("Set-Cookie", cookie)
        return done

    done = await attempt(begin())
    if isinstance(done, Response):
        return done
    desk.call.typed = Typed(fields, done)
    return Page("signin.html", {"next": target})


@routes.page("POST /signout", OPEN, kind=AUTH)
async def leave(*, request: Request, desk: Desk) -> Response:
    caller = desk.call.principal
    if not caller.is_signed_in:
        return RedirectResponse("/signin", 303)
    if caller.session_csrf is None:
        raise ForbiddenError("Only browser sessions end here; send POST /logout instead")
    await read_form(request, caller)
    done = await desk.call.write(partial(logout, desk=desk))
    return RedirectResponse("/signin", 303, {"Set-Cookie": done.headers["set-cookie"]})


def _local_path(target: str) -> str:
    """Return a path of this site; anything else becomes the incident list."""
    # Control characters would end the header; browsers read `//` and `/\` as the start of a host.
    is_here = target.startswith("/") and not target.startswith(("//", "/\\"))
    return target if is_here and target.isascii() and target.isprintable() else "/incidents"


@routes.page("/people", ADMIN, kind=SEARCH)
async def people(desk: Desk) -> Page:
    context = {
        "new": fields_of(model.NewUser),
        "new_token": fields_of(model.NewToken),
        "people": await accounts.users(desk.q, None, _MOST),
        "tokens": await accounts.tokens(desk.q, None, _MOST),
        "most": _MOST,
        "now": desk.now,
        **desk.notices,
    }
    return Page("people.html", context)


@routes.form("/people", ADMIN, again=people, kind=AUTH)
async def add_person(*, fields: Fields, desk: Desk) -> Page:
    password = new_password()
    new = formed(model.NewUser, {**fields, "password": password})
    await add_user(new, desk)
    desk.notices |= {"added": new.email, "password": password}
    return await people(desk)


@routes.form("/people/tokens", ADMIN, again=people, kind=AUTH)
async def add_machine(*, fields: Fields, desk: Desk) -> Page:
    scopes = [scope for scope in model.Scope if f"scope-{scope}" in fields]
    new = formed(model.NewToken, {**fields, "scopes": scopes}, desk.now)

    async def work(unit: Unit) -> None:
        issued = await create_token(unit, new, desk)
        desk.notices |= {"added": new.name, "token": issued.value.secret}

    await desk.call.write(work)
    return await people(desk)


@routes.form("/people/tokens/{id}", ADMIN, again=people)
async def revoke(unit: Unit, id: UUID, desk: Desk) -> str:
    await revoke_token(unit, id, desk)
    return "/people?done=token"


@routes.page("/account", SIGNED_IN)
@routes.page("/people/{id}", ADMIN)
async def account(owner: Owner, desk: Desk) -> Page:
    open_sessions = await sessions(owner, desk)
    has_password = isinstance(desk.accounts, LocalAccounts) and owner.password_hash is not None
    context = {
        "user": owner,
        "is_own": "id" not in desk.request.path_params,
        "changed": fields_of(model.UserChange),
        "has_password": has_password,
        "sessions": open_sessions.items,
        **desk.notices,
    }
    return Page("account.html", context)


@routes.form("/account/password", SIGNED_IN, again=account, kind=AUTH)
async def change(owner: Owner, sent: model.PasswordChange, *, fields: Fields, desk: Desk) -> str:
    if fields.get("password_again") != sent.password:
        raise invalid("/password_again", "invalid", "does not match the new password")
    await change_password(owner, sent, desk)
    return "/account?done=password"


@routes.form("/people/{id}", ADMIN, again=account)
async def change_access(
    unit: Unit, id: UUID, change: model.UserChange, *, matches: Matches, desk: Desk
) -> str:
    await change_user(unit, id, change, matches=matches, desk=desk)
    return f"/people/{id}?done=user"


@routes.form("/people/{id}/password", ADMIN, again=account, kind=AUTH)
async def reset_shown(owner: Owner, desk: Desk) -> Page:
    issued = await reset(owner, desk)
    desk.notices["password"] = issued.value.password
    return await account(owner, desk)


@routes.form("/account/sessions/{session}", SIGNED_IN, again=account)
@routes.form("/people/{id}/sessions/{session}", ADMIN, again=account)
@routes.form("/account/sessions", SIGNED_IN, again=account)
@routes.form("/people/{id}/sessions", ADMIN, again=account)
async def end_shown(unit: Unit, owner: Owner, *, session: Only, desk: Desk) -> str:
    """End a session, or all but this one, and go back to the page that the form is on."""
    keep = None if session else desk.token_id
    await _end_sessions(unit, owner, desk, only=session, keep=keep)
    page = desk.request.scope["path"].partition("/sessions")[0]
    return f"{page}?done=sessions"
