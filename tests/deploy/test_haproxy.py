"""The shipped HAProxy configuration, attacked.

Slow headers, smuggled requests, forged addresses, a reload under load.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from chaos.processes import Haproxy
from postfacta_lab.engine.processes import free_port, wait_until
from tests.kit.every import every
from tests.ops.prometheus import needs

CONFIG = Path(__file__).parents[2] / "deploy/haproxy/haproxy.cfg"
PATIENCE = 20.0

pytestmark = [pytest.mark.usefixtures("programs"), needs("haproxy")]


class Backend(ThreadingHTTPServer):
    """An instance that records what reaches it, and reads bodies as their headers say."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, Message]] = []
        self.ready = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Write nothing of a connection that the proxy closed."""


class Handler(BaseHTTPRequestHandler):
    """Of one connection."""

    protocol_version = "HTTP/1.1"

    @property
    def backend(self) -> Backend:
        assert isinstance(self.server, Backend)
        return self.server

    def do_GET(self) -> None:
        is_probe = self.path.startswith("/healthz/")
        if not is_probe:
            self.backend.seen.append((f"{self.command} {self.path}", self.headers))
        self._read_body()
        refused = not self.backend.ready
        body = b"not ready, says the instance" if refused else b"ok"
        self.send_response(503 if refused else 200)
        if refused:
            self.send_header("Retry-After", "7")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the base class names it so

    def _read_body(self) -> None:
        if self.headers.get("Transfer-Encoding"):
            while size := int(self.rfile.readline(), 16):
                self.rfile.read(size + 2)
            self.rfile.readline()
        else:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Write nothing."""


@dataclass
class Front:
    """HAProxy with two instances behind it."""

    port: int
    process: subprocess.Popen[bytes]
    backends: list[Backend]

    @property
    def seen(self) -> list[tuple[str, Message]]:
        return [one for backend in self.backends for one in backend.seen]

    def raw(self, sent: bytes) -> bytes:
        """Send bytes, and return all that comes until the proxy closes or is silent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            connection.sendall(sent)
            connection.settimeout(1.0)
            came = b""
            try:
                while piece := connection.recv(65_536):
                    came += piece
            except TimeoutError:
                pass
            return came

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Generator[Front]:
    folder, port, backends = tmp_path_factory.mktemp("haproxy"), free_port(), [Backend(), Backend()]
    config = folder / "haproxy.cfg"
    text = CONFIG.read_text()
    assert "timeout http-request 10s" in text
    # Not waited for here; nothing else is changed.
    config.write_text(text.replace("timeout http-request 10s", "timeout http-request 1s"))
    for backend in backends:
        threading.Thread(target=backend.serve_forever, daemon=True).start()
    one, two = (f"127.0.0.1:{backend.server_address[1]}" for backend in backends)
    process = subprocess.Popen(  # noqa: S603 - Debian's program
        [Haproxy.program() or "haproxy", "-W", "-db", "-f", config],
        env={
            "PATH": os.environ["PATH"],
            "LISTEN": f"127.0.0.1:{port}",
            "ADMIN_SOCKET": str(folder / "admin.sock"),
            "INSTANCE_ONE": one,
            "INSTANCE_TWO": two,
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    its = Front(port, process, backends)

    def answers() -> bool:
        try:
            return its.get("/")[0] == 200
        except OSError:
            return False

    try:
        wait_until(answers, "haproxy lets requests through", within=PATIENCE, every=0.05)
        yield its
    finally:
        process.terminate()
        process.wait(PATIENCE)
        for backend in backends:
            backend.shutdown()
            backend.server_close()


def test_the_configuration_is_valid_as_it_is_shipped() -> None:
    done = subprocess.run(  # noqa: S603 - Debian's program
        [Haproxy.program() or "haproxy", "-c", "-f", CONFIG],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    # A warning is an error here: such as a rule that is never reached.
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_client_that_sends_its_headers_slowly_is_closed(front: Front) -> None:
    began, came = time.monotonic(), b""
    with socket.create_connection(("127.0.0.1", front.port), timeout=PATIENCE) as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n")
        connection.settimeout(0.2)
        while time.monotonic() - began < PATIENCE:
            try:
                connection.sendall(
                    b"X-More: 1\r\n"
                )  # each restarts a timeout that counts silence only
                came = connection.recv(1000)
                break
            except TimeoutError:
                continue
            except OSError:
                break
    assert time.monotonic() - began < PATIENCE / 2
    assert came.startswith(b"HTTP/1.1 408") or not came
    assert "GET /slow" not in [line for line, _ in front.seen]


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = b"POST /outer HTTP/1.1\r\nHost: x\r\n"
LENGTH = str(len(SMUGGLED)).encode()
AMBIGUOUS = {
    "two lengths": HEAD
    + b"Content-Length: 0\r\nContent-Length: "
    + LENGTH
    + b"\r\n\r\n"
    + SMUGGLED,
    "length with a sign": HEAD + b"Content-Length: +" + LENGTH + b"\r\n\r\n" + SMUGGLED,
    "length with a list": HEAD + b"Content-Length: 0, " + LENGTH + b"\r\n\r\n" + SMUGGLED,
    "unknown coding": HEAD
    + b"Transfer-Encoding: xchunked\r\nContent-Length: "
    + LENGTH
    + b"\r\n\r\n"
    + SMUGGLED,
    "chunked is not last": HEAD
    + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"
    + SMUGGLED,
    "two codings": HEAD
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"
    + SMUGGLED,
    "space before the colon": HEAD
    + b"Transfer-Encoding : chunked\r\nContent-Length: "
    + LENGTH
    + b"\r\n\r\n"
    + SMUGGLED,
    "null": HEAD + b"X: a\x00b\r\nContent-Length: 0\r\n\r\n" + SMUGGLED,
    "bad chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + SMUGGLED,
    "two hosts": b"GET /outer HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "no host": b"GET /outer HTTP/1.1\r\n\r\n",
    "trace": b"TRACE /outer HTTP/1.1\r\nHost: x\r\n\r\n",
}


def test_an_ambiguous_request_ends_at_the_proxy(front: Front) -> None:
    with every() as case:
        for name, sent in AMBIGUOUS.items():
            with case(name):
                before = len(front.seen)
                came = front.raw(sent)
                assert came.startswith(
                    (b"HTTP/1.1 400", b"HTTP/1.1 405", b"HTTP/1.1 501", b"HTTP/1.1 422")
                )
                # The first may have gone on with a sound head; what was hidden in it never does.
                assert not [line for line, _ in front.seen[before:] if "smuggled" in line]


def test_of_two_framings_one_goes_on(front: Front) -> None:
    before = len(front.seen)
    front.raw(HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n")
    front.raw(HEAD + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello")
    for _, headers in front.seen[before:]:
        lengths, codings = (
            headers.get_all("Content-Length", []),
            headers.get_all("Transfer-Encoding", []),
        )
        assert len(lengths) + len(codings) <= 1


def test_an_address_cannot_be_forged(front: Front) -> None:
    forged = {"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9"}
    assert front.get("/forged", **forged)[0] == 200
    (headers,) = (headers for line, headers in front.seen if line == "GET /forged")
    assert headers.get_all("X-Forwarded-For") == ["127.0.0.1"]
    assert headers.get_all("Forwarded") is None


def test_metrics_are_not_for_the_public(front: Front) -> None:
    with every() as case:
        for path in ("/metrics", "/Metrics", "/%6detrics", "/metrics/", "/metrics?a=1"):
            with case(path):
                assert front.get(path)[0] == 404
    assert not [line for line, _ in front.seen if "etrics" in line]


def test_while_no_instance_is_ready_its_own_refusal_is_returned(front: Front) -> None:
    for backend in front.backends:
        backend.ready = False
    try:
        time.sleep(2.0)  # noqa: TID251 - two failed checks, half a second apart
        status, headers, body = front.get("/")
        assert (status, headers["retry-after"], body) == (503, "7", b"not ready, says the instance")
    finally:
        for backend in front.backends:
            backend.ready = True


def test_a_reload_under_load_fails_no_request(front: Front) -> None:
    stop, done = threading.Event(), [0]
    failed: list[str] = []

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=PATIENCE)
        while not stop.is_set():
            try:
                connection.request("GET", "/load")
                response = connection.getresponse()
                response.read()
                if response.status != 200:
                    failed.append(str(response.status))
            except (OSError, http.client.HTTPException) as error:
                failed.append(repr(error))
                connection.close()
            done[0] += 1
            time.sleep(0.002)  # noqa: TID251 - a thread of its own
        connection.close()

    wait_until(lambda: front.get("/")[0] == 200, "an instance is ready", within=PATIENCE, every=0.1)
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        time.sleep(0.7)  # noqa: TID251 - load before, during and after
        front.process.send_signal(signal.SIGUSR2)
    time.sleep(1.0)  # noqa: TID251
    stop.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert failed == []
    assert done[0] > 300
