"""Each error of the driver becomes the one error that tells a caller what it can do."""

from __future__ import annotations

import asyncpg
import pytest

from postfacta_core.aio.pool import PoolOptions, translate
from postfacta_core.errors import DatabaseUnavailableError, DeadlineExceededError, ReadOnlyDatabaseError


@pytest.mark.parametrize(
    ("error", "broken", "expected"),
    [
        (asyncpg.ConnectionDoesNotExistError("gone"), False, DatabaseUnavailableError),
        (asyncpg.AdminShutdownError("bye"), False, DatabaseUnavailableError),
        (asyncpg.CrashShutdownError("bye"), False, DatabaseUnavailableError),
        (asyncpg.CannotConnectNowError("starting up"), False, DatabaseUnavailableError),
        (asyncpg.TooManyConnectionsError("full"), False, DatabaseUnavailableError),
        (asyncpg.DiskFullError("full"), False, DatabaseUnavailableError),
        (asyncpg.OutOfMemoryError("full"), False, DatabaseUnavailableError),
        (ConnectionResetError(), False, DatabaseUnavailableError),
        (asyncpg.InternalClientError("another operation is in progress"), False, DatabaseUnavailableError),
        (asyncpg.InterfaceError("connection is closed"), True, DatabaseUnavailableError),
        (asyncpg.InterfaceError("the query has 1 parameter"), False, None),
        (asyncpg.ReadOnlySQLTransactionError("standby"), False, ReadOnlyDatabaseError),
        (asyncpg.QueryCanceledError("statement timeout"), False, DeadlineExceededError),
        (TimeoutError(), False, DeadlineExceededError),
        (asyncpg.UniqueViolationError("twice"), False, None),
        (asyncpg.DeadlockDetectedError("both"), False, None),
        (asyncpg.LockNotAvailableError("busy"), False, None),
        (ValueError("not ours"), True, None),
    ],
)
def test_an_error_is_told_apart(error: Exception, broken: bool, expected: type[Exception] | None) -> None:  # noqa: FBT001 - a table
    known = translate(error, "db", broken=broken)
    assert type(known) is (expected or type(None))


@pytest.mark.parametrize("wrong", [{"max_size": 0}, {"acquire_timeout": 0.0}, {"close_timeout": -1.0}])
def test_bounds_that_make_no_sense_are_refused_at_once(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least one connection"):
        PoolOptions(**wrong)  # type: ignore[arg-type] # a table of one wrong value each
