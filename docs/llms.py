"""Write the documentation for language models: `llms.txt`, its pages, and `llms-full.txt`, their text.

The format of `llms.txt` is that of llmstxt.org: a title, a summary, and lists of links below
headings. The lists are those of the pages called `README.md`, which are the navigation of the site
too; the text of a page is filled from the code, as on the site.
"""

# ruff: noqa: INP001 - beside `generate.py`

from __future__ import annotations

import posixpath
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from docs.generate import ROOT, page_text

KINDS: Final = ("tutorial", "how-to", "explanation", "reference")
_ITEM: Final = re.compile(r"^\* \[([^\]]+)\]\(([\w./-]+\.md)\)(.*)$", re.MULTILINE)
_SECTION: Final = re.compile(r"^(?=## )", re.MULTILINE)
_TITLE: Final = re.compile(r"^##? (.+)$", re.MULTILINE)


def sections() -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """Yield each heading of the navigation with its pages: title, path and what is added to it."""
    for kind in KINDS:
        folder = f"docs/{kind}"
        page = (ROOT / folder / "README.md").read_text()
        of_all = _TITLE.findall(page)[0]
        for section in _SECTION.split(page):
            heading = _TITLE.findall(section)[0]
            items = [
                (title, posixpath.normpath(f"{folder}/{path}"), more)
                for title, path, more in _ITEM.findall(section)
            ]
            if items:
                yield (of_all if heading == of_all else f"{of_all}: {heading}"), items


def write(out: Path) -> None:
    """Write both files into the folder of the site."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [f"# PostFacta {project['version']}", f"> {project['description']}"]
    front = (
        "* [What it does, and how to begin](README.html)\n* [All text in one file](llms-full.txt)"
    )
    listed.append(front)
    text = [page_text("README.md")]
    for heading, items in sections():
        links = "\n".join(
            f"* [{title}]({path.removesuffix('.md')}.html){more}" for title, path, more in items
        )
        listed.append(f"## {heading}\n\n{links}")
        text += [f"<!-- {path} -->\n\n{page_text(path)}" for _, path, _ in items]
    (out / "llms.txt").write_text("\n\n".join(listed) + "\n")
    (out / "llms-full.txt").write_text("\n\n".join(text))
