"""Prints, stores and draws the outcome of a run of load."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate
from pathlib import Path

from ..engine.junit import Case, suite
from ..engine.page import Series, badge, bars, chart, facts, machine, page, section, table
from ..verdict import Verdict, overall
from .arrivals import Sample
from .gate import Limits, Outcome, Row, figures, percentile
from .histogram import Histogram
from .profiles import Part

__all__ = ["Report"]

_HEAD = ("route", "requests", "failed", "p50 s", "p95 s", "p99 s", "most s")
_PARTS = ("part", "offered/s", "good/s", "in flight", "failed", "p50 s", "p95 s", "p99 s", "verdict")


@dataclass(frozen=True, slots=True)
class Report:
    """What a load test found, in all its forms.

    Attributes:
        parts: In the order of the run.
        limits: What had to hold.
        about: Settings, by name.
    """

    parts: Sequence[Part]
    limits: Limits
    about: Mapping[str, str]

    @property
    def verdict(self) -> Verdict:
        return overall(part.outcome.verdict for part in self.parts)

    @property
    def reasons(self) -> list[str]:
        several = len(self.parts) > 1
        return [
            f"{part.name}: {reason}" if several else reason
            for part in self.parts
            if part.outcome.verdict is not Verdict.PASS
            for reason in part.outcome.reasons
        ]

    @property
    def errors(self) -> dict[str, int]:
        return dict(sum((Counter(part.outcome.errors) for part in self.parts), Counter[str]()))

    def rows(self) -> list[Row]:
        """Return the figures of all requests, and of each route, but for those of a warm-up."""
        if len(self.parts) == 1:
            return list(self.parts[0].outcome.rows)
        return figures(self._samples())

    def as_text(self) -> str:
        """Write tables for the terminal, and the verdict under them."""
        lines = [f"{_HEAD[0]:<32}" + "".join(f"{name:>10}" for name in _HEAD[1:])]
        lines += [
            f"{row.route:<32}{row.count:>10}{row.failed:>10}{row.p50:>10.3f}{row.p95:>10.3f}{row.p99:>10.3f}{row.most:>10.3f}"
            for row in self.rows()
        ]
        if len(self.parts) > 1:
            lines += ["", *(_line(part) for part in self.parts)]
        dropped = sum(part.outcome.dropped for part in self.parts)
        achieved = min(part.outcome.achieved for part in self.parts)
        lines.append(f"dropped {dropped}, {achieved:.1%} of the planned rate")
        lines.append(self.verdict.name + "".join(f"\n  {reason}" for reason in self.reasons))
        return "\n".join(lines)

    def as_json(self) -> dict[str, object]:
        return {
            "verdict": self.verdict.name.lower(),
            "exit_code": int(self.verdict),
            "reasons": self.reasons,
            "rows": [_plain(row) for row in self.rows()],
            "dropped": sum(part.outcome.dropped for part in self.parts),
            "errors": self.errors,
            "latencies_us": self._histogram().as_json(),
            "parts": [{"name": part.name, **part.outcome.as_json()} for part in self.parts],
            "limits": {name: getattr(self.limits, name) for name in Limits.__slots__},
            "run": dict(self.about),
            "machine": machine(),
        }

    def as_html(self) -> str:
        every, ticks = self.rows()[0], self._by_second()
        sections = [
            facts(
                {
                    "requests": f"{every.count:,}",
                    "failed": f"{every.failed / every.count:.2%}" if every.count else "-",
                    "p95": f"{every.p95 * 1000:,.0f} ms",
                    "p99": f"{every.p99 * 1000:,.0f} ms",
                    "dropped": f"{sum(part.outcome.dropped for part in self.parts):,}",
                }
            ),
            "<ul>" + "".join(f"<li>{escape(reason)}</li>" for reason in self.reasons) + "</ul>",
            *self._of_parts(),
            section(
                "Latency over time",
                chart(ticks[:2], x="seconds since the start", y="seconds", marks=self._bounds()),
                about="Latency counts from the intended start of each request. Dashed: a part begins.",
            ),
            section(
                "Requests over time",
                chart(ticks[2:], x="seconds since the start", y="a second", marks=self._bounds()),
                about="By the second in which they were meant to begin.",
            ),
            section(
                "Latency by percentile",
                table(
                    ("share of the requests", "at most s"),
                    [(f"{share:.3%}", value) for share, value in self._histogram().spectrum()],
                ),
            ),
            section("Routes", table(_HEAD, [list(_plain(row).values()) for row in self.rows()])),
        ]
        if self.errors:
            sections.append(section("Errors", bars(self.errors, unit="requests")))
        sections.append(section("The run", table(("setting", "value"), self.about.items())))
        return page(
            "Load", self.verdict.name.lower(), sections, lead=f"{self._planned():,} arrivals planned."
        )

    def as_junit(self) -> str:
        """Write a test case for each part, as CI services read it: what was not measured is an error."""
        cases = [Case("load", part.name, part.run.seconds, *_judged(part.outcome)) for part in self.parts]
        return suite("load", cases)

    def write(self, folder: Path) -> None:
        """Store ``load.json``, ``report.html`` and ``junit.xml`` in a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "load.json").write_text(json.dumps(self.as_json(), indent=2) + "\n")
        (folder / "report.html").write_text(self.as_html())
        (folder / "junit.xml").write_text(self.as_junit())

    def _of_parts(self) -> list[str]:
        if len(self.parts) == 1:
            return []
        rows = [(*_figures(part), badge(part.outcome.verdict.name.lower())) for part in self.parts]
        found = [section("Parts", table(_PARTS, rows))]
        steps = [part.outcome for part in self.parts if part.name.startswith("step ")]
        if len(steps) > 1:
            lines = [
                Series("offered", [(step.offered, step.offered) for step in steps]),
                Series("good", [(step.offered, step.goodput) for step in steps]),
            ]
            found.append(
                section("Throughput against offered load", chart(lines, x="offered a second", y="a second"))
            )
        return found

    def _planned(self) -> int:
        return sum(part.run.planned for part in self.parts)

    def _bounds(self) -> list[float]:
        return list(accumulate(part.run.seconds for part in self.parts[:-1]))

    def _samples(self) -> list[Sample]:
        return [
            sample
            for part in self.parts
            for sample in part.run.samples
            if sample.intended >= part.run.warm_up
        ]

    def _histogram(self) -> Histogram:
        return Histogram.of(sample.latency for sample in self._samples())

    def _by_second(self) -> list[Series]:
        seconds: dict[int, list[Sample]] = {}
        for start, part in zip([0.0, *self._bounds()], self.parts, strict=True):
            for sample in part.run.samples:
                seconds.setdefault(int(start + sample.intended), []).append(sample)
        ordered = sorted(seconds.items())
        return [
            Series("p50", [(second, _percentile(found, 0.5)) for second, found in ordered]),
            Series("p99", [(second, _percentile(found, 0.99)) for second, found in ordered]),
            Series("sent", [(second, float(len(found))) for second, found in ordered]),
            Series(
                "failed", [(second, float(sum(bool(it.error) for it in found))) for second, found in ordered]
            ),
        ]


def _judged(outcome: Outcome) -> tuple[str, str]:
    """Return the kind of a case, and why it is that."""
    if outcome.verdict is Verdict.PASS:
        return "", ""
    why = "; ".join(outcome.reasons) or outcome.verdict.name
    return "failure" if outcome.verdict is Verdict.FAIL else "error", why


def _percentile(samples: Sequence[Sample], share: float) -> float:
    return percentile([sample.latency for sample in samples], share)


def _plain(row: Row) -> dict[str, object]:
    return {name: getattr(row, name) for name in Row.__slots__}


def _figures(part: Part) -> tuple[str, float, float, float, int, float, float, float]:
    it: Outcome = part.outcome
    row = it.rows[0]
    return part.name, it.offered, it.goodput, it.in_flight, row.failed, row.p50, row.p95, row.p99


def _line(part: Part) -> str:
    name, offered, goodput, in_flight, failed, p50, p95, p99 = _figures(part)
    return (
        f"{name:<32}{offered:>8.1f}/s offered{goodput:>9.1f}/s good{in_flight:>8.1f} in flight{failed:>7} failed"
        f"{p50:>8.3f}{p95:>8.3f}{p99:>8.3f} s  {part.outcome.verdict.name}"
    )
