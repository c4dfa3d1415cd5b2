"""Passwords and sessions: use cases, API."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from postfacta_core.clock import WALL, Clock

from ..db import Answer, Transactions, Unit
from ..errors import ConflictError, FieldError, ForbiddenError, InvalidFieldsError, NotFoundError
from ..principal import Principal
from ..web.body import read_body
from .local import LocalAccounts, cookie_name, digest, presented
from .model import Account, Credential, IssuedPassword, PasswordChange, SessionList, User
from .postgres import PostgresIdentity

__all__ = ["SessionHttp", "new_password", "reset_password"]

_NO_STORE = {"Cache-Control": "no-store"}


class SessionHttp:
    """The handlers of passwords and sessions under `/api/v1/me` and `/api/v1/users/{id}`.

    Args:
        store: Stores accounts and sessions.
        transactions: Runs the writes.
        local: Checks and hashes passwords; None if they are managed elsewhere.
        forget: Called with tokens that lost their rights; the guard's.
        is_local: Whether cookies may be sent without TLS.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        store: PostgresIdentity,
        transactions: Transactions,
        *,
        local: LocalAccounts | None,
        forget: Callable[[Callable[[Credential], bool]], None],
        is_local: bool = True,
        clock: Clock = WALL,
    ) -> None:
        self._store = store
        self._transactions = transactions
        self._local = local
        self._forget = forget
        self._cookie = cookie_name(is_local=is_local)
        self._clock = clock

    async def owner(self, request: Request, principal: Principal) -> Account:
        """Return the person a request is about: the one in its path, else the caller.

        Raises:
            NotFoundError: If there is no such person.
            ForbiddenError: If the caller is not a person.
        """
        given = request.path_params.get("id")
        try:
            user_id = principal.user_id if given is None else UUID(given)
        except ValueError:
            raise _missing() from None
        if user_id is None:
            raise ForbiddenError("Only a person with an account has a password and sessions")
        account = await self._store.person(user_id)
        if account is None:
            raise _missing()
        return account

    async def list(self, request: Request, principal: Principal) -> Response:
        """GET …/sessions."""
        account = await self.owner(request, principal)
        return Answer.of(200, await self.sessions(request, account.user)).response()

    async def sessions(self, request: Request, user: User) -> SessionList:
        """List a person's current sessions."""
        items = await self._store.sessions(user.id, self._presented(request), self.now())
        return SessionList(items=items)

    async def end(self, request: Request, principal: Principal, *, keep_this: bool = False) -> Response:
        """DELETE …/sessions: all of them, or all but the one that asks; DELETE …/sessions/{session}: that one."""
        user = (await self.owner(request, principal)).user
        only = _session(request)
        keep = self._presented(request) if keep_this else b""

        async def work(unit: Unit) -> Answer:
            ended = await self._store.end_sessions(unit, user.id, self.now(), only=only, keep=keep)
            if only is not None and not ended:
                raise _missing()
            await unit.audit("session.revoke", user.actor, detail={"sessions": ended})
            return Answer(204)

        try:
            return await self._transactions.write(request, principal, work)
        finally:  # Also after a failure: the outcome may be unknown, and the change committed.
            self._forget(lambda it: it.principal.user_id == user.id and it.secret_sha256 != keep)

    async def change_password(self, request: Request, principal: Principal) -> Response:
        """PUT /api/v1/me/password."""
        await self.owner(request, principal)
        return await self.change(request, principal, await read_body(request, PasswordChange))

    async def change(self, request: Request, principal: Principal, sent: PasswordChange) -> Response:
        """Set the caller's own password and end all their other sessions.

        Raises:
            InvalidFieldsError: If the current password is wrong, or the new one is the e-mail address.
            ConflictError: If the password is managed elsewhere, or has just been changed.
            RateLimitedError: After too many attempts.
        """
        account = await self.owner(request, principal)
        local, stored = self._kept_here(account)
        user, keep = account.user, self._presented(request)
        if sent.password.strip().lower() == user.email:
            raise _refusal("/password", "must not be the e-mail address")
        # Only the holder of this session can use up its attempts.
        async with local.throttle.attempt("", device=f"password of {user.id}"):
            if not await local.passwords.verify(stored, sent.current_password, is_known=True):
                raise _refusal("/current_password", "is wrong")
        hashed = await local.passwords.hash(sent.password)

        async def work(unit: Unit) -> Answer:
            if not await self._store.set_password(unit, user.id, hashed, old=stored):
                raise ConflictError("The password was just changed elsewhere")
            ended = await self._store.end_sessions(unit, user.id, self.now(), keep=keep)
            await unit.audit("password.change", user.actor, detail={"sessions": ended})
            return Answer(204)

        try:
            return await self._transactions.write(request, principal, work)
        finally:
            self._forget(lambda it: it.principal.user_id == user.id and it.secret_sha256 != keep)

    async def reset(self, request: Request, principal: Principal) -> Response:
        """POST /api/v1/users/{id}/password."""
        account = await self.owner(request, principal)
        local, _ = self._kept_here(account)
        password = new_password()
        hashed = await local.passwords.hash(password)

        async def work(unit: Unit) -> Answer:
            await reset_password(unit, self._store, account.user, hashed=hashed, now=self.now())
            return Answer.of(200, IssuedPassword(password=password), _NO_STORE)

        try:
            return await self._transactions.write(request, principal, work)
        finally:
            self._forget(lambda it: it.principal.user_id == account.user.id)

    def is_kept_here(self, account: Account) -> bool:
        """Whether this service holds the password of an account."""
        return self._local is not None and account.password_hash is not None

    def _kept_here(self, account: Account) -> tuple[LocalAccounts, str]:
        if self._local is None or account.password_hash is None:
            raise ConflictError("This account's password is managed by your sign-in provider")
        return self._local, account.password_hash

    def _presented(self, request: Request) -> bytes:
        secret = presented(request.headers.getlist("authorization"), request.cookies.get(self._cookie))
        return digest(secret or "")

    def now(self) -> datetime:
        """Return the current time."""
        return datetime.fromtimestamp(self._clock(), UTC)


def new_password() -> str:
    """Generate a random password for its owner to change."""
    return secrets.token_urlsafe(15)


async def reset_password(
    unit: Unit, store: PostgresIdentity, user: User, *, hashed: str, now: datetime
) -> None:
    """Replace a person's password and end all sessions."""
    await store.set_password(unit, user.id, hashed)
    ended = await store.end_sessions(unit, user.id, now)
    await unit.audit("password.reset", user.actor, detail={"sessions": ended})


def _session(request: Request) -> UUID | None:
    params: Mapping[str, str] = request.path_params
    try:
        return UUID(params["session"]) if "session" in params else None
    except ValueError:
        raise _missing() from None


def _missing() -> NotFoundError:
    return NotFoundError("No such id")


def _refusal(pointer: str, message: str) -> InvalidFieldsError:
    return InvalidFieldsError(message, errors=[FieldError(pointer, "invalid", message)])
