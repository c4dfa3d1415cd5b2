"""Load, chaos and drain, pointed at a service that is not PostFacta.

Green only if it was measured and held.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kit.ports import free_port

ROOT = Path(__file__).parents[2]
BILLING = Path(__file__).with_name("billing.py")
PAGE = ROOT / "docs/how-to/run-chaos-and-load.md"
# Slack for a busy machine: what is judged here is whether users are served at all.
SLOW = 20.0


@contextmanager
def billing(mode: str) -> Generator[str]:
    """Run the service until the block ends, and return its address.

    A dead one has nothing behind its port.
    """
    if mode == "dead":
        yield f"http://127.0.0.1:{free_port()}"
        return
    with subprocess.Popen(  # noqa: S603 - our own script
        [sys.executable, BILLING, mode], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        finally:
            server.kill()


def run(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the page in the checkout, in which the page's reader is."""
    return subprocess.run(  # noqa: S603 - our own commands
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "ignore", **variables},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


LONG = pytest.mark.long
MODES = [
    ("alive", 0),
    ("failing", 1),
    ("dead", 3),
    pytest.param("gone", 3, marks=LONG),
    pytest.param("away", 3, marks=LONG),
]


@pytest.mark.parametrize(("mode", "code"), MODES)
def test_load_on_a_strangers_service_ends_as_documented(
    mode: str, code: int, tmp_path: Path
) -> None:
    with billing(mode) as url:
        done = run(
            *(
                "-m",
                "postfacta_lab",
                "load",
                "--url",
                url,
                "--path",
                "/invoices/7",
                "--path",
                "/invoices?limit=20",
            ),
            *("--rate", 60, "--seconds", 3, "--p95", SLOW, "--p99", SLOW),
            *("--report", tmp_path),
        )
    assert done.returncode == code, done.stdout + done.stderr
    routes = {row["route"] for row in json.loads((tmp_path / "load.json").read_text())["rows"]}
    assert routes == {"all", "GET /invoices/7", "GET /invoices"}


def test_load_of_a_mix_writes_what_its_file_says(tmp_path: Path) -> None:
    mix = tmp_path / "mix.yaml"
    mix.write_text(
        "- {path: /invoices/7, share: 3}\n- {path: /invoices, method: POST, body: {sum: 3}, expected: 202}\n"
    )
    words = ("--rate", 60, "--seconds", 3, "--p95", SLOW, "--p99", SLOW)
    with billing("alive") as url:
        done = run(
            "-m", "postfacta_lab", "load", "--url", url, "--mix", mix, "--report", tmp_path, *words
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"POST /invoices +\d+ +0 ", done.stdout)


def test_load_that_is_too_short_is_undecided(tmp_path: Path) -> None:
    with billing("alive") as url:
        done = run(
            *(
                "-m",
                "postfacta_lab",
                "load",
                "--url",
                url,
                "--path",
                "/",
                "--rate",
                5,
                "--seconds",
                2,
            ),
            *("--report", tmp_path),
        )
    assert done.returncode == 2, done.stdout + done.stderr


@dataclass(frozen=True)
class Trial:
    """What a chaos run of the page's own experiment gave."""

    code: int
    output: str
    found: dict[str, Any]


def experiment(folder: Path, deed: str = "true", **configuration: object) -> Path:
    """Write the experiment of the page with another deed, and with slack for a busy machine."""
    text = re.search(r"```yaml\n(title: B01.*?)```", PAGE.read_text(), re.DOTALL)
    assert text is not None
    whole = yaml.safe_load(text[1])
    whole["configuration"] = {"window": 2, "rate": 30, **configuration}
    for probe in whole["steady-state-hypothesis"]["probes"]:
        if probe["provider"]["func"] == "p99":
            probe["tolerance"]["range"] = [0, SLOW]
    whole["method"][0]["provider"] = {"type": "process", "path": "sh", "arguments": ["-c", deed]}
    whole["method"][1]["provider"]["arguments"] = {"within": 20}
    whole["rollbacks"][-1]["provider"]["arguments"] = {"within": 5}
    path = folder / "B01-billing.yaml"
    path.write_text(json.dumps(whole))
    return path


def chaos(folder: Path, url: str, deed: str = "true", **configuration: object) -> Trial:
    """Run it as the page says."""
    path = experiment(folder, deed, **configuration)
    done = run(
        "-m",
        "postfacta_lab",
        "chaos",
        path,
        "--url",
        url,
        "--path",
        "/invoices/7",
        "--out",
        folder / "out",
    )
    result = json.loads((folder / "out/result.json").read_text())
    assert result["exit_code"] == done.returncode
    return Trial(done.returncode, done.stdout + done.stderr, result["experiments"][0])


@pytest.mark.parametrize(("mode", "code"), MODES)
def test_chaos_on_a_strangers_service_ends_as_documented(
    mode: str, code: int, tmp_path: Path
) -> None:
    with billing(mode) as url:
        trial = chaos(tmp_path, url)
    assert trial.code == code, trial.output
    assert bool(trial.found["reasons"]) == (code != 0)


@pytest.mark.parametrize(
    "mode", ["failing", pytest.param("dead", marks=LONG), pytest.param("gone", marks=LONG)]
)
def test_chaos_toolkit_by_itself_is_not_green_either(mode: str, tmp_path: Path) -> None:
    with billing(mode) as url:
        done = run(
            *("-m", "chaostoolkit", "--no-version-check", "--log-file", tmp_path / "log", "run"),
            *("--rollback-strategy=always", "--hypothesis-strategy=continuously"),
            *(
                "--hypothesis-frequency=1",
                "--journal-path",
                tmp_path / "journal.json",
                experiment(tmp_path),
            ),
            CHAOS_URL=url,
            CHAOS_READS="/invoices/7",
        )
    assert done.returncode == 1, done.stdout + done.stderr


def fault(url: str, mode: str, seconds: float) -> str:
    """Write the deed that breaks the service for a while."""
    change = f"import urllib.request as u; u.urlopen(u.Request('{url}/mode/MODE', method='PUT'))"
    begin, end = (
        f'{sys.executable} -c "{change.replace("MODE", name)}"' for name in (mode, "alive")
    )
    return f"{begin}; sleep {seconds}; {end}"


def test_users_who_fail_while_the_fault_lasts_are_not_forgotten_when_it_is_over(
    tmp_path: Path,
) -> None:
    with billing("alive") as url:
        trial = chaos(tmp_path, url, fault(url, "failing", 4))
    assert trial.code == 1, trial.output
    assert any(reason.startswith("during") for reason in trial.found["reasons"])


@pytest.mark.long
def test_an_experiment_may_allow_that_users_notice_while_the_fault_lasts(tmp_path: Path) -> None:
    with billing("alive") as url:
        trial = chaos(tmp_path, url, fault(url, "failing", 3), may_break_during=True)
    assert trial.code == 0, trial.output


def test_a_fault_that_did_not_happen_is_undecided(tmp_path: Path) -> None:
    with billing("alive") as url:
        trial = chaos(tmp_path, url, "echo no such cluster >&2; exit 1")
    assert trial.code == 2, trial.output
    assert "no such cluster" in trial.output


@pytest.mark.parametrize(
    ("mode", "code"),
    [("alive", 0), ("rude", 1), ("failing", 1), ("gone", 3), ("away", 3), ("dead", 3)],
)
def test_drain_of_a_strangers_service_ends_as_documented(mode: str, code: int) -> None:
    serve = [BILLING, mode, "{port}"]
    if mode == "dead":
        serve = ["-c", "import time; time.sleep({port})"]
    done = run(
        *("-m", "postfacta_lab", "drain", "--path", "/invoices/7", "--path", "/invoices?limit=20"),
        *("--slow", "/report", "--grace", 25),
        *(() if mode == "rude" else ("--ready", "/ready")),
        *(("--start", 3) if mode == "dead" else ()),
        *("--", sys.executable, *serve),
    )
    assert done.returncode == code, done.stdout + done.stderr


def test_drain_names_what_is_missing() -> None:
    for words, complaint in (
        (("--path", "/", "--", "serve", "--port", "80"), "where the port goes"),
        (("--", "serve", "--port", "{port}"), "name what users ask for"),
        (("--path", "/"), "Missing argument"),
        (("--path", "/", "--", "/nowhere/serve", "{port}"), "did not start"),
    ):
        done = run("-m", "postfacta_lab", "drain", *words)
        assert done.returncode == 3
        assert complaint in done.stderr + done.stdout


def test_the_matrix_of_servers_says_if_there_is_nothing_to_run() -> None:
    done = run("-m", "loadtests.drain", "--only", "granian-1", "--scenarios", "second")
    assert (done.returncode, "nothing to run" in done.stderr) == (3, True)


def test_chaos_names_what_is_missing(tmp_path: Path) -> None:
    file = experiment(tmp_path)
    for words, complaint in (
        ((file, "--path", "/"), "not both"),
        ((file, "--url", "http://127.0.0.1:9"), "Missing option"),
        ((file, "--url", "billing", "--path", "/"), "must begin with http"),
        ((file, "--path", "/", "--", "serve", "80"), "where the port goes"),
        (("C03", "--url", "http://127.0.0.1:9", "--path", "/"), "name the file"),
        (
            (tmp_path / "nowhere.yaml", "--url", "http://127.0.0.1:9", "--path", "/"),
            "there is no file",
        ),
    ):
        done = run("-m", "postfacta_lab", "chaos", *words, "--out", tmp_path / "out")
        assert done.returncode == 3
        assert complaint in done.stderr


def test_chaos_may_kill_and_start_the_service_that_its_command_started(tmp_path: Path) -> None:
    whole = json.loads(experiment(tmp_path, window=1, may_break_during=True).read_text())
    ours = {
        "type": "python",
        "module": "postfacta_lab.chaos.actions",
        "arguments": {"part": "service"},
    }
    whole["method"][:1] = [
        {"type": "action", "name": func, "provider": {**ours, "func": func}}
        for func in ("kill", "start")
    ]
    file = tmp_path / "B02-killed.json"
    file.write_text(json.dumps(whole))
    words = (
        "--path",
        "/invoices/7",
        "--out",
        tmp_path / "out",
        "--",
        sys.executable,
        BILLING,
        "alive",
        "{port}",
    )
    done = run("-m", "postfacta_lab", "chaos", file, *words)
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert done.returncode == 0, done.stdout + done.stderr
    marks = [mark["what"] for mark in result["experiments"][0]["users"]["marks"]]
    assert marks == ["kill service", "start service"]
    assert result["experiments"][0]["users"]["users"]["failed"] > 0
