"""Guard a database by a circuit, a budget and retries, from what its errors mean.

1. What the circuit lets pass is a lease: a statement alone, or a transaction. Within one nothing is
   refused.
2. A lease in which the database failed is a failure, counted immediately. Else it is a success if
   its last statement was answered, even by an error. One without an answer, for which the database
   is not to blame, does not count.
3. While it is known that there is no database, the circuit is not asked: a refusal says nothing
   about the database.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple, Self

import asyncpg

from postfacta_core import Backoff, CircuitBreaker, Retry, errors
from postfacta_core.context import ignore_duration
from postfacta_core.deadlines.present import time_for_next_hop, time_to_wait
from postfacta_core.events import DeadlineExceeded, QueryFinished
from postfacta_core.guards import On, Outcome, RetryBudget

from ._verdicts import QUERY_CANCELED, broke, error_of, outcome_of, sqlstate_of
from .connecting import RawConnection, Setup
from .monitor import Pooled
from .permits import Loan, first_word
from .pool import Pool

# The codes are those of PostgreSQL's manual, appendix A.
_DISK_FULL: Final = "53100"
_READ_ONLY: Final = "25006"
# A serialization failure, and a deadlock: what another transaction's success has ended.
_CONFLICTS: Final = frozenset({"40001", "40P01"})


def translate(
    error: BaseException, name: str, *, broken: bool = False
) -> errors.ResilienceError | None:
    """Map an error of asyncpg or the system to one of this library; None if the caller caused it.

    If the connection is `broken`, even asyncpg's vague errors mean that.
    """
    kind: type[errors.ResilienceError] | None = None
    # A time-out on this side means that time is up, or a server that answers nothing.
    if isinstance(error, TimeoutError):
        kind = errors.DeadlineExceededError
    # The driver could not encode a value of a right type, such as a number too large.
    elif isinstance(error, asyncpg.DataError) and isinstance(
        error.__cause__, ValueError | OverflowError
    ):
        kind = errors.InvalidInputError
    # asyncpg is confused when a statement meets the server's parting words, which it has not read
    # to the end.
    elif isinstance(error, OSError | asyncpg.InternalClientError) or (
        broken and isinstance(error, asyncpg.InterfaceError | asyncpg.PostgresError)
    ):
        kind = errors.DatabaseUnavailableError
    return error_of(sqlstate_of(error), name, kind)


class Statement(NamedTuple):
    """What is sent by a method of the driver; for the rest see `Statements`."""

    method: str
    sql: str
    args: tuple[object, ...] = ()
    operation: str = ""
    collection: str = ""
    repeatable: bool = False

    @property
    def name(self) -> str:
        """Its name in metrics and spans."""
        return self.operation or first_word(self.sql)


COMMIT: Final = Statement("execute", "commit", operation="COMMIT")


class Lease(Loan):
    """A connection for the length of an `async with` block, unless the circuit refuses."""

    __slots__ = ("_pool", "_pooled")

    def __init__(self, pool: Pool, breaker: CircuitBreaker) -> None:
        super().__init__(breaker)
        self._pool = pool
        self._pooled: Pooled | None = None

    @property
    def raw(self) -> RawConnection:
        """The connection. It raises InterfaceError once it was given back: it is another's now."""
        if self._pooled is None:
            raise asyncpg.InterfaceError("the connection was given back to the pool")
        return self._pooled.connection

    @property
    def longest_statement(self) -> float:
        """The most seconds that this side waits for an answer."""
        return self._pool.longest_statement

    async def __aenter__(self) -> Self:
        monitor = self._pool.monitor
        if monitor.is_there or not monitor.looked.is_set():
            self._take_permit()
        try:
            self._pooled = await self._pool.lend()
        except errors.DatabaseUnavailableError as error:
            # Without a cause none could be opened in time, or none was tried: it was lost
            # meanwhile, or is closed.
            if error.__cause__ is not None or self._pool.is_lending:
                self._leave(error)
            raise
        finally:
            if self._pooled is None:
                self._leave()
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._leave()
        pooled = self._pooled
        self._pooled = None
        if pooled is not None:
            await self._pool.take_back(pooled, error)

    async def begin(self, isolation: str | None) -> None:
        """Begin a transaction, with the limit of its request."""
        options = self._pool.options
        limit = self.time_left()
        settings = options.session_settings() if options.transaction_pooling else {}
        if limit is not None:
            # A share less than this side waits: then the server is the first to end the statement.
            settings["statement_timeout"] = str(max(1, math.floor(time_for_next_hop(limit) * 1000)))
        begin = "begin" if isolation is None else f"begin isolation level {isolation}"
        sql = "; ".join(
            [begin, *(f"set local {name} = {value}" for name, value in settings.items())]
        )
        await self.run(Statement("execute", sql, operation="BEGIN", repeatable=True), limit)

    async def run(self, statement: Statement, limit: float | None) -> Any:
        """Run a statement within a limit, see `time_left`, and classify its errors.

        `Connection` documents them.
        """
        pool = self._pool
        raw = self.raw
        started = pool.now()
        self._is_answered = False
        pooled = self._pooled
        if pooled is not None:
            pooled.quiet_since = math.inf
        _excuse(raw, statement)
        is_open = not raw.is_closed()
        is_inside = is_open and raw.is_in_transaction()
        sent = _count_of_sent(raw)
        error_type = "cancelled"
        sqlstate = ""
        try:
            result = await pool.watch.within(
                pool.longest_statement if limit is None else limit,
                getattr(raw, statement.method),
                statement.sql,
                *statement.args,
            )
            if statement is COMMIT:
                _must_be_committed(result)
            error_type = ""
            self._is_answered = True
            pool.monitor.answered_at = pool.now()
        except Exception as error:
            sqlstate = sqlstate_of(error)
            meaning = self._take_note(error, sqlstate, limit)
            if is_open and not statement.repeatable and _has_sent_more(raw, sent):
                meaning = outcome_of(
                    meaning,
                    statement.sql,
                    sqlstate,
                    is_inside=is_inside,
                    is_closed=raw.is_closed(),
                )
            error_type = type(meaning or error).__name__
            if meaning is None:
                raise
            raise meaning from error
        finally:
            now = pool.now()
            if pooled is not None:
                pooled.quiet_since = now
            pool.observe(
                QueryFinished(
                    pool.name,
                    "postgresql",
                    statement.name,
                    statement.collection,
                    now - started,
                    pool.connector.namespace,
                    pool.connector.server,
                    sqlstate,
                    error_type,
                )
            )
        return result

    def time_left(self) -> float | None:
        """Return the seconds that a statement sent now may take.

        None means that the server's own limit is the shorter.
        """
        most = self._pool.options.statement_timeout
        left = time_to_wait(most)
        return left if left < most else None

    def _take_note(
        self, error: Exception, sqlstate: str, limit: float | None
    ) -> errors.ResilienceError | None:
        """Return what a failure means.

        It is applied to the connection, the database's availability, and the circuit.
        """
        pool = self._pool
        raw = self.raw
        meaning = translate(error, pool.name, broken=raw.is_closed())
        is_late = isinstance(error, TimeoutError)
        is_moved = sqlstate == _READ_ONLY
        if sqlstate and not broke(sqlstate, meaning):
            pool.monitor.answered_at = pool.now()
        if limit is not None and (is_late or sqlstate == QUERY_CANCELED):
            pool.observe(DeadlineExceeded("database"))
            if limit > 0.0:
                pool.monitor.suspect()
        elif is_late or isinstance(error, asyncpg.InternalClientError):
            # A server that does not even end a statement at its own limit, or that sends an
            # unexpected message.
            raw.terminate()
        if meaning is not None and (is_moved or sqlstate == _DISK_FULL):
            pool.monitor.refused_write(meaning)
        if is_moved or raw.is_closed():
            pool.monitor.suspect(self._pooled, moved=is_moved)
        self._judge(sqlstate, meaning, limit)
        return meaning


def _must_be_committed(answer: object) -> None:
    """Raise the error of a failed transaction, whose COMMIT the server answers by ROLLBACK.

    asyncpg's own commit hides it.
    """
    if answer == "ROLLBACK":
        raise asyncpg.InFailedSQLTransactionError("a statement had failed, so COMMIT rolled back")


def _excuse(connection: RawConnection, statement: Statement) -> None:
    """Ignore how long a request takes whose statement is prepared first.

    The same statement takes fewer round trips later.
    """
    cache = getattr(connection, "_stmt_cache", None)
    if cache is None or (statement.method == "execute" and not statement.args):
        return
    # A full cache is that of a service to which most are new.
    if len(cache) < cache.get_max_size() and not cache.has((statement.sql, asyncpg.Record, False)):
        ignore_duration()


def _count_of_sent(connection: RawConnection) -> object:
    """Return how many statements the driver has put on the wire to run; None if that is unknown."""
    # The driver counts a statement once it is written, and not while it is only prepared.
    return getattr(getattr(connection, "_protocol", None), "queries_count", None)


def _has_sent_more(connection: RawConnection, sent: object) -> bool:
    """Return whether the driver has, or may have, sent more statements than it had `sent`."""
    return sent is None or sent != _count_of_sent(connection)


def retries(setup: Setup, budget: RetryBudget) -> tuple[Retry, Retry]:
    """Return the retry of a statement whose connection broke, and that of a lost transaction."""

    def retry(operation: str, attempts: int, on: On, *, base: float, cap: float) -> Retry:
        return Retry(
            f"{setup.name}_{operation}",
            attempts=attempts,
            on=on,
            backoff=Backoff(base=base, cap=cap),
            budget=budget,
            # `retry_after` is for the final caller: the backoff alone sets the wait.
            retry_after=lambda _: None,
            observer=setup.observe,
            clock=setup.clock,
            luck=setup.luck,
        )

    # A victim of a deadlock wins the next round; one that loses three times meets real contention.
    lost = retry("transaction", 3, _lost_to_another, base=0.05, cap=0.5)
    return retry("read", 2, _is_repeatable, base=0.02, cap=0.02), lost


def _is_repeatable(outcome: Outcome[object]) -> bool:
    # Without a cause nothing was sent, as it is known that there is no database.
    error = outcome.error
    return (
        error is not None
        and error.__cause__ is not None
        and broke(sqlstate_of(error.__cause__), error)
    )


def _lost_to_another(outcome: Outcome[object]) -> bool:
    error = outcome.error
    return (
        isinstance(error, errors.DatabaseUnavailableError)
        and sqlstate_of(error.__cause__) in _CONFLICTS
    )
