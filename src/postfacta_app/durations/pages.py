"""The page `/insights`: frequency and durations of incidents."""

from __future__ import annotations

from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ..aside import aside
from ..errors import AppError, FieldError
from ..incidents.http import allow_stale_incidents
from ..incidents.model import Severity
from ..incidents.pages import filter_form, tidied
from ..incidents.query import IncidentFilters
from ..principal import Principal
from ..web.body import read_query
from ..web.charts import Point, dot_plot, length, week_chart
from ..web.render import Pages
from .http import EACH, Store, measure_all
from .model import Aggregate, Phase, aggregate

__all__ = ["InsightPage", "InsightQuery", "caption"]

_SEVERITIES = list(Severity)[::-1]


class InsightQuery(IncidentFilters):
    """Which incidents, and which of their phases."""

    phase: Phase = Phase.OPEN


class InsightPage:
    """GET /insights.

    Args:
        store: Where the facts of timelines are.
        pages: Renders templates.
    """

    def __init__(self, store: Store, pages: Pages) -> None:
        self._store = store
        self._pages = pages

    async def show(self, request: Request, principal: Principal) -> Response:
        """Show the charts of the incidents that match the filters of the list."""
        if (target := tidied(request)) is not None:
            return RedirectResponse(target, 303)
        errors: tuple[FieldError, ...] = ()
        try:
            query = read_query(request, InsightQuery, is_page=True)
        except AppError as refusal:
            errors, query = refusal.errors, InsightQuery.model_validate({})
        shown, measured = await measure_all(self._store, principal, query)
        allow_stale_incidents(request, shown)

        def draw() -> Response:
            of_phase = aggregate(measured).durations[query.phase]
            by_ref = {incident.ref: incident for incident in shown}
            points = [
                Point(it.incident, by_ref[it.incident].severity, by_ref[it.incident].declared_at, it.y)
                for it in of_phase.points
            ]
            given = [(name, text) for name, text in request.query_params.multi_items() if name != "phase"]
            context = {
                **filter_form(request, errors),
                "here": "insights",
                "weeks": week_chart([(it.declared_at, it.severity) for it in shown], _SEVERITIES),
                "plot": dot_plot(points, of_phase.p50),
                "points": points,
                "caption": caption(of_phase),
                "without": _without(of_phase),
                "of_phase": of_phase,
                "phase": query.phase,
                "phases": [(phase, f"/insights?{urlencode([*given, ('phase', phase)])}") for phase in Phase],
                "length": length,
                "has_kind": bool(query.kind),
            }
            return self._pages.page(
                "insights.html", context, principal=principal, status=400 if errors else 200
            )

        return await aside(len(shown) * EACH, draw)


def caption(phase: Aggregate) -> str:
    """Return the counts of plotted and unplotted incidents; each is counted once."""
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
