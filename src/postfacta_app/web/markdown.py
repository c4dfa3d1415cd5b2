"""Render Markdown input as HTML in which only links are active.

The time grows with marks, lines and nesting, so all are bounded, per text and per page. Results are
cached by text: revisions never change, and successive ones share most texts.
"""

from __future__ import annotations

import hashlib
import math
import re
import threading
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markupsafe import Markup

from postfacta_core.guards._kept import LastValues

_FOLLOWED: Final = re.compile(r"(https?://|mailto:)", re.IGNORECASE)
_BELOW: Final = 2  # A text is below the page's `h1` and a section's `h2`.
_LAST: Final = 6
_MARKS: Final = re.compile(r"[][*_~`|<&\n]")
_TEXT: Final = 2_000  # Marks and lines of one text, at most 45 ms.
_PAGE: Final = 5_000  # Of all texts on a page.
_NESTED: Final = 20
_AS_TYPED: Final = Markup(
    '<p class="prose">{}</p><p class="quiet-text">Shown as plain text: it has too much markup.</p>'
)


class _Writer(MarkdownIt):
    """CommonMark with tables, without HTML and images, which could load remote content."""

    def __init__(self) -> None:
        super().__init__("js-default", {"maxNesting": _NESTED})
        self.disable("image")
        self.core.ruler.push("tame", _tame)

    def validateLink(self, url: str) -> bool:  # noqa: N802 - the library's name
        """Return whether a link is http, https or mailto; others stay text."""
        return _FOLLOWED.match(url) is not None


def _tame(state: StateCore) -> None:
    for token in state.tokens:
        if token.type in {"heading_open", "heading_close"}:
            token.tag = f"h{min(int(token.tag[1:]) + _BELOW, _LAST)}"
        token.attrs.pop("style", None)  # Column alignment: the pages' policy forbids inline styles.
        for child in token.children or ():
            if child.type == "link_open":
                child.attrSet("rel", "noopener nofollow")


_WRITER: Final = _Writer()
_KEPT: Final = LastValues[Markup](math.inf, 100_000, 16 * 2**20)
_LOCK: Final = threading.Lock()  # Pages are rendered in several threads.


def _render(text: str) -> Markup:
    key = hashlib.sha256(text.encode()).digest()
    with _LOCK:
        if kept := _KEPT.find(key, 0.0):
            return kept[0]
        html = Markup(_WRITER.render(text))  # noqa: S704 - all input has been escaped
        _KEPT.keep(key, html, 0.0, _KEPT.generation, len(html))
    return html


class Markdown:
    """Renders the texts of one page. HTML is escaped, and the highest heading becomes an `h3`.

    A text with more than 2,000 marks and lines, and any after 5,000 on a page, is shown as plain text with a note.
    """

    def __init__(self) -> None:
        self._left = _PAGE

    def __call__(self, text: str) -> Markup:
        marks = len(_MARKS.findall(text))
        if marks > min(_TEXT, self._left):
            return _AS_TYPED.format(text)
        self._left -= marks
        return _render(text)
