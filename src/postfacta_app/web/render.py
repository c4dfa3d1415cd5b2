"""Render pages: templates, filters and HTML headers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup
from starlette.responses import HTMLResponse

from postfacta_adapters.stale import StaleAnswers
from postfacta_core.clock import MONOTONIC, WALL, Clock

from ..errors import AppError
from ..principal import Principal
from .body import if_none_match
from .markdown import Markdown

_RENDERS = "_markdown"  # The name of the Markdown renderer in a page's context.
MAX_STALE = 900.0  # The age in seconds up to which answers are given again while the database is unavailable.
STATIC = Path(__file__).parent / "static"
TEMPLATES = Path(__file__).parent / "templates"
_MAIN = b'<main id="main"><div class="wrap">'  # As in base.html; user input is escaped.


def span(length: timedelta) -> str:
    """Format a duration in its two largest units, such as `1 h 05 min`."""
    minutes, seconds = divmod(max(0, int(length.total_seconds())), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min" if minutes else f"{seconds} s"


def mark_stale(page: bytes, at: datetime) -> bytes:
    """Insert a line at the top of a rendered page that says how old it is, and why."""
    line = (
        f'<p class="stale" role="status">As of <time datetime="{at:%Y-%m-%dT%H:%MZ}">{at:%H:%M} UTC</time>.'
        " The database is unavailable; nothing can be saved.</p>"
    )
    return page.replace(_MAIN, _MAIN + line.encode(), 1)


def stale_answers(database: str, *, monotonic: Clock = MONOTONIC, wall: Clock = WALL) -> StaleAnswers:
    """Return what gives earlier answers again while the database of this name is unavailable."""
    return StaleAnswers(
        database, detail="database-unavailable", refusals=AppError, mark=mark_stale,
        is_current=if_none_match, max_age=MAX_STALE, monotonic=monotonic, wall=wall,
    )  # fmt: skip


@pass_context
def _markdown(context: Context, text: str) -> Markup:
    renders: Markdown = context[_RENDERS]
    return renders(text)


class Pages:
    """Renders templates with the common context; the version is shown at the foot."""

    def __init__(self, *, version: str) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._always = {"version": version, "here": ""}
        self._environment.filters.update(
            words=lambda value: str(value).replace("_", " ").capitalize(),
            markdown=cast("Any", _markdown),  # Filters are untyped.
            iso=datetime.isoformat,
            day=lambda at: f"{at:%Y-%m-%d}",
            clock=lambda at: f"{at:%H:%M:%S}",
            span=span,
        )

    def page(
        self,
        template: str,
        context: Mapping[str, object],
        *,
        principal: Principal | None = None,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> HTMLResponse:
        text = self._environment.get_template(template).render(
            {**self._always, "principal": principal, _RENDERS: Markdown(), **context}
        )
        return HTMLResponse(text, status, {"cache-control": "no-store", **(headers or {})})
