"""What another process took away is noticed here once, and what was so before is not."""

from __future__ import annotations

from collections.abc import Mapping

import anyio
import pytest
from asyncpg import InsufficientPrivilegeError, UndefinedTableError

from postfacta_app.db import repeating
from postfacta_app.identity.guard import revocations
from postfacta_core.errors import DatabaseUnavailableError
from postfacta_core.events import TaskCrashed


class Log:
    """An audit log that a test writes, with what became of it."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, int, bool]] = []
        self.asked_for: list[float] = []
        self.fails: Exception | None = None
        self.told: list[str] = []
        self.now = 0.0
        self.look_at_losses = revocations(
            self.losses,
            distrust=lambda: self.told.append("distrust"),
            hide=lambda: self.told.append("hide"),
            clock=lambda: self.now,
        )

    def write(self, seq: int, *, hides: bool, took: float = 0.0) -> None:
        """Commit a transaction that took some seconds."""
        self.rows.append((self.now - took, seq, hides))

    async def losses(self, seconds: float) -> Mapping[int, bool]:
        self.asked_for.append(seconds)
        if self.fails is not None:
            raise self.fails
        return {seq: hides for at, seq, hides in self.rows if at >= self.now - seconds}

    async def look(self) -> list[str]:
        self.told.clear()
        await self.look_at_losses()
        return list(self.told)


async def test_each_loss_is_acted_on_once_and_none_from_before_the_start() -> None:
    log = Log()
    log.write(5, hides=True)
    assert [await log.look() for _ in range(2)] == [[], []]
    log.write(6, hides=True)
    log.write(7, hides=False)
    assert [await log.look() for _ in range(2)] == [["hide", "distrust"], []]
    log.write(8, hides=False)
    assert await log.look() == ["distrust"]


async def test_what_is_committed_long_after_it_began_is_not_missed() -> None:
    log = Log()
    log.write(9, hides=False)
    await log.look()
    for _ in range(10):
        log.now += 2
        await log.look()
    log.write(8, hides=True, took=29.9)
    log.now += 2
    assert await log.look() == ["hide"]


async def test_what_came_while_nothing_could_be_read_is_not_missed() -> None:
    log = Log()
    await log.look()
    log.write(1, hides=False)
    log.fails = DatabaseUnavailableError("db")
    for _ in range(100):
        log.now += 10
        with pytest.raises(DatabaseUnavailableError):
            await log.look()
    log.fails = None
    assert [await log.look() for _ in range(2)] == [["distrust"], []]


async def test_what_is_settled_is_not_read_again() -> None:
    log = Log()
    await log.look()
    for seq in range(1, 100):
        log.write(seq, hides=False)
        log.now += 2
        assert await log.look() == ["distrust"]
    assert max(log.asked_for) == 62


async def test_a_failure_ends_nothing(anyio_backend: str) -> None:
    log, seen, turns = Log(), list[object](), 0
    expected = [DatabaseUnavailableError("db"), UndefinedTableError(), InsufficientPrivilegeError()]
    failures: list[Exception | None] = [*expected, LookupError(), None, None]

    async def connected() -> None:
        nonlocal turns
        log.fails = failures[turns] if turns < len(failures) else None
        turns += 1
        if turns == len(failures):
            log.write(1, hides=True)

    with anyio.fail_after(10):
        async with repeating(
            "revocations", log.look_at_losses, connected, observer=seen.append, interval=0.001
        ):
            while not log.told:
                await anyio.sleep(0.001)
    assert log.told == ["hide"]
    (crash,) = seen
    assert isinstance(crash, TaskCrashed)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run on both: nothing here knows a database."""
    return str(request.param)
