"""The document at `/openapi.json` is kept true by schemathesis.

What it says, the running service does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from postfacta_app.app import create_app
from postfacta_app.settings import load_settings
from postfacta_embedded import EmbeddedPostgres
from tests.app.live import patient_routes
from tests.app.running import ADMIN, add_admin, command, sign_in
from tests.kit.behind import behind_uvicorn
from tests.kit.pg import fresh_database

# For each operation, beside the edge cases of its schema: the ordinary run is short.
FEW, MANY = 8, 80
CONFIGURATION = """
headers = { Authorization = "%(admin)s" }

# With 428 a request is refused that lacks a header: RFC 6585.
[checks.missing_required_header]
expected-statuses = ["400", "428"]
# The usual ones, and those of the limits of size and of a version that is none of ours.
[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "405", "409", "412", "413", "414", "415", "422", "428", "429", "431"]
# Beside success: what is not there, or stands against what is stored; and /register is closed. A post-mortem's write
# needs one of two headers, which the document cannot say: 428.
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", "401", "403", "404", "409", "412", "428", "429"]
# To archive is not to remove: an archived incident can still be read.
[checks.use_after_free]
enabled = false

# These would end the session that all other requests need; an API token is refused here.
[[operations]]
include-path-regex = "^(/logout|/api/v1/me/sessions.*)$"
headers = { Authorization = "%(machine)s" }
"""


@pytest.mark.usefixtures("programs")
def test_schemathesis_finds_nothing_but_what_the_document_promises(
    postgres_server: EmbeddedPostgres, app_template: str, tmp_path: Path
) -> None:
    finds_nothing(postgres_server, app_template, tmp_path, examples=FEW)


@pytest.mark.usefixtures("programs")
@pytest.mark.long
def test_schemathesis_finds_nothing_with_ten_times_the_examples(
    postgres_server: EmbeddedPostgres, app_template: str, tmp_path: Path
) -> None:
    finds_nothing(postgres_server, app_template, tmp_path, examples=MANY)


def finds_nothing(server: EmbeddedPostgres, template: str, folder: Path, *, examples: int) -> None:
    with served(server, template) as client:
        report, output = run(client, folder, examples)
    assert report["failures"] == [], output
    assert report["errors"] == [], output
    assert report["operations"]["tested"] == report["operations"]["total"] >= 24, output
    assert report["complete"], output
    assert report["test_cases"]["generated"] >= 500


@contextmanager
def served(server: EmbeddedPostgres, template: str) -> Generator[httpx2.Client]:
    """Serve the application from a thread, patiently: a slow machine is no difference to the document.

    Give a client that is signed in as an administrator.
    """
    with fresh_database(server, template) as dsn, patient_routes():
        environment = {"POSTFACTA_DATABASE_DSN": dsn}
        add_admin(environment)
        patient = {"pool_acquire_timeout": 30, "statement_timeout": 30}
        settings = load_settings({}, database_dsn=dsn, ready_requires_db=False, **patient)
        with (
            behind_uvicorn(create_app(settings), lifespan="on", reset_contextvars=True) as url,
            httpx2.Client(base_url=url, timeout=30) as client,
        ):
            client.headers["Authorization"] = f"Bearer {sign_in(client, ADMIN)}"
            yield client
        # Whatever was sent: no timeline that a post-mortem saw has changed.
        command("verify", environment=environment)


def run(client: httpx2.Client, folder: Path, examples: int) -> tuple[dict[str, Any], str]:
    admin = client.get("/api/v1/me").json()["actor"].removeprefix("user:")
    machine = {"name": "machine", "scopes": ["incidents:read"]}
    token = client.post("/api/v1/tokens", json=machine).json()
    headers = {
        "admin": client.headers["Authorization"],
        "machine": f"Bearer {token['secret']}",
    }
    (folder / "schemathesis.toml").write_text(CONFIGURATION % headers)
    hooks = Path(__file__).with_name("schemathesis_hooks.py")
    done = subprocess.run(  # noqa: S603 - a program of our environment
        [
            *(
                sys.executable,
                "-m",
                "schemathesis.cli",
                "run",
                str(client.base_url.join("/openapi.json")),
            ),
            *("--checks", "all", "--continue-on-failure", "--workers", "2", "--seed", "1"),
            *("--phases", "examples,coverage,fuzzing,stateful", "--max-examples", str(examples)),
            *("--report", "json", "--report-json-path", "report.json"),
        ],
        cwd=folder,
        env={
            **os.environ,
            "KEPT_IDS": f"{admin} {token['id']}",
            "PYTHONPATH": str(hooks.parent),
            "SCHEMATHESIS_HOOKS": hooks.stem,
        },
        check=False,
        capture_output=True,
        text=True,
        timeout=3600,
    )
    report = folder / "report.json"
    assert report.exists(), done.stdout + done.stderr
    return json.loads(report.read_text()), done.stdout
