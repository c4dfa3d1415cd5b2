"""Write what a mutation run found into a page, with the verdict on each mutant that survived.

A verdict is written by hand into the last column of the page, and kept when the page is written
anew.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

__all__ = ["OPEN", "Result", "change", "page", "score", "table", "verdicts"]

Result = Mapping[str, Any]
KILLED = ("killed", "timeout")
COUNTED = (*KILLED, "survived", "uncovered")
OPEN = "open"
_EQUIVALENT = "equivalent"
_SHORT = 140
_ROW = re.compile(r"^\| (\S+):\d+ \| (`+ .+ `+ → `+ .+ `+) \| (\w+) \| (.+) \|$", re.MULTILINE)


def counted(results: Iterable[Result]) -> list[Result]:
    """Return the results that are verdicts of tests: no controls, and no code that nothing runs any more."""
    return [result for result in results if result["status"] in COUNTED]


def score(results: Sequence[Result], known: Mapping[tuple[str, str], str]) -> float:
    """Return how many of the mutants that are not equivalent were noticed, in percent."""
    judged = [it for it in counted(results) if not is_equivalent(it, known)]
    return 100.0 * sum(it["status"] in KILLED for it in judged) / len(judged) if judged else 0.0


def is_equivalent(result: Result, known: Mapping[tuple[str, str], str]) -> bool:
    """Return whether a survivor was found to change nothing."""
    verdict = known.get((result["module"], change(result)), OPEN)
    return result["status"] not in KILLED and verdict.startswith(_EQUIVALENT)


def table(
    results: Sequence[Result], known: Mapping[tuple[str, str], str], totals: Mapping[str, int]
) -> Iterator[str]:
    """Write a line for each module: how many mutants it has, how many were tried, and what came of them."""
    yield "| module | mutants | tried | killed | timeout | survived | not covered | equivalent | score |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for module in [*sorted({str(it["module"]) for it in results}), "all"]:
        rows = [it for it in counted(results) if module in {it["module"], "all"}]
        count = Counter(str(it["status"]) for it in rows)
        equivalent = sum(is_equivalent(it, known) for it in rows)
        total = sum(totals.values()) if module == "all" else totals[module]
        numbers = (total, len(rows), *(count[state] for state in COUNTED), equivalent)
        cells = " | ".join(f"{number:,}" for number in numbers)
        yield f"| {module.removeprefix('src/')} | {cells} | {score(rows, known):.1f} % |"


def change(result: Result) -> str:
    """Return a change in one line of Markdown."""
    return f"{_code(result['before'])} → {_code(result['after'])}"


def _code(text: str) -> str:
    line = " ".join(text.split()).replace("|", "¦")
    line = line if len(line) <= _SHORT else f"{line[: _SHORT // 2]} … {line[-_SHORT // 2 :]}"
    marks = "``" if "`" in line else "`"
    return f"{marks} {line} {marks}"


def verdicts(text: str) -> dict[tuple[str, str], str]:
    """Read the verdicts of a page, by module and change."""
    return {(f"src/{module}", it): verdict for module, it, _, verdict in _ROW.findall(text)}


def page(head: str, results: Sequence[Result], text: str, totals: Mapping[str, int]) -> str:
    """Return the page: its head, the table, and each survivor with the verdict that the old text had."""
    known = verdicts(text)
    survivors = [it for it in counted(results) if it["status"] not in KILLED]
    controls = Counter(
        str(it["status"]) for it in results if str(it["status"]).startswith("control")
    )
    red = controls.total() - controls["control survived"] - controls["control uncovered"]
    lines = [
        head,
        "",
        *table(results, known, totals),
        "",
        f"Controls, the same tests without any change: {controls.total()}, of which {red} failed.",
        "",
        "## What survived",
        "",
        "| where | change | state | verdict |",
        "|---|---|---|---|",
    ]
    for it in sorted(survivors, key=lambda it: (it["module"], it["line"], it["number"])):
        verdict = known.get((it["module"], change(it)), OPEN)
        where = f"{it['module'].removeprefix('src/')}:{it['line']}"
        lines.append(f"| {where} | {change(it)} | {it['status']} | {verdict} |")
    return "\n".join(lines) + "\n"
