"""A team points our probes at a service that it runs itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.report import as_html
from chaos.tables import replace_tables
from postfacta_lab.chaos.command import Experiment, run

ROOT = Path(__file__).parent.parent.parent
SERVER = ROOT / "tests/lab/tiny_server.py"


def probe(func: str, most: float) -> dict[str, object]:
    """Name a probe of ours, and the most that it may find."""
    return {
        "type": "probe",
        "name": func,
        "tolerance": {"type": "range", "range": [0, most]},
        "provider": {"type": "python", "module": "postfacta_lab.chaos.probes", "func": func},
    }


def experiment(deed: str) -> dict[str, object]:
    """Write the experiment that docs/how-to shows, with another deed."""
    ours = {"type": "python", "module": "postfacta_lab.chaos.actions"}
    return {
        "title": "B01 Somebody else's service",
        "description": "It was not started here.",
        "configuration": {"window": 1, "rate": 60},
        "controls": [
            {
                "name": "users",
                "provider": {"type": "python", "module": "postfacta_lab.chaos.control"},
            }
        ],
        "steady-state-hypothesis": {
            "title": "Users notice nothing",
            "probes": [probe("error_share", 0.005), probe("p99", 2.0)],
        },
        "method": [
            {
                "type": "action",
                "name": "the deed",
                "provider": {"type": "process", "path": "sh", "arguments": ["-c", deed]},
            },
            {
                "type": "action",
                "name": "wait",
                "provider": {**ours, "func": "observe", "arguments": {"seconds": 1.5}},
            },
        ],
        "rollbacks": [
            {
                "type": "action",
                "name": "back",
                "provider": {**ours, "func": "restore", "arguments": {"within": 5}},
            }
        ],
    }


def run_on_a_tiny_server(folder: Path, deed: str) -> Experiment:
    """Run it on a server of our own; the deed may speak of its process as $PID."""
    path = folder / "B01-somebody-elses.json"
    with subprocess.Popen(  # noqa: S603 - our own script
        [sys.executable, str(SERVER)], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
            path.write_text(json.dumps(experiment(deed.replace("$PID", str(server.pid)))))
            return run(
                path, folder / "out", settings={"CHAOS_URL": url, "CHAOS_READS": "/one /two"}
            )
        finally:
            server.kill()


def test_a_service_that_nothing_happens_to_passes(tmp_path: Path) -> None:
    done = run_on_a_tiny_server(tmp_path, "true")
    assert (done.verdict, list(done.reasons)) == ("pass", [])
    assert (
        "findings_verdict" not in done.users
    )  # what users wrote is for the control of PostFacta to judge
    tables = tmp_path / "page.md"
    tables.write_text("<!-- experiments: begin -->\n<!-- experiments: end -->\n")
    replace_tables(tables, None, [done])
    assert "| B01 Somebody else's service | **pass** |" in tables.read_text()
    page = as_html("pass", None, [done])
    assert "B01 Somebody else" in page
    assert "src=" not in page
    assert "<link" not in page


@pytest.mark.parametrize("signal", ["KILL"])
def test_a_service_that_dies_or_hangs_does_not_pass(signal: str, tmp_path: Path) -> None:
    done = run_on_a_tiny_server(tmp_path, f"kill -{signal} $PID")
    assert done.verdict == "deviated"
    assert any(reason.startswith("rollback") for reason in done.reasons)
