"""Give a write one effect, however often it is sent.

Its answer is stored under its key, in its own transaction.

A second request with the same key waits on the unique index of the first one's row. If the first
commits, its stored answer is returned, byte for byte; if it rolls back, or its process dies, the
second takes its place.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from postfacta_core.errors import InvalidInputError, LockTimeoutError

from .database import Connection, Database

KEYS_TABLE: Final = """
create table idempotency_keys (
  principal text not null,
  key text not null check (char_length(key) between 1 and 255),
  request_sha256 bytea not null,
  status int,
  headers jsonb,
  body bytea,
  created_at timestamptz not null default now(),
  primary key (principal, key)
);
create index idempotency_keys_age on idempotency_keys (created_at)"""
"""The table of the keys, for a migration of yours."""

_CLAIM: Final = """
insert into idempotency_keys (principal, key, request_sha256) values ($1, $2, $3)
on conflict (principal, key) do nothing returning true"""
_STORED: Final = """
select request_sha256, status, headers::text, body
from idempotency_keys where principal = $1 and key = $2"""
_STORE: Final = """
update idempotency_keys set status = $3, headers = $4::text::jsonb, body = $5
where principal = $1 and key = $2"""
_PRUNE: Final = """
delete from idempotency_keys where (principal, key) in (
  select principal, key from idempotency_keys where created_at < now() - interval '24 hours'
   order by created_at limit $1 for update skip locked)"""


class KeyInUseError(LockTimeoutError):
    """The first request with this key is under way for longer than a lock may be waited for."""

    _reason = "the first request with this idempotency key is still under way"


class KeyReusedError(InvalidInputError):
    """The key was used for another request."""

    _reason = "the idempotency key was used for another request"


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer that is stored; when a repetition of its request gets it, it `is_replay`."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_replay: bool = False


async def write_once(
    connection: Connection,
    work: Callable[[], Awaitable[StoredAnswer]],
    *,
    caller: str,
    key: str,
    fingerprint: bytes,
) -> StoredAnswer:
    """Do a write whose request has an idempotency key, or return what it answered before.

    Args:
        connection: In a transaction, in which the work writes too: use `Database.run_transaction`.
        work: Does it. What it raises undoes all, and leaves the key free.
        caller: Whose key it is: another caller may have the same.
        key: The key, up to 255 characters.
        fingerprint: A hash of the request, which a repetition must have too.

    Raises:
        KeyInUseError: If the first request with the key takes longer than `lock_timeout`.
        KeyReusedError: If the key was used for a request with another fingerprint.
    """
    try:
        claim = (caller, key, fingerprint)
        is_first = (
            await connection.fetchrow(_CLAIM, *claim, operation="idempotency_claim") is not None
        )
    except LockTimeoutError as error:
        raise KeyInUseError("idempotency", 1.0) from error
    if not is_first:
        row = await connection.fetchrow(_STORED, caller, key, operation="idempotency_replay")
        if row is None:  # Pruned in between: a day has passed between two statements.
            raise KeyInUseError("idempotency", 1.0)
        if row["request_sha256"] != fingerprint:
            raise KeyReusedError("idempotency")
        return StoredAnswer(row["status"], json.loads(row["headers"]), row["body"], is_replay=True)
    answer = await work()
    stored = (answer.status, json.dumps(dict(answer.headers)), answer.body)
    await connection.execute(_STORE, caller, key, *stored, operation="idempotency_store")
    return answer


async def prune_keys(database: Database, *, batch: int = 1000) -> int:
    """Delete the keys older than 24 hours, at most a batch in one transaction; return how many."""
    total = 0
    while True:
        status = await database.execute(_PRUNE, batch, operation="idempotency_prune")
        deleted = int(status.rpartition(" ")[2])
        total += deleted
        if deleted < batch:
            return total
