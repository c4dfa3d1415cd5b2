"""The API of sign-in, people, API tokens and the audit log."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Final
from uuid import UUID

from pydantic import BaseModel
from starlette.responses import Response

from postfacta_web.sign_in import client_of

from ..db import Reader, Unit
from ..errors import ConflictError, ForbiddenError, NotFoundError, RegistrationClosedError, invalid
from ..principal import Access
from ..web.body import Paged
from ..web.routes import Call, RouteClass
from ..web.slices import Fill, Matches, Reply, Routes, as_json, from_path
from . import accounts, model
from .accounts import Accounts, LocalAccounts, session_cookie
from .guard import PRESENTED, Guard

OPEN = Access.OPEN
SIGNED_IN = Access.SIGNED_IN
ADMIN = Access.ADMIN
AUTH = RouteClass.AUTH
SEARCH = RouteClass.SEARCH
routes: Final = Routes("id")

NO_STORE: Final = {"Cache-Control": "no-store"}


class RequestAccounts:
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
    reader = call.tools.transactions.reader(call.principal)
    account = await accounts.person(reader, user_id)
    if account is None:
        raise NotFoundError("No such id")
    return account


Desk = Annotated[RequestAccounts, Fill(RequestAccounts)]
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
    operation="sign_in",
)
async def login(sent: model.Credentials, desk: Desk) -> Reply[model.SignedIn]:
    minted = await desk.accounts.sign_in(desk.call, sent, model.Kind.BEARER)
    signed_in = model.SignedIn(token=minted.secret, expires_at=minted.token.expires_at)
    return Reply(signed_in, 200, NO_STORE)


@routes.api(
    "POST /register",
    OPEN,
    "Register an account, if registration is open",
    kind=AUTH,
    problems=("registration-closed", "conflict", "rate-limited"),
    operation="register",
)
async def register(sent: model.Registration, desk: Desk) -> Annotated[Response, model.Registered]:
    if not desk.settings.register_open:
        raise RegistrationClosedError("Registration is closed; ask an administrator for an account")
    viewer = model.NewUser.model_validate(sent.model_dump())
    client = client_of(desk.request.scope)
    async with desk.local().limited(client):
        return await _add(desk, viewer, model.Registered)


@routes.api(
    "POST /logout",
    SIGNED_IN,
    "End the current session or bearer token",
    kind=AUTH,
    operation="sign_out",
)
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
    operation="change_password",
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
        accounts.change_password,
        user_id=owner.id,
        hashed=hashed,
        old=stored,
        keep=desk.token_id,
    )
    return await desk.call.write(change)


@routes.api(
    "POST /api/v1/users/{id}/password",
    ADMIN,
    "Reset a person's password; the new one is returned once",
    status=200,
    problems=("conflict",),
    operation="reset_password",
)
async def reset(owner: Owner, desk: Desk) -> Reply[model.IssuedPassword]:
    local, _ = desk.local_password(owner)
    password = new_password()
    hashed = await local.passwords.hash(password)
    desk.lose(owner.actor)
    change = partial(accounts.change_password, user_id=owner.id, hashed=hashed)
    await desk.call.write(change)
    issued = model.IssuedPassword(password=password)
    return Reply(issued, 200, NO_STORE)


def new_password() -> str:
    return secrets.token_urlsafe(15)


@routes.api("GET /api/v1/me/sessions", SIGNED_IN, "List your sessions", kind=SEARCH)
@routes.api("GET /api/v1/users/{id}/sessions", ADMIN, "List a person's sessions", kind=SEARCH)
async def sessions(owner: Owner, desk: Desk) -> model.SessionList:
    current = await accounts.sessions(desk.q, owner.id, current=desk.token_id, now=desk.now)
    return model.SessionList(items=current)


@routes.api("DELETE /api/v1/me/sessions/{session}", SIGNED_IN, "End one of your sessions")
@routes.api("DELETE /api/v1/users/{id}/sessions/{session}", ADMIN, "End one of a person's sessions")
@routes.api("DELETE /api/v1/me/sessions", SIGNED_IN, "Sign out everywhere")
@routes.api("DELETE /api/v1/users/{id}/sessions", ADMIN, "Sign a person out everywhere")
async def end_sessions(unit: Unit, owner: Owner, *, session: Only, desk: Desk) -> None:
    await end_sessions_of(unit, owner, desk, only=session)


async def end_sessions_of(
    unit: Unit,
    owner: model.Account,
    desk: RequestAccounts,
    *,
    only: UUID | None,
    keep: UUID | None = None,
) -> None:
    """End a person's sessions, but never `keep`; or `only` one, which must be there."""
    desk.lose(owner.actor)
    ended = await accounts.end_sessions(unit, owner.id, "session.revoke", only=only, keep=keep)
    if only is not None and not ended:
        raise NotFoundError("No such id")


@routes.api("GET /api/v1/users", ADMIN, "List people")
async def users(q: Reader, query: Paged) -> model.UserPage:
    place = query.after("users")
    people = await accounts.users(q, place, query.limit + 1)
    return query.page(model.UserPage, people, "users", key=_age)


def _age(record: model.User | model.Token) -> tuple[datetime, UUID]:
    """Return the place of a record in lists, which begin with the oldest."""
    return record.created_at, record.id


@routes.api(
    "POST /api/v1/users",
    ADMIN,
    "Add a person",
    problems=("conflict", "rate-limited", "registration-closed"),
)
async def add_user(new: model.NewUser, desk: Desk) -> Annotated[Response, model.User]:
    return await _add(desk, new, model.User)


async def _add(desk: RequestAccounts, new: model.NewUser, answer: type[BaseModel]) -> Response:
    hashed = await desk.local().passwords.hash(new.password)

    async def work(unit: Unit) -> Response:
        user = await accounts.add_user(unit, new, password_hash=hashed)
        body = answer.model_validate(user, from_attributes=True)
        return as_json(201, body, {"ETag": user.etag})

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
    place = query.after("tokens")
    machines = await accounts.tokens(q, place, query.limit + 1)
    return query.page(model.TokenPage, machines, "tokens", key=_age)


@routes.api("POST /api/v1/tokens", ADMIN, "Create an API token; its secret is returned once")
async def create_token(unit: Unit, new: model.NewToken, desk: Desk) -> Reply[model.IssuedToken]:
    latest = desk.now + timedelta(days=3650)
    if new.expires_at is not None and not desk.now < new.expires_at <= latest:
        raise invalid("/expires_at", "out_of_range", "must be within the next ten years")
    issued = await accounts.create_token(unit, new, desk.now)
    location = f"/api/v1/tokens/{issued.id}"
    return Reply(issued, 201, {"Location": location, **NO_STORE})


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
