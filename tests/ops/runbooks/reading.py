"""Takes the runbooks' commands apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from chaos.runbooks import FOLDER, Runbook, read

__all__ = ["Asked", "books", "commands", "queries"]

_QUERY = re.compile(r"promtool query instant \"\$PROMETHEUS_URL\" '([^']*)'")
_QUOTED = re.compile(r"'[^']*'|\"(?:\\.|[^\"\\])*\"")
_INNER = re.compile(r"\$\((.+?)\)")
_SPLIT = re.compile(r"\|\||&&|[|;\n!]")
_ASSIGNED = re.compile(r"\w+=\S*\s*")


@dataclass(frozen=True, slots=True)
class Asked:
    """A query in PromQL, and the runbook that it stands in."""

    book: str
    expr: str

    def __str__(self) -> str:
        return f"{self.book}: {self.expr}"


@cache
def books() -> Sequence[Runbook]:
    """Read all of them."""
    return [read(path) for path in sorted(FOLDER.glob("*.md")) if path.name != "README.md"]


def queries() -> list[Asked]:
    """List every query of all runbooks, each once."""
    found = {
        Asked(book.name, expr): None
        for book in books()
        for block in book.blocks
        for expr in _QUERY.findall(block.script)
    }
    return list(found)


def commands(script: str) -> set[str]:
    """Name the programs that a script runs, each with the word that follows it."""
    inner = {one for text in _INNER.findall(script) for one in commands(text)}
    plain = "\n".join(
        line for line in _QUOTED.sub("Q", script).splitlines() if not line.startswith("#")
    )
    parts = (part.strip() for part in _SPLIT.split(_INNER.sub("Q", plain)))
    words = (_bare(part).split() for part in parts)
    return inner | {" ".join(some[:2]) for some in words if some}


def _bare(part: str) -> str:
    while found := _ASSIGNED.match(part):
        part = part[found.end() :]
    return part
