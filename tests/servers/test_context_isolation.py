"""No request sees the context of an earlier one on its connection, on any server.

uvicorn on the asyncio loop starts a request in the context of an earlier one, once that one's body
was above 64 KiB. The naive application shows that this test would notice.
"""

from __future__ import annotations

import http.client
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.servers.serving import BIND, serving

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


def on_one_connection(port: int, sizes: Sequence[int]) -> list[tuple[str, str]]:
    """Post bodies of these sizes one after another.

    Return the id each sent, and the one its handler found.
    """
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
    command = SERVERS[server].replace("{app}", f"isolation_app:{app}")
    with serving(f"{command} {flags}", log) as (port, _):
        return on_one_connection(port, (10, 300_000, 10))


@pytest.mark.parametrize("server", SERVERS)
def test_each_request_has_a_context_of_its_own(server: str, tmp_path: Path) -> None:
    assert [found == sent for sent, found in ids(server, "app", tmp_path / "log")] == [
        True,
        True,
        True,
    ]


@pytest.mark.parametrize("server", LEAKING)
def test_an_application_that_trusts_the_server_is_caught(server: str, tmp_path: Path) -> None:
    inherited = [found != sent for sent, found in ids(server, "naive", tmp_path / "log")]
    assert inherited == [False, False, True]


@pytest.mark.parametrize("server", LEAKING)
def test_the_servers_own_flag_helps_such_an_application(server: str, tmp_path: Path) -> None:
    seen = ids(server, "naive", tmp_path / "log", flags="--reset-contextvars")
    assert [found == sent for sent, found in seen] == [True, True, True]
