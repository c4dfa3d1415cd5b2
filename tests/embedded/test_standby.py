"""A standby follows its primary, takes its place, and is followed in turn."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import ExitStack, suppress
from pathlib import Path

import asyncpg
import pytest

from postfacta_embedded import EmbeddedPostgres, EmbeddedPostgresError, StandbyPostgres
from postfacta_embedded.account import Account
from tests.kit.pg import execute, fetch_value

from .conftest import NO_FSYNC

SUM = "select sum(n) from note"


@pytest.fixture
def primary(folder: Path, account: Account) -> Generator[EmbeddedPostgres]:
    """Run a server with one row."""
    with EmbeddedPostgres(folder / "one", account=account, settings=NO_FSYNC) as server:
        execute(server.dsn(), "create table note as select 1 as n")
        yield server


@pytest.fixture
def standby(
    folder: Path, account: Account, primary: EmbeddedPostgres
) -> Generator[StandbyPostgres]:
    """Run a standby of it."""
    with StandbyPostgres(primary, folder / "two", account=account, settings=NO_FSYNC) as server:
        yield server


def reaches(server: EmbeddedPostgres, total: int) -> bool:
    """Wait until the rows sum up to this, but not for ever."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with suppress(asyncpg.UndefinedTableError):
            if fetch_value(server.dsn(), SUM) == total:
                return True
    return False


def test_a_standby_follows_takes_reads_and_no_writes(
    primary: EmbeddedPostgres, standby: StandbyPostgres
) -> None:
    assert standby.is_standby
    execute(primary.dsn(), "insert into note values (2)")
    assert reaches(standby, 3)
    names = "select string_agg(application_name, ',') from pg_stat_replication"
    assert fetch_value(primary.dsn(), names) == "standby"
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        execute(standby.dsn(), "insert into note values (3)")
    standby.restart()
    execute(primary.dsn(), "insert into note values (4)")
    assert reaches(standby, 7)


def test_a_promoted_standby_takes_writes_and_is_followed_in_turn(
    folder: Path, account: Account, primary: EmbeddedPostgres, standby: StandbyPostgres
) -> None:
    primary.kill()
    assert primary.pid is None
    standby.promote()
    assert not standby.is_standby
    execute(standby.dsn(), "insert into note values (8)")
    third = StandbyPostgres(
        standby, folder / "three", name="third", account=account, settings=NO_FSYNC
    )
    with ExitStack() as stack:
        stack.enter_context(third)
        standby.restart()  # as the primary that it has become
        execute(standby.dsn(), "insert into note values (16)")
        assert reaches(third, 25)
    primary.start()  # a killed one recovers, and knows nothing of the other's writes
    assert fetch_value(primary.dsn(), SUM) == 1


def test_only_a_running_standby_is_promoted(
    folder: Path, primary: EmbeddedPostgres, standby: StandbyPostgres
) -> None:
    with pytest.raises(EmbeddedPostgresError, match="it was not started"):
        StandbyPostgres(primary, folder / "never").promote()
    standby.stop()
    with pytest.raises(EmbeddedPostgresError, match="cannot be promoted"):
        standby.promote()


def test_a_primary_that_is_away_leaves_no_half_copy(
    folder: Path, primary: EmbeddedPostgres
) -> None:
    primary.stop()
    standby = StandbyPostgres(primary, folder / "two")
    with pytest.raises(EmbeddedPostgresError, match="cannot be made"):
        standby.start()
    assert not list(folder.glob("two*/"))
    primary.start()
    with standby:
        assert standby.is_standby
