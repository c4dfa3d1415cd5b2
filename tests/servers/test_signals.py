"""SIGTERM reaches every worker of every server, which serves on until it is released, and then ends cleanly.

The cheap subset has one server for each way of catching the signal; `pytest -m long` runs the
others.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from tests.kit.ports import free_port

HERE = Path(__file__).parent
BIND = "127.0.0.1"
# Each is given out once, as servers start beside one another; all lie below those of outgoing
# connections.


@dataclass(frozen=True)
class Server:
    """One of the matrix: how it is started, and what is to be found there."""

    command: str
    mechanism: str
    workers: int = 1

    @property
    def repeats(self) -> range:
        """How often a worker may get four signals sent to it, and what its parent forwards."""
        # Those to hypercorn's parent set an event that is set already, and those to its workers are
        # its parent's.
        return range(1, 2) if self.mechanism == "event" else range(2, 9)


SERVERS = {
    "uvicorn-h11": Server("uvicorn --loop asyncio --http h11 --port {port} {app}", "wrap"),
    "uvicorn-2": Server("uvicorn --loop uvloop --workers 2 --port {port} {app}", "wrap", 2),
    "granian-uvloop": Server(
        "granian --interface asgi --loop uvloop --port {port} {app}", "uvloop"
    ),
    "hypercorn-trio-0": Server("hypercorn -b {bind} -w 0 -k trio {app}", "default"),
    "uvicorn-uvloop": Server("uvicorn --loop uvloop --http httptools --port {port} {app}", "wrap"),
    "granian-asyncio": Server(
        "granian --interface asgi --loop asyncio --port {port} {app}", "loop"
    ),
    "granian-2-uvloop": Server(
        "granian --interface asgi --loop uvloop --workers 2 --port {port} {app}", "uvloop", 2
    ),
    "granian-2-asyncio": Server(
        "granian --interface asgi --loop asyncio --workers 2 --port {port} {app}", "loop", 2
    ),
    "hypercorn-asyncio-0": Server("hypercorn -b {bind} -w 0 {app}", "loop"),
    "hypercorn-uvloop-0": Server("hypercorn -b {bind} -w 0 -k uvloop {app}", "uvloop"),
    "hypercorn-asyncio-1": Server("hypercorn -b {bind} -w 1 {app}", "event"),
    "hypercorn-asyncio-2": Server("hypercorn -b {bind} -w 2 {app}", "event", 2),
    "hypercorn-trio-1": Server("hypercorn -b {bind} -w 1 -k trio {app}", "event"),
    "hypercorn-trio-2": Server("hypercorn -b {bind} -w 2 -k trio {app}", "event", 2),
    "gunicorn-uvicorn": Server(
        "gunicorn -b {bind} -w 2 --no-control-socket -k uvicorn_worker.UvicornWorker {app}",
        "wrap",
        2,
    ),
    "gunicorn-asgi": Server(
        "gunicorn -b {bind} -w 2 --no-control-socket -k asgi {app}", "uvloop", 2
    ),
}
CHEAP = ("uvicorn-h11", "uvicorn-2", "granian-uvloop", "hypercorn-trio-0")
EACH = [pytest.param(name, marks=() if name in CHEAP else pytest.mark.long) for name in SERVERS]
STARTUP = "a signal during startup"


@dataclass
class Running:
    """A server, and what its workers wrote down."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    def notes(self) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        file = self.folder / "notes"
        for line in file.read_text().splitlines() if file.exists() else []:
            pid, _, words = line.partition(" ")
            found.setdefault(int(pid), []).append(words)
        return found

    def noting(self, start: str) -> int:
        """Count the workers that noted something like this."""
        return sum(any(words.startswith(start) for words in each) for each in self.notes().values())

    def until(self, condition: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + 40
        while not condition():
            assert time.monotonic() < until, self.story(what)
            assert self.process.poll() is None or condition(), self.story(f"ended, but {what}")
            time.sleep(0.05)  # noqa: TID251 - a real server, in a test

    def story(self, what: str) -> str:
        return f"{what}: {self.notes()}\n{(self.folder / 'log').read_text()}"

    def get(self) -> int:
        """Request once, on a new connection; 0 if that fails."""
        connection = http.client.HTTPConnection(BIND, self.port, timeout=20)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def go(self) -> None:
        (self.folder / "go").touch()

    def end(self) -> int:
        self.until(lambda: self.process.poll() is not None, "it does not end")
        return self.process.wait()


@contextmanager
def serving(server: Server, folder: Path, *, slow: bool = False) -> Generator[Running]:
    """Run a server as a direct child until the block ends."""
    folder.mkdir()
    port = free_port()
    words = server.command.format(port=port, bind=f"{BIND}:{port}", app="signals_app:app").split()
    command = [str(Path(sys.executable).parent / words[0]), *words[1:]]
    environment = {
        **os.environ,
        "SIGNALS_FOLDER": str(folder),
        **({"SIGNALS_SLOW": "1"} if slow else {}),
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - a fixed program
            command, cwd=HERE, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    running = Running(folder, port, process)
    try:
        yield running
    finally:
        for pid in (process.pid, *running.notes()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(10)


@dataclass
class Outcome:
    """What came of one server."""

    code: int = -1
    answers: Counter[int] = field(default_factory=Counter[int])
    notes: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    log: str = ""
    seconds_to_hear: float = 0.0

    def counts(self, words: str) -> list[int]:
        """Count this note, for each worker."""
        return [each.count(words) for each in self.notes.values()]


def start(running: Running, workers: int) -> None:
    running.until(lambda: running.noting("started") == workers, "not all started")
    running.until(lambda: running.get() == 200, "it does not answer")


def drain(server: Server, folder: Path) -> Outcome:
    """Start it, tell it to stop thrice and its workers too, see it serve, let it go, see it end."""
    outcome = Outcome()
    with serving(server, folder) as running:
        start(running, server.workers)
        told = time.monotonic()
        running.process.terminate()
        running.until(lambda: running.noting("heard 15") == server.workers, "not heard")
        outcome.seconds_to_hear = time.monotonic() - told
        outcome.answers.update(running.get() for _ in range(10))
        for _ in range(3):
            for pid in {running.process.pid, *running.notes()}:
                os.kill(pid, signal.SIGTERM)
            outcome.answers.update(running.get() for _ in range(10))
        running.go()
        outcome.code = running.end()
        outcome.notes = running.notes()
        outcome.log = (folder / "log").read_text()
    return outcome


def drain_while_starting(server: Server, folder: Path) -> Outcome:
    """Stop it when it has begun to start, and release it immediately."""
    outcome = Outcome()
    with serving(server, folder, slow=True) as running:
        running.go()
        running.until(
            lambda: running.noting("starting") == server.workers, "not all begin to start"
        )
        running.process.terminate()
        outcome.code = running.end()
        outcome.notes = running.notes()
        outcome.log = (folder / "log").read_text()
    return outcome


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[dict[str, Future[Outcome]]]:
    """Drain the servers of this run, some beside one another, while the tests take what is done."""
    names = dict.fromkeys(
        str(item.callspec.params["name"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and "outcomes" in item.fixturenames
    )
    folder = tmp_path_factory.mktemp("signals")
    with ThreadPoolExecutor(4) as threads:
        found: dict[str, Future[Outcome]] = {}
        for name in names:
            found[name] = threads.submit(drain, SERVERS[name], folder / name)
            found[name + STARTUP] = threads.submit(
                drain_while_starting, SERVERS[name], folder / (name + " starting")
            )
        yield found


@pytest.mark.parametrize("name", EACH)
def test_sigterm_reaches_every_worker_which_serves_until_released(
    name: str, outcomes: dict[str, Future[Outcome]]
) -> None:
    server, outcome = SERVERS[name], outcomes[name].result()
    assert len(outcome.notes) == server.workers
    assert outcome.counts(f"started {server.mechanism}") == [1] * server.workers
    assert outcome.answers == {200: 40}
    assert all(count in server.repeats for count in outcome.counts("heard 15"))
    assert outcome.counts("releasing") == [1] * server.workers
    assert outcome.counts("shutdown") == [1] * server.workers
    assert outcome.code == 0, outcome.log


@pytest.mark.parametrize("name", EACH)
def test_a_signal_during_startup_ends_the_server(
    name: str, outcomes: dict[str, Future[Outcome]]
) -> None:
    server, outcome = SERVERS[name], outcomes[name + STARTUP].result()
    assert len(outcome.notes) == server.workers
    assert min(outcome.counts("heard 15")) >= 1, outcome.log


def drain_at_the_terminal(server: Server, folder: Path, more: str = "") -> Outcome:
    """Press Ctrl-C, which every process of the group gets, see it serve, and let it go."""
    outcome = Outcome()
    with serving(Server(server.command + more, server.mechanism), folder) as running:
        start(running, server.workers)
        os.killpg(running.process.pid, signal.SIGINT)
        running.until(lambda: running.noting("heard 2") == server.workers, "not heard")
        outcome.answers.update(running.get() for _ in range(10))
        running.go()
        outcome.code = running.end()
        outcome.notes = running.notes()
        outcome.log = (folder / "log").read_text()
    return outcome


INTERACTIVE = (
    ("uvicorn-h11", ""),
    ("uvicorn-h11", " --reload"),
    ("granian-uvloop", ""),
    ("hypercorn-trio-0", ""),
    pytest.param("uvicorn-2", "", marks=pytest.mark.long),
    pytest.param("hypercorn-asyncio-0", "", marks=pytest.mark.long),
)


@pytest.mark.parametrize(("name", "more"), INTERACTIVE)
def test_ctrl_c_is_kept_back_as_sigterm_is(name: str, more: str, tmp_path: Path) -> None:
    server = SERVERS[name]
    outcome = drain_at_the_terminal(server, tmp_path / "server", more)
    assert outcome.answers == {200: 10}
    assert outcome.counts("shutdown") == [1] * server.workers
    assert outcome.code == 0, outcome.log


def heard(running: Running, words: str, times: int) -> bool:
    return running.notes()[running.process.pid].count(words) == times


@pytest.mark.parametrize(
    "name",
    [
        "uvicorn-h11",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in (
                "uvicorn-uvloop",
                "hypercorn-asyncio-0",
                "hypercorn-uvloop-0",
                "hypercorn-trio-0",
            )
        ),
    ],
)
def test_sigint_after_sigterm_is_kept_back_too(name: str, tmp_path: Path) -> None:
    # Without the interception uvicorn would end at once: requests cut off, no shutdown of the
    # lifespan.
    server = SERVERS[name]
    with serving(server, tmp_path / "server") as running:
        start(running, server.workers)
        running.process.terminate()
        running.until(lambda: running.noting("heard 15") == 1, "not heard")
        for times in (1, 2):
            running.process.send_signal(signal.SIGINT)
            running.until(partial(heard, running, "heard 2", times), "not heard")
            assert [running.get() for _ in range(5)] == [200] * 5
        running.go()
        assert running.end() == 0, running.story("it failed")
        assert running.noting("shutdown") == 1
