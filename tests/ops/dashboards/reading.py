"""Reads the dashboards that are committed, and takes their queries apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import promql_parser as promql

__all__ = ["BOARDS", "ROOT", "Asked", "Seen", "asked", "filled", "panels", "seen"]

ROOT = Path(__file__).parent.parent.parent.parent
_FILES = [
    json.loads(file.read_text())
    for file in sorted((ROOT / "deploy/grafana/dashboards").glob("*.gen.json"))
]
BOARDS: Mapping[str, dict[str, Any]] = {board["uid"]: board for board in _FILES}

# What Grafana puts in the place of its variables; two minutes are more than four of the longest
# scrape interval here.
_GIVEN = {
    "$__rate_interval": "1m",
    "$__range": "2m",
    "$job": "postfacta",
    "$instance": ".*",
    "$service": "postfacta",
    "$traffic": "user",
    "$postgres": "postgres",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One query of a dashboard.

    Attributes:
        board: The dashboard's `uid`.
        panel: The panel's title; that of an annotation begins with `@`.
        ref: Which query of the panel.
        expr: As it stands there.
        row: The heading that the panel stands under.
    """

    board: str
    panel: str
    ref: str
    expr: str
    row: str = ""

    def __str__(self) -> str:
        return f"{self.board}/{self.row}/{self.panel}/{self.ref}"


@dataclass(frozen=True, slots=True)
class Seen:
    """A metric that a query selects.

    Attributes:
        metric: Its name.
        matchers: As text.
        functions: What stands around it, the nearest last.
        is_range: Whether it is a range.
    """

    metric: str
    matchers: str
    functions: Sequence[str]
    is_range: bool


def panels(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the panels that draw something."""
    return [
        panel for panel in cast("list[dict[str, Any]]", board["panels"]) if panel["type"] != "row"
    ]


def asked(boards: Mapping[str, dict[str, Any]] = BOARDS) -> list[Asked]:
    """List every query, those of the annotations too."""
    return [one for board in boards.values() for one in _of(board)]


def _of(board: Mapping[str, Any]) -> Iterator[Asked]:
    row = ""
    for panel in board["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
            continue
        for target in panel["targets"]:
            yield Asked(board["uid"], panel["title"], target["refId"], target["expr"], row)
    for event in board["annotations"]["list"]:
        yield Asked(board["uid"], f"@{event['name']}", "A", event["expr"])


def filled(expr: str, **given: str) -> str:
    """Put something in the place of each variable."""
    for name, value in (_GIVEN | {f"${key}": value for key, value in given.items()}).items():
        expr = expr.replace(name, value)
    return expr


def seen(expr: str) -> list[Seen]:
    """List the metrics that a query selects.

    Raises:
        ValueError: It is no PromQL.
    """
    found: list[Seen] = []
    _walk(promql.parse(filled(expr)), (), found.append)
    return found


def _walk(node: object, functions: tuple[str, ...], tell: Callable[[Seen], None]) -> None:
    match node:
        case promql.VectorSelector():
            tell(Seen(str(node.name), str(node.matchers), functions, is_range=False))
        case promql.MatrixSelector():
            one = node.vector_selector
            tell(Seen(str(one.name), str(one.matchers), functions, is_range=True))
        case promql.Call():
            for argument in node.args:
                _walk(argument, (*functions, node.func.name), tell)
        case _:
            for part in _parts(node):
                _walk(part, functions, tell)


def _parts(node: object) -> tuple[object, ...]:
    match node:
        case promql.BinaryExpr():
            return node.lhs, node.rhs
        case (
            promql.AggregateExpr() | promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr()
        ):
            return (node.expr,)
        case promql.NumberLiteral() | promql.StringLiteral():
            return ()
        case _:
            raise TypeError(f"a node of the query that is not looked into: {node!r}")
