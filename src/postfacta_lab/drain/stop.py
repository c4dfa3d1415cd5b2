"""Stops any service under load, known by its command alone, and counts what its clients noticed."""

from __future__ import annotations

import asyncio
import shlex
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..engine.client import Outcome
from ..engine.processes import Child, free_port, until
from ..engine.variables import credentials, for_a_service
from ..load.mix import Ask
from ..verdict import FEWEST, Verdict, nothing_measured
from .clients import Attempt, Balancer, Clients, Probes, probe
from .result import Result

__all__ = ["Seen", "Service", "Subject", "first_answers", "judge", "stop"]

_KEEP_ALIVE = 10
_IN_FLIGHT = 5
_HALF_SENT = 0.4  # seconds after the signal, the rest is sent
# Ended by the signal is ended as asked: a server may raise it again once it is done. 143 is how a shell says so.
_AS_ASKED = {0, -signal.SIGTERM, 128 + signal.SIGTERM}


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service, and how its clients and its balancer behave; times are seconds.

    Attributes:
        command: Starts it in the foreground; ``{port}`` stands for the port of 127.0.0.1 that it must listen on.
        asks: What users ask for; each that has a body is under way, half-sent, when the signal comes.
        slow: Long requests, five of each under way when the signal comes.
        ready: The readiness path; without one, the balancer sends for `notice` from the signal on.
        notice: How long a balancer still sends after readiness failed.
        warm: Load before the signal.
        grace: From the signal to the end, at most.
        start: From the command to the first good answer, at most.
    """

    command: str
    asks: Sequence[Ask]
    slow: Sequence[str] = ()
    ready: str = ""
    notice: float = 1.5
    warm: float = 2.0
    grace: float = 30.0
    start: float = 30.0

    @property
    def paths(self) -> list[str]:
        return [ask.path for ask in self.asks if ask.method == "GET"]

    @property
    def name(self) -> str:
        return Path(shlex.split(self.command)[0]).name


class Subject(Child):
    """The service as a process.

    Args:
        service: What it is.
        folder: Where its output goes.
        port: Where it listens; by default a free one.
    """

    def __init__(self, service: Service, folder: Path, port: int = 0) -> None:
        self.port = port or free_port()
        words = [word.replace("{port}", str(self.port)) for word in shlex.split(service.command)]
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / f"{self.port}.log"
        super().__init__(service.name, words, log=log, environment=for_a_service(self.port))


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


def judge(seen: Seen, service: Service) -> tuple[Verdict, list[str]]:
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


def _misses(seen: Seen, after: Sequence[Attempt], service: Service) -> list[str]:
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


async def stop(service: Service, folder: Path) -> Result:
    """Start it, load it, send SIGTERM, and judge by what clients noticed."""
    subject = Subject(service, folder)
    try:
        subject.start()
    except OSError as error:
        return _nothing(service, [f"it did not start: {error}"])
    try:
        flaw = await first_answers(subject, service)
        if flaw is not None:
            verdict, reason = flaw
            seen, misses = None, [reason, *subject.words.strip().splitlines()[-5:]]
        else:
            seen = await _run(subject, service)
            verdict, misses = judge(seen, service)
    finally:
        subject.kill()
    return Result(
        scenario="stop",
        server=service.name,
        cells=_cells(seen) if seen else {},
        misses=misses,
        flaw=verdict if verdict in {Verdict.INVALID, Verdict.NOTHING} else None,
    )


def _nothing(service: Service, reasons: list[str]) -> Result:
    return Result(scenario="stop", server=service.name, cells={}, misses=reasons, flaw=Verdict.NOTHING)


async def first_answers(subject: Subject, service: Service) -> tuple[Verdict, str] | None:
    """Wait until each path is there; return why it is not, if so."""
    until_then = time.monotonic() + service.start
    found: dict[str, int] = {}
    while time.monotonic() < until_then:
        found = {path: await probe(subject.port, path, headers=credentials()) for path in service.paths}
        if all(200 <= status < 300 for status in found.values()):
            return None
        if subject.code is not None:
            return Verdict.NOTHING, f"it ended with exit code {subject.code} before it answered"
        if all(300 <= status < 500 for status in found.values()):
            break  # it is up: what is not there will not come
        await asyncio.sleep(0.05)
    bad = {path: status for path, status in found.items() if not 200 <= status < 300}
    errors = {str(status) if status else "no answer": 1 for status in bad.values()}
    why = "; ".join(
        f"GET {path} had {f'status {status}' if status else 'no answer'}" for path, status in bad.items()
    )
    if nothing := nothing_measured(len(errors), errors):
        return Verdict.NOTHING, f"{why}: {nothing}"
    return Verdict.FAIL, f"{why}, for {service.start:g} s"


async def _run(subject: Subject, service: Service) -> Seen:
    balancer = Balancer(service.notice)
    clients = Clients(subject.port, balancer, headers=credentials())
    ready, go_on, opened = Probes(), asyncio.Event(), asyncio.Semaphore(0)
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
        for write in service.asks:
            for _ in range(_IN_FLIGHT if write.body is not None else 0):
                tasks.create_task(clients.half_sent(write, opened, go_on))
                await opened.acquire()
        await asyncio.sleep(0.3)  # they are under way
        early = subject.code
        if service.ready:
            tasks.create_task(ready.probe(subject.port, service.ready, balancer, every=0.02))
        else:
            balancer.saw_unready()
        signalled = subject.deliver(signal.SIGTERM) if early is None else time.monotonic()
        balancer.end_by(signalled + service.grace)
        asyncio.get_running_loop().call_later(_HALF_SENT, go_on.set)
        await until(lambda: subject.code is not None, service.grace)
        code = subject.code
        # Python's tracker of shared resources is a process too, and ends when it sees that its parent did.
        leftover = code is not None and not await until(lambda: not subject.leaves(), 1.0)
        subject.kill()
    return Seen(
        attempts=tuple(clients.attempts),
        signalled=signalled,
        early=early,
        code=code,
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
