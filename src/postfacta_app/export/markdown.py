"""Render an incident as Markdown in which user input is inert.

Single lines of plain text are escaped. Markdown input keeps its formatting, but no HTML, no images and no links
except to http, https or mailto; it is placed in a quote or list item, so constructs it leaves open end there.
The template gets the escaped form unless it asks for the other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..timeline.model import Entry, format_micros
from .model import Document


class _Inert(str):
    """Text that is already safe."""

    __slots__ = ()


_ACTIVE: Final = re.compile(r"[\\`*_\[\]~|]")
# A backslash and what it escapes, or what must become inert: images become links; other links, text.
_LIVE: Final = re.compile(r"\\.|<|!(?=\[)|\](?=\s*\((?!(?:https?://|mailto:)))|\](?=\s*:)", re.DOTALL)
_BREAK: Final = re.compile(r"\r\n?|\n")


def plain(text: object) -> str:
    if isinstance(text, _Inert):
        return text
    line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return _Inert(_ACTIVE.sub(r"\\\g<0>", line))


def quote(markdown: str) -> str:
    return _Inert("> " + "\n> ".join(_lines(markdown))) if markdown.strip() else _Inert("Nothing recorded.")


def item(markdown: str) -> str:
    # A list item that begins with two blank lines would end there.
    return _Inert("- " + "\n  ".join(_lines(markdown.strip())))


def _lines(markdown: str) -> list[str]:
    return _BREAK.split(_LIVE.sub(_still, markdown))


def _still(found: re.Match[str]) -> str:
    # An entity, since not every dialect escapes it with a backslash.
    if found[0] in {"<", "\\<"}:
        return "&lt;"
    return found[0] if found[0].startswith("\\") else f"\\{found[0]}"


def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # noqa: S701 - not HTML; `finalize` escapes
        finalize=plain,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(quote=quote, item=item, url=lambda address: _Inert(f"<{address}>"))
    return environment


_TEMPLATE: Final = _templates().get_template("incident.md")


_ENTRIES: Final = _Inert("\0\n")  # No text contains U+0000.


def frame(document: Document) -> tuple[bytes, bytes]:
    """Render the document in UTF-8: what comes before the entries of its timeline, and after them."""
    text = _TEMPLATE.render(document.model_dump(mode="json"), entries=_ENTRIES)
    before, _, after = text.partition(_ENTRIES + "\n")
    return before.encode(), after.encode()


def entry_lines(entries: Sequence[Entry]) -> bytes:
    return "".join(
        f"- {format_micros(it.t)} ({it.p}), {plain(it.source)}, {plain(it.kind)}: {plain(it.title)}\n"
        for it in entries
    ).encode()
