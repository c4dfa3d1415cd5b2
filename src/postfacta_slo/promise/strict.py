"""A strict mapping reader: unknown keys are errors, reported with their path, and all of a file at once.

With a list of `Faults`, a wrong value is put there, and reading goes on with a stand-in, so that one run reports all that
is wrong. Without one, the first error is raised.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final, cast

from .promql import SloError

__all__ = ["Faults", "StrictMapping", "seconds"]

_SPAN: Final = re.compile(r"([0-9]{1,9})([smhdw])")
_SECONDS: Final[Mapping[str, int]] = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def seconds(text: str, path: str) -> int:
    """Return how many seconds a duration such as `5m` has."""
    found = _SPAN.fullmatch(text)
    if not found:
        raise SloError(f"{path}: must be a duration such as 30s, 5m, 1h, 30d or 4w, not {text!r}")
    return int(found[1]) * _SECONDS[found[2]]


class Faults:
    """The errors found so far, in the order of the file.

    Attributes:
        texts: The messages.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._places: list[str] = []

    def __len__(self) -> int:
        return len(self.texts)

    def add(self, error: SloError, place: str = "") -> None:
        """Add an error, unless its place has one already, of which it is a consequence."""
        text = str(error)
        if not any(text.startswith(f"{known}:") for known in self._places) and text not in self.texts:
            self.texts.append(text)
        if place:
            self._places.append(place)

    def end(self) -> None:
        """Raise if anything was wrong."""
        if len(self.texts) == 1:
            raise SloError(self.texts[0])
        if self.texts:
            raise SloError("\n  ".join([f"{len(self.texts)} things are wrong:", *self.texts]))


class StrictMapping:
    """A mapping of the file and where it stands there. Each key is taken once; `end` refuses what is left."""

    __slots__ = ("_known", "_left", "faults", "path")

    path: str  # Where it stands, for messages.
    faults: Faults | None  # Where errors are put; None raises them.

    def __init__(self, value: object, path: str, faults: Faults | None = None) -> None:
        self.faults = faults
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
        """The keys that have not been read."""
        return tuple(self._left)

    def refuse(self, key: str, why: str) -> SloError:
        """Return the error that says what is wrong with a key."""
        return SloError(f"{self.at(key)}: {why}")

    def end(self) -> None:
        """Refuse keys that have not been read."""
        for key in self._left:
            known = ", ".join(sorted(self._known)) or "none"
            self.wrong(key, f"is not known here and would be ignored; known are: {known}")

    def text(self, key: str, default: str | None = None) -> str:
        """Take a text, or the default if there is none; without a default it must be there, and not be empty."""
        value = self._take(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or not (value or default is not None):
            self.wrong(key, f"must be a text{'' if value else ' and is missing'}, not {_name(value)}")
            return ""
        return value

    def number(self, key: str) -> float:
        """Take a finite number, which must be there."""
        value = self._take(key)
        # A bool is an int to Python, not to people.
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.wrong(key, f"must be a number, not {_name(value)}")
            return 0.0
        return float(value)

    def flag(self, key: str, *, default: bool | None = None) -> bool:
        """Take true or false, or the default if there is neither; without a default it must be there."""
        value = self._take(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, bool):
            self.wrong(key, f"must be true or false, not {_name(value)}")
            return True
        return value

    def seconds(self, key: str, default: str | None = None) -> int:
        """Take a duration, or the default if there is none; without a default it must be there."""
        text = self.text(key, default)
        try:
            return seconds(text, self.at(key))
        except SloError as error:
            if self.faults is None:
                raise
            self.faults.add(error, self.at(key))
            return 3_600

    def child(self, key: str, *, optional: bool = False, path: str | None = None) -> StrictMapping:
        """Take a mapping, or an empty one if it is optional and not there; it may be given a path to be called by."""
        value = self._take(key)
        return StrictMapping({} if value is None and optional else value, path or self.at(key), self.faults)

    def items(self, key: str, *, optional: bool = False) -> tuple[tuple[object, str], ...]:
        """Take a list: each item with its path."""
        value = self._take(key)
        if value is None and optional:
            return ()
        if not isinstance(value, list):
            self.wrong(key, f"must be a list, not {_name(value)}")
            return ()
        listed = cast("list[object]", value)
        return tuple((one, f"{self.at(key)}[{place}]") for place, one in enumerate(listed))

    def only(self, key: str) -> tuple[object, str]:
        """Take a list that must have exactly one item: the item with its path."""
        items = self.items(key)
        if not items:
            raise self.refuse(key, "must have exactly one item, not 0")
        first, *more = items
        if more:
            self.wrong(key, f"must have exactly one item, not {len(items)}")
        return first

    def numbers(self, key: str) -> tuple[float, ...]:
        """Take a list of finite numbers, which must be there."""
        return tuple(
            StrictMapping({"": value}, path, self.faults).number("") for value, path in self.items(key)
        )

    def raw(self, key: str) -> object:
        """Take whatever stands there, None if nothing does."""
        return self._take(key)

    def wrong(self, key: str, why: str) -> None:
        """Record or raise the error of a key."""
        error = self.refuse(key, why)
        if self.faults is None:
            raise error
        self.faults.add(error, self.at(key))

    def _take(self, key: str) -> object:
        self._known.append(key)
        return self._left.pop(key, None)


def _name(value: object) -> str:
    if value is None:
        return "nothing"
    return repr(value) if isinstance(value, bool | int | float | str) else f"a {type(value).__name__}"
