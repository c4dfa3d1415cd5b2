"""Show results as tables, between the markers of a Markdown page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from postfacta_lab.drain.result import Result

__all__ = ["markdown", "put"]


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
    begin = f"<!-- {name}: begin -->\n"
    end = f"<!-- {name}: end -->"
    whole = page.read_text()
    if begin not in whole or end not in whole:
        return False
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    page.write_text(pattern.sub(lambda _: begin + "\n" + table + "\n" + end, whole))
    return True
