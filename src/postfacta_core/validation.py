"""Check settings where they are given.

Each function returns the value, converted where two notations mean the same, or raises `ValueError`
with the field, the value, the rule and an example: the four things that the person who gave it
needs.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Collection
from enum import StrEnum
from operator import ge, gt, le, lt
from typing import Final, NoReturn, TypedDict, TypeVar, Unpack, cast

# `from .validation import validation` imports this module by its name and not the package, which
# imports all others.
import postfacta_core.validation as _this  # noqa: PLW0406 - see above

validation = _this

E = TypeVar("E", bound=StrEnum)
T = TypeVar("T")

_LONGEST: Final = 100  # Characters of a wrong value that are shown.
_NAME: Final = re.compile(r"[A-Za-z0-9_.:/*-]{1,64}")


def refuse(field: str, value: object, rule: str, *, example: str = "") -> NoReturn:
    """Refuse a setting: owner and name, its value (no secret), the rule, a right one as code."""
    hint = f"; for example {example}" if example else ""
    shown = repr(value)
    if len(shown) > _LONGEST:
        shown = f"{shown[: _LONGEST - 3]}..."
    raise ValueError(f"{field} must be {rule}, not {shown}{hint}")


def name(field: str, value: object, *, example: str = '"billing"') -> str:
    """Check a name that becomes a metric label."""
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    refuse(field, value, "a text of 1 to 64 letters, digits and _.:/*-", example=example)


def choice(field: str, value: object, kind: type[E]) -> E:
    """Check one of an enumeration, given as its member or as its text."""
    texts_of_members = [member.value for member in kind]
    return kind(one_of(field, value, texts_of_members))


class _Bounds(TypedDict, total=False):
    above: float
    at_least: float
    below: float
    at_most: float


_IS_WITHIN: Final = {"above": gt, "at_least": ge, "below": lt, "at_most": le}


def number(
    field: str,
    value: object,
    *,
    finite: bool = True,
    example: str = "",
    **bounds: Unpack[_Bounds],
) -> float:
    """Check a real number and its bounds; not a bool, and not NaN."""
    kind = "a finite number" if finite else "a number"
    most = sys.float_info.max if finite else math.inf
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # A comparison with NaN is false.
    is_number = is_number and -most <= cast("float", value) <= most
    return _within(field, value, kind, is_kind=is_number, bounds=bounds, example=example)


def seconds(
    field: str,
    value: object,
    *,
    finite: bool = True,
    example: str = "5.0",
    **bounds: Unpack[_Bounds],
) -> float:
    """Check a length of time in seconds; by default above 0 and finite."""
    limits: _Bounds = {"above": 0.0, **bounds}
    return number(field, value, finite=finite, example=example, **limits)


def whole(field: str, value: object, *, example: str = "", **bounds: Unpack[_Bounds]) -> int:
    """Check a whole number and its bounds, by default from 1 up; not a bool."""
    limits: _Bounds = {"at_least": 1, **bounds}
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    example = example or f"{limits['at_least']:g}"
    checked = _within(
        field, value, "a whole number", is_kind=is_whole, bounds=limits, example=example
    )
    return int(checked)


def _within(
    field: str, value: object, kind: str, *, is_kind: bool, bounds: _Bounds, example: str
) -> float:
    """Return a value of the right kind that is within all bounds; else refuse it."""
    limits = cast("dict[str, float]", bounds)
    amount = cast("float", value)
    if is_kind and all(_IS_WITHIN[name](amount, limit) for name, limit in limits.items()):
        return amount
    rules = [f"{name.replace('_', ' ')} {limit:g}" for name, limit in limits.items()]
    rule = " and ".join(rules)
    refuse(field, value, f"{kind} {rule}".rstrip(), example=example)


def text(field: str, value: object, *, empty: bool = True, example: str = '""') -> str:
    """Check a text."""
    if isinstance(value, str) and (value or empty):
        return value
    refuse(field, value, "a text" if empty else "a text that is not empty", example=example)


def secret(field: str, value: object, *, example: str) -> str:
    """Check a text that no error may repeat: a refusal shows only the type of the value."""
    if isinstance(value, str):
        return value
    refuse(field, type(value), "a text", example=example)


def instance(field: str, value: object, kind: type[T], *, example: str) -> T:
    """Check the class of an object."""
    if isinstance(value, kind):
        return value
    refuse(field, value, f"a {kind.__name__}", example=example)


def function(field: str, value: object, *, example: str) -> Callable[..., object]:
    """Check that something can be called."""
    if callable(value):
        return value
    refuse(field, value, "a function", example=example)


def functions(owner: str, **replacements: object) -> None:
    """Check clocks and other functions that a test replaces, by the names of their parameters."""
    for field, value in replacements.items():
        function(f"{owner}.{field}", value, example="a function, or leave it out")


def flag(field: str, value: object, *, example: str = "True") -> bool:
    """Check a bool; what is only as good as one, such as 1 or a text, is refused."""
    if isinstance(value, bool):
        return value
    refuse(field, value, "True or False", example=example)


def one_of(field: str, value: object, options: Collection[str]) -> str:
    """Check one of a few texts."""
    if isinstance(value, str) and value in options:
        return value
    choices = [repr(option) for option in options]
    refuse(field, value, f"one of {', '.join(choices)}", example=choices[0])


def texts(field: str, value: object, *, example: str) -> tuple[str, ...]:
    """Check a list of texts.

    One text alone is refused, since it would be taken for its characters.
    """
    if isinstance(value, str | bytes) or not isinstance(value, Collection):
        refuse(field, value, "a list of texts", example=example)
    for element in cast("Collection[object]", value):
        if not isinstance(element, str):
            refuse(field, element, "a list of texts", example=example)
    return tuple(cast("Collection[str]", value))


def error_types(field: str, value: object, *, example: str) -> tuple[type[Exception], ...]:
    """Check a type of errors, or a tuple of them.

    What is no `Exception`, such as a cancellation, is refused.
    """
    original: object = value
    types: tuple[object, ...] = (original,)
    if isinstance(value, tuple):
        types = cast("tuple[object, ...]", value)
    for kind in types:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            refuse(field, original, "a type of Exception or a tuple of them", example=example)
    return cast("tuple[type[Exception], ...]", types)
