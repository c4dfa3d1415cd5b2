"""What the tests of incident routes send with, and a way to let requests meet."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio
import httpx2
from anyio.abc import TaskGroup

from postfacta_app.principal import Principal
from postfacta_postgres import Database

__all__ = ["BASE", "ClientFor", "held"]

ClientFor = Callable[[Principal], httpx2.AsyncClient]
BASE = "/api/v1/incidents"


@asynccontextmanager
async def held(database: Database, waiters: int) -> AsyncGenerator[TaskGroup]:
    """Keep all incidents locked until this many of the block's tasks wait for one."""
    waiting = "select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    async with anyio.create_task_group() as group, database.transaction() as holder:
        await holder.fetch("select from incidents for update", operation="test")
        yield group
        with anyio.fail_after(10):
            while len(await holder.fetch(waiting, operation="test")) < waiters:
                await holder.fetch("select pg_stat_clear_snapshot()", operation="test")
