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

COLUMNS: Final = 24
"""How wide Grafana's grid is."""

SOURCE: Final[Mapping[str, str]] = {"type": "prometheus", "uid": "${datasource}"}
"""The Prometheus that the reader chose."""

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
    """A query to Prometheus.

    Attributes:
        expr: In PromQL, with Grafana's variables.
        legend: What each series is called, such as `{{route}}`.
        exemplars: Whether the traces of single observations are drawn too.
    """

    expr: str
    legend: str = ""
    exemplars: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """From a value on, what is drawn has another colour.

    Attributes:
        color: A colour that Grafana knows.
        value: Where it begins; None for the lowest.
    """

    color: str
    value: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One picture.

    Attributes:
        title: What it shows.
        description: What it means, and when to worry.
        unit: An id of Grafana's, such as `s`, `reqps`, `percentunit` or `short`.
        queries: At least one, at most 26.
        kind: How it draws.
        width: In columns, 1 to 24.
        height: In rows of the grid, some 30 pixels each.
        steps: The colours; the first is the lowest.
        names: Words for numbers, such as 1 for `up`.
        links: Where to read on, as title and address.
        stacked: Whether lines are piled up.
        bottom: Where the scale of lines begins; None where the lowest value is.
        top: Where it ends.
    """

    title: str
    description: str
    unit: str
    queries: Sequence[Query]
    kind: Kind = Kind.LINES
    width: int = 8
    height: int = 8
    steps: Sequence[Step] = (Step("green"),)
    names: Mapping[int, str] = field(default_factory=dict[int, str])
    links: Sequence[tuple[str, str]] = ()
    stacked: bool = False
    bottom: float | None = 0
    top: float | None = None

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
    x, y = at
    steps = [{"color": step.color, "value": step.value} for step in panel.steps]
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "mappings": _mappings(panel.names),
        "thresholds": {"mode": "absolute", "steps": steps},
        "color": {"mode": "palette-classic" if panel.kind is Kind.LINES else "thresholds"},
        "custom": _custom(panel),
    }
    if panel.kind is Kind.LINES and panel.bottom is not None:
        defaults["min"] = panel.bottom
    if panel.top is not None:
        defaults["max"] = panel.top
    return {
        "id": number,
        "type": panel.kind.value,
        "title": panel.title,
        "description": panel.description,
        "datasource": dict(SOURCE),
        "gridPos": {"h": panel.height, "w": panel.width, "x": x, "y": y},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel),
        "links": [{"title": title, "url": url, "targetBlank": True} for title, url in panel.links],
        "targets": [_target(panel, ref, query) for ref, query in zip(_REFS, panel.queries, strict=False)],
        "transformations": _transformations(panel),
    }


def _target(panel: Panel, ref: str, query: Query) -> dict[str, Any]:
    # A number or a table shows the present; Grafana would else ask for the whole span to draw its last point.
    present = panel.kind in {Kind.NUMBERS, Kind.TABLE}
    shape = {Kind.HEAT: "heatmap", Kind.TABLE: "table"}.get(panel.kind, "time_series")
    return {
        "refId": ref,
        "datasource": dict(SOURCE),
        "editorMode": "code",
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "instant": present,
        "range": not present,
        "exemplar": query.exemplars,
        "format": shape,
    }


def _mappings(names: Mapping[int, str]) -> list[dict[str, Any]]:
    if not names:
        return []
    return [{"type": "value", "options": {str(number): {"text": word} for number, word in names.items()}}]


def _custom(panel: Panel) -> dict[str, Any]:
    match panel.kind:
        case Kind.LINES:
            # A missing scrape is a gap, and no straight line over it.
            stacking = {"mode": "normal" if panel.stacked else "none", "group": "A"}
            return {
                "drawStyle": "line",
                "lineWidth": 1,
                "fillOpacity": 25 if panel.stacked else 0,
                "showPoints": "never",
                "spanNulls": False,
                "stacking": stacking,
                "thresholdsStyle": {"mode": "dashed" if len(panel.steps) > 1 else "off"},
            }
        case Kind.STATES:
            return {"fillOpacity": 70, "lineWidth": 0}
        case _:
            return {}


def _options(panel: Panel) -> dict[str, Any]:
    last = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    match panel.kind:
        case Kind.LINES:
            return {
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }
        case Kind.NUMBERS:
            return {
                "reduceOptions": last,
                "colorMode": "background",
                "graphMode": "none",
                "justifyMode": "auto",
                "orientation": "auto",
                "textMode": "value_and_name",
                "wideLayout": True,
            }
        case Kind.STATES:
            return {
                "showValue": "auto",
                "mergeValues": True,
                "alignValue": "left",
                "rowHeight": 0.8,
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False},
                "tooltip": {"mode": "single", "sort": "none"},
            }
        case Kind.HEAT:
            return {
                "calculate": False,
                "cellGap": 1,
                "color": {
                    "mode": "scheme",
                    "scheme": "Oranges",
                    "steps": 64,
                    "exponent": 0.5,
                    "fill": "orange",
                },
                "yAxis": {"unit": panel.unit, "axisPlacement": "left"},
                "rowsFrame": {"layout": "auto"},
                "legend": {"show": True},
                "tooltip": {"mode": "single", "yHistogram": False},
            }
        case _:  # a table
            return {"showHeader": True, "cellHeight": "sm", "footer": {"show": False, "reducer": []}}


def _transformations(panel: Panel) -> list[dict[str, Any]]:
    if panel.kind is not Kind.TABLE:
        return []
    # Several queries become the columns of one table; when they were asked is no column.
    hidden = {"excludeByName": {"Time": True}, "indexByName": {}, "renameByName": {}}
    return [{"id": "merge", "options": {}}, {"id": "organize", "options": hidden}]
