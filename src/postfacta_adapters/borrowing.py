"""Borrow connections of another library's pool: behind a circuit, in time, and observed.

The adapters report each step, and raise what is returned. This module knows no driver.

1. A loan begins with the wish for a connection: the request's time and the circuit are asked before
   the pool. A wait in vain is the database's fault only if not all connections are lent.
2. In a transaction the server is given the request's limit before a statement, and once more when a
   quarter of it has passed. The limit ends with the transaction. Outside of one there is none,
   since it would stay in the session.
3. A loan in which the database failed is a failure of the circuit, counted at once. Else it is a
   success if its last statement was answered, even by an error.
4. A COMMIT, or a statement outside of a transaction, whose answer is lost may have been done.
5. An error is of both sides: an `except` of the other library catches it too, see `common`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final

from postfacta_core import CircuitBreaker, current_deadline
from postfacta_core.clock import Clock
from postfacta_core.context import (
    RequestContext,
    add_wait,
    current_request,
    ignore_duration,
)
from postfacta_core.deadlines.present import time_to_wait
from postfacta_core.errors import (
    DatabaseUnavailableError,
    DeadlineExceededError,
    PoolTimeoutError,
    ResilienceError,
)
from postfacta_core.events import (
    ConnectionAcquired,
    ConnectionReleased,
    DeadlineExceeded,
    Observer,
    PolicyCreated,
    QueryFinished,
    Sample,
    observing,
)
from postfacta_core.health.holders import Holders
from postfacta_core.validation import validation
from postfacta_postgres import database_circuit
from postfacta_postgres.permits import (
    Loan,
    error_of,
    first_word,
    outcome_of,
    sizes,
    sqlstate_of,
)

# These take no time; and SET TRANSACTION must come before any query.
_UNLIMITED: Final = frozenset(
    {
        "ABORT",
        "BEGIN",
        "COMMIT",
        "END",
        "RELEASE",
        "RESET",
        "ROLLBACK",
        "SAVEPOINT",
        "SET",
        "SHOW",
        "START",
    }
)
# A limit that was set earlier in a transaction is set again once a quarter of it has passed: each
# setting is a round trip.
_STALE: Final = 0.75
# Less than this share of the time is left when the server ends a statement at its request's limit.
_SPENT: Final = 0.1


def limiting(placeholder: str) -> str:
    """Return the statement that sets a limit until the end of the transaction.

    It never lengthens the one that the role, the database or the address sets. Its text is always
    the same, so that it does not push other statements out of a driver's cache.
    """
    limit = f"cast({placeholder} as text)"
    return (
        f"select set_config('statement_timeout', {limit}, true)"
        " where cast(current_setting('statement_timeout') as interval)"
        f" not between interval '1 ms' and cast({limit} as interval)"
    )


class Lender:
    """The circuit, the clock and the observer before a pool, and what is `lent` of it now.

    `owner` is the adapter, for refusals of settings; a `max_size` of 0 is no limit; `is_idle`
    returns how many connections are idle, and how many callers wait.
    """

    def __init__(
        self,
        owner: str,
        name: str,
        *,
        max_size: int,
        is_idle: Callable[[], tuple[int, int]],
        breaker: CircuitBreaker | None,
        observer: Observer | None,
        clock: Clock,
    ) -> None:
        self.name: str = validation.name(f"{owner}.name", name, example='name="orders"')
        if breaker is not None:
            validation.instance(
                f"{owner}.breaker", breaker, CircuitBreaker, example="CircuitBreaker(...)"
            )
        validation.functions(owner, clock=clock)
        self.now: Clock = clock
        self.observe: Observer = observing(owner, name, observer)
        self.breaker: CircuitBreaker = breaker or CircuitBreaker(
            name, config=database_circuit(max_size), observer=self.observe, clock=clock
        )
        self.lent: set[Borrowed] = set()
        self.holders: Holders = Holders(name, lambda: self.lent, observe=self.observe, clock=clock)
        self._max_size = max_size
        self._is_idle = is_idle
        self.observe(PolicyCreated(name, self.collect))

    @property
    def is_exhausted(self) -> bool:
        """Whether all connections are lent, so that a wait in vain is not the database's fault."""
        return 0 < self._max_size <= len(self.lent)

    def collect(self) -> Iterator[Sample]:
        """Return the size of the pool, for metrics."""
        idle, waiting = self._is_idle()
        return sizes(
            self.name,
            idle=idle,
            used=len(self.lent),
            most=self._max_size,
            waiting=waiting,
            oldest=self.holders.oldest(),
        )


class Borrowed(Loan):
    """A connection, from the wish for one until it is given back.

    Raises:
        CircuitOpenError: If the circuit refuses.
        DeadlineExceededError: If the request has no time left.
    """

    def __init__(self, lender: Lender) -> None:
        super().__init__(lender.breaker)
        self.lender = lender
        self.since: float = lender.now()
        self.quiet_since: float = math.inf
        self.request: RequestContext | None = None
        self.is_named = False
        self._sql = ""
        self._started = 0.0
        self._left = math.inf
        self._limit = math.inf
        self._is_inside = False
        self._judged: tuple[Exception, ResilienceError | None] | None = None
        self._patience = time_to_wait(math.inf)
        if self._patience <= 0.0:
            raise self.not_lent()
        self._take_permit()

    def patience(self, timeout: float) -> float:
        """Return how long to wait for a connection."""
        return min(timeout, self._patience)

    def lent(self, *, is_new: bool) -> None:
        """Record that there is a connection, and whether it is lent for the first time."""
        if is_new:
            ignore_duration()
        self.request = current_request()
        self.lender.lent.add(self)
        self._acquired("")

    def dropped(self) -> None:
        """Record that there is no connection, for a reason such as a cancellation."""
        self._acquired("cancelled")
        self._leave()

    def not_lent(self, *, is_full: bool = False) -> ResilienceError:
        """Return the error to raise without a connection; `is_full` says that all are lent."""
        lender = self.lender
        meaning: ResilienceError = DatabaseUnavailableError(lender.name, 1.0)
        if time_to_wait(math.inf) <= 0.0:
            lender.observe(DeadlineExceeded("pool"))
            meaning = DeadlineExceededError(lender.name)
        elif is_full:
            meaning = PoolTimeoutError(lender.name, 1.0)
        self._acquired(type(meaning).__name__)
        self._leave(meaning if isinstance(meaning, DatabaseUnavailableError) else None)
        return meaning

    def begins(self) -> None:
        """Record that a transaction begins, or that a part was undone: no limit is set."""
        self._limit = math.inf

    def sends(self, sql: str, *, is_inside: bool) -> str:
        """Record a statement; return the limit that `limiting` must set before, or nothing.

        Outside of a transaction there is none, as it would stay in the session.

        Raises:
            DeadlineExceededError: If the request has no time left.
        """
        self._sql = sql
        self._is_inside = is_inside
        self._is_answered = False
        self._judged = None
        self._started = self.lender.now()
        self.quiet_since = math.inf
        self._left = time_to_wait(math.inf)
        if self._left <= 0.0:
            self.lender.observe(DeadlineExceeded("database"))
            raise DeadlineExceededError(self.lender.name)
        if self._left >= self._limit * _STALE or not is_inside or first_word(sql) in _UNLIMITED:
            return ""
        self._limit = self._left
        return f"{max(1, math.floor(self._left * 1000))} ms"

    def commits(self) -> None:
        """Record that a COMMIT comes next, or something that may send one."""
        self._sql = "commit"
        self._started = self.quiet_since = self.lender.now()
        self._left = math.inf

    def answered(self) -> None:
        """Record the answer to a statement."""
        self._is_answered = True
        self._finished("", "")

    def verdict(self, error: Exception, *, is_closed: bool) -> ResilienceError | None:
        """Return what `failed` said of an error, for one that passes twice.

        An error that no statement had is one of something unannounced, as which a COMMIT may have
        been sent.
        """
        if self._judged is None or self._judged[0] is not error:
            self.commits()
            return self.failed(error, is_closed=is_closed)
        return self._judged[1]

    def failed(self, error: Exception, *, is_closed: bool) -> ResilienceError | None:
        """Return the error to raise for a statement; None if the driver's own says it best."""
        lender = self.lender
        state = sqlstate_of(error)
        meaning = error_of(state, lender.name, DatabaseUnavailableError if is_closed else None)
        limit: float | None = None
        if isinstance(meaning, DeadlineExceededError) and self._is_spent():
            limit = self._left
            lender.observe(DeadlineExceeded("database"))
        self._judge(state, meaning, limit)
        self.begins()
        meaning = outcome_of(
            meaning, self._sql, state, is_inside=self._is_inside, is_closed=is_closed
        )
        if state or is_closed:
            self._finished(state, type(meaning or error).__name__)
        self._judged = error, meaning
        return meaning

    def returned(self) -> float:
        """Record that the connection was given back; return for how many seconds it was lent."""
        lender = self.lender
        if self not in lender.lent:
            return 0.0
        lender.lent.discard(self)
        self._judged = None
        self._leave()
        self.request = None
        seconds = lender.now() - self.since
        lender.observe(ConnectionReleased(lender.name, seconds))
        return seconds

    def _is_spent(self) -> bool:
        deadline = current_deadline()
        return deadline is not None and deadline.remaining() <= self._left * _SPENT

    def _acquired(self, error_type: str) -> None:
        lender = self.lender
        now = self.lender.now()
        add_wait(now - self.since)
        lender.observe(ConnectionAcquired(lender.name, now - self.since, error_type))
        self.since = self.quiet_since = now

    def _finished(self, sqlstate: str, error_type: str) -> None:
        lender = self.lender
        now = self.quiet_since = lender.now()
        seconds = now - self._started
        operation = first_word(self._sql)
        lender.observe(
            QueryFinished(
                lender.name,
                "postgresql",
                operation,
                collection="",
                seconds=seconds,
                sqlstate=sqlstate,
                error_type=error_type,
            )
        )
