"""Restart a service while it serves.

Its instances in turn behind HAProxy, or the workers of one by SIGHUP.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial

from postfacta_lab.drain.clients import Attempt, Clients
from postfacta_lab.drain.result import Result
from postfacta_lab.drain.stop import HAProxy
from postfacta_lab.engine.client import Outcome
from postfacta_lab.engine.processes import free_port, until

from .plan import Plan
from .servers import Server, ServerKind

__all__ = ["reload_workers", "roll_fleet", "roll_instances"]

KEEP_ALIVE = 30
SLOW_ANSWER = 0.5
_LIMIT = 180.0
_FLEET_LIMIT = 480.0


async def roll_instances(kind: ServerKind, plan: Plan, *, requests: int = 10_000) -> Result:
    """Restart two instances in turn behind HAProxy, until that many requests were answered."""
    attempts, rolls, _ = await _roll_all(
        kind, plan, count=2, proxies=1, requests=requests, limit=_LIMIT
    )
    return _result("rolling", kind, attempts, rolls, wanted=requests)


async def roll_fleet(kind: ServerKind, plan: Plan, *, requests: int = 100_000) -> Result:
    """Restart four instances in turn behind two HAProxy, at a thousand requests a second or what the machine can."""
    attempts, rolls, seconds = await _roll_all(
        kind, plan, count=4, proxies=2, requests=requests, limit=_FLEET_LIMIT, keep_alive=45
    )
    result = _result("fleet", kind, attempts, rolls, wanted=requests)
    return replace(
        result, cells={**result.cells, "requests a second": f"{len(attempts) / seconds:.0f}"}
    )


async def _roll_all(
    kind: ServerKind,
    plan: Plan,
    *,
    count: int,
    proxies: int,
    requests: int,
    limit: float,
    keep_alive: int = KEEP_ALIVE,
) -> tuple[list[Attempt], int, float]:
    """Return all attempts, how often an instance was restarted, and the seconds of load."""
    async with AsyncExitStack() as stack:
        servers = [await _start(kind, plan, stack, free_port(), number) for number in range(count)]
        ports = [server.port for server in servers]
        fronts = [
            HAProxy(ports, plan.folder / kind.name / f"proxy-{count}-{number}")
            for number in range(proxies)
        ]
        for front in fronts:
            stack.callback(front.kill)
            front.start()
            await front.all_up()
        rolls = 0
        began = time.monotonic()
        async with _load([front.port for front in fronts], keep_alive) as clients:
            while (
                sum(len(each.attempts) for each in clients) < requests
                and time.monotonic() < began + limit
            ):
                turn = rolls % count
                servers[turn] = await _roll(servers[turn], kind, plan, stack, fronts)
                rolls += 1
        attempts = [attempt for each in clients for attempt in each.attempts]
    return attempts, rolls, time.monotonic() - began


async def _start(
    kind: ServerKind, plan: Plan, stack: AsyncExitStack, port: int, number: int
) -> Server:
    server = plan.server(kind, plan.times, label=f"rolling-{number}-{port}", port=port)
    await stack.enter_async_context(server)
    await server.ready()
    return server


async def _roll(
    server: Server, kind: ServerKind, plan: Plan, stack: AsyncExitStack, fronts: Sequence[HAProxy]
) -> Server:
    server.deliver(signal.SIGTERM)
    await server.exited(within=plan.times.budget + 5)
    server.kill()
    await until(lambda: not any(all(front.up()) for front in fronts), 5)
    successor = await _start(kind, plan, stack, server.port, 0)
    for front in fronts:
        await front.all_up()
    return successor


async def reload_workers(kind: ServerKind, plan: Plan, *, reloads: int = 5) -> Result:
    """Send SIGHUP to the parent of several workers, again and again, with nothing in between client and server."""
    async with plan.server(kind, plan.times, label="reload") as server:
        await server.ready()
        async with _load([server.port], KEEP_ALIVE) as (clients,):
            for done in range(1, reloads + 1):
                server.deliver(signal.SIGHUP)
                await until(partial(_replaced, server, done), 60)
        replaced = server.count("shutdown-end") // kind.workers
    return _result("reload", kind, clients.attempts, replaced, wanted=0)


def _replaced(server: Server, times: int) -> bool:
    return server.count("startup") >= server.kind.workers * (times + 1) and (
        server.count("shutdown-end") >= server.kind.workers * times
    )


@asynccontextmanager
async def _load(ports: Sequence[int], keep_alive: int) -> AsyncGenerator[list[Clients]]:
    """Send to each port until the block ends.

    10 requests a second on each kept connection, and some 50 on new ones.
    """
    everyone = [Clients(port) for port in ports]
    async with asyncio.TaskGroup() as tasks:
        for clients in everyone:
            for _ in range(keep_alive):
                tasks.create_task(clients.keep_alive(every=0.1))
            tasks.create_task(clients.fresh(every=0.02))
            tasks.create_task(clients.fresh(every=0.5, path="/slow?seconds=1.5"))
        await asyncio.sleep(0.5)
        try:
            yield everyone
        finally:
            for clients in everyone:
                clients.ends = time.monotonic()


def _result(
    scenario: str, kind: ServerKind, attempts: list[Attempt], times: int, *, wanted: int
) -> Result:
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
