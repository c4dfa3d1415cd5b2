"""The servers of the matrix: their command lines, and one of them as a process."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from postfacta_lab.drain.clients import probe
from postfacta_lab.engine.processes import Child, free_port, until
from postfacta_lab.engine.variables import for_a_service

__all__ = ["MATRIX", "Event", "Server", "ServerKind"]

# Above all that our own limits allow: the servers' deadlines must not decide.
_GRACE = 60
_KEEP = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerKind:
    """A server with its options.

    Attributes:
        name: Short, for the table.
        command: With `{port}` and `{app}`.
        workers: How many processes run the application.
        unready_within: The goal for readiness, in seconds after the signal.
        own_signals: The process that we start runs the application, so it gets every signal itself.
    """

    name: str
    command: str
    workers: int = 1
    unready_within: float = 0.1
    own_signals: bool = False


def _uvicorn(name: str, options: str, *, workers: int = 1) -> ServerKind:
    return ServerKind(
        name=name,
        command=(
            f"uvicorn {options} --port {{port}} --no-access-log --timeout-keep-alive {_KEEP}"
            f" --timeout-graceful-shutdown {_GRACE} {{app}}"
        ),
        workers=workers,
        # The parent of several looks after its signals twice a second.
        unready_within=0.1 if workers == 1 else 0.6,
        own_signals=workers == 1,
    )


def _granian(name: str, options: str, *, workers: int = 1) -> ServerKind:
    return ServerKind(
        name=name,
        command=(
            f"granian --interface asgi --http 1 {options} --workers {workers} --port {{port}}"
            f" --workers-kill-timeout {_GRACE} --no-access-log {{app}}"
        ),
        workers=workers,
    )


def _hypercorn(name: str, options: str, *, processes: int) -> ServerKind:
    return ServerKind(
        name=name,
        command=(
            f"hypercorn {options} --workers {processes} --bind 127.0.0.1:{{port}} --keep-alive"
            f" {_KEEP} --graceful-timeout {_GRACE} {{app}}"
        ),
        workers=max(1, processes),
        # Workers look for their parent's word ten times a second, and then the probe comes.
        unready_within=0.1 if processes == 0 else 0.2,
        own_signals=processes == 0,
    )


def _gunicorn(name: str, worker: str, *, workers: int) -> ServerKind:
    return ServerKind(
        name=name,
        command=(
            f"gunicorn --worker-class {worker} --workers {workers} --bind 127.0.0.1:{{port}}"
            f" --keep-alive {_KEEP} --graceful-timeout {_GRACE} --no-control-socket {{app}}"
        ),
        workers=workers,
    )


_KINDS = [
    _uvicorn("uvicorn-1", "--loop uvloop --http httptools"),
    _uvicorn("uvicorn-1-h11", "--loop asyncio --http h11"),
    _uvicorn("uvicorn-2", "--loop uvloop --http httptools --workers 2", workers=2),
    _granian("granian-1", "--loop uvloop"),
    _granian("granian-1-asyncio", "--loop asyncio"),
    _granian("granian-2", "--loop uvloop", workers=2),
    _hypercorn("hypercorn-0", "--worker-class asyncio", processes=0),
    _hypercorn("hypercorn-0-uvloop", "--worker-class uvloop", processes=0),
    _hypercorn("hypercorn-1", "--worker-class asyncio", processes=1),
    _hypercorn("hypercorn-2", "--worker-class asyncio", processes=2),
    _hypercorn("hypercorn-trio-0", "--worker-class trio", processes=0),
    _hypercorn("hypercorn-trio-1", "--worker-class trio", processes=1),
    _gunicorn("gunicorn-uvicorn-1", "uvicorn_worker.UvicornWorker", workers=1),
    _gunicorn("gunicorn-uvicorn-2", "uvicorn_worker.UvicornWorker", workers=2),
    _gunicorn("gunicorn-asgi-2", "asgi", workers=2),
]
MATRIX: Mapping[str, ServerKind] = {kind.name: kind for kind in _KINDS}


@dataclass(frozen=True, slots=True)
class Event:
    """A line of the journal that the application keeps.

    Attributes:
        name: What happened.
        pid: In which process.
        at: When, on the monotonic clock, which all processes of a machine share.
        path: Of the request, for handlers.
        mechanism: By which the library catches signals, for a startup.
    """

    name: str
    pid: int
    at: float
    path: str = ""
    mechanism: str = ""


class Server(Child):
    """One instance, in a session of its own so that nothing of it survives the block.

    Args:
        kind: Which server.
        app: Import string of the application.
        folder: Where the journal and the log go; made if it is missing.
        environment: The application's environment.
        port: Where; by default a free one.
    """

    def __init__(
        self,
        kind: ServerKind,
        *,
        app: str,
        folder: Path,
        environment: Mapping[str, str],
        port: int | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.kind = kind
        self.port = port or free_port()
        self._journal = folder / "journal.jsonl"
        self._journal.unlink(missing_ok=True)
        log = folder / "log"
        log.unlink(missing_ok=True)
        delay = environment.get("DRAIN_DELAY", 0)
        words = shlex.split(kind.command.format(port=self.port, app=app, delay=delay))
        inherited = for_a_service(self.port)
        modules = os.pathsep.join([str(Path.cwd()), inherited.get("PYTHONPATH", "")])
        own = {"PYTHONPATH": modules, "DRAIN_JOURNAL": str(self._journal.absolute())}
        super().__init__(kind.name, words, log=log, environment={**inherited, **own, **environment})

    async def __aenter__(self) -> Self:
        """Start it, without waiting for more."""
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
            # A shell's background job ignores SIGINT, and the server would inherit that: trio needs
            # it.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kill what is left."""
        self.kill()

    def journal(self) -> list[Event]:
        """What the application wrote down so far."""
        if not self._journal.exists():
            return []
        lines = [json.loads(line) for line in self._journal.read_text().splitlines()]
        return [
            Event(
                line["event"],
                line["pid"],
                line["at"],
                line.get("path", ""),
                line.get("mechanism", ""),
            )
            for line in lines
        ]

    def count(self, event: str) -> int:
        """How often that happened."""
        return sum(entry.name == event for entry in self.journal())

    async def ready(self, *, within: float = 30) -> None:
        """Wait until every worker has started and readiness says 200.

        Raises:
            RuntimeError: It did not; with what it printed.
        """
        await until(
            lambda: not self.is_running or self.count("startup") >= self.kind.workers, within
        )
        deadline = time.monotonic() + within
        while self.is_running and time.monotonic() < deadline:
            # Two hundreds in a row from each of several workers are likely only if all of them
            # serve.
            if all(
                [
                    await probe(self.port, "/healthz/ready") == 200
                    for _ in range(2 * self.kind.workers)
                ]
            ):
                return
            await asyncio.sleep(0.02)
        raise RuntimeError(f"{self.kind.name} did not start:\n{self.words}")

    async def exited(self, *, within: float) -> float | None:
        """Wait for the exit of that process; return the moment, or None if it stays."""
        gone = await until(lambda: not self.is_running, within)
        return time.monotonic() if gone else None

    async def leaves_nothing(self) -> bool:
        """Whether all of its session ends with the process that we started, or a moment later."""
        # Python's tracker of shared resources is a process too, and ends when it sees that its
        # parent did.
        return await until(lambda: not self.leaves(), 1)
