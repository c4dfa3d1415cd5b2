"""The rules of moves, by themselves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product
from typing import cast

import pytest

from postfacta_app.errors import IllegalTransitionError, InvalidFieldsError
from postfacta_app.incidents.model import Move, Outcome, Status, check_time, move
from tests.kit.every import every

THEN, NOW = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
OPEN, BUSY, RESOLVED, CLOSED = Status
ENDS = {OPEN: None, BUSY: None, RESOLVED: THEN, CLOSED: THEN}
# What each allowed move leads to, given everything it may need: the status, its end, and its
# outcome.
MOVES = {
    (OPEN, BUSY): (BUSY, None, None),
    (OPEN, RESOLVED): (RESOLVED, NOW, None),
    (OPEN, CLOSED): (CLOSED, NOW, Outcome.DUPLICATE),
    (BUSY, RESOLVED): (RESOLVED, NOW, None),
    (BUSY, CLOSED): (CLOSED, NOW, Outcome.DUPLICATE),
    (RESOLVED, CLOSED): (CLOSED, THEN, Outcome.DUPLICATE),
    (RESOLVED, BUSY): (BUSY, None, None),
    (CLOSED, BUSY): (BUSY, None, None),
}


def moved(start: Status, wish: Move) -> tuple[object, ...] | None:
    new = move(start, wish, ended_at=ENDS[start], occurred_at=NOW)
    return None if new is None else (new["status"], new["ended_at"], new["outcome"])


def a_wish(to: Status) -> Move:
    return Move(to=to, reason="because", outcome=Outcome.DUPLICATE if to == CLOSED else None)


def test_exactly_the_moves_of_the_table_can_be_made() -> None:
    with every() as case:
        for pair in product(Status, Status):
            with case(*pair):
                start, to = pair
                if start == to:
                    assert moved(start, a_wish(to)) is None
                elif pair in MOVES:
                    assert moved(start, a_wish(to)) == MOVES[pair]
                else:
                    with pytest.raises(IllegalTransitionError) as refused:
                        moved(start, a_wish(to))
                    allowed = cast("list[Status]", refused.value.extra["allowed"])
                    assert {(start, there) for there in allowed} == {
                        pair for pair in MOVES if pair[0] == start
                    }


def test_to_close_needs_an_outcome() -> None:
    with every() as case:
        for start in [OPEN, BUSY, RESOLVED]:
            with case(start):
                with pytest.raises(InvalidFieldsError) as refused:
                    moved(start, Move(to=CLOSED))
                assert refused.value.errors[0].pointer == "/outcome"


def test_nothing_but_the_close_has_an_outcome() -> None:
    with every() as case:
        for pair in [pair for pair in MOVES if pair[1] != CLOSED]:
            with case(*pair):
                with pytest.raises(InvalidFieldsError) as refused:
                    moved(pair[0], Move(to=pair[1], outcome=Outcome.FIXED, reason="because"))
                assert refused.value.errors[0].pointer == "/outcome"


def test_to_reopen_needs_a_reason() -> None:
    with every() as case:
        for start in [RESOLVED, CLOSED]:
            with case(start):
                with pytest.raises(InvalidFieldsError) as refused:
                    moved(start, Move(to=BUSY))
                assert refused.value.errors[0].pointer == "/reason"


def test_a_time_may_lie_five_minutes_ahead_and_no_more() -> None:
    limit = NOW + timedelta(minutes=5)
    assert check_time("/occurred_at", limit, NOW) == limit
    with pytest.raises(InvalidFieldsError) as refused:
        check_time("/occurred_at", limit + timedelta(microseconds=1), NOW)
    assert refused.value.errors[0].pointer == "/occurred_at"


def test_no_incident_is_older_than_the_epoch() -> None:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert check_time("/declared_at", epoch, NOW) == epoch
    with pytest.raises(InvalidFieldsError):
        check_time("/declared_at", epoch - timedelta(microseconds=1), NOW)
