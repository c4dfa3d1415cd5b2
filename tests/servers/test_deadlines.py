"""Deadlines hold on every server, for handlers on the loop and in threads, and a worker is replaced unnoticed."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit.waiting import wait_until
from tests.servers.deadlines_app import LIMIT
from tests.servers.serving import BIND, serving

# What is promised is 0.1; the rest is for a machine that does more than this.
LATE = 10  # Of a machine that is busy; who is not cut takes 20 s, or for ever.

SERVERS = {
    "uvicorn-h11": "uvicorn --loop asyncio --http h11 --port {port}",
    "uvicorn-httptools": "uvicorn --loop asyncio --http httptools --port {port}",
    "granian": "granian --interface asgi --loop asyncio --http 1 --port {port}",
    "hypercorn-asyncio": "hypercorn --workers 0 --bind 127.0.0.1:{port}",
    "hypercorn-trio": "hypercorn --workers 0 --worker-class trio --bind 127.0.0.1:{port}",
    "gunicorn-asgi": "gunicorn --worker-class asgi --bind 127.0.0.1:{port}",
}


class Service:
    """A server as a child, with what its handlers wrote down."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.port = port
        self.process = process
        self.log = folder / "server.log"
        self.notes = folder / "notes"

    def get(self, path: str, **headers: str) -> tuple[int, bytes, float]:
        """Return status, body and seconds."""
        began = time.monotonic()
        connection = http.client.HTTPConnection(BIND, self.port, timeout=20)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read(), time.monotonic() - began
        finally:
            connection.close()

    def noted(self, line: str) -> bool:
        return self.notes.exists() and line in self.notes.read_text().splitlines()

    def metric(self, name: str) -> str:
        scrape = self.get("/metrics")[1].decode()
        return next(
            line.rpartition(" ")[2] for line in scrape.splitlines() if line.startswith(name + " ")
        )


@contextmanager
def running(command: str, folder: Path, **environment: str) -> Generator[Service]:
    """Run a server until the block ends, once it is ready."""
    inherited = dict(os.environ)
    if "trio" in command:
        # Where nobody hears SIGTERM, as there, coverage does, and ends the process in the midst of
        # the drain.
        inherited.pop("COVERAGE_PROCESS_CONFIG", None)
    notes = {"DEADLINES_LOG": str(folder / "notes")}
    with serving(
        f"{command} deadlines_app:app",
        folder / "server.log",
        environment={**inherited, **notes, **environment},
    ) as (port, process):
        service = Service(port, process, folder)
        wait_until(lambda: is_ready(service), "it is not ready")
        yield service


def is_ready(service: Service) -> bool:
    assert service.process.poll() is None, service.log.read_text()
    try:
        return service.get("/healthz/ready")[0] == 200
    except OSError:
        return False


@pytest.mark.parametrize("server", SERVERS)
def test_each_server_keeps_deadlines_and_drains(server: str, tmp_path: Path) -> None:
    with running(SERVERS[server], tmp_path) as service:
        status, body, seconds = service.get("/slow")
        assert (status, json.loads(body)["code"]) == (504, "deadline-exceeded")
        assert LIMIT <= seconds < LIMIT + LATE
        assert service.noted("ended /slow")

        status, body, seconds = service.get("/slow", **{"X-Request-Timeout": "0.1"})
        assert (status, seconds < 0.1 + LATE) == (504, True)
        assert service.get("/slow", **{"X-Request-Timeout": "0"})[0] == 504

        # The caller of a thread is answered in its place; the thread is counted, and goes on to its
        # end.
        status, body, seconds = service.get("/thread")
        assert (status, json.loads(body)["code"]) == (504, "deadline-exceeded")
        assert seconds < LIMIT + LATE
        assert not service.noted("ended /thread")
        assert service.metric("postfacta_requests_overdue") == "1.0"
        (tmp_path / "go").touch()
        wait_until(lambda: service.noted("ended /thread"), "the thread goes on")
        wait_until(lambda: service.metric("postfacta_requests_overdue") == "0.0", "overdue")

        leave(service.port)
        wait_until(lambda: service.noted("ended /left"), "the left one goes on")
        assert service.get("/quick")[0] == 200

        cut_at_drain(service)
    assert service.noted("closed solid")
    assert "Traceback" not in service.log.read_text()


def leave(port: int) -> None:
    with socket.create_connection((BIND, port)) as client:
        client.sendall(b"GET /left HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.4)  # noqa: TID251 - a client that leaves while its handler runs


def cut_at_drain(service: Service) -> None:
    """Stop the server while it streams: the client must see that the response is not whole."""
    connection = http.client.HTTPConnection(BIND, service.port, timeout=20)
    try:
        connection.request("GET", "/stream")
        response = connection.getresponse()
        assert response.read(6) == b"piece "
        # Beyond the limit of requests: a stream is exempt.
        end = time.monotonic() + LIMIT + 0.2
        while time.monotonic() < end:
            assert response.read(6) == b"piece "
        service.process.terminate()
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            response.read()
    finally:
        connection.close()
    service.process.wait(15)
    assert service.noted("ended /stream")


def test_a_resource_that_crashes_ends_the_service_and_the_others_close(tmp_path: Path) -> None:
    with running(SERVERS["uvicorn-httptools"], tmp_path) as service:
        assert service.get("/lose")[0] == 200
        # It still serves while the load balancer looks away.
        wait_until(lambda: service.get("/healthz/ready")[0] == 503, "it is ready", within=5)
        assert service.get("/quick")[0] == 200
        service.process.wait(15)
    assert service.noted("closed solid")
    assert "the fragile resource is gone" in service.log.read_text()


def ask_on(port: int, stop: threading.Event, answers: set[bytes], failures: list[str]) -> None:
    """Send requests until stopped; collect the different answers, and the failures."""
    connection = http.client.HTTPConnection(BIND, port, timeout=20)
    repeated = False
    while not stop.is_set():
        # It honours `Connection: close` by connecting anew.
        is_fresh = connection.sock is None
        try:
            connection.request("GET", "/quick")
            answers.add(connection.getresponse().read())
            repeated = False
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            # A server that stops resets what it accepted and has not read: as proxies do, try that
            # once more.
            if repeated or not (is_fresh and isinstance(error, ConnectionError)):
                failures.append(repr(error))
            repeated = True
            continue
        time.sleep(0.01)  # noqa: TID251 - a client's pause
    connection.close()


def test_workers_that_are_replaced_fail_no_request(tmp_path: Path) -> None:
    command = SERVERS["uvicorn-httptools"] + " --workers 2"
    pids: set[bytes] = set()
    failures: list[str] = []
    stop = threading.Event()

    with running(command, tmp_path) as service:
        clients = [
            threading.Thread(target=ask_on, args=(service.port, stop, pids, failures))
            for _ in range(6)
        ]
        for one in clients:
            one.start()
        try:
            # Two workers at first; each that is asked to stop is replaced by its parent.
            stopped: set[bytes] = set()
            while len(pids) < 5 and not failures:
                wait_until(lambda: bool(pids - stopped), "no other worker answers")
                worker = (pids - stopped).pop()
                os.kill(int(worker), signal.SIGTERM)
                stopped.add(worker)
                time.sleep(1)  # noqa: TID251 - as long as the parent needs to start another
        finally:
            stop.set()
            for one in clients:
                one.join()
    assert failures == []
