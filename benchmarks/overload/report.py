"""Show what was measured: as lines while it runs, as JSON, as a table in the page."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["RESULTS", "ceiling", "keep", "line", "missed", "renew", "table"]

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "overload.json"
PAGE = ROOT / "docs" / "explanation" / "ten-times-the-load.md"

Row = dict[str, Any]
_NAMES = {
    "plain": "bare",
    "own": "its own limit",
    "ours": "load shedding",
    "mix": "load shedding, a tenth critical",
}
# Goodput as a share of the capacity, and the 99th percentiles of those served and refused, in
# seconds.
_GOALS = {5: 0.97, 10: 0.95}
_GOAL_OK = 0.3
_GOAL_REFUSED = 0.2


def ceiling(row: Row, times: float) -> float:
    """Return the goodput that no limit could exceed, as a share of the capacity.

    Refusals cost the server time too.

    With its own seconds s for a request that it serves and r for one that it refuses, x that are
    served of n leave it x * s + (n - x) * r <= 1.
    """
    most = row["capacity"]
    cost = row["cost"]
    refusal = row["refusal"]
    return float(max(0.0, min(1.0, (1 - times * most * refusal) / (cost - refusal) / most)))


def line(row: Row) -> str:
    """Return the outcome of a run in one line."""
    said = (
        f"{row['server']:15}{row['handler']:5}{row['variant']:6}{row['times']:3}x  goodput"
        f" {row['goodput']:6.0f}/s {_share(row)}  p99 served {_ms(row['p99_ok'])} refused"
        f" {_ms(row['p99_refused'])}  sent {row['sent']} refused {row['refused']} late"
        f" {row['late']} failed {row['failed']}  server's core {row['server_cpu']:.0%}"
    )
    if critical := row.get("critical"):
        said += f"  critical served {critical['good']} of {critical['sent']}"
    return said


def table(rows: Sequence[Row]) -> str:
    """Make the Markdown of all runs."""
    lines = [
        (
            "| server | handler | variant | 1x | 2x | 5x | 10x | p99 served | p99 refused | no"
            " answer | possible at 10x |"
        ),
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    kinds = dict.fromkeys((row["server"], row["handler"], row["variant"]) for row in rows)
    for server, handler, variant in kinds:
        if variant == "mix":
            continue
        these = {r["times"]: r for r in rows if _kind(r) == (server, handler, variant)}
        shares = " | ".join(
            _share(these[times]) if times in these else "-" for times in (1, 2, 5, 10)
        )
        most = these.get(10)
        waits = "- | - | - | -"
        if most:
            lost = most["failed"] / max(1, most["sent"])
            waits = (
                f"{_ms(most['p99_ok'])} | {_ms(most['p99_refused'])} | {lost:.0%} |"
                f" {ceiling(most, 10):.1%}"
            )
        lines.append(f"| {server} | {handler} | {_NAMES[variant]} | {shares} | {waits} |")
    mixed = [row for row in rows if row["variant"] == "mix"]
    if mixed:
        lines += [
            "",
            (
                "| server | handler | critical served in time | lost | p99 served | sheddable"
                " served | goodput of both |"
            ),
            "|---|---|---:|---:|---:|---:|---:|",
        ]
    for row in mixed:
        critical = row["critical"]
        lost = 1 - critical["good"] / max(1, critical["sent"])
        lines.append(
            f"| {row['server']} | {row['handler']} | {critical['good']} of {critical['sent']} |"
            f" {lost:.1%} | {_ms(critical['p99_ok'])} | {row['good']} of {row['sent']} |"
            f" {_share(row)} |"
        )
    return "\n".join(lines)


def missed(rows: Sequence[Row]) -> list[str]:
    """Return the goals that were missed; none are set for uvloop, which accepts too slowly."""
    found: list[str] = []
    for row in rows:
        if row["server"] == "uvicorn-uvloop":
            continue
        what = f"{row['server']} {row['handler']} {row['times']}x"
        if row["variant"] == "mix" and row["critical"]["good"] < 0.99 * row["critical"]["sent"]:
            found.append(f"{what}: critical requests were lost")
        if row["variant"] != "ours":
            continue
        if row["goodput"] < _GOALS.get(row["times"], 0.0) * row["capacity"]:
            possible = f"; {ceiling(row, row['times']):.1%} is possible"
            found.append(f"{what}: goodput {_share(row)}, not {_GOALS[row['times']]:.0%}{possible}")
        if row["p99_ok"] > _GOAL_OK or row["p99_refused"] > _GOAL_REFUSED:
            found.append(
                f"{what}: p99 {_ms(row['p99_ok'])} served, {_ms(row['p99_refused'])} refused"
            )
    return found


def keep(rows: Sequence[Row]) -> None:
    """Write the figures, and renew the page."""
    RESULTS.parent.mkdir(exist_ok=True)
    when = time.strftime("%Y-%m-%d", time.gmtime())
    python = f"CPython {platform.python_version()}"
    RESULTS.write_text(json.dumps({"date": when, "python": python, "rows": rows}, indent=1) + "\n")
    capacities = {(row["server"], row["handler"]): row["capacity"] for row in rows}
    empty = ", ".join(
        f"{s} {cost * 1e6:.0f} µs" for s, cost in {r["server"]: r["refusal"] for r in rows}.items()
    )
    said = ", ".join(
        f"{server} {handler} {most:.0f}" for (server, handler), most in capacities.items()
    )
    text = "\n".join(
        [
            (
                f"{when}, {python}. Capacity, requests a second: {said}. Answering with nothing, at"
                f" 10 times that rate: {empty}."
            ),
            "",
            table(rows),
            "",
            *(f"* missed: {goal}" for goal in missed(rows) or ["nothing"]),
        ]
    )
    renew("measured", text)


def renew(part: str, text: str) -> None:
    """Write a text between the marks of a part of the page."""
    first = f"<!-- {part} -->\n"
    last = f"\n<!-- end of {part} -->"
    before, _, rest = PAGE.read_text().partition(first)
    _, _, after = rest.partition(last)
    PAGE.write_text(before + first + text + last + after)


def _kind(row: Row) -> tuple[str, str, str]:
    return row["server"], row["handler"], row["variant"]


def _share(row: Row) -> str:
    return f"{row['goodput'] / row['capacity']:.1%}" if row["capacity"] else "-"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds else "-"
