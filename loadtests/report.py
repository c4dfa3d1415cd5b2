"""Prints, stores and draws the outcome of a run of load."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path

from loadtests.arrivals import Sample
from loadtests.gate import Limits, Outcome, Run, percentile
from loadtests.page import Series, bars, chart, facts, machine, page, section, table

__all__ = ["as_html", "as_text", "write"]

_HEAD = ("route", "requests", "failed", "p50 s", "p95 s", "p99 s", "most s")


def as_text(outcome: Outcome) -> str:
    """Write a table for the terminal, and the verdict under it."""
    lines = [f"{_HEAD[0]:<32}" + "".join(f"{name:>10}" for name in _HEAD[1:])]
    lines += [
        f"{row.route:<32}{row.count:>10}{row.failed:>10}{row.p50:>10.3f}{row.p95:>10.3f}{row.p99:>10.3f}{row.most:>10.3f}"
        for row in outcome.rows
    ]
    lines.append(f"dropped {outcome.dropped}, {outcome.achieved:.1%} of the planned rate")
    lines.append(outcome.verdict.name + "".join(f"\n  {reason}" for reason in outcome.reasons))
    return "\n".join(lines)


def as_html(run: Run, outcome: Outcome, about: Mapping[str, str]) -> str:
    """Render it as HTML."""
    every, by_second = outcome.rows[0], _by_second(run)
    what = "Latency counts from the intended start of each request."
    sections = [
        facts(
            {
                "requests": f"{every.count:,}",
                "failed": f"{every.failed / every.count:.2%}" if every.count else "-",
                "p95": f"{every.p95 * 1000:,.0f} ms",
                "p99": f"{every.p99 * 1000:,.0f} ms",
                "dropped": f"{outcome.dropped:,}",
                "of the planned rate": f"{outcome.achieved:.1%}",
            }
        ),
        "<ul>" + "".join(f"<li>{escape(reason)}</li>" for reason in outcome.reasons) + "</ul>",
        section(
            "Latency over time", chart(by_second[:2], x="seconds since the start", y="seconds"), about=what
        ),
        section(
            "Requests over time",
            chart(by_second[2:], x="seconds since the start", y="a second"),
            about="By the second in which they were meant to begin.",
        ),
        section(
            "Routes",
            table(_HEAD, [[r.route, r.count, r.failed, r.p50, r.p95, r.p99, r.most] for r in outcome.rows]),
        ),
    ]
    if outcome.errors:
        sections.append(section("Errors", bars(outcome.errors, unit="requests")))
    sections.append(section("The run", table(("setting", "value"), about.items())))
    return page("Load", outcome.verdict.name.lower(), sections, lead=f"{run.planned:,} arrivals planned.")


def write(folder: Path, run: Run, outcome: Outcome, *, limits: Limits, about: Mapping[str, str]) -> None:
    """Store ``load.json`` and ``report.html`` in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    allowed = {name: getattr(limits, name) for name in Limits.__slots__}
    data = {**outcome.as_json(), "limits": allowed, "run": dict(about), "machine": machine()}
    (folder / "load.json").write_text(json.dumps(data, indent=2) + "\n")
    (folder / "report.html").write_text(as_html(run, outcome, about))


def _by_second(run: Run) -> list[Series]:
    seconds: dict[int, list[Sample]] = {second: [] for second in range(int(run.seconds))}
    for sample in run.samples:
        seconds.setdefault(int(sample.intended), []).append(sample)
    latencies = {second: [sample.latency for sample in found] for second, found in sorted(seconds.items())}
    return [
        Series("p50", [(second, percentile(found, 0.5)) for second, found in latencies.items()]),
        Series("p99", [(second, percentile(found, 0.99)) for second, found in latencies.items()]),
        Series("sent", [(second, float(len(found))) for second, found in latencies.items()]),
        Series(
            "failed", [(second, float(sum(bool(it.error) for it in seconds[second]))) for second in latencies]
        ),
    ]
