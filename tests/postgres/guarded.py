"""What the tests of a guarded database share: one whose circuit opens soon, and what it counted."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest

from postfacta_core.clock import MONOTONIC, Clock
from postfacta_core.errors import DeadlineExceededError
from postfacta_core.events import PolicyCreated
from postfacta_core.guards._circuit import CircuitConfig
from postfacta_core.guards.breaker import CircuitBreaker
from postfacta_core.guards.budget import RetryBudget
from postfacta_core.testing import RecordingObserver
from postfacta_postgres import Database, PoolOptions, database_circuit

from .postgres import QUICK

__all__ = [
    "ECHO",
    "IMPATIENT",
    "ONE",
    "TOUCHY",
    "SkippingClock",
    "counts",
    "guarded",
    "time_out",
    "tries",
]

# Two of three, so that a test needs few calls; short waits, so that it needs little time.
TOUCHY = replace(
    database_circuit(QUICK.max_size),
    minimum_number_of_calls=3,
    wait_duration_in_open_state=0.5,
    max_wait_duration_in_open_state=0.5,
    permitted_number_of_calls_in_half_open_state=1,
)
ONE = "select 1"
ECHO = "select $1::text"
IMPATIENT = replace(QUICK, statement_timeout=0.2)


class SkippingClock:
    """Monotonic seconds that run on, and that a test may put forward."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        return MONOTONIC() + self._ahead

    def skip(self, seconds: float) -> None:
        self._ahead += seconds


@asynccontextmanager
async def guarded(
    dsn: str,
    *,
    config: CircuitConfig = TOUCHY,
    options: PoolOptions = QUICK,
    seen: RecordingObserver | None = None,
    budget: RetryBudget | None = None,
    clock: Clock = MONOTONIC,
) -> AsyncGenerator[Database]:
    """Open a database whose circuit opens soon."""
    seen = seen or RecordingObserver()
    breaker = CircuitBreaker("db", config=config, observer=seen, clock=clock)
    async with Database(
        dsn, name="db", options=options, breaker=breaker, retry_budget=budget, observer=seen
    ) as database:
        with anyio.fail_after(10):
            await database.wait_connected()
        yield database


def counts(database: Database) -> dict[str, int]:
    """Return how its circuit counted the calls, without those it did not see."""
    return {
        sample.labels[1]: int(sample.value)
        for sample in database.breaker.collect()
        if sample.metric == "postfacta_breaker_calls_total" and sample.value
    }


def tries(seen: RecordingObserver, operation: str) -> dict[str, int]:
    """Return the outcomes of the tries of an operation."""
    return {
        sample.labels[1]: int(sample.value)
        for event in seen.of(PolicyCreated)
        for sample in event.tally()
        if sample.metric == "postfacta_retry_attempts_total"
        and sample.labels[0] == operation
        and sample.value
    }


async def time_out(database: Database) -> None:
    """Let a statement run into the service's own limit."""
    with pytest.raises(DeadlineExceededError):
        await database.execute("select pg_sleep(60)")
