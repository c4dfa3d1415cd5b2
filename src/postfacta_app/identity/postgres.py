"""All SQL of accounts, tokens, and reads of the audit log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from uuid import UUID, uuid4

import asyncpg

from postfacta_postgres import Database

from ..db import Unit
from ..principal import Principal, Role
from ..web.paging import Key
from .model import (
    Account,
    AuditEntry,
    AuditQuery,
    Credential,
    Kind,
    Minted,
    NewToken,
    NewUser,
    Session,
    Token,
    User,
    UserChange,
)

_USER = "id, email, display_name, role, disabled_at, version, created_at"
_ACCOUNT = f"""
select {_USER}, password_hash from users where email = $1 and external_sub is null and disabled_at is null"""  # noqa: S608 - only constants of this module
_CREDENTIAL = """
select t.id, t.kind, t.secret_sha256, t.user_id, t.name, t.scopes, t.source, t.created_at, t.last_used_at,
       t.expires_at, t.revoked_at, u.display_name, u.role, u.disabled_at
  from tokens t left join users u on u.id = t.user_id where """
_TOUCH = "update tokens set last_used_at = $2 where id = $1 and (last_used_at is null or last_used_at < $2)"
_USERS = f"""
select {_USER} from users where $1::timestamptz is null or (created_at, id) > ($1, $2::uuid)
 order by created_at, id limit $3"""  # noqa: S608 - only constants of this module
_ADD_USER = f"""
insert into users (id, email, display_name, role, password_hash) values ($1, $2, $3, $4, $5)
on conflict (email) where external_sub is null do nothing returning {_USER}"""  # noqa: S608 - only constants of this module
_EXTERNAL = f"select {_USER} from users where external_sub = $1"  # noqa: S608 - only constants of this module
# Lowered by the database, since its check compares with its own `lower`.
_ADD_EXTERNAL = """
insert into users (id, external_sub, email, display_name, role) values ($1, $2, lower($3), $4, $5)
on conflict (external_sub) do nothing returning id"""
_PERSON = f"""
select {_USER}, password_hash from users where id::text = $1 or email = lower($1)
 order by external_sub is not null, id limit 1"""  # noqa: S608 - only constants of this module
_SESSIONS = """
select id, kind, created_at, last_used_at, expires_at, secret_sha256 = $2 as is_this from tokens
 where user_id = $1 and revoked_at is null and expires_at > $3
   and (kind = 'bearer' or coalesce(last_used_at, created_at) > $3::timestamptz - interval '12 hours')
 order by created_at desc, id"""
_SET_HASH = """
update users set password_hash = $2 where id = $1 and ($3::text is null or password_hash = $3) returning id"""
# Sorted, so that two of these cannot deadlock.
_LOCK = f"""
select {_USER} from users where id = $1 or (role = 'admin' and disabled_at is null) order by id for update"""  # noqa: S608 - only constants of this module
_CHANGE_USER = f"""
update users set role = coalesce($2, role), version = version + 1,
       disabled_at = case when $3::boolean is null then disabled_at when $3 then coalesce(disabled_at, $4) end
 where id = $1 returning {_USER}"""  # noqa: S608 - only constants of this module
_END_SESSIONS = """
update tokens set revoked_at = $2
 where user_id = $1 and revoked_at is null and ($3::uuid is null or id = $3) and secret_sha256 <> $4 returning id"""
_MACHINE = "id, name, prefix, scopes, source, created_by, created_at, last_used_at, expires_at, revoked_at"
_MACHINES = f"""
select {_MACHINE} from tokens
 where kind = 'api' and ($1::timestamptz is null or (created_at, id) > ($1, $2::uuid))
 order by created_at, id limit $3"""  # noqa: S608 - only constants of this module
_ADD_SESSION = """
insert into tokens (id, kind, secret_sha256, user_id, created_at, expires_at) values ($1, $2, $3, $4, $5, $6)"""
_PRUNE = "delete from tokens where user_id = $1 and expires_at <= $2"
_ADD_MACHINE = f"""
insert into tokens (id, kind, secret_sha256, created_by, created_at, expires_at, name, prefix, scopes, source)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) returning {_MACHINE}"""  # noqa: S608 - only constants of this module
_REVOKE = """
update tokens set revoked_at = $2 where id = $1 and kind = 'api' and revoked_at is null returning id"""
_END_SESSION = """
update tokens set revoked_at = $2 where secret_sha256 = $1 and kind <> 'api' and revoked_at is null"""
_LOSSES = """
select (select max(seq) from audit_log) as newest, seq, action = 'incident.change' as hides from (select) one
  left join audit_log on seq > $1
   and (action = any ($2::text[]) or (action = 'incident.change' and detail ? 'visibility'))"""
_LESS = ["session.end", "session.revoke", "token.revoke", "password.change", "password.reset", "user.change"]
_AUDIT = """
select seq, at, actor, action, object, incident_id, detail::text, request_id, host(client) as client
  from audit_log
 where ($1::uuid is null or incident_id = $1) and ($2::text is null or actor = $2)
   and ($3::timestamptz is null or at >= $3) and ($4::timestamptz is null or at < $4)
   and ($5::bigint is null or seq < $5)
 order by seq desc limit $6"""

Row = asyncpg.Record


class PostgresIdentity:
    """Reads through the database, writes inside a unit of work."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._fetch = partial(database.fetch, repeatable=True)
        self._fetchrow = partial(database.fetchrow, repeatable=True)

    async def account(self, email: str) -> Account | None:
        """Find a local account that is not disabled."""
        row = await self._fetchrow(_ACCOUNT, email, operation="account_get")
        return None if row is None else Account(_user(row), row["password_hash"])

    async def person(self, who: UUID | str) -> Account | None:
        """Find a person by id or e-mail address, disabled or not; of several with one address, the local account."""
        row = await self._fetchrow(_PERSON, str(who), operation="user_get")
        return None if row is None else Account(_user(row), row["password_hash"])

    async def sessions(self, user_id: UUID, this: bytes, now: datetime) -> Sequence[Session]:
        args = (user_id, this, now)
        rows = await self._fetch(_SESSIONS, *args, operation="session_list")
        return [Session.model_validate(dict(row)) for row in rows]

    async def credential(self, sha256: bytes, prefix: str | None) -> Credential | None:
        """Find a token by its hash; an API token by its prefix."""
        where, key = ("t.secret_sha256 = $1", sha256) if prefix is None else ("t.prefix = $1", prefix)
        row = await self._fetchrow(_CREDENTIAL + where, key, operation="credential_get")
        return None if row is None else _credential(row)

    async def touch(self, token_id: UUID, now: datetime) -> None:
        await self._database.execute(_TOUCH, token_id, now, operation="token_touch", repeatable=True)

    async def losses(self, after: int) -> tuple[int, Sequence[tuple[int, bool]]]:
        """Read the newest sequence number of the audit log, and later entries that reduce access."""
        rows = await self._fetch(_LOSSES, after, _LESS, operation="audit_losses")
        return rows[0]["newest"] or 0, [(row["seq"], row["hides"]) for row in rows if row["seq"] is not None]

    async def users(self, after: Key | None, limit: int) -> Sequence[User]:
        args = (*(after or (None, None)), limit)
        return [_user(row) for row in await self._fetch(_USERS, *args, operation="user_list")]

    async def tokens(self, after: Key | None, limit: int) -> Sequence[Token]:
        args = (*(after or (None, None)), limit)
        rows = await self._fetch(_MACHINES, *args, operation="token_list")
        return [Token.model_validate(dict(row)) for row in rows]

    async def audit(self, query: AuditQuery, before: int | None) -> Sequence[AuditEntry]:
        """List one entry more than requested, newest first."""
        args = (query.incident, query.actor, query.since, query.until, before, query.limit + 1)
        return [_entry(row) for row in await self._fetch(_AUDIT, *args, operation="audit_list")]

    async def add_user(self, unit: Unit, new: NewUser, password_hash: str) -> User | None:
        """Add a person; None if the address is taken."""
        args = (uuid4(), new.email, new.name, new.role, password_hash)
        row = await unit.fetchrow(_ADD_USER, *args, operation="user_create")
        return None if row is None else _user(row)

    async def external(self, name: str) -> User | None:
        row = await self._fetchrow(_EXTERNAL, name, operation="account_get")
        return None if row is None else _user(row)

    async def add_external(
        self, unit: Unit, name: str, *, email: str, display_name: str, role: Role
    ) -> UUID | None:
        """Add an external account; None if it exists."""
        args = (uuid4(), name, email, display_name, role)
        row = await unit.fetchrow(_ADD_EXTERNAL, *args, operation="user_create")
        return None if row is None else row["id"]

    async def set_password(
        self, unit: Unit, user_id: UUID, password_hash: str, *, old: str | None = None
    ) -> bool:
        """Store a password and lock it until the unit ends; False if it is no longer `old`."""
        args = (user_id, password_hash, old)
        return await unit.fetchrow(_SET_HASH, *args, operation="user_password") is not None

    async def end_sessions(
        self, unit: Unit, user_id: UUID, now: datetime, *, only: UUID | None = None, keep: bytes = b""
    ) -> int:
        """End a person's sessions and bearer tokens, or one, except the one with hash `keep`; return the count."""
        return len(await unit.fetch(_END_SESSIONS, user_id, now, only, keep, operation="session_end"))

    async def lock_user(self, unit: Unit, user_id: UUID) -> tuple[User | None, Sequence[User]]:
        """Lock a person and all enabled administrators until the transaction ends."""
        locked = [_user(row) for row in await unit.fetch(_LOCK, user_id, operation="user_lock")]
        admins = [user for user in locked if user.role is Role.ADMIN and user.disabled_at is None]
        return next((user for user in locked if user.id == user_id), None), admins

    async def change_user(self, unit: Unit, user_id: UUID, change: UserChange, *, now: datetime) -> User:
        """Change a locked person; disabling ends all sessions."""
        sent = change.model_dump(exclude_unset=True)
        args = (user_id, sent.get("role"), sent.get("disabled"), now)
        row = await unit.fetchrow(_CHANGE_USER, *args, operation="user_change")
        if row is None:
            raise LookupError(user_id)
        if sent.get("disabled"):
            await self.end_sessions(unit, user_id, now)
        return _user(row)

    async def add_secret(self, unit: Unit, token: Credential) -> None:
        """Store the hash of a session or bearer token, and drop this person's expired ones."""
        owner = token.principal.user_id
        await unit.execute(_PRUNE, owner, token.created_at, operation="token_prune")
        args = (token.id, token.kind, token.secret_sha256, owner, token.created_at, token.expires_at)
        await unit.execute(_ADD_SESSION, *args, operation="session_create")

    async def add_token(self, unit: Unit, new: NewToken, minted: Minted) -> Token:
        token = minted.token
        stored = (token.id, token.kind, token.secret_sha256, token.principal.user_id, token.created_at)
        said = (token.expires_at, new.name, minted.prefix, sorted(new.scopes), new.source)
        row = await unit.fetchrow(_ADD_MACHINE, *stored, *said, operation="token_create")
        return Token.model_validate(dict(row or {}))

    async def revoke_token(self, unit: Unit, token_id: UUID, now: datetime) -> bool:
        """Revoke an API token; False if there is none, or it is already revoked."""
        return await unit.fetchrow(_REVOKE, token_id, now, operation="token_revoke") is not None

    async def revoke_secret(self, unit: Unit, sha256: bytes, now: datetime) -> None:
        """End the session or bearer token with this hash, if any."""
        await unit.execute(_END_SESSION, sha256, now, operation="session_end")


def _user(row: Row) -> User:
    return User.model_validate({name: row[name] for name in User.model_fields})


def _entry(row: Row) -> AuditEntry:
    detail = row["detail"]
    return AuditEntry.model_validate(dict(row) | {"detail": None if detail is None else json.loads(detail)})


def _credential(row: Row) -> Credential:
    if row["kind"] == Kind.API:
        scopes = frozenset(row["scopes"])
        owner = Principal(actor=f"token:{row['id']}", name=row["name"], scopes=scopes, source=row["source"])
    else:
        user_id = row["user_id"]
        owner = Principal(
            actor=f"user:{user_id}", name=row["display_name"], user_id=user_id, role=Role(row["role"])
        )
    same = ("id", "secret_sha256", "created_at", "last_used_at", "expires_at", "revoked_at", "disabled_at")
    return Credential(kind=Kind(row["kind"]), principal=owner, **{name: row[name] for name in same})
