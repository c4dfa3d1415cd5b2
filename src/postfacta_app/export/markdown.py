"""Write an incident as Markdown in which nothing that people typed can do anything.

What is one line of plain text is escaped. What people wrote as Markdown keeps its form, but no HTML, no image and no
link that leads anywhere but to http, https or mailto; and it stands in a quote or a list, where it ends with its own
last line, whatever it left open. The template gets only the first kind, unless it asks for the second.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .model import Document

__all__ = ["item", "plain", "quote", "to_markdown"]


class _Inert(str):
    """Text that has been made harmless."""

    __slots__ = ()


_ACTIVE: Final = re.compile(r"[\\`*_\[\]~|]")
# A backslash stands with what it escapes. An image becomes a link; a link or its definition, text.
_LIVE: Final = re.compile(r"\\.|<|!(?=\[)|\](?=\s*\((?!(?:https?://|mailto:)))|\](?=\s*:)", re.DOTALL)
_BREAK: Final = re.compile(r"\r\n?|\n")


def plain(text: object) -> str:
    """Write a value as one line of plain text."""
    if isinstance(text, _Inert):
        return text
    line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return _Inert(_ACTIVE.sub(r"\\\g<0>", line))


def quote(markdown: str) -> str:
    """Write what people wrote as Markdown, as a quote; say so if it is nothing."""
    return (
        _Inert("> " + "\n> ".join(_lines(markdown)))
        if markdown.strip()
        else _Inert("Nothing is written down.")
    )


def item(markdown: str) -> str:
    """Write what people wrote as Markdown, as an item of a list."""
    # An item that began with two blank lines would end there.
    return _Inert("- " + "\n  ".join(_lines(markdown.strip())))


def _lines(markdown: str) -> list[str]:
    return _BREAK.split(_LIVE.sub(_still, markdown))


def _still(found: re.Match[str]) -> str:
    # An entity, since not every dialect lets a backslash escape it.
    if found[0] in {"<", "\\<"}:
        return "&lt;"
    return found[0] if found[0].startswith("\\") else f"\\{found[0]}"


def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # noqa: S701 - this is no HTML, and `finalize` escapes it
        finalize=plain,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(quote=quote, item=item, url=lambda address: _Inert(f"<{address}>"))
    return environment


_TEMPLATE: Final = _templates().get_template("incident.md")


def to_markdown(document: Document) -> bytes:
    """Write all of it for readers, in UTF-8."""
    return _TEMPLATE.render(document.model_dump(mode="json")).encode()
