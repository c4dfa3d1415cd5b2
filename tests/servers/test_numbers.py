"""Both workers of a real server use the numbers of a new file, and fail no request."""

from __future__ import annotations

import http.client
import json
import os
import threading
from pathlib import Path
from typing import Any, Self

import pytest

from tests.kit.waiting import wait_until
from tests.servers.serving import BIND, serving
from tests.servers.test_workers import scrape

SERVERS = {
    "gunicorn": "gunicorn --bind 127.0.0.1:{port} --workers 2 --worker-class"
    " uvicorn_worker.UvicornWorker numbers_app:app",
    "uvicorn": "uvicorn --port {port} --workers 2 --log-level warning numbers_app:app",
}
PATIENCE = 60.0


class Load:
    """Ask one request after another, and keep what each worker answers."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.latest: dict[int, int] = {}
        self.failed: list[object] = []
        self.answered = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(0.01):
            status, answer = ask(self.port, "GET", "/show")
            if status == 200:
                self.answered += 1
                self.latest[answer["pid"]] = answer["slots"]
            else:
                self.failed.append((status, answer))

    def wait_until(self, slots: int) -> None:
        """Wait until both workers have a number."""
        wait_until(lambda: [*self.latest.values()] == [slots] * 2, within=PATIENCE)


def ask(port: int, method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
    connection = http.client.HTTPConnection(BIND, port, timeout=10)
    try:
        connection.request(method, path, body=body, headers={"Connection": "close"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def put(file: Path, text: str) -> None:
    new = file.with_name("new")
    new.write_text(text)
    new.replace(file)


def changes(port: int) -> dict[str, float]:
    """Add up what the workers counted."""
    found = {"changed": 0.0, "refused": 0.0}
    for sample in scrape(port):
        if sample.name == "postfacta_numbers_total":
            found[sample.labels["outcome"]] += sample.value
    return found


@pytest.mark.parametrize("server", SERVERS)
def test_both_workers_use_a_new_file_and_no_wrong_one(server: str, tmp_path: Path) -> None:
    file = tmp_path / "numbers.toml"
    put(file, "")
    environment = {
        **os.environ,
        "NUMBERS_FILE": str(file),
        "WORKERS_FOLDER": str(tmp_path / "workers"),
    }
    with (
        serving(SERVERS[server], tmp_path / "log", environment=environment) as (port, _),
        Load(port) as load,
    ):
        load.wait_until(10)
        put(
            file,
            '[guards.bulkhead.reports]\nslots = 20\n[routes."POST /receive"]\nmax_body_bytes = 4\n',
        )
        load.wait_until(20)
        assert ask(port, "POST", "/receive", b"12345")[0] == 413
        assert changes(port) == {"changed": 4.0, "refused": 0.0}
        put(file, "[guards.bulkhead.reports]\nslots = 0\n")
        wait_until(lambda: changes(port)["refused"] == 2, within=PATIENCE)
        assert set(load.latest.values()) == {20}
        put(file, "")
        load.wait_until(10)
        assert ask(port, "POST", "/receive", b"12345")[0] == 200
    assert load.failed == []
    assert load.answered > 50
    log = (tmp_path / "log").read_text()
    assert log.count("numbers.refused") == 2
    assert (
        "guards.bulkhead.reports: Bulkhead.slots must be a whole number at least 1, not 0; for"
        " example Bulkhead" in log
    )
