"""What the tests of a database share: a server of their own, and what is asked all the while."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from postfacta_core.errors import DatabaseUnavailableError
from postfacta_postgres import Database

__all__ = ["asked_all_the_while", "is_alive"]


async def is_alive(database: Database) -> bool:
    try:
        await database.ping()
    except DatabaseUnavailableError:
        return False
    return True


@asynccontextmanager
async def asked_all_the_while(database: Database) -> AsyncGenerator[list[int]]:
    """Ask again and again while the block runs, and keep the answers; an error ends the test."""
    answers: list[int] = []
    done = anyio.Event()

    async def ask() -> None:
        while not done.is_set():
            answers.append(await database.fetchval("select 1"))

    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(ask)
        try:
            yield answers
        finally:
            done.set()
