"""Count what a mutation run found, without the mutants that the page lists as equivalent."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["PAGE", "Result", "change", "counted", "equivalents", "score", "table"]

Result = Mapping[str, Any]
PAGE = Path(__file__).parent.parent / "docs/reference/mutation.md"
KILLED = ("killed", "timeout")
COUNTED = (*KILLED, "survived", "uncovered")
_SHORT = 140
_ROW = re.compile(r"^\| (\S+\.py) \| (`+ .+ `+ → `+ .+ `+) \| .+ \|$", re.MULTILINE)


def counted(results: Iterable[Result]) -> list[Result]:
    """Return the results that are verdicts of tests.

    No controls, and no code that nothing runs any more.
    """
    return [result for result in results if result["status"] in COUNTED]


def score(results: Sequence[Result], equivalent: Collection[tuple[str, str]]) -> float:
    """Return how many of the mutants that are not equivalent were noticed, in percent."""
    judged = [it for it in counted(results) if not is_equivalent(it, equivalent)]
    return 100.0 * sum(it["status"] in KILLED for it in judged) / len(judged) if judged else 0.0


def is_equivalent(result: Result, equivalent: Collection[tuple[str, str]]) -> bool:
    """Return whether a survivor was found to change nothing."""
    return result["status"] not in KILLED and (result["module"], change(result)) in equivalent


def table(
    results: Sequence[Result], equivalent: Collection[tuple[str, str]], totals: Mapping[str, int]
) -> Iterator[str]:
    """Write a line for each module.

    How many mutants it has, how many were tried, and what came of them.
    """
    yield (
        "| module | mutants | tried | killed | timeout | survived | not covered | equivalent |"
        " score |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for module in [*sorted({str(it["module"]) for it in results}), "all"]:
        rows = [it for it in counted(results) if module in {it["module"], "all"}]
        count = Counter(str(it["status"]) for it in rows)
        unnoticeable = sum(is_equivalent(it, equivalent) for it in rows)
        total = sum(totals.values()) if module == "all" else totals[module]
        numbers = (total, len(rows), *(count[state] for state in COUNTED), unnoticeable)
        cells = " | ".join(f"{number:,}" for number in numbers)
        yield f"| {module.removeprefix('src/')} | {cells} | {score(rows, equivalent):.1f} % |"


def change(result: Result) -> str:
    """Return a change in one line of Markdown."""
    return f"{_code(result['before'])} → {_code(result['after'])}"


def _code(text: str) -> str:
    line = " ".join(text.split()).replace("|", "¦")
    line = line if len(line) <= _SHORT else f"{line[: _SHORT // 2]} … {line[-_SHORT // 2 :]}"
    marks = "``" if "`" in line else "`"
    return f"{marks} {line} {marks}"


def equivalents(text: str) -> set[tuple[str, str]]:
    """Read from the page which changes no test can notice, by module and change."""
    return {(f"src/{module}", it) for module, it in _ROW.findall(text)}
