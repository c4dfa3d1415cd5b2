"""What ended is added up later as it would have been at once, and is known to all who ask."""

from __future__ import annotations

import random
from functools import partial

from postfacta_core.limits._answers import Answers, Ending
from tests.kit.bytecodes import bytecodes_of, refusal

ANSWERED, LOST, LEFT, UNKNOWN, UNTIMED = Ending


def endings(count: int) -> list[tuple[float, float, Ending, str, float, float]]:
    luck = random.Random(7)  # noqa: S311 - a fixed series, no secret
    kinds = [ANSWERED, ANSWERED, ANSWERED, LOST, LEFT, UNTIMED]
    return [
        (n * 0.01 + 1.0, n * 0.01 + luck.random(), luck.choice(kinds), f"/{n % 3}", 0.01, 0.002)
        for n in range(count)
    ]


def test_endings_that_are_added_up_together_count_as_each_alone() -> None:
    together = Answers(0.1)
    alone = Answers(0.1)
    for ending in endings(100):
        together.pending.append(ending)
        alone.pending.append(ending)
        alone.fold()
    together.fold()
    assert together.ended > together.answered > 20
    assert together.untimed > 0
    assert vars(together) == vars(alone)


def test_who_asks_for_a_kind_knows_of_what_has_just_ended() -> None:
    answers = Answers(0.1)
    assert not answers.has_answered("/a")
    answers.pending.append((1.0, 0.9, ANSWERED, "/a", 0.0, 0.0))
    assert answers.has_answered("/a")
    assert not answers.is_silent("/a", 0.0, 2.9)
    assert answers.is_silent("/a", 0.0, 3.1)


def test_what_a_window_adds_up_to_begins_anew_and_usual_times_stay() -> None:
    answers = Answers(0.1)
    answers.pending.append((1.0, 0.9, ANSWERED, "/a", 0.0, 0.0))
    answers.fold()
    answers.open()
    assert (answers.ended, answers.took, answers.allowed) == (0, 0.0, 0.0)
    assert answers.has_answered("/a")


async def _fold(answers: Answers) -> None:
    answers.fold()


async def test_an_answer_costs_no_more_than_it_did_when_it_is_added_up() -> None:
    bytecodes: list[int] = []
    for count in (10, 110):
        answers = Answers(0.1)
        answers.pending += [(1.0, 0.9, ANSWERED, "/a", 0.0, 0.001)] * count
        bytecodes.append((await bytecodes_of(partial(_fold, answers))).bytecodes)
    assert refusal((bytecodes[1] - bytecodes[0]) // 100, 140) == ""
