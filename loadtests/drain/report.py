"""Show results as tables, on a terminal or between the markers of a Markdown page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from postfacta_lab.verdict import Verdict

from .plan import Result

__all__ = ["markdown", "put", "text"]


_SHORT = {Verdict.PASS: "ok", Verdict.FAIL: "MISSED", Verdict.INVALID: "UNKNOWN", Verdict.NOTHING: "NOTHING"}


def text(results: Sequence[Result]) -> str:
    """Write one block of lines for each result."""
    return "\n".join(line for result in results for line in _lines(result))


def _lines(result: Result) -> Iterable[str]:
    cells = "; ".join(f"{name}: {cell}" for name, cell in result.cells.items())
    yield f"{result.scenario:<12}{result.server:<20}{_SHORT[result.verdict]:<8}{cells}"
    for miss in result.misses:
        yield f"{'':<32}- {miss}"


def markdown(results: Sequence[Result]) -> str:
    """Write one table for results of one shape, in their order."""
    columns = list(dict.fromkeys(name for result in results for name in result.cells))
    rows = [
        ["server", *columns, "goals"],
        ["---"] * (len(columns) + 2),
        *(
            [result.server, *(result.cells.get(name, "") for name in columns), _goals(result)]
            for result in results
        ),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _goals(result: Result) -> str:
    return "**missed**" if result.misses else "reached"


def put(page: Path, name: str, table: str) -> bool:
    """Replace what stands between the markers of that name; tell whether the page has them."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    whole = page.read_text()
    if begin not in whole or end not in whole:
        return False
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    page.write_text(pattern.sub(lambda _: begin + "\n" + table + "\n" + end, whole))
    return True
