"""Let `connection()` of each pool of psycopg lend through `GuardedPool`, or through a wrapper that does nothing."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg_pool

from postfacta_adapters.psycopg import AsyncGuardedPool, GuardedPool

_pool: Any = psycopg_pool.ConnectionPool
_async_pool: Any = psycopg_pool.AsyncConnectionPool
_plain, _plain_async = _pool.connection, _async_pool.connection


def _guarded(pool: Any, kind: Any) -> Any:
    guarded = pool.__dict__.get("_peer_guarded")
    if guarded is None:
        guarded = pool.__dict__["_peer_guarded"] = kind(pool)
    return guarded


def _ours(self: Any, timeout: float | None = None) -> Any:
    return _guarded(self, GuardedPool).connection(timeout)


def _ours_async(self: Any, timeout: float | None = None) -> Any:
    return _guarded(self, AsyncGuardedPool).connection(timeout)


@contextmanager
def _control(self: Any, timeout: float | None = None) -> Generator[Any]:
    with _plain(self, timeout) as connection:
        yield connection


@asynccontextmanager
async def _control_async(  # psycopg says `timeout`
    self: Any,
    timeout: float | None = None,  # noqa: ASYNC109
) -> AsyncGenerator[Any]:
    async with _plain_async(self, timeout) as connection:
        yield connection


_LANES: dict[str, tuple[Any, Any]] = {
    "plain": (_plain, _plain_async),
    "control": (_control, _control_async),
    "ours": (_ours, _ours_async),
}
_pool.connection, _async_pool.connection = _LANES[os.environ["PEER_LANE"]]
