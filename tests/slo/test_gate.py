"""What a policy makes of a budget, and which policies are refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis.strategies import floats, lists

from postfacta_slo.promise.promql import SloError
from postfacta_slo.status.gate import Gate, judge, read_policy
from postfacta_slo.status.query import SloStatus
from tests.kit.every import every
from tests.slo.test_status import ONE

Document = dict[str, Any]


def document() -> Document:
    return {
        "owner": "the lead",
        "service": "shop",
        "reviewed": date(2026, 1, 1),
        "review_by": date(2026, 7, 1),
        "window": "30d",
        "objectives": ["availability", "latency"],
        "levels": [
            {"name": "normal", "from": 0.5, "gate": "open", "effect": "Go on."},
            {"name": "careful", "from": 0.25, "gate": "open", "effect": "Go slowly."},
            {"name": "restricted", "from": 0, "gate": "restricted", "effect": "Ask somebody."},
            {"name": "exhausted", "gate": "closed", "effect": "Stop."},
        ],
        "incident_share": 0.2,
        "outage_share": 0.2,
        "exempt": ["p0"],
    }


POLICY = read_policy(document())


def left(share: float, slo: str = "availability") -> SloStatus:
    """An objective of which this share of the budget is left."""
    return replace(ONE, slo=slo, error=(1 - share) * ONE.allowed)


def test_what_is_left_decides_about_a_deployment() -> None:
    cases: list[tuple[float, str, int]] = [
        (1.0, "normal", 0),
        (0.5, "normal", 0),
        (0.4999, "careful", 0),
        (0.25, "careful", 0),
        (0.2499, "restricted", 3),
        (0.0001, "restricted", 3),
        (0.0, "exhausted", 4),
        (-3.0, "exhausted", 4),
    ]
    with every() as case:
        for share, name, code in cases:
            with case(share, name, code):
                level, reasons = judge(POLICY, [left(share), left(1.0, "latency")])
                assert (level.name, level.gate) == (name, code)
                assert reasons[-1].endswith("normal")


@pytest.mark.parametrize("worst", ["availability", "latency"])
def test_the_worst_objective_decides_and_comes_first(worst: str) -> None:
    other = {"availability": "latency", "latency": "availability"}[worst]
    level, reasons = judge(POLICY, [left(0.3, worst), left(0.7, other)])
    assert level.name == "careful"
    assert level.effect == "Go slowly."
    assert reasons == [
        f"{worst}: 30.0% of the budget is left, careful",
        f"{other}: 70.0% of the budget is left, normal",
    ]


def test_what_is_not_measured_closes_the_gate_unless_another_is_exhausted_already() -> None:
    unknown = replace(ONE, slo="latency", coverage=0.5)
    assert judge(POLICY, [left(1.0), unknown])[0].gate is Gate.UNKNOWN
    # Whoever may pass a restricted gate must not pass it on a guess.
    assert judge(POLICY, [left(0.1), unknown])[0].gate == 2
    assert judge(POLICY, [left(0.0), unknown])[0].gate == 4


@pytest.mark.parametrize(
    ("statuses", "told"),
    [
        ([], "availability: nothing of it is recorded"),
        (
            [replace(ONE, coverage=0.5)],
            "availability: 50% of the window is recorded, and 90% of it is needed",
        ),
        ([replace(ONE, error=None)], "availability: there was nothing to judge"),
        ([replace(left(1.0), service="another")], "availability: nothing of it is recorded"),
    ],
)
def test_it_says_why_nothing_is_known(statuses: list[SloStatus], told: str) -> None:
    level, reasons = judge(POLICY, statuses)
    assert (level.gate, level.name) == (Gate.UNKNOWN, "no data")
    assert told in reasons


@given(shares=lists(floats(-2, 1), min_size=2, max_size=2))
def test_less_budget_never_opens_a_gate(shares: list[float]) -> None:
    less, more = sorted(shares)
    rest = left(1.0, "latency")
    assert judge(POLICY, [left(less), rest])[0].gate >= judge(POLICY, [left(more), rest])[0].gate


GONE = object()


def test_a_policy_that_makes_no_sense_is_refused_with_its_place() -> None:
    cases: list[tuple[list[Any], object, str]] = [
        (["budget"], 1, r"policy\.budget: is not known here"),
        (["service"], GONE, r"policy\.service: must be a text"),
        (["window"], "1 month", r"policy\.window: must be a duration"),
        (["objectives"], [], r"policy\.objectives: needs at least one"),
        (["objectives"], [7], r"policy\.objectives\[0\]: must be a text"),
        (["objectives"], "latency", r"policy\.objectives: must be a list"),
        (["incident_shares"], 0.2, r"policy\.incident_shares: is not known here"),
        (["levels"], [], r"policy\.levels: the last one"),
        (["levels", 3, "from"], -0.1, r"levels\[3\]\.from: must be a share"),
        (["levels", 1, "from"], 20, r"levels\[1\]\.from: must be a share from 0 to 1, not 20"),
        (["levels", 1, "from"], True, r"levels\[1\]\.from: must be a share from 0 to 1, not True"),
        (["levels", 3, "from"], 0.0, r"policy\.levels: the last one, and no other"),
        (["levels", 1, "from"], GONE, r"policy\.levels: the last one, and no other, goes"),
        (["levels", 1, "from"], 0.5, r"careful must begin below normal"),
        (["levels", 1, "gate"], "closed", r"restricted must not be milder than careful"),
        (
            ["levels", 0, "gate"],
            "unknown",
            r"levels\[0\]\.gate: must be open or restricted or closed, not 'unknown'",
        ),
        (["levels", 0, "color"], "red", r"levels\[0\]\.color: is not known here"),
    ]
    with every() as case:
        for where, value, told in cases:
            with case(where, value, told):
                spoiled: Any = document()
                within = spoiled
                for key in where[:-1]:
                    within = within[key]
                if value is GONE:
                    del within[where[-1]]
                else:
                    within[where[-1]] = value
                with pytest.raises(SloError, match=told):
                    read_policy(spoiled)


def test_a_list_is_no_policy() -> None:
    with pytest.raises(SloError, match="policy: must be a mapping"):
        read_policy([])
