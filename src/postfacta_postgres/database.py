"""Run statements on PostgreSQL, bounded in time and observed, whether or not it is there."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Literal, Self, TypeVar

import anyio

from postfacta_core.installation import missing_extra
from postfacta_core.validation import validation

try:
    import asyncpg
except ModuleNotFoundError as _error:
    raise missing_extra(__name__, "postgres", _error) from _error

from postfacta_core import CircuitBreaker
from postfacta_core.clock import LUCK, MONOTONIC, Clock, Luck
from postfacta_core.errors import DatabaseUnavailableError
from postfacta_core.events import Observer, ignore, observing, process_observer
from postfacta_core.guards import RetryBudget
from postfacta_core.guards.breaker import CircuitState

from ._verdicts import database_circuit
from .connecting import Password, PoolOptions, RawConnection, Setup, check_address, timed
from .guarded import COMMIT, Lease, Statement, retries
from .listening import Listener
from .pool import Pool

T = TypeVar("T")

# The name and observer of each open database: two of one name would be counted as one.
_OPEN: list[tuple[str, Observer]] = []

Isolation = Literal["read committed", "repeatable read", "serializable"]
"""How much a transaction sees of others, by PostgreSQL's names; None is the server's default."""

_DURABILITY = (
    "select name, setting from pg_settings where name = any"
    " (array['fsync', 'full_page_writes', 'synchronous_commit']) order by name"
)


class Statements:
    """Four ways to run a statement, which differ in what they return.

    `operation` names it in metrics and spans, by default by its first word; `collection` names the
    table it is about. `repeatable` says that it may run twice, as what only reads may. Then its
    outcome is never unknown, and a `Database` tries it once more, on another connection, if that
    broke.
    """

    def _send(self, statement: Statement) -> Awaitable[T]:  # pyright: ignore[reportInvalidTypeVarUse]
        raise NotImplementedError

    async def fetch(
        self,
        sql: str,
        *args: object,
        operation: str = "",
        collection: str = "",
        repeatable: bool = False,
    ) -> list[asyncpg.Record]:
        """Run a query and return all its rows."""
        return await self._send(Statement("fetch", sql, args, operation, collection, repeatable))

    async def fetchrow(
        self,
        sql: str,
        *args: object,
        operation: str = "",
        collection: str = "",
        repeatable: bool = False,
    ) -> asyncpg.Record | None:
        """Run a query and return its first row, or None."""
        return await self._send(Statement("fetchrow", sql, args, operation, collection, repeatable))

    async def fetchval(
        self,
        sql: str,
        *args: object,
        operation: str = "",
        collection: str = "",
        repeatable: bool = False,
    ) -> Any:
        """Run a query and return the first column of its first row, or None."""
        return await self._send(Statement("fetchval", sql, args, operation, collection, repeatable))

    async def execute(
        self,
        sql: str,
        *args: object,
        operation: str = "",
        collection: str = "",
        repeatable: bool = False,
    ) -> str:
        """Run a statement and return the server's tag, such as `UPDATE 1`."""
        return await self._send(Statement("execute", sql, args, operation, collection, repeatable))


class Connection(Statements):
    """A lent connection whose statements are timed and whose errors are classified.

    A statement has what is left of the request's time, a small share for the answer taken off, and
    `statement_timeout` at most. Then this side gives up, and asks the server to end it.

    Every method raises:
        OutcomeUnknownError: If the connection breaks, or time runs out (`OutcomeTimeoutError`),
            after the statement was sent, and no transaction is open that undoes it: it may have
            been done.
        DatabaseUnavailableError: If the connection breaks before it was sent, or inside of a
        transaction. LockTimeoutError: If others hold a lock for longer than `lock_timeout`.
        ReadOnlyDatabaseError: If the database takes no writes. DeadlineExceededError: If the
        statement runs out of time, or the request has none left. InvalidInputError: If a value is
        none that the database can store. asyncpg.InterfaceError: If the connection was given back.
        asyncpg.PostgresError: For all that is the statement's own fault, such as a broken
        constraint.
    """

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    @property
    def raw(self) -> RawConnection:
        """The driver's own connection, for what is missing here.

        It raises the driver's errors, and no event reports it.
        """
        return timed(self._lease.raw, self._lease.longest_statement)

    def _send(self, statement: Statement) -> Awaitable[Any]:
        return self._lease.run(statement, self._lease.time_left())


class Database(Statements):
    """A PostgreSQL database that may be unavailable at start and at any time later.

    Enter it around all of the service's life, on asyncio. That waits for nothing; who asks before
    the first attempt to connect has ended waits for that, for `acquire_timeout` at most. It may be
    entered again once it was left, in another event loop too. Each statement runs on a connection
    of its own; see `Connection` for what it raises, and `acquire`.

    Args:
        dsn: A `postgresql://` address, refused if no server could be there. No error or event
            repeats its password.
        name: Names it in errors, events and metrics. Entering raises ValueError while another of
            this name is open that has the same observer.
        options: Pool size and time limits.
        password: Wins over the one in the address; a function is asked for each new connection.
        breaker: Refuses to lend connections while too many break or time out; by default one of
            this name, with `database_circuit`. Leave its `on` and `slow_call_duration` alone: what
            a failure is, is decided here.
        retry_budget: What further tries are spent from; by default one of this name.
        observer: Receives events of connections and statements; see `events`. It may raise.
        clock: Monotonic seconds.
        luck: Spreads the attempts to connect, and the waits before further tries.
    """

    def __init__(
        self,
        dsn: str,
        *,
        name: str = "postgres",
        options: PoolOptions | None = None,
        password: Password | None = None,
        breaker: CircuitBreaker | None = None,
        retry_budget: RetryBudget | None = None,
        observer: Observer | None = process_observer,
        clock: Clock = MONOTONIC,
        luck: Luck = LUCK,
    ) -> None:
        self.name: str = validation.name("Database.name", name, example='name="orders"')
        check_address("Database.dsn", dsn)
        for field, value, kind in (
            ("options", options, PoolOptions),
            ("breaker", breaker, CircuitBreaker),
            ("retry_budget", retry_budget, RetryBudget),
        ):
            if value is not None:
                validation.instance(
                    f"Database.{field}", value, kind, example=f"{kind.__name__}(...)"
                )
        if password is not None and not callable(password):
            validation.secret(
                "Database.password", password, example="a text, or PasswordFile(path)"
            )
        validation.functions("Database", clock=clock, luck=luck)
        setup = Setup(
            name, options or PoolOptions(), observing("Database", name, observer), clock, luck
        )
        self._pool = Pool(setup, dsn, password)
        self._pool.monitor.when_found = self._forget
        self._setup = setup
        config = database_circuit(setup.options.max_size)
        self.breaker: CircuitBreaker = breaker or CircuitBreaker(
            name, config=config, observer=setup.observe, clock=clock, luck=luck
        )
        self.retry_budget: RetryBudget = retry_budget or RetryBudget(name)
        self._reads, self._transactions = retries(setup, self.retry_budget)
        self._observer = observer
        self._stack = AsyncExitStack()

    def __repr__(self) -> str:
        return f"Database({self.name!r})"

    @property
    def is_connected(self) -> bool:
        """Whether there is a database, as far as is known."""
        return self._pool.monitor.is_there

    async def __aenter__(self) -> Self:
        is_seen = self._observer is not process_observer or process_observer.observer is not ignore
        if self._observer is not None and is_seen:
            identity = self.name, self._observer
            if identity in _OPEN:
                rule = "that of no other open database with the same observer"
                validation.refuse("Database.name", self.name, rule, example='name="reports"')
            _OPEN.append(identity)
            self._stack.callback(_OPEN.remove, identity)
        group = await self._stack.enter_async_context(anyio.create_task_group())
        self._stack.callback(group.cancel_scope.cancel)
        self._stack.push_async_callback(self._pool.close)
        self._pool.open(group)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def wait_connected(self) -> None:
        """Wait until there is a database, however long that takes: bound it by your own timeout."""
        await self._pool.monitor.available.wait()

    async def ping(self) -> None:
        """Raise DatabaseUnavailableError unless the database answers in time.

        It is asked on a connection that no load can take.

        That is a second, or twice what the last connection took to open, `connect_timeout` at most.
        Any answer on another connection meanwhile will do. Several that wait share one question.
        """
        await self._pool.monitor.ping()

    async def check_writes(self) -> None:
        """Raise the refusal of a write in the last 30 seconds, if there was one.

        It asks the database nothing.
        """
        self._pool.monitor.check_writes()

    @asynccontextmanager
    async def acquire(self) -> AsyncGenerator[Connection]:
        """Lend a connection for the block.

        Raises:
            DatabaseUnavailableError: At once if there is no database; in `acquire_timeout` if that
                is not known yet.
            CircuitOpenError: At once if too many connections broke or timed out recently.
            DeadlineExceededError: If the request's time is up before one is free.
            PoolTimeoutError: If all stay lent for `acquire_timeout`, or too many wait for one
                already.
        """
        async with Lease(self._pool, self.breaker) as lease:
            yield Connection(lease)

    @asynccontextmanager
    async def transaction(
        self, *, isolation: Isolation | None = None
    ) -> AsyncGenerator[Connection]:
        """Run the block in one transaction, committed at its end and rolled back if it raises.

        The server itself ends a statement that lasts longer than the request had left at BEGIN.

        Raises:
            OutcomeUnknownError: If the connection breaks, or time runs out, while the answer to
                COMMIT is on its way.
            DatabaseUnavailableError: If it breaks before: then nothing was written.
            DeadlineExceededError: If the request's time runs out before COMMIT is sent: nothing was
                written.
            asyncpg.InFailedSQLTransactionError: If the block swallowed a statement's error: nothing
                was written.
        """
        async with Lease(self._pool, self.breaker) as lease:
            await lease.begin(isolation)
            yield Connection(lease)
            await lease.run(COMMIT, lease.time_left())

    async def run_transaction(
        self, function: Callable[[Connection], Awaitable[T]], *, isolation: Isolation | None = None
    ) -> T:
        """Run a function in one transaction; run all of it again if another one won (40001, 40P01).

        Three times at most, after waits that vary, within the request's time and the retry budget,
        but never once COMMIT was sent: a conflict that the server finds only then is raised. The
        function must change nothing but this database.

        Raises:
            DatabaseUnavailableError: If it was lost to others each time: nothing was written. See
                `transaction`, too.
        """
        return await self._transactions.call(self._transact, function, isolation)

    async def _transact(
        self, function: Callable[[Connection], Awaitable[T]], isolation: Isolation | None
    ) -> T:
        async with self.transaction(isolation=isolation) as connection:
            try:
                return await function(connection)
            except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError) as error:
                raise DatabaseUnavailableError(self.name, 1.0) from error

    def _send(self, statement: Statement) -> Awaitable[Any]:
        return (
            self._reads.call(self._once, statement)
            if statement.repeatable
            else self._once(statement)
        )

    async def _once(self, statement: Statement) -> Any:
        async with Lease(self._pool, self.breaker) as lease:
            return await lease.run(statement, lease.time_left())

    def _forget(self) -> None:
        """Reset the circuit, unless it is forced open: the database has just answered."""
        if self.breaker.statistics().state is not CircuitState.FORCED_OPEN:
            self.breaker.reset()

    def listen(self, channel: str) -> Listener:
        """Return a listener for notifications of a channel, to be the `wake` of `Feed.follow`.

        It has one connection of its own, beyond those of the pool, and opens another when that
        breaks; what came meanwhile is for the poll. Notify in the transaction that writes:
        `select pg_notify('orders', '')` notifies it once that is committed.

        Args:
            channel: At most 63 bytes.

        Raises:
            ValueError: If the channel is no name, or the options say `transaction_pooling`.
        """
        return Listener(self._setup, self._pool.connector, channel)

    async def durability_problems(self) -> list[str]:
        """Name the server's settings under which an acknowledged commit may be lost."""
        rows = await self.fetch(_DURABILITY, operation="durability", repeatable=True)
        return [
            f"{row['name']} = {row['setting']}"
            for row in rows
            if row["setting"] in {"off", "local"}
        ]
