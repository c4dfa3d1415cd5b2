"""The canary that is shipped is executed: its report, its pace, and the whole drill."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from chaos import canary, rollback
from chaos.canary import Row, analyse
from chaos.delivery import missing_programs
from deploy.canary.analysis import Metric, Phase
from tests.kit.pg import open_folder

METRIC = Metric(
    name="errors",
    query="sum(rate(x[2m]))",
    delay="2m",
    interval="30s",
    count=3,
    success="len(result) > 0 && result[0] <= 1",
    failure="len(result) > 0 && result[0] > 2",
    failures=1,
    inconclusive=2,
    errors=1,
)


def needs_programs() -> None:
    """Skip without the programs, but never where everything must be there."""
    if missing := missing_programs():
        if os.environ.get("TEST_REQUIRE_ALL"):
            pytest.fail(f"{', '.join(missing)} is not installed")
        pytest.skip(f"not installed: {', '.join(missing)}")


def run(
    *answers: list[float] | Exception, by: float = 10.0
) -> tuple[Phase, str, list[float], list[str]]:
    """Analyse on a clock of its own.

    Return the verdict, what decided, when it was asked, and what.
    """
    now, asked, queries = [0.0], list[float](), list[str]()
    left = list(answers)

    def ask(query: str) -> list[float]:
        asked.append(round(now[0], 1))
        queries.append(query)
        found = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(found, Exception):
            raise found
        return found

    def sleep(seconds: float) -> None:
        now[0] += seconds

    return *analyse([METRIC], ask, by, clock=lambda: now[0], sleep=sleep), asked, queries


def test_an_analysis_keeps_the_pace_that_is_shipped_divided_by_one_factor() -> None:
    verdict, _, asked, queries = run([0.0])
    assert (verdict, asked) == (Phase.SUCCESSFUL, [12.0, 15.0, 18.0])
    assert set(queries) == {"sum(rate(x[12000ms]))"}


ENDS: dict[str, tuple[list[list[float] | Exception], Phase, int]] = {
    "bad": ([[3.0]], Phase.FAILED, 2),
    "once": ([[3.0], [0.0]], Phase.SUCCESSFUL, 3),
    "nothing": ([[]], Phase.INCONCLUSIVE, 3),
    "between": ([[1.5]], Phase.INCONCLUSIVE, 3),
    "refused": ([ValueError("refused")], Phase.ERROR, 2),
    "away": ([httpx2.ConnectError("away")], Phase.ERROR, 2),
}


@pytest.mark.parametrize("end", ENDS)
def test_an_analysis_ends_with_its_verdict(end: str) -> None:
    answers, verdict, measurements = ENDS[end]
    found, decided, asked, _ = run(*answers)
    assert (found, len(asked)) == (verdict, measurements)
    assert decided == "errors"


GOOD = Row("good", Phase.SUCCESSFUL, "", 50, 80.0, {"": 1000}, {"": 100})
BAD = Row("errors", Phase.FAILED, "errors", 5, 10.0, {"": 950, "500": 50}, {"": 100})


@pytest.mark.parametrize(
    ("row", "held"),
    [
        (GOOD, True),
        (replace(GOOD, verdict=Phase.FAILED), False),
        (replace(GOOD, answers={"": 999, "500": 1}), False),
        (replace(GOOD, answers={}), False),
        (BAD, True),
        (replace(BAD, verdict=Phase.ERROR), True),
        (replace(BAD, verdict=Phase.SUCCESSFUL), False),
        (replace(BAD, verdict=Phase.INCONCLUSIVE), False),
        (replace(BAD, answers={"": 949, "500": 50, "503": 1}), False),
        (replace(BAD, after={"": 99, "500": 1}), False),
    ],
    ids=[
        "good",
        "aborted",
        "failed",
        "unasked",
        "bad",
        "error",
        "promoted",
        "paused",
        "hurt",
        "late",
    ],
)
def test_a_row_holds_if_the_good_build_alone_is_promoted(row: Row, *, held: bool) -> None:
    assert row.is_held is held


ROLLED = rollback.Row(
    build="slow",
    trigger="analysis: latency-p95",
    noticed=20.0,
    seconds=30.0,
    answers={"": 900},
    smoked=True,
)


@pytest.mark.parametrize(
    "change",
    [
        {"trigger": ""},
        {"trigger": "readiness"},
        {"seconds": 300.0},
        {"answers": {"": 899, "503": 1}},
        {"answers": {}},
        {"smoked": False},
    ],
    ids=str,
)
def test_a_rollback_holds_if_it_was_noticed_quick_and_without_a_lost_request(
    change: dict[str, Any],
) -> None:
    assert ROLLED.is_held
    assert not replace(ROLLED, **change).is_held


def test_what_a_build_fails_by_itself_is_not_lost_by_the_roll() -> None:
    row = replace(ROLLED, build="errors", answers={"": 900, "500": 90, "ConnectError": 1})
    assert (row.requests, row.own, row.lost) == (991, 90, 1)
    assert replace(row, build="slow").lost == 91


@pytest.mark.parametrize("main", [canary.main, rollback.main], ids=["canary", "rollback"])
def test_without_its_programs_a_drill_is_not_run(
    main: Callable[[list[str]], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("chaos.processes.Haproxy.program", lambda: None)
    assert main([]) == 77
    assert capsys.readouterr().out == "not run: haproxy, prometheus is not installed\n"


@pytest.mark.long
def test_a_build_that_fails_is_aborted_in_its_first_step() -> None:
    needs_programs()
    with open_folder() as folder:
        (row,) = canary.drill(folder, ["errors"])
    assert (row.verdict, row.weight, canary.failed(row.after)) == (Phase.FAILED, 5, 0)
    assert row.by == "errors"
    assert row.is_held


@pytest.mark.long
def test_a_build_whose_smoke_test_fails_is_rolled_back() -> None:
    needs_programs()
    with open_folder() as folder:
        (row,), recorded, acknowledged, known = rollback.drill(folder, ["bare"])
    assert (row.trigger, row.lost, row.own) == ("smoke test", 0, 0)
    assert row.is_held
    assert recorded == acknowledged == known == 3


@pytest.mark.long
def test_of_five_builds_the_good_one_alone_is_promoted() -> None:
    needs_programs()
    with open_folder() as folder:
        rows = canary.drill(folder)
    assert [row.build for row in rows if row.verdict is Phase.SUCCESSFUL] == ["good"]
    assert [row.build for row in rows if not row.is_held] == []


@pytest.mark.long
def test_each_bad_build_is_rolled_back_without_a_lost_request() -> None:
    needs_programs()
    with open_folder() as folder:
        rows, recorded, acknowledged, known = rollback.drill(folder)
    assert [row.build for row in rows if not row.is_held] == []
    assert recorded == 1 + 2 * len(rollback.BUILDS)
    # The build that fails may refuse what is said of it.
    assert recorded - 2 <= acknowledged <= known <= recorded
