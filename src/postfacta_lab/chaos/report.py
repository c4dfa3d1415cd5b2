"""Draws how experiments went, for one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..engine.page import Series, badge, chart, section, table
from .experiment import Experiment

__all__ = ["overview", "section_of"]


def overview(experiments: Sequence[Experiment]) -> str:
    """Show all of them in a table."""
    rows = [
        [it.name, it.title.partition(" ")[2], badge(it.verdict), f"{it.seconds:.0f} s"] for it in experiments
    ]
    return section("Experiments", table(("experiment", "claim", "verdict", "took"), rows))


def section_of(it: Experiment) -> str:
    """Show one: what was done, and how users fared."""
    seconds: Sequence[Sequence[float]] = it.users.get("by_second", ())
    marks: Sequence[Mapping[str, Any]] = it.users.get("marks", ())
    parts = [f"<p>{badge(it.verdict)}</p>"]
    if it.reasons:
        parts.append("<ul>" + "".join(f"<li>{escape(reason)}</li>" for reason in it.reasons) + "</ul>")
    if seconds:
        lines = [
            Series("requests", [(second[0], second[1]) for second in seconds]),
            Series("failed", [(second[0], second[2]) for second in seconds]),
        ]
        at = [mark["at"] for mark in marks]
        parts.append(chart(lines, x="seconds; dashed: something was done", y="a second", marks=at))
        slowest = [Series("longest wait", [(second[0], second[3]) for second in seconds])]
        parts.append(chart(slowest, x="seconds", y="seconds", marks=at))
        done = ", ".join(f"{mark['what']} at {mark['at']:.1f} s" for mark in marks)
        parts.append(f'<p class="soft">{escape(done)}</p>')
    rows = [[name, value, badge(met)] for name, value, met in it.probes]
    parts.append(table(("claim, at the end", "found", "verdict"), rows))
    return section(it.title, *parts, about=it.description)
