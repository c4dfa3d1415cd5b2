"""A client knows what it does not know."""

from __future__ import annotations

import time

import httpx2
import pytest

from chaos.history import Action
from chaos.writers import Attempt, Journal
from postfacta_lab.durability import Fact, Outcome, Write


def _write(outcome: Outcome, subject: str = "One") -> Write:
    return Write(subject=subject, fact=Fact(Action.CREATE, "LOW It"), outcome=outcome, version=1)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_an_answer_that_promises_nothing_leaves_the_outcome_open(status: int) -> None:
    assert Attempt(httpx2.Response(status), str(status)).is_unclear


@pytest.mark.parametrize("status", [200, 201, 400, 401, 404, 409, 412, 422])
def test_an_answer_that_says_what_was_done_ends_the_doubt(status: int) -> None:
    assert not Attempt(httpx2.Response(status), str(status)).is_unclear


def test_a_request_with_the_same_key_at_work_leaves_the_outcome_open() -> None:
    busy = httpx2.Response(409, json={"type": "/problems/idempotency-in-progress"})
    assert Attempt(busy, "409").is_unclear


def test_what_was_sent_and_not_answered_is_open_and_what_was_not_sent_is_not() -> None:
    assert Attempt(None, "ReadTimeout").is_unclear
    assert not Attempt(None, "ConnectError", was_sent=False).is_unclear


def test_the_journal_notes_when_writes_were_acknowledged_and_only_these() -> None:
    journal = Journal()
    for outcome in Outcome:
        journal.ended(_write(outcome), time.monotonic())
    assert len(journal.writes) == 3
    assert len(journal.acknowledged_at) == 1


@pytest.mark.parametrize("later", [Outcome.FAIL, Outcome.INFO])
def test_a_restored_history_has_what_ended_before_doubts_what_was_under_way_and_not_what_began_after(
    later: Outcome,
) -> None:
    journal = Journal()
    for subject, outcome in (
        ("ended", Outcome.OK),
        ("under way", Outcome.OK),
        ("refused", Outcome.FAIL),
    ):
        journal.writes.append(_write(outcome, subject))
    journal.writes.append(_write(Outcome.OK, "began after"))
    journal.times += [(1.0, 5.0), (4.0, 6.0), (4.0, 6.0), (5.5, 6.0)]
    known = {
        write.subject: (write.outcome, write.version) for write in journal.as_of(5.0, later=later)
    }
    assert known == {
        "ended": (Outcome.OK, 1),
        "under way": (Outcome.INFO, 0),
        "refused": (Outcome.FAIL, 1),
        "began after": (later, 0),
    }
