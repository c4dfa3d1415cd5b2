"""Stops a service under load, or restarts it behind HAProxy, and counts what clients noticed.

The service is known by its command alone.
"""

from __future__ import annotations

import asyncio
import shlex
import shutil
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ..engine.client import HOST
from ..engine.processes import Child, free_port, until
from ..engine.variables import credentials, for_a_service
from ..load.mix import Ask
from ..verdict import Verdict, nothing_measured
from .clients import Clients, probe, settled
from .result import Result, judge

_IN_FLIGHT = 5
_HALF_SENT = 0.4  # seconds after the signal, the rest is sent
# Ended by the signal is ended as asked: a server may raise it again once it is done. 143 is how a
# shell says so.
_AS_ASKED = {0, -signal.SIGTERM, 128 + signal.SIGTERM}


def command_line(words: Sequence[str]) -> str:
    """Join the words of a command, which must say where the port goes.

    A single one is a whole line.
    """
    line = words[0] if len(words) == 1 else shlex.join(words)
    if "{port}" not in line:
        raise ValueError("say where the port goes: uvicorn billing:app --port {port}")
    return line


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service, and how its clients and its balancer behave; times are seconds."""

    command: (
        str  # starts it in the foreground; {port} is the port of 127.0.0.1 that it must listen on
    )
    asks: Sequence[Ask]  # each that has a body is under way, half-sent, when the signal comes
    slow: Sequence[str] = ()  # paths of long requests, five of each under way when the signal comes
    ready: str = (
        ""  # the readiness path; without one, the balancer sends for `notice` from the signal on
    )
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

    def __init__(self, verdict: Verdict, reason: str, words: str = "") -> None:
        last_lines = words.strip().splitlines()[-10:]
        super().__init__("\n".join([reason, *last_lines]))
        self.verdict = verdict


class Subject(Child):
    """The service as a process, on a free port; its output goes to the folder."""

    def __init__(self, service: Service, folder: Path) -> None:
        self.service = service
        self.port: int = free_port()
        port = str(self.port)
        words = [word.replace("{port}", port) for word in shlex.split(service.command)]
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / f"{self.port}.log"
        super().__init__(service.name, words, log=log, environment=for_a_service(self.port))

    async def serve(self) -> None:
        """Start it, and wait until each path is there, or raise `StartError`."""
        try:
            self.start()
        except OSError as error:
            raise StartError(Verdict.NOTHING, f"it did not start: {error}") from None
        deadline = time.monotonic() + self.service.start
        statuses = dict[str, int]()
        while time.monotonic() < deadline:
            statuses = {
                path: await probe(self.port, path, headers=credentials())
                for path in self.service.paths
            }
            if all(200 <= status < 300 for status in statuses.values()):
                return
            if self.code is not None:
                reason = f"it ended with exit code {self.code} before it answered"
                raise StartError(Verdict.NOTHING, reason, self.words)
            if all(300 <= status < 500 for status in statuses.values()):
                break  # it is up: what is not there will not come
            await asyncio.sleep(0.05)
        bad = {
            path: str(status or "no answer")
            for path, status in statuses.items()
            if not 200 <= status < 300
        }
        nothing = nothing_measured(len(bad), Counter(bad.values()))
        reason = "; ".join(f"GET {path}: {answer}" for path, answer in bad.items())
        reason += f"; {nothing or f'for {self.service.start:g} s'}"
        raise StartError(Verdict.NOTHING if nothing else Verdict.FAIL, reason, self.words)


def missed(
    service: Service,
    *,
    code: int | None,
    early: bool = False,
    leftover: bool = False,
    unready: float | None,
) -> Iterator[str]:
    """Yield what was wrong about its end.

    A code of None means that it was killed, `unready` of None never a 503.
    """
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
    go_on = asyncio.Event()
    opened = asyncio.Semaphore(0)
    probes = list[tuple[float, int]]()
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
        # Python's tracker of shared resources is a process too, and ends when it sees that its
        # parent did.
        leftover = code is not None and not await until(lambda: not subject.leaves(), 1.0)
        subject.kill()
    unready = settled(probes, signalled)
    misses = missed(service, code=code, early=early, leftover=leftover, unready=unready)
    cells = {
        "readiness 503 after": "-" if unready is None else f"{unready:.2f} s",
        "exit": "killed by us" if code is None else str(code),
    }
    return judge(
        "stop",
        service.name,
        clients.attempts,
        signalled=signalled,
        misses=misses,
        cells=cells,
    )


# Without retries: whatever it cannot place is a failure that a user sees.
_CONFIG = """\
global
  stats socket ipv4@{host}:{control}
defaults
  mode http
  retries 0
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  option httpchk
  http-check send meth GET uri {ready} ver HTTP/1.1 hdr Host drain
  http-check expect status 200
listen instances
  bind {host}:{port}
  default-server check inter 500ms fall 2 rise 1
{servers}
"""


def program() -> str | None:
    """Find HAProxy, where Debian puts it too."""
    return shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")


class HAProxy(Child):
    """HAProxy before instances at some ports, which it asks for a path until they answer 200."""

    def __init__(
        self,
        ports: Sequence[int],
        folder: Path,
        *,
        ready: str = "/healthz/ready",
    ) -> None:
        haproxy = program()
        if haproxy is None:
            raise RuntimeError("there is no haproxy: install the package")
        self.port: int = free_port()
        self._control = free_port()
        servers = "\n".join(
            f"  server s{number} {HOST}:{port}" for number, port in enumerate(ports)
        )
        addresses = {"host": HOST, "port": self.port, "control": self._control}
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "haproxy.cfg"
        config.write_text(_CONFIG.format(**addresses, ready=ready, servers=servers))
        command = [haproxy, "-db", "-f", str(config)]
        super().__init__("haproxy", command, log=folder / "haproxy.log", environment={})

    def up(self) -> list[bool]:
        """Return for each instance whether requests go to it."""
        try:
            with socket.create_connection((HOST, self._control), timeout=5) as control:
                control.sendall(b"show servers state instances\n")
                rows = [line.split() for line in control.makefile()]
        except OSError:
            return []
        # Columns 6 and 7 are the operational and the administrative state; 2 is "running".
        return [row[5] == "2" for row in rows if len(row) > 6 and row[0] != "#"]

    async def all_up(self, *, within: float = 15) -> None:
        """Wait until requests go to every instance, or raise `RuntimeError`."""
        if not await until(lambda: bool(self.up()) and all(self.up()), within):
            raise RuntimeError("HAProxy did not find the instances")


async def roll(service: Service, folder: Path, restarts: int) -> Result:
    """Start two, put HAProxy before them, and restart one after the other under load."""
    pair = [Subject(service, folder) for _ in range(2)]
    with ExitStack() as stack:
        try:
            proxy = HAProxy(
                [subject.port for subject in pair], folder, ready=service.ready or service.paths[0]
            )
            for process in (proxy, *pair):
                stack.callback(process.kill)
            proxy.start()
            for subject in pair:
                await subject.serve()
            await proxy.all_up()
        except RuntimeError as error:
            return Result("rolling", service.name, {}, [str(error)], flaw=Verdict.NOTHING)
        clients = Clients(proxy.port, headers=credentials())
        done = 0
        slow = ""
        async with asyncio.TaskGroup() as tasks:
            clients.begin(tasks, service.paths)
            await asyncio.sleep(service.warm)
            signalled = time.monotonic()
            while done < restarts and not slow:
                slow = await _restart(pair[done % 2], proxy)
                done += not slow
            clients.ends = time.monotonic()
    misses = [slow] if slow else []
    cells = {"restarts": str(done)}
    return judge(
        "rolling",
        service.name,
        clients.attempts,
        signalled=signalled,
        misses=misses,
        cells=cells,
    )


async def _restart(subject: Subject, proxy: HAProxy) -> str:
    """Return what was too slow; empty if it went well."""
    subject.deliver(signal.SIGTERM)
    if not await until(lambda: subject.code is not None, subject.service.grace):
        return f"no exit within {subject.service.grace:g} s"
    subject.kill()
    await until(lambda: not all(proxy.up()), 5.0)
    try:
        await subject.serve()
        await proxy.all_up()
    except RuntimeError as error:
        return str(error)
    return ""
