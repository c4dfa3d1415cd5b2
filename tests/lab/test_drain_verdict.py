"""Whether a stop was noticed is judged from what clients saw, and only if clients were there to see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from postfacta_lab.drain.clients import Attempt, settled
from postfacta_lab.drain.result import Result, judge, text
from postfacta_lab.drain.stop import Service, missed
from postfacta_lab.engine.client import Outcome
from postfacta_lab.load.mix import Ask
from postfacta_lab.verdict import Verdict

SERVICE = Service(command="serve {port}", asks=[Ask("GET /", 1, "/")], ready="/ready", grace=30)


def attempts(
    *, before: int = 150, after: int = 50, outcome: Outcome = Outcome.OK
) -> Sequence[Attempt]:
    good = [Attempt("fresh", Outcome.OK, 1.0)] * before + [
        Attempt("fresh", Outcome.OK, 3.0)
    ] * after
    return good if outcome is Outcome.OK else [*good, Attempt("fresh", outcome, 3.0)]


def judged(found: Sequence[Attempt], *misses: str) -> Result:
    return judge("stop", "serve", found, signalled=2.0, misses=misses, cells={"exit": "0"})


def ended(**change: Any) -> list[str]:
    how: dict[str, Any] = {"code": 0, "unready": 0.1, **change}
    return [*missed(SERVICE, **how)]


def test_a_stop_is_written_with_all_that_was_missed() -> None:
    held = Result(
        scenario="stop", server="uvicorn", cells={"after": "0.3 s", "code": "0"}, misses=[]
    )
    failed = replace(held, misses=["1 failed", "/ready stayed 200"])
    unsure = replace(failed, flaw=Verdict.INVALID)
    assert [it.verdict for it in (held, failed, unsure)] == [
        Verdict.PASS,
        Verdict.FAIL,
        Verdict.INVALID,
    ]
    assert text([held, failed]).splitlines() == [
        "stop        uvicorn             ok      after: 0.3 s; code: 0",
        "stop        uvicorn             MISSED  after: 0.3 s; code: 0",
        f"{'':32}- 1 failed",
        f"{'':32}- /ready stayed 200",
    ]


@pytest.mark.parametrize("code", [0, -15, 143])
def test_a_stop_without_noticed_failures_held(code: int) -> None:
    result = judged(attempts(), *ended(code=code))
    assert (result.verdict, result.misses) == (Verdict.PASS, [])
    assert result.cells == {"failed / requests": "0 / 200", "after the signal": "50", "exit": "0"}


def test_a_request_that_failed_did_not_hold() -> None:
    result = judged(attempts(outcome=Outcome.RESET))
    assert result.verdict is Verdict.FAIL
    assert result.misses == [
        "1 of 201 requests failed (fresh reset), 1 of 51 sent after the signal"
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"unready": None}, "/ready was never answered 503"),
        ({"code": None}, "no exit within 30 s"),
        ({"code": 1}, "exit code 1"),
        ({"leftover": True}, "outlived"),
        ({"early": True, "code": 3}, "before the signal, with exit code 3"),
    ],
)
def test_what_was_wrong_about_its_end_did_not_hold(change: dict[str, Any], reason: str) -> None:
    result = judged(attempts(), *ended(**change))
    assert result.verdict is Verdict.FAIL
    assert len(result.misses) == 1
    assert reason in result.misses[0]


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (attempts(before=20, after=20), "at least 100"),
        (attempts(after=0), "no client can have noticed"),
    ],
)
def test_too_few_clients_cannot_tell(found: Sequence[Attempt], reason: str) -> None:
    result = judged(found)
    assert result.verdict is Verdict.INVALID
    assert reason in result.misses[0]


def test_readiness_counts_from_where_it_stays_503() -> None:
    assert (
        settled([(1.0, 200), (2.1, 503), (2.2, 200), (2.3, 0), (2.5, 503), (2.6, 503)], 2.0) == 0.5
    )
    assert settled([(1.0, 200), (2.1, 503), (2.2, 200)], 2.0) is None
