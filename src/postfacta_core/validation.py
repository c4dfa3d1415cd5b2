"""Check settings where they are given.

Each function returns the value, converted where two notations mean the same, or raises `ValueError` with the field,
the value, the rule and an example: the four things that the person who gave it needs.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Collection
from enum import StrEnum
from typing import Final, NoReturn, TypeVar, cast

__all__ = [
    "choice",
    "error_types",
    "flag",
    "function",
    "functions",
    "instance",
    "missing_extra",
    "name",
    "number",
    "one_of",
    "refuse",
    "seconds",
    "secret",
    "text",
    "texts",
    "validation",
    "whole",
]

# `from .validation import validation` imports this module by its name and not the package, which imports all others.
import postfacta_core.validation as validation  # noqa: PLR0402, PLW0406 - see above

E = TypeVar("E", bound=StrEnum)
T = TypeVar("T")

_LONGEST: Final = 100
_NAME: Final = re.compile(r"[A-Za-z0-9_.:/*-]{1,64}")


def refuse(field: str, value: object, rule: str, *, example: str = "") -> NoReturn:
    """Refuse a setting.

    Args:
        field: What was set, with its owner, such as `Retry.attempts`.
        value: What it was set to; never a secret.
        rule: What it must be, as the end of "it must be ...".
        example: A right one, as code.

    Raises:
        ValueError: Always.
    """
    hint = f"; for example {example}" if example else ""
    shown = repr(value)
    if len(shown) > _LONGEST:
        shown = f"{shown[: _LONGEST - 3]}..."
    raise ValueError(f"{field} must be {rule}, not {shown}{hint}")


def name(field: str, value: object, *, example: str = '"billing"') -> str:
    """Check a name that becomes a metric label: 1 to 64 letters, digits and `_.:/*-`."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        refuse(field, value, "a text of 1 to 64 letters, digits and _.:/*-", example=example)
    return value


def choice(field: str, value: object, kind: type[E]) -> E:
    """Check one of an enumeration, given as its member or as its text."""
    try:
        if isinstance(value, str):
            return kind(value)
    except ValueError:
        pass
    options = ", ".join(repr(each.value) for each in kind)
    refuse(field, value, f"one of {options}", example=repr(next(iter(kind)).value))


def number(
    field: str,
    value: object,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
    finite: bool = True,
    example: str = "",
) -> float:
    """Check a real number and its bounds; not a bool, and not NaN.

    Args:
        field: As for `refuse`.
        value: What was given.
        above: It must be greater than this.
        at_least: It must be no less than this.
        below: It must be less than this.
        at_most: It must be no greater than this.
        finite: Whether infinity is refused.
        example: As for `refuse`.
    """
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and above < value
        and at_least <= value <= at_most
        and (value < below or below == math.inf)
        and (not finite or -sys.float_info.max <= value <= sys.float_info.max)
    ):
        return value
    refuse(
        field,
        value,
        _bounds(
            "a finite number" if finite else "a number",
            above=above,
            at_least=at_least,
            below=below,
            at_most=at_most,
        ),
        example=example,
    )


def seconds(
    field: str,
    value: object,
    *,
    above: float = 0.0,
    at_most: float = math.inf,
    finite: bool = True,
    example: str = "5.0",
) -> float:
    """Check a length of time in seconds; by default above 0 and finite."""
    return number(field, value, above=above, at_most=at_most, finite=finite, example=example)


def whole(
    field: str, value: object, *, at_least: int = 1, at_most: float = math.inf, example: str = ""
) -> int:
    """Check a whole number and its bounds; not a bool."""
    if isinstance(value, int) and not isinstance(value, bool) and at_least <= value <= at_most:
        return value
    refuse(
        field,
        value,
        _bounds("a whole number", at_least=at_least, at_most=at_most),
        example=example or str(at_least),
    )


def text(field: str, value: object, *, empty: bool = True, example: str = '""') -> str:
    """Check a text."""
    if not isinstance(value, str) or not (value or empty):
        refuse(field, value, "a text" if empty else "a text that is not empty", example=example)
    return value


def secret(field: str, value: object, *, example: str) -> str:
    """Check a text that no error may repeat: a refusal shows only the type of the value."""
    return value if isinstance(value, str) else refuse(field, type(value), "a text", example=example)


def instance(field: str, value: object, kind: type[T], *, example: str) -> T:
    """Check the class of an object."""
    if not isinstance(value, kind):
        refuse(field, value, f"a {kind.__name__}", example=example)
    return value


def function(field: str, value: object, *, example: str) -> Callable[..., object]:
    """Check that something can be called."""
    if not callable(value):
        refuse(field, value, "a function", example=example)
    return value


def functions(owner: str, **given: object) -> None:
    """Check clocks and other functions that a test replaces, by the names of their parameters."""
    for field, value in given.items():
        function(f"{owner}.{field}", value, example="a function, or leave it out")


def flag(field: str, value: object, *, example: str = "True") -> bool:
    """Check a bool; what is only as good as one, such as 1 or a text, is refused."""
    if not isinstance(value, bool):
        refuse(field, value, "True or False", example=example)
    return value


def one_of(field: str, value: object, options: Collection[str]) -> str:
    """Check one of a few texts."""
    if not isinstance(value, str) or value not in options:
        refuse(field, value, f"one of {', '.join(map(repr, options))}", example=repr(next(iter(options))))
    return value


def texts(field: str, value: object, *, example: str) -> tuple[str, ...]:
    """Check a list of texts; one text alone is refused, since it would be taken for its characters."""
    if isinstance(value, str | bytes) or not isinstance(value, Collection):
        refuse(field, value, "a list of texts", example=example)
    for each in cast("Collection[object]", value):
        if not isinstance(each, str):
            refuse(field, each, "a list of texts", example=example)
    return tuple(cast("Collection[str]", value))


def error_types(field: str, value: object, *, example: str) -> tuple[type[Exception], ...]:
    """Check a type of errors, or a tuple of them. What is no `Exception`, such as a cancellation, is refused."""
    given: object = value
    types = cast("tuple[object, ...]", value) if isinstance(value, tuple) else (given,)
    for each in types:
        if not (isinstance(each, type) and issubclass(each, Exception)):
            refuse(field, given, "a type of Exception or a tuple of them", example=example)
    return cast("tuple[type[Exception], ...]", types)


def missing_extra(owner: str, extra: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Make the error of a module that needs an extra which is not installed: it says what to install."""
    return ModuleNotFoundError(
        f"{owner} needs {error.name}: pip install 'postfacta[{extra}]'", name=error.name, path=error.path
    )


def _bounds(
    kind: str,
    *,
    above: float = -math.inf,
    at_least: float,
    below: float = math.inf,
    at_most: float,
) -> str:
    bounds = [
        f"above {above:g}" if above > -math.inf else "",
        f"at least {at_least:g}" if at_least > -math.inf else "",
        f"below {below:g}" if below < math.inf else "",
        f"at most {at_most:g}" if at_most < math.inf else "",
    ]
    said = " and ".join(bound for bound in bounds if bound)
    return f"{kind} {said}".rstrip()
