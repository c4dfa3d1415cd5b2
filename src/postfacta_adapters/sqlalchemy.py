"""Guard an engine of SQLAlchemy, sync or async: a circuit before its pool, the request's time, the core's errors.

It works by the engine's own events, so that sessions, Core and the ORM need no change. What is
about the database is raised as an error of this library, which `harden` and `problem_handler`
answer by 503, 504 or 422; all else stays SQLAlchemy's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from postfacta_core import CircuitBreaker, ResilienceError
from postfacta_core.clock import MONOTONIC, Clock
from postfacta_core.events import Observer, process_observer
from postfacta_core.installation import missing_extra
from postfacta_core.validation import validation

try:
    from sqlalchemy import event, text
    from sqlalchemy.engine import Connection, Engine, ExceptionContext
    from sqlalchemy.exc import TimeoutError as PoolTimeout
except ModuleNotFoundError as _error:
    raise missing_extra(__name__, "sqlalchemy", _error) from _error

from postfacta_postgres._verdicts import sqlstate_of

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
    _guard_pool(lender, guarded)
    # It gives the engine another pool, which has the listeners of this one.
    event.listen(guarded, "engine_disposed", partial(_guard_pool, lender))
    for each, listener in _LISTENERS.items():
        event.listen(guarded, each, listener)
    return lender.breaker


def _size_of(engine: Engine) -> int:
    """Return how many connections the pool may open; of one without a bound, what a pool has by default."""
    size: int = getattr(engine.pool, "size", lambda: 10)()
    return max(1, size + max(0, getattr(engine.pool, "_max_overflow", 0)))


def _guard_pool(lender: Lender, engine: Engine) -> None:
    pool: Any = engine.pool
    connect: Callable[[], Any] = pool.connect

    def guarded() -> Any:
        loan = Borrowed(lender)
        try:
            connection = connect()
        except BaseException as error:
            if not _is_about_the_database(error, engine):
                loan.dropped()
                raise
            raise loan.not_lent(is_full=isinstance(error, PoolTimeout)) from error
        loan.lent(is_new=not connection.info.get(_WAS_LENT))
        connection.info[_WAS_LENT] = True
        connection.record_info[_LOAN] = loan
        return connection

    pool.connect = guarded


def _is_about_the_database(error: BaseException, engine: Engine) -> bool:
    kinds = engine.dialect.loaded_dbapi.Error, PoolTimeout, OSError
    # Drivers of asyncio raise their own when they connect.
    return isinstance(error, kinds) or sqlstate_of(error) != ""


def _returned(_connection: object, record: Any) -> None:
    loan: Borrowed | None = record.record_info.pop(_LOAN, None)
    if loan is not None:
        loan.returned()


def _loan_of(connection: Connection) -> Borrowed | None:
    return (connection.connection.record_info or {}).get(_LOAN)


def _begins(connection: Connection, *_: object) -> None:
    if (loan := _loan_of(connection)) is not None:
        loan.begins()


def _commits(connection: Connection, *_: object) -> None:
    if (loan := _loan_of(connection)) is not None:
        loan.commits()


def _sends(connection: Connection, _cursor: object, statement: str, *_: object) -> None:
    if (loan := _loan_of(connection)) is None:
        return
    driver: Any = connection.connection.dbapi_connection
    is_inside = not connection.dialect.detect_autocommit_setting(driver)
    if limit := loan.sends(statement, is_inside=is_inside):
        # It comes back here, with a limit that is new.
        connection.execute(
            _LIMITING, {"limit": limit}, execution_options={"stream_results": False}
        ).close()
        loan.sends(statement, is_inside=is_inside)


def _answered(connection: Connection, *_: object) -> None:
    if (loan := _loan_of(connection)) is not None:
        loan.answered()


def _failed(context: ExceptionContext) -> BaseException | None:
    connection = context.connection
    error = context.original_exception
    # What was raised for the statement that sets the limit comes by again, with a connection that
    # may be gone.
    if connection is None or not isinstance(error, Exception) or isinstance(error, ResilienceError):
        return None
    loan = _loan_of(connection)
    return None if loan is None else loan.failed(error, is_closed=context.is_disconnect)


_LISTENERS: Final[dict[str, Callable[..., object]]] = {
    "begin": _begins,
    "rollback_savepoint": _begins,
    "commit": _commits,
    "commit_twophase": _commits,
    "before_cursor_execute": _sends,
    "after_cursor_execute": _answered,
    "handle_error": _failed,
    "checkin": _returned,
    "detach": _returned,
}
