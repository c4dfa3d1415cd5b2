"""A service that only names another protocol to uvicorn outlives clients that send no whole request."""

from __future__ import annotations

import re
import socket
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from tests.kit.waiting import wait_until
from tests.servers.serving import BIND
from tests.strangers.kit import ROOT, Environments

SERVICE = """
    from fastapi import FastAPI

    app = FastAPI()


    @app.get("/invoices")
    def invoices() -> str:
        return "an invoice"
"""
FEW_FILES = """
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 400))
"""
COMMAND = "uvicorn service:app --port {port} --http postfacta_adapters.uvicorn:BoundedHttp"
PAGE = ROOT / "docs/how-to/choose-a-server.md"


def status(url: str) -> int:
    return httpx2.get(f"{url}/invoices", timeout=30).status_code


def ended(client: socket.socket) -> bytes:
    """Read until the server closes."""
    client.settimeout(60)
    came = b""
    while part := client.recv(1024):
        came += part
    return came


@pytest.mark.parametrize(
    ("packages", "command"),
    [
        (("fastapi",), COMMAND),
        (("fastapi",), f"{COMMAND} --workers 2"),
        (
            ("fastapi", "gunicorn", "uvicorn-worker"),
            "gunicorn service:app --bind 127.0.0.1:{port} --worker-class worker.BoundedWorker",
        ),
    ],
    ids=["uvicorn", "workers", "gunicorn"],
)
def test_a_head_that_never_ends_is_closed_and_others_are_answered(
    environments: Environments, tmp_path: Path, packages: tuple[str, ...], command: str
) -> None:
    (worker,) = re.findall(r"^```py\n(.+?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "worker.py").write_text(worker)
    environment = environments(*packages, extras=["uvicorn"])
    with (
        environment.serve(SERVICE, cwd=tmp_path, command=command) as served,
        socket.create_connection((BIND, served.port)) as slow,
        socket.create_connection((BIND, served.port)) as silent,
    ):
        slow.sendall(b"GET /invoices HTTP/1.1\r\nhost: x\r\n")
        assert status(served.url) == 200
        assert ended(slow).startswith(b"HTTP/1.1 408 ")
        assert ended(silent) == b""
        assert status(served.url) == 200


def test_silent_clients_take_no_file_that_others_need(
    environments: Environments, tmp_path: Path
) -> None:
    environment = environments("fastapi", extras=["uvicorn"])
    with (
        environment.serve(
            FEW_FILES + SERVICE, cwd=tmp_path, command=f"{COMMAND} --backlog 20"
        ) as served,
        ExitStack() as silent,
    ):
        for _ in range(600):
            silent.enter_context(socket.create_connection((BIND, served.port), timeout=30))
        assert [status(served.url) for _ in range(20)] == [200] * 20
        wait_until(lambda: "connections.full" in served.log)
        assert "out of system resource" not in served.log
