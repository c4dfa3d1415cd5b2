"""Errors of this library that an `except` of another library catches, too: record 25."""

from __future__ import annotations

from functools import cache
from typing import Any

from postfacta_core.errors import ResilienceError

__all__ = ["common"]


@cache
def _common_kind(ours: Any, theirs: Any) -> Any:
    def reduced(error: ResilienceError) -> object:
        return ours, error.args  # In another process it is ours alone.

    names = {"__module__": ours.__module__, "__reduce__": reduced}
    return type(ours.__name__, (ours, theirs), names)


def common(meaning: ResilienceError, theirs: Any, **attributes: object) -> ResilienceError:
    """Return an error of this library that an `except` of another library catches, too.

    It has the text and the attributes of ours, and the given ones of the other library's error.
    """
    ours: Any = type(meaning)
    kind = _common_kind(ours, theirs)
    error: ResilienceError = kind.__new__(kind, *meaning.args)
    # An OSError, as those of requests are, takes them in `__init__` alone.
    error.args = meaning.args
    vars(error).update(attributes, **vars(meaning))
    return error
