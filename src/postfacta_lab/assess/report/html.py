"""The report as one page of HTML, as all reports of the lab, with plots in SVG and no script."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from ...engine.page import badge, page, section, table
from .document import categories, grade_text

__all__ = ["html"]

_GATES = ("P0, at most D+", "P1, at most C+", "P2, at most B+")
_PLOTS = {
    "around_sigterm": "Answers to new connections, by seconds after SIGTERM",
    "cut": "Answers while the database was cut, by seconds",
}


def html(found: Mapping[str, Any]) -> str:
    grade = found["grade"]
    lead = (
        f"{grade['points']:.0f} points, {100 * grade['measured']:.0f} % measured, {found['seconds']:.0f} s, "
        f"rubric {found['rubric']}"
    )
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
    plots = (_plot(check["facts"][key], title) for key, title in _PLOTS.items() if check["facts"].get(key))
    said = f"{escape(check['id'])} {escape(check['title'])} {badge(check['word'])}"
    return f"<details><summary>{said}</summary><p>{escape(check['evidence'])}</p>{''.join(plots)}</details>"


def _plot(points: list[list[float]], title: str) -> str:
    """Draw a dot for each answer: its second across, its kind of status down."""
    last = max(at for at, _ in points) or 1.0
    rows = {2: "2xx", 4: "4xx", 5: "5xx", 0: "none"}
    row = {kind: 20 + 24 * place for place, kind in enumerate(rows)}
    labels = "".join(f'<text x="4" y="{row[kind] + 4}">{text}</text>' for kind, text in rows.items())
    dots = "".join(
        f'<circle fill="currentColor" cx="{60 + 500 * at / last:.0f}" cy="{row.get(int(status) // 100, row[0])}" r="3"/>'
        for at, status in points
    )
    return (
        f'<svg viewBox="0 0 580 120" width="580" height="120" role="img" aria-label="{title}">'
        f'<title>{title}</title>{labels}{dots}<text x="60" y="115">0 s</text>'
        f'<text x="530" y="115">{last:.1f} s</text></svg>'
    )
