"""Callers that hold on to `postfacta serve` without asking anything.

Others are served, and they go in time.

No proxy stands before it, and no database behind it: what is asked here needs none.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx2
import pytest

from postfacta_adapters.uvicorn import BoundedHttp
from tests.kit.ports import free_port
from tests.servers.serving import BIND, started, wait_for

pytestmark = [pytest.mark.usefixtures("programs"), pytest.mark.clock("SLACK, seconds")]

SLACK = 20.0  # Seconds, for a machine that does more than this.
PAGE = "/openapi.json"


class Victim:
    """The service as a process, seen from outside."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.port = port
        self.log = log
        self._folder = Path(f"/proc/{process.pid}")

    @property
    def files(self) -> int:
        """How many files it has open."""
        return sum(1 for _ in (self._folder / "fd").iterdir())

    @property
    def megabytes(self) -> float:
        """How much memory it has."""
        return int((self._folder / "statm").read_text().split()[1]) * 4096 / 1e6


@contextmanager
def victim(folder: Path, *, files: int = 0) -> Generator[Victim]:
    """Run it until the block ends."""
    port, log = free_port(), folder / "log"
    limits = ["prlimit", f"--nofile={files}:{files}"] if files else []
    command = [*limits, sys.executable, "-m", "postfacta_app", "serve", "--port", port]
    environment = {
        "LOG_LEVEL": "WARNING",
        "POSTFACTA_DATABASE_DSN": f"postgresql://{BIND}:1/none",
    }
    with started(command, log, environment=environment) as process:
        wait_for(port, process, log)
        yield Victim(port, process, log)


class Crowd:
    """Many connections that send a little at a time, and how each ended."""

    def __init__(self, port: int, *, first: bytes, then: bytes, every: float = 1.0) -> None:
        self.answers: Counter[bytes] = Counter()
        self.lasted: list[float] = []
        self._port = port
        self._first = first
        self._then = then
        self._every = every

    async def join(self) -> None:
        """Hold one connection until the server closes it."""
        began, got = time.monotonic(), b""
        try:
            reader, writer = await asyncio.open_connection(BIND, self._port)
            try:
                writer.write(self._first)
                while True:
                    try:
                        async with asyncio.timeout(self._every):
                            part = await reader.read(1024)
                    except TimeoutError:
                        writer.write(self._then)
                        continue
                    got += part
                    if not part:
                        break
            finally:
                writer.close()
        except ConnectionError:
            pass
        self.answers[got[9:12]] += 1
        self.lasted.append(time.monotonic() - began)


@asynccontextmanager
async def crowded(crowd: Crowd, number: int) -> AsyncGenerator[None]:
    """Let this many hold on during the block."""
    async with asyncio.TaskGroup() as tasks:
        joined = [tasks.create_task(crowd.join()) for _ in range(number)]
        yield
        for one in joined:
            one.cancel()


async def others(port: int, *, seconds: float, path: str = PAGE) -> Counter[int]:
    """Send requests as another client, on a new connection each time.

    0 is a request without an answer.
    """
    answers: Counter[int] = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        async with httpx2.AsyncClient(timeout=SLACK) as client:
            try:
                answers[(await client.get(f"http://{BIND}:{port}{path}")).status_code] += 1
            except httpx2.TransportError:
                answers[0] += 1
        await asyncio.sleep(0.05)
    return answers


async def test_slow_heads_are_closed_and_others_are_served(tmp_path: Path) -> None:
    with victim(tmp_path) as service:
        before = service.files
        crowd = Crowd(service.port, first=b"GET / HTTP/1.1\r\nhost: x\r\n", then=b"x: y\r\n")
        async with crowded(crowd, 300):
            answers = await others(service.port, seconds=3.0)
            async with asyncio.timeout(BoundedHttp.patience + SLACK):
                while len(crowd.lasted) < 300:
                    await asyncio.sleep(0.1)
        assert set(answers) == {200}
        assert crowd.answers == {b"408": 300}
        assert service.files <= before + 20


async def test_more_connections_than_open_files_lock_no_client_out(tmp_path: Path) -> None:
    with victim(tmp_path, files=256) as service:
        crowd = Crowd(service.port, first=b"", then=b"")
        async with crowded(crowd, 800):
            answers = await others(service.port, seconds=8.0)
            assert service.files <= 256
        assert set(answers) == {200}
        said = service.log.read_text()
        assert said.count("connections.full") == 1
        assert "out of system resource" not in said


async def test_slow_bodies_are_refused_and_others_are_served(tmp_path: Path) -> None:
    head = b"POST /login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 5000\r\n\r\n"
    with victim(tmp_path) as service:
        await others(service.port, seconds=1.0)
        before, memory = service.files, service.megabytes
        crowd = Crowd(service.port, first=head + b"{", then=b" ")
        async with crowded(crowd, 400):
            answers = await others(service.port, seconds=4.0)
            assert service.megabytes < memory + 100
            async with asyncio.timeout(2 * SLACK):
                while len(crowd.lasted) < 400:
                    await asyncio.sleep(0.1)
        # While 400 come at the same moment, it is one or another of the others who is told to come
        # back.
        assert answers.keys() <= {200, 503}
        assert answers[200] >= 0.95 * answers.total()
        # Shed, too slow, or beyond the time of the route: each was told, and is gone.
        assert crowd.answers.keys() <= {b"408", b"503", b"504"}
        assert service.files <= before + 20
