"""The rarer ways to stop.

Nothing ends by itself, a second signal, a signal during startup, a blocked event loop.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from postfacta_lab.drain.clients import probe
from postfacta_lab.drain.result import Result
from postfacta_lab.engine.client import Response, ask, encode
from postfacta_lab.engine.processes import until

from .closing import Closing
from .plan import EXIT_MARGIN, Plan, Times
from .servers import Server, ServerKind

__all__ = ["drain_deadline", "loop_blocked", "second_signal", "signal_during_startup", "signalled"]

STUCK = 5
_PROBLEM = "application/problem+json"


async def drain_deadline(kind: ServerKind, plan: Plan) -> Result:
    """Stop while requests are in flight that never end.

    Each gets a clean 503, then all closes in order.
    """
    times = plan.limits(0.5, 1.0, 1.0)
    answers: list[Response] = []
    async with plan.server(kind, times, label="deadline") as server:
        await server.ready()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(STUCK):
                tasks.create_task(_get(server, "/forever", answers))
            await until(lambda: server.count("handler-begin") >= STUCK, 5)
            async with signalled(server, times) as ending:
                pass
        closing = Closing.of(server.journal())
    clean = sum(a.status == 503 and a.headers.get("content-type") == _PROBLEM for a in answers)
    misses = [*closing.misses(), *ending.misses(times.budget)]
    if clean < STUCK:
        misses.append(
            f"{clean} of {STUCK} stuck requests got a clean 503: {[str(a) for a in answers]}"
        )
    cells = {"clean 503": f"{clean}/{STUCK}", "lifespan": str(closing), "exit": str(ending)}
    return Result(scenario="deadline", server=kind.name, cells=cells, misses=misses)


async def second_signal(kind: ServerKind, plan: Plan) -> Result:
    """Stop with a long drain delay, and again a moment later.

    The second signal ends the delay, not the drain.
    """
    times = plan.limits(20.0, 5.0, 2.0)
    async with plan.server(kind, times, label="second") as server:
        await server.ready()
        async with signalled(
            server, times, within=times.drain_timeout + times.close_timeout
        ) as ending:
            await _until_unready(server)
            if server.is_running:
                server.deliver(signal.SIGTERM)
        closing = Closing.of(server.journal())
    misses = [*closing.misses(), *ending.misses(2.0 + plan.times.slack)]
    cells = {"lifespan": str(closing), "exit": str(ending)}
    return Result(scenario="second", server=kind.name, cells=cells, misses=misses)


async def signal_during_startup(kind: ServerKind, plan: Plan) -> Result:
    """Stop while the application is still starting.

    It must not hang, and what was opened must be closed.
    """
    times = plan.limits(0.5, 1.0, 1.0)
    startup = 1.5
    async with plan.server(kind, times, label="startup", DRAIN_STARTUP=str(startup)) as server:
        await until(lambda: server.count("startup-begin") >= kind.workers, 20)
        async with signalled(server, times, within=startup + times.budget + 1) as ending:
            pass
        closing = Closing.of(server.journal())
    misses = [*closing.misses(), *ending.misses(startup + times.budget)]
    cells = {"lifespan": str(closing), "exit": str(ending)}
    return Result(scenario="startup", server=kind.name, cells=cells, misses=misses)


async def loop_blocked(kind: ServerKind, plan: Plan) -> Result:
    """Stop, then block the event loop beyond the drain delay: the drain must end all the same."""
    times = plan.limits(1.0, 4.0, 1.0)
    blocked = 3.0
    answers: list[Response] = []
    async with plan.server(kind, times, label="blocked") as server:
        await server.ready()
        async with (
            asyncio.TaskGroup() as tasks,
            signalled(server, times, within=blocked + times.budget) as ending,
        ):
            await asyncio.sleep(0.1)
            tasks.create_task(_get(server, f"/block?seconds={blocked}", answers))
        closing = Closing.of(server.journal())
    misses = [*closing.misses(), *ending.misses(blocked + 1.0 + plan.times.slack)]
    answered = [str(answer) for answer in answers]
    if answered != ["200"]:
        misses.append(f"the blocking request was answered with {answered}")
    cells = {"answered": ", ".join(answered), "lifespan": str(closing), "exit": str(ending)}
    return Result(scenario="blocked", server=kind.name, cells=cells, misses=misses)


class _Ending:
    """When and how the process ended."""

    def __init__(self) -> None:
        self.seconds: float | None = None
        self.code: int | None = None

    def misses(self, within: float) -> list[str]:
        if self.seconds is None or self.seconds > within:
            return [f"no exit within {within:.1f} s ({self})"]
        return [] if self.code == 0 else [f"exit code {self.code}"]

    def __str__(self) -> str:
        return "killed by us" if self.seconds is None else f"{self.code} after {self.seconds:.1f} s"


@asynccontextmanager
async def signalled(
    server: Server, times: Times, *, within: float | None = None
) -> AsyncGenerator[_Ending]:
    """Send SIGTERM, do what is in the block, then see the server off."""
    ending = _Ending()
    at = server.deliver(signal.SIGTERM)
    yield ending
    patience = (times.budget + 1 if within is None else within) - (time.monotonic() - at)
    exited = await server.exited(within=max(patience, 0.1))
    if exited is not None:
        ending.seconds = exited - at
        ending.code = server.code
    server.kill()


async def _until_unready(server: Server) -> None:
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline and await probe(server.port, "/healthz/ready") == 200:
        await asyncio.sleep(EXIT_MARGIN / 10)


async def _get(server: Server, path: str, answers: list[Response]) -> None:
    answers.append(await ask(server.port, encode("GET", path), patience=20.0))
