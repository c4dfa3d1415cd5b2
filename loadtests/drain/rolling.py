"""Restart a service while it serves: two instances in turn behind HAProxy, or the workers of one by SIGHUP."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from postfacta_lab.drain.clients import Attempt, Balancer, Clients
from postfacta_lab.drain.haproxy import HAProxy, balancing
from postfacta_lab.drain.result import Result
from postfacta_lab.engine.client import Outcome
from postfacta_lab.engine.processes import free_port, until

from .plan import Plan
from .servers import Server, ServerKind

__all__ = ["reload_workers", "roll_instances"]

KEEP_ALIVE = 30
_LIMIT = 180.0
SLOW_ANSWER = 0.5


async def roll_instances(kind: ServerKind, plan: Plan, *, requests: int = 10_000) -> Result:
    """Restart two instances in turn behind HAProxy, until that many requests were answered."""
    async with AsyncExitStack() as stack:
        pair = [await _start(kind, plan, stack, free_port(), number) for number in range(2)]
        proxy = stack.enter_context(
            balancing([server.port for server in pair], plan.folder / kind.name / "rolling")
        )
        await proxy.all_up()
        rolls = 0
        async with _load(proxy.port) as clients:
            deadline = time.monotonic() + _LIMIT
            while len(clients.attempts) < requests and time.monotonic() < deadline:
                turn = rolls % 2
                pair[turn] = await _roll(pair[turn], kind, plan, stack, proxy)
                rolls += 1
    return _result("rolling", kind, clients.attempts, rolls, wanted=requests)


async def _start(kind: ServerKind, plan: Plan, stack: AsyncExitStack, port: int, number: int) -> Server:
    server = plan.server(kind, plan.times, label=f"rolling-{number}-{port}", port=port)
    await stack.enter_async_context(server)
    await server.ready()
    return server


async def _roll(
    server: Server, kind: ServerKind, plan: Plan, stack: AsyncExitStack, proxy: HAProxy
) -> Server:
    server.send(signal.SIGTERM)
    await server.exited(within=plan.times.budget + 5)
    server.kill()
    await until(lambda: not all(proxy.up()), 5)
    successor = await _start(kind, plan, stack, server.port, 0)
    await proxy.all_up()
    return successor


async def reload_workers(kind: ServerKind, plan: Plan, *, reloads: int = 5) -> Result:
    """Send SIGHUP to the parent of several workers, again and again, with nothing in between client and server."""
    async with plan.server(kind, plan.times, label="reload") as server:
        await server.ready()
        async with _load(server.port) as clients:
            for done in range(1, reloads + 1):
                server.send(signal.SIGHUP)
                await until(partial(_replaced, server, done), 60)
        replaced = server.count("shutdown-end") // kind.workers
    return _result("reload", kind, clients.attempts, replaced, wanted=0)


def _replaced(server: Server, times: int) -> bool:
    return server.count("startup") >= server.kind.workers * (times + 1) and (
        server.count("shutdown-end") >= server.kind.workers * times
    )


@asynccontextmanager
async def _load(port: int) -> AsyncGenerator[Clients]:
    """Send about 350 requests a second, on kept and on new connections, until the block ends."""
    balancer = Balancer(0)
    clients = Clients(port, balancer)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(KEEP_ALIVE):
            tasks.create_task(clients.keep_alive(every=0.1))
        tasks.create_task(clients.fresh(every=0.02))
        tasks.create_task(clients.fresh(every=0.5, path="/slow?seconds=1.5"))
        await asyncio.sleep(0.5)
        try:
            yield clients
        finally:
            balancer.end_by(time.monotonic())


def _result(scenario: str, kind: ServerKind, attempts: list[Attempt], times: int, *, wanted: int) -> Result:
    failed = [attempt for attempt in attempts if attempt.outcome is not Outcome.OK]
    kinds = sorted({f"{attempt.client} {attempt.outcome}" for attempt in failed})
    noted = f" ({', '.join(kinds)})" if kinds else ""
    cells = {
        "failed / requests": f"{len(failed)} / {len(attempts)}{noted}",
        "restarts": str(times),
    }
    misses = [f"{len(failed)} of {len(attempts)} requests failed: {kinds}"] if failed else []
    if len(attempts) < wanted:
        misses.append(f"{len(attempts)} requests, not {wanted}")
    facts: dict[str, object] = {"failed": len(failed), "requests": len(attempts), "restarts": times}
    return Result(scenario=scenario, server=kind.name, cells=cells, misses=misses, facts=facts)
