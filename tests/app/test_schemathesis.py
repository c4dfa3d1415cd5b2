"""The document at `/openapi.json` is kept true by schemathesis.

What it says, the running service does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from postfacta_embedded import EmbeddedPostgres
from tests.app.running import LiveService, live_service

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
@pytest.mark.clock("4 s: what takes longer than five is answered 504")
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
    with live_service(server, template) as service:
        report, output = run(service, folder, examples)
    assert report["failures"] == [], output
    assert report["errors"] == [], output
    assert report["operations"]["tested"] == report["operations"]["total"] >= 24, output
    assert report["complete"], output
    assert report["test_cases"]["generated"] >= 500


def run(service: LiveService, folder: Path, examples: int) -> tuple[dict[str, Any], str]:
    admin = service.client.get("/api/v1/me").json()["actor"].removeprefix("user:")
    machine = {"name": "machine", "scopes": ["incidents:read"]}
    token = service.client.post("/api/v1/tokens", json=machine).json()
    headers = {
        "admin": service.client.headers["Authorization"],
        "machine": f"Bearer {token['secret']}",
    }
    (folder / "schemathesis.toml").write_text(CONFIGURATION % headers)
    hooks = Path(__file__).with_name("schemathesis_hooks.py")
    done = subprocess.run(  # noqa: S603 - a program of our environment
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json"),
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
