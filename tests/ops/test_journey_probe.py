"""The journey probe tells whether a user gets through, and is not fooled by a service that merely answers."""

from __future__ import annotations

import importlib.util
import json
import os
import selectors
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import pytest

from postfacta_app.migrations import upgrade
from postfacta_embedded import EmbeddedPostgres
from postfacta_lab.engine.processes import wait_until
from tests.app.running import LiveService, live_service
from tests.kit.pg import create_database
from tests.ops.prometheus import needs

SCRIPT = Path(__file__).parent.parent.parent / "deploy/bin/journey_probe.py"
TOKEN = "a-token-that-nobody-may-read"  # noqa: S105 - of nobody


@pytest.fixture(scope="module")
def probe() -> ModuleType:
    """Give the script as a module; it belongs to no package."""
    spec = importlib.util.spec_from_file_location("journey_probe", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def live(programs: None, postgres_server: EmbeddedPostgres) -> Iterator[LiveService]:
    """Run the service for the tests of this module."""
    upgrade(create_database(postgres_server, "journey_template"), progress=lambda _: None)
    with live_service(postgres_server, "journey_template") as service:
        yield service


def token_of(live: LiveService, *scopes: str) -> str:
    answer = live.client.post("/api/v1/tokens", json={"name": "probe", "scopes": list(scopes)})
    return str(answer.raise_for_status().json()["secret"])


@pytest.fixture(scope="module")
def token(live: LiveService) -> str:
    return token_of(live, "incidents:read", "incidents:write")


def run_once(*arguments: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own script
        [sys.executable, str(SCRIPT), "--once", *arguments],
        env={**os.environ, "POSTFACTA_PROBE_TOKEN": token},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.usefixtures("programs")
def test_two_journeys_get_through_and_record_one_exercise(live: LiveService, token: str) -> None:
    for _ in range(2):
        done = run_once("--url", live.url, token=token)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("ok (sign_in ")
    found = live.client.get("/api/v1/incidents", params={"kind": "exercise"}).json()["items"]
    assert len(found) == 1


@pytest.mark.usefixtures("programs")
def test_a_token_that_may_only_read_fails_at_the_write(live: LiveService) -> None:
    done = run_once("--url", live.url, token=token_of(live, "incidents:read"))
    assert done.returncode == 1
    assert done.stdout.startswith("write: status 403 (sign_in ")


@pytest.mark.usefixtures("programs")
def test_an_unknown_token_fails_at_once_and_is_not_shown(live: LiveService) -> None:
    done = run_once("--url", live.url)
    assert done.stdout.startswith("sign_in: status 401")
    assert TOKEN not in done.stdout + done.stderr


@pytest.mark.usefixtures("programs")
def test_an_unreachable_service_is_reported(live: LiveService) -> None:
    done = run_once("--url", "http://127.0.0.1:1")
    assert done.returncode == 1
    assert done.stdout.startswith("sign_in: no connection")


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--url", "ftp://host"), "write a scheme and a host"),
        (("--url", "http://host/path"), "write a scheme and a host"),
        (("--url", "http://host", "--interval", "0"), "must be above 0"),
        (
            ("--url", "http://host", "--token-file", "/nowhere/token"),
            "cannot read /nowhere/token: No such file",
        ),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_to_do(
    arguments: tuple[str, ...], complaint: str
) -> None:
    done = run_once(*arguments)
    assert done.returncode == 2
    assert complaint in done.stderr


@pytest.mark.usefixtures("programs")
def test_without_a_token_it_says_where_to_put_one() -> None:
    done = run_once("--url", "http://host", token="")
    assert (done.returncode, "POSTFACTA_PROBE_TOKEN" in done.stderr) == (2, True)


@contextmanager
def answering(
    answers: Mapping[str, tuple[int, object]],
) -> Generator[tuple[str, list[dict[str, str]]]]:
    """Run a server that answers all requests alike; return its address, and the headers it got."""
    sent: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent.append({name.lower(): value for name, value in self.headers.items()})
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, body = answers[f"{self.command} {self.path.partition('?')[0]}"]
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET  # noqa: N815 - the base class looks for this name

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", sent
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


GOOD: Mapping[str, tuple[int, object]] = {
    "GET /api/v1/me": (200, {}),
    "GET /api/v1/incidents": (200, {"items": []}),
    "POST /api/v1/incidents": (201, {"id": "one"}),
    "GET /api/v1/incidents/one": (200, {"id": "one"}),
}


Change = dict[str, tuple[int, object]]
CHANGES: list[tuple[Change, str]] = [
    ({}, ""),
    ({"GET /api/v1/me": (503, {})}, "sign_in: status 503"),
    ({"GET /api/v1/me": (307, {})}, "sign_in: status 307"),
    ({"GET /api/v1/me": (200, b"<html>")}, "sign_in: no usable answer: JSONDecodeError"),
    ({"GET /api/v1/me": (200, [])}, "sign_in: the answer is no JSON object"),
    ({"GET /api/v1/incidents": (200, {})}, "list: the answer has no 'items'"),
    ({"POST /api/v1/incidents": (200, {"id": 7})}, "write: the answer has no 'id'"),
    (
        {"GET /api/v1/incidents/one": (200, {"id": "two"})},
        "read: what was recorded cannot be read back",
    ),
]


@pytest.mark.parametrize(("change", "reason"), CHANGES)
def test_an_answer_that_is_not_what_a_user_needs_is_a_failure(
    change: Change, reason: str, probe: ModuleType
) -> None:
    with answering({**GOOD, **change}) as (url, _):
        outcome = probe.Journey(url=url, token=TOKEN).run()
    assert outcome.reason == reason
    assert outcome.is_success == (not reason)
    assert list(outcome.seconds) == list(probe.STEPS[: len(outcome.seconds)])


def test_the_write_has_the_same_key_each_time_and_the_journey_says_what_traffic_it_is(
    probe: ModuleType,
) -> None:
    with answering(GOOD) as (url, sent):
        for _ in range(2):
            assert probe.Journey(url=url, token=TOKEN, traffic_key="open sesame").run().is_success
    keys = [headers["idempotency-key"] for headers in sent if "idempotency-key" in headers]
    assert len(keys) == 2
    assert len(set(keys)) == 1
    assert {headers["x-traffic-class"] for headers in sent} == {"synthetic"}
    assert {headers["x-traffic-key"] for headers in sent} == {"open sesame"}


def test_a_journey_ends_without_any_answer(probe: ModuleType) -> None:
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), BaseHTTPRequestHandler
    ) as silent:  # it listens, and accepts nobody
        outcome = probe.Journey(
            url=f"http://127.0.0.1:{silent.server_port}", token=TOKEN, timeout=0.3
        ).run()
    assert outcome.reason == "sign_in: no answer within the 0.3 s of a journey"
    assert outcome.seconds["sign_in"] < 5.0


def test_no_secret_is_shown_by_a_journey(probe: ModuleType) -> None:
    assert TOKEN not in repr(probe.Journey(url="http://host", token=TOKEN, traffic_key=TOKEN))


def test_the_board_says_nothing_before_the_first_journey_and_no_good_of_an_old_one(
    probe: ModuleType,
) -> None:
    now = 100.0
    board = probe.Board(stale_after=40.0, clock=lambda: now)
    assert "probe_success" not in board.text()
    board.put(probe.Outcome({"sign_in": 0.25}, "", 100.0))
    now = 140.0
    assert "\nprobe_success 1\n" in board.text()
    assert "\nprobe_duration_seconds 0.250000\n" in board.text()
    now = 140.1
    assert "\nprobe_success 0\n" in board.text()
    board.put(probe.Outcome({"sign_in": 0.5}, "sign_in: status 503", 140.1))
    assert "\nprobe_success 0\n" in board.text()
    assert 'postfacta_journeys_total{outcome="failure"} 1' in board.text()


@contextmanager
def running(url: str, token: str) -> Generator[str]:
    """Run the probe; give the address of its metrics."""
    with subprocess.Popen(  # noqa: S603 - our own script
        [
            sys.executable,
            str(SCRIPT),
            "--url",
            url,
            "--port",
            "0",
            "--interval",
            "0.2",
            "--timeout",
            "2",
        ],
        env={**os.environ, "POSTFACTA_PROBE_TOKEN": token},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                assert selector.select(30.0), "it never said where it listens"
            yield process.stdout.readline().removeprefix("listening on ").strip()
        finally:
            process.kill()


@pytest.mark.usefixtures("programs")
@needs("promtool")
def test_its_metrics_are_what_prometheus_reads(live: LiveService, token: str) -> None:
    with running(live.url, token) as url:
        wait_until(
            lambda: "\nprobe_success 1\n" in httpx2.get(url).text,
            "a journey got through",
            within=30.0,
        )
        text = httpx2.get(url).text
        assert httpx2.get(url.replace("/metrics", "/else")).status_code == 404
    linted = subprocess.run(
        ["promtool", "check", "metrics"],  # noqa: S607 - found on PATH
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (linted.returncode, linted.stderr) == (0, "")


@pytest.mark.usefixtures("programs")
def test_its_metrics_show_a_service_that_goes_away(probe: ModuleType) -> None:
    with answering(GOOD) as (url, _), running(url, TOKEN) as metrics:
        wait_until(
            lambda: "\nprobe_success 1\n" in httpx2.get(metrics).text, "it is well", within=30.0
        )
    with running(url, TOKEN) as metrics:
        wait_until(
            lambda: "\nprobe_success 0\n" in httpx2.get(metrics).text, "it is away", within=30.0
        )
