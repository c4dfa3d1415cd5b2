"""A guard acts on types of errors, or on what one function says of an outcome."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from postfacta_core.guards._guard import Guard, On, Outcome, asked_by
from tests.kit.every import every


def is_empty(outcome: Outcome[Any]) -> bool:
    return outcome.result == []


class Judge(Guard):
    """Says which outcomes it acts on."""

    def __init__(self, on: On) -> None:
        super().__init__("judge")
        self._act_on(on)

    def judges(self, outcome: Outcome[Any]) -> bool:
        return self._acts_on(outcome, otherwise=False)


def test_an_outcome_shows_its_result_or_its_error() -> None:
    assert repr(Outcome(7)) == "Outcome(result=7, error=None)"
    assert repr(Outcome[int](error=KeyError(7))) == "Outcome(result=None, error=KeyError(7))"


def test_types_and_a_function_are_distinguished() -> None:
    empty, failed = Outcome[Any]([]), Outcome[Any](error=ConnectionError())
    cases: list[tuple[On, bool, bool]] = [
        (OSError, False, True),
        ((KeyError, OSError), False, True),
        ((), False, False),
        (is_empty, True, False),
    ]
    with every() as case:
        for on, acts_on_empty, acts_on_failed in cases:
            with case(on):
                judge = Judge(on)
                assert (judge.judges(empty), judge.judges(failed)) == (
                    acts_on_empty,
                    acts_on_failed,
                )


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
            with case(on), pytest.raises(ValueError, match=r"^Judge\.on must be"):
                Judge(on)


class Asking:
    """A result, such as a response, that asks to wait."""

    retry_after = 3


def test_a_result_may_ask_to_wait_too() -> None:
    assert asked_by(Outcome(Asking())) == 3.0
    assert asked_by(Outcome("text")) is None
    assert asked_by(Outcome(error=OSError())) is None
