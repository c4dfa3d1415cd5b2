"""Stops any service under load, known by its command alone, and counts what its clients noticed."""

from __future__ import annotations

import asyncio
import shlex
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..engine.processes import Child, free_port, until
from ..engine.variables import credentials, for_a_service
from ..load.mix import Ask
from ..verdict import Verdict, nothing_measured
from .clients import Clients, probe, settled
from .result import Result, judge

__all__ = ["Service", "StartError", "Subject", "command_line", "missed", "stop"]

_IN_FLIGHT = 5
_HALF_SENT = 0.4  # seconds after the signal, the rest is sent
# Ended by the signal is ended as asked: a server may raise it again once it is done. 143 is how a shell says so.
_AS_ASKED = {0, -signal.SIGTERM, 128 + signal.SIGTERM}


def command_line(words: Sequence[str]) -> str:
    """Join the words of a command, which must say where the port goes; a single one is a whole line."""
    line = words[0] if len(words) == 1 else shlex.join(words)
    if "{port}" not in line:
        raise ValueError("say where the port goes: uvicorn billing:app --port {port}")
    return line


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service, and how its clients and its balancer behave; times are seconds."""

    command: str  # starts it in the foreground; {port} is the port of 127.0.0.1 that it must listen on
    asks: Sequence[Ask]  # each that has a body is under way, half-sent, when the signal comes
    slow: Sequence[str] = ()  # paths of long requests, five of each under way when the signal comes
    ready: str = ""  # the readiness path; without one, the balancer sends for `notice` from the signal on
    notice: float = 1.5  # how long a balancer still sends after readiness failed
    warm: float = 2.0  # load before the signal
    grace: float = 30.0  # from the signal to the end, at most
    start: float = 30.0  # from the command to the first good answer, at most

    @property
    def paths(self) -> list[str]:
        return [ask.path for ask in self.asks if ask.method == "GET"]

    @property
    def name(self) -> str:
        return Path(shlex.split(self.command)[0]).name


class StartError(RuntimeError):
    """A service did not come up; with what it said last."""

    def __init__(self, verdict: Verdict, why: str, words: str = "") -> None:
        super().__init__("\n".join([why, *words.strip().splitlines()[-10:]]))
        self.verdict = verdict


class Subject(Child):
    """The service as a process, on a free port; its output goes to the folder."""

    def __init__(self, service: Service, folder: Path) -> None:
        self.service, self.port = service, free_port()
        words = [word.replace("{port}", str(self.port)) for word in shlex.split(service.command)]
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / f"{self.port}.log"
        super().__init__(service.name, words, log=log, environment=for_a_service(self.port))

    async def serve(self) -> None:
        """Start it, and wait until each path is there, or raise `StartError`."""
        try:
            self.start()
        except OSError as error:
            raise StartError(Verdict.NOTHING, f"it did not start: {error}") from None
        deadline, found = time.monotonic() + self.service.start, dict[str, int]()
        while time.monotonic() < deadline:
            found = {path: await probe(self.port, path, headers=credentials()) for path in self.service.paths}
            if all(200 <= status < 300 for status in found.values()):
                return
            if self.code is not None:
                why = f"it ended with exit code {self.code} before it answered"
                raise StartError(Verdict.NOTHING, why, self.words)
            if all(300 <= status < 500 for status in found.values()):
                break  # it is up: what is not there will not come
            await asyncio.sleep(0.05)
        bad = {path: str(status or "no answer") for path, status in found.items() if not 200 <= status < 300}
        nothing = nothing_measured(len(bad), Counter(bad.values()))
        why = "; ".join(f"GET {path}: {answer}" for path, answer in bad.items())
        why += f"; {nothing or f'for {self.service.start:g} s'}"
        raise StartError(Verdict.NOTHING if nothing else Verdict.FAIL, why, self.words)


def missed(
    service: Service, *, code: int | None, early: bool = False, leftover: bool = False, unready: float | None
) -> Iterator[str]:
    """Yield what was wrong about its end; a code of None means that it was killed, `unready` of None never a 503."""
    if early:
        yield f"it ended by itself before the signal, with exit code {code}"
        return
    if service.ready and unready is None:
        yield f"{service.ready} was never answered 503 after the signal"
    if code is None:
        yield f"no exit within {service.grace:g} s"
    elif code not in _AS_ASKED:
        yield f"exit code {code}"
    if leftover:
        yield "a process outlived its parent"


async def stop(service: Service, folder: Path) -> Result:
    """Start it, load it, send SIGTERM, and judge by what clients noticed."""
    subject = Subject(service, folder)
    try:
        await subject.serve()
        return await _stop(subject, service)
    except StartError as error:
        flaw = error.verdict if error.verdict is Verdict.NOTHING else None
        return Result("stop", service.name, {}, str(error).splitlines(), flaw=flaw)
    finally:
        subject.kill()


async def _stop(subject: Subject, service: Service) -> Result:
    clients = Clients(subject.port, notice=service.notice, headers=credentials())
    go_on, opened, probes = asyncio.Event(), asyncio.Semaphore(0), list[tuple[float, int]]()
    async with asyncio.TaskGroup() as tasks:
        clients.begin(tasks, service.paths)
        await asyncio.sleep(service.warm)
        for path in [*service.slow] * _IN_FLIGHT:
            tasks.create_task(clients.once("slow", path))
        for write in [ask for ask in service.asks if ask.body is not None] * _IN_FLIGHT:
            tasks.create_task(clients.half_sent(write, opened, go_on))
            await opened.acquire()
        await asyncio.sleep(0.3)  # they are under way
        if service.ready:
            tasks.create_task(clients.probe(service.ready, probes, every=0.02))
        else:
            clients.saw_unready()
        early = subject.code is not None
        signalled = time.monotonic() if early else subject.deliver(signal.SIGTERM)
        clients.ends = signalled + service.grace
        asyncio.get_running_loop().call_later(_HALF_SENT, go_on.set)
        await until(lambda: subject.code is not None, service.grace)
        code = subject.code
        # Python's tracker of shared resources is a process too, and ends when it sees that its parent did.
        leftover = code is not None and not await until(lambda: not subject.leaves(), 1.0)
        subject.kill()
    unready = settled(probes, signalled)
    misses = missed(service, code=code, early=early, leftover=leftover, unready=unready)
    cells = {
        "readiness 503 after": "-" if unready is None else f"{unready:.2f} s",
        "exit": "killed by us" if code is None else str(code),
    }
    return judge("stop", service.name, clients.attempts, signalled=signalled, misses=misses, cells=cells)
