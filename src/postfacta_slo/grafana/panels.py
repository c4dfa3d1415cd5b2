"""Write single Grafana panels as plain dictionaries, so that their diffs are readable.

A `Panel` has queries, and says what it shows. It does not know a metric by name: `dashboard.py` and `deploy/grafana`
do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

__all__ = ["COLUMNS", "SOURCE", "Kind", "Panel", "Query", "Step", "panel_json"]

COLUMNS: Final = 24  # How wide Grafana's grid is.

# The Prometheus that the reader chose.
SOURCE: Final[Mapping[str, str]] = {"type": "prometheus", "uid": "${datasource}"}

_REFS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


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
    queries: Sequence[Query]  # At least one, at most 26.
    kind: Kind = Kind.LINES  # How it draws.
    width: int = 8  # In columns, 1 to 24.
    height: int = 8  # In rows of the grid, some 30 pixels each.
    steps: Sequence[Step] = (Step("green"),)  # The colours; the first is the lowest.
    names: Mapping[int, str] = field(default_factory=dict[int, str])  # Words for numbers, such as 1 for `up`.
    links: Sequence[tuple[str, str]] = ()  # Where to read on, as title and address.
    stacked: bool = False  # Whether lines are piled up.
    bottom: float | None = 0  # Where the scale of lines begins; None where the lowest value is.
    top: float | None = None  # Where it ends.

    def __post_init__(self) -> None:
        for what, text in (("title", self.title), ("description", self.description), ("unit", self.unit)):
            if not text:
                raise ValueError(f"panel {self.title!r} has no {what}: say what it shows")
        if not 1 <= self.width <= COLUMNS or self.height < 1:
            raise ValueError(f"panel {self.title!r} is {self.width} wide: 1 to {COLUMNS} columns fit")
        if not 1 <= len(self.queries) <= len(_REFS):
            raise ValueError(f"panel {self.title!r} has {len(self.queries)} queries: 1 to {len(_REFS)} fit")


def panel_json(panel: Panel, number: int, *, at: tuple[int, int]) -> dict[str, Any]:
    """Return a panel in Grafana's format, with its number on the dashboard and its place as column and row."""
    is_lines = panel.kind is Kind.LINES
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "mappings": [
            {
                "type": "value",
                "options": {str(number): {"text": word} for number, word in panel.names.items()},
            }
        ]
        * bool(panel.names),
        "thresholds": {
            "mode": "absolute",
            "steps": [{"color": step.color, "value": step.value} for step in panel.steps],
        },
        "color": {"mode": "palette-classic" if is_lines else "thresholds"},
        "custom": _style(panel),
    }
    if is_lines and panel.bottom is not None:
        defaults["min"] = panel.bottom
    if panel.top is not None:
        defaults["max"] = panel.top
    heat = {"yAxis": {"unit": panel.unit, "axisPlacement": "left"}} if panel.kind is Kind.HEAT else {}
    return {
        "id": number,
        "type": panel.kind.value,
        "title": panel.title,
        "description": panel.description,
        "datasource": dict(SOURCE),
        "gridPos": {"h": panel.height, "w": panel.width, "x": at[0], "y": at[1]},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _OPTIONS[panel.kind] | heat,
        "links": [{"title": title, "url": url, "targetBlank": True} for title, url in panel.links],
        "targets": [_target(panel, ref, query) for ref, query in zip(_REFS, panel.queries, strict=False)],
        "transformations": _ONE_TABLE if panel.kind is Kind.TABLE else [],
    }


def _target(panel: Panel, ref: str, query: Query) -> dict[str, Any]:
    # A number or a table shows the present; Grafana would else ask for the whole span to draw its last point.
    present = panel.kind in {Kind.NUMBERS, Kind.TABLE}
    return {
        "refId": ref,
        "datasource": dict(SOURCE),
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
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5, "fill": "orange"},
        "yAxis": {},
        "rowsFrame": {"layout": "auto"},
        "legend": {"show": True},
        "tooltip": {"mode": "single", "yHistogram": False},
    },
    Kind.TABLE: {"showHeader": True, "cellHeight": "sm", "footer": {"show": False, "reducer": []}},
}
_HIDDEN: Final[dict[str, Any]] = {"excludeByName": {"Time": True}, "indexByName": {}, "renameByName": {}}
# Several queries become the columns of one table; when they were asked is no column.
_ONE_TABLE: Final[list[dict[str, Any]]] = [
    {"id": "merge", "options": {}},
    {"id": "organize", "options": _HIDDEN},
]
