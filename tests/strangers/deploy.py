"""A deploy under real clients.

A server gets SIGTERM while each of them is in the midst of an answer.

The service is asked in the same run as its owner wrote it and under `harden`, by the same clients.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from tests.kit.every import every
from tests.kit.waiting import wait_until
from tests.strangers.kit import Environment, Served

__all__ = ["CLIENTS", "HARDEN", "PIECES", "Answer", "Answers", "Deploy", "assert_never_worse"]

PIECES = 50
# Ends the module of a service, whose `app` is what its owner wrote. An answer outlives the drain's
# delay.
HARDEN = """
    if "BARE" not in os.environ:
        from postfacta_core import DrainLimits
        from postfacta_core.asgi import HardenOptions, harden

        limits = DrainLimits(drain_delay=1, drain_timeout=float(os.environ["DRAIN_TIMEOUT"]), close_timeout=2)
        app = harden(app, service="models", options=HardenOptions(drain=limits))
"""
# Begins the module of the clients. A client is a coroutine function: it gets the address of the
# service and that of its successor, calls `piece()` for each piece, and returns whether the answer
# that it took for whole is.
CLIENTS = """
    import asyncio, json, pathlib, sys

    PIECES = 50


    def counter(name):
        def piece():
            piece.count += 1
            if piece.count == 2:
                pathlib.Path(f"{name}.begun").touch()

        piece.count = 0
        return piece


    async def follow(client, urls):
        piece, error, is_whole = counter(client.__name__), "", False
        try:
            async with asyncio.timeout(90):
                is_whole = bool(await client(*urls, piece))
        except Exception as failure:
            error = f"{type(failure).__module__}.{type(failure).__name__}: {failure}"
        return piece.count, is_whole, error


    def main(names, *urls):
        async def run():
            answers = await asyncio.gather(*(follow(globals()[name], urls) for name in names))
            pathlib.Path("answers.json").write_text(json.dumps(dict(zip(names, answers))))

        asyncio.run(run())
"""
_MAIN = """
    main(sys.argv[1].split(","), *sys.argv[2:])
"""


@dataclass(frozen=True)
class Answer:
    """What a client got.

    Attributes:
        pieces: How many pieces of the answer arrived.
        is_whole: Whether the client took the answer for whole, and it was.
        error: What the client raised, with the module of its class; empty if nothing.
    """

    pieces: int
    is_whole: bool
    error: str

    @property
    def kind(self) -> str:
        """The class of the error."""
        return self.error.partition(":")[0]


Answers = Mapping[str, Answer]


@dataclass(frozen=True)
class Deploy:
    """Stops an instance while clients read from it.

    Attributes:
        environment: Has the packages of the service and of the clients.
        clients: The module of the clients, without `CLIENTS`.
        names: The clients that are run.
        services: Modules without `HARDEN`. Each is given the address of the one before as
            `UPSTREAM`; the clients ask the last.
        stops: Which of the services gets SIGTERM.
        has_successor: Whether the last service has a further instance that stays, for clients that
            come back.
        drain_timeout: Seconds that an answer has after the drain's delay of 1 s. The server without
            the library has as much.
        command: The server.
        ending: Ends the module of each service.
    """

    environment: Environment
    clients: str
    names: Sequence[str]
    services: Sequence[str]
    stops: int = -1
    has_successor: bool = False
    drain_timeout: int = 30
    command: str = "uvicorn service:app --port {port}"
    ending: str = HARDEN

    def run(self, folder: Path) -> tuple[Answers, Answers]:
        """Return what each client got: without the library, and with it."""
        bare = f"{self.command} --timeout-graceful-shutdown {1 + self.drain_timeout}"
        with (
            self._served(folder / "bare", bare, {"BARE": "1"}) as without,
            self._served(folder / "hardened", self.command, {}) as hardened,
        ):
            for reading in (without, hardened):
                reading.begin()
                reading.wait_begun()
                reading.stopped.process.terminate()
            return without.answers(), hardened.answers()

    @contextmanager
    def _served(
        self, folder: Path, command: str, variables: Mapping[str, str]
    ) -> Generator[_Reading]:
        with ExitStack() as stack:

            def serve(name: str, code: str, upstream: str) -> Served:
                (folder / name).mkdir(parents=True)
                return stack.enter_context(
                    self.environment.serve(
                        dedent(code) + dedent(self.ending),
                        cwd=folder / name,
                        command=command,
                        environment={
                            "DRAIN_TIMEOUT": str(self.drain_timeout),
                            "UPSTREAM": upstream,
                            **variables,
                        },
                    )
                )

            chain: list[Served] = []
            for position, code in enumerate(self.services):
                chain.append(serve(f"service{position}", code, chain[-1].url if chain else ""))
            urls = [chain[-1].url] * 2
            if self.has_successor:
                urls[1] = serve(
                    "successor", self.services[-1], chain[-2].url if len(chain) > 1 else ""
                ).url
            (folder / "clients.py").write_text(
                dedent(CLIENTS) + dedent(self.clients) + dedent(_MAIN)
            )
            reading = _Reading(self, folder, urls, chain[self.stops])
            stack.callback(reading.end)
            yield reading


@dataclass
class _Reading:
    deploy: Deploy
    folder: Path
    urls: Sequence[str]
    stopped: Served
    process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        command: list[str | Path] = [
            self.deploy.environment.program("python"),
            "clients.py",
            ",".join(self.deploy.names),
            *self.urls,
        ]
        with (self.folder / "clients.log").open("wb") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)  # noqa: S603 - our own clients

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    @property
    def log(self) -> str:
        return (self.folder / "clients.log").read_text(errors="replace") + self.stopped.log

    def wait_begun(self) -> None:
        """Wait until each client is in the midst of its answer."""
        begun = [self.folder / f"{name}.begun" for name in self.deploy.names]
        answers = self.folder / "answers.json"
        wait_until(lambda: all(map(Path.exists, begun)) or answers.exists(), self.log)
        assert all(map(Path.exists, begun)), answers.read_text() + self.log

    def answers(self) -> Answers:
        assert self.process is not None
        assert self.process.wait(120) == 0, self.log
        got = json.loads((self.folder / "answers.json").read_text())
        return {name: Answer(*answer) for name, answer in got.items()}


def assert_never_worse(bare: Answers, hardened: Answers) -> None:
    """Check that the library takes nothing from a client, and that no client takes a part for the whole."""
    with every() as case:
        for name, answer in hardened.items():
            with case(name):
                assert answer.pieces >= bare[name].pieces
                assert answer.is_whole >= bare[name].is_whole
                assert answer.kind in ("", bare[name].kind)
                assert answer.is_whole or answer.error
