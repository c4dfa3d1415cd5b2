"""Restarts two instances of any service in turn behind HAProxy, as a deployment does."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path

from ..engine.client import Outcome
from ..engine.processes import until
from ..engine.variables import credentials
from ..verdict import FEWEST, Verdict
from .clients import Attempt, Balancer, Clients
from .haproxy import HAProxy, balancing, program
from .result import Result
from .stop import Service, Subject, first_answers

__all__ = ["roll"]

_KEEP_ALIVE = 10


async def roll(service: Service, folder: Path, restarts: int) -> Result:
    """Start two, put HAProxy before them, and restart one after the other under load."""
    if program() is None:
        return _result(service, [], 0, flaw="there is no haproxy: install the package")
    async with AsyncExitStack() as stack:
        pair = [Subject(service, folder) for _ in range(2)]
        for subject in pair:
            stack.callback(subject.kill)
            subject.start()
            if flaw := await first_answers(subject, service):
                return _result(service, [], 0, flaw=flaw[1])
        ports = [subject.port for subject in pair]
        proxy = stack.enter_context(balancing(ports, folder, ready=service.ready or service.paths[0]))
        await proxy.all_up()
        balancer = Balancer(0.0)
        clients = Clients(proxy.port, balancer, headers=credentials())
        done, slow = 0, ""
        async with asyncio.TaskGroup() as tasks:
            for number in range(_KEEP_ALIVE):
                path = service.paths[number % len(service.paths)]
                tasks.create_task(clients.keep_alive(every=0.1, path=path))
            tasks.create_task(clients.fresh(every=0.02, path=service.paths[0]))
            await asyncio.sleep(service.warm)
            while done < restarts and not slow:
                slow = await _restart(pair[done % 2], service, proxy)
                done += not slow
            balancer.end_by(time.monotonic())
    return _result(service, clients.attempts, done, slow=slow)


async def _restart(subject: Subject, service: Service, proxy: HAProxy) -> str:
    """Return what was too slow; empty if it went well."""
    subject.deliver(signal.SIGTERM)
    if not await until(lambda: subject.code is not None, service.grace):
        return f"no exit within {service.grace:g} s"
    subject.kill()
    await until(lambda: not all(proxy.up()), 5.0)
    subject.start()
    if flaw := await first_answers(subject, service):
        return flaw[1]
    await proxy.all_up()
    return ""


def _result(
    service: Service, attempts: list[Attempt], restarts: int, *, flaw: str = "", slow: str = ""
) -> Result:
    failed = [attempt for attempt in attempts if attempt.outcome is not Outcome.OK]
    misses = [slow] if slow else []
    if failed:
        kinds = ", ".join(sorted({f"{attempt.client} {attempt.outcome}" for attempt in failed}))
        misses.append(f"{len(failed)} of {len(attempts)} requests failed: {kinds}")
    verdict = Verdict.NOTHING if flaw else None
    if not flaw and not misses and len(attempts) < FEWEST:
        verdict, flaw = Verdict.INVALID, f"{len(attempts)} requests ended, at least {FEWEST} are needed"
    return Result(
        scenario="rolling",
        server=service.name,
        cells={"failed / requests": f"{len(failed)} / {len(attempts)}", "restarts": str(restarts)},
        misses=[flaw] if flaw else misses,
        flaw=verdict,
    )
