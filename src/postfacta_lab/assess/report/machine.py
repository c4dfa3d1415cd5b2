"""Reports for other programs: JUnit, SARIF, a table in Markdown, a badge."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ...engine.junit import Case, suite
from ..model import Outcome
from .document import figures, grade_text

__all__ = ["badge", "junit", "markdown", "sarif"]

_COLOURS = {"A": "#2e7d32", "B": "#558b2f", "C": "#b26a00", "D": "#c62828", "F": "#8e0000"}
_GREY = "#616161"


def junit(found: Mapping[str, Any]) -> str:
    """Return a suite with a case for each check; what was not measured is skipped."""
    name = f"{found['service']}: {grade_text(found)}"
    return suite(name, [_case(check) for check in (*found["checks"], *found["own"])])


def _case(check: Mapping[str, Any]) -> Case:
    kind = "failure" if check["word"] in {"fail", "error"} else ""
    if not kind and check["outcome"] != Outcome.MEASURED:
        kind = "skipped"
    said = check["evidence"] if kind == "failure" else f"{check['word']}: {check['evidence']}"
    name = f"{check['id']} {check['title']}"
    return Case(check.get("category", "own"), name, check.get("seconds", 0), kind, said)


def sarif(found: Mapping[str, Any], place: str = "assess.toml") -> str:
    """Return what did not pass as results of code scanning, located at the service file; gates are errors."""
    checks = found["checks"]
    rules = [
        {
            "id": check["id"],
            "shortDescription": {"text": check["title"]},
            "help": {"text": f"With harden: {check['harden']}. Without: {check['without']}."},
            "properties": {"category": check["category"], "item": check["item"]},
        }
        for check in checks
    ]
    location = {"physicalLocation": {"artifactLocation": {"uri": place}, "region": {"startLine": 1}}}
    results = [
        {
            "ruleId": check["id"],
            "level": "error" if check["word"] == "fail" and check["gate"] is not None else "warning",
            "message": {"text": f"{check['title']}: {check['evidence']}"},
            "locations": [location],
        }
        for check in checks
        if check["word"] in {"fail", "partial"}
    ]
    driver = {"name": "postfacta assess", "version": str(found["rubric"]), "rules": rules}
    run = {"tool": {"driver": driver}, "results": results, "properties": {"grade": grade_text(found)}}
    return json.dumps(
        {"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0", "runs": [run]},
        indent=1,
    )


def markdown(found: Mapping[str, Any]) -> str:
    """Return a table for a pull request or the summary of a job."""
    return "\n".join(_markdown(found)) + "\n"


def _markdown(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {found['service']}: {grade_text(found)}\n\n{figures(found)}.\n"
    yield "| check | | evidence |\n|---|---|---|"
    for check in (*found["checks"], *found["own"]):
        if check["word"] != "pass":
            yield f"| {check['id']} {check['title']} | {check['word']} | {_cell(check['evidence'])} |"
    passed = [check["id"] for check in found["checks"] if check["word"] == "pass"]
    yield f"\nPassed: {', '.join(passed) or 'none'}."


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def badge(found: Mapping[str, Any]) -> str:
    """Return an SVG; grey if the letter is a range."""
    grade = found["grade"]
    is_range = grade["lowest"] != grade["highest"]
    text = ("range " if is_range else "") + grade_text(found)
    colour = _GREY if is_range else _COLOURS[grade["lowest"][0]]
    left, right = 72, 14 + 7 * len(text)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" '
        f'aria-label="reliability: {text}"><title>reliability: {text}</title>'
        f'<rect width="{left}" height="20" fill="#444"/><rect x="{left}" width="{right}" height="20" fill="{colour}"/>'
        '<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">'
        f'<text x="{left / 2}" y="14">reliability</text><text x="{left + right / 2}" y="14">{text}</text></g></svg>\n'
    )
