"""The report for a terminal: a line for each check as it ends, then letter, categories and the way up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..model import Outcome, Result
from ..rubric import rubric
from .document import categories, figures, grade_text

__all__ = ["line", "summary"]

_SIGNS = {"pass": "+", "partial": "~", "fail": "-", "error": "!"}
_STEPS = 8


def line(result: Result) -> str:
    word = result.verdict.word
    return f"{_SIGNS.get(word, ' ')} {result.check:<8}{word:<16}{result.verdict.evidence}"


def summary(found: Mapping[str, Any]) -> str:
    """Return what follows the lines."""
    return "\n".join(_summary(found)) + "\n"


def _summary(found: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    for name, score, measured, of in categories(found):
        yield f"  {name:<17}{'#' * round(10 * score):<12}{f'{100 * score:.0f} %' if measured else '-':<8}{measured} of {of} checks"
    yield f"\n{found['service']}: {grade_text(found)}   {figures(found)}"
    if declared := [check for check in found["checks"] if check["outcome"] == Outcome.DECLARED]:
        yield "declared as not applicable:"
        yield from (f"  {check['id']}  {check['evidence']}" for check in declared)
    if found["steps"]:
        yield "\nThe way up:"
    evidence = {check["id"]: check for check in found["checks"]}
    for step in found["steps"][:_STEPS]:
        entry, check = rubric().entries[step["check"]], evidence[step["check"]]
        holds = f", holds the grade at {step['cap']}" if step["cap"] else ""
        yield f"  {entry.id}  {entry.title} (+{step['gain']:.1f}{holds})"
        yield f"      {check['word']}: {check['evidence']}"
        yield f"      with harden: {entry.harden}"
        if entry.without != entry.harden:
            yield f"      without: {entry.without}"
    if found["grade"]["lowest"] != found["grade"]["highest"]:
        yield "\nA range: some checks did not run. Name what they need in assess.toml (`postfacta assess init`)."
