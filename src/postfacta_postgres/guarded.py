"""Guard a database by a circuit, a budget and retries, from what its errors mean.

1. What the circuit lets pass is a lease: a statement alone, or a transaction. Within one nothing is refused.
2. A lease in which the database failed is a failure, counted immediately. Else it is a success if its last statement
   was answered, even by an error. One without an answer, for which the database is not to blame, does not count.
3. While it is known that there is no database, the circuit is not asked: a refusal says nothing about the database.
4. When the database is found again, the circuit is reset: it has just answered.
5. What was sent and not answered may have been done, unless a transaction that is open around it undoes it.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final, Self

import asyncpg

from postfacta_core import Backoff, CircuitBreaker, Retry, RetryBudget
from postfacta_core.errors import (
    DatabaseUnavailableError,
    DeadlineExceededError,
    InvalidInputError,
    ResilienceError,
)
from postfacta_core.events import DeadlineExceeded
from postfacta_core.guards._circuit import CircuitState
from postfacta_core.guards._outcome import Outcome

from ._leases import PooledConnection
from ._verdicts import (
    QUERY_CANCELED,
    broke,
    database_circuit,
    error_of,
    is_to_blame,
    may_be_done,
    meaning_of,
    sqlstate_of,
    unknown,
)
from .borrowing import Permit, is_the_callers_wish
from .connecting import RawConnection, Setup
from .pool import Pool

__all__ = ["DatabaseHealth", "Lease", "database_circuit", "judge", "state_of", "translate"]

# In place of a count of statements: nothing is sent on a closed connection.
_CLOSED: Final = -2
_DISK_FULL: Final = "53100"
# Longer than writes of a service that has any are apart.
_REFUSED_FOR: Final = 30.0
_READ_ONLY: Final = "25006"
_CONFLICTS: Final = frozenset({"40001", "40P01"})
_BY_HAND: Final = frozenset({CircuitState.FORCED_OPEN, CircuitState.DISABLED, CircuitState.METRICS_ONLY})


def translate(error: BaseException, name: str, *, broken: bool = False) -> ResilienceError | None:
    """Map a driver's error to one of this library; None if the caller caused it.

    Args:
        error: What asyncpg or the operating system raised.
        name: The database's name, for the error.
        broken: Whether the connection is closed: then even asyncpg's vague errors mean that.
    """
    kind = meaning_of(sqlstate_of(error)) or _meaning_of_driver(error, broken=broken)
    return None if kind is None else error_of(kind, name)


def _meaning_of_driver(error: BaseException, *, broken: bool) -> type[ResilienceError] | None:
    # A time-out on this side means that time is up, or a server that answers nothing.
    if isinstance(error, TimeoutError):
        return DeadlineExceededError
    if _is_unwritable(error):
        return InvalidInputError
    # asyncpg is confused when a statement meets the server's parting words, which it has not read to the end.
    if isinstance(error, OSError | asyncpg.InternalClientError) or (
        broken and isinstance(error, asyncpg.InterfaceError | asyncpg.PostgresError)
    ):
        return DatabaseUnavailableError
    return None


def _is_unwritable(error: BaseException) -> bool:
    """Return whether the driver could not encode a value of a right type, such as a number too large."""
    return isinstance(error, asyncpg.DataError) and isinstance(error.__cause__, ValueError | OverflowError)


def state_of(connection: RawConnection) -> tuple[bool, int]:
    """Return what `judge` must know of a connection before a statement: whether it is in a transaction, what was sent."""
    if connection.is_closed():
        return False, _CLOSED
    return connection.is_in_transaction(), _count_of_sent(connection)


def judge(
    connection: RawConnection,
    sql: str,
    state: tuple[bool, int],
    *,
    error: Exception,
    known: ResilienceError | None,
) -> ResilienceError | None:
    """Return the error to raise for a failed statement that may not run twice; None if it is the driver's own.

    `state` is what `state_of` returned before, `known` the error in this library's words.
    """
    is_inside, sent_before = state
    was_sent = sent_before != _CLOSED and (sent_before < 0 or _count_of_sent(connection) != sent_before)
    if known is None or isinstance(known, InvalidInputError) or not was_sent:
        return known
    closed = connection.is_closed()
    is_done = may_be_done(sql, sqlstate_of(error), is_inside=is_inside, is_closed=closed)
    return unknown(known) if is_done else known


def _count_of_sent(connection: RawConnection) -> int:
    """Return how many statements the driver has put on the wire to run; -1 if that is unknown."""
    # The driver counts a statement once it is written, and not while it is only prepared.
    count = getattr(getattr(connection, "_protocol", None), "queries_count", -1)
    return count if isinstance(count, int) else -1


class Lease:
    """A connection for the length of an `async with` block, unless the circuit refuses.

    Attributes:
        has_answered: Whether the statement sent last was answered.
    """

    __slots__ = ("_health", "_permit", "_pool", "_pooled", "_started", "has_answered")

    def __init__(self, pool: Pool, health: DatabaseHealth) -> None:
        self._pool = pool
        self._health = health
        self._pooled: PooledConnection[RawConnection] | None = None
        self._started = 0.0
        self._permit: Permit | None = None
        self.has_answered: bool = False

    @property
    def pooled(self) -> PooledConnection[RawConnection]:
        """What is lent. It raises InterfaceError once it was given back: it is another's now."""
        if self._pooled is None:
            raise asyncpg.InterfaceError("the connection was given back to the pool")
        return self._pooled

    async def __aenter__(self) -> Self:
        monitor = self._pool.monitor
        if monitor.is_there or monitor.is_unknown:
            self._permit = Permit(self._health.breaker)
        try:
            self._pooled = await self._pool.lend()
            self._started = self._pool.now()
        except DatabaseUnavailableError as error:
            # Without a cause none could be opened in time, or none was tried: it was lost meanwhile, or is closed.
            if error.__cause__ is not None or self._pool.is_lending:
                self.failed(error)
            raise
        finally:
            if self._pooled is None:
                self._leave()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        pooled, self._pooled = self.pooled, None
        await self._pool.take_back(pooled, error, self._started)

    def failed(self, error: Exception) -> None:
        """Count a failure of the database in the circuit. A later outcome of this lease does not count."""
        self._leave(error)

    def _leave(self, error: Exception | None = None) -> None:
        permit, self._permit = self._permit, None
        if permit is not None:
            permit.leave(error, is_answered=self.has_answered)


class DatabaseHealth:
    """The circuit, the budget and the retries before a pool.

    Attributes:
        breaker: The circuit.
        budget: The budget.
        reads: Tries a statement once more after its connection broke.
        transactions: Tries a transaction again that was lost to another one.
    """

    def __init__(
        self, setup: Setup, pool: Pool, *, breaker: CircuitBreaker | None, budget: RetryBudget | None
    ) -> None:
        name = pool.name
        shared: Any = {"observer": setup.observe, "clock": setup.clock, "luck": setup.luck}
        self._pool = pool
        self._refused_write: tuple[ResilienceError, float] | None = None
        self._clock = setup.clock
        self._observe = setup.observe
        self.breaker: CircuitBreaker = breaker or CircuitBreaker(
            name, config=database_circuit(setup.options.max_size), **shared
        )
        self.budget: RetryBudget = budget or RetryBudget(name)
        self.reads: Retry = Retry(
            f"{name}_read",
            attempts=2,
            backoff=Backoff(base=0.02, cap=0.02),
            budget=self.budget,
            on=_is_repeatable,
            retry_after=_asks_no_wait,
            **shared,
        )
        self.transactions: Retry = Retry(
            f"{name}_transaction",
            # A victim of a deadlock wins the next round; one that loses three times meets real contention.
            attempts=3,
            backoff=Backoff(base=0.05, cap=0.5),
            budget=self.budget,
            on=_lost_to_another,
            retry_after=_asks_no_wait,
            **shared,
        )
        pool.monitor.when_found = self._forget

    def take_note(
        self, lease: Lease, error: Exception, known: ResilienceError | None, *, limit: float | None
    ) -> None:
        """Apply the failure of a statement to its connection, the database's availability, and the circuit.

        `limit` is the seconds that its request left it; None if it had all of `statement_timeout`.
        """
        pooled, monitor = lease.pooled, self._pool.monitor
        state = sqlstate_of(error)
        is_late = isinstance(error, TimeoutError)
        if limit is not None and (is_late or state == QUERY_CANCELED):
            self._observe(DeadlineExceeded("database"))
            if limit > 0.0:
                monitor.suspect()
        elif is_late or isinstance(error, asyncpg.InternalClientError):
            # A server that does not even end a statement at its own limit, or that sends an unexpected message.
            pooled.connection.terminate()
        moved = state == _READ_ONLY
        if known is not None and (moved or state == _DISK_FULL):
            self._refused_write = known, self._clock()
        if moved or pooled.connection.is_closed():
            monitor.suspect(pooled, moved=moved)
        if is_to_blame(state, known, limit=limit, is_callers=is_the_callers_wish()):
            lease.failed(known or error)
        # What the driver finds wrong by itself has no SQLSTATE, and may never have been sent.
        lease.has_answered = state not in {"", QUERY_CANCELED}

    def check_writes(self) -> None:
        """Raise the error of a recently refused write; see `Database.check_writes`."""
        if self._refused_write is not None:
            error, at = self._refused_write
            if self._clock() < at + _REFUSED_FOR:
                raise type(error)(error.policy, error.retry_after)
            self._refused_write = None

    def _forget(self) -> None:
        """Reset the circuit, since the database is available again. A state set by hand stays."""
        if self.breaker.statistics().state not in _BY_HAND:
            self.breaker.reset()


def _is_repeatable(outcome: Outcome[object]) -> bool:
    # Without a cause nothing was sent, as it is known that there is no database.
    error = outcome.error
    return error is not None and error.__cause__ is not None and broke(sqlstate_of(error.__cause__), error)


def _lost_to_another(outcome: Outcome[object]) -> bool:
    error = outcome.error
    return isinstance(error, DatabaseUnavailableError) and sqlstate_of(error.__cause__) in _CONFLICTS


def _asks_no_wait(outcome: Outcome[object]) -> None:
    """Ignore `retry_after`, which is for the final caller: the backoff alone sets the wait."""
