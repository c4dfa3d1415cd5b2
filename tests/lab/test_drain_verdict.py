"""Whether a stop was noticed is judged from what clients saw, and only if clients were there to see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from postfacta_lab.drain.clients import Attempt
from postfacta_lab.drain.result import Result, text
from postfacta_lab.drain.stop import Seen, Service, judge
from postfacta_lab.engine.client import Outcome
from postfacta_lab.load.mix import Ask
from postfacta_lab.verdict import Verdict

SERVICE = Service(command="serve {port}", asks=[Ask("GET /", 1, "/")], ready="/ready", grace=30)


def attempts(*, before: int = 150, after: int = 50, outcome: Outcome = Outcome.OK) -> Sequence[Attempt]:
    good = [Attempt("fresh", Outcome.OK, 1.0)] * before + [Attempt("fresh", Outcome.OK, 3.0)] * after
    return good if outcome is Outcome.OK else [*good, Attempt("fresh", outcome, 3.0)]


GOOD = Seen(attempts=attempts(), signalled=2.0, unready=0.1)


def test_a_stop_is_written_with_all_that_was_missed() -> None:
    held = Result(scenario="stop", server="uvicorn", cells={"after": "0.3 s", "code": "0"}, misses=[])
    failed = replace(held, misses=["1 failed", "/ready stayed 200"])
    unsure = replace(failed, flaw=Verdict.INVALID)
    assert [it.verdict for it in (held, failed, unsure)] == [Verdict.PASS, Verdict.FAIL, Verdict.INVALID]
    assert text([held, failed]).splitlines() == [
        "stop        uvicorn             ok      after: 0.3 s; code: 0",
        "stop        uvicorn             MISSED  after: 0.3 s; code: 0",
        f"{'':32}- 1 failed",
        f"{'':32}- /ready stayed 200",
    ]


@pytest.mark.parametrize("code", [0, -15, 143])
def test_a_stop_without_noticed_failures_held(code: int) -> None:
    assert judge(replace(GOOD, code=code), SERVICE) == (Verdict.PASS, [])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"attempts": attempts(outcome=Outcome.RESET)},
            "1 of 201 requests failed (reset), 1 of 51 sent after",
        ),
        ({"unready": None}, "/ready was never answered 503"),
        ({"code": None}, "no exit within 30 s"),
        ({"code": 1}, "exit code 1"),
        ({"leftover": True}, "outlived"),
        ({"early": 3}, "before the signal, with exit code 3"),
    ],
)
def test_what_was_noticed_did_not_hold(change: dict[str, Any], reason: str) -> None:
    verdict, reasons = judge(replace(GOOD, **change), SERVICE)
    assert verdict is Verdict.FAIL
    assert len(reasons) == 1
    assert reason in reasons[0]


@pytest.mark.parametrize(
    ("found", "reason"),
    [(attempts(before=20, after=20), "at least 100"), (attempts(after=0), "no client can have noticed")],
)
def test_too_few_clients_cannot_tell(found: Sequence[Attempt], reason: str) -> None:
    verdict, reasons = judge(replace(GOOD, attempts=found), SERVICE)
    assert verdict is Verdict.INVALID
    assert reason in reasons[0]
