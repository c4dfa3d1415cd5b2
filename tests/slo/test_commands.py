"""The commands, as they are typed: what they print, and what they end with."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from postfacta_slo.promise.model import SloError
from postfacta_slo.status.commands import budget, describe_budget, describe_report, report
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
            return sending('{"status": "success", "data": {"resultType": "matrix", "result": []}}')(to, form)
        result = [
            {"metric": {"service": "shop", "slo": name}, "value": [AT, str(value)]} for name in self.names
        ]
        body = {"status": "success", "data": {"resultType": "vector", "result": result}}
        return sending(json.dumps(body))(to, form)


@pytest.fixture
def prometheus() -> Generator[Prometheus]:
    told = Prometheus()
    with server(told.answer) as told.url:
        yield told


def parsed(describe: Callable[[argparse.ArgumentParser], None], *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="slo")
    describe(parser)
    return parser.parse_args(words)


def run_report(*words: str) -> int:
    return report(parsed(describe_report, *words), clock=lambda: AT)


def run_budget(*words: str) -> int:
    return budget(parsed(describe_budget, "--policy", "x", *words), document(), clock=lambda: AT)


def test_a_report_is_printed_as_it_stands_now(
    prometheus: Prometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_report("--prometheus", prometheus.url) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"Objectives over 30 d up to 2026-09-21 14:13 UTC, from {prometheus.url}\n")
    assert "remaining     324 min (75 %)" in printed
    assert {given["time"] for given in prometheus.asked if "time" in given} == {"1790000000.0"}


def test_a_report_can_be_of_one_objective_another_window_and_another_format(
    prometheus: Prometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--slo", "availability", "--service", "shop", "--window", "7d", "--format", "json")
    assert run_report("--prometheus", prometheus.url, *words) == 0
    assert json.loads(capsys.readouterr().out)["window_seconds"] == 7 * 86_400
    assert prometheus.asked[0]["query"] == 'slo:objective:ratio{service="shop",slo="availability"}'
    assert any("[7d]" in given["query"] for given in prometheus.asked)


def test_a_report_about_nothing_says_what_is_missing(prometheus: Prometheus) -> None:
    prometheus.names = []
    with pytest.raises(SloError, match="records no such objective: load the generated rules"):
        run_report("--prometheus", prometheus.url)


@pytest.mark.parametrize("window", ["", "soon", "59m", "1M"])
def test_a_window_of_no_use_is_a_wrong_use(window: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_report("--prometheus", "http://localhost", "--window", window)
    assert ended.value.code == 2
    assert "--window" in capsys.readouterr().err


@pytest.mark.parametrize(("word", "value"), [("--prometheus", "localhost:9090"), ("--timeout", "0")])
def test_what_cannot_be_queried_is_reported(word: str, value: str) -> None:
    with pytest.raises(SloError, match=r"^--prometheus: "):
        run_report("--prometheus", "http://localhost", word, value)


def test_a_token_comes_from_a_file_and_is_sent(prometheus: Prometheus, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("t0ken\n")
    assert run_budget("--prometheus", prometheus.url, "--token-file", str(file)) == 0
    assert {given["authorization"] for given in prometheus.asked} == {"Bearer t0ken"}
    with pytest.raises(FileNotFoundError):
        run_report("--prometheus", prometheus.url, "--token-file", str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("spent", "level", "code"),
    [(0.1, "normal", 0), (0.6, "careful", 0), (0.9, "restricted", 3), (1.5, "exhausted", 4)],
)
def test_the_gate_tells_a_deployment_by_its_exit_code_when_it_is_asked_to(
    prometheus: Prometheus, capsys: pytest.CaptureFixture[str], spent: float, level: str, code: int
) -> None:
    prometheus.spent = spent
    assert run_budget("--prometheus", prometheus.url, "--check") == code
    assert capsys.readouterr().out.startswith(f"{level}: ")
    assert run_budget("--prometheus", prometheus.url) == 0
    assert prometheus.asked[0]["query"] == 'slo:objective:ratio{service="shop"}'


def test_a_program_reads_the_verdict_as_json(
    prometheus: Prometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    run_budget("--prometheus", prometheus.url, "--format", "json")
    assert json.loads(capsys.readouterr().out) == {
        "gate": "open",
        "level": "normal",
        "effect": "Go on.",
        "reasons": [f"{name}: 75.0% of the budget is left, normal" for name in ("availability", "latency")],
    }


def test_a_prometheus_that_does_not_answer_closes_the_gate_and_makes_no_report(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with server(sending("gone", 502)) as url:
        assert run_budget("--prometheus", url, "--check") == 2
        assert "answers 502" in capsys.readouterr().out
        with pytest.raises(SloError, match="answers 502"):
            run_report("--prometheus", url)


def test_an_invalid_policy_is_reported_before_any_query(prometheus: Prometheus) -> None:
    given = parsed(describe_budget, "--policy", "x", "--prometheus", prometheus.url)
    with pytest.raises(SloError, match="must be a mapping"):
        budget(given, None)
    assert prometheus.asked == []


@pytest.mark.parametrize("describe", [describe_report, describe_budget])
def test_the_help_shows_how_it_is_typed(
    describe: Callable[[argparse.ArgumentParser], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parsed(describe, "--help")
    assert "slo --prometheus http://localhost:9090" in capsys.readouterr().out
