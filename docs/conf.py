"""Configure the documentation site.

Sphinx reads the Markdown, whose marks `generate.py` fills; any warning fails the build.

The source folder is the root of the repository, so that a link means the same here and on a forge.
Navigation comes from the pages called `README.md`: an item of a list that begins with a link to a
page is an entry, under its heading.
"""

# ruff: noqa: INP001 - read by Sphinx, and no package

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sphinx.application import Sphinx

_ROOT: Final = Path(__file__).parent.parent
sys.path.insert(0, str(_ROOT))
from docs.generate import PAGES, fill  # noqa: E402 - found by the line above

from docs import llms  # noqa: E402 - likewise

_VERSION: Final = str(tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["version"])
_ITEM: Final = re.compile(r"^\s*[*-] \[([^\]]+)\]\(([\w./-]+)\.md\)", re.MULTILINE)
_HEADING: Final = re.compile(r"^## (.+)$", re.MULTILINE)

project = "PostFacta"
version = release = _VERSION
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = [
    *("README.md", "CHANGELOG.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "SECURITY.md"),
    *("benchmarks/README.md", "docs/**.md"),
]
exclude_patterns = [".*", "build", "dist", "src", "tests"]

myst_heading_anchors = 6
"""Anchors of headings are named as on a forge."""

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_title = f"{project} {version}"
html_copy_source = False
html_use_index = False
html_show_sphinx = False
html_show_copyright = False
pygments_style = "default"
pygments_dark_style = "monokai"
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {
        "font-stack": "system-ui, sans-serif",
        "font-stack--monospace": "ui-monospace, monospace",
    },
}


def _navigation(page: str) -> Iterator[str]:
    """Yield a hidden table of contents for each heading of a page that has a list of pages."""
    for section in re.split(r"^(?=## )", page, flags=re.MULTILINE):
        entries = [f"{title.replace('`', '')} <{path}>" for title, path in _ITEM.findall(section)]
        caption = _HEADING.match(section)
        if entries:
            yield "\n".join(
                [
                    "\n```{toctree}",
                    ":hidden:",
                    *([f":caption: {caption[1]}"] if caption else []),
                    "",
                    *entries,
                    "```\n",
                ]
            )


def _fill(_app: Sphinx, docname: str, source: list[str]) -> None:
    """Fill the marks of a page from the code."""
    if f"{docname}.md" in PAGES:
        source[0] = fill(source[0])


def _add_navigation(_app: Sphinx, docname: str, source: list[str]) -> None:
    if docname.rpartition("/")[2] == "README":
        source[0] += "".join(_navigation(source[0]))


def _add_entrance(app: Sphinx, error: Exception | None) -> None:
    """Let the folder open at the front page."""
    if error is None and app.builder.name == "html":
        text = (
            '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0;'
            ' url=README.html">'
        )
        (app.outdir / "index.html").write_text(f"{text}<title>{html_title}</title>\n")


def _add_texts(app: Sphinx, error: Exception | None) -> None:
    """Add what language models read; a site of other pages has none."""
    if error is None and app.builder.name == "html" and Path(app.srcdir) == _ROOT:
        llms.write(Path(app.outdir))


def setup(app: Sphinx) -> None:
    """Hook the navigation, the entrance and the texts for language models in."""
    app.connect("source-read", _fill)
    app.connect("source-read", _add_navigation)
    app.connect("build-finished", _add_entrance)
    app.connect("build-finished", _add_texts)
