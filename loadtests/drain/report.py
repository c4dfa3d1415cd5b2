"""Show results as tables, between the markers of a Markdown page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from postfacta_lab.drain.result import Result

__all__ = ["markdown", "merged", "put"]

# Seconds, and the total of requests behind those that failed.
_MEASURED = re.compile(r"\d+\.\d+(?= s\b)|(?<=\d / )\d+")


def markdown(results: Sequence[Result]) -> str:
    """Write one table for results of one shape: a row for all servers that did the same."""
    columns = list(dict.fromkeys(name for result in results for name in result.cells))
    rows = [
        [result.server, *(result.cells.get(name, "") for name in columns), _goals(result)]
        for result in results
    ]
    head = [["server", *columns, "goals"], ["---"] * (len(columns) + 2)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [*head, *merged(rows)]) + "\n"


def merged(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Join the rows that differ only in their first cell, in seconds, and in totals.

    These become the range from the least to the largest.
    """
    groups: dict[tuple[str, ...], list[Sequence[str]]] = {}
    for row in rows:
        groups.setdefault(tuple(_MEASURED.sub("#", cell) for cell in row[1:]), []).append(row)
    return [
        [", ".join(row[0] for row in group), *map(_ranges, *(row[1:] for row in group))]
        for group in groups.values()
    ]


def _ranges(*cells: str) -> str:
    """Return a cell of several rows, with the range of each number that was measured."""
    numbers = iter(zip(*(_MEASURED.findall(cell) for cell in cells), strict=True))

    def span(_: re.Match[str]) -> str:
        measured = sorted(next(numbers), key=float)
        least = measured[0]
        most = measured[-1]
        return least if least == most else f"{least} to {most}"

    return _MEASURED.sub(span, cells[0])


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
