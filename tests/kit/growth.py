"""How much more a longer input costs.

By the ratio of two runs, so that no machine is too slow and none too fast.

A ratio of processor time is noisy, and a quadratic cost is eight times a linear one here: a first
look sorts out what is linear; what looks worse is measured again, at longer inputs, and the least
of several counts. The longest has 4,096 characters, since some parsers refuse what is longer.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from types import ModuleType
from typing import Any, TypeGuard, cast

__all__ = ["grows_faster", "hostile_texts", "patterns_of"]

# Python has no public parser of patterns.
constants: Any = importlib.import_module("re._constants")
parser: Any = importlib.import_module("re._parser")

_TIMES = 8  # The longer input.
_FACTOR = 2.5  # What noise and a logarithm may add to that.
_LOOKS = ((256, 2), (512, 9))  # The length of the shorter input, and how often each is measured.


def grows_faster(
    function: Callable[[Any], object],
    make: Callable[[int], Any],
    looks: Sequence[tuple[int, int]] = _LOOKS,
) -> float:
    """Return how many times too much an input of eight times the length costs.

    0 if it costs about eight times.

    Args:
        function: What is measured.
        make: Makes its input of a length.
        looks: The length of the shorter input, and how often each is measured, of the first look
            and the second. What has a cost besides that of its input, such as a request, needs
            longer ones.
    """
    excess = 0.0
    for length, repeats in looks:
        short, long = (_least(function, make(size), repeats) for size in (length, length * _TIMES))
        excess = long / short / _TIMES
        if excess <= _FACTOR:
            return 0.0
    return excess


def _least(function: Callable[[Any], object], value: object, repeats: int) -> float:
    took: list[float] = []
    for _ in range(repeats):
        began = time.thread_time()
        function(value)
        took.append(time.thread_time() - began)
    return max(min(took), 1e-6)


def patterns_of(
    package: ModuleType,
) -> Iterator[tuple[str, Callable[[Any], object], re.Pattern[Any]]]:
    """Yield each pattern that a module of a package holds, with its place, and how it is used."""
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not found.name.endswith("__main__"):
            for name, value in vars(importlib.import_module(found.name)).items():
                for use, pattern in _uses(value):
                    yield f"{found.name}.{name}", use, pattern


def _uses(value: Any) -> Iterator[tuple[Callable[[Any], object], re.Pattern[Any]]]:
    owner: Any = getattr(value, "__self__", None)
    if _is_pattern(value):
        yield value.search, value
    elif _is_pattern(owner):
        yield (lambda text: value("", text)) if value.__name__ == "sub" else value, owner
    elif isinstance(value, tuple | list):
        for member in cast("Iterable[object]", value):
            yield from _uses(member)


def _is_pattern(value: object) -> TypeGuard[re.Pattern[Any]]:
    return isinstance(value, re.Pattern)


def hostile_texts(pattern: re.Pattern[Any]) -> Iterator[Callable[[int], Any]]:
    """Yield makers of texts that begin as a match does and repeat a part of it, but end as none does."""
    parts = list(_parts(parser.parse(pattern.pattern, pattern.flags & ~re.DEBUG)))
    for begin in range(len(parts)):
        for end in range(begin + 1, len(parts) + 1):
            for border in ("", "-", " "):
                head, pump = "".join(parts[:begin]), border + "".join(parts[begin:end])
                yield _maker(head, pump, is_bytes=isinstance(pattern.pattern, bytes))


def _maker(head: str, pump: str, *, is_bytes: bool) -> Callable[[int], Any]:
    def make(length: int) -> Any:
        text = head + (pump * (length // len(pump) + 1))[: length - 1] + "\0"
        return text.encode() if is_bytes else text

    return make


def _parts(parsed: Any) -> Iterator[str]:
    """Yield the shortest match of a pattern, by its parts.

    Each repeated part is there twice at least.
    """
    for is_literal, items in groupby(parsed, key=lambda item: item[0] is constants.LITERAL):
        if is_literal:
            yield "".join(chr(code) for _, code in items)
        else:
            for operator, argument in items:
                yield from _part(operator, argument)


def _part(operator: Any, argument: Any) -> Iterator[str]:
    match operator:
        case constants.NOT_LITERAL | constants.ANY:
            yield "x"
        case constants.IN:
            yield _member(argument)
        case constants.BRANCH:
            yield from _parts(argument[1][0])
        case constants.SUBPATTERN:
            yield from _parts(argument[-1])
        case constants.MAX_REPEAT | constants.MIN_REPEAT | constants.POSSESSIVE_REPEAT:
            least, _, inner = argument
            yield "".join(_parts(inner)) * max(2, least)
        case _:  # What takes no character, such as a border or what stands before it.
            pass


_CATEGORIES: dict[Any, Callable[[str], bool]] = {
    constants.CATEGORY_DIGIT: str.isdigit,
    constants.CATEGORY_SPACE: str.isspace,
    constants.CATEGORY_WORD: lambda character: character == "_" or character.isalnum(),
}


def _member(members: Any) -> str:
    """Return a character of a class, a word's if there is one."""
    return next((each for each in "ax0-_ :/'\"" if _is_in(each, members)), "\0")


def _is_in(character: str, members: Any) -> bool:
    is_in, is_negated = False, False
    for kind, value in members:
        match kind:
            case constants.NEGATE:
                is_negated = True
            case constants.LITERAL:
                is_in |= ord(character) == value
            case constants.RANGE:
                is_in |= value[0] <= ord(character) <= value[1]
            case _:
                is_in |= value in _CATEGORIES and _CATEGORIES[value](character)
    return is_in is not is_negated
