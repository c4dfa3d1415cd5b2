"""Clients that are slow on purpose: they send the rest of a request a byte at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from .client import Answer, Connection, Outcome

__all__ = ["slow_clients"]


async def slow_clients(
    connect: Callable[[], Awaitable[Connection]],
    first: bytes,
    rest: bytes,
    *,
    clients: int,
    every: float,
    patience: float,
    method: str = "GET",
) -> list[Answer]:
    """Let clients drip the rest of a request; return what ended each, a time-out if it was not ended in time."""

    async def client() -> Answer:
        try:
            connection = await connect()
        except OSError:
            return Answer(broken=Outcome.REFUSED)
        try:
            await connection.send(first)
            pieces = (rest[place : place + 1] for place in range(len(rest)))
            return await connection.drip(pieces, every=every, patience=patience, method=method)
        finally:
            connection.close()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(client()) for _ in range(clients)]
    return [task.result() for task in tasks]
