"""A listener of pybreaker that records its calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pybreaker

__all__ = ["Notes"]


class Notes(pybreaker.CircuitBreakerListener):
    """Records its calls, and the state of the book at each."""

    def __init__(self) -> None:
        self.notes: list[tuple[object, ...]] = []

    def before_call(
        self, cb: pybreaker.CircuitBreaker, func: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> None:
        self.notes.append(("before_call", cb.name, func.__name__, args, kwargs))

    def failure(self, cb: pybreaker.CircuitBreaker, exc: BaseException) -> None:
        self.notes.append(("failure", cb.fail_counter, type(exc)))

    def success(self, cb: pybreaker.CircuitBreaker) -> None:
        self.notes.append(("success", cb.fail_counter))

    def state_change(self, cb: pybreaker.CircuitBreaker, old_state: Any, new_state: Any) -> None:
        self.notes.append(
            ("state_change", old_state.name, new_state.name, cb.current_state, cb.state.name)
        )

    def take(self) -> list[tuple[object, ...]]:
        taken, self.notes = self.notes, []
        return taken
