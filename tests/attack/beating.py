"""The service as a process that measures itself.

How much processor its loop spends between two turns.

Time of the loop's own thread and not of a clock: what other processes and threads take is not the
service's fault, so the numbers hold on a busy machine too. And in the measure of a fixed piece of
Python, so that they hold on a slow one.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import uvicorn

from postfacta_app.app import create_app
from postfacta_app.settings import load_settings
from postfacta_app.web.routes import RouteClass
from postfacta_core.asgi.stack import Hardened
from tests.app.running import read_until
from tests.kit.speed import slowness, work

__all__ = ["Beat", "Beating", "beating"]

_TURN = 0.001
_MEASURE_EVERY = 100  # turns


class _Heart:
    """Serves the application.

    `/beat` tells the longest turn of its loop since it was last asked, `/burn` makes one.
    """

    def __init__(self, app: Hardened) -> None:
        self._app = app
        self._worst = self._last = 0.0
        self._slowness, self._turns = 1.0, 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            self._last = time.thread_time()
            self._beat()
        elif scope["path"] == "/beat":
            self._measure()
            worst, self._worst, self._slowness = self._worst / self._slowness, 0.0, 1.0
            self._measure()
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            body = f"{worst:.6f} {most} {time.process_time():.6f}".encode()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": body})
            return
        elif scope["path"] == "/burn":
            for _ in range(400):
                work()
        await self._app(scope, receive, send)

    def _beat(self) -> None:
        now = time.thread_time()
        self._worst, self._last = max(self._worst, now - self._last), now
        self._turns += 1
        if not self._turns % _MEASURE_EVERY:
            self._measure()
        asyncio.get_running_loop().call_later(_TURN, self._beat)

    def _measure(self) -> None:
        """Find how many times slower than usual the machine is just now.

        It is no part of a turn.
        """
        took = work()
        self._slowness = max(self._slowness, slowness(took))
        self._last += took


@dataclass(frozen=True, slots=True)
class Beat:
    """What the process says of itself since it was last asked.

    Attributes:
        stall: Seconds of processor that the longest turn of its loop took, as of a machine of the
            usual speed.
        most_bytes: The most memory that it ever held.
        processor: Seconds of processor that it has used in all.
    """

    stall: float
    most_bytes: int
    processor: float


@dataclass(frozen=True, slots=True)
class Beating:
    """A running service."""

    url: str
    process: subprocess.Popen[str]

    def beat(self) -> Beat:
        """Ask how long its loop was held, and begin to measure again."""
        stall, most, processor = httpx2.get(f"{self.url}/beat", timeout=60).text.split()
        return Beat(float(stall), int(most), float(processor))

    def wait_ready(self, client: httpx2.Client) -> None:
        """Wait until it has found its database.

        `client` is a user who may ask for their own account.
        """
        until = time.monotonic() + 30
        while client.get("/api/v1/me").status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.05)  # noqa: TID251 - there is no loop to block


@contextmanager
def beating(dsn: str, settings: Mapping[str, str] | None = None) -> Generator[Beating]:
    """Run the service on a migrated database until the block ends."""
    # What is measured must not be measured twice: coverage makes each line cost several times as
    # much.
    environment = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith(("POSTFACTA_", "COVERAGE_"))
    }
    given = {
        "POSTFACTA_DATABASE_DSN": dsn,
        "POSTFACTA_READY_REQUIRES_DB": "false",
        "POSTFACTA_STATEMENT_TIMEOUT": "60",
        "POSTFACTA_SHEDDING": "off",
        "POSTFACTA_POOL_ACQUIRE_TIMEOUT": "30",
        "LOG_LEVEL": "ERROR",
        **(settings or {}),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.attack.beating"],
        env=environment | given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        said = read_until("http://", process.stdout)
        found = re.search(r"http://\S+", said)
        assert found, said
        yield Beating(found[0], process)
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _main() -> None:
    # What is measured is the loop, not how fast the machine is: so a request may take its time.
    for kind in RouteClass:
        kind.seconds = 60.0
    heart = _Heart(create_app(load_settings()))
    config = uvicorn.Config(
        heart, port=0, loop="asyncio", http="httptools", log_config=None, access_log=False
    )
    listener = config.bind_socket()
    listener.listen()  # So that who comes before the server is ready waits, and is not refused.
    sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    # As `postfacta serve` does it.
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    _main()
