"""The commands of the page on numbers run as they stand there, and print what it shows."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from postfacta_lab.__main__ import main
from tests.kit.behind import behind_uvicorn

PAGE = Path(__file__).parents[2] / "docs/how-to/choose-numbers.md"
COMMANDS = re.findall(r"^ *postfacta lab (advise .*)$", PAGE.read_text(), re.MULTILINE)
SHOWN = re.findall(r"^ *```text\n(.*?)^ *```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
MAIN = 'db_client_connection_pool_name="main"'


def histogram(name: str, labels: str, bound: str, count: int) -> str:
    bounds = ((bound, count), ("+Inf", count))
    return "".join(f'{name}_bucket{{{labels},le="{bound}"}} {count}\n' for bound, count in bounds)


def route(name: str, bound: str, count: int) -> str:
    method, path = name.split()
    labels = f'http_request_method="{method}",http_route="{path}",outcome="2xx",traffic="user"'
    return histogram("http_server_request_duration_seconds", labels, bound, count)


def scrape(times: int) -> str:
    """Return the metrics of a service after a number of hours."""
    billing = 'error_type="",server_address="billing.internal",server_port="8080"'
    loans = "db_client_connection_use_time_seconds"
    limits = "postfacta_ratelimit_decisions_total"
    calls = "http_client_request_duration_seconds"
    return "".join(
        [
            route("GET /export", "10", 12_000 * times),
            route("GET /invoices/{id}", "0.25", 90_000 * times),
            route("POST /invoices", "0.1", 40 * times),
            f'{calls}_bucket{{{billing},le="0.1"}} {57_000 * times}\n',
            histogram(calls, billing, "0.5", 60_000 * times),
            'postfacta_breaker_state{breaker="billing",state="closed"} 1\n',
            'postfacta_hedge_attempts_total{operation="reads",outcome="first"} 9\n',
            f"{loans}_count{{{MAIN}}} {90_000 * times}\n",
            f"{loans}_sum{{{MAIN}}} {23_400 * times}\n",
            f"db_client_connection_max{{{MAIN}}} 20\n",
            f'{limits}{{policy="api",decision="limited"}} {12 * times}\n',
            f'{limits}{{policy="api",decision="allowed"}} {89_988 * times}\n',
            f"http_last_request_received_time {1_790_000_000 + 3600 * times}\n",
        ]
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the files that the page names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "before.txt").write_text(scrape(1))
    (tmp_path / "metrics.txt").write_text(scrape(2))
    report = tmp_path / "build/load/load.json"
    report.parent.mkdir(parents=True)
    rows = [{"route": "GET /export", "count": 6000, "failed": 0, "p999": 4.2}]
    report.write_text(json.dumps({"rows": rows}))
    return tmp_path


async def metrics(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scrape(1).encode()})


def test_each_command_runs_and_prints_what_is_shown(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *others = COMMANDS
    assert main(shlex.split(first)) == 0
    lines = [line.removeprefix("   ") for line in SHOWN[0].splitlines()]
    assert capsys.readouterr().out.splitlines() == lines
    assert tomllib.loads((folder / "numbers.toml").read_text()) == {
        "routes": {
            "GET /export": {"request_timeout": 10.0},
            "GET /invoices/{id}": {"request_timeout": 1.0},
        },
        "guards": {
            "breaker": {"billing": {"slow_call_duration": 0.5}},
            "hedge": {"reads": {"delay": 0.1}},
        },
    }
    assert len(others) == 2

    with behind_uvicorn(metrics) as url:
        for command in others:
            there = command.replace("http://127.0.0.1:8080", url)
            assert main(shlex.split(there)) == 0
            assert "request_timeout" in capsys.readouterr().out
