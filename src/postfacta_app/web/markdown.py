"""Markdown that people write, as HTML in which nothing of theirs is alive but links.

The time grows with the marks and lines, and with how deep they are nested: so all are bounded, for a text and for a page. What was
rendered is kept by its text: a revision never changes, and the next one has most texts in common with it.
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

__all__ = ["Kept", "Markdown"]

_FOLLOWED: Final = re.compile(r"(https?://|mailto:)", re.IGNORECASE)
_BELOW: Final = 2  # A text stands under the page's `h1` and a section's `h2`.
_LAST: Final = 6
_MARKS: Final = re.compile(r"[][*_~`|<&\n]")
_TEXT: Final = 2_000  # Marks and lines of a text that is rendered, which take 45 ms at most.
_PAGE: Final = 5_000  # Of all texts of a page.
_NESTED: Final = 20
_AS_TYPED: Final = Markup(
    '<p class="prose">{}</p><p class="quiet-text">Shown as it was typed: it has too many marks.</p>'
)
_KEPT_BYTES: Final = 16 * 2**20


class _Writer(MarkdownIt):
    """CommonMark with tables, without HTML and images: those would be fetched from somewhere."""

    def __init__(self) -> None:
        super().__init__("js-default", {"maxNesting": _NESTED})
        self.disable("image")
        self.core.ruler.push("tame", _tame)

    def validateLink(self, url: str) -> bool:  # noqa: N802 - the library calls it so
        """Leave a link as text unless it leads to the web or to somebody's mailbox."""
        return _FOLLOWED.match(url) is not None


def _tame(state: StateCore) -> None:
    for token in state.tokens:
        if token.type in {"heading_open", "heading_close"}:
            token.tag = f"h{min(int(token.tag[1:]) + _BELOW, _LAST)}"
        token.attrs.pop("style", None)  # How a column is aligned; the policy of the pages forbids it.
        for child in token.children or ():
            if child.type == "link_open":
                child.attrSet("rel", "noopener nofollow")


class Kept:
    """What was rendered, by the hash of its text; what was not asked for longest goes first."""

    def __init__(self) -> None:
        self._html: OrderedDict[bytes, Markup] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._writer = _Writer()

    def render(self, text: str) -> Markup:
        """Render a text, or give what it was rendered to before."""
        key = hashlib.sha256(text.encode()).digest()
        with self._lock:  # Pages are drawn in several threads.
            html = self._html.pop(key, None)
            if html is None:
                html = Markup(self._writer.render(text))  # noqa: S704 - all that was typed has been escaped
                self._bytes += len(html)
            self._html[key] = html
            while self._bytes > _KEPT_BYTES:
                self._bytes -= len(self._html.popitem(last=False)[1])
        return html


_KEPT: Final = Kept()


class Markdown:
    """Renders the texts of one page. HTML in them is text, and their highest heading becomes an `h3`.

    A text of more than 2,000 marks and lines, and what comes after 5,000 of a page, is shown as it was typed, and says so.
    """

    def __init__(self) -> None:
        self._left = _PAGE

    def __call__(self, text: str) -> Markup:
        """Render a text."""
        marks = len(_MARKS.findall(text))
        if marks > min(_TEXT, self._left):
            return _AS_TYPED.format(text)
        self._left -= marks
        return _KEPT.render(text)
