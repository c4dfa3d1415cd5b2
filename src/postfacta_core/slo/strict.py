"""Take a mapping apart so that nothing in it is overlooked: what nobody asked for is refused, with its path."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final, cast

from .promql import SloError

__all__ = ["Node", "seconds"]

_SPAN: Final = re.compile(r"([0-9]{1,9})([smhdw])")
_SECONDS: Final[Mapping[str, int]] = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def seconds(text: str, path: str) -> int:
    """Return how many seconds a duration such as `5m` has.

    Raises:
        SloError: If it is none. Months, quarters and years have no fixed length, and are none.
    """
    found = _SPAN.fullmatch(text)
    if not found:
        raise SloError(f"{path}: must be a duration such as 30s, 5m, 1h, 30d or 4w, not {text!r}")
    return int(found[1]) * _SECONDS[found[2]]


class Node:
    """A mapping of the file and where it stands there. Each key is taken once; `end` refuses what is left.

    Attributes:
        path: Where it stands, for messages.
    """

    __slots__ = ("_known", "_left", "path")

    path: str

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise SloError(f"{path}: must be a mapping, not {_name(value)}")
        mapping = cast("dict[object, object]", value)
        for key in mapping:
            if not isinstance(key, str):
                raise SloError(f"{path}: has a key that is not a text: {key!r}")
        self.path = path
        self._left = dict(cast("dict[str, object]", mapping))
        self._known: list[str] = []

    def __contains__(self, key: str) -> bool:
        return self._left.get(key) is not None

    def at(self, key: str) -> str:
        """Return the path of a key."""
        return f"{self.path}.{key}" if key else self.path

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that nobody has taken yet."""
        return tuple(self._left)

    def refuse(self, key: str, why: str) -> SloError:
        """Return the error that says what is wrong with a key."""
        return SloError(f"{self.at(key)}: {why}")

    def end(self) -> None:
        """Refuse what nobody has taken.

        Raises:
            SloError: If there is any.
        """
        for key in self._left:
            known = ", ".join(sorted(self._known)) or "none"
            raise self.refuse(key, f"is not known here and would be ignored; known are: {known}")

    def text(self, key: str, default: str | None = None) -> str:
        """Take a text, or the default if there is none; without a default it must be there, and not be empty."""
        value = self._take(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or not (value or default is not None):
            raise self.refuse(key, f"must be a text{'' if value else ' and is missing'}, not {_name(value)}")
        return value

    def number(self, key: str) -> float:
        """Take a finite number, which must be there."""
        value = self._take(key)
        # A bool is an int to Python, not to people.
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.refuse(key, f"must be a number, not {_name(value)}")
        return float(value)

    def flag(self, key: str, *, default: bool | None = None) -> bool:
        """Take true or false, or the default if there is neither; without a default it must be there."""
        value = self._take(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, bool):
            raise self.refuse(key, f"must be true or false, not {_name(value)}")
        return value

    def seconds(self, key: str) -> int:
        """Take a duration, which must be there."""
        return seconds(self.text(key), self.at(key))

    def child(self, key: str, *, optional: bool = False, path: str | None = None) -> Node:
        """Take a mapping, or an empty one if it is optional and not there; it may be given a path to be called by."""
        value = self._take(key)
        return Node({} if value is None and optional else value, path or self.at(key))

    def items(self, key: str, *, optional: bool = False) -> tuple[tuple[object, str], ...]:
        """Take a list: each item with its path."""
        value = self._take(key)
        if value is None and optional:
            return ()
        if not isinstance(value, list):
            raise self.refuse(key, f"must be a list, not {_name(value)}")
        listed = cast("list[object]", value)
        return tuple((one, f"{self.at(key)}[{place}]") for place, one in enumerate(listed))

    def only(self, key: str) -> tuple[object, str]:
        """Take a list that must have exactly one item: the item with its path."""
        items = self.items(key)
        if len(items) != 1:
            raise self.refuse(key, f"must have exactly one item, not {len(items)}")
        return items[0]

    def numbers(self, key: str) -> tuple[float, ...]:
        """Take a list of finite numbers, which must be there."""
        return tuple(Node({"": value}, path).number("") for value, path in self.items(key))

    def raw(self, key: str) -> object:
        """Take whatever stands there, None if nothing does."""
        return self._take(key)

    def _take(self, key: str) -> object:
        self._known.append(key)
        return self._left.pop(key, None)


def _name(value: object) -> str:
    if value is None:
        return "nothing"
    return repr(value) if isinstance(value, bool | int | float | str) else f"a {type(value).__name__}"
