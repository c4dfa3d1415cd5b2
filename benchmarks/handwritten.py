"""One incident over HTTP, as one writes it by hand with Starlette and asyncpg, without any of the rest."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

__all__ = ["app"]

_TRUSTED_FOR = 10.0
_WHO = """
select u.role = 'admin' as is_admin, u.id from tokens t join users u on u.id = t.user_id
 where t.secret_sha256 = $1 and t.revoked_at is null and t.expires_at > now() and u.disabled_at is null"""
# The service's own query, with the rule who may see what.
_ONE = """
select i.id, i.number, i.title, i.description, i.kind, i.severity, i.status, i.outcome, i.reporter, i.owner,
  i.services, i.teams, i.visibility, i.members, i.declared_at, i.ended_at, i.archived_at, i.version,
  i.created_by, i.created_at, i.updated_at from incidents i
 where (i.visibility = 'internal' or $1::boolean or coalesce($2::uuid = any (i.members), false))
   and (i.id = $3::uuid or i.number = $4::bigint)"""


async def _one(request: Request) -> Response:
    token = hashlib.sha256(
        request.headers["authorization"].removeprefix("Bearer ").encode()
    ).digest()
    known: dict[bytes, tuple[asyncpg.Record, float]] = request.app.state.known
    pool: asyncpg.Pool[Any] = request.app.state.pool
    async with pool.acquire() as connection:
        who, until = known.get(token, (None, 0.0))
        if until < time.monotonic():
            who = await connection.fetchrow(_WHO, token)
            if who is not None:
                known[token] = (who, time.monotonic() + _TRUSTED_FOR)
        if who is None:
            return Response(status_code=401)
        number = int(request.path_params["number"])
        row = await connection.fetchrow(_ONE, who["is_admin"], who["id"], None, number)
    if row is None:
        return Response(status_code=404)
    body = json.dumps(dict(row), default=str)
    headers = {"ETag": f'"{row["version"]}"'}
    return Response(body, headers=headers, media_type="application/json")


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncGenerator[None]:
    async with asyncpg.create_pool(os.environ["BENCH_DSN"], min_size=1, max_size=10) as pool:
        app.state.pool = pool
        app.state.known = {}
        yield


app = Starlette(routes=[Route("/api/v1/incidents/INC-{number}", _one)], lifespan=_lifespan)
