"""The SQL of accounts, tokens and the audit log; what changes them writes its audit row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4

from pydantic import BaseModel

from ..db import Query, Unit
from ..errors import ConflictError, NotFoundError
from ..principal import Principal, Role
from ..web.paging import Key
from . import model

M = TypeVar("M", bound=BaseModel)

_USER: Final = ", ".join(model.User.model_fields)
_ACCOUNT = f"""
select {_USER}, password_hash from users where email = $1 and external_sub is null and disabled_at is null"""  # noqa: S608 - only constants of our modules
_CREDENTIAL = """
select t.id, t.kind, t.secret_sha256, t.user_id, t.name, t.scopes, t.source, t.created_at, t.last_used_at,
       t.expires_at, t.revoked_at, u.display_name, u.role, u.disabled_at
  from tokens t left join users u on u.id = t.user_id where """
_TOUCH = "update tokens set last_used_at = $2 where id = $1 and (last_used_at is null or last_used_at < $2)"
_USERS = f"""
select {_USER} from users where $1::timestamptz is null or (created_at, id) > ($1, $2::uuid)
 order by created_at, id limit $3"""  # noqa: S608 - only constants of our modules
# Lowered by the database, since its check compares with its own `lower`.
_ADD_USER = f"""
insert into users (id, email, display_name, role, password_hash, external_sub) values ($1, lower($2), $3, $4, $5, $6)
on conflict do nothing returning {_USER}"""  # noqa: S608 - only constants of our modules
_EXTERNAL = f"select {_USER} from users where external_sub = $1"  # noqa: S608 - only constants of our modules
_PERSON = f"""
select {_USER}, password_hash from users where id::text = $1 or email = lower($1)
 order by external_sub is not null, id limit 1"""  # noqa: S608 - only constants of our modules
_SESSIONS = """
select id, kind, created_at, last_used_at, expires_at, secret_sha256 = $2 as is_this from tokens
 where user_id = $1 and revoked_at is null and expires_at > $3
   and (kind = 'bearer' or coalesce(last_used_at, created_at) > $3::timestamptz - interval '12 hours')
 order by created_at desc, id"""
_SET_HASH = """
update users set password_hash = $2 where id = $1 and ($3::text is null or password_hash = $3) returning id"""
# Sorted, so that two of these cannot deadlock.
_LOCK = f"""
select {_USER} from users where id = $1 or (role = 'admin' and disabled_at is null) order by id for update"""  # noqa: S608 - only constants of our modules
_CHANGE_USER = f"""
update users set role = coalesce($2, role), version = version + 1,
       disabled_at = case when $3::boolean is null then disabled_at when $3 then coalesce(disabled_at, $4) end
 where id = $1 returning {_USER}"""  # noqa: S608 - only constants of our modules
_END_SESSIONS = """
update tokens set revoked_at = $2
 where user_id = $1 and revoked_at is null and ($3::uuid is null or id = $3) and secret_sha256 <> $4 returning id"""
_MACHINE: Final = ", ".join(model.Token.model_fields)
_MACHINES = f"""
select {_MACHINE} from tokens
 where kind = 'api' and ($1::timestamptz is null or (created_at, id) > ($1, $2::uuid))
 order by created_at, id limit $3"""  # noqa: S608 - only constants of our modules
_ADD_SESSION = """
insert into tokens (id, kind, secret_sha256, user_id, created_at, expires_at) values ($1, $2, $3, $4, $5, $6)"""
_PRUNE = "delete from tokens where user_id = $1 and expires_at <= $2"
_ADD_MACHINE = f"""
insert into tokens (id, kind, secret_sha256, created_by, created_at, expires_at, name, prefix, scopes, source)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) returning {_MACHINE}"""  # noqa: S608 - only constants of our modules
_REVOKE = """
update tokens set revoked_at = $2 where id = $1 and kind = 'api' and revoked_at is null returning id"""
_END_SESSION = """
update tokens set revoked_at = $2 where secret_sha256 = $1 and kind <> 'api' and revoked_at is null"""
# Read from the end: there is no index by time.
_LOSSES = """
select seq, action = 'incident.change' as hides from audit_log
 where seq > coalesce((select seq from audit_log where at < now() - make_interval(secs => $1) order by seq desc limit 1), 0)
   and (action = any ($2::text[]) or (action = 'incident.change' and detail ? 'visibility'))"""
_LESS = ["session.end", "session.revoke", "token.revoke", "password.change", "password.reset", "user.change"]
_AUDIT = """
select seq, at, actor, action, object, incident_id, detail::text, request_id, host(client) as client
  from audit_log
 where ($1::uuid is null or incident_id = $1) and ($2::text is null or actor = $2)
   and ($3::timestamptz is null or at >= $3) and ($4::timestamptz is null or at < $4)
   and ($5::bigint is null or seq < $5)
 order by seq desc limit $6"""


async def _all(q: Query, of: type[M], operation: str, *query: Any) -> list[M]:
    return [of.model_validate(dict(row)) for row in await q.fetch(*query, operation=operation)]


async def _one(q: Query, of: type[M], operation: str, *query: Any) -> M | None:
    return next(iter(await _all(q, of, operation, *query)), None)


async def account(q: Query, email: str) -> model.Account | None:
    return await _one(q, model.Account, "account_get", _ACCOUNT, email)


async def person(q: Query, who: UUID | str) -> model.Account | None:
    """Find a person by id or e-mail address, disabled or not; of several with one address, the local account."""
    return await _one(q, model.Account, "user_get", _PERSON, str(who))


async def external(q: Query, name: str) -> model.User | None:
    return await _one(q, model.User, "account_get", _EXTERNAL, name)


async def users(q: Query, after: Key | None, limit: int) -> Sequence[model.User]:
    return await _all(q, model.User, "user_list", _USERS, *(after or (None, None)), limit)


async def add_user(unit: Unit, new: model.NewUser, *, password_hash: str) -> model.User:
    """Add a person; raise `ConflictError` if the address is taken."""
    user = await _add(unit, new.email, new.name, new.role, password_hash, None)
    if user is None:
        raise ConflictError("An account with this e-mail address already exists")
    return user


def external_name(issuer: str, subject: UUID) -> str:
    """Return the permanent name of an external account; e-mail addresses can change owners."""
    return f"{issuer} {subject}"


async def meet(unit: Unit, name: str, new: model.Newcomer) -> None:
    await _add(unit, new.email, new.display_name, new.role, None, name)


async def _add(unit: Unit, *given: str | None) -> model.User | None:
    user = await _one(unit, model.User, "user_create", _ADD_USER, uuid4(), *given)
    if user is not None:
        await unit.audit("user.create", user.actor, detail={"role": user.role})
    return user


async def change_user(
    unit: Unit,
    user_id: UUID,
    wish: model.UserChange,
    *,
    now: datetime,
    matches: Callable[[str], object] = lambda _etag: None,
) -> model.User:
    """Change a person; disabling ends all sessions. Raise if no enabled administrator would be left."""
    locked = await _all(unit, model.User, "user_lock", _LOCK, user_id)
    old = next((user for user in locked if user.id == user_id), None)
    if old is None:
        raise NotFoundError("No such id")
    matches(old.etag)
    model.keep_an_admin(old, wish, [it for it in locked if it.role is Role.ADMIN and it.disabled_at is None])
    sent = wish.model_dump(exclude_unset=True)
    args = (user_id, sent.get("role"), sent.get("disabled"), now)
    (changed,) = await _all(unit, model.User, "user_change", _CHANGE_USER, *args)
    if sent.get("disabled"):
        await end_sessions(unit, user_id, now)
    await unit.audit("user.change", old.actor, detail=sent)
    return changed


async def set_password(unit: Unit, user_id: UUID, password_hash: str, *, old: str | None = None) -> bool:
    """Store a password and lock it until the unit ends; False if it is no longer `old`."""
    return bool(await unit.fetch(_SET_HASH, user_id, password_hash, old, operation="user_password"))


async def reset_password(unit: Unit, user: model.User, *, hashed: str, now: datetime) -> None:
    await set_password(unit, user.id, hashed)
    ended = await end_sessions(unit, user.id, now)
    await unit.audit("password.reset", user.actor, detail={"sessions": ended})


async def credential(q: Query, sha256: bytes, prefix: str | None) -> model.Credential | None:
    where, key = ("t.secret_sha256 = $1", sha256) if prefix is None else ("t.prefix = $1", prefix)
    found = await q.fetch(_CREDENTIAL + where, key, operation="credential_get")
    if not found:
        return None
    row = found[0]
    if row["kind"] == model.Kind.API:
        scopes = frozenset(row["scopes"])
        owner = Principal(actor=f"token:{row['id']}", name=row["name"], scopes=scopes, source=row["source"])
    else:
        user_id = row["user_id"]
        owner = Principal(
            actor=f"user:{user_id}", name=row["display_name"], user_id=user_id, role=Role(row["role"])
        )
    same = ("id", "secret_sha256", "created_at", "last_used_at", "expires_at", "revoked_at", "disabled_at")
    return model.Credential(
        kind=model.Kind(row["kind"]), principal=owner, **{name: row[name] for name in same}
    )


async def touch(q: Query, token_id: UUID, now: datetime) -> None:
    await q.fetch(_TOUCH, token_id, now, operation="token_touch")


async def sessions(q: Query, user_id: UUID, *, this: bytes, now: datetime) -> Sequence[model.Session]:
    return await _all(q, model.Session, "session_list", _SESSIONS, user_id, this, now)


async def add_secret(unit: Unit, token: model.Credential) -> None:
    """Store the hash of a session or bearer token, and drop this person's expired ones."""
    owner = token.principal.user_id
    await unit.execute(_PRUNE, owner, token.created_at, operation="token_prune")
    args = (token.id, token.kind, token.secret_sha256, owner, token.created_at, token.expires_at)
    await unit.execute(_ADD_SESSION, *args, operation="session_create")


async def end_sessions(
    unit: Unit, user_id: UUID, now: datetime, *, only: UUID | None = None, keep: bytes = b""
) -> int:
    """End a person's sessions and bearer tokens, or one, except the one with hash `keep`; return the count."""
    return len(await unit.fetch(_END_SESSIONS, user_id, now, only, keep, operation="session_end"))


async def revoke_sessions(
    unit: Unit, user: model.User, now: datetime, *, only: UUID | None = None, keep: bytes = b""
) -> int:
    """End sessions as `end_sessions` does, with an audit row."""
    ended = await end_sessions(unit, user.id, now, only=only, keep=keep)
    await unit.audit("session.revoke", user.actor, detail={"sessions": ended})
    return ended


async def revoke_secret(unit: Unit, sha256: bytes, now: datetime) -> None:
    await unit.execute(_END_SESSION, sha256, now, operation="session_end")


async def tokens(q: Query, after: Key | None, limit: int) -> Sequence[model.Token]:
    return await _all(q, model.Token, "token_list", _MACHINES, *(after or (None, None)), limit)


async def add_token(unit: Unit, new: model.NewToken, minted: model.Minted) -> model.Token:
    token = minted.token
    stored = (token.id, token.kind, token.secret_sha256, token.principal.user_id, token.created_at)
    said = (token.expires_at, new.name, minted.prefix, sorted(new.scopes), new.source)
    (added,) = await _all(unit, model.Token, "token_create", _ADD_MACHINE, *stored, *said)
    await unit.audit("token.create", f"token:{token.id}", detail={"scopes": sorted(new.scopes)})
    return added


async def revoke_token(unit: Unit, token_id: UUID, now: datetime) -> bool:
    """Revoke an API token; False if there is none, or it is already revoked."""
    if not await unit.fetch(_REVOKE, token_id, now, operation="token_revoke"):
        return False
    await unit.audit("token.revoke", f"token:{token_id}")
    return True


async def losses(q: Query, seconds: float) -> Mapping[int, bool]:
    """Read which entries of the last seconds reduce access, and whether they hide an incident."""
    rows = await q.fetch(_LOSSES, seconds, _LESS, operation="audit_losses")
    return {row["seq"]: row["hides"] for row in rows}


async def audit(q: Query, query: model.AuditQuery, before: int | None) -> Sequence[model.AuditEntry]:
    args = (query.incident, query.actor, query.since, query.until, before, query.limit + 1)
    return await _all(q, model.AuditEntry, "audit_list", _AUDIT, *args)
