"""Read a file again and again while a service runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Protocol

import anyio
import anyio.to_thread


class Reread(Protocol):
    """What is read again, in a thread."""

    every: float  # Seconds between two readings; it may change.

    def reread(self) -> None:
        """Read now, and use what changed."""


@asynccontextmanager
async def reread_in_intervals(source: Reread, *, name: str) -> AsyncGenerator[None]:
    """Read once, and then in intervals until the block ends."""

    async def keep_reading() -> None:
        while True:
            await anyio.sleep(source.every)
            await anyio.to_thread.run_sync(source.reread)

    await anyio.to_thread.run_sync(source.reread)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_reading, name=name)
        yield
        tasks.cancel_scope.cancel()
