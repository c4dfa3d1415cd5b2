"""Guard an engine of SQLAlchemy: a circuit before its pool, the request's time, the core's errors.

It stands in the engine's pool and in its dialect, so that sessions, Core and the ORM need no
change. What is about the database is raised as an error of this library, which `harden` and
`problem_handler` answer by 503, 504 or 422; all else stays SQLAlchemy's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from postfacta_core import CircuitBreaker, ResilienceError
from postfacta_core.clock import MONOTONIC, Clock
from postfacta_core.events import Observer, process_observer
from postfacta_core.installation import missing_extra
from postfacta_core.validation import validation

try:
    from sqlalchemy import event, text
    from sqlalchemy.engine import Connection, Engine, ExceptionContext
    from sqlalchemy.exc import OperationalError, TimeoutError as PoolTimeout
except ModuleNotFoundError as _error:
    raise missing_extra(__name__, "sqlalchemy", _error) from _error

from postfacta_postgres.permits import sqlstate_of

from ._errors import common
from .borrowing import Borrowed, Lender, limiting

__all__ = ["guard_engine"]

if TYPE_CHECKING:  # Loading it needs more than an engine of threads has.
    from sqlalchemy.ext.asyncio import AsyncEngine

_LOAN: Final = "postfacta_loan"
_WAS_LENT: Final = "postfacta_was_lent"
_LIMITING: Final = text(limiting(":limit"))


def guard_engine(
    engine: Engine | AsyncEngine,
    *,
    name: str = "postgres",
    breaker: CircuitBreaker | None = None,
    observer: Observer | None = process_observer,
    clock: Clock = MONOTONIC,
) -> CircuitBreaker:
    """Guard an engine that PostgreSQL is behind, by whichever driver, and return its circuit.

    Args:
        engine: An `Engine` or `AsyncEngine`, before it has connected.
        name: Names the database in errors, events and metrics.
        breaker: Refuses to lend connections while too many break or time out; by default one of
            this name, with `database_circuit`. What a failure is, is decided here: leave its `on`
            alone.
        observer: Receives events of connections and statements. It may raise.
        clock: Monotonic seconds.

    Raises:
        ValueError: If it is no engine, or one of another database.
    """
    guarded: Any = getattr(engine, "sync_engine", engine)
    validation.instance(
        "guard_engine.engine", guarded, Engine, example='create_engine("postgresql+psycopg://...")'
    )
    if guarded.dialect.name != "postgresql":
        validation.refuse("guard_engine.engine", guarded.dialect.name, "one of PostgreSQL")
    lender = Lender(
        "guard_engine",
        name,
        max_size=_size_of(guarded),
        is_idle=lambda: (int(getattr(guarded.pool, "checkedin", int)()), 0),
        breaker=breaker,
        observer=observer,
        clock=clock,
    )
    _guard_pool(lender, guarded.pool, guarded)
    event.listen(guarded, "handle_error", _failed)
    for moment in ("checkin", "detach"):
        event.listen(guarded, moment, _returned)
    _watch(guarded.dialect)
    return lender.breaker


def _size_of(engine: Engine) -> int:
    """Return how many connections the pool may open; by default, if it has no bound."""
    size: int = getattr(engine.pool, "size", lambda: 10)()
    return max(1, size + max(0, getattr(engine.pool, "_max_overflow", 0)))


def _guard_pool(lender: Lender, pool: Any, engine: Engine) -> Any:
    """Guard a pool, and each that takes its place when the engine is disposed of; return it."""
    connect: Callable[[], Any] = pool.connect
    recreate: Callable[[], Any] = pool.recreate

    def guarded() -> Any:
        try:
            loan = Borrowed(lender)
        except ResilienceError as error:
            raise common(error, OperationalError, detail=[]) from None
        try:
            connection = connect()
        except BaseException as error:
            if not _is_about_the_database(error, engine):
                loan.dropped()
                raise
            is_full = isinstance(error, PoolTimeout)
            kind = PoolTimeout if is_full else OperationalError
            meaning = loan.not_lent(is_full=is_full)
            raise common(meaning, kind, orig=error, detail=[]) from error
        loan.lent(is_new=not connection.info.get(_WAS_LENT))
        connection.info[_WAS_LENT] = True
        connection.record_info[_LOAN] = loan
        return connection

    pool.connect = guarded
    pool.recreate = lambda: _guard_pool(lender, recreate(), engine)
    return pool


def _is_about_the_database(error: BaseException, engine: Engine) -> bool:
    kinds = engine.dialect.loaded_dbapi.Error, PoolTimeout, OSError
    # Drivers of asyncio raise their own when they connect.
    return isinstance(error, kinds) or sqlstate_of(error) != ""


def _returned(_connection: object, record: Any) -> None:
    loan: Borrowed | None = record.record_info.pop(_LOAN, None)
    if loan is not None:
        loan.returned()


def _loan_of(pooled: Any) -> Borrowed | None:
    """Return the loan of a connection of the pool; None if it was detached from it."""
    info: dict[str, Any] | None = pooled.record_info
    return None if info is None else info.get(_LOAN)


def _watch(dialect: Any) -> None:
    """Have the loans notice what is sent.

    The dialect's own methods are called for each engine that has its pool. Each `Connection` of an
    engine with listeners to its events would make a list of listeners for each event.
    """
    for name in ("do_execute", "do_execute_no_params", "do_executemany"):
        setattr(dialect, name, _watched(getattr(dialect, name)))
    for name, step in _STEPS.items():
        setattr(dialect, name, _noticed(getattr(dialect, name), step))


def _watched(send: Callable[..., None]) -> Callable[..., None]:
    def watched(cursor: Any, statement: str, *rest: Any) -> None:
        connection: Connection = rest[-1].root_connection
        loan = _loan_of(connection.connection)
        if loan is None:
            return send(cursor, statement, *rest)
        _announce(loan, connection, statement)
        send(cursor, statement, *rest)
        loan.answered()
        return None

    return watched


def _noticed(step: Callable[..., None], notice: Callable[[Borrowed], None]) -> Callable[..., None]:
    def noticed(connection: Any, *arguments: Any, **options: Any) -> None:
        loan = _loan_of(connection.connection if isinstance(connection, Connection) else connection)
        if loan is not None:
            notice(loan)
        step(connection, *arguments, **options)

    return noticed


def _announce(loan: Borrowed, connection: Connection, statement: str) -> None:
    """Report a statement to the loan, and set the limit that the loan wants before it."""
    driver: Any = connection.connection.dbapi_connection
    is_inside = not connection.dialect.detect_autocommit_setting(driver)
    try:
        limit = loan.sends(statement, is_inside=is_inside)
    except ResilienceError as error:
        raise common(error, OperationalError, statement=statement, detail=[]) from None
    if limit:
        # It comes back here, with a limit that is new.
        options = {"stream_results": False}
        connection.execute(_LIMITING, {"limit": limit}, execution_options=options).close()
        loan.sends(statement, is_inside=is_inside)


def _failed(context: ExceptionContext) -> BaseException | None:
    connection = context.connection
    error = context.original_exception
    # What was raised for the statement that sets the limit comes by again, with a connection that
    # may be gone.
    if connection is None or not isinstance(error, Exception) or isinstance(error, ResilienceError):
        return None
    loan = _loan_of(connection.connection)
    meaning = None if loan is None else loan.failed(error, is_closed=context.is_disconnect)
    if meaning is None:
        return None
    theirs = context.sqlalchemy_exception or OperationalError(context.statement, None, error)
    return common(meaning, type(theirs), **vars(theirs))


_STEPS: Final[dict[str, Callable[[Borrowed], None]]] = {
    "do_begin": Borrowed.begins,
    "do_rollback_to_savepoint": Borrowed.begins,
    "do_commit": Borrowed.commits,
    "do_commit_twophase": Borrowed.commits,
}
