"""Compose panels into a Grafana dashboard, with its variables.

A `Board` has rows, a `Row` has panels. `render` places the panels from left to right in Grafana's 24 columns, numbers
them, and fills in what Grafana requires. The same board gives the same dictionary.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .panels import COLUMNS, SOURCE, Panel, panel_json

__all__ = ["SCHEMA_VERSION", "Board", "Row", "Variable", "render"]

SCHEMA_VERSION: Final = 39  # That of Grafana 10.4; newer ones bring a dashboard up to date when they load it.

_UID: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")
# What Grafana asks for beside what is ours.
_LINK: Final[dict[str, Any]] = {
    "asDropdown": False,
    "icon": "external link",
    "includeVars": True,
    "keepTime": True,
    "tags": [],
    "targetBlank": False,
    "tooltip": "",
    "url": "",
}
_OUT: Final = {"targetBlank": True, "includeVars": False}
_SECTION: Final[dict[str, Any]] = {
    "id": 0,
    "type": "row",
    "title": "",
    "collapsed": False,
    "gridPos": {},
    "panels": [],
}
_SOURCE: Final[dict[str, Any]] = {
    "type": "datasource",
    "name": "datasource",
    "label": "Data source",
    "query": "prometheus",
    "current": {},
    "hide": 0,
    "includeAll": False,
    "multi": False,
    "options": [],
    "refresh": 1,
    "regex": "",
}
_EVENT: Final[dict[str, Any]] = {
    "name": "",
    "datasource": dict(SOURCE),
    "enable": True,
    "hide": False,
    "iconColor": "blue",
    "expr": "",
    "step": "60s",
    "titleFormat": "",
    "textFormat": "",
    "tagKeys": "version,revision,alertname,severity",
    "useValueForTime": False,
}


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading."""

    title: str  # The heading.
    panels: Sequence[Panel]  # At least one.


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A variable at the top of the dashboard; the data source is always there and is none of these."""

    name: str  # As queries spell it, without the `$`.
    label: str  # What it is called on the page.
    # Gives the choices in Grafana's words, such as `label_values(up, job)`; empty for a fixed list.
    query: str = ""
    choices: Sequence[str] = ()  # That list.
    default: str = ""  # What is chosen at first.
    several: bool = False  # Whether more than one may be chosen; then all are at first.


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One dashboard."""

    uid: str  # Its place in addresses; 1 to 40 letters, digits, `-` and `_`. It never changes.
    title: str  # What people call it.
    description: str  # What it answers.
    tags: Sequence[str]  # By the first of them it finds the dashboards of the same service.
    rows: Sequence[Row]  # From the top down.
    variables: Sequence[Variable] = ()  # What the reader chooses.
    links: Sequence[tuple[str, str]] = ()  # Other places, as title and address.
    # What is marked on each time axis, as a name and a query that holds while it happens.
    events: Sequence[tuple[str, str]] = ()
    span: str = "6h"  # How far back it looks at first.

    def __post_init__(self) -> None:
        if not _UID.fullmatch(self.uid):
            msg = f"uid {self.uid!r} is no name that Grafana takes: 1 to 40 letters, digits, '-' and '_'"
            raise ValueError(msg)
        if not self.tags:
            raise ValueError(f"dashboard {self.uid!r} has no tag: the first finds those of the same service")


def render(board: Board) -> dict[str, Any]:
    """Return a board in Grafana's file format."""
    return {
        "id": None,
        "uid": board.uid,
        "title": board.title,
        "description": board.description,
        "tags": list(board.tags),
        "editable": False,
        "graphTooltip": 1,  # The cross hair stands at the same moment in all panels.
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "refresh": "30s",
        "timezone": "utc",
        "time": {"from": f"now-{board.span}", "to": "now"},
        "timepicker": {},
        "weekStart": "",
        "fiscalYearStartMonth": 0,
        "templating": {"list": [_SOURCE, *map(_variable, board.variables)]},
        "annotations": {
            "list": [
                _EVENT | {"name": name, "expr": expr, "titleFormat": name} for name, expr in board.events
            ]
        },
        "links": [
            _LINK
            | {"type": "dashboards", "title": "Dashboards", "tags": [board.tags[0]], "asDropdown": True},
            *(_LINK | {"type": "link", "title": title, "url": url, **_OUT} for title, url in board.links),
        ],
        "panels": list(_place(board.rows)),
    }


def _place(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    number, y = 0, 0
    for row in rows:
        number += 1
        yield _SECTION | {"id": number, "title": row.title, "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y}}
        y += 1
        x, tallest = 0, 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            number += 1
            yield panel_json(panel, number, at=(x, y))
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest


def _variable(variable: Variable) -> dict[str, Any]:
    everything = {"text": ["All"], "value": ["$__all"]}
    chosen = {"text": variable.default, "value": variable.default} if variable.default else {}
    common: dict[str, Any] = {
        "name": variable.name,
        "label": variable.label,
        "current": everything if variable.several else chosen,
        "hide": 0,
        "includeAll": variable.several,
        "multi": variable.several,
        "allValue": ".*" if variable.several else None,
    }
    if variable.query:
        # Asked anew when the span changes: yesterday had other instances.
        return common | {
            "type": "query",
            "datasource": dict(SOURCE),
            "definition": variable.query,
            "query": {"query": variable.query, "refId": variable.name, "qryType": 1},
            "options": [],
            "refresh": 2,
            "regex": "",
            "sort": 1,
        }
    options = [
        {"text": choice, "value": choice, "selected": choice == variable.default}
        for choice in variable.choices
    ]
    return common | {"type": "custom", "query": ",".join(variable.choices), "options": options}
