"""Reports: one document of a run, as JSON, and every other format that is made of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from html import escape
from typing import Any

from ..engine.page import Case, badge as word, chart, page, section, suite, table
from .model import CAPS, CheckResult, Entry, Outcome, grade, rubric
from .runner import Run

Document = Mapping[str, Any]  # a document, or a check of it
_SCHEMA = 1
_SIGNS = {"pass": "+", "partial": "~", "fail": "-", "error": "!"}
_COLOURS = {"A": "#2e7d32", "B": "#558b2f", "C": "#b26a00", "D": "#c62828", "F": "#8e0000"}
_GREY = "#616161"  # of a badge whose letter is a range
_STEPS_OF_TEXT = 8  # on a terminal, the whole way up is too long to read
_STEPS_OF_PAGE = 10
# Pixels of a badge: its left half, the margins of its text, a letter of 11 pixels in Verdana.
_BADGE_LEFT = 72
_BADGE_MARGINS = 14
_BADGE_LETTER = 7
# Facts that make a plot.
_PLOTS = {
    "around_sigterm": "answers to new connections after SIGTERM",
    "cut": "answers while the database was cut",
}

# The document


def document_of(run: Run) -> dict[str, Any]:
    """Return all that was found, with the grade and what would raise it."""
    catalogue = rubric()
    results = {name: result for name, result in run.results.items() if name in catalogue.entries}
    graded = grade(catalogue, results)
    shown = {**asdict(graded), "text": str(graded)}
    shown.update(points=round(graded.points, 1), measured=round(graded.measured, 3))
    del shown["steps"]
    return {
        "schema": _SCHEMA,
        "rubric": catalogue.version,
        "service": run.name,
        "grade": shown,
        "steps": [{**asdict(step), "gain": round(step.gain, 1)} for step in graded.steps],
        "seconds": round(run.seconds, 1),
        "machine": dict(run.machine),
        "checks": [_check(run, entry) for entry in catalogue.entries.values()],
        "own": [_check(run, entry) for entry in run.own_entries.values()],
    }


def _check(run: Run, entry: Entry) -> dict[str, Any]:
    result = run.results.get(entry.id, CheckResult.not_run("not chosen"))
    shown = ("id", "title", "category", "item", "gate", "harden", "without", "page")
    return {
        **{name: getattr(entry, name) for name in shown},
        **asdict(result),
        "word": result.word,
    }


def grade_text(document: Document) -> str:
    """Return the letter or the range, and what was declared away, as every format shows it."""
    declared = document["grade"]["declared"]
    text = str(document["grade"]["text"])
    return f"{text} (declared: {declared})" if declared else text


def _figures(document: Document) -> str:
    grade = document["grade"]
    points = f"{grade['points']:.0f} points"
    measured = f"{100 * grade['measured']:.0f} % measured"
    return f"{points}, {measured}, {document['seconds']:.0f} s"


def _all_checks(document: Document) -> list[Document]:
    return [*document["checks"], *document["own"]]


def _categories(document: Document) -> Iterator[tuple[str, str, float, list[Document]]]:
    """Yield each heading with its mean score, in words and as a share, and its checks."""
    categories: dict[str, list[Document]] = {}
    for check in document["checks"]:
        categories.setdefault(check["category"], []).append(check)
    for name, checks in categories.items():
        scores = [check["score"] for check in checks if check["outcome"] == Outcome.MEASURED]
        mean = 0.0
        text = "not measured"
        if scores:
            mean = sum(scores) / len(scores)
            text = f"{100 * mean:.0f} %"
        yield name, text, mean, checks


def changes(old: Document, new: Document) -> Iterator[tuple[str, Document, Document]]:
    """Yield each check whose word or score is another one."""
    before = {check["id"]: check for check in _all_checks(old)}
    for check in _all_checks(new):
        was = before.get(check["id"], check)  # A new check differs from no other.
        if was["word"] != check["word"] or was["score"] != check["score"]:
            yield check["id"], was, check


def worse(old: Document, new: Document) -> list[str]:
    """Return the checks that were measured both times and got worse."""
    names: list[str] = []
    for name, was, now in changes(old, new):
        both_measured = was["outcome"] == now["outcome"] == Outcome.MEASURED
        if both_measured and now["score"] < was["score"]:
            names.append(name)
    return names


# For a terminal


def line(name: str, result: CheckResult) -> str:
    sign = _SIGNS.get(result.word, " ")
    return f"{sign} {name:<8}{result.word:<16}{result.evidence}"


def summary(document: Document) -> Iterator[str]:
    """Yield the lines that follow those of the checks."""
    yield ""
    for name, mean, share, checks in _categories(document):
        measured = sum(check["outcome"] == Outcome.MEASURED for check in checks)
        bar = "#" * round(10 * share)
        yield f"  {name:<17}{bar:<12}{mean:<14}{measured} of {len(checks)} checks"
    yield f"\n{document['service']}: {grade_text(document)}   {_figures(document)}"
    yield from _declared(document)
    yield from _way_up(document)
    if _is_range(document):
        yield (
            "\nA range: some checks did not run. Name what they need in assess.toml (`postfacta"
            " assess init`)."
        )


def _declared(document: Document) -> Iterator[str]:
    declared = [check for check in document["checks"] if check["outcome"] == Outcome.DECLARED]
    if declared:
        yield "declared as not applicable:"
    for check in declared:
        yield f"  {check['id']}  {check['evidence']}"


def _way_up(document: Document) -> Iterator[str]:
    """Yield the steps that raise the grade most, the best first, and how each is taken."""
    if document["steps"]:
        yield "\nThe way up:"
    for step, check in _steps(document, _STEPS_OF_TEXT):
        holds = f", holds the grade at {step['cap']}" if step["cap"] else ""
        yield f"  {check['id']}  {check['title']} (+{step['gain']:.1f}{holds})"
        yield f"      {check['word']}: {check['evidence']}"
        yield f"      with harden: {check['harden']}"
        if check["without"] != check["harden"]:
            yield f"      without: {check['without']}"


def _is_range(document: Document) -> bool:
    """Return whether what did not run leaves more than one letter possible."""
    grade = document["grade"]
    return bool(grade["lowest"] != grade["highest"])


def _steps(document: Document, most: int) -> Iterator[tuple[Document, Document]]:
    checks = {check["id"]: check for check in document["checks"]}
    for step in document["steps"][:most]:
        yield step, checks[step["check"]]


# For other programs


def junit(document: Document) -> str:
    """Return a suite with a case for each check; what was not measured is skipped."""
    return suite(
        f"{document['service']}: {grade_text(document)}",
        [_case(check) for check in _all_checks(document)],
    )


def _case(check: Document) -> Case:
    failed = check["word"] in {"fail", "error"}
    kind = "" if check["outcome"] == Outcome.MEASURED else "skipped"
    text = f"{check['word']}: {check['evidence']}"
    if failed:
        kind = "failure"
        text = check["evidence"]
    return Case(check["category"], f"{check['id']} {check['title']}", check["seconds"], kind, text)


def sarif(document: Document) -> str:
    """Return what did not pass as results of code scanning, located at the service file.

    Gates are errors.
    """
    rules = [_rule(check) for check in document["checks"]]
    flawed = [check for check in document["checks"] if check["word"] in {"fail", "partial"}]
    driver = {"name": "postfacta assess", "version": str(document["rubric"]), "rules": rules}
    run = {
        "tool": {"driver": driver},
        "results": [_alert(check) for check in flawed],
        "properties": {"grade": grade_text(document)},
    }
    schema = "https://json.schemastore.org/sarif-2.1.0.json"
    return json.dumps({"$schema": schema, "version": "2.1.0", "runs": [run]}, indent=1)


def _rule(check: Document) -> Document:
    """Return a check as a rule of SARIF, with both ways to pass it as its help."""
    ways = f"With harden: {check['harden']}. Without: {check['without']}."
    return {
        "id": check["id"],
        "shortDescription": {"text": check["title"]},
        "help": {"text": ways},
        "properties": {"category": check["category"], "item": check["item"]},
    }


def _alert(check: Document) -> Document:
    """Return a check that did not pass as a result of SARIF."""
    failed_gate = check["word"] == "fail" and check["gate"] is not None
    location = {"artifactLocation": {"uri": "assess.toml"}, "region": {"startLine": 1}}
    return {
        "ruleId": check["id"],
        "level": "error" if failed_gate else "warning",
        "message": {"text": f"{check['title']}: {check['evidence']}"},
        "locations": [{"physicalLocation": location}],
    }


def badge(document: Document) -> str:
    """Return an SVG; grey if the letter is a range."""
    text = grade_text(document)
    colour = _COLOURS[document["grade"]["lowest"][0]]
    if _is_range(document):
        text = f"range {text}"
        colour = _GREY
    left = _BADGE_LEFT
    right = _BADGE_MARGINS + _BADGE_LETTER * len(text)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img"'
        f' aria-label="reliability: {text}"><title>reliability: {text}</title><rect width="{left}"'
        f' height="20" fill="#444"/><rect x="{left}" width="{right}" height="20"'
        f' fill="{colour}"/><g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif"'
        f' font-size="11" text-anchor="middle"><text x="{left / 2}" y="14">reliability</text><text'
        f' x="{left + right / 2}" y="14">{text}</text></g></svg>\n'
    )


# For readers


def _inert(text: str) -> str:
    """Return one line of Markdown without HTML."""
    return " ".join(text.splitlines()).replace("<", "&lt;")


def markdown(document: Document) -> str:
    """Return a table for a pull request or the summary of a job."""
    name = re.sub(r"[\\`*_\[\]]", r"\\\g<0>", _inert(document["service"]))
    lines = [f"## {name}: {grade_text(document)}", "", f"{_figures(document)}.", ""]
    lines += ["| check | | evidence |", "|---|---|---|"]
    for check in _all_checks(document):
        if check["word"] != "pass":
            evidence = _inert(check["evidence"]).replace("|", "\\|")
            lines.append(f"| {check['id']} {check['title']} | {check['word']} | {evidence} |")
    passed = [check["id"] for check in document["checks"] if check["word"] == "pass"]
    return "\n".join([*lines, "", f"Passed: {', '.join(passed) or 'none'}.", ""])


def html(document: Document) -> str:
    """Return one page, as all reports of the lab, with plots in SVG and no script."""
    gates = section("Gates", _table_of_gates(document))
    categories = [
        section(f"{name}: {mean}", *map(_details, checks))
        for name, mean, _, checks in _categories(document)
    ]
    own = section("Your own checks", *map(_details, document["own"])) if document["own"] else ""
    return page(
        document["service"],
        grade_text(document),
        [gates, _section_of_steps(document), *categories, own],
        lead=f"{_figures(document)}, rubric {document['rubric']}",
        state=document["machine"],
    )


def _table_of_gates(document: Document) -> str:
    rows: list[tuple[str, str]] = []
    for level, cap in enumerate(CAPS):
        gates = [check for check in document["checks"] if check["gate"] == level]
        words = [word(check["word"], check["id"]) for check in gates]
        rows.append((f"P{level}, at most {cap}", " ".join(words)))
    return table(("if one fails", "they are"), rows)


def _section_of_steps(document: Document) -> str:
    """Return a section with the way up, or nothing if there is no step to take."""
    rows = [
        (
            f"{check['id']} {check['title']}",
            f"+{step['gain']}",
            step["cap"],
            check["evidence"],
            check["harden"],
            check["without"],
        )
        for step, check in _steps(document, _STEPS_OF_PAGE)
    ]
    heads = ("check", "points", "lifts the cap", "evidence", "with harden", "without")
    return section("The way up", table(heads, rows)) if rows else ""


def _details(check: Document) -> str:
    plots = [
        chart({title: check["facts"][name]}, x="seconds", y="status")
        for name, title in _PLOTS.items()
        if check["facts"].get(name)
    ]
    heading = f"{escape(check['id'])} {escape(check['title'])} {word(check['word'])}"
    evidence = f"<p>{escape(check['evidence'])}</p>{''.join(plots)}"
    return f"<details><summary>{heading}</summary>{evidence}</details>"
