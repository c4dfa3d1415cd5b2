"""Read the objects of a file strictly.

Unknown keys are errors, reported with their path, and all of a file at once.

1. Reading never stops. What is wrong is put into the `Faults`, and a stand-in is read in its place.
2. A record is made when all of its object was read, and only if nothing of that was wrong.
3. What refers to something wrong is not made either, and no fault is reported of it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, cast

from .promql import SloError

_Made = TypeVar("_Made")

# By place, why it is wrong. The first reason stands; an empty one follows from a fault elsewhere,
# and is not shown.
Faults = dict[str, str]

_SPAN: Final = re.compile(r"([0-9]{1,9})([smhdw])")
_WHOLE: Final = re.compile("[0-9]+")
_MOST: Final = sys.float_info.max
_SECONDS: Final[Mapping[str, int]] = {
    "s": 1,
    "m": 60,
    "h": 3_600,
    "d": 86_400,
    "w": 604_800,
}


def refuse(faults: Faults) -> None:
    """Raise one error with all faults, if there are any."""
    lines = [f"{place}: {reason}" for place, reason in faults.items() if reason]
    if len(lines) > 1:
        lines.insert(0, f"{len(lines)} things are wrong:")
    if lines:
        raise SloError("\n  ".join(lines))


def seconds(text: str) -> int:
    """Return how many seconds a duration such as `5m` has."""
    parts = _SPAN.fullmatch(text)
    if not parts:
        raise SloError(f"must be a duration such as 30s, 5m, 1h, 30d or 4w, not {text!r}")
    return int(parts[1]) * _SECONDS[parts[2]]


class StrictMapping:
    """A mapping of the file and where it stands there.

    Each key is taken once; `end` refuses what is left.
    """

    def __init__(self, value: object, path: str, faults: Faults) -> None:
        self.path = path  # Where it stands, for messages.
        self.faults: Faults = faults  # Where it puts what is wrong.
        self._before = len(faults)
        self._taken: list[str] = []
        self._left: dict[str, object] = {}
        if not isinstance(value, dict):
            faults.setdefault(path, f"must be a mapping, not {_name(value)}")
            # What is missing in it is no fault of its own, and nothing can be made of it.
            self.faults = {}
            self._before = -1
            value = {}
        for key, item in cast("dict[object, object]", value).items():
            if isinstance(key, str):
                self._left[key] = item
            else:
                faults.setdefault(path, f"has a key that is not a text: {key!r}")

    def peek(self, key: str) -> object:
        return self._left.get(key)

    def __contains__(self, key: str) -> bool:
        return self.peek(key) is not None

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self._left)

    def at(self, key: str) -> str:
        if key.startswith("["):
            return self.path + key
        return f"{self.path}.{key}"

    def wrong(self, key: str, reason: str) -> None:
        self.faults.setdefault(self.at(key), reason)

    def end(self) -> None:
        names = sorted(set(self._taken))
        keys = ", ".join(names) or "none"
        for key in self._left:
            self.wrong(key, f"is not known here and would be ignored; known are: {keys}")

    def build(
        self, record: Callable[..., _Made], *, place: str = "", **fields: Any
    ) -> _Made | None:
        """Make a record of what was read since this mapping was begun.

        None if something of that was wrong.
        """
        if len(self.faults) > self._before:
            return None
        try:
            return record(**fields)
        except SloError as error:
            self.faults.setdefault(place or self.path, str(error))
            return None

    def pass_over(self, *keys: str) -> None:
        """Take keys that may belong here or not, as what would say so is wrong."""
        for key in keys:
            self.raw(key)

    def raw(self, key: str) -> object:
        self._taken.append(key)
        return self._left.pop(key, None)

    def take(
        self, key: str, expected: str, fits: Callable[[Any], object], *, default: object = None
    ) -> Any:
        """Take what fits, or the default if there is nothing.

        None, and a fault that says what it must be, if not.
        """
        value = self.raw(key)
        if value is None and default is not None:
            return default
        if fits(value):
            return value
        actual = "and is missing" if value is None else f"not {_name(value)}"
        self.wrong(key, f"must be {expected}, {actual}")
        return None

    def text(self, key: str, default: str | None = None) -> str:
        """Take a text, or the default if there is none.

        Without a default it must be there, and not be empty.
        """

        def fits(value: object) -> bool:
            return isinstance(value, str) and (value != "" or default is not None)

        return self.take(key, "a text", fits, default=default) or ""

    def choice(self, key: str, *choices: str, default: str | None = None) -> str:
        """Take one of these texts, or the default if there is none; empty if it is neither."""
        expected = " or ".join(choices)
        choice: str | None = self.take(key, expected, choices.__contains__, default=default)
        return choice or ""

    def parsed(
        self, key: str, read: Callable[[str], _Made], default: str | None = None
    ) -> _Made | None:
        """Take a text that says something to `read`; None if it does not."""
        text = self.text(key, default)
        try:
            return read(text)
        except SloError as error:
            self.wrong(key, str(error))
            return None

    def seconds(self, key: str, default: str | None = None) -> int:
        """Take a duration, or the default if there is none; without a default it must be there."""
        return self.parsed(key, seconds, default) or 0

    def number(self, key: str) -> float:
        def fits(value: Any) -> bool:
            # A bool is an int to Python, not to people. A long int is none that a float could be.
            return type(value) in {int, float} and abs(value) <= _MOST

        return float(self.take(key, "a number", fits) or 0)

    def flag(self, key: str, *, default: bool) -> bool:
        """Take true or false, or the default if there is neither."""
        value = self.take(
            key, "true or false", lambda flag: isinstance(flag, bool), default=default
        )
        return value is not False

    def child(self, key: str, *, optional: bool = False, path: str = "") -> StrictMapping:
        """Take a mapping, or an empty one if it is optional and not there.

        It may be given a path to be called by.
        """
        value = self.raw(key)
        is_left_out = value is None and optional
        return StrictMapping({} if is_left_out else value, path or self.at(key), self.faults)

    def listed(self, key: str, *, optional: bool = False) -> StrictMapping:
        """Take a list, as a mapping whose keys are `[0]`, `[1]` and so on."""
        default: list[object] | None = [] if optional else None
        items: list[object] | None = self.take(
            key, "a list", lambda value: isinstance(value, list), default=default
        )
        by_place = {f"[{place}]": item for place, item in enumerate(items or [])}
        return StrictMapping(by_place, self.at(key), self.faults)

    def children(self, key: str, *, optional: bool = False) -> list[StrictMapping]:
        """Take a list of mappings."""
        items = self.listed(key, optional=optional)
        return [items.child(place) for place in items.keys]

    def only(self, key: str) -> StrictMapping:
        """Take a list that must have exactly one item, a mapping."""
        items = self.listed(key)
        if len(items.keys) != 1:
            self.wrong(key, f"must have exactly one item, not {len(items.keys)}")
        if not items.keys:
            return StrictMapping(None, self.at(key), self.faults)
        return items.child("[0]")


def _name(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool | int | float | str):
        return repr(value)
    return f"a {type(value).__name__}"


# What a file may hold.
KINDS = (
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
_MOST_CHARACTERS: Final = 1050  # Of a description, as OpenSLO v1 has it.


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of the file: its head, and what is still to be read of it."""

    kind: str  # One of `KINDS`; empty if it is not known.
    name: str  # What others call it.
    path: str  # Where it stands, for messages.
    title: str  # The name that people read.
    description: str  # For people, on one line; may be empty.
    labels: tuple[tuple[str, str], ...]  # Names and values.
    notes: StrictMapping  # Its annotations.
    spec: StrictMapping  # Its spec, without the description.
    node: StrictMapping  # All of it.

    def note(self, name: str, default: str | None = None) -> str:
        return self.notes.text(f"prometheus/{name}", default)

    def count(self, name: str) -> int:
        """Take an annotation of ours that is a whole number; 0 if it is not there."""
        key = f"prometheus/{name}"

        def fits(value: object) -> bool:
            return isinstance(value, str) and bool(_WHOLE.fullmatch(value))

        text = self.notes.take(key, "a whole number in quotes", fits, default="0")
        return int(text or 0)

    def build(self, record: Callable[..., _Made], **fields: Any) -> _Made | None:
        """Make a record of it, and refuse what is left over; None if anything of it is wrong."""
        self.notes.end()
        self.spec.end()
        return self.node.build(record, place=self.path, **fields)


def read_entry(node: StrictMapping, kind: str = "") -> Entry:
    """Read the head of an object; one that stands inside another has its kind from there."""
    version = node.choice("apiVersion", _VERSION, default=_VERSION if kind else None)
    kinds = (kind,) if kind else KINDS
    stated_kind = node.choice("kind", *kinds, default=kind or None)
    meta = node.child("metadata")
    name = meta.text("name")
    title = f"{stated_kind} {name}".strip()
    place = f"{node.path} ({title})"
    notes = meta.child("annotations", optional=True, path=f"{place}: metadata.annotations")
    labels = meta.child("labels", optional=True, path=f"{place}: metadata.labels")
    if labels.keys and stated_kind and stated_kind not in _LABELLED:
        kinds_with_labels = " and ".join(_LABELLED)
        labels.wrong(labels.keys[0], f"would be ignored; only {kinds_with_labels} may have labels")
    texts = tuple((key, labels.text(key)) for key in labels.keys)
    display_name = _on_one_line(meta.text("displayName", name))
    spec = node.child("spec", path=f"{place}: spec")
    meta.end()
    node.end()
    description = _on_one_line(spec.text("description", ""))
    length = len(description)
    if length > _MOST_CHARACTERS:
        spec.wrong("description", f"has {length} characters, and {_MOST_CHARACTERS} are the most")
    return Entry(
        kind=stated_kind if version and name else "",
        name=name,
        path=place,
        title=display_name,
        description=description,
        labels=texts,
        notes=notes,
        spec=spec,
        node=node,
    )


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


class ObjectTable(Generic[_Made]):
    """The objects of one kind, and which of them are referenced."""

    def __init__(
        self,
        entries: Iterable[Entry],
        kind: str,
        make: Callable[[Entry], _Made | None],
        *,
        faults: Faults,
    ) -> None:
        self._kind = kind
        self._make = make
        self._faults = faults
        self._made: dict[str, _Made | None] = {}  # None for one that is wrong.
        self._unreferenced: dict[str, str] = {}
        for entry in entries:
            if entry.kind == kind and entry.name in self._made:
                faults.setdefault(entry.path, f"there is another {kind} of this name")
            elif entry.kind == kind:
                self._made[entry.name] = make(entry)
                self._unreferenced[entry.name] = entry.path
                faults.update(entry.node.faults)

    def __len__(self) -> int:
        return len(self._made)

    def records(self) -> tuple[_Made, ...]:
        """Return all that could be made."""
        return tuple(made for made in self._made.values() if made is not None)

    def find(self, value: _Made) -> bool:
        """Return whether one equals this, which is then referenced, or one that is wrong might."""
        names = [name for name, made in self._made.items() if made == value]
        for name in names[:1]:
            self._unreferenced.pop(name, None)
        return bool(names) or None in self._made.values()

    def named(self, node: StrictMapping, key: str) -> _Made | None:
        """Take a name, and return the object that has it; None if there is none, or it is wrong."""
        name = node.text(key)
        self._unreferenced.pop(name, None)
        if name not in self._made:
            names = ", ".join(self._made) or "none"
            node.wrong(key, f"there is no {self._kind} {name!r}; known are: {names}")
        elif self._made[name] is None:
            node.wrong(key, "")
        return self._made.get(name)

    def referenced_or_inline(self, node: StrictMapping, key: str) -> _Made | None:
        """Return what a mapping means.

        One of these by its name below a key, or one written right there.
        """
        if key not in node:
            return self._make(read_entry(node, self._kind))
        referenced = self.named(node, key)
        node.end()
        return referenced

    def end(self) -> None:
        for path in self._unreferenced.values():
            self._faults.setdefault(path, "nothing refers to it, so that it would be ignored")
