"""Render pages: the templates, what they may call, and the headers of HTML."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup
from starlette.responses import HTMLResponse

from ..principal import Principal
from .markdown import Markdown

__all__ = ["Pages", "mark_stale", "span"]

_RENDERS = "_markdown"  # Under this name a page has what renders its texts.
STATIC = Path(__file__).parent / "static"
_MAIN = b'<main id="main"><div class="wrap">'  # As base.html has it; what people type is escaped.


def span(length: timedelta) -> str:
    """Write a length in its two largest units, such as `1 h 05 min`."""
    minutes, seconds = divmod(max(0, int(length.total_seconds())), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min" if minutes else f"{seconds} s"


def mark_stale(page: bytes, at: datetime) -> bytes:
    """Put a line at the top of a rendered page that says when it was true, and why it is not newer."""
    line = (
        f'<p class="stale" role="status">As of <time datetime="{at:%Y-%m-%dT%H:%MZ}">{at:%H:%M} UTC</time>.'
        " The database is unreachable; nothing can be saved.</p>"
    )
    return page.replace(_MAIN, _MAIN + line.encode(), 1)


@pass_context
def _markdown(context: Context, text: str) -> Markup:
    renders: Markdown = context[_RENDERS]
    return renders(text)


class Pages:
    """Renders templates with what every page shows.

    Args:
        version: The version shown at the foot.
    """

    def __init__(self, *, version: str) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._always = {"version": version, "here": ""}
        self._environment.filters.update(
            words=lambda value: str(value).replace("_", " ").capitalize(),
            markdown=cast("Any", _markdown),  # No type says what a filter may be.
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
        """Render one page. It is never stored by caches: it belongs to whoever asked."""
        text = self._environment.get_template(template).render(
            {**self._always, "principal": principal, _RENDERS: Markdown(), **context}
        )
        return HTMLResponse(text, status, {"cache-control": "no-store", **(headers or {})})
