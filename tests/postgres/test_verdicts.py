"""What an SQLSTATE means, what the circuit counts as a failure, and what may have been done."""

from __future__ import annotations

from types import NoneType

from postfacta_core.errors import (
    DatabaseUnavailableError,
    DeadlineExceededError,
    InvalidInputError,
    LockTimeoutError,
    OutcomeTimeoutError,
    OutcomeUnknownError,
    ReadOnlyDatabaseError,
)
from postfacta_postgres._verdicts import error_of, is_to_blame, outcome_of, sqlstate_of
from tests.kit.every import every


def test_a_state_is_about_the_database_or_about_the_statement() -> None:
    cases: list[tuple[str, type[object]]] = [
        ("08006", DatabaseUnavailableError),
        ("57P01", DatabaseUnavailableError),
        ("53300", DatabaseUnavailableError),
        ("25006", ReadOnlyDatabaseError),
        ("25P02", NoneType),
        ("23505", NoneType),
        ("57014", DeadlineExceededError),
        ("55P03", LockTimeoutError),
        ("22021", InvalidInputError),
        ("22012", NoneType),
        ("", NoneType),
    ]
    with every() as case:
        for state, expected in cases:
            with case(state, expected):
                assert type(error_of(state, "db")) is expected
        with case("otherwise"):
            assert type(error_of("", "db", DeadlineExceededError)) is DeadlineExceededError
            assert type(error_of("55P03", "db", DeadlineExceededError)) is LockTimeoutError


def test_what_had_no_effect_may_be_tried_again_in_a_second() -> None:
    assert getattr(error_of("08006", "db"), "retry_after", None) == 1.0
    assert getattr(error_of("57014", "db"), "retry_after", None) is None


def test_both_names_that_drivers_have_for_a_state_are_read() -> None:
    class Theirs(Exception):  # noqa: N818 - a driver's
        sqlstate: str | None = None
        pgcode: str | None = None

    assert sqlstate_of(None) == sqlstate_of(Theirs()) == sqlstate_of(OSError()) == ""
    for name in ("sqlstate", "pgcode"):
        error = Theirs()
        setattr(error, name, "57014")
        assert sqlstate_of(error) == "57014"


def test_what_was_sent_may_be_done_unless_a_transaction_undoes_it() -> None:
    inside, alone = True, False
    cases = [
        # A connection that broke.
        ("insert into t values (1)", "", inside, True, False),
        ("insert into t values (1)", "", alone, True, True),
        ("commit", "", inside, True, True),
        ("insert into t values (1); commit", "", inside, True, True),
        ("insert into t values ('commit')", "", inside, True, False),
        # Parting words on one that is still open; any other answer means that nothing was done.
        ("commit", "57P01", inside, False, True),
        ("insert into t values (1)", "23505", alone, False, False),
        ("call p()", "23505", alone, False, True),
        ("call p()", "23505", inside, False, False),
        ("commit; insert into t values (1)", "23505", alone, False, True),
    ]
    gone = DatabaseUnavailableError("db", 1.0)
    with every() as case:
        for sql, state, is_inside, is_closed, expected in cases:
            with case(sql, state, is_inside):
                outcome = outcome_of(gone, sql, state, is_inside=is_inside, is_closed=is_closed)
                assert (type(outcome) is OutcomeUnknownError) is expected
                assert expected or outcome is gone


def test_a_value_that_cannot_be_stored_and_a_statements_own_fault_had_no_effect() -> None:
    wrong = InvalidInputError("db")
    assert outcome_of(wrong, "call p()", "22021", is_inside=False, is_closed=False) is wrong
    assert outcome_of(None, "call p()", "23505", is_inside=False, is_closed=True) is None


def test_a_short_deadline_of_the_callers_is_not_the_databases_fault() -> None:
    late, gone = DeadlineExceededError("db"), DatabaseUnavailableError("db", 1.0)
    cases = [
        ("57014", late, None, False, True),
        ("57014", late, 1.0, False, True),
        ("57014", late, 0.9, False, False),
        ("57014", late, 1.0, True, False),
        ("", gone, None, True, True),
        ("53100", gone, None, False, False),
        ("25006", ReadOnlyDatabaseError("db", 1.0), None, False, False),
        ("23505", None, None, False, False),
    ]
    with every() as case:
        for state, known, limit, is_callers, expected in cases:
            with case(state, known, limit, is_callers):
                assert is_to_blame(state, known, limit=limit, is_callers=is_callers) is expected


def test_an_unknown_outcome_asks_for_no_new_try() -> None:
    late = outcome_of(DeadlineExceededError("db"), "select", "", is_inside=False, is_closed=False)
    assert type(late) is OutcomeTimeoutError
    other = outcome_of(
        DatabaseUnavailableError("db", 1.0), "select", "", is_inside=False, is_closed=True
    )
    assert type(other) is OutcomeUnknownError
    assert (other.policy, other.retry_after) == ("db", None)
