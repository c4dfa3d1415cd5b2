"""The questions of the readiness review, and what answers each.

Read from `checks.yaml` and `waivers.yaml`, strictly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from datetime import date
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import yaml

__all__ = [
    "Absent",
    "Command",
    "Proof",
    "Report",
    "Row",
    "Suite",
    "TableError",
    "Tier",
    "Waiver",
    "read_rows",
    "read_waivers",
]

_HERE: Final = Path(__file__).parent
_T = TypeVar("_T")


class TableError(ValueError):
    """A row or a waiver cannot be used; the text names it."""


class Tier(IntEnum):
    """When a row must be answered: a tier includes those before it."""

    FAST = 1
    FULL = 2
    MANUAL = 3


@dataclass(frozen=True, slots=True)
class Suite:
    """Answered by tests that pass, each of them: files, or functions of them."""

    names: tuple[str, ...]

    @property
    def shown(self) -> str:
        """What to run by hand."""
        return f"pytest -m '' {' '.join(self.names)}"


@dataclass(frozen=True, slots=True)
class Command:
    """Answered by a command that ends with 0; 77 is not run.

    With `lines`, by those of what it prints.
    """

    run: str
    lines: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """What to run by hand."""
        return self.run


@dataclass(frozen=True, slots=True)
class Report:
    """Answered by the dated report of a run that takes too long, which `renew` does again.

    Attributes:
        page: Where it stands.
        renew: The command that writes it.
        holds: Patterns that must be found in it.
        lacks: Patterns that must not.
        days: How old it may be; older, it tells nothing.
        dated: The pattern of its date.
    """

    page: str
    renew: str
    holds: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    days: int = 90
    dated: str = r"[Mm]easured on (\d{4}-\d\d-\d\d)"

    @property
    def shown(self) -> str:
        """What to run by hand."""
        return self.renew


@dataclass(frozen=True, slots=True)
class Absent:
    """Not answered, and why."""

    why: str

    @property
    def shown(self) -> str:
        """What to run by hand."""
        return ""


Proof = Suite | Command | Report | Absent


@dataclass(frozen=True, slots=True)
class Row:
    """One question, with all that must hold for a yes."""

    id: str
    question: str
    tier: Tier
    proofs: tuple[Proof, ...]


@dataclass(frozen=True, slots=True)
class Waiver:
    """A row that is accepted as it is until a day, and that day included."""

    row: str
    reason: str
    owner: str
    until: date


def read_rows(file: Path = _HERE / "checks.yaml") -> list[Row]:
    """Read the questions, in their order.

    Raises:
        TableError: One cannot be used.
    """
    return [
        _row(name, _mapping(f"{name}", given))
        for name, given in _mapping("checks", _load(file)).items()
    ]


def read_waivers(file: Path = _HERE / "waivers.yaml", *, rows: Sequence[Row]) -> list[Waiver]:
    """Read the waivers of rows.

    Raises:
        TableError: One cannot be used, or is of no row.
    """
    known = {row.id for row in rows}
    waivers = [
        _made(Waiver, f"waiver {number}", given)
        for number, given in enumerate(_load(file) or [], 1)
    ]
    for waiver in waivers:
        if waiver.row not in known:
            raise TableError(f"a waiver is of {waiver.row}, which is no row")
    return waivers


def _load(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise TableError(f"{file.name}: {error}") from None


def _row(name: str, given: Mapping[str, Any]) -> Row:
    rest = dict(given)
    question = rest.pop("question", None)
    tier = rest.pop("tier", "fast")
    if not isinstance(question, str) or not question.endswith("?"):
        raise TableError(f"{name}: its question is a text that ends with a question mark")
    if tier not in {one.name.lower() for one in Tier}:
        raise TableError(f"{name}: its tier is fast, full or manual")
    proofs = [_proof(name, kind, value) for kind, value in rest.items()]
    if not proofs:
        raise TableError(f"{name}: nothing answers it")
    return Row(name, question, Tier[tier.upper()], tuple(proofs))


def _proof(name: str, kind: str, value: Any) -> Proof:
    match kind, value:
        case "tests", [_, *_]:
            return Suite(tuple(map(str, value)))
        case "command", str():
            return Command(value)
        case "command", dict():
            return _made(Command, name, value)
        case "report", dict():
            return _made(Report, name, value)
        case "absent", str():
            return Absent(value)
        case _:
            raise TableError(f"{name}: {kind} cannot be used")


def _made(kind: Callable[..., _T], name: str, given: Any) -> _T:
    """Make a record of a mapping that has its fields alone, each filled, and lists as tuples."""
    known = {field.name: field.default is MISSING for field in fields(cast("Any", kind))}
    values = {key: _tuple(value) for key, value in _mapping(name, given).items()}
    if strange := sorted(values.keys() - known.keys()):
        raise TableError(f"{name}: there is no {strange[0]}")
    if missing := [key for key, is_needed in known.items() if is_needed and not values.get(key)]:
        raise TableError(f"{name}: it lacks {missing[0]}")
    if "until" in known and type(values["until"]) is not date:
        raise TableError(f"{name}: until is a day, such as 2026-12-31")
    return kind(**values)


def _tuple(value: Any) -> Any:
    return (*value,) if isinstance(value, list) else value


def _mapping(name: str, given: Any) -> Mapping[str, Any]:
    if not isinstance(given, dict):
        raise TableError(f"{name}: it is no mapping")
    return cast("Mapping[str, Any]", given)
