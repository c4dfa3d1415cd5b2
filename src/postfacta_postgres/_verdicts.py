"""Decide what an error of PostgreSQL means: to its caller, to the circuit, and for what was sent.

1. An SQLSTATE is an error of the library, or the statement's own fault: then the driver's error
   stays.
2. The circuit counts what the database is to blame for, and neither a statement nor a caller's
   short deadline.
3. What was sent and not answered may have been done, unless a transaction that is open around it
   undoes it.
"""

from __future__ import annotations

import re
from typing import Final

from postfacta_core import CircuitConfig, errors

# The codes are those of PostgreSQL's manual, appendix A; a class is their first two characters.
QUERY_CANCELED: Final = "57014"
# Connection exceptions, the end of the server's process or its start, too many connections, no disk
# space, no memory.
_NOT_THERE: Final = ("08", "57P01", "57P02", "57P03", "53300", "53100", "53200")
# What a value can be at fault for: too long, too large, no date, no number, a text with NUL, no
# regular expression.
_INPUT: Final = ("22001", "22003", "22007", "22008", "22021", "2201B", "22P02", "22P03", "22P05")
_MEANINGS: Final[dict[str, type[errors.ResilienceError]]] = {
    "25006": errors.ReadOnlyDatabaseError,
    "55P03": errors.LockTimeoutError,
    QUERY_CANCELED: errors.DeadlineExceededError,
    **dict.fromkeys(_INPUT, errors.InvalidInputError),
}
# Such as a full disk: the server answers, on a connection that is well.
_OUT_OF_RESOURCES: Final = "53"
# These end the connection, and may come after a commit whose answer they overtake.
_PARTING_WORDS: Final = ("08", "57P")
_COMMITS: Final = re.compile(r"(?:^|;)\s*(?:commit|end|prepare\s+transaction)\b", re.IGNORECASE)
# An error that follows may find a part committed: procedures and blocks may do so, and what has
# several statements.
_COMMITS_A_PART: Final = re.compile(
    r"(?:^|;)\s*(?:call|do)\b|\b(?:commit|end)\s*;\s*\S", re.IGNORECASE
)
# A statement that had less time, and whose request ran out of it, says nothing about the database.
_FAIR: Final = 1.0
# As `CircuitConfig` has for its first opening; a database that comes back resets its circuit
# before.
_OPEN_FOR: Final = 5.0
# The most that `CircuitConfig.sliding_window_size` may be.
_LARGEST_WINDOW: Final = 10_000


def sqlstate_of(error: BaseException | None) -> str:
    """Return the five characters of a driver's error; empty if it has none."""
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return state if isinstance(state, str) else ""


def error_of(
    sqlstate: str, name: str, otherwise: type[errors.ResilienceError] | None = None
) -> errors.ResilienceError | None:
    """Return the error of this library that an SQLSTATE is; None if it is about the statement.

    `otherwise` is meant where the SQLSTATE says nothing. What had no effect may be tried again in a
    second.
    """
    kind = (
        errors.DatabaseUnavailableError
        if sqlstate.startswith(_NOT_THERE)
        else _MEANINGS.get(sqlstate, otherwise)
    )
    if kind is None:
        return None
    return kind(name, 1.0) if issubclass(kind, errors.RejectedError) else kind(name)


def outcome_of(
    meaning: errors.ResilienceError | None,
    sql: str,
    sqlstate: str,
    *,
    is_inside: bool,
    is_closed: bool,
) -> errors.ResilienceError | None:
    """Return the error to raise for a statement that was sent and failed.

    That is its `meaning`, unless the statement may have had an effect.

    It was sent `is_inside` of a transaction, and its connection `is_closed` by now.
    """
    if meaning is None or isinstance(meaning, errors.InvalidInputError):
        return meaning
    if sqlstate and not sqlstate.startswith(_PARTING_WORDS) and not is_closed:
        may_be_done = not is_inside and _COMMITS_A_PART.search(sql) is not None
    else:
        may_be_done = not is_inside or _COMMITS.search(sql) is not None
    if not may_be_done:
        return meaning
    if isinstance(meaning, errors.DeadlineExceededError):
        return errors.OutcomeTimeoutError(meaning.policy)
    # Without `retry_after`: the caller of a service that answers it would take the answer for a
    # refusal.
    return errors.OutcomeUnknownError(meaning.policy)


def broke(sqlstate: str, meaning: Exception | None) -> bool:
    """Return whether the connection broke, or could not be opened."""
    return isinstance(meaning, errors.DatabaseUnavailableError) and not sqlstate.startswith(
        _OUT_OF_RESOURCES
    )


def is_to_blame(
    sqlstate: str, meaning: Exception | None, *, limit: float | None, is_callers: bool
) -> bool:
    """Return whether the database failed: not the statement, nor the caller's short deadline.

    `limit` is the seconds that its request left it, None for all that any has; `is_callers` says
    who set the deadline.
    """
    if isinstance(meaning, errors.DeadlineExceededError):
        return limit is None or (limit >= _FAIR and not is_callers)
    return broke(sqlstate, meaning)


def database_circuit(max_size: int) -> CircuitConfig:
    """Return the default circuit of a database, for a pool of this size.

    It looks at the last calls: when a database hangs, each connection gives one failure per
    `statement_timeout`, which the successes of the last seconds would outweigh for long. The window
    is four times the pool, and counts from three times on: a blow that breaks all lent connections
    is less than half. It is open for 4 to 5 seconds each time.
    """
    most = min(4 * max(max_size, 5), _LARGEST_WINDOW)
    return CircuitConfig(
        sliding_window_size=most,
        minimum_number_of_calls=most * 3 // 4,
        wait_duration_in_open_state=_OPEN_FOR,
        wait_multiplier=1.0,
        max_wait_duration_in_open_state=_OPEN_FOR,
    )
