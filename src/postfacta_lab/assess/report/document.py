"""The document of a run, as JSON; it can be shown again, and compared with another one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from ..grade import grade
from ..model import Outcome, Verdict
from ..rubric import rubric
from ..runner import Run

__all__ = ["categories", "changes", "document", "figures", "grade_text", "worse"]

_SCHEMA = 1


def document(run: Run) -> dict[str, Any]:
    """Return all that was found, with the grade and what would raise it."""
    catalogue = rubric()
    verdicts = {name: verdict for name, verdict in run.verdicts.items() if name in catalogue.entries}
    graded = grade(catalogue, verdicts)
    return {
        "schema": _SCHEMA,
        "rubric": catalogue.version,
        "service": run.name,
        "grade": {
            "text": str(graded),
            "lowest": graded.lowest,
            "highest": graded.highest,
            "points": round(graded.points, 1),
            "measured": round(graded.measured, 3),
            "declared": graded.declared,
        },
        "seconds": round(run.seconds, 1),
        "machine": dict(run.machine),
        "guessed": dict(run.guessed),
        "checks": [_check(run, name) for name in catalogue.entries],
        "own": [_own(run, name) for name in run.own],
        "steps": [asdict(step) | {"gain": round(step.gain, 1)} for step in graded.steps],
    }


def _check(run: Run, name: str) -> dict[str, Any]:
    entry, result = rubric().entries[name], run.results.get(name)
    verdict = result.verdict if result else Verdict.not_run("not chosen")
    shown = ("id", "title", "category", "item", "gate", "harden", "without", "page")
    return {
        **{field: getattr(entry, field) for field in shown},
        **_found(verdict),
        "seconds": result.seconds if result else 0.0,
        "repeats": result.repeats if result else 0,
    }


def _own(run: Run, name: str) -> dict[str, Any]:
    return {"id": name, **run.own[name], **_found(run.results[name].verdict)}


def _found(verdict: Verdict) -> dict[str, Any]:
    return {
        "outcome": str(verdict.outcome),
        "word": verdict.word,
        "score": verdict.score,
        "evidence": verdict.evidence,
        "facts": dict(verdict.facts),
    }


def categories(found: Mapping[str, Any]) -> Iterator[tuple[str, float, int, int]]:
    """Yield each heading with its mean score, and how many of its checks were measured."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for check in found["checks"]:
        groups.setdefault(check["category"], []).append(check)
    for name, checks in groups.items():
        measured = [check["score"] for check in checks if check["outcome"] == Outcome.MEASURED]
        yield name, sum(measured) / len(measured) if measured else 0.0, len(measured), len(checks)


def grade_text(found: Mapping[str, Any]) -> str:
    """Return the letter or the range, and what was declared away, as every format shows it."""
    declared = found["grade"]["declared"]
    return str(found["grade"]["text"]) + (f" (declared: {declared})" if declared else "")


def figures(found: Mapping[str, Any]) -> str:
    """Return what stands beside the letter."""
    grade = found["grade"]
    return f"{grade['points']:.0f} points, {100 * grade['measured']:.0f} % measured, {found['seconds']:.0f} s"


def changes(
    old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Yield each check whose word or score is another one."""
    before = {check["id"]: check for check in (*old["checks"], *old["own"])}
    for check in (*new["checks"], *new["own"]):
        was = before.get(check["id"])
        if was is not None and (was["word"], was["score"]) != (check["word"], check["score"]):
            yield check["id"], was, check


def worse(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the checks that were measured both times and got worse."""
    return [
        name
        for name, was, now in changes(old, new)
        if was["outcome"] == now["outcome"] == Outcome.MEASURED and now["score"] < was["score"]
    ]
