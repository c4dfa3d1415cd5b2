"""Local sign-in with a password, and the secrets issued for it."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4

import anyio
import anyio.to_thread
from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from postfacta_adapters.sign_in import SignInThrottle, client_of
from postfacta_core.errors import RateLimitExceededError

from ..db import Answer, Transactions, Unit
from ..errors import AppError, RateLimitedError, UnauthenticatedError, slow_down
from ..principal import NOBODY, Principal
from . import model, postgres

T = TypeVar("T")


_AT_ONCE = 2  # Each hash takes 64 MiB.
_MOST_PENDING = 20  # They take under a second; requests that would wait longer get 429.


class Passwords:
    """Hashes passwords with argon2id in worker threads; known devices have a queue of their own."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._limiters = {True: anyio.CapacityLimiter(1), False: anyio.CapacityLimiter(_AT_ONCE)}
        self._pending = {True: 0, False: 0}
        # Unknown accounts are verified against this hash, so that timing reveals nothing.
        self._nobody = self._hasher.hash(secrets.token_urlsafe())

    async def hash(self, password: str) -> str:
        return await self._work(lambda: self._hasher.hash(password))

    async def verify(self, stored: str | None, password: str, *, is_known: bool = False) -> bool:
        """Return whether the password matches; without a stored hash, False after the same time."""
        matches = await self._work(lambda: self._matches(stored or self._nobody, password), is_known=is_known)
        return matches and stored is not None

    async def renew(self, stored: str, password: str) -> str | None:
        return await self.hash(password) if self._hasher.check_needs_rehash(stored) else None

    def _matches(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (Argon2Error, InvalidHashError):
            return False

    async def _work(self, work: Callable[[], T], *, is_known: bool = False) -> T:
        # Counted here: the limiter does not yet count tasks on the way to its queue.
        if self._pending[is_known] >= _MOST_PENDING:
            raise slow_down(1.0)
        self._pending[is_known] += 1
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._limiters[is_known])
        finally:
            self._pending[is_known] -= 1


SECRET: Final = re.compile(r"(?:pf_(?P<prefix>[A-Za-z0-9_-]{8})_)?[A-Za-z0-9_-]{43}")
"""The format of a secret; nothing else is looked up in the database."""

_LIVES: Final = {
    model.Kind.SESSION: timedelta(days=7),
    model.Kind.BEARER: timedelta(hours=24),
    model.Kind.API: timedelta(days=365),
}


def mint(
    kind: model.Kind, owner: Principal, now: datetime, *, expires_at: datetime | None = None
) -> model.Minted:
    """Generate a secret of 256 random bits; an API token also gets a prefix for lookup."""
    prefix = secrets.token_urlsafe(6) if kind is model.Kind.API else ""
    secret = (f"pf_{prefix}_" if prefix else "") + secrets.token_urlsafe(32)
    token = model.Credential(
        id=uuid4(),
        kind=kind,
        secret_sha256=digest(secret),
        principal=owner,
        created_at=now,
        last_used_at=None,
        expires_at=expires_at or now + _LIVES[kind],
    )
    return model.Minted(secret, token, prefix)


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


class Accounts:
    """What both ways to sign in have in common; `attempted` is called with the outcome of each attempt."""

    def __init__(
        self,
        transactions: Transactions,
        *,
        throttle: SignInThrottle | None = None,
        attempted: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._throttle = throttle or SignInThrottle(uncounted=RateLimitedError, observer=None)
        self._transactions, self._attempted = transactions, attempted
        self._reader = transactions.reader(NOBODY)

    async def credential(self, request: Request, token: str) -> model.Credential | None:
        """Return the principal of a bearer token that others issued; None if it is not valid."""
        return None

    @asynccontextmanager
    async def limited(self, *who: str, device: str = "") -> AsyncGenerator[Callable[[], None]]:
        try:
            async with self._throttle.attempt(*who, device=device) as accept:
                yield accept
        except RateLimitExceededError as error:
            raise slow_down(error.retry_after or 1.0) from None

    @asynccontextmanager
    async def _attempt(
        self, request: Request, email: str, device: str = ""
    ) -> AsyncGenerator[Callable[[], None]]:
        try:
            async with self.limited(client_of(request.scope), email, device=device) as accept:
                yield accept
        except AppError as error:
            self._attempted("limited" if isinstance(error, RateLimitedError) else "bad_credentials")
            raise

    async def _begin(
        self, request: Request, minted: model.Minted, keep: Callable[[Unit], Awaitable[object]] | None = None
    ) -> model.Minted:
        who = minted.token.principal

        async def work(unit: Unit) -> None:
            if keep is not None:
                await keep(unit)
            await unit.audit("session.begin", who.actor, detail={"kind": minted.token.kind})

        await self._transactions.write(request, who, work)
        self._attempted("ok")
        return minted


class LocalAccounts(Accounts):
    """Signs in people with local passwords."""

    def __init__(
        self,
        transactions: Transactions,
        *,
        passwords: Passwords | None = None,
        is_local: bool = True,
        **others: Any,
    ) -> None:
        super().__init__(transactions, **others)
        self.passwords = passwords or Passwords()
        self._is_local = is_local

    async def sign_in(
        self, request: Request, credentials: model.Credentials, kind: model.Kind, *, now: datetime
    ) -> model.Minted:
        """Check a password; return a new session or bearer token, or raise, alike for whatever was wrong."""
        account = await postgres.account(self._reader, credentials.email)
        stored = account.password_hash if account else None
        device = self._device(request, account)
        async with self._attempt(request, credentials.email, device) as accept:
            is_right = await self.passwords.verify(stored, credentials.password, is_known=bool(device))
            if not is_right or account is None or stored is None:
                raise wrong_password()
            new = await self.passwords.renew(stored, credentials.password) or stored
            minted = mint(kind, account.principal, now)

            async def keep(unit: Unit) -> None:
                if not await postgres.set_password(unit, account.id, new, old=stored):
                    raise wrong_password()  # It changed during verification.
                await postgres.add_secret(unit, minted.token)

            await self._begin(request, minted, keep)
            accept()
        return replace(minted, device=device_cookie(account.id, new, is_local=self._is_local))

    def _device(self, request: Request, account: model.Account | None) -> str:
        """Return the device's name if it has signed in to this account before, else an empty string."""
        if account is None or account.password_hash is None:
            return ""
        name, _, proof = request.cookies.get(_device_name(is_local=self._is_local), "").partition(".")
        expected = _device_proof(account.id, account.password_hash, name)
        return name if hmac.compare_digest(proof.encode(), expected.encode()) else ""

    async def register(self, request: Request, sent: model.Registration) -> Response:
        new = model.NewUser.model_validate(sent.model_dump())  # As a viewer.
        async with self.limited(client_of(request.scope)):
            return await self.add(request, NOBODY, new, shown=model.Registered)

    async def add(
        self, request: Request, who: Principal, new: model.NewUser, *, shown: type[BaseModel] = model.User
    ) -> Response:
        password_hash = await self.passwords.hash(new.password)

        async def work(unit: Unit) -> Answer:
            user = await postgres.add_user(unit, new, password_hash=password_hash)
            body = shown.model_validate(user, from_attributes=True)
            return Answer.of(201, body, {"ETag": user.etag})

        return await self._transactions.write(request, who, work)


def wrong_password() -> UnauthenticatedError:
    return UnauthenticatedError("Wrong e-mail or password", headers={"WWW-Authenticate": "Bearer"})


def cookie_name(*, is_local: bool) -> str:
    """Return the cookie's name; `__Host-` binds it to this host and TLS, so not in `local`."""
    return "postfacta" if is_local else "__Host-postfacta"


def session_cookie(secret: str, expires_in: timedelta, *, is_local: bool) -> str:
    """Return the `Set-Cookie` of a new session; an empty one that expires at once removes it."""
    return _cookie(cookie_name(is_local=is_local), secret, expires_in, is_local=is_local)


def _cookie(name: str, value: str, expires_in: timedelta, *, is_local: bool) -> str:
    secure = "" if is_local else "; Secure"
    age = max(0, int(expires_in.total_seconds()))
    return f"{name}={value}; Max-Age={age}; Path=/{secure}; HttpOnly; SameSite=Lax"


def device_cookie(user_id: UUID, password_hash: str, *, is_local: bool) -> str:
    """Return the cookie that exempts a device from limits of others, until the password changes."""
    name = secrets.token_urlsafe(16)
    value = f"{name}.{_device_proof(user_id, password_hash, name)}"
    return _cookie(_device_name(is_local=is_local), value, timedelta(days=180), is_local=is_local)


def _device_name(*, is_local: bool) -> str:
    return f"{cookie_name(is_local=is_local)}-device"


def _device_proof(user_id: UUID, password_hash: str, name: str) -> str:
    # Keyed by the stored hash: secret, shared by all processes, and changed with the password.
    text = f"postfacta device\n{user_id}\n{name}"
    return hmac.new(password_hash.encode(), text.encode(), hashlib.sha256).hexdigest()
