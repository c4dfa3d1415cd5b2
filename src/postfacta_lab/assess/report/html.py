"""The report as one page of HTML, with plots in SVG and no script."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from ..model import Outcome
from .document import categories, grade_text

__all__ = ["html"]

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b;background:#fff}
h1 b{font-size:3rem;margin-left:.5rem}table{border-collapse:collapse}td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top}
summary{cursor:pointer}.pass{color:#1b5e20}.partial{color:#8a4b00}.fail,.error{color:#b00020}.other{color:#555}
svg{background:#f6f6f6;max-width:100%}dt{font-weight:600}
@media(prefers-color-scheme:dark){body{color:#eee;background:#161616}.pass{color:#81c784}.partial{color:#ffb74d}.fail,.error{color:#ff8a80}.other{color:#bbb}svg{background:#262626}}
"""
_GATES = ("P0, at most D+", "P1, at most C+", "P2, at most B+")
_PLOTS = {
    "around_sigterm": "Answers to new connections, by seconds after SIGTERM",
    "cut": "Answers while the database was cut, by seconds",
}


def html(found: Mapping[str, Any]) -> str:
    """Return the page."""
    name, grade = escape(found["service"]), found["grade"]
    return "".join(
        (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}: {escape(grade_text(found))}</title>',
            '<meta name="viewport" content="width=device-width">',
            f"<style>{_STYLE}</style></head><body><main><h1>{name}<b>{escape(grade_text(found))}</b></h1>",
            f"<p>{grade['points']:.0f} points, {100 * grade['measured']:.0f} % measured, {found['seconds']:.0f} s, ",
            f"rubric {found['rubric']}; this process waited {100 * found['machine'].get('waited', 0):.0f} % of its time.</p>",
            *_ladder(found),
            *_way_up(found),
            *_categories(found),
            "</main></body></html>\n",
        )
    )


def _ladder(found: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>Gates</h2><table><tbody>"
    for level, title in enumerate(_GATES):
        gates = [check for check in found["checks"] if check["gate"] == level]
        marks = ", ".join(
            f'<span class="{_class(check)}">{check["id"]} {check["word"]}</span>' for check in gates
        )
        yield f'<tr><th scope="row">{title}</th><td>{marks}</td></tr>'
    yield "</tbody></table>"


def _way_up(found: Mapping[str, Any]) -> Iterator[str]:
    checks = {check["id"]: check for check in found["checks"]}
    if not found["steps"]:
        return
    yield "<h2>The way up</h2><ol>"
    for step in found["steps"][:10]:
        check = checks[step["check"]]
        cap = f", holds the grade at {step['cap']}" if step["cap"] else ""
        yield f"<li><b>{check['id']} {escape(check['title'])}</b> (+{step['gain']}{cap}): {escape(check['evidence'])}. "
        yield f"With harden: {escape(check['harden'])}. Without: {escape(check['without'])}.</li>"
    yield "</ol>"


def _categories(found: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>Checks</h2>"
    for name, score, measured, _ in categories(found):
        yield f"<h3>{escape(name)}: {f'{100 * score:.0f} %' if measured else 'not measured'}</h3>"
        for check in found["checks"]:
            if check["category"] == name:
                yield from _check(check)
    for check in found["own"]:
        yield from _check(check)


def _check(check: Mapping[str, Any]) -> Iterator[str]:
    mark = f'<span class="{_class(check)}">{check["word"]}</span>'
    yield f"<details><summary>{check['id']} {escape(check['title'])}: {mark}</summary><p>{escape(check['evidence'])}</p>"
    for key, title in _PLOTS.items():
        if points := check["facts"].get(key):
            yield _plot(points, title)
    yield "</details>"


def _class(check: Mapping[str, Any]) -> str:
    return check["word"] if check["outcome"] in {Outcome.MEASURED, Outcome.ERROR} else "other"


def _plot(points: list[list[float]], title: str) -> str:
    """Draw a dot for each answer: its second across, its kind of status down."""
    last = max(at for at, _ in points) or 1.0
    rows = {2: "2xx", 4: "4xx", 5: "5xx", 0: "none"}
    row = {kind: 20 + 24 * place for place, kind in enumerate(rows)}
    labels = "".join(
        f'<text x="4" y="{row[kind] + 4}" fill="currentColor">{text}</text>' for kind, text in rows.items()
    )
    dots = "".join(
        f'<circle cx="{60 + 500 * at / last:.0f}" cy="{row.get(int(status) // 100, row[0])}" r="3" fill="currentColor"/>'
        for at, status in points
    )
    return (
        f'<svg viewBox="0 0 580 120" width="580" height="120" role="img" aria-label="{title}" font-size="11">'
        f'<title>{title}</title>{labels}{dots}<text x="60" y="115" fill="currentColor">0 s</text>'
        f'<text x="530" y="115" fill="currentColor">{last:.1f} s</text></svg>'
    )
