"""Compose panels into a Grafana dashboard, as plain dictionaries, so that their diffs are readable.

A `Board` has rows, a `Row` has panels, a `Panel` has queries, and says what it shows; none knows a
metric by name. `render` places the panels from left to right in Grafana's 24 columns, numbers them,
and fills in what Grafana requires. The same board gives the same dictionary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from itertools import product
from string import ascii_uppercase
from typing import Any, Final

_COLUMNS: Final = 24  # How wide Grafana's grid is.

# The Prometheus that the reader chose.
_SOURCE: Final[Mapping[str, str]] = {"type": "prometheus", "uid": "${datasource}"}

# What Grafana calls the queries of a panel: A to Z, then AA and so on.
_REFS: Final = [*ascii_uppercase, *map("".join, product(ascii_uppercase, repeat=2))]


class Kind(StrEnum):
    """How a panel draws."""

    LINES = "timeseries"
    NUMBERS = "stat"
    STATES = "state-timeline"
    HEAT = "heatmap"
    TABLE = "table"


@dataclass(frozen=True, slots=True)
class Query:
    """A query to Prometheus."""

    expr: str  # In PromQL, with Grafana's variables.
    legend: str = ""  # What each series is called, such as `{{route}}`.
    exemplars: bool = False  # Whether the traces of single observations are drawn too.


@dataclass(frozen=True, slots=True)
class Step:
    """From a value on, what is drawn has another colour."""

    color: str  # A colour that Grafana knows.
    value: float | None = None  # Where it begins; None for the lowest.


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One picture."""

    title: str  # What it shows.
    description: str  # What it means, and when to worry.
    unit: str  # An id of Grafana's, such as `s`, `reqps`, `percentunit` or `short`.
    queries: Sequence[Query]  # At least one.
    kind: Kind = Kind.LINES  # How it draws.
    width: int = 8  # In columns, 1 to 24.
    height: int = 8  # In rows of the grid, some 30 pixels each.
    steps: Sequence[Step] = (Step("green"),)  # The colours; the first is the lowest.
    # Words for numbers, such as 1 for `up`.
    names: Mapping[int, str] = field(default_factory=dict[int, str])
    links: Sequence[tuple[str, str]] = ()  # Where to read on, as title and address.
    stacked: bool = False  # Whether lines are piled up.
    bottom: float | None = 0  # Where the scale of lines begins; None where the lowest value is.
    top: float | None = None  # Where it ends.


def panel_json(panel: Panel, number: int, *, at: tuple[int, int]) -> dict[str, Any]:
    """Return a panel in Grafana's format, with its number and its place as column and row."""
    is_lines = panel.kind is Kind.LINES
    names = {str(value): {"text": word} for value, word in panel.names.items()}
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "mappings": [{"type": "value", "options": names}] if names else [],
        "thresholds": {"mode": "absolute", "steps": [asdict(step) for step in panel.steps]},
        "color": {"mode": "palette-classic" if is_lines else "thresholds"},
        "custom": _style(panel),
    }
    if is_lines and panel.bottom is not None:
        defaults["min"] = panel.bottom
    if panel.top is not None:
        defaults["max"] = panel.top
    options = dict(_OPTIONS[panel.kind])
    if panel.kind is Kind.HEAT:
        options["yAxis"] = {"unit": panel.unit, "axisPlacement": "left"}
    x, y = at
    return {
        "id": number,
        "type": panel.kind.value,
        "title": panel.title,
        "description": panel.description,
        "datasource": dict(_SOURCE),
        "gridPos": {"h": panel.height, "w": panel.width, "x": x, "y": y},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "links": [{"title": title, "url": url, "targetBlank": True} for title, url in panel.links],
        "targets": [
            _target(panel, ref, query) for ref, query in zip(_REFS, panel.queries, strict=False)
        ],
        "transformations": _ONE_TABLE if panel.kind is Kind.TABLE else [],
    }


def _target(panel: Panel, ref: str, query: Query) -> dict[str, Any]:
    # A number or a table shows the present; Grafana would else ask for the whole span to draw its
    # last point.
    present = panel.kind in {Kind.NUMBERS, Kind.TABLE}
    return {
        "refId": ref,
        "datasource": dict(_SOURCE),
        "editorMode": "code",
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "instant": present,
        "range": not present,
        "exemplar": query.exemplars,
        "format": {Kind.HEAT: "heatmap", Kind.TABLE: "table"}.get(panel.kind, "time_series"),
    }


def _style(panel: Panel) -> dict[str, Any]:
    if panel.kind is Kind.STATES:
        return {"fillOpacity": 70, "lineWidth": 0}
    if panel.kind is not Kind.LINES:
        return {}
    return {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 25 if panel.stacked else 0,
        "showPoints": "never",
        "spanNulls": False,  # A missing scrape is a gap, and no straight line over it.
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if len(panel.steps) > 1 else "off"},
    }


_LEGEND: Final = {"displayMode": "list", "placement": "bottom"}
_LAST: Final = {"calcs": ["lastNotNull"], "fields": "", "values": False}
_OPTIONS: Final[Mapping[Kind, dict[str, Any]]] = {
    Kind.LINES: {
        "legend": {**_LEGEND, "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    Kind.NUMBERS: {
        "reduceOptions": _LAST,
        "colorMode": "background",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "value_and_name",
        "wideLayout": True,
    },
    Kind.STATES: {
        "showValue": "auto",
        "mergeValues": True,
        "alignValue": "left",
        "rowHeight": 0.8,
        "legend": {**_LEGEND, "showLegend": False},
        "tooltip": {"mode": "single", "sort": "none"},
    },
    Kind.HEAT: {
        "calculate": False,
        "cellGap": 1,
        "color": {
            "mode": "scheme",
            "scheme": "Oranges",
            "steps": 64,
            "exponent": 0.5,
            "fill": "orange",
        },
        "yAxis": {},
        "rowsFrame": {"layout": "auto"},
        "legend": {"show": True},
        "tooltip": {"mode": "single", "yHistogram": False},
    },
    Kind.TABLE: {
        "showHeader": True,
        "cellHeight": "sm",
        "footer": {"show": False, "reducer": []},
    },
}
_HIDDEN: Final[dict[str, Any]] = {
    "excludeByName": {"Time": True},
    "indexByName": {},
    "renameByName": {},
}
# Several queries become the columns of one table; when they were asked is no column.
_ONE_TABLE: Final[list[dict[str, Any]]] = [
    {"id": "merge", "options": {}},
    {"id": "organize", "options": _HIDDEN},
]


# That of Grafana 10.4; newer ones bring a dashboard up to date when they load it.
_SCHEMA_VERSION: Final = 39

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
_CHOICE_OF_SOURCE: Final[dict[str, Any]] = {
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
    "datasource": dict(_SOURCE),
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
    """A variable at the top of the dashboard.

    The data source is always there and is none of these.
    """

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
        "schemaVersion": _SCHEMA_VERSION,
        "version": 1,
        "refresh": "30s",
        "timezone": "utc",
        "time": {"from": f"now-{board.span}", "to": "now"},
        "timepicker": {},
        "weekStart": "",
        "fiscalYearStartMonth": 0,
        "templating": {"list": [_CHOICE_OF_SOURCE, *map(_variable, board.variables)]},
        "annotations": {
            "list": [
                _EVENT | {"name": name, "expr": expr, "titleFormat": name}
                for name, expr in board.events
            ]
        },
        "links": [
            _LINK
            | {
                "type": "dashboards",
                "title": "Dashboards",
                "tags": [board.tags[0]],
                "asDropdown": True,
            },
            *(
                _LINK | {"type": "link", "title": title, "url": url, **_OUT}
                for title, url in board.links
            ),
        ],
        "panels": list(_place(board.rows)),
    }


def _place(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Yield the rows and panels, each numbered and placed in Grafana's grid."""
    number = 0
    y = 0
    for row in rows:
        number += 1
        place = {"h": 1, "w": _COLUMNS, "x": 0, "y": y}
        head = {"id": number, "type": "row", "title": row.title, "collapsed": False}
        yield head | {"gridPos": place, "panels": []}
        y += 1
        x = 0
        tallest = 0
        for panel in row.panels:
            if x + panel.width > _COLUMNS:
                x = 0
                y = y + tallest
                tallest = 0
            number += 1
            yield panel_json(panel, number, at=(x, y))
            x = x + panel.width
            tallest = max(tallest, panel.height)
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
            "datasource": dict(_SOURCE),
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
