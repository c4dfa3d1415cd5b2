"""Compare GET of one incident with the same thing written by hand: requests a second, and CPU a request.

Two real servers (uvicorn, one process each) on one real PostgreSQL serve the same incident over sockets. Rounds take
turns, so that a slow moment hits both; the figures are medians. The service logs each request as JSON, as it does in
production, to /dev/null; a second instance of it logs nothing.

    python -m benchmarks.bench_incident [--rounds 9] [--seconds 2] [--clients 8] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import httpx2

from chaos.processes import free_port, wait_until
from chaos.stack import prepare, sign_in
from postfacta_embedded import EmbeddedPostgres

__all__ = ["main"]

_TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def _server(command: list[str], port: int, environment: dict[str, str], path: str) -> Generator[int]:
    """Run a server until the block ends; give its pid."""
    process = subprocess.Popen(  # noqa: S603 - our own
        [sys.executable, "-m", *command, "--port", str(port)],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def answers() -> bool:
        try:
            return httpx2.get(f"http://127.0.0.1:{port}{path}").status_code < 500
        except httpx2.TransportError:
            return False

    try:
        wait_until(answers, f"{command[0]} serves", within=60.0)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


async def _client(port: int, request: bytes, until: float) -> int:
    """Ask again and again on one connection; return how often."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    count = 0
    while time.monotonic() < until:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"not 200: {head[:200]!r}")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
        count += 1
    writer.close()
    await writer.wait_closed()
    return count


async def _round(port: int, request: bytes, *, clients: int, seconds: float) -> int:
    until = time.monotonic() + seconds
    return sum(await asyncio.gather(*(_client(port, request, until) for _ in range(clients))))


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _compare(
    servers: dict[str, tuple[int, int]], request: bytes, options: argparse.Namespace
) -> dict[str, object]:
    rates: dict[str, list[float]] = {name: [] for name in servers}
    costs: dict[str, list[float]] = {name: [] for name in servers}
    for number in range(options.rounds + 1):
        for name, (port, pid) in servers.items():
            before = _cpu(pid)
            done = asyncio.run(_round(port, request, clients=options.clients, seconds=options.seconds))
            if number:  # The first warms up.
                rates[name].append(done / options.seconds)
                costs[name].append((_cpu(pid) - before) / done * 1e6)
    figures: dict[str, object] = {
        name: {
            "requests_per_second": round(statistics.median(rates[name]), 1),
            "cpu_us": round(statistics.median(costs[name]), 1),
        }
        for name in servers
    }
    by_hand = statistics.median(rates["by hand"])
    figures["ratios"] = {name: round(statistics.median(rates[name]) / by_hand, 3) for name in servers}
    return figures


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
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="postfacta-bench-")))
        folder.chmod(0o755)  # PostgreSQL may run as another user
        template = prepare(folder / "template")
        dsn = stack.enter_context(EmbeddedPostgres(template / "data")).dsn()
        ours, quiet, theirs = free_port(), free_port(), free_port()
        environment = {"POSTFACTA_DATABASE_DSN": dsn, "BENCH_DSN": dsn, "LOG_FORMAT": "JSON"}
        silent = {**environment, "LOG_LEVEL": "ERROR"}
        serve = ["postfacta_app", "serve"]
        by_hand = ["uvicorn", "benchmarks.handwritten:app", "--loop", "asyncio", "--no-access-log"]
        servers = {
            "postfacta": (ours, stack.enter_context(_server(serve, ours, environment, "/healthz/ready"))),
            "postfacta, no log": (
                quiet,
                stack.enter_context(_server(serve, quiet, silent, "/healthz/ready")),
            ),
            "by hand": (theirs, stack.enter_context(_server(by_hand, theirs, environment, "/"))),
        }
        token = sign_in(f"http://127.0.0.1:{ours}", (template / "admin.password").read_text())
        path = _make_incident(ours, token)
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        figures = _compare(servers, request, options)
    print(json.dumps(figures, indent=2))  # noqa: T201 - its job
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def _make_incident(port: int, token: str) -> str:
    body = {"title": "To be read", "description": "Again and again", "severity": "LOW", "kind": "exercise"}
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": f'"{uuid4()}"'}
    answer = httpx2.post(f"http://127.0.0.1:{port}/api/v1/incidents", json=body, headers=headers)
    return f"/api/v1/incidents/INC-{answer.raise_for_status().json()['number']}"


if __name__ == "__main__":
    main()
