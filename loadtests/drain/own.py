"""Stop any service under load, known by its command and its paths alone, and tell what its clients noticed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from postfacta_lab.verdict import FEWEST, Verdict, nothing_measured

from .clients import Attempt, Balancer, Clients, Probes, ask
from .plan import Result
from .servers import Server, ServerKind
from .wire import Outcome

__all__ = ["OwnService", "Seen", "judge", "stop_own"]

_KEEP_ALIVE = 10
_IN_FLIGHT = 5
# Ended by the signal is ended as asked: a server may raise it again once it is done. 143 is how a shell says so.
_AS_ASKED = {0, -signal.SIGTERM, 128 + signal.SIGTERM}


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnService:
    """A service, and how its clients and its balancer behave; times are seconds.

    Attributes:
        command: Starts it in the foreground; ``{port}`` stands for the port of 127.0.0.1 that it must listen on.
        paths: What is asked for by GET; each must be answered with 200 to 299.
        slow: Long requests, five of each under way when the signal comes.
        ready: The readiness path; without one, the balancer sends for `notice` from the signal on.
        notice: How long a balancer still sends after readiness failed.
        warm: Load before the signal.
        grace: From the signal to the end, at most.
        start: From the command to the first good answer, at most.
    """

    command: str
    paths: Sequence[str]
    slow: Sequence[str] = ()
    ready: str = ""
    notice: float = 1.5
    warm: float = 2.0
    grace: float = 30.0
    start: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a run showed.

    Attributes:
        attempts: Every request.
        signalled: When SIGTERM was sent, on the clock of the attempts.
        early: The exit code if it had ended before the signal.
        code: The exit code; None if it had to be killed.
        leftover: Whether a process outlived the one that was started.
        unready: Seconds from the signal until readiness was 503; None if it was not asked, or never was.
    """

    attempts: Sequence[Attempt]
    signalled: float
    early: int | None = None
    code: int | None = 0
    leftover: bool = False
    unready: float | None = None


def judge(seen: Seen, service: OwnService) -> tuple[Verdict, list[str]]:
    """Return the verdict, and why."""
    if seen.early is not None:
        return Verdict.FAIL, [f"it ended by itself before the signal, with exit code {seen.early}"]
    after = [attempt for attempt in seen.attempts if attempt.at >= seen.signalled]
    flaws: list[str] = []
    if len(seen.attempts) < FEWEST:
        flaws.append(f"{len(seen.attempts)} requests ended, at least {FEWEST} are needed")
    if not after:
        flaws.append("no request was sent after the signal, so no client can have noticed it")
    if flaws:
        return Verdict.INVALID, flaws
    misses = _misses(seen, after, service)
    return (Verdict.FAIL if misses else Verdict.PASS), misses


def _misses(seen: Seen, after: Sequence[Attempt], service: OwnService) -> list[str]:
    misses: list[str] = []
    failed = [attempt for attempt in seen.attempts if attempt.outcome is not Outcome.OK]
    if failed:
        kinds = ", ".join(sorted({str(attempt.outcome) for attempt in failed}))
        late = sum(attempt.at >= seen.signalled for attempt in failed)
        misses.append(
            f"{len(failed)} of {len(seen.attempts)} requests failed ({kinds}), {late} of {len(after)} sent after the signal"
        )
    if service.ready and seen.unready is None:
        misses.append(f"{service.ready} was never answered 503 after the signal")
    if seen.code is None:
        misses.append(f"no exit within {service.grace:g} s")
    elif seen.code not in _AS_ASKED:
        misses.append(f"exit code {seen.code}")
    if seen.leftover:
        misses.append("a process outlived its parent")
    return misses


async def stop_own(service: OwnService, folder: Path) -> Result:
    """Start it, load it, send SIGTERM, and judge by what clients noticed."""
    kind = ServerKind(name=Path(service.command.split()[0]).name, command=service.command)
    async with Server(kind, app="", folder=folder, environment={}) as server:
        flaw = await _first_answers(server, service)
        if flaw is None:
            seen = await _run(server, service)
            verdict, misses = judge(seen, service)
        else:
            seen, (verdict, reason) = None, flaw
            misses = [reason, *server.log.strip().splitlines()[-5:]]
    return Result(
        scenario="own",
        server=kind.name,
        cells=_cells(seen) if seen else {},
        misses=misses,
        flaw=verdict if verdict in {Verdict.INVALID, Verdict.NOTHING} else None,
    )


async def _first_answers(server: Server, service: OwnService) -> tuple[Verdict, str] | None:
    """Wait until each path is there; return why it is not, if so."""
    until = time.monotonic() + service.start
    found: dict[str, int] = {}
    while time.monotonic() < until:
        found = {path: await ask(server.port, path, headers=_headers()) for path in service.paths}
        if all(200 <= status < 300 for status in found.values()):
            return None
        if server.process.poll() is not None:
            return Verdict.NOTHING, f"it ended with exit code {server.process.returncode} before it answered"
        if all(300 <= status < 500 for status in found.values()):
            break  # it is up: what is not there will not come
        await asyncio.sleep(0.05)
    bad = {path: status for path, status in found.items() if not 200 <= status < 300}
    errors = {str(status) if status else "no answer": 1 for status in bad.values()}
    told = "; ".join(
        f"GET {path} had {f'status {status}' if status else 'no answer'}" for path, status in bad.items()
    )
    if nothing := nothing_measured(len(errors), errors):
        return Verdict.NOTHING, f"{told}: {nothing}"
    return Verdict.FAIL, f"{told}, for {service.start:g} s"


async def _run(server: Server, service: OwnService) -> Seen:
    balancer = Balancer(service.notice)
    clients = Clients(server.port, balancer, headers=_headers())
    ready = Probes()
    async with asyncio.TaskGroup() as tasks:
        for number in range(_KEEP_ALIVE):
            path = service.paths[number % len(service.paths)]
            tasks.create_task(clients.keep_alive(every=0.1, path=path))
        for path in service.paths:
            tasks.create_task(clients.fresh(every=0.02 * len(service.paths), path=path))
        await asyncio.sleep(service.warm)
        for path in service.slow:
            for _ in range(_IN_FLIGHT):
                tasks.create_task(clients.in_flight("slow", path))
        await asyncio.sleep(0.3)  # they are under way
        early = server.process.poll()
        if service.ready:
            tasks.create_task(ready.probe(server.port, service.ready, balancer, every=0.02))
        else:
            balancer.saw_unready()
        signalled = server.send(signal.SIGTERM)
        balancer.end_by(signalled + service.grace)
        exited = await server.exited(within=service.grace)
        leftover = exited is not None and not await server.leaves_nothing()
        server.kill()
    return Seen(
        attempts=tuple(clients.attempts),
        signalled=signalled,
        early=early,
        code=None if exited is None else server.process.returncode,
        leftover=leftover,
        unready=ready.settled(signalled) if service.ready else None,
    )


def _cells(seen: Seen) -> dict[str, str]:
    failed = sum(attempt.outcome is not Outcome.OK for attempt in seen.attempts)
    after = sum(attempt.at >= seen.signalled for attempt in seen.attempts)
    return {
        "failed / requests": f"{failed} / {len(seen.attempts)}",
        "after the signal": str(after),
        "readiness 503 after": "-" if seen.unready is None else f"{seen.unready:.2f} s",
        "exit": "killed by us" if seen.code is None else str(seen.code),
    }


def _headers() -> tuple[tuple[str, str], ...]:
    token = os.environ.get("TOKEN")
    return (("authorization", f"Bearer {token}"),) if token else ()
