"""Read the objects of a file strictly: unknown keys are errors, reported with their path, and all of a file at once.

A wrong value is put into the `Faults`, and reading goes on with a stand-in; without `Faults` the first error is raised.
References are resolved by a `Registry` for each kind, which also says what nothing refers to.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, cast

from .promql import SloError

__all__ = [
    "KINDS",
    "Entry",
    "Faults",
    "Registry",
    "Reported",
    "StrictMapping",
    "WhollyRead",
    "entry",
    "every",
    "seconds",
]

_SPAN: Final = re.compile(r"([0-9]{1,9})([smhdw])")
_SECONDS: Final[Mapping[str, int]] = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def seconds(text: str, path: str) -> int:
    """Return how many seconds a duration such as `5m` has."""
    found = _SPAN.fullmatch(text)
    if not found:
        raise SloError(f"{path}: must be a duration such as 30s, 5m, 1h, 30d or 4w, not {text!r}")
    return int(found[1]) * _SECONDS[found[2]]


class Faults:
    """The errors found so far, in the order of the file."""

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
        if self.texts:
            more = [f"{len(self.texts)} things are wrong:"] if len(self.texts) > 1 else []
            raise SloError("\n  ".join([*more, *self.texts]))


class _None(Faults):
    def add(self, error: SloError, place: str = "") -> None:
        """Raise the error."""
        raise error


class StrictMapping:
    """A mapping of the file and where it stands there. Each key is taken once; `end` refuses what is left."""

    __slots__ = ("_known", "_left", "faults", "path")

    path: str  # Where it stands, for messages.
    faults: Faults  # Where errors are put.

    def __init__(self, value: object, path: str, faults: Faults | None = None) -> None:
        self.faults = _None() if faults is None else faults
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
        return f"{self.path}.{key}" if key else self.path

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self._left)

    def refuse(self, key: str, why: str) -> SloError:
        return SloError(f"{self.at(key)}: {why}")

    def end(self) -> None:
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
            self.faults.add(error, self.at(key))
            return 3_600

    def child(self, key: str, *, optional: bool = False, path: str | None = None) -> StrictMapping:
        """Take a mapping, or an empty one if it is optional and not there; it may be given a path to be called by."""
        value = self._take(key)
        return StrictMapping({} if value is None and optional else value, path or self.at(key), self.faults)

    def items(self, key: str, *, optional: bool = False) -> tuple[tuple[object, str], ...]:
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
        return tuple(
            StrictMapping({"": value}, path, self.faults).number("") for value, path in self.items(key)
        )

    def raw(self, key: str) -> object:
        return self._take(key)

    def wrong(self, key: str, why: str) -> None:
        self.faults.add(self.refuse(key, why), self.at(key))

    def _take(self, key: str) -> object:
        self._known.append(key)
        return self._left.pop(key, None)


def _name(value: object) -> str:
    if value is None:
        return "nothing"
    return repr(value) if isinstance(value, bool | int | float | str) else f"a {type(value).__name__}"


# What a file may hold.
KINDS: Final = (
    "DataSource",
    "Service",
    "SLI",
    "AlertNotificationTarget",
    "AlertCondition",
    "AlertPolicy",
    "SLO",
)

_VERSION: Final = "openslo/v1"
# Labels elsewhere would be ignored.
_LABELLED: Final = ("Service", "SLO")
_MOST_CHARACTERS: Final = 1050

_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of the file: its head, and what is still to be read of it."""

    kind: str  # One of `KINDS`.
    name: str  # What others call it.
    path: str  # Where it stands, for messages.
    title: str  # The name that people read.
    description: str  # For people, on one line; may be empty.
    labels: tuple[tuple[str, str], ...]  # Names and values.
    notes: StrictMapping  # Its annotations.
    spec: StrictMapping  # Its spec, without the description.

    def note(self, name: str, default: str | None = None) -> str:
        return self.notes.text(f"prometheus/{name}", default)

    def count(self, name: str) -> int:
        """Take an annotation of ours that is a whole number; 0 if it is not there."""
        text = self.note(name, "0")
        if not (text.isascii() and text.isdecimal()):
            raise self.notes.refuse(f"prometheus/{name}", f"must be a whole number in quotes, not {text!r}")
        return int(text)

    def into(self, make: Callable[[Entry], _Made]) -> _Made:
        """Make a record of it, and refuse what the record left over."""
        before = len(self.spec.faults)
        try:
            made = make(self)
        except WhollyRead:
            self._end()
            raise
        except SloError as error:
            if isinstance(error, Reported) or self.path in str(error):
                raise
            # A record knows what is wrong with it, and not where it stands. One made of stand-ins is wrong anyway.
            raise (
                Reported() if len(self.spec.faults) > before else SloError(f"{self.path}: {error}")
            ) from error
        # An object that failed halfway has keys that were not read yet.
        self._end()
        if len(self.spec.faults) > before:
            raise Reported
        return made

    def _end(self) -> None:
        self.notes.end()
        self.spec.end()


class Reported(SloError):  # noqa: N818 - it is no error of its own
    """An object could not be made, for reasons that were recorded already."""


class WhollyRead(Reported):
    """The same, and all of it was looked at: what is left over is not known."""


def every(faults: Faults, *parts: Callable[[], Any]) -> list[Any]:
    """Make all parts of an object, so that one that is wrong does not hide what is wrong with the next."""
    made: list[Any] = []
    for part in parts:
        try:
            made.append(part())
        except SloError as error:
            if not isinstance(error, Reported):
                faults.add(error)
    if len(made) < len(parts):
        raise WhollyRead
    return made


def entry(value: object, path: str, kind: str | None = None, *, faults: Faults | None = None) -> Entry:
    """Read the head of an object."""
    node = StrictMapping(value, path, faults)
    version, said = node.text("apiVersion", kind and _VERSION), node.text("kind", kind)
    if version != _VERSION:
        raise node.refuse("apiVersion", f"must be {_VERSION}, not {version!r}")
    if said not in ((kind,) if kind else KINDS):
        raise node.refuse("kind", f"must be {kind or 'one of ' + ', '.join(KINDS)}, not {said!r}")
    meta = node.child("metadata")
    name = meta.text("name")
    where = f"{path} ({said} {name})"
    notes = meta.child("annotations", optional=True, path=f"{where}: metadata.annotations")
    labels = meta.child("labels", optional=True, path=f"{where}: metadata.labels")
    if labels.keys and said not in _LABELLED:
        labels.wrong(labels.keys[0], f"would be ignored; only {' and '.join(_LABELLED)} may have labels")
    texts = tuple((key, labels.text(key)) for key in labels.keys)
    title = " ".join(meta.text("displayName", name).split())
    spec = node.child("spec", path=f"{where}: spec")
    meta.end()
    node.end()
    return Entry(said, name, where, title, _description(spec), texts, notes, spec)


def _description(spec: StrictMapping) -> str:
    text = " ".join(spec.text("description", "").split())
    if len(text) > _MOST_CHARACTERS:
        raise spec.refuse("description", f"has {len(text)} characters, and {_MOST_CHARACTERS} are the most")
    return text


class Registry(Generic[_Made]):
    """The objects of one kind, and which of them are referenced."""

    __slots__ = ("_broken", "_faults", "_kind", "_made", "_make", "_unasked")

    def __init__(
        self, entries: Iterable[Entry], kind: str, make: Callable[[Entry], _Made], *, faults: Faults
    ) -> None:
        self._kind = kind
        self._make = make
        self._faults = faults
        self._broken: set[str] = set()
        self._made: dict[str, _Made] = {}
        self._unasked: dict[str, str] = {}
        for one in entries:
            if one.kind == kind:
                self._keep(one)

    def _keep(self, one: Entry) -> None:
        if one.name in self._made or one.name in self._broken:
            self._faults.add(SloError(f"{one.path}: there is another {self._kind} of this name"))
            return
        try:
            self._made[one.name] = one.into(self._make)
            self._unasked[one.name] = one.path
        except SloError as error:
            self._broken.add(one.name)
            if not isinstance(error, Reported):
                self._faults.add(error)

    def all(self) -> tuple[_Made, ...]:
        return tuple(self._made.values())

    @property
    def is_broken(self) -> bool:
        return bool(self._broken)

    def get(self, name: str, path: str) -> _Made:
        if name in self._broken:
            raise Reported
        if name not in self._made:
            known = ", ".join(self._made) or "none"
            raise SloError(f"{path}: there is no {self._kind} {name!r}; known are: {known}")
        self._unasked.pop(name, None)
        return self._made[name]

    def find(self, value: _Made) -> bool:
        """Return whether there is one that equals this, and mark it as referenced."""
        for name, made in self._made.items():
            if made == value:
                self._unasked.pop(name, None)
                return True
        return False

    def refer(self, value: object, path: str, key: str) -> _Made:
        """Return what is meant by an item of a list: one of these by its name below a key, or one written right there."""
        node = StrictMapping(value, path, self._faults)
        if key not in node:
            return entry(value, path, self._kind, faults=self._faults).into(self._make)
        name = node.text(key)
        node.end()
        return self.get(name, node.at(key))

    def end(self) -> None:
        for path in self._unasked.values():
            self._faults.add(SloError(f"{path}: nothing refers to it, so that it would be ignored"))
