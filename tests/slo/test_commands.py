"""The commands, as they are typed: what they print, and what they end with."""

from __future__ import annotations

# YAML is written without types.
# pyright: reportUnknownMemberType=false
import json
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs

import pytest
import yaml

from postfacta_slo.__main__ import main
from tests.slo.test_gate import document
from tests.slo.test_prometheus import sending, server

AT = 1_790_000_000.0
MONTH = 30 * 86_400


class Prometheus:
    """A server that knows one objective, with so much of its budget spent, and remembers how it was asked."""

    def __init__(self) -> None:
        self.spent = 0.25
        self.names = ["availability", "latency"]
        self.asked: list[dict[str, str]] = []
        self.url = ""

    def answer(self, to: BaseHTTPRequestHandler, form: str) -> None:
        given = {name: values[0] for name, values in parse_qs(form).items()}
        self.asked.append(given | {"authorization": to.headers["Authorization"] or ""})
        query = given["query"]
        value = {
            "slo:objective:ratio": 0.99,
            "avg_over_time(slo:slice_bad:bool": 0.01 * self.spent,
            "count_over_time(slo:slice_bad:bool": MONTH / 300,
        }.get(query.split("{")[0])
        if to.path.endswith("query_range") or value is None:
            return sending('{"status": "success", "data": {"resultType": "matrix", "result": []}}')(
                to, form
            )
        result = [
            {"metric": {"service": "shop", "slo": name}, "value": [AT, str(value)]}
            for name in self.names
        ]
        body = {"status": "success", "data": {"resultType": "vector", "result": result}}
        return sending(json.dumps(body))(to, form)


@pytest.fixture
def prometheus() -> Generator[Prometheus]:
    told = Prometheus()
    with server(told.answer) as told.url:
        yield told


@pytest.fixture
def policy(tmp_path: Path) -> str:
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump(document()))
    return str(file)


def run(*words: str) -> int:
    return main(words, clock=lambda: AT)


def test_a_report_is_printed_as_it_stands_now(
    prometheus: Prometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("report", "--prometheus", prometheus.url) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(
        f"Objectives over 30 d up to 2026-09-21 14:13 UTC, from {prometheus.url}\n"
    )
    assert "remaining     324 min (75 %)" in printed
    assert {given["time"] for given in prometheus.asked if "time" in given} == {"1790000000.0"}


def test_a_report_can_be_of_one_objective_another_window_and_another_format(
    prometheus: Prometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--slo", "availability", "--service", "shop", "--window", "7d", "--format", "json")
    assert run("report", "--prometheus", prometheus.url, *words) == 0
    assert json.loads(capsys.readouterr().out)["window_seconds"] == 7 * 86_400
    assert prometheus.asked[0]["query"] == 'slo:objective:ratio{service="shop",slo="availability"}'
    assert any("[7d]" in given["query"] for given in prometheus.asked)


def test_a_report_about_nothing_says_what_is_missing(
    prometheus: Prometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    prometheus.names = []
    assert run("report", "--prometheus", prometheus.url) == 1
    assert "records no such objective: load the generated rules" in capsys.readouterr().err


@pytest.mark.parametrize("window", ["", "soon", "1M"])
def test_a_window_of_no_use_is_a_wrong_use(window: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("report", "--prometheus", "http://localhost", "--window", window)
    assert ended.value.code == 2
    assert "--window" in capsys.readouterr().err


def test_a_window_of_less_than_an_hour_says_nothing_of_a_budget(
    prometheus: Prometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("report", "--prometheus", prometheus.url, "--window", "59m") == 1
    assert "a window has an hour or more" in capsys.readouterr().err
    assert prometheus.asked == []


@pytest.mark.parametrize(
    ("word", "value"), [("--prometheus", "localhost:9090"), ("--timeout", "0")]
)
def test_what_cannot_be_queried_is_reported(
    word: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("report", "--prometheus", "http://localhost", word, value) == 1
    assert capsys.readouterr().err.startswith("slo: --prometheus: ")


def test_a_token_comes_from_a_file_and_is_sent(
    prometheus: Prometheus, policy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "token"
    file.write_text("t0ken\n")
    words = ("--prometheus", prometheus.url, "--token-file", str(file))
    assert run("budget", "--policy", policy, *words) == 0
    assert {given["authorization"] for given in prometheus.asked} == {"Bearer t0ken"}
    assert (
        run("report", "--prometheus", prometheus.url, "--token-file", str(tmp_path / "none")) == 1
    )
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spent", "level", "code"),
    [(0.1, "normal", 0), (0.6, "careful", 0), (0.9, "restricted", 3), (1.5, "exhausted", 4)],
)
def test_the_gate_tells_a_deployment_by_its_exit_code_when_it_is_asked_to(
    prometheus: Prometheus,
    policy: str,
    capsys: pytest.CaptureFixture[str],
    spent: float,
    level: str,
    code: int,
) -> None:
    prometheus.spent = spent
    assert run("budget", "--policy", policy, "--prometheus", prometheus.url, "--check") == code
    assert capsys.readouterr().out.startswith(f"{level}: ")
    assert run("budget", "--policy", policy, "--prometheus", prometheus.url) == 0
    assert prometheus.asked[0]["query"] == 'slo:objective:ratio{service="shop"}'


def test_each_objective_is_reported_beside_the_level(
    prometheus: Prometheus, policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run("budget", "--policy", policy, "--prometheus", prometheus.url)
    assert capsys.readouterr().out.splitlines() == [
        "normal: Go on.",
        "  availability: 75.0% of the budget is left, normal",
        "  latency: 75.0% of the budget is left, normal",
    ]


def test_a_prometheus_that_does_not_answer_closes_the_gate_and_makes_no_report(
    policy: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with server(sending("gone", 502)) as url:
        assert run("budget", "--policy", policy, "--prometheus", url, "--check") == 2
        assert "answers 502" in capsys.readouterr().out
        assert run("report", "--prometheus", url) == 1
        assert "answers 502" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["report", "budget"])
def test_the_help_shows_how_it_is_typed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(command, "--help")
    told = capsys.readouterr().out
    assert f"slo {command} " in told
    assert "--prometheus URL" in told
    assert "http://localhost:9090" in told
    assert ("3 restricted, 4 exhausted" in " ".join(told.split())) is (command == "budget")
