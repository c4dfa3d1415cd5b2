"""Starts what a service consists of, as real processes, and does to each what happens in production.

* ``Instance`` -- ``postfacta serve``, one process
* ``Postgres`` -- a whole PostgreSQL server with all its processes
* ``Haproxy``  -- the proxy in front of the instances, Debian's program

Each has ``start``, ``stop``, ``kill``, ``freeze`` and ``thaw``, and only ever touches processes
that it started itself, and their descendants. Linux only: descendants are found in ``/proc``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import httpx2

from postfacta_embedded import EmbeddedPostgres
from postfacta_lab.engine.processes import Child, free_port, freeze, kill, thaw, wait_until

__all__ = ["Haproxy", "Instance", "Postgres", "command"]

_START = 60.0  # seconds; a start takes two on a quiet machine


class Instance(Child):
    """One ``postfacta serve``.

    Args:
        name: What people call it.
        dsn: Its database.
        log: Where its output is added.
        environment: More of the service's settings.
        program: What Python runs; by default the service as it is.
    """

    def __init__(
        self,
        name: str,
        dsn: str,
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = ("-m", "postfacta_app"),
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__(
            name,
            [sys.executable, *program, "serve", "--port", str(self.port)],
            log=log,
            environment=_environment(dsn, environment),
        )

    def is_ready(self) -> bool:
        """Whether it says that it can take traffic."""
        try:
            return httpx2.get(f"{self.url}/healthz/ready", timeout=2.0).status_code == 200
        except httpx2.TransportError:
            return False

    def wait_ready(self, within: float = _START) -> float:
        """Wait until it can take traffic; return the seconds that took.

        Raises:
            TimeoutError: It did not get there; the end of its log is shown.
        """
        try:
            return wait_until(self.is_ready, f"{self.name} is ready", within=within, every=0.05)
        except TimeoutError as error:
            last = self.log.read_text(errors="replace")[-1500:]
            raise TimeoutError(f"{error}; its last words:\n{last}") from None


def command(
    *arguments: str, dsn: str, given: str = "", environment: Mapping[str, str] | None = None
) -> str:
    """Run one of the service's commands to its end, and return what it printed.

    Raises:
        RuntimeError: It failed; its own words are shown.
    """
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "postfacta_app", *arguments],
        env=_environment(dsn, environment),
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode:
        raise RuntimeError(f"postfacta {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


def _environment(dsn: str, more: Mapping[str, str] | None) -> dict[str, str]:
    # Coverage would slow down what is measured here, and a process that is killed leaves half a
    # file of it.
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("POSTFACTA_", "COVERAGE_"))
    }
    return {**kept, "POSTFACTA_DATABASE_DSN": dsn, "LOG_LEVEL": "ERROR", **(more or {})}


class Postgres:
    """A whole PostgreSQL server. What is done to it is done to all of its processes.

    Args:
        server: The server; its data must survive a crash, so its settings stay at the safe
            defaults.
    """

    def __init__(self, server: EmbeddedPostgres) -> None:
        self.server = server

    @property
    def is_running(self) -> bool:
        """Whether the postmaster lives, frozen or not."""
        return self.server.pid is not None and self.server.poll() is None

    def start(self) -> None:
        """Start it, and return when it accepts connections: recovery after a crash is over then."""
        self.server.start()

    def stop(self) -> None:
        """Shut it down fast, as an operator does: sessions are ended, everything is written."""
        self.thaw()
        self.server.stop()

    def kill(self) -> None:
        """End the postmaster and all backends at once.

        Nothing is written, the next start recovers.
        """
        if self.server.pid is not None and self.is_running:
            kill(self.server.pid)
        self.server.stop()  # reaps the child, and gives the folder free

    def freeze(self) -> None:
        """Stop all of it in its tracks.

        Connections stay open and answer nothing, and new ones too.
        """
        if self.server.pid is not None and self.is_running:
            freeze(self.server.pid)

    def thaw(self) -> None:
        """Resume it."""
        if self.server.pid is not None and self.is_running:
            thaw(self.server.pid)


class Haproxy(Child):
    """The proxy in front of instances, which it asks whether they are ready.

    Args:
        folder: Where its configuration and log are written.
        ports: Where the instances listen.
        retries: How often a connection that was *refused* is tried again, at another instance. A
            request that was sent is never repeated.
        names: What the instances are called in the header `X-Served-By`.
    """

    def __init__(
        self, folder: Path, ports: Sequence[int], *, retries: int = 1, names: Sequence[str] = ()
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._config = folder / "haproxy.cfg"
        self._config.write_text(
            _haproxy_config(
                self.port, dict(zip(names or map(str, ports), ports, strict=True)), retries=retries
            )
        )
        super().__init__(
            "haproxy",
            [self.program() or "haproxy", "-db", "-f", str(self._config)],
            log=folder / "haproxy.log",
            environment=os.environ,
        )

    @staticmethod
    def program() -> str | None:
        """Find the program; None if this system has none."""
        return shutil.which(
            "haproxy", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"
        )

    def wait_ready(self, within: float = _START) -> float:
        """Wait until a request gets through to an instance."""

        def answers() -> bool:
            try:
                return httpx2.get(f"{self.url}/healthz/ready", timeout=2.0).status_code == 200
            except httpx2.TransportError:
                return False

        return wait_until(answers, "haproxy lets requests through", within=within, every=0.05)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _haproxy_config(port: int, ports: Mapping[str, int], *, retries: int) -> str:
    checked = "\n".join(f"  server {name} 127.0.0.1:{at} check" for name, at in ports.items())
    # While no instance is ready, an instance's own answer (with its reason and Retry-After) is
    # better than the proxy's.
    unchecked = "\n".join(
        f"  server spare-{name} 127.0.0.1:{at} backup" for name, at in ports.items()
    )
    return f"""\
global
  maxconn 2000
defaults
  mode http
  timeout connect 1s
  timeout client 30s
  timeout server 15s
  retries {retries}
  option redispatch 1
frontend users
  bind 127.0.0.1:{port}
  default_backend instances
backend instances
  balance roundrobin
  option httpchk GET /healthz/ready
  option allbackups
  http-response set-header X-Served-By %s
  default-server inter 100ms fastinter 50ms fall 2 rise 1 observe layer4 error-limit 1 on-error mark-down
{checked}
{unchecked}
"""
