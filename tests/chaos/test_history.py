"""The judge of durability catches whatever a store can do wrong, be it once in 10,000 writes."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from chaos.history import MOVES, Action, Stored, judge
from postfacta_lab.durability import Fact, Outcome, Write

MINIMUM = 10


def a_run(seed: int, incidents: int) -> tuple[list[Write], list[Stored]]:
    """Make a history and the store that a faultless service would have after it."""
    luck = random.Random(seed)  # noqa: S311 - test data
    writes: list[Write] = []
    stored: list[Stored] = []
    for number in range(incidents):
        made, row = _one_incident(f"Exercise {number}", luck)
        writes += made
        if row is not None:
            stored.append(row)
    return writes, stored


def _one_incident(name: str, luck: random.Random) -> tuple[list[Write], Stored | None]:
    writes: list[Write] = []
    facts: list[Fact] = []
    status, description = "OPEN", f"About {name}"
    wish = Fact(Action.CREATE, f"LOW {description}")
    for step in range(luck.randint(1, 5)):
        outcome = luck.choices((Outcome.OK, Outcome.INFO, Outcome.FAIL), weights=(18, 1, 1))[0]
        done = outcome is Outcome.OK or (outcome is Outcome.INFO and luck.random() < 0.5)
        if done:
            facts.append(wish)
            if wish.action is Action.CHANGE:
                description = wish.content
            elif wish.action is Action.MOVE:
                status = wish.content.partition(">")[2]
        version = len(facts) if outcome is Outcome.OK else 0
        writes.append(Write(subject=name, fact=wish, outcome=outcome, version=version))
        if outcome is not Outcome.OK:
            break  # a client that does not know where it stands goes no further
        if luck.random() < 0.5:
            wish = Fact(Action.CHANGE, f"Changed in step {step} of {name}")
        else:
            wish = Fact(Action.MOVE, f"{status}>{luck.choice(sorted(MOVES[status]))}")
    row = Stored(
        subject=name, status=status, description=description, version=len(facts), facts=tuple(facts)
    )
    return writes, row if facts else None


def stored_of(facts: tuple[Fact, ...], **other: Any) -> Stored:
    row = Stored(subject="One", status="OPEN", description="It", version=len(facts), facts=facts)
    return replace(row, **other)


CREATED = Fact(Action.CREATE, "LOW It")
STARTED = Fact(Action.MOVE, "OPEN>IN_PROGRESS")


def write_of(fact: Fact, outcome: Outcome = Outcome.OK, version: int = 1) -> Write:
    return Write(subject="One", fact=fact, outcome=outcome, version=version)


# What each way to break a store is called, and how it is done to the row at an index.
def lose_an_incident(rows: list[Stored], at: int) -> None:
    del rows[at]


def double_an_incident(rows: list[Stored], at: int) -> None:
    rows.append(rows[at])


def lose_the_last_fact(rows: list[Stored], at: int) -> None:
    row = rows[at]
    before = row.facts[:-1]
    moves = [fact.content.partition(">")[2] for fact in before if fact.action is Action.MOVE]
    texts = [fact.content for fact in before if fact.action is Action.CHANGE]
    first = row.facts[0].content.partition(" ")[2]
    rows[at] = replace(
        row,
        facts=before,
        version=len(before),
        status=(moves or ["OPEN"])[-1],
        description=(texts or [first])[-1],
    )


def double_the_last_fact(rows: list[Stored], at: int) -> None:
    row = rows[at]
    rows[at] = replace(row, facts=(*row.facts, row.facts[-1]), version=row.version + 1)


def change_content(rows: list[Stored], at: int) -> None:
    row = rows[at]
    rows[at] = replace(row, facts=(Fact(Action.CREATE, "LOW other"), *row.facts[1:]))


def invent_an_incident(rows: list[Stored], at: int) -> None:
    rows.append(replace(rows[at], subject="Nobody asked for this"))


BREAKS = (
    lose_an_incident,
    double_an_incident,
    lose_the_last_fact,
    double_the_last_fact,
    change_content,
    invent_an_incident,
)


@given(st.integers(0, 10_000), st.integers(20, 60))
def test_a_faultless_store_passes(seed: int, incidents: int) -> None:
    findings = judge(*a_run(seed, incidents), minimum=1)
    assert findings.wrong == {
        name: [] for name in ("lost", "phantom", "doubled", "mismatched", "torn")
    }
    assert findings.verdict == "pass"


@given(st.integers(0, 10_000), st.sampled_from(BREAKS), st.integers(0, 1_000_000))
@example(seed=0, broken=double_the_last_fact, where=0)
def test_a_store_with_one_fault_fails(
    seed: int, broken: Callable[[list[Stored], int], None], where: int
) -> None:
    writes, stored = a_run(seed, 20)
    acknowledged = {write.subject: write.version for write in writes if write.outcome is Outcome.OK}
    # Only what was acknowledged can be lost; what is unknown may be there or not.
    sure = [at for at, row in enumerate(stored) if acknowledged.get(row.subject) == row.version]
    broken(stored, sure[where % len(sure)])
    assert judge(writes, stored, minimum=1).verdict == "fail"


@pytest.mark.parametrize("broken", BREAKS)
def test_one_fault_in_ten_thousand_writes_is_caught(
    broken: Callable[[list[Stored], int], None],
) -> None:
    writes, stored = a_run(1, 3900)
    assert len(writes) >= 10_000
    assert judge(writes, stored, minimum=MINIMUM).verdict == "pass"
    acknowledged = {write.subject: write.version for write in writes if write.outcome is Outcome.OK}
    sure = [at for at, row in enumerate(stored) if acknowledged.get(row.subject) == row.version]
    broken(stored, sure[len(sure) // 2])
    findings = judge(writes, stored, minimum=MINIMUM)
    assert findings.verdict == "fail"
    assert sum(map(len, findings.wrong.values())) <= 3  # it names the fault, and does not drown it


def test_a_lost_write_is_called_lost_and_a_doubled_one_doubled() -> None:
    acknowledged = [write_of(CREATED), write_of(STARTED, version=2)]
    assert judge(acknowledged, [stored_of((CREATED,))], minimum=1).wrong["lost"]
    twice = stored_of((CREATED, STARTED, STARTED), status="IN_PROGRESS")
    assert judge(acknowledged, [twice], minimum=1).wrong["doubled"]
    assert judge(
        [write_of(CREATED)], [stored_of((CREATED,)), stored_of((CREATED,))], minimum=1
    ).wrong["doubled"]


def test_what_was_certainly_refused_must_not_be_there() -> None:
    refused = [write_of(CREATED), write_of(STARTED, Outcome.FAIL, 0)]
    row = stored_of((CREATED, STARTED), status="IN_PROGRESS")
    assert judge(refused, [row], minimum=1).wrong["phantom"]


def test_an_unknown_outcome_may_be_there_once_or_not_at_all() -> None:
    unknown = [write_of(CREATED), write_of(STARTED, Outcome.INFO, 0)]
    there = judge(unknown, [stored_of((CREATED, STARTED), status="IN_PROGRESS")], minimum=1)
    absent = judge(unknown, [stored_of((CREATED,))], minimum=1)
    assert (there.verdict, there.unknown, there.unknown_done) == ("pass", 1, 1)
    assert (absent.verdict, absent.unknown, absent.unknown_done) == ("pass", 1, 0)
    assert judge(unknown[1:], [], minimum=0).verdict == "pass"


def test_an_unknown_outcome_that_is_there_twice_was_doubled() -> None:
    moves = (Fact(Action.MOVE, "OPEN>RESOLVED"), Fact(Action.MOVE, "RESOLVED>IN_PROGRESS"))
    again = Fact(Action.MOVE, "IN_PROGRESS>RESOLVED")
    row = stored_of((CREATED, *moves, again, moves[1]), status="IN_PROGRESS")
    known = [write_of(fact, version=at) for at, fact in ((1, CREATED), (2, moves[0]), (4, again))]
    assert judge([*known, write_of(moves[1], Outcome.INFO, 0)], [row], minimum=1).wrong["doubled"]


def test_two_acknowledgements_of_one_version_mean_that_one_is_lost() -> None:
    writes = [write_of(CREATED), write_of(STARTED, version=2), write_of(STARTED, version=2)]
    assert judge(writes, [stored_of((CREATED, STARTED), status="IN_PROGRESS")], minimum=1).wrong[
        "lost"
    ]


@pytest.mark.parametrize(
    "row",
    [
        stored_of((CREATED,), version=2),
        stored_of((CREATED,), status="CLOSED"),
        stored_of((CREATED,), description="Another"),
        stored_of((CREATED, Fact(Action.MOVE, "RESOLVED>IN_PROGRESS")), status="IN_PROGRESS"),
        stored_of((CREATED, Fact(Action.MOVE, "OPEN>OPEN"))),
        stored_of((STARTED,), status="IN_PROGRESS"),
        stored_of(()),
    ],
)
def test_halves_that_do_not_fit_are_torn(row: Stored) -> None:
    writes = [write_of(fact, version=at) for at, fact in enumerate(row.facts, 1)]
    assert judge(writes, [row], minimum=0).wrong["torn"]


def test_a_fact_without_an_incident_is_torn() -> None:
    assert judge([], [], minimum=0, orphans=["an id"]).verdict == "fail"


def test_silence_after_too_few_writes_is_no_pass() -> None:
    assert judge([write_of(CREATED)], [stored_of((CREATED,))], minimum=2).verdict == "unknown"
