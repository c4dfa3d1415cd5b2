"""Accounts that are kept here.

How people sign in to them, their passwords and secrets, their SQL.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4

import anyio.to_thread
from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError, VerifyMismatchError
from pydantic import TypeAdapter
from starlette.requests import Request

from postfacta_core.errors import BulkheadFullError, LoadShedError, RateLimitExceededError
from postfacta_core.guards.bulkhead import Bulkhead
from postfacta_web.sign_in import SignInThrottle, client_of

from ..db import Query, Transactions, Unit, row, rows
from ..errors import (
    AppError,
    ConflictError,
    NotFoundError,
    RateLimitedError,
    UnauthenticatedError,
    slow_down,
)
from ..principal import NOBODY, Principal, Role
from ..web.body import Key
from ..web.routes import Call
from . import model

T = TypeVar("T")

# SQL: what changes accounts and tokens writes its audit row.

_USER: Final = ", ".join(model.User.model_fields)
_MACHINE: Final = ", ".join(model.Token.model_fields)
_PERSON = f"select {_USER}, password_hash from users where "  # noqa: S608 - only constants of our modules
_LOCAL = _PERSON + "email = lower($1) and external_sub is null and disabled_at is null"
_EXTERNAL = _PERSON + "external_sub = $1"
_ANY = _PERSON + "id::text = $1 or email = lower($1) order by external_sub is not null, id limit 1"
_CREDENTIAL = """
select t.id, t.kind, t.secret_sha256, t.created_at, t.last_used_at, t.expires_at, t.revoked_at,
       u.disabled_at, coalesce('user:' || u.id, 'token:' || t.id) as actor,
       coalesce(u.display_name, t.name) as name, t.user_id, u.role, t.scopes, t.source
  from tokens t
  left join users u on u.id = t.user_id
 where """
_STORED = TypeAdapter(model.Credential)
_TOUCH = """
update tokens
   set last_used_at = $2
 where id = $1
   and (last_used_at is null or last_used_at < $2)"""
_PAGE = (
    "($1::timestamptz is null or (created_at, id) > ($1, $2::uuid)) order by created_at, id"
    " limit $3"
)
_USERS = f"select {_USER} from users where {_PAGE}"  # noqa: S608 - only constants of our modules
_MACHINES = f"select {_MACHINE} from tokens where kind = 'api' and {_PAGE}"  # noqa: S608 - only constants of our modules
# Lowered by the database, since its check compares with its own `lower`.
_ADD_USER = f"""
insert into users (id, email, display_name, role, password_hash, external_sub)
values ($1, lower($2), $3, $4, $5, $6)
on conflict do nothing
returning {_USER}"""  # noqa: S608 - only constants of our modules
_SESSIONS = """
select id, kind, created_at, last_used_at, expires_at,
       id is not distinct from $2::uuid as is_this
  from tokens
 where user_id = $1
   and revoked_at is null
   and expires_at > $3
   and (kind = 'bearer'
        or coalesce(last_used_at, created_at) > $3::timestamptz - interval '12 hours')
 order by created_at desc, id"""
_SET_HASH = """
update users
   set password_hash = $2
 where id = $1
   and ($3::text is null or password_hash = $3)
returning id"""
# Sorted, so that two of these cannot deadlock.
_LOCK = f"""
select {_USER}
  from users
 where id = $1
    or (role = 'admin' and disabled_at is null)
 order by id
   for update"""  # noqa: S608 - only constants of our modules
_CHANGE_USER = f"""
update users
   set role = coalesce($2, role),
       version = version + 1,
       disabled_at = case when $3::boolean is null then disabled_at
                          when $3 then coalesce(disabled_at, now()) end
 where id = $1
returning {_USER}"""  # noqa: S608 - only constants of our modules
_END_SESSIONS = """
update tokens
   set revoked_at = now()
 where user_id = $1
   and revoked_at is null
   and ($2::uuid is null or id = $2)
   and id is distinct from $3::uuid
returning id"""
_ADD_SESSION = """
with expired as (delete from tokens where user_id = $4 and expires_at <= $5)
insert into tokens (id, kind, secret_sha256, user_id, created_at, expires_at)
values ($1, $2, $3, $4, $5, $6)"""
_ADD_MACHINE = f"""
insert into tokens (id, kind, secret_sha256, created_by, created_at, expires_at,
                    name, prefix, scopes, source)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
returning {_MACHINE}"""  # noqa: S608 - only constants of our modules
_REVOKE = """
update tokens
   set revoked_at = now()
 where id = $1
   and kind = 'api'
   and revoked_at is null
returning id"""
# Read from the end: there is no index by time.
_LOSSES = """
select seq, action = 'incident.change' as hides
  from audit_log
 where seq > coalesce((
         select seq
           from audit_log
          where at < now() - make_interval(secs => $1)
          order by seq desc
          limit 1), 0)
   and (action = any ($2::text[])
        or (action = 'incident.change' and detail ? 'visibility'))"""
_LOSING_ACTIONS = [
    "session.end",
    "session.revoke",
    "token.revoke",
    "password.change",
    "password.reset",
    "user.change",
]
_AUDIT = """
select seq, at, actor, action, object, incident_id, detail::text, request_id, host(client) as client
  from audit_log
 where ($1::uuid is null or incident_id = $1)
   and ($2::text is null or actor = $2)
   and ($3::timestamptz is null or at >= $3)
   and ($4::timestamptz is null or at < $4)
   and ($5::bigint is null or seq < $5)
 order by seq desc
 limit $6"""


async def person(q: Query, key: UUID | str) -> model.Account | None:
    """Find a person by id or e-mail address, disabled or not.

    Of several with one address, the local account.
    """
    return await row(q, model.Account, _ANY, str(key), operation="user_get")


async def external(q: Query, name: str) -> model.Account | None:
    return await row(q, model.Account, _EXTERNAL, name, operation="account_get")


async def users(q: Query, after: Key | None, limit: int) -> Sequence[model.User]:
    return await rows(q, model.User, _USERS, *(after or (None, None)), limit, operation="user_list")


async def add_user(unit: Unit, new: model.NewUser, *, password_hash: str) -> model.User:
    """Add a person; raise `ConflictError` if the address is taken."""
    user = await _add(unit, new.email, new.name, new.role, password_hash, None)
    if user is None:
        raise ConflictError("An account with this e-mail address already exists")
    return user


def external_name(issuer: str, subject: UUID) -> str:
    """Return the permanent name of an external account; e-mail addresses can change owners."""
    return f"{issuer} {subject}"


async def meet(unit: Unit, name: str, *, email: str, display_name: str, role: Role) -> None:
    """Add an external account, unless it is there."""
    await _add(unit, email, display_name, role, None, name)


async def _add(unit: Unit, *values: str | None) -> model.User | None:
    user = await row(unit, model.User, _ADD_USER, uuid4(), *values, operation="user_create")
    if user is not None:
        await unit.audit("user.create", user.actor, detail={"role": user.role})
    return user


async def lock_user(unit: Unit, user_id: UUID) -> tuple[model.User, list[UUID]]:
    """Lock a person and the enabled administrators; return the person and their ids."""
    locked = await rows(unit, model.User, _LOCK, user_id, operation="user_lock")
    person = next((user for user in locked if user.id == user_id), None)
    if person is None:
        raise NotFoundError("No such id")
    admins = [user.id for user in locked if user.role is Role.ADMIN and user.disabled_at is None]
    return person, admins


async def change_user(
    unit: Unit,
    user_id: UUID,
    change: model.UserChange,
    *,
    matches: Callable[[str], object] = lambda _: None,
) -> model.User:
    """Change a person; disabling ends all sessions.

    Raise if no enabled administrator would be left.
    """
    old, admins = await lock_user(unit, user_id)
    matches(old.etag)
    members = change.model_dump(exclude_unset=True)
    is_loss = members.get("disabled") or members.get("role", Role.ADMIN) is not Role.ADMIN
    if admins == [user_id] and is_loss:
        raise ConflictError("This is the last enabled administrator; make another person one first")
    args = (user_id, members.get("role"), members.get("disabled"))
    (changed,) = await rows(unit, model.User, _CHANGE_USER, *args, operation="user_change")
    if members.get("disabled"):
        await unit.execute(_END_SESSIONS, user_id, None, None, operation="session_end")
    await unit.audit("user.change", old.actor, detail=members)
    return changed


async def set_password(unit: Unit, user_id: UUID, password_hash: str, *, old: str | None) -> bool:
    """Store a password and lock it until the unit ends; False if it is no longer `old`."""
    return bool(await unit.fetch(_SET_HASH, user_id, password_hash, old, operation="user_password"))


async def change_password(
    unit: Unit, user_id: UUID, hashed: str, *, old: str | None = None, keep: UUID | None = None
) -> None:
    """Store a password, as a reset if no `old` is given, and end all sessions but `keep`.

    Raise if it is not `old`.
    """
    if not await set_password(unit, user_id, hashed, old=old):
        raise ConflictError("The password was just changed elsewhere")
    await end_sessions(unit, user_id, "password.change" if old else "password.reset", keep=keep)


async def credential(q: Query, sha256: bytes, prefix: str | None) -> model.Credential | None:
    """Return the token or session of a secret, found by the hash or, for an API token, its prefix.

    The hash is compared later, in constant time.
    """
    if prefix is None:
        query = _CREDENTIAL + "t.secret_sha256 = $1"
        records = await q.fetch(query, sha256, operation="credential_get")
    else:
        query = _CREDENTIAL + "t.prefix = $1"
        records = await q.fetch(query, prefix, operation="credential_get")
    if not records:
        return None
    record = dict(records[0])
    return _STORED.validate_python({**record, "principal": record})


async def touch(q: Query, token_id: UUID, now: datetime) -> None:
    await q.fetch(_TOUCH, token_id, now, operation="token_touch")


async def sessions(
    q: Query, user_id: UUID, *, current: UUID | None, now: datetime
) -> Sequence[model.Session]:
    return await rows(q, model.Session, _SESSIONS, user_id, current, now, operation="session_list")


async def add_secret(unit: Unit, token: model.Credential) -> None:
    """Store the hash of a session or bearer token, and drop this person's expired ones."""
    identity = (token.id, token.kind, token.secret_sha256, token.principal.user_id)
    await unit.execute(
        _ADD_SESSION, *identity, token.created_at, token.expires_at, operation="session_create"
    )


async def end_sessions(
    unit: Unit, user_id: UUID, action: str, *, only: UUID | None = None, keep: UUID | None = None
) -> int:
    """End a person's sessions and bearer tokens, or `only` one, but never `keep`.

    Return the count.
    """
    ended = await unit.fetch(_END_SESSIONS, user_id, only, keep, operation="session_end")
    await unit.audit(action, f"user:{user_id}", detail={"sessions": len(ended)})
    return len(ended)


async def tokens(q: Query, after: Key | None, limit: int) -> Sequence[model.Token]:
    return await rows(
        q, model.Token, _MACHINES, *(after or (None, None)), limit, operation="token_list"
    )


async def create_token(unit: Unit, new: model.NewToken, now: datetime) -> model.IssuedToken:
    """Add an API token; its secret is known to the caller alone."""
    minted = mint(model.Kind.API, unit.principal, now, until=new.expires_at)
    scopes = sorted(new.scopes)
    token = minted.token
    stored = (token.id, token.kind, token.secret_sha256, token.principal.user_id, token.created_at)
    details = (token.expires_at, new.name, minted.prefix, scopes, new.source)
    (added,) = await rows(
        unit, model.Token, _ADD_MACHINE, *stored, *details, operation="token_create"
    )
    await unit.audit("token.create", f"token:{token.id}", detail={"scopes": scopes})
    return model.IssuedToken(**added.model_dump(), secret=minted.secret)


async def revoke_token(unit: Unit, token_id: UUID) -> bool:
    """Revoke an API token; False if there is none, or it is already revoked."""
    if not await unit.fetch(_REVOKE, token_id, operation="token_revoke"):
        return False
    await unit.audit("token.revoke", f"token:{token_id}")
    return True


async def losses(q: Query, seconds: float) -> Mapping[int, bool]:
    """Read which entries of the last seconds reduce access, and whether they hide an incident."""
    entries = await q.fetch(_LOSSES, seconds, _LOSING_ACTIONS, operation="audit_losses")
    return {entry["seq"]: entry["hides"] for entry in entries}


async def audit(
    q: Query, query: model.AuditQuery, before: int | None
) -> Sequence[model.AuditEntry]:
    args = (query.incident, query.actor, query.since, query.until, before, query.limit + 1)
    return await rows(q, model.AuditEntry, _AUDIT, *args, operation="audit_list")


# Passwords and secrets


class Passwords:
    """Hashes passwords with argon2id in worker threads; known devices have a queue of their own."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        # Each hash takes 64 MiB, and under a second; requests that would wait longer get 429. They
        # bound all of it: a slot in the limit on requests under way would only be missing to
        # others. The wait leaves two of a request's 5 seconds for the hash; a hash that ends later
        # has no use.
        bounds: dict[str, Any] = {"max_wait": 3.0, "lends": True, "observer": None}
        self._known_devices = Bulkhead("passwords-known", 1, max_waiting=19, **bounds)
        self._other_devices = Bulkhead("passwords", 2, max_waiting=18, **bounds)
        # Unknown accounts are verified against this hash, so that timing reveals nothing.
        self._nobody = _hash_of_nobody(self._hasher)

    async def hash(self, password: str) -> str:
        return await self._work(lambda: self._hasher.hash(password))

    async def verify(self, stored: str | None, password: str, *, is_known: bool = False) -> bool:
        """Return whether the password matches; without a stored hash, False after the same time."""

        def matches() -> bool:
            try:
                return self._hasher.verify(stored or self._nobody, password)
            except (VerifyMismatchError, InvalidHashError):
                return False

        return await self._work(matches, is_known=is_known) and stored is not None

    async def renew(self, stored: str, password: str) -> str | None:
        return await self.hash(password) if self._hasher.check_needs_rehash(stored) else None

    async def _work(self, work: Callable[[], T], *, is_known: bool = False) -> T:
        try:
            bulkhead = self._known_devices if is_known else self._other_devices
            return await bulkhead.call(anyio.to_thread.run_sync, work)
        except BulkheadFullError:
            raise slow_down(1.0) from None
        except Argon2Error as error:
            # There is no memory for it: the password is neither right nor wrong.
            raise LoadShedError("passwords", 1.0) from error


def _hash_of_nobody(hasher: PasswordHasher) -> str:
    """Return random bytes in the form of a hash, which is verified in the time of any other."""
    costs = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
    salt, tag = (
        base64.b64encode(secrets.token_bytes(length)).decode().rstrip("=")
        for length in (hasher.salt_len, hasher.hash_len)
    )
    # 19 is 0x13, the version that RFC 9106 defines.
    return f"$argon2{hasher.type.name.lower()}$v=19${costs}${salt}${tag}"


SECRET: Final = re.compile(r"(?:pf_(?P<prefix>[A-Za-z0-9_-]{8})_)?[A-Za-z0-9_-]{43}")
"""The format of a secret; nothing else is looked up in the database."""

_LIVES: Final = {
    model.Kind.SESSION: timedelta(days=7),
    model.Kind.BEARER: timedelta(hours=24),
    model.Kind.API: timedelta(days=365),
}


def mint(
    kind: model.Kind, owner: Principal, now: datetime, *, until: datetime | None = None
) -> model.Minted:
    """Generate a secret of 256 random bits; an API token also gets a prefix for lookup."""
    prefix = secrets.token_urlsafe(6) if kind is model.Kind.API else ""
    secret = (f"pf_{prefix}_" if prefix else "") + secrets.token_urlsafe(32)
    end = until or now + _LIVES[kind]
    token = model.Credential(
        id=uuid4(),
        kind=kind,
        secret_sha256=digest(secret),
        principal=owner,
        created_at=now,
        expires_at=end,
    )
    return model.Minted(secret, token, prefix)


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def cookie_name(*, is_local: bool) -> str:
    """Return the cookie's name; `__Host-` binds it to this host and TLS, so not in `local`."""
    return "postfacta" if is_local else "__Host-postfacta"


def session_cookie(value: str, expires_in: timedelta, *, is_local: bool, ending: str = "") -> str:
    """Return the `Set-Cookie` of a new session; an empty one that expires at once removes it."""
    secure = "" if is_local else "; Secure"
    age = max(0, int(expires_in.total_seconds()))
    name = cookie_name(is_local=is_local) + ending
    return f"{name}={value}; Max-Age={age}; Path=/{secure}; HttpOnly; SameSite=Lax"


# Sign-in

# The ending of the cookie that exempts a device from limits of others, until the password changes.
_DEVICE: Final = "-device"


class Accounts:
    """What both ways to sign in have in common.

    `attempted` is called with the outcome of each attempt.
    """

    def __init__(
        self,
        transactions: Transactions,
        *,
        throttle: SignInThrottle | None = None,
        attempted: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._throttle = throttle or SignInThrottle(uncounted=RateLimitedError, observer=None)
        self._transactions = transactions
        self._attempted = attempted
        self._reader = transactions.reader(NOBODY)

    async def credential(self, request: Request, token: str) -> model.Credential | None:
        """Return the principal of a bearer token that others issued; None if it is not valid."""
        return None

    async def sign_in(self, call: Call, sent: model.Credentials, kind: model.Kind) -> model.Minted:
        """Check a password.

        Return a new session or bearer token, or raise, alike for whatever was wrong.
        """
        raise NotImplementedError

    @asynccontextmanager
    async def limited(
        self, *clients: str, device: str = "", attempted: Callable[[str], object] = lambda _: None
    ) -> AsyncGenerator[Callable[[], None]]:
        try:
            async with self._throttle.attempt(*clients, device=device) as accept:
                yield accept
        except RateLimitExceededError as error:
            attempted("limited")
            raise slow_down(error.retry_after or 1.0) from None
        except AppError as error:
            attempted("limited" if isinstance(error, RateLimitedError) else "bad_credentials")
            raise

    async def _begin(
        self,
        request: Request,
        minted: model.Minted,
        store: Callable[[Unit], Awaitable[object]] | None = None,
    ) -> model.Minted:
        principal = minted.token.principal

        async def work(unit: Unit) -> None:
            if store is not None:
                await store(unit)
            await unit.audit("session.begin", principal.actor, detail={"kind": minted.token.kind})

        await self._transactions.write(request, principal, work)
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
        **options: Any,
    ) -> None:
        super().__init__(transactions, **options)
        self.passwords = passwords or Passwords()
        self._is_local = is_local

    async def sign_in(self, call: Call, sent: model.Credentials, kind: model.Kind) -> model.Minted:
        account = await row(
            self._reader, model.Account, _LOCAL, sent.email, operation="account_get"
        )
        stored = account.password_hash if account else None
        cookie = call.request.cookies.get(cookie_name(is_local=self._is_local) + _DEVICE, "")
        device = cookie.partition(".")[0]
        expected = _device(account.id, stored, device) if account and stored else ""
        if not hmac.compare_digest(cookie.encode(), expected.encode()):
            device = ""
        clients = (client_of(call.request.scope), sent.email)
        async with self.limited(*clients, device=device, attempted=self._attempted) as accept:
            is_right = await self.passwords.verify(stored, sent.password, is_known=bool(device))
            if not is_right or account is None or stored is None:
                raise wrong_password()
            new = await self.passwords.renew(stored, sent.password) or stored
            minted = mint(kind, account.principal, call.now)

            async def store(unit: Unit) -> None:
                if not await set_password(unit, account.id, new, old=stored):
                    raise wrong_password()  # It changed during verification.
                await add_secret(unit, minted.token)

            await self._begin(call.request, minted, store)
            accept()
        value = _device(account.id, new, secrets.token_urlsafe(16))
        life = timedelta(days=180)
        return replace(
            minted, device=session_cookie(value, life, is_local=self._is_local, ending=_DEVICE)
        )


def wrong_password() -> AppError:
    return UnauthenticatedError("Wrong e-mail or password", headers={"WWW-Authenticate": "Bearer"})


def _device(user_id: UUID, password_hash: str, name: str) -> str:
    """Return the name of a device, with the proof that it has signed in to this account before."""
    # Keyed by the stored hash: secret, shared by all processes, and changed with the password.
    text = f"postfacta device\n{user_id}\n{name}"
    return f"{name}.{hmac.new(password_hash.encode(), text.encode(), hashlib.sha256).hexdigest()}"
