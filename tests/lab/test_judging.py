"""An experiment is green only if users were watched, the fault happened, and all that was claimed held throughout."""

from __future__ import annotations

from typing import Any

import pytest

from postfacta_lab.chaos.judging import judge
from postfacta_lab.verdict import Verdict

GOOD = {"ended": 1000, "errors": {"503": 2}, "late": 0.1}


def probe(*, met: bool = True) -> dict[str, Any]:
    return {"activity": {"name": "the claim"}, "tolerance_met": met, "output": 0.3}


def state(*, met: bool = True) -> dict[str, Any]:
    return {"steady_state_met": met, "probes": [probe(met=met)]}


def deed(**more: Any) -> dict[str, Any]:
    activity = {
        "type": "action",
        "name": "the deed",
        "provider": {"type": "process", "path": "kubectl"},
    }
    return {
        "activity": activity,
        "status": "succeeded",
        "output": {"status": 0, "stdout": ""},
        **more,
    }


def journal(**more: Any) -> dict[str, Any]:
    states = {"before": state(), "during": [state()], "after": state()}
    whole = {"status": "completed", "deviated": False, "steady_states": states, "run": [deed()]}
    return {**whole, "rollbacks": [], "experiment": {}, **more}


def states(**more: Any) -> dict[str, Any]:
    return {"steady_states": {**journal()["steady_states"], **more}}


ALLOWED = {"experiment": {"configuration": {"may_break_during": True}}}
UNANSWERED = {"ended": 1000, "errors": {"ConnectError": 1000}}


@pytest.mark.parametrize(
    ("found", "users", "verdict"),
    [
        pytest.param(journal(), GOOD, Verdict.PASS, id="all held"),
        pytest.param(
            journal(**states(before=state(met=False), during=[], after=None), run=[]),
            GOOD,
            Verdict.FAIL,
            id="not before",
        ),
        pytest.param(journal(**states(after=state(met=False))), GOOD, Verdict.FAIL, id="not after"),
        pytest.param(
            journal(**states(during=[None, state(), state(met=False)])),
            GOOD,
            Verdict.FAIL,
            id="not during",
        ),
        pytest.param(
            journal(**states(during=[state(met=False)]), **ALLOWED),
            GOOD,
            Verdict.PASS,
            id="allowed during",
        ),
        pytest.param(
            journal(rollbacks=[deed(status="failed", exception=["no way back"])]),
            GOOD,
            Verdict.FAIL,
            id="no way back",
        ),
        pytest.param(
            journal(rollbacks=[deed(), deed(output=False)]),
            GOOD,
            Verdict.FAIL,
            id="back, and not well",
        ),
        pytest.param(journal(), UNANSWERED, Verdict.NOTHING, id="no answer"),
        pytest.param(journal(), {"failure": "no lab"}, Verdict.NOTHING, id="no users"),
        pytest.param(journal(), {**GOOD, "ended": 99}, Verdict.INVALID, id="too few"),
        pytest.param(journal(), {**GOOD, "late": 1.5}, Verdict.INVALID, id="a late generator"),
        pytest.param(journal(status="interrupted"), GOOD, Verdict.INVALID, id="interrupted"),
        pytest.param({}, GOOD, Verdict.INVALID, id="no journal"),
        pytest.param(journal(run=[]), GOOD, Verdict.INVALID, id="nothing done"),
        pytest.param(
            journal(run=[deed(output={"status": 1, "stdout": "", "stderr": "no such cluster"})]),
            GOOD,
            Verdict.INVALID,
            id="a program that failed",
        ),
        pytest.param(
            journal(run=[deed(output={"status": 404, "body": "gone"})]),
            GOOD,
            Verdict.INVALID,
            id="a request that was refused",
        ),
        pytest.param(
            journal(run=[deed(status="failed", output=None)]),
            GOOD,
            Verdict.INVALID,
            id="a deed that failed",
        ),
    ],
)
def test_only_what_was_measured_and_held_is_green(
    found: dict[str, Any], users: dict[str, Any], verdict: Verdict
) -> None:
    judged, reasons = judge(found, users, watched=True)
    assert judged is verdict, reasons
    assert bool(reasons) == (verdict is not Verdict.PASS)


def test_users_who_are_not_well_after_the_fault_are_a_claim_that_broke() -> None:
    waiting = {
        "type": "action",
        "name": "wait",
        "provider": {"module": "chaos.actions", "func": "await_steady"},
    }
    late = {
        "activity": waiting,
        "status": "failed",
        "output": None,
        "exception": ["TimeoutError: not well"],
    }
    verdict, reasons = judge(journal(run=[deed(), late]), GOOD, watched=True)
    assert verdict is Verdict.FAIL
    assert reasons == ["wait: TimeoutError: not well"]


def test_a_claim_that_broke_during_the_fault_is_counted() -> None:
    looks = [state(), state(met=False), state(met=False)]
    _, reasons = judge(journal(**states(during=looks)), GOOD, watched=True)
    assert reasons == ["during, not so 2 of 3 times: the claim: found 0.3"]


def test_an_experiment_without_users_is_judged_by_its_claims_alone() -> None:
    confirmed = deed(output=True)
    assert judge(journal(run=[confirmed]), {}, watched=False)[0] is Verdict.PASS
    assert judge(journal(run=[confirmed]), {}, watched=True)[0] is Verdict.NOTHING


def test_what_chaos_toolkit_says_of_itself_can_only_make_it_worse() -> None:
    failure = "exit code 1: no such module"
    assert judge(journal(), GOOD, watched=True, failure=failure)[0] is Verdict.FAIL
    assert judge({}, GOOD, watched=True, failure=failure)[0] is Verdict.INVALID
    _, reasons = judge(
        journal(**states(after=state(met=False))), GOOD, watched=True, failure=failure
    )
    assert reasons == ["after, not so: the claim: found 0.3"]


def test_what_users_wrote_and_is_not_there_is_a_claim_that_broke() -> None:
    assert judge(journal(), {**GOOD, "findings_verdict": "pass"}, watched=True)[0] is Verdict.PASS
    verdict, reasons = judge(journal(), {**GOOD, "findings_verdict": "fail"}, watched=True)
    assert (verdict, reasons) == (Verdict.FAIL, ["history: fail"])
