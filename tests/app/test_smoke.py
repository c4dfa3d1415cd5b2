"""`postfacta smoke` passes on the service, and each of its rows finds what it is for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from postfacta_app import smoke
from postfacta_app.cli import main
from postfacta_app.settings import SettingsError
from postfacta_app.smoke import Smoke
from tests.app.live import in_process
from tests.app.running import LiveService

ROWS = [
    "live", "ready", "about", "headers", "cors", "closed", "metrics", "versions", "identity", "write", "read", "archive",
]  # fmt: skip
TOKEN, METRICS = "the-token-of-a-test", "the-metrics-token"
HEADERS = {
    "content-security-policy": "default-src 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-request-id": "1",
    "strict-transport-security": "max-age=31536000",
}
SERIES = """\
# TYPE http_server_request_duration_seconds histogram
# TYPE postfacta_build_info gauge
postfacta_build_info{python_version="3.11",revision="",version="1.4.0"} 1.0
# TYPE process_start_time_seconds gauge
"""
Answer = Callable[[httpx2.Request], httpx2.Response]
INCIDENT = {"id": "5e0f", "ref": "INC-1", "title": "Smoke test", "archived_at": None}


@dataclass
class Fake:
    """Answers as the service does, but for what a test breaks.

    (method, path) and what is said instead.
    """

    environment: str = "staging"
    breaks: Mapping[tuple[str, str], Answer] = field(default_factory=dict[tuple[str, str], Answer])
    seen: list[httpx2.Request] = field(default_factory=list[httpx2.Request])
    archived: bool = False

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.seen.append(request)
        change = self.breaks.get((request.method, request.url.path))
        return change(request) if change else self.right(request)

    def right(self, request: httpx2.Request) -> httpx2.Response:
        path, given = request.url.path, request.headers.get("authorization", "")
        if request.method == "DELETE":
            self.archived = request.headers["if-match"] == '"inc-1"'
            return httpx2.Response(204 if self.archived else 412)
        if path == "/metrics":
            return httpx2.Response(200 if given == f"Bearer {METRICS}" else 401, text=SERIES)
        if path.startswith("/api/") and given != f"Bearer {TOKEN}":
            return httpx2.Response(401)
        about = {"environment": self.environment, "codebase": {"version": "1.4.0"}}
        now = {**INCIDENT, "archived_at": "2026-11-28T00:00:00Z" if self.archived else None}
        found = {"/service-info": about, "/api/v1/me": {"name": "ci"}}.get(path, now)
        status = 201 if request.method == "POST" else 200
        return httpx2.Response(status, json=found, headers={**HEADERS, "etag": '"inc-1"'})


def look(fake: Fake, **given: Any) -> tuple[int, dict[str, str], str]:
    """Return the exit code, verdicts and all that was printed."""
    lines: list[str] = []
    asked: dict[str, Any] = {
        "url": "http://service",
        "token": TOKEN,
        "metrics_token": METRICS,
        **given,
    }
    code = anyio.run(Smoke(transport=httpx2.MockTransport(fake), **asked).run, lines.append)
    return code, {line.split()[1]: line.split()[0] for line in lines}, "\n".join(lines)


def answer(status: int = 200, found: object = None, **headers: str) -> Answer:
    return lambda _: httpx2.Response(status, text=json.dumps(found), headers={**HEADERS, **headers})


def lost(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError(f"of {TOKEN}", request=request)


def test_all_rows_pass_on_a_service_that_is_well() -> None:
    code, verdicts, _ = look(Fake(), version="1.4.0")
    assert (code, verdicts) == (0, dict.fromkeys(ROWS, "ok"))


INCIDENTS = ("POST", "/api/v1/incidents")
ONE = "/api/v1/incidents/5e0f"
BREAKS: list[tuple[str, tuple[str, str], Answer]] = [
    ("live", ("GET", "/healthz/live"), answer(503)),
    ("live", ("GET", "/healthz/live"), lost),
    ("ready", ("GET", "/healthz/ready"), answer(503)),
    ("about", ("GET", "/service-info"), answer(200, "<html>")),
    ("headers", ("GET", "/service-info"), lambda _: httpx2.Response(200, json={"environment": "staging"})),
    ("cors", ("GET", "/healthz"), answer(200, {}, **{"access-control-allow-origin": "*"})),
    ("closed", ("GET", "/api/v1/incidents"), answer(200, {"items": []})),
    ("metrics", ("GET", "/metrics"), answer(500)),
    ("metrics", ("GET", "/metrics"), answer(200, "# TYPE postfacta_build_info gauge")),
    ("versions", ("GET", "/metrics"), lambda _: httpx2.Response(200, text=SERIES.replace("1.4.0", "1.3.9"))),
    ("identity", ("GET", "/api/v1/me"), answer(401)),
    ("write", INCIDENTS, answer(503)),
    ("write", INCIDENTS, lambda it: httpx2.Response(201, json={"id": str(id(it))})),
    ("read", ("GET", ONE), answer(404)),
    ("read", ("GET", ONE), answer(200, {**INCIDENT, "title": "Another"})),
    ("archive", ("DELETE", ONE), answer(403)),
    ("archive", ("GET", ONE), answer(200, INCIDENT)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "where", "change"),
    BREAKS,
    ids=[f"{row}-{number}" for number, (row, *_) in enumerate(BREAKS)],
)
def test_each_row_fails_on_what_it_is_for(row: str, where: tuple[str, str], change: Answer) -> None:
    code, verdicts, text = look(Fake(breaks={where: change}), version="1.4.0")
    assert (code, verdicts[row]) == (1, "fail")
    assert TOKEN not in text
    assert METRICS not in text


def test_every_row_is_seen_to_fail() -> None:
    assert {row for row, *_ in BREAKS} == set(ROWS)


def test_what_was_not_looked_at_is_not_passed() -> None:
    code, verdicts, _ = look(Fake(), token="", metrics_token="")
    skipped = {name for name, verdict in verdicts.items() if verdict == "skip"}
    assert (code, skipped) == (77, {"metrics", "identity", "write", "read", "archive"})


def test_a_failure_counts_for_more_than_what_was_not_run() -> None:
    fake = Fake(breaks={("GET", "/healthz/ready"): answer(503)})
    assert look(fake, token="")[0] == 1


def test_a_production_is_not_written_to_unless_permitted() -> None:
    fake = Fake("production")
    with pytest.raises(SettingsError, match="--write"):
        look(fake)
    assert look(fake, may_write=False)[0] == 77
    assert {request.method for request in fake.seen} == {"GET"}
    assert look(fake, may_write=True)[0] == 0


def test_an_unknown_environment_is_not_written_to() -> None:
    fake = Fake(breaks={("GET", "/service-info"): answer(503)})
    _, verdicts, _ = look(fake)
    assert verdicts["write"] == "fail"
    assert {request.method for request in fake.seen} == {"GET"}


def test_with_the_traffic_key_all_of_it_is_synthetic() -> None:
    fake = Fake()
    look(fake, traffic_key="key")
    assert {it.headers.get("x-traffic-class") for it in fake.seen} == {"synthetic"}


def test_a_service_that_hangs_ends_it_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke, "WITHIN", 0.2)

    async def hang(_: httpx2.Request) -> httpx2.Response:
        await anyio.sleep(60)
        raise AssertionError

    lines: list[str] = []
    code = anyio.run(
        Smoke(url="http://service", transport=httpx2.MockTransport(hang)).run, lines.append
    )
    assert (code, lines) == (1, ["fail  time        not done within 0.2 s"])


@pytest.mark.anyio
async def test_it_passes_on_the_service_itself(app_database_dsn: str) -> None:
    lines: list[str] = []
    async with in_process(app_database_dsn) as service:
        headers = await service.machine("incidents:read", "incidents:write")
        token = headers["Authorization"].removeprefix("Bearer ")
        transport = httpx2.ASGITransport(service.app, client=("192.0.2.7", 4711))
        code = await Smoke(url="http://localhost", token=token, transport=transport).run(
            lines.append
        )
        left = (await service.client.get("/api/v1/incidents?kind=exercise", headers=headers)).json()
    assert (code, [line.split()[1] for line in lines]) == (0, ROWS), lines
    assert left["items"] == []


def test_the_command_reads_secrets_from_files_and_reports(
    live: LiveService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text(
        live.client.headers["Authorization"].removeprefix("Bearer ") + "\n"
    )
    given = ["smoke", "--url", live.url, "--token-file", str(tmp_path / "token")]
    assert main(given) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["ok", row] for row in ROWS
    ]
    assert main([*given, "--expect-version", "0.0.9"]) == 1
    assert "not 0.0.9" in capsys.readouterr().out


def test_the_command_says_how_a_production_may_be_written_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setattr(
        smoke, "Smoke", partial(Smoke, transport=httpx2.MockTransport(Fake("production")))
    )
    assert main(["smoke", "--url", "http://service", "--token-file", str(tmp_path / "token")]) == 2
    assert "--read-only" in capsys.readouterr().err
