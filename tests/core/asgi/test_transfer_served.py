"""Behind a real server, a body in chunks that is too large gets its refusal and nothing else."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SERVED = """
from fastapi import FastAPI, Request
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from postfacta_core.asgi import HardenOptions, harden
from postfacta_core.deadlines._limits import TransferLimits

async def read(request: Request):
    return PlainTextResponse(str(len(await request.body())))

policy = HardenOptions(limits=TransferLimits(max_body_bytes=100_000))
starlette = harden(Starlette(routes=[Route("/read", read, methods=["POST"])]), service="test", options=policy)
api = FastAPI()
api.post("/read")(read)
fastapi = harden(api, service="test", options=policy)
"""


@contextmanager
def served(folder: Path, flavour: str, framework: str) -> Generator[int]:
    """Run uvicorn as a direct child, on a socket that is open before it starts."""
    (folder / "served.py").write_text(SERVED)
    # A port below those that the kernel gives to outgoing connections.
    with _listening() as listener, (folder / "log").open("wb") as log:
        words = [
            "-m",
            "uvicorn",
            "--http",
            flavour,
            "--fd",
            str(listener.fileno()),
            f"served:{framework}",
        ]
        process = subprocess.Popen(  # noqa: S603 - a fixed program
            [sys.executable, *words],
            cwd=folder,
            stdout=log,
            stderr=log,
            pass_fds=[listener.fileno()],
        )
        try:
            yield listener.getsockname()[1]
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def _listening() -> socket.socket:
    for port in range(21_000, 32_000):
        listener = socket.socket()
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen()
        except OSError:
            listener.close()
        else:
            return listener
    raise AssertionError


def chunks(number: int) -> Iterator[bytes]:
    for _ in range(number):
        yield b"x" * 10_000


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("framework", ["starlette", "fastapi"])
@pytest.mark.parametrize("flavour", ["h11", "httptools"])
def test_behind_a_real_server_a_chunked_body_gets_its_413_and_nothing_else(
    tmp_path: Path, flavour: str, framework: str
) -> None:
    with served(tmp_path, flavour, framework) as port:
        for size, status in ((5, 200), (30, 413), (5, 200)):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request(
                "POST",
                "/read",
                chunks(size),
                encode_chunked=True,
                headers={"transfer-encoding": "chunked"},
            )
            response = connection.getresponse()
            body = response.read()
            assert response.status == status, body
            assert (b"too-large" in body) == (status == 413)
            if connection.sock is not None:
                # Nothing more comes on this connection: whatever follows would be taken for the
                # next answer.
                connection.sock.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    assert connection.sock.recv(1) == b""
                    raise TimeoutError
            connection.close()
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "Exception" not in log
