"""HAProxy before two instances, without retries: whatever it cannot place is a failure that a user sees."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..engine.client import HOST
from ..engine.processes import free_port, until

__all__ = ["HAProxy", "balancing", "program"]

_CONFIG = """\
global
  stats socket {control} level admin
  maxconn 2000
defaults
  mode http
  retries 0
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout http-keep-alive 60s
  option http-keep-alive
  option httpchk
  http-check send meth GET uri {ready} ver HTTP/1.1 hdr Host drain
  http-check expect status 200
frontend front
  bind {host}:{port}
  default_backend instances
backend instances
  balance roundrobin
  default-server check inter 500ms fall 2 rise 1
{servers}
"""


def program() -> str | None:
    """Find HAProxy, where Debian puts it too."""
    return shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True, slots=True)
class HAProxy:
    """A running HAProxy.

    Attributes:
        port: Where clients connect.
        control: Its socket for questions.
    """

    port: int
    control: Path

    def up(self) -> list[bool]:
        """Return for each instance whether requests go to it."""
        rows = [line.split() for line in self._command("show servers state instances").splitlines()]
        # Columns 6 and 7 are the operational and the administrative state; 2 is "running".
        return [row[5] == "2" for row in rows if len(row) > 6 and not row[0].startswith("#")]

    async def all_up(self, *, within: float = 15) -> None:
        """Wait until requests go to every instance.

        Raises:
            RuntimeError: It took too long.
        """
        if not await until(lambda: bool(self.up()) and all(self.up()), within):
            raise RuntimeError("HAProxy did not find the instances")

    def _command(self, command: str) -> str:
        with closing(socket.socket(socket.AF_UNIX)) as control:
            control.settimeout(5)
            try:
                control.connect(str(self.control))
            except OSError:
                return ""
            control.sendall(command.encode() + b"\n")
            answer = b""
            while part := control.recv(65_536):
                answer += part
        return answer.decode()


@contextmanager
def balancing(ports: Sequence[int], folder: Path, *, ready: str = "/healthz/ready") -> Generator[HAProxy]:
    """Run HAProxy before the instances at these ports, which it asks for a path until they answer 200.

    Raises:
        RuntimeError: There is no HAProxy.
    """
    haproxy = program()
    if haproxy is None:
        raise RuntimeError("there is no haproxy: install the package")
    # A UNIX socket's path must be short.
    front = HAProxy(free_port(), Path(f"/tmp/drain-{os.getpid()}-{free_port()}.sock"))  # noqa: S108 - ours by name
    servers = "\n".join(f"  server s{number} {HOST}:{port}" for number, port in enumerate(ports))
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "haproxy.cfg"
    config.write_text(
        _CONFIG.format(control=front.control, host=HOST, port=front.port, servers=servers, ready=ready)
    )
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen([haproxy, "-db", "-f", config], stdout=log, stderr=log)  # noqa: S603 - our own config
    try:
        yield front
    finally:
        process.terminate()
        process.wait(10)
        front.control.unlink(missing_ok=True)
