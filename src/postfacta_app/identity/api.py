"""The API of accounts: sign-in, people, passwords, sessions, tokens and the audit log."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final
from uuid import UUID

from starlette.responses import Response

from ..db import Answer, Reader, Unit
from ..errors import ConflictError, ForbiddenError, NotFoundError, RegistrationClosedError, invalid
from ..principal import Access
from ..settings import Settings
from ..web.paging import Paged
from ..web.routes import RouteClass
from ..web.slices import Call, Fill, Matches, Reply, Routes
from . import model, postgres
from .guard import PRESENTED
from .local import LocalAccounts, mint, session_cookie

if TYPE_CHECKING:
    from .supabase import SupabaseAccounts

OPEN, SIGNED_IN, ADMIN = Access.OPEN, Access.SIGNED_IN, Access.ADMIN
AUTH, SEARCH = RouteClass.AUTH, RouteClass.SEARCH
routes: Final = Routes("id")

_LONGEST_LIFE: Final = timedelta(days=3650)
_NO_STORE: Final = {"Cache-Control": "no-store"}


@dataclass(frozen=True, slots=True)
class Identity:
    """The part that these routes need; `forget` is called with tokens that lost their rights."""

    settings: Settings
    accounts: LocalAccounts | SupabaseAccounts
    forget: Callable[[Callable[[model.Credential], bool]], None]


class _Desk:
    """The identity part, at the service of one request; `this` is the hash of the secret that it presents."""

    def __init__(self, call: Call, _: str) -> None:
        part = call.tools.part(Identity)
        self.accounts, self._forget = part.accounts, part.forget
        self.request, self.caller, self.now, self.write = call.request, call.principal, call.now, call.write
        self.is_local, self.is_open = part.settings.is_local, part.settings.register_open
        self.q, self._afterwards = call.tools.transactions.reader(call.principal), call.afterwards
        self.this: bytes = call.request.scope.get(PRESENTED, b"")

    def lose(self, is_lost: Callable[[model.Credential], bool]) -> None:
        """Stop trusting these tokens once the transaction is over: even a failed one may be committed."""
        self._afterwards.append(lambda: self._forget(is_lost))

    def lose_all(self, user: UUID, *, keep: bytes = b"") -> None:
        self.lose(lambda it: it.principal.user_id == user and it.secret_sha256 != keep)

    def local(self) -> LocalAccounts:
        if isinstance(self.accounts, LocalAccounts):
            return self.accounts
        raise RegistrationClosedError(
            "Add people in the Supabase project; they appear here when they first sign in"
        )

    def kept_here(self, account: model.Account) -> tuple[LocalAccounts, str]:
        """Return who checks an account's password, and its hash; raise if it is managed elsewhere."""
        if not isinstance(self.accounts, LocalAccounts) or account.password_hash is None:
            raise ConflictError("This account's password is managed by your sign-in provider")
        return self.accounts, account.password_hash


async def _owner(call: Call, _: str) -> model.Account:
    given = call.request.path_params.get("id")
    try:
        user_id = call.principal.user_id if given is None else UUID(given)
    except ValueError:
        raise _missing() from None
    if user_id is None:
        raise ForbiddenError("Only a person with an account has a password and sessions")
    account = await postgres.person(call.tools.transactions.reader(call.principal), user_id)
    if account is None:
        raise _missing()
    return account


Desk = Annotated[_Desk, Fill(_Desk)]
Owner = Annotated[model.Account, Fill(_owner)]
"""The person a request is about: the one in its path, else the caller."""


@routes.api(
    "POST /login", OPEN, "Exchange e-mail and password for a bearer token",
    status=200, kind=AUTH, problems=("rate-limited", "unauthenticated"),
)  # fmt: skip
async def login(sent: model.Credentials, desk: Desk) -> Reply[model.SignedIn]:
    minted = await desk.accounts.sign_in(desk.request, sent, model.Kind.BEARER, now=desk.now)
    return Reply(model.SignedIn(token=minted.secret, expires_at=minted.token.expires_at), 200, _NO_STORE)


@routes.api(
    "POST /register", OPEN, "Register an account, if registration is open",
    kind=AUTH, problems=("registration-closed", "conflict", "rate-limited"),
)  # fmt: skip
async def register(sent: model.Registration, desk: Desk) -> Annotated[Response, model.Registered]:
    if not desk.is_open:
        raise RegistrationClosedError("Registration is closed; ask an administrator for an account")
    return await desk.local().register(desk.request, sent)


@routes.api("POST /logout", SIGNED_IN, "End the current session or bearer token", kind=AUTH)
async def logout(unit: Unit, desk: Desk) -> Answer:
    who = unit.principal
    if who.scopes:
        raise ForbiddenError("An administrator must revoke API tokens: DELETE /api/v1/tokens/{id}")
    desk.lose(lambda it: it.secret_sha256 == desk.this)
    if who.user_id is not None:
        await postgres.revoke_secret(unit, desk.this, desk.now)
        await unit.audit("session.end", who.actor)
    return Answer(204, {"Set-Cookie": session_cookie("", timedelta(0), is_local=desk.is_local)})


@routes.api("GET /api/v1/me", SIGNED_IN, "Read the current user or token")
async def me(q: Reader) -> model.Me:
    who = q.principal
    return model.Me(
        actor=who.actor, name=who.name, role=who.role, scopes=sorted(who.scopes), source=who.source
    )


@routes.api(
    "PUT /api/v1/me/password", SIGNED_IN, "Change your password and end your other sessions",
    problems=("conflict",),
)  # fmt: skip
async def change_password(owner: Owner, sent: model.PasswordChange, desk: Desk) -> Response:
    local, stored = desk.kept_here(owner)
    if sent.password.strip().lower() == owner.email:
        raise invalid("/password", "invalid", "must not be the e-mail address")
    # Only the holder of this session can use up its attempts.
    async with local.limited("", device=f"password of {owner.id}") as accept:
        if not await local.passwords.verify(stored, sent.current_password, is_known=True):
            raise invalid("/current_password", "invalid", "is wrong")
        accept()
    hashed = await local.passwords.hash(sent.password)

    async def work(unit: Unit) -> None:
        if not await postgres.set_password(unit, owner.id, hashed, old=stored):
            raise ConflictError("The password was just changed elsewhere")
        ended = await postgres.end_sessions(unit, owner.id, desk.now, keep=desk.this)
        await unit.audit("password.change", owner.actor, detail={"sessions": ended})

    desk.lose_all(owner.id, keep=desk.this)
    return await desk.write(work)


@routes.api(
    "POST /api/v1/users/{id}/password", ADMIN, "Reset a person's password; the new one is returned once",
    status=200, problems=("conflict",),
)  # fmt: skip
async def reset(owner: Owner, desk: Desk) -> Reply[model.IssuedPassword]:
    local, _ = desk.kept_here(owner)
    password = new_password()
    hashed = await local.passwords.hash(password)

    desk.lose_all(owner.id)
    await desk.write(partial(postgres.reset_password, user=owner, hashed=hashed, now=desk.now))
    return Reply(model.IssuedPassword(password=password), 200, _NO_STORE)


def new_password() -> str:
    return secrets.token_urlsafe(15)


@routes.api("GET /api/v1/me/sessions", SIGNED_IN, "List your sessions", kind=SEARCH)
@routes.api("GET /api/v1/users/{id}/sessions", ADMIN, "List a person's sessions", kind=SEARCH)
async def sessions(owner: Owner, desk: Desk) -> model.SessionList:
    return model.SessionList(items=await postgres.sessions(desk.q, owner.id, this=desk.this, now=desk.now))


@routes.api("DELETE /api/v1/me/sessions", SIGNED_IN, "Sign out everywhere")
@routes.api("DELETE /api/v1/users/{id}/sessions", ADMIN, "Sign a person out everywhere")
async def end_all(unit: Unit, owner: Owner, desk: Desk) -> None:
    await end_sessions(unit, owner, desk)


@routes.api("DELETE /api/v1/me/sessions/{session}", SIGNED_IN, "End one of your sessions")
@routes.api("DELETE /api/v1/users/{id}/sessions/{session}", ADMIN, "End one of a person's sessions")
async def end_one(unit: Unit, owner: Owner, *, session: UUID, desk: Desk) -> None:
    await end_sessions(unit, owner, desk, only=session)


async def end_sessions(
    unit: Unit, owner: model.Account, desk: _Desk, *, only: UUID | None = None, keep: bytes = b""
) -> None:
    """End a person's sessions, except the one with the hash `keep`; or `only` one, which must be there."""
    desk.lose_all(owner.id, keep=keep)
    ended = await postgres.revoke_sessions(unit, owner, desk.now, only=only, keep=keep)
    if only is not None and not ended:
        raise _missing()


@routes.api("GET /api/v1/users", ADMIN, "List people")
async def users(q: Reader, query: Paged) -> model.UserPage:
    rows = await postgres.users(q, query.after("users"), query.limit + 1)
    return query.page(model.UserPage, rows, "users", key=lambda it: (it.created_at, it.id))


@routes.api(
    "POST /api/v1/users", ADMIN, "Add a person", problems=("conflict", "rate-limited", "registration-closed")
)  # fmt: skip
async def add_user(new: model.NewUser, desk: Desk) -> Annotated[Response, model.User]:
    return await desk.local().add(desk.request, desk.caller, new)


@routes.api("GET /api/v1/users/{id}", ADMIN, "Read a person")
async def user(owner: Owner) -> model.User:
    return owner


@routes.api("PATCH /api/v1/users/{id}", ADMIN, "Change a person's role, or disable an account")
async def change_user(
    unit: Unit, id: UUID, wish: model.UserChange, *, matches: Matches, desk: Desk
) -> model.User:
    desk.lose_all(id)
    return await postgres.change_user(unit, id, wish, now=desk.now, matches=matches)


@routes.api("GET /api/v1/tokens", ADMIN, "List API tokens")
async def tokens(q: Reader, query: Paged) -> model.TokenPage:
    rows = await postgres.tokens(q, query.after("tokens"), query.limit + 1)
    return query.page(model.TokenPage, rows, "tokens", key=lambda it: (it.created_at, it.id))


@routes.api("POST /api/v1/tokens", ADMIN, "Create an API token; its secret is returned once")
async def create_token(unit: Unit, new: model.NewToken, desk: Desk) -> Reply[model.IssuedToken]:
    if new.expires_at is not None and not desk.now < new.expires_at <= desk.now + _LONGEST_LIFE:
        raise invalid("/expires_at", "out_of_range", "must be within the next ten years")
    minted = mint(model.Kind.API, unit.principal, desk.now, expires_at=new.expires_at)
    token = await postgres.add_token(unit, new, minted)
    issued = model.IssuedToken(**token.model_dump(), secret=minted.secret)
    return Reply(issued, 201, {"Location": f"/api/v1/tokens/{token.id}", **_NO_STORE})


@routes.api("DELETE /api/v1/tokens/{id}", ADMIN, "Revoke an API token")
async def revoke_token(unit: Unit, id: UUID, desk: Desk) -> None:
    desk.lose(lambda it: it.id == id)
    if not await postgres.revoke_token(unit, id, desk.now):
        raise _missing()


@routes.api("GET /api/v1/audit", ADMIN, "Read the audit log")
async def audit(q: Reader, query: model.AuditQuery) -> model.AuditPage:
    (before,) = query.after("audit", int) or (None,)
    return query.page(
        model.AuditPage, await postgres.audit(q, query, before), "audit", key=lambda it: [it.seq]
    )


def _missing() -> NotFoundError:
    return NotFoundError("No such id")
