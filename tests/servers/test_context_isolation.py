"""No request sees the context of an earlier one on its connection, on any server.

uvicorn on the asyncio loop starts a request in the context of an earlier one, once that one's body was above
64 KiB. The naive application shows that this test would notice.
"""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BIND = "127.0.0.1"

SERVERS = {
    "uvicorn-h11": "uvicorn --loop asyncio --http h11 --port {port} {app}",
    "uvicorn-httptools": "uvicorn --loop asyncio --http httptools --port {port} {app}",
    "uvicorn-uvloop": "uvicorn --loop uvloop --http httptools --port {port} {app}",
    "granian": "granian --interface asgi --loop asyncio --port {port} {app}",
    "hypercorn": "hypercorn --bind 127.0.0.1:{port} --workers 0 {app}",
    "hypercorn-trio": "hypercorn --bind 127.0.0.1:{port} --workers 0 --worker-class trio {app}",
    "gunicorn": "gunicorn --bind 127.0.0.1:{port} --worker-class uvicorn_worker.UvicornWorker {app}",
}
# How the naive application fares: the servers that are known to leak.
LEAKING = ("uvicorn-h11", "uvicorn-httptools")


def free_port() -> int:
    """Find a port below those that the kernel gives to outgoing connections."""
    for port in range(18_000 + hash(sys.argv[0]) % 1000, 32_000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if probe.connect_ex((BIND, port)) == 0:
                continue
        with socket.socket() as probe:
            try:
                probe.bind((BIND, port))
            except OSError:
                continue
            return port
    raise AssertionError


@contextmanager
def serving(command: str, app: str, log: Path) -> Generator[int]:
    """Run a server as a direct child until the block ends."""
    port = free_port()
    words = command.format(port=port, app=f"isolation_app:{app}").split()
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - a fixed program
            [Path(sys.executable).parent / words[0], *words[1:]], cwd=HERE, stdout=output, stderr=output
        )
    try:
        wait_for(port, process, log)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server takes connections."""
    until = time.monotonic() + 20
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((BIND, port)) == 0:
                return
        time.sleep(0.05)  # noqa: TID251 - a real server, in a test
    pytest.fail(log.read_text())


def on_one_connection(port: int, sizes: Sequence[int]) -> list[tuple[str, str]]:
    """Post bodies of these sizes one after another; return the id each sent, and the one its handler found."""
    connection = http.client.HTTPConnection(BIND, port, timeout=10)
    seen: list[tuple[str, str]] = []
    local: object = None
    try:
        for number, size in enumerate(sizes):
            sent = f"request-number-{number}"
            connection.request("POST", "/", b"x" * size, {"X-Request-ID": sent})
            local = local or connection.sock.getsockname()
            seen.append((sent, connection.getresponse().read().decode()))
            assert connection.sock is not None, "the server closed the connection"
            assert connection.sock.getsockname() == local, "it was another connection"
    finally:
        connection.close()
    return seen


def ids(server: str, app: str, log: Path, *, flags: str = "") -> list[tuple[str, str]]:
    with serving(f"{SERVERS[server]} {flags}", app, log) as port:
        return on_one_connection(port, (10, 300_000, 10))


@pytest.mark.parametrize("server", SERVERS)
def test_each_request_has_a_context_of_its_own(server: str, tmp_path: Path) -> None:
    assert [found == sent for sent, found in ids(server, "app", tmp_path / "log")] == [True, True, True]


@pytest.mark.parametrize("server", LEAKING)
def test_an_application_that_trusts_the_server_is_caught(server: str, tmp_path: Path) -> None:
    inherited = [found != sent for sent, found in ids(server, "naive", tmp_path / "log")]
    assert inherited == [False, False, True]


@pytest.mark.parametrize("server", LEAKING)
def test_the_servers_own_flag_helps_such_an_application(server: str, tmp_path: Path) -> None:
    seen = ids(server, "naive", tmp_path / "log", flags="--reset-contextvars")
    assert [found == sent for sent, found in seen] == [True, True, True]
