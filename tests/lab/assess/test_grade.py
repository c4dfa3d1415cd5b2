"""Points, letters, caps, ranges, the way up."""

from __future__ import annotations

import pytest

from postfacta_lab.assess.model import (
    LETTERS,
    CheckResult,
    Outcome,
    Rubric,
    grade,
    is_below,
    letter_of,
    rubric,
)
from tests.kit.every import every

PASS, FAIL = CheckResult.passes("it does"), CheckResult.fails("it does not")
SMALL = Rubric.of(
    {
        "version": 1,
        "categories": {},
        "items": {"a": {"title": "A", "weight": 4}, "b": {"title": "B", "weight": 1}},
        "checks": {
            "A-1": {
                "item": "a",
                "gate": 0,
                **dict.fromkeys(("title", "does", "harden", "without", "page"), ""),
            },
            "A-2": {
                "item": "a",
                **dict.fromkeys(("title", "does", "harden", "without", "page"), ""),
            },
            "B-1": {
                "item": "b",
                "gate": 2,
                **dict.fromkeys(("title", "does", "harden", "without", "page"), ""),
            },
        },
    }
)


def all_pass(**others: CheckResult) -> dict[str, CheckResult]:
    changed = {name.replace("_", "-"): result for name, result in others.items()}
    return {**dict.fromkeys(rubric().entries, PASS), **changed}


@pytest.mark.parametrize(
    ("points", "letter"),
    [(0, "F"), (19.9, "F"), (20, "D-"), (26.6, "D-"), (26.7, "D"), (33.4, "D+"), (39.9, "D+"), (40, "C-"), (59.9, "C+"),
     (60, "B-"), (67, "B"), (79.9, "B+"), (80, "A-"), (86.6, "A-"), (86.7, "A"), (96, "A"), (100, "A")],
)  # fmt: skip
def test_points_make_a_letter(points: float, letter: str) -> None:
    assert letter_of(points) == letter


def test_an_item_shares_its_weight_and_gates_count_twice() -> None:
    weights = {name: entry.weight for name, entry in SMALL.entries.items()}
    assert weights == {"A-1": pytest.approx(8 / 3), "A-2": pytest.approx(4 / 3), "B-1": 1}


def test_the_catalogue_weighs_what_the_assessment_says() -> None:
    entries = rubric().entries.values()
    assert sum(entry.weight for entry in entries) == pytest.approx(6 * 4 + 6 * 2 + 12 * 1)
    gates = {level: {entry.id for entry in entries if entry.gate == level} for level in range(3)}
    assert gates[0] == {
        "SHUT-1",
        "DATA-1",
        "DATA-2",
        "TIME-4",
        "CRSH-2",
        "SECU-1",
        "SECU-2",
        "SECU-3",
    }
    assert gates[1] == {"METR-1", "METR-2", "HLTH-2", "SECU-5", "DEP-1", "DEP-3", "DEP-5"}
    assert gates[2] == {"RATE-1", "DEP-2", "LOAD-1", "TRAC-2", "OPER-1", "OPER-2"}


def test_every_check_has_a_category() -> None:
    assert {name.partition("-")[0] for name in rubric().entries} == rubric().categories.keys()


def test_all_passed_is_the_best_letter() -> None:
    graded = grade(rubric(), all_pass())
    assert (str(graded), graded.points, graded.measured, graded.steps) == ("A+", 100, 1, ())


def test_a_failed_gate_caps_the_grade() -> None:
    with every() as case:
        for entry in rubric().entries.values():
            if entry.gate is not None:
                with case(entry.id):
                    graded = grade(rubric(), all_pass(**{entry.id.replace("-", "_"): FAIL}))
                    assert str(graded) == ("D+", "C+", "B+")[entry.gate]
                    assert graded.steps[0].check == entry.id
                    assert graded.steps[0].cap == str(graded)


def test_half_is_no_failure_of_a_gate() -> None:
    assert str(grade(rubric(), all_pass(SHUT_1=CheckResult.scored(0.5, "")))) == "A+"  # 98 points
    assert str(grade(rubric(), all_pass(SHUT_1=CheckResult.scored(0.25, "")))) == "D+"


def test_what_did_not_run_makes_a_range() -> None:
    graded = grade(rubric(), all_pass(SHUT_1=CheckResult.not_run("")))
    assert (graded.lowest, graded.highest, str(graded)) == ("D+", "A+", "D+ … A+")
    assert graded.points == 100
    entries = rubric().entries
    share = entries["SHUT-1"].weight / sum(entry.weight for entry in entries.values())
    assert graded.measured == pytest.approx(1 - share)
    assert graded.steps[0].gain == pytest.approx(100 * share)


def test_what_is_missing_did_not_run() -> None:
    graded = grade(rubric(), {})
    assert (str(graded), graded.points, graded.measured) == ("F … A+", 0, 0)


def test_an_error_is_no_measurement() -> None:
    assert grade(
        SMALL, {"A-1": PASS, "A-2": PASS, "B-1": CheckResult(Outcome.ERROR)}
    ).measured == pytest.approx(0.8)


def test_what_does_not_apply_weighs_nothing() -> None:
    graded = grade(rubric(), all_pass(SECU_3=CheckResult.not_applicable("no [auth]")))
    assert (str(graded), graded.measured) == ("A+", 1)


def test_what_is_declared_takes_the_plus_away() -> None:
    graded = grade(
        rubric(), all_pass(SECU_2=CheckResult(Outcome.DECLARED, evidence="behind a gateway"))
    )
    assert (str(graded), graded.declared) == ("A", 1)


def test_nothing_but_declarations_is_no_division_by_zero() -> None:
    declared = dict.fromkeys(SMALL.entries, CheckResult(Outcome.DECLARED))
    assert (grade(SMALL, declared).points, grade(SMALL, declared).measured) == (0, 0)


def test_steps_go_by_gain_after_the_gates_that_hold() -> None:
    graded = grade(SMALL, {"A-1": PASS, "A-2": FAIL, "B-1": FAIL})
    assert [step.check for step in graded.steps] == [
        "A-2",
        "B-1",
    ]  # at B the cap B+ does not hold it
    graded = grade(SMALL, {"A-1": FAIL, "A-2": FAIL, "B-1": PASS})
    assert [(step.check, step.cap) for step in graded.steps] == [("A-1", "D+"), ("A-2", "")]


def test_a_limit_without_a_sign_admits_the_minus() -> None:
    assert not is_below("B-", "B")
    assert is_below("C+", "B")
    assert is_below("B", "B+")
    assert is_below("F", "D")
    assert not is_below("F", "F")
    assert LETTERS[0] == "F"


def test_results_have_words() -> None:
    words = {
        score: CheckResult.scored(score, "").word for score in (0, 0.25, 0.49, 0.5, 0.75, 0.99, 1)
    }
    assert words == {
        0: "fail",
        0.25: "fail",
        0.49: "fail",
        0.5: "partial",
        0.75: "partial",
        0.99: "partial",
        1: "pass",
    }
    assert CheckResult.not_run("").word == "not run"
    assert CheckResult.share(0, 0, "").word == "fail"
    assert CheckResult.share(7, 8, "").score == 0.75
    assert CheckResult.holds(True, "").word == "pass"  # noqa: FBT003 - the result
    assert [CheckResult.scored(score, "").score for score in (-1, 0.24, 0.25, 2)] == [0, 0, 0.25, 1]
    assert [
        CheckResult.within(value, "", full=5, half=15).score for value in (5, 5.1, 15, 15.1)
    ] == [
        1,
        0.5,
        0.5,
        0,
    ]
