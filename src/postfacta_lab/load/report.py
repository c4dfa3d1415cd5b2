"""Prints, stores and draws the outcome of a run of load."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import cached_property
from html import escape
from pathlib import Path

from ..engine.junit import Case, suite
from ..engine.page import Series, badge, chart, machine, page, section, table
from ..verdict import Verdict, overall
from .arrivals import Sample
from .gate import Limits, Row, Run, percentile, row

__all__ = ["Report", "histogram"]

_ROWS = ("route", "requests", "failed", "p50 s", "p95 s", "p99 s", "most s")
_PARTS = ("part", "offered/s", "good/s", "in flight", "failed", "p50 s", "p95 s", "p99 s", "verdict")
_SHARES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999, 0.99999, 1.0)
_JUNIT = {Verdict.PASS: "", Verdict.FAIL: "failure"}


@dataclass(frozen=True)
class Report:
    """What a load test found, in all its forms: its parts in order, what had to hold, and its settings by name."""

    parts: Sequence[Run]
    limits: Limits
    about: Mapping[str, str]

    @property
    def verdict(self) -> Verdict:
        return overall(part.verdict for part in self.parts)

    @property
    def reasons(self) -> list[str]:
        return [f"{part.name}: {reason}" for part in self.parts for reason in part.reasons]

    @cached_property
    def whole(self) -> Run:
        """All parts as one."""
        return Run(
            samples=[sample for part in self.parts for sample in part.judged],
            planned=sum(part.planned for part in self.parts),
            dropped=[at for part in self.parts for at in part.lost],
            seconds=sum(part.seconds for part in self.parts),
        )

    def as_text(self) -> str:
        """Write tables for the terminal, and the verdict under them."""
        lines = [_line(_ROWS), *(_line(astuple(row)) for row in self.whole.rows)]
        lines += ["", _line(_PARTS), *(_line((*_cells(part), part.verdict.name)) for part in self.parts)]
        achieved = min(part.achieved for part in self.parts)
        lines.append(f"dropped {len(self.whole.lost)}, {achieved:.1%} of the planned rate")
        return "\n".join([*lines, self.verdict.name, *(f"  {reason}" for reason in self.reasons)])

    def as_json(self) -> dict[str, object]:
        return {
            "verdict": self.verdict.name.lower(),
            "exit_code": int(self.verdict),
            "reasons": self.reasons,
            "rows": [asdict(row) for row in self.whole.rows],
            "dropped": len(self.whole.lost),
            "errors": self.whole.errors,
            "latencies_us": dict(sorted(histogram(it.latency for it in self.whole.samples).items())),
            "parts": [part.as_json() for part in self.parts],
            "limits": asdict(self.limits),
            "run": dict(self.about),
            "machine": machine(),
        }

    def as_html(self) -> str:
        latencies = sorted(it.latency for it in self.whole.samples)
        spectrum = [(f"{share:.3%}", percentile(latencies, share)) for share in _SHARES]
        steps = sorted(self.parts, key=lambda part: part.offered)
        rates = [
            Series("offered", [(step.offered, step.offered) for step in steps]),
            Series("good", [(step.offered, step.goodput) for step in steps]),
        ]
        sections = [
            "<ul>" + "".join(f"<li>{escape(reason)}</li>" for reason in self.reasons) + "</ul>",
            section("Routes", table(_ROWS, map(astuple, self.whole.rows))),
            section(
                "Parts", table(_PARTS, [(*_cells(it), badge(it.verdict.name.lower())) for it in self.parts])
            ),
            section("Throughput against offered load", chart(rates, x="offered a second", y="a second")),
            self._over_time("Latency", ("p50", "p99"), "seconds"),
            self._over_time("Requests", ("count", "failed"), "a second"),
            section("Latency by percentile", table(("share of the requests", "at most s"), spectrum)),
            section("Errors", table(("error", "requests"), self.whole.errors.items())),
            section("The run", table(("setting", "value"), self.about.items())),
        ]
        lead = f"{self.whole.planned:,} arrivals planned, {len(self.whole.lost):,} dropped."
        return page("Load", self.verdict.name.lower(), sections, lead=lead)

    def as_junit(self) -> str:
        """Write a test case for each part, as CI services read it: what was not measured is an error."""
        cases = [
            Case("load", it.name, it.seconds, _JUNIT.get(it.verdict, "error"), "; ".join(it.reasons))
            for it in self.parts
        ]
        return suite("load", cases)

    def write(self, folder: Path) -> None:
        """Store ``load.json``, ``report.html`` and ``junit.xml`` in a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "load.json").write_text(json.dumps(self.as_json(), indent=2) + "\n")
        (folder / "report.html").write_text(self.as_html())
        (folder / "junit.xml").write_text(self.as_junit())

    @cached_property
    def _seconds(self) -> list[tuple[int, Row]]:
        """The figures of each second, also of the warm-up."""
        seconds: dict[int, list[Sample]] = {}
        for part in self.parts:
            for sample in part.samples:
                seconds.setdefault(int(sample.intended), []).append(sample)
        return [(second, row("all", found)) for second, found in sorted(seconds.items())]

    def _over_time(self, heading: str, names: Sequence[str], unit: str) -> str:
        lines = [
            Series(name, [(second, getattr(row, name)) for second, row in self._seconds]) for name in names
        ]
        marks = [part.start for part in self.parts[1:]]
        return section(
            heading,
            chart(lines, x="seconds since the start", y=unit, marks=marks),
            about="By the second in which requests were meant to begin. Dashed: a part begins.",
        )


def _cells(part: Run) -> tuple[object, ...]:
    row = part.rows[0]
    rates = (part.offered, part.goodput, part.in_flight)
    return (part.name, *rates, row.failed, row.p50, row.p95, row.p99)


def _line(cells: Sequence[object]) -> str:
    first, *others = (f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells)
    return f"{first:<32}" + "".join(f"{cell:>10}" for cell in others)


def histogram(latencies: Iterable[float]) -> Counter[int]:
    """Count latencies by their microseconds to four digits, within 0.1 % as HdrHistogram; to merge two, add them."""
    return Counter(int(float(f"{seconds * 1_000_000:.4g}")) for seconds in latencies)
