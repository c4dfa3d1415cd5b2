"""A permit is given back in another task than it was taken in, with what the circuit is to count."""

from __future__ import annotations

import anyio
import pytest

from postfacta_core import CircuitBreaker, CircuitConfig, CircuitOpenError, DeadlineExceededError
from postfacta_postgres.permits import Loan, first_word
from tests.postgres.postgres import request_within

CONFIG = CircuitConfig(sliding_window_size=4, minimum_number_of_calls=4)


class Lent(Loan):
    """A loan that a test ends."""

    def __init__(self, breaker: CircuitBreaker) -> None:
        super().__init__(breaker)
        self._take_permit()

    async def leave(self, error: Exception | None, is_answered: bool) -> None:  # noqa: FBT001 - by position
        self._is_answered = is_answered
        self._leave(error)
        self._leave(OSError())

    def time_is_up(self) -> None:
        self._judge("57014", DeadlineExceededError("orders"), 5.0)


def test_the_name_of_a_statement_is_its_first_word() -> None:
    assert first_word("  select\n1") == "SELECT"
    assert first_word(" ") == ""


def test_a_deadline_that_the_caller_set_is_not_the_databases_fault() -> None:
    breaker = CircuitBreaker("orders", config=CONFIG)
    Lent(breaker).time_is_up()
    with request_within(1.0) as request:
        Lent(breaker).time_is_up()
        request.caller_timeout = 0.5
        assert request.deadline_is_callers
        Lent(breaker).time_is_up()
    assert breaker.statistics().failures == 2


async def test_a_permit_is_given_back_once_as_a_failure_a_success_or_neither() -> None:
    breaker = CircuitBreaker("orders", config=CONFIG)
    for error, is_answered in ((None, False), (None, True), (OSError(), False), (OSError(), True)):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Lent(breaker).leave, error, is_answered)
    counted = breaker.statistics()
    assert (counted.calls, counted.failures) == (3, 2)
    breaker.force_open()
    with pytest.raises(CircuitOpenError):
        Lent(breaker)
