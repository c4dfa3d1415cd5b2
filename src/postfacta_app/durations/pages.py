"""The page `/insights`: frequency and durations of incidents."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from starlette.requests import Request

from ..aside import aside
from ..db import Reader
from ..incidents.model import IncidentFilters, Severity
from ..incidents.pages import asked, filter_form, tidied
from ..principal import Access
from ..web.charts import dot_plot, length, week_chart
from ..web.routes import RouteClass
from ..web.slices import Page
from ..web.stale import allow_stale
from .api import routes
from .model import Aggregate, Phase
from .postgres import PLOTTED, insights

__all__ = ["InsightQuery", "caption", "routes"]

_SEVERITIES = list(Severity)[::-1]


class InsightQuery(IncidentFilters, frozen=True):
    """Which incidents, and which of their phases."""

    phase: Phase = Phase.OPEN


@routes.page("/insights", Access.READ, kind=RouteClass.SEARCH, stale=True)
async def show(q: Reader, *, request: Request) -> Page | str:
    if (target := tidied(request)) is not None:
        return target
    query, errors = asked(request, InsightQuery)
    found = await insights(q, query, query.phase)
    if not found.is_private:
        allow_stale(request)

    def draw() -> Mapping[str, object]:
        of_phase = found.of_phase
        counted = [(at, severity) for at, severity, count in found.weeks for _ in range(count)]
        given = [(name, text) for name, text in request.query_params.multi_items() if name != "phase"]
        return {
            **filter_form(request, errors),
            "here": "insights",
            "weeks": week_chart(counted, _SEVERITIES),
            "plot": dot_plot(found.dots, of_phase.p50),
            "points": found.newest,
            "plotted": PLOTTED,
            "caption": caption(of_phase),
            "without": _without(of_phase),
            "of_phase": of_phase,
            "phase": query.phase,
            "phases": [(phase, f"/insights?{urlencode([*given, ('phase', phase)])}") for phase in Phase],
            "length": length,
            "has_kind": bool(query.kind),
        }

    size = 200 * (len(found.dots) + len(found.newest))
    return Page("insights.html", await aside(size, draw), status=400 if errors else 200, size=size)


def caption(phase: Aggregate) -> str:
    unknown = phase.n_missing + phase.n_pending + phase.n_imprecise
    return f"n = {phase.n_ok}, {unknown} unknown, {phase.n_invalid} contradictory"


def _without(phase: Aggregate) -> list[str]:
    reasons = {
        "still open": phase.n_pending,
        "without a recorded milestone": phase.n_missing,
        "shorter than the precision of their times": phase.n_imprecise,
        "ending before they begin": phase.n_invalid,
    }
    return [f"{count} {why}" for why, count in reasons.items() if count]
