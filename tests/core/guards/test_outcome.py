"""A guard acts on types of errors, or on what one function says of an outcome."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from postfacta_core.guards._outcome import Outcome, asked_by, check_on
from tests.kit.every import every


def is_empty(outcome: Outcome[Any]) -> bool:
    return outcome.result == []


def test_an_outcome_shows_its_result_or_its_error() -> None:
    assert repr(Outcome(7)) == "Outcome(7)"
    assert repr(Outcome[int](error=KeyError(7))) == "Outcome(error=KeyError(7))"


def test_types_and_a_function_are_distinguished() -> None:
    assert check_on("Retry.on", OSError, example="") == ((OSError,), None)
    assert check_on("Retry.on", (), example="") == ((), None)
    assert check_on("Retry.on", is_empty, example="") == ((), is_empty)


def test_a_cancellation_is_no_outcome() -> None:
    wrong: list[Any] = [
        BaseException,
        anyio.WouldBlock(),
        (OSError, KeyboardInterrupt),
        "OSError",
        None,
        [OSError],
    ]
    with every() as case:
        for on in wrong:
            with case(on), pytest.raises(ValueError, match=r"^Retry\.on must be"):
                check_on("Retry.on", on, example="on=OSError")


class Asking:
    """A result, such as a response, that asks to wait."""

    retry_after = 3


def test_a_result_may_ask_to_wait_too() -> None:
    assert asked_by(Outcome(Asking())) == 3.0
    assert asked_by(Outcome("text")) is None
    assert asked_by(Outcome(error=OSError())) is None
