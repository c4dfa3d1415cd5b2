"""Reads the table of the game day.

Which fault must fire which alerts, and which runbook it leads to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

__all__ = ["TABLE", "Pattern", "Row", "Table", "TableError", "alerts_of", "read_table"]

TABLE = Path(__file__).parent.parent / "gameday.yaml"
"""Where the rows stand."""

_ROW = {
    "id",
    "what",
    "fault",
    "expect",
    "allow",
    "runbook",
    "fast",
    "needs",
    "compress",
    "settings",
}


class TableError(Exception):
    """The table cannot be used; the text says which row, and what to change."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """Some alerts: those of a name that have these labels among theirs."""

    alert: str
    labels: tuple[tuple[str, str], ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether an alert with these labels is one of them."""
        return labels.get("alertname") == self.alert and all(
            labels.get(key) == value for key, value in self.labels
        )

    def __str__(self) -> str:
        inner = ", ".join(value for _, value in self.labels)
        return f"{self.alert} ({inner})" if inner else self.alert


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One fault.

    Attributes:
        name: Its id.
        what: What is done, in words.
        fault: What causes and mends it, a name of `chaos.gameday.faults`.
        expect: Each must fire, be sent, and be resolved after the repair.
        allow: What else may fire, since the fault is that as well. Everything else is noise.
        runbook: Where the first expected alert must lead to.
        fast: Whether the first page must fire within two minutes at production's pace.
        needs: What the machine must have, such as `root`.
        compress: Divides the waits by at least so much, where an alert waits for an hour.
        settings: Environment variables of the service, where its defences would hide the fault.
    """

    name: str
    what: str
    fault: str
    expect: tuple[Pattern, ...]
    allow: tuple[Pattern, ...] = ()
    runbook: str = ""
    fast: bool = False
    needs: tuple[str, ...] = ()
    compress: int = 1
    settings: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """All rows.

    Attributes:
        rows: In the order of the day.
        not_caused: Alerts that no row causes, and why not.
    """

    rows: tuple[Row, ...]
    not_caused: Mapping[str, str]

    def choose(self, names: Sequence[str]) -> tuple[Row, ...]:
        """Return the rows of these ids; all without any.

        Raises:
            TableError: One is not known.
        """
        known = {row.name: row for row in self.rows}
        if strangers := [name for name in names if name not in known]:
            raise TableError(f"no row is called {strangers[0]!r}: there are {', '.join(known)}")
        return tuple(known[name] for name in names) if names else self.rows


def read_table(path: Path = TABLE) -> Table:
    """Read it.

    Raises:
        TableError: It makes no sense.
    """
    document = cast("Mapping[str, Any]", yaml.safe_load(path.read_text()))
    rows = tuple(_row(number, one) for number, one in enumerate(document["rows"], 1))
    names = [row.name for row in rows]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise TableError(f"{path.name}: two rows are called {doubled[0]!r}")
    return Table(rows, dict(document.get("not_caused", {})))


def _row(number: int, one: Mapping[str, Any]) -> Row:
    name = str(one.get("id", f"number {number}"))
    if strangers := sorted(set(one) - _ROW):
        raise TableError(
            f"row {name}: unknown key {strangers[0]!r}; known are {', '.join(sorted(_ROW))}"
        )
    if missing := sorted({"id", "what", "fault", "expect", "runbook"} - set(one)):
        raise TableError(f"row {name}: {missing[0]!r} is missing")
    if not one["expect"]:
        raise TableError(f"row {name}: a fault without an alert has no place here")
    return Row(
        name=name,
        what=str(one["what"]),
        fault=str(one["fault"]),
        expect=tuple(_pattern(name, it) for it in one["expect"]),
        allow=tuple(_pattern(name, it) for it in one.get("allow", ())),
        runbook=str(one["runbook"]),
        fast=bool(one.get("fast", False)),
        needs=tuple(one.get("needs", ())),
        compress=int(one.get("compress", 1)),
        settings=tuple((str(key), str(value)) for key, value in one.get("settings", {}).items()),
    )


def _pattern(row: str, one: object) -> Pattern:
    if isinstance(one, str):
        return Pattern(one)
    if not isinstance(one, Mapping) or "alert" not in one:
        raise TableError(
            f"row {row}: {one!r} names no alert; write a name, or {{alert: name, label: value}}"
        )
    labels = cast("Mapping[str, str]", one)
    return Pattern(
        labels["alert"], tuple((key, value) for key, value in labels.items() if key != "alert")
    )


def alerts_of(rules: Sequence[Path]) -> frozenset[str]:
    """List the names of all alerts in some files of rules."""
    documents = [cast("Mapping[str, Any]", yaml.safe_load(path.read_text())) for path in rules]
    return frozenset(
        rule["alert"]
        for document in documents
        for group in document["groups"]
        for rule in group["rules"]
        if "alert" in rule
    )
