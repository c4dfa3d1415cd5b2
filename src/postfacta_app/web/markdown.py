"""Markdown that people write, as HTML in which nothing of theirs is alive but links."""

from __future__ import annotations

import re
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markupsafe import Markup

__all__ = ["markdown"]

_FOLLOWED: Final = re.compile(r"(https?://|mailto:)", re.IGNORECASE)
_BELOW: Final = 2  # A text stands under the page's `h1` and a section's `h2`.
_LAST: Final = 6
_MARKS: Final = re.compile(r"[][*_~`|<&]")
_MOST_MARKS: Final = (
    2000  # The time grows with their square: 20,000 brackets took two seconds, these take 20 ms.
)


class _Writer(MarkdownIt):
    """CommonMark with tables, without HTML and images: those would be fetched from somewhere."""

    def __init__(self) -> None:
        super().__init__("js-default")
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


_WRITER: Final = _Writer()


def markdown(text: str) -> Markup:
    """Render Markdown. HTML in it is text, and its highest heading becomes an `h3`.

    What has more than 2,000 marks is shown as it was typed.
    """
    if len(_MARKS.findall(text)) > _MOST_MARKS:
        return Markup('<p class="prose">{}</p>').format(text)
    return Markup(_WRITER.render(text))  # noqa: S704 - all that was typed has been escaped
