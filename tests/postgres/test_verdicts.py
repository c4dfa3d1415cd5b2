"""What an SQLSTATE means, what the circuit counts as a failure, and what may have been done."""

from __future__ import annotations

from postfacta_core.errors import (
    DatabaseUnavailableError,
    DeadlineExceededError,
    InvalidInputError,
    LockTimeoutError,
    OutcomeTimeoutError,
    OutcomeUnknownError,
    ReadOnlyDatabaseError,
)
from postfacta_postgres._verdicts import is_to_blame, may_be_done, meaning_of, sqlstate_of, unknown
from tests.kit.every import every


def test_a_state_is_about_the_database_or_about_the_statement() -> None:
    cases: list[tuple[str, type[Exception] | None]] = [
        ("08006", DatabaseUnavailableError),
        ("57P01", DatabaseUnavailableError),
        ("53300", DatabaseUnavailableError),
        ("25006", ReadOnlyDatabaseError),
        ("25P02", None),
        ("23505", None),
        ("57014", DeadlineExceededError),
        ("55P03", LockTimeoutError),
        ("22021", InvalidInputError),
        ("22012", None),
        ("", None),
    ]
    with every() as case:
        for state, expected in cases:
            with case(state, expected):
                assert meaning_of(state) is expected


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
    with every() as case:
        for sql, state, is_inside, is_closed, expected in cases:
            with case(sql, state, is_inside):
                assert may_be_done(sql, state, is_inside=is_inside, is_closed=is_closed) is expected


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
    assert type(unknown(DeadlineExceededError("db"))) is OutcomeTimeoutError
    other = unknown(DatabaseUnavailableError("db", 1.0))
    assert type(other) is OutcomeUnknownError
    assert (other.policy, other.retry_after) == ("db", None)
