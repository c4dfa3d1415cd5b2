"""The rules of moves, by themselves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product
from typing import cast

import pytest

from postfacta_app.errors import IllegalTransitionError, InvalidFieldsError
from postfacta_app.incidents.model import Move, Outcome, State, Status, check_time, move
from tests.kit.every import every

THEN, NOW = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
OPEN, BUSY, RESOLVED, CLOSED = Status
STATES = {
    OPEN: State(OPEN, None, None),
    BUSY: State(BUSY, None, None),
    RESOLVED: State(RESOLVED, THEN, None),
    CLOSED: State(CLOSED, THEN, Outcome.FIXED),
}
# What each allowed move leads to, given everything it may need.
MOVES = {
    (OPEN, BUSY): State(BUSY, None, None),
    (OPEN, RESOLVED): State(RESOLVED, NOW, None),
    (OPEN, CLOSED): State(CLOSED, NOW, Outcome.DUPLICATE),
    (BUSY, RESOLVED): State(RESOLVED, NOW, None),
    (BUSY, CLOSED): State(CLOSED, NOW, Outcome.DUPLICATE),
    (RESOLVED, CLOSED): State(CLOSED, THEN, Outcome.DUPLICATE),
    (RESOLVED, BUSY): State(BUSY, None, None),
    (CLOSED, BUSY): State(BUSY, None, None),
}


def a_wish(to: Status) -> Move:
    return Move(to=to, reason="because", outcome=Outcome.DUPLICATE if to == CLOSED else None)


def test_exactly_the_moves_of_the_table_can_be_made() -> None:
    with every() as case:
        for pair in product(Status, Status):
            with case(*pair):
                start, to = pair
                if start == to:
                    assert move(STATES[start], a_wish(to), NOW) is None
                elif pair in MOVES:
                    assert move(STATES[start], a_wish(to), NOW) == MOVES[pair]
                else:
                    with pytest.raises(IllegalTransitionError) as refused:
                        move(STATES[start], a_wish(to), NOW)
                    allowed = cast("list[Status]", refused.value.extra["allowed"])
                    assert {(start, there) for there in allowed} == {
                        pair for pair in MOVES if pair[0] == start
                    }


def test_to_close_needs_an_outcome() -> None:
    with every() as case:
        for start in [OPEN, BUSY, RESOLVED]:
            with case(start):
                with pytest.raises(InvalidFieldsError) as refused:
                    move(STATES[start], Move(to=CLOSED), NOW)
                assert refused.value.errors[0].pointer == "/outcome"


def test_nothing_but_the_close_has_an_outcome() -> None:
    with every() as case:
        for pair in [pair for pair in MOVES if pair[1] != CLOSED]:
            with case(*pair):
                with pytest.raises(InvalidFieldsError) as refused:
                    move(STATES[pair[0]], Move(to=pair[1], outcome=Outcome.FIXED, reason="because"), NOW)
                assert refused.value.errors[0].pointer == "/outcome"


def test_to_reopen_needs_a_reason() -> None:
    with every() as case:
        for start in [RESOLVED, CLOSED]:
            with case(start):
                with pytest.raises(InvalidFieldsError) as refused:
                    move(STATES[start], Move(to=BUSY), NOW)
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
