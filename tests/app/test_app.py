"""The assembled service when things go wrong.

A crash, no database, a stop, a port that is taken.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from postfacta_app.migrations import upgrade
from postfacta_embedded import EmbeddedPostgres
from postfacta_postgres import Database
from tests.app.live import NEW, START, Service, in_process
from tests.app.running import ADMIN, add_admin, command
from tests.app.v0_app import FailingStore
from tests.kit.pg import open_folder
from tests.kit.waiting import wait_until
from tests.servers.serving import started

GRANTED = f"granted_{os.getpid()}"  # A role; they belong to the whole server, which others use too.
# What the causes below are made of.
CAUSES = (
    "db unavailable",
    "write failed",
    "relation",
    "UndefinedTable",
    "Traceback",
    "asyncpg",
    "select ",
)


BROKEN = (
    "alter table incidents rename to gone;"
    "create view incidents as select * from gone where 1 / (select 0) = 1"
)


def assert_says_nothing(answer: httpx2.Response) -> None:
    assert answer.status_code == 500
    assert not any(cause in answer.text + str(answer.headers) for cause in CAUSES)
    assert answer.headers["cache-control"] == "no-store"


async def crash(service: Service, method: str, path: str, **request: Any) -> httpx2.Response:
    headers = await service.as_role("responder") | request.pop("headers", {})
    return await service.client.request(method, path, headers=headers, **request)


async def test_a_crash_is_one_500_in_the_shape_of_its_path_and_keeps_its_cause(
    app_database_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with in_process(app_database_dsn, v0_store=FailingStore()) as service:
        await service.database.execute(BROKEN)
        listed = await crash(service, "GET", "/api/v0/incidents")
        started = await crash(service, "POST", "/api/v0/incidents/start", json=START)
        v1 = await crash(service, "GET", "/api/v1/incidents")
        page = await crash(service, "GET", "/incidents", headers={"Accept": "text/html"})
        plain = await crash(service, "GET", "/incidents")
        metrics = (await service.client.get("/metrics")).text
    for answer in (listed, started, v1, page, plain):
        assert_says_nothing(answer)
    for answer, message in (
        (listed, "Failed to retrieve incidents"),
        (started, "Failed to store incident"),
    ):
        assert answer.json() == {"message": message, "requestId": answer.headers["X-Request-ID"]}
    assert v1.headers["content-type"] == "application/problem+json"
    assert v1.json()["type"] == "/problems/internal"
    assert v1.json()["request_id"] == v1.headers["X-Request-ID"]
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["X-Request-ID"] in page.text
    assert plain.json().keys() == {"message", "requestId"}
    # Each is counted once, and logged once with its cause.
    counted = re.findall(
        r'http_server_requests_total\{[^}]*status_code="500"[^}]*} ([\d.]+)',
        metrics,
    )
    assert sum(map(float, counted)) == 5
    lines = [
        record for record in caplog.records if record.exc_info and record.msg == "http.request"
    ]
    assert [vars(line)["status"] for line in lines] == [500] * 5
    assert {vars(line)["request_id"] for line in lines} >= {
        listed.headers["X-Request-ID"],
        v1.headers["X-Request-ID"],
    }


async def test_after_a_crash_the_next_request_is_served(app_database_dsn: str) -> None:
    async with in_process(app_database_dsn, pool_max_size=2) as service:
        await service.database.execute(BROKEN)
        for _ in range(5):
            assert (await crash(service, "GET", "/api/v1/incidents")).status_code == 500
        await service.database.execute("drop view incidents; alter table gone rename to incidents")
        assert (await crash(service, "GET", "/api/v1/incidents")).status_code == 200


# Real processes


class Process:
    """`postfacta serve` as a child, its output in a file."""

    def __init__(self, child: subprocess.Popen[bytes], log: Path) -> None:
        self.child = child
        self._log = log

    @property
    def output(self) -> str:
        """All that it wrote."""
        return self._log.read_text()

    def url(self) -> str:
        address = re.compile(r"listening on (http://\S+?);")
        wait_until(lambda: address.search(self.output), "it does not listen")
        return str(address.findall(self.output)[0])

    def lines(self) -> list[dict[str, Any]]:
        """Its log, as JSON."""
        return [
            json.loads(line)
            for line in self.output.rpartition("\n")[0].splitlines()
            if line.startswith("{")
        ]


@contextmanager
def serving(folder: Path, environment: Mapping[str, str], *arguments: str) -> Generator[Process]:
    log = folder / "serve.log"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("POSTFACTA_")}
    words = arguments or ("--port", "0")
    command = [sys.executable, "-m", "postfacta_app", "serve", *words]
    variables = {**clean, "PYTHONUNBUFFERED": "1", **environment}
    with started(command, log, environment=variables) as child:
        yield Process(child, log)


@pytest.mark.usefixtures("programs")
def test_without_a_database_it_lives_and_says_503_and_is_ready_by_itself_when_the_database_comes(
    tmp_path: Path,
) -> None:
    with open_folder() as folder:
        server = EmbeddedPostgres(folder / "data")
        try:
            with server:
                upgrade(server.dsn(), progress=lambda _: None)
                given = {"POSTFACTA_DATABASE_DSN": server.dsn()}
                add_admin(given)
                token = command(
                    "token",
                    "create",
                    "--name",
                    "ci",
                    "--scope",
                    "incidents:write",
                    environment=given,
                )
            assert_recovers(server, tmp_path, token.strip())
        finally:
            server.stop()


def assert_recovers(server: EmbeddedPostgres, folder: Path, token: str) -> None:
    canaries = {
        "POSTFACTA_METRICS_TOKEN": "canary-metrics-9b1",
        "POSTFACTA_TRAFFIC_KEY": "canary-traffic-77c",
    }
    environment = {
        "POSTFACTA_DATABASE_DSN": server.dsn(), "LOG_FORMAT": "JSON", "LOG_LEVEL": "DEBUG", "APP_VERSION": "9.9.9",
        "ENVIRONMENT": "staging", **canaries,
    }  # fmt: skip
    database_password = re.search(r":([^:@/]+)@", server.dsn())
    assert database_password is not None
    secrets = [*canaries.values(), database_password[1], ADMIN.password, token]
    with (
        serving(folder, environment) as process,
        httpx2.Client(base_url=process.url(), timeout=10) as client,
    ):
        client.headers["Authorization"] = f"Bearer {token}"
        assert client.get("/healthz/live").status_code == 200
        assert client.get("/healthz").json() == {"status": "healthy"}
        assert client.get("/healthz/ready").status_code == 503
        assert_unavailable(client)
        wait_until(
            lambda: (
                {"database", "schema", "durability"}
                <= {line.get("check") for line in process.lines()}
            )
        )

        server.start()
        # Each check runs every five seconds, and one success is enough for what only follows.
        wait_until(lambda: client.get("/healthz/ready").status_code == 200)
        recorded, bearer = use(client)
        secrets.append(bearer)

        server.stop()
        wait_until(lambda: client.get("/api/v1/incidents").status_code == 503)
        assert client.get("/healthz/live").status_code == 200
        assert_unavailable(client)
        process.child.send_signal(signal.SIGTERM)
        assert process.child.wait(20) == 0

    lines = {
        line["request_id"]: line for line in process.lines() if line["event"] == "http.request"
    }
    line = lines[recorded]
    assert (line["method"], line["route"], line["status"]) == ("POST", "/api/v1/incidents", 201)
    assert (line["service"], line["version"], line["environment"]) == (
        "postfacta",
        "9.9.9",
        "staging",
    )
    assert not any(secret in process.output for secret in [*secrets, "canary", NEW["title"]])
    assert "Traceback" not in process.output


def use(client: httpx2.Client) -> tuple[str, str]:
    """Send what must not be logged; give the id of one request, and the token of a new session."""
    new = client.post("/api/v1/incidents", json=NEW)
    assert new.status_code == 201
    signed_in = client.post("/login", json={"email": ADMIN.email, "password": ADMIN.password})
    assert signed_in.status_code == 200
    refused = client.post("/login", json={"email": ADMIN.email, "password": "canary-wrong"})
    assert refused.status_code == 401
    cookie = {"Cookie": "__Host-postfacta=canary-cookie"}
    assert client.get("/api/v1/me?password=canary-query", headers=cookie).status_code == 200
    return new.headers["X-Request-ID"], signed_in.json()["token"]


def assert_unavailable(client: httpx2.Client) -> None:
    v0 = [client.get("/api/v0/incidents"), client.post("/api/v0/incidents/start", json=START)]
    v1 = [client.get("/api/v1/incidents"), client.post("/api/v1/incidents", json=NEW)]
    page = client.get("/incidents", headers={"Accept": "text/html"})
    for answer in (*v0, *v1, page):
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["Retry-After"]) >= 1
    for answer in v0:
        assert answer.json().keys() == {"message", "requestId", "serviceVersion"}
        assert answer.json()["requestId"] == answer.headers["X-Request-ID"]
        assert answer.json()["serviceVersion"] == "9.9.9"
    for answer in v1:
        assert answer.json()["type"] in {"/problems/unavailable", "/problems/outcome-unknown"}
        assert answer.json()["request_id"] == answer.headers["X-Request-ID"]
    assert page.headers["content-type"].startswith("text/html")


@pytest.mark.usefixtures("programs")
def test_a_port_in_use_ends_the_start_with_a_way_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with serving(tmp_path, {}, "--port", str(port)) as process:
            assert process.child.wait(20) == 1
    assert process.output == (
        f"postfacta: port {port} of 127.0.0.1 is in use: stop the process that listens there, or choose another port with --port {port + 1}"
        f" (or POSTFACTA_PORT={port + 1})\n"
    )


@pytest.mark.parametrize(
    ("settings", "headers", "status"),
    [
        ({}, {}, 200),
        ({"environment": "production"}, {}, 404),
        ({"metrics_token": "scrape-me"}, {}, 404),
        ({"metrics_token": "scrape-me"}, {"Authorization": "Bearer wrong"}, 404),
        (
            {"metrics_token": "scrape-me", "environment": "production"},
            {"Authorization": "Bearer scrape-me"},
            200,
        ),
    ],
)
async def test_callers_that_may_scrape_see_the_checks_by_name(
    app_database_dsn: str, settings: dict[str, str], headers: dict[str, str], status: int
) -> None:
    async with in_process(app_database_dsn, v0_store=None, **settings) as service:
        answer = await service.client.get("/healthz/deps", headers=headers)
        assert answer.status_code == status
        if status == 200:
            assert [check["name"] for check in answer.json()["checks"]] == [
                "database",
                "writes",
                "schema",
                "durability",
            ]


async def test_a_database_that_may_lose_commits_is_called_so(
    app_database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def problems(_: Database) -> list[str]:
        return ["fsync = off"]

    monkeypatch.setattr(Database, "durability_problems", problems)
    async with in_process(app_database_dsn) as service:
        answer = await service.client.get("/healthz/deps")
    (check,) = [it for it in answer.json()["checks"] if it["name"] == "durability"]
    assert check["error"] == "NotDurableError"


async def test_a_database_without_grants_is_unavailable_and_no_crash(
    app_database_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with in_process(app_database_dsn) as owner:
        await owner.database.execute(
            f"create role {GRANTED} login password 'x' in role postfacta_app"
        )
        try:
            dsn = re.sub(r"//.*@", f"//{GRANTED}:x@", app_database_dsn)
            async with in_process(app_database_dsn, database_dsn=dsn) as service:
                headers = await service.as_role("responder")
                assert (
                    await service.client.get("/api/v1/incidents", headers=headers)
                ).status_code == 200
                await service.database.execute("revoke select on incidents from postfacta_app")
                answer = await service.client.get("/api/v1/incidents", headers=headers)
        finally:
            await owner.database.execute(f"drop owned by {GRANTED}")
            await owner.database.execute(f"drop role {GRANTED}")
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/schema-missing")
    assert "postfacta doctor" in answer.json()["detail"]
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("path", ["/api/v1/incidents", "/api/v0/incidents", "/incidents"])
async def test_a_database_without_tables_is_unavailable_and_no_crash(
    app_database_dsn: str, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    async with in_process(app_database_dsn, v0_store=None) as service:
        headers = await service.as_role("responder") | {"Accept": "application/json"}
        await service.database.execute("alter table incidents rename to gone")
        answer = await service.client.get(path, headers=headers)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
        if "v1" in path:
            assert answer.json()["type"] == "/problems/schema-missing"
        assert (await service.client.get("/problems/schema-missing")).status_code == 200
        metrics = (await service.client.get("/metrics")).text
    assert 'error_type="schema_missing"' in metrics
    assert not [
        record for record in caplog.records if record.exc_info and record.msg == "http.request"
    ]
