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
_WHO = "select user_id from tokens where secret_sha256 = $1 and revoked_at is null"
_ONE = """
select i.id, i.number, i.title, i.description, i.kind, i.severity, i.status, i.outcome, i.reporter, i.owner,
  i.services, i.teams, i.visibility, i.members, i.declared_at, i.ended_at, i.archived_at, i.version,
  i.created_by, i.created_at, i.updated_at
  from incidents i where i.number = $1"""


async def _one(request: Request) -> Response:
    token = hashlib.sha256(request.headers["authorization"].removeprefix("Bearer ").encode()).digest()
    known: dict[bytes, float] = request.app.state.known
    pool: asyncpg.Pool[Any] = request.app.state.pool
    async with pool.acquire() as connection:
        if known.get(token, 0.0) < time.monotonic():
            if await connection.fetchval(_WHO, token) is None:
                return Response(status_code=401)
            known[token] = time.monotonic() + _TRUSTED_FOR
        row = await connection.fetchrow(_ONE, int(request.path_params["number"]))
    if row is None:
        return Response(status_code=404)
    body = json.dumps(dict(row), default=str)
    headers = {"ETag": f'"{row["version"]}"'}
    return Response(body, headers=headers, media_type="application/json")


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncGenerator[None]:
    async with asyncpg.create_pool(os.environ["BENCH_DSN"], min_size=1, max_size=10) as pool:
        app.state.pool, app.state.known = pool, {}
        yield


app = Starlette(routes=[Route("/api/v1/incidents/INC-{number}", _one)], lifespan=_lifespan)
