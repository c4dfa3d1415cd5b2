"""Restarts two instances of any service in turn behind HAProxy, as a deployment does."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from ..engine.client import HOST
from ..engine.processes import Child, free_port, until
from ..engine.variables import credentials
from ..verdict import Verdict
from .clients import Clients
from .result import Result, judge
from .stop import Service, Subject

__all__ = ["HAProxy", "program", "roll"]

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
    """HAProxy before the instances at some ports, which it asks for a path until they answer 200."""

    def __init__(self, ports: Sequence[int], folder: Path, *, ready: str = "/healthz/ready") -> None:
        haproxy = program()
        if haproxy is None:
            raise RuntimeError("there is no haproxy: install the package")
        self.port, self._control = free_port(), free_port()
        servers = "\n".join(f"  server s{number} {HOST}:{port}" for number, port in enumerate(ports))
        where = {"host": HOST, "port": self.port, "control": self._control}
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "haproxy.cfg"
        config.write_text(_CONFIG.format(**where, ready=ready, servers=servers))
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
            proxy = HAProxy([it.port for it in pair], folder, ready=service.ready or service.paths[0])
            for process in (proxy, *pair):
                stack.callback(process.kill)
            proxy.start()
            for subject in pair:
                await subject.serve()
            await proxy.all_up()
        except RuntimeError as error:
            return Result("rolling", service.name, {}, [str(error)], flaw=Verdict.NOTHING)
        clients = Clients(proxy.port, headers=credentials())
        done, slow = 0, ""
        async with asyncio.TaskGroup() as tasks:
            clients.begin(tasks, service.paths)
            await asyncio.sleep(service.warm)
            signalled = time.monotonic()
            while done < restarts and not slow:
                slow = await _restart(pair[done % 2], proxy)
                done += not slow
            clients.ends = time.monotonic()
    misses, cells = [slow] if slow else [], {"restarts": str(done)}
    return judge("rolling", service.name, clients.attempts, signalled=signalled, misses=misses, cells=cells)


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
