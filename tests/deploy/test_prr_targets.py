"""The target figures: each from its source, and none from too little."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from deploy.ledger import Entry, append
from deploy.prr.targets import (
    TARGETS,
    Figure,
    main,
    of_durations,
    of_gameday,
    of_ledger,
    of_objectives,
)
from postfacta_app.durations import Aggregate, Aggregates, Phase
from postfacta_lab.verdict import Verdict
from postfacta_slo.status.query import SloStatus
from tests.kit.every import every

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


def aggregates(n: int, seconds: float | None) -> Aggregates:
    one = Aggregate(
        n_ok=n, n_imprecise=0, n_invalid=0, n_pending=0, n_missing=0, min=None, p50=seconds, p90=None, max=None,
        insufficient_data=[], points=[],
    )  # fmt: skip
    return Aggregates(n=n, durations=dict.fromkeys(Phase, one))


def deployment(days_ago: float, kind: str = "deploy", outcome: str = "succeeded") -> Entry:
    return Entry(
        at=f"{NOW - timedelta(days=days_ago):%Y-%m-%dT%H:%M:%S}Z", kind=kind, what="1.4.0", environment="production",
        by="ci", outcome=outcome, seconds=60.0,
    )  # fmt: skip


def test_a_figure_is_judged_by_its_month_and_never_by_too_little() -> None:
    cases = [
        ("availability", 0.995, 90, Verdict.PASS, Verdict.PASS),
        ("availability", 0.991, 90, Verdict.PASS, Verdict.FAIL),
        ("availability", 1.0, 89, Verdict.INVALID, Verdict.INVALID),
        ("detect", 300.0, 5, Verdict.PASS, Verdict.PASS),
        ("detect", 301.0, 5, Verdict.PASS, Verdict.FAIL),
        ("detect", 601.0, 5, Verdict.FAIL, Verdict.FAIL),
        ("detect", 1.0, 4, Verdict.INVALID, Verdict.INVALID),
        ("deployments", 7.0, 28, Verdict.PASS, Verdict.PASS),
        ("deployments", 0.5, 28, Verdict.FAIL, Verdict.FAIL),
        ("deployments", 7.0, 27, Verdict.INVALID, Verdict.INVALID),
        # Of 99 deployments, one that fails is more than one of a hundred: they cannot tell.
        ("deploy-success", 1.0, 99, Verdict.PASS, Verdict.INVALID),
        ("deploy-success", 1.0, 100, Verdict.PASS, Verdict.PASS),
        ("deploy-success", 0.94, 100, Verdict.FAIL, Verdict.FAIL),
        ("noise", 0.1, 20, Verdict.PASS, Verdict.PASS),
        ("noise", 0.0, 19, Verdict.INVALID, Verdict.INVALID),
        ("noise", None, 0, Verdict.INVALID, Verdict.INVALID),
    ]
    with every() as case:
        for name, value, n, first, third in cases:
            with case(name, value, n):
                figure = Figure(value, n, "a test")
                assert TARGETS[name].judge(figure, 1) is first
                assert TARGETS[name].judge(figure, 3) is third


def test_objectives_are_as_good_as_what_was_recorded_of_them() -> None:
    def status(slo: str, error: float | None, coverage: float) -> SloStatus:
        return SloStatus(
            service="postfacta",
            slo=slo,
            objective=0.99,
            window=1.0,
            unit="minutes",
            coverage=coverage,
            error=error,
        )

    found = of_objectives(
        [
            status("availability", 0.004, 0.951),
            status("success-rate", None, 0.0),
            status("latency-p95", 0.1, 1.0),
        ],
        "a",
    )
    assert found == {"availability": Figure(0.996, 95, "a"), "success-rate": Figure(None, 0, "a")}


def test_durations_are_those_of_the_api() -> None:
    answer = json.loads(aggregates(7, 240.0).model_dump_json())
    assert of_durations(answer, "a") == dict.fromkeys(("detect", "mitigate"), Figure(240.0, 7, "a"))


def test_deployments_are_counted_over_four_weeks_and_judged_over_all() -> None:
    entries = [deployment(90 - day) for day in range(89)]
    entries += [
        deployment(1, outcome="failed"),
        deployment(0.5),
        deployment(0.4, "rollback"),
        deployment(0.3, "flag"),
    ]
    found = of_ledger(entries, NOW, "a")
    assert found["deployments"] == Figure(29 / 4, 90, "a")
    assert found["deploy-success"].n == 91
    assert found["deploy-success"].value == pytest.approx(89 / 91)
    few = of_ledger([deployment(3)], NOW, "a")
    assert (few["deployments"], few["deploy-success"]) == (
        Figure(0.25, 3, "a"),
        Figure(None, 1, "a"),
    )
    assert of_ledger([], NOW, "a")["deployments"] == Figure(0.0, 0, "a")


def test_the_page_of_the_game_day_can_be_read() -> None:
    found = of_gameday((ROOT / "docs/reference/gameday.md").read_text(), "a")
    assert found["detect-gameday"].n >= 5
    assert 60 < (found["detect-gameday"].value or 0) < 600
    assert found["noise"].n >= 20
    table = "| a | Down (x, fast) | page | 9.2 s | 1 m 32 s | 1 s |\n| b | Slow | page | 9 s | 0 m 28 s | 1 s |\n"
    tickets = "| c | Lag | ticket | 9.2 s | 9 m 00 s | 1 s |\nNotifications: 40; noise: 4.\n"
    assert of_gameday(table + tickets, "a") == {
        "detect-gameday": Figure(60.0, 2, "a"),
        "noise": Figure(0.1, 40, "a"),
    }
    assert of_gameday("", "a") == dict.fromkeys(("detect-gameday", "noise"), Figure(None, 0, "a"))


@contextmanager
def serving(body: bytes, status: int = 200) -> Generator[str]:
    """Answer each request so, and give the address; a wrong token is refused."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_known = (self.path, self.headers["Authorization"]) == (
                "/api/v1/durations",
                "Bearer pf_test",
            )
            self.send_response(status if is_known else 401)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - the base class's name
            """Log nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def test_each_source_that_is_given_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token, ledger, page = (tmp_path / name for name in ("token", "ledger", "page.md"))
    token.write_text("pf_test\n")
    append(ledger, deployment(40))
    page.write_text("# A\n<!-- targets: begin -->\n<!-- targets: end -->\n")
    with serving(aggregates(7, 240.0).model_dump_json().encode()) as url:
        given = [
            "--service",
            url,
            "--token-file",
            str(token),
            "--ledger",
            str(ledger),
            "--page",
            str(page),
        ]
        assert main(given) == Verdict.FAIL  # it was deployed too seldom
    printed = capsys.readouterr().out
    assert "| median time to detect an incident | 4.0 min | 7 incidents |" in printed
    assert "| deployments | 0 a week |" in printed
    assert "| good minutes of 30 days | not enough data | 0 % of them recorded |" in printed
    assert printed in page.read_text()
    assert "Measured on 20" in page.read_text()
    page.write_text("# A\n")
    assert main(["--page", str(page)]) == Verdict.NOTHING


def test_a_source_that_does_not_answer_gives_no_figure_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token, ledger = tmp_path / "token", tmp_path / "ledger"
    token.write_text("pf_other")
    ledger.write_text("broken\n")
    with serving(b"{}") as url:
        given = ["--service", url, "--token-file", str(token), "--prometheus", "http://127.0.0.1:9"]
        assert main([*given, "--ledger", str(ledger)]) == Verdict.INVALID
        said = capsys.readouterr().out
        token.write_text("pf_test")
        assert main([*given[:4], "--ledger", str(tmp_path / "gone")]) == Verdict.INVALID
        said += capsys.readouterr().out
    for why in ("401", "cannot ask", "ledger: line 1", "'durations'", "no such file"):
        assert why in said
    assert "pf_" not in said
