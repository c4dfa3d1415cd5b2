"""Keep the objects of an OpenSLO file by kind: resolve references, refuse unreferenced objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from .promql import SloError
from .strict import Faults, StrictMapping

__all__ = ["KINDS", "Entry", "Registry", "Reported", "WhollyRead", "entry", "every"]

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
        """Take an annotation of ours."""
        return self.notes.text(f"prometheus/{name}", default)

    def count(self, name: str) -> int:
        """Take an annotation of ours that is a whole number; 0 if it is not there."""
        text = self.note(name, "0")
        if not (text.isascii() and text.isdecimal()):
            raise self.notes.refuse(f"prometheus/{name}", f"must be a whole number in quotes, not {text!r}")
        return int(text)

    def into(self, make: Callable[[Entry], _Made]) -> _Made:
        """Make a record of it, and refuse what the record left over."""
        faults = self.spec.faults
        before = len(faults) if faults is not None else 0
        try:
            made = make(self)
        except WhollyRead:
            self.notes.end()
            self.spec.end()
            raise
        except Reported:
            raise
        except SloError as error:
            if self.path not in str(error):
                # A record knows what is wrong with it, and not where it stands. One made of stand-ins is wrong anyway.
                if faults is not None and len(faults) > before:
                    raise Reported from error
                raise SloError(f"{self.path}: {error}") from error
            raise
        # An object that failed halfway has keys that were not read yet.
        self.notes.end()
        self.spec.end()
        if faults is not None and len(faults) > before:
            raise Reported
        return made


class Reported(SloError):  # noqa: N818 - it is no error of its own
    """An object could not be made, for reasons that were recorded already."""


class WhollyRead(Reported):
    """The same, and all of it was looked at: what is left over is not known."""


def every(faults: Faults | None, *parts: Callable[[], Any]) -> list[Any]:
    """Make all parts of an object, so that one that is wrong does not hide what is wrong with the next."""
    made: list[Any] = []
    for part in parts:
        try:
            made.append(part())
        except SloError as error:
            if faults is None:
                raise
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
        """Return all of them, in the file's order."""
        return tuple(self._made.values())

    @property
    def is_broken(self) -> bool:
        """Whether one of them could not be made."""
        return bool(self._broken)

    def get(self, name: str, path: str) -> _Made:
        """Return the one of this name; the path says who asks."""
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
        """Record what was not referenced."""
        for path in self._unasked.values():
            self._faults.add(SloError(f"{path}: nothing refers to it, so that it would be ignored"))
