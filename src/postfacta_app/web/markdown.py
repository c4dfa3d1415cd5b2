"""Render Markdown input as HTML in which only links are active.

The time grows with marks, lines and nesting, so all are bounded, per text and per page. Results are
cached by text: revisions never change, and successive ones share most texts.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markupsafe import Markup

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
_KEPT_BYTES: Final = 16 * 2**20


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


class Kept:
    """A least-recently-used cache of rendered texts, by hash."""

    def __init__(self) -> None:
        self._html: OrderedDict[bytes, Markup] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._writer = _Writer()

    def render(self, text: str) -> Markup:
        key = hashlib.sha256(text.encode()).digest()
        with self._lock:  # Pages are rendered in several threads.
            html = self._html.pop(key, None)
            if html is None:
                html = Markup(self._writer.render(text))  # noqa: S704 - all input has been escaped
                self._bytes += len(html)
            self._html[key] = html
            while self._bytes > _KEPT_BYTES:
                self._bytes -= len(self._html.popitem(last=False)[1])
        return html


_KEPT: Final = Kept()


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
        return _KEPT.render(text)
