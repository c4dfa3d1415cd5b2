"""Render pages, from templates with their filters, and JSON as version 0 has it."""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markupsafe import Markup
from starlette.responses import HTMLResponse, Response

from postfacta_core.guards.fallback import LastValues
from postfacta_web.stale import StaleAnswers

from ..errors import AppError
from .forms import masked

Context = Mapping[str, object]  # of a template
Headers = Mapping[str, str] | None
# The age in seconds up to which answers are given again while the database is unavailable.
MAX_STALE = 900.0
STATIC = Path(__file__).parent / "static"
# Of the assets that this process has, in their addresses.
ASSETS_VERSION: Final = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted(STATIC.iterdir()))
).hexdigest()[:12]
_SPECIAL: Final = str.maketrans({char: f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"})
_MAIN = b'<main id="main"><div class="wrap">'  # As in base.html; user input is escaped.


def encode(value: object) -> bytes:
    """Serialize JSON as the original does: compact, and safe inside HTML."""
    # In JSON these characters only occur in strings.
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(_SPECIAL)
    return text.encode("utf-8", "replace")


def encoded(value: object, status: int = 200, headers: Headers = None) -> Response:
    return Response(encode(value), status, headers, "application/json; charset=utf-8")


def span(length: float) -> str:
    """Format a duration of seconds in its two largest units, such as `1 h 05 min`."""
    minutes, seconds = divmod(max(0, int(length)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min" if minutes else f"{seconds} s"


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def mark_stale(page: bytes, at: datetime) -> bytes:
    """Insert a line at the top of a rendered page that says how old it is, and why."""
    line = (
        f'<p class="stale" role="status">As of <time datetime="{at:%Y-%m-%dT%H:%MZ}">{at:%H:%M}'
        " UTC</time>. The database is unavailable; nothing can be saved.</p>"
    )
    return page.replace(_MAIN, _MAIN + line.encode(), 1)


# Gives earlier answers again while the database of a name is unavailable.
stale_answers: Final = partial(
    StaleAnswers,
    detail="database-unavailable",
    refusals=AppError,
    mark=mark_stale,
    max_age=MAX_STALE,
)


TEMPLATES: Final = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters.update(
    words=lambda value: str(value).replace("_", " ").capitalize(),
    iso=datetime.isoformat,
    day=lambda at: f"{at:%Y-%m-%d}",
    clock=lambda at: f"{at:%H:%M:%S}",
    span=span,
    sentence=sentence,
)


class Pages:
    """Renders templates with the common context; the version is shown at the foot."""

    def __init__(self, *, version: str) -> None:
        self._always = {"version": version, "here": "", "principal": None, "assets": ASSETS_VERSION}

    def page(
        self, template: str, context: Context, *, status: int = 200, headers: Headers = None
    ) -> Response:
        csrf = getattr(context.get("principal"), "session_csrf", None)
        values = {
            **self._always,
            "markdown": Markdown(),
            "csrf_token": masked(csrf) if csrf else "",
            **context,
        }
        text = TEMPLATES.get_template(template).render(values)
        return HTMLResponse(text, status, {"cache-control": "no-store", **(headers or {})})


# Markdown, in which only links are active

_MARKS: Final = re.compile(r"[][*_~`|<&\n]")
_TEXT: Final = 2_000  # Marks and lines of one text, at most 45 ms.
_PAGE: Final = 5_000  # Of all texts on a page.
_AS_TYPED: Final = Markup(
    '<p class="prose">{}</p><p class="quiet-text">Shown as plain text: it has too much markup.</p>'
)


class _Writer(MarkdownIt):
    def validateLink(self, url: str) -> bool:  # noqa: N802 - the library's name
        """Return whether a link is http, https or mailto; others stay text."""
        return re.match(r"https?://|mailto:", url, re.IGNORECASE) is not None


def _tame(state: StateCore) -> None:
    for token in state.tokens:
        if token.type in {"heading_open", "heading_close"}:
            # Below the page's `h1` and a section's `h2`.
            token.tag = f"h{min(int(token.tag[1:]) + 2, 6)}"
        token.attrs.pop("style", None)  # Column alignment: the pages' policy forbids inline styles.
        for child in token.children or ():
            if child.type == "link_open":
                child.attrSet("rel", "noopener nofollow")


# CommonMark with tables, without HTML and images, which could load remote content.
_WRITER: Final = _Writer("js-default", {"maxNesting": 20}).disable("image")
_WRITER.core.ruler.push("tame", _tame)
_RENDERED: Final = LastValues[Markup](math.inf, 100_000, 16 * 2**20)
_LOCK: Final = threading.Lock()  # Pages are rendered in several threads.


class Markdown:
    """Renders the texts of one page. HTML is escaped, and the highest heading becomes an `h3`.

    A text with more than 2,000 marks and lines, and any after 5,000 on a page, is shown as plain
    text with a note: the time grows with them. Results are cached by text: revisions never change,
    and successive ones share most texts.
    """

    def __init__(self) -> None:
        self._left = _PAGE

    def __call__(self, text: str) -> Markup:
        marks = len(_MARKS.findall(text))
        if marks > min(_TEXT, self._left):
            return _AS_TYPED.format(text)
        self._left -= marks
        key = hashlib.sha256(text.encode()).digest()
        with _LOCK:
            if rendered := _RENDERED.find(key, 0.0):
                return rendered[0]
            html = Markup(_WRITER.render(text))  # noqa: S704 - all input has been escaped
            _RENDERED.keep(key, html, 0.0, _RENDERED.generation, len(html))
        return html
