"""A permit is given back in another task than it was taken in, with what the circuit is to count."""

from __future__ import annotations

import anyio
import pytest

from postfacta_core import CircuitBreaker, CircuitConfig, CircuitOpenError
from postfacta_postgres.permits import Permit, first_word, is_the_callers_wish
from tests.postgres.postgres import request_within


def test_the_name_of_a_statement_is_its_first_word() -> None:
    assert first_word("  select\n1") == "SELECT"
    assert first_word(" ") == ""


def test_a_deadline_is_the_callers_wish_if_the_caller_set_the_present_one() -> None:
    assert not is_the_callers_wish()
    with request_within(1.0) as request:
        assert is_the_callers_wish() is request.deadline_is_callers is False
        request.asked = 0.5
        assert is_the_callers_wish() is request.deadline_is_callers is True


async def test_a_permit_is_a_failure_a_success_or_neither() -> None:
    breaker = CircuitBreaker("orders", config=CircuitConfig(sliding_window_size=4, minimum_number_of_calls=4))

    async def leave(permit: Permit, error: Exception | None, is_answered: bool) -> None:  # noqa: FBT001 - by position
        permit.leave(error, is_answered=is_answered)

    for error, is_answered in ((None, False), (None, True), (OSError(), False), (OSError(), True)):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leave, Permit(breaker), error, is_answered)
    counted = breaker.statistics()
    assert (counted.calls, counted.failures) == (3, 2)
    breaker.force_open()
    with pytest.raises(CircuitOpenError):
        Permit(breaker)
