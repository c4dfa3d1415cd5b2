"""Fewer processor seconds for a service, as a container's limit gives: it is stopped and continued all the time."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from .service import Service

__all__ = ["rationed"]

_PERIOD = 0.05


@asynccontextmanager
async def rationed(service: Service, share: float) -> AsyncGenerator[None]:
    """Let the service run for a share of each 50 ms."""

    async def stop_and_go() -> None:
        while service.alive:
            service.signal_all(signal.SIGSTOP)
            await asyncio.sleep(_PERIOD * (1 - share))
            service.signal_all(signal.SIGCONT)
            await asyncio.sleep(_PERIOD * share)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(stop_and_go())
        try:
            yield
        finally:
            task.cancel()
            service.signal_all(signal.SIGCONT)
