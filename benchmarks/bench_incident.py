"""Compare GET of one incident with the same thing written by hand.

Requests a second, and CPU a request.

Real servers (uvicorn, one process each) on one real PostgreSQL serve the same incident over
sockets, by the same query. Servers have one core to themselves, clients and PostgreSQL the other;
so it is the server that limits the rate, as *busy* shows (its share of its core; near 1). Where it
is below 0.8 the machine has other work, and nothing is reported: no figure, and exit code 2. Rounds
take turns, so that a slow moment hits all; figures are medians, and ratios are medians of each
round's own ratio. *cpu_ratio* is how the CPU time of a request by hand compares to that of ours,
which is the ratio of rates that the core allows. Like is compared with like:

* `postfacta` logs each request as JSON, as it does in production; against `by hand, access log`,
  which has uvicorn's access log, on by default
* `postfacta, no log` logs nothing; against `by hand`, which logs nothing either

What is written by hand has nothing of the rest. All write to a pipe that is read, as they do under
a supervisor.

    python -m benchmarks.bench_incident [--rounds 9] [--seconds 2] [--clients 8] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, cast
from uuid import uuid4

import httpx2

from chaos.stack import prepare, sign_in
from postfacta_embedded import EmbeddedPostgres
from postfacta_lab.engine.processes import free_port, wait_until

__all__ = ["cpu_seconds", "figures", "main", "serving"]

_AGAINST: Final = {"postfacta": "by hand, access log", "postfacta, no log": "by hand"}
_BUSY: Final = 0.8
_Round = dict[
    str, tuple[float, float, float]
]  # requests a second, CPU in microseconds, share of its core
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@contextmanager
def serving(
    command: list[str], port: int, environment: dict[str, str], core: int
) -> Generator[int]:
    """Run a server until the block ends; give its pid."""
    reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)  # noqa: S607 - every system's
    process = subprocess.Popen(  # noqa: S603 - our own
        [sys.executable, "-m", *command, "--port", str(port)],
        env={**os.environ, **environment},
        stdout=reader.stdin,
        stderr=subprocess.DEVNULL,
    )
    os.sched_setaffinity(process.pid, {core})

    def answers() -> bool:
        try:
            return httpx2.get(f"http://127.0.0.1:{port}/healthz/ready").status_code < 500
        except httpx2.TransportError:
            return False

    try:
        wait_until(answers, f"{command[0]} serves", within=60.0)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        reader.communicate(timeout=60)


class _Client:
    """One kept connection that asks the same again as soon as it is answered."""

    def __init__(self, port: int, request: bytes) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10.0)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = request
        self._given = b""

    def fileno(self) -> int:
        return self._socket.fileno()

    def ask(self) -> None:
        self._socket.sendall(self._request)

    def read(self) -> bool:
        """Read what is there; tell whether the answer is complete."""
        self._given += self._socket.recv(65536)
        head, end, body = self._given.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"not 200: {head[:200]!r}")
        length = _LENGTH.search(head)
        if not end or length is None or len(body) < int(length[1]):
            return False
        self._given = b""
        return True

    def close(self) -> None:
        self._socket.close()


def _round(port: int, request: bytes, *, clients: int, seconds: float) -> tuple[int, float]:
    """Send requests on this many connections at once; return their number, and the seconds."""
    count = 0
    with selectors.DefaultSelector() as ready, ExitStack() as stack:
        for client in [_Client(port, request) for _ in range(clients)]:
            stack.callback(client.close)
            ready.register(client, selectors.EVENT_READ)
            client.ask()
        began = time.monotonic()
        while (now := time.monotonic()) < began + seconds:
            for key, _ in ready.select(1.0):
                client = cast("_Client", key.fileobj)
                if client.read():
                    count += 1
                    client.ask()
    return count, now - began


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of all threads of a process."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def _compare(
    servers: dict[str, tuple[int, int]], request: bytes, options: argparse.Namespace
) -> dict[str, dict[str, float]]:
    rounds: list[_Round] = []
    for _ in range(options.rounds + 1):
        measured: _Round = {}
        for name, (port, pid) in servers.items():
            before = cpu_seconds(pid)
            done, seconds = _round(port, request, clients=options.clients, seconds=options.seconds)
            spent = cpu_seconds(pid) - before
            measured[name] = (done / seconds, spent / done * 1e6, spent / seconds)
        rounds.append(measured)
    return figures(rounds[1:])  # The first warmed up.


def figures(rounds: Sequence[_Round]) -> dict[str, dict[str, float]]:
    """Return the medians of each server, and ratios to what it is compared with.

    Raises:
        SystemExit: With 2 if a server did not have its core to itself.
    """

    def median(name: str, at: int) -> float:
        return statistics.median(one[name][at] for one in rounds)

    def ratio(name: str, at: int) -> float:
        return statistics.median(one[name][at] / one[_AGAINST[name]][at] for one in rounds)

    idle = {name: busy for name in rounds[0] if (busy := round(median(name, 2), 2)) < _BUSY}
    if idle:
        sys.stderr.write(
            f"no figures: a server needs a core to itself, busy {_BUSY:g} or more; found {idle}. "
            "Stop what else runs here, and ask again.\n"
        )
        raise SystemExit(2)
    return {
        name: {
            "requests_per_second": round(median(name, 0), 1),
            "cpu_us": round(median(name, 1), 1),
            "busy": round(median(name, 2), 2),
            **(
                {"ratio": round(ratio(name, 0), 3), "cpu_ratio": round(1 / ratio(name, 1), 3)}
                if name in _AGAINST
                else {}
            ),
        }
        for name in rounds[0]
    }


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        parser.error("it needs two cores: one for the servers, one for all else")
    core = cores[-1]
    os.sched_setaffinity(0, {*cores} - {core})
    found = _measure(options, core)
    print(json.dumps(found, indent=2))  # noqa: T201 - its job
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def _measure(options: argparse.Namespace, core: int) -> dict[str, dict[str, float]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="postfacta-bench-")))
        folder.chmod(0o755)  # PostgreSQL may run as another user
        template = prepare(folder / "template")
        dsn = stack.enter_context(EmbeddedPostgres(template / "data")).dsn()
        environment = {"POSTFACTA_DATABASE_DSN": dsn, "BENCH_DSN": dsn, "LOG_FORMAT": "JSON"}
        ours = ["postfacta_app", "serve"]
        theirs = [
            "uvicorn",
            "benchmarks.handwritten:app",
            "--loop",
            "asyncio",
            "--http",
            "httptools",
        ]
        commands: dict[str, tuple[list[str], dict[str, str]]] = {
            "postfacta": (ours, {}),
            "postfacta, no log": (ours, {"LOG_LEVEL": "ERROR"}),
            "by hand": ([*theirs, "--no-access-log"], {}),
            "by hand, access log": (theirs, {}),
        }
        servers: dict[str, tuple[int, int]] = {}
        for name, (command, more) in commands.items():
            port = free_port()
            server = serving(command, port, {**environment, **more}, core)
            servers[name] = (port, stack.enter_context(server))
        port, _ = servers["postfacta"]
        token = sign_in(f"http://127.0.0.1:{port}", (template / "admin.password").read_text())
        path = _make_incident(port, token)
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        return _compare(servers, request, options)


def _make_incident(port: int, token: str) -> str:
    body = {
        "title": "To be read",
        "description": "Again and again",
        "severity": "LOW",
        "kind": "exercise",
    }
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": f'"{uuid4()}"'}
    answer = httpx2.post(f"http://127.0.0.1:{port}/api/v1/incidents", json=body, headers=headers)
    return f"/api/v1/incidents/INC-{answer.raise_for_status().json()['number']}"


if __name__ == "__main__":
    main()
