"""An error of both libraries is caught by either, and is ours alone in another process."""

from __future__ import annotations

import pickle
from typing import Any

from postfacta_adapters._errors import common
from postfacta_core.errors import CircuitOpenError, RejectedError


class Theirs(Exception):  # noqa: N818 - as another library names it
    """An error of another library, with a constructor of its own."""

    def __init__(self, message: str, *, request: object) -> None:
        super().__init__(message)
        self.request = request


def test_an_error_of_both_has_our_text_and_their_attributes() -> None:
    ours = CircuitOpenError("model", 2.0)
    both: Any = common(ours, Theirs, request="GET /")
    assert isinstance(both, Theirs)
    assert isinstance(both, RejectedError)
    assert (str(both), both.policy, both.retry_after) == (str(ours), "model", 2.0)
    assert both.request == "GET /"
    assert type(both).__name__ == "CircuitOpenError"
    assert type(common(ours, Theirs)) is type(both)


def test_a_pickle_of_it_is_ours_alone() -> None:
    again = pickle.loads(pickle.dumps(common(CircuitOpenError("model", 2.0), Theirs)))  # noqa: S301 - our own bytes
    assert type(again) is CircuitOpenError
    assert (again.policy, again.retry_after) == ("model", 2.0)
