"""The report as one page of HTML, as all reports of the lab, with plots in SVG and no script."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from ...engine.page import Series, badge, chart, page, section, table
from .document import categories, figures, grade_text

__all__ = ["html"]

_GATES = ("P0, at most D+", "P1, at most C+", "P2, at most B+")
_PLOTS = {
    "around_sigterm": "answers to new connections after SIGTERM",
    "cut": "answers while the database was cut",
}


def html(found: Mapping[str, Any]) -> str:
    lead = f"{figures(found)}, rubric {found['rubric']}"
    sections = (_gates(found), _way_up(found), *_categories(found))
    return page(found["service"], grade_text(found), sections, lead=lead, state=found["machine"])


def _gates(found: Mapping[str, Any]) -> str:
    rows = [
        (
            title,
            " ".join(
                badge(check["word"], check["id"]) for check in found["checks"] if check["gate"] == level
            ),
        )
        for level, title in enumerate(_GATES)
    ]
    return section("Gates", table(("if one fails", "they are"), rows))


def _way_up(found: Mapping[str, Any]) -> str:
    checks = {check["id"]: check for check in found["checks"]}
    rows = [
        (f"{step['check']} {checks[step['check']]['title']}", f"+{step['gain']}", step["cap"],
         checks[step["check"]]["evidence"], checks[step["check"]]["harden"], checks[step["check"]]["without"])
        for step in found["steps"][:10]
    ]  # fmt: skip
    heads = ("check", "points", "lifts the cap", "evidence", "with harden", "without")
    return section("The way up", table(heads, rows)) if rows else ""


def _categories(found: Mapping[str, Any]) -> Iterator[str]:
    for name, score, measured, _ in categories(found):
        checks = [_check(check) for check in found["checks"] if check["category"] == name]
        yield section(f"{name}: {f'{100 * score:.0f} %' if measured else 'not measured'}", *checks)
    if found["own"]:
        yield section("Your own checks", *map(_check, found["own"]))


def _check(check: Mapping[str, Any]) -> str:
    plots = (
        chart([Series(title, points)], x="seconds", y="status")
        for key, title in _PLOTS.items()
        if (points := check["facts"].get(key))
    )
    said = f"{escape(check['id'])} {escape(check['title'])} {badge(check['word'])}"
    return f"<details><summary>{said}</summary><p>{escape(check['evidence'])}</p>{''.join(plots)}</details>"
