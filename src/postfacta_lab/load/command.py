"""The command `postfacta lab load` with its report, which is printed, stored, drawn."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import click

from ..engine.page import Case, badge, chart, machine, page, section, suite, table
from ..engine.variables import credentials, refuse_strangers
from ..verdict import FEWEST, Verdict, overall
from .gate import Limits, Run, Sample, row
from .generator import Target
from .mix import read_mix
from .profiles import PROFILES, Plan, run_profile

_NUMBERS: Mapping[str, tuple[float, str]] = {
    "rate": (50.0, "The expected peak, in arrivals a second."),
    "times": (1.0, "Multiplies the peak."),
    "seconds": (0.0, "Length of each stage; 0 for the profile's."),
    "warm-up": (0.0, "Seconds of the first stage that are not judged."),
    "p95": (0.2, "Largest 95th percentile, in seconds."),
    "p99": (0.5, "Largest 99th percentile, in seconds."),
    "min-count": (FEWEST, "Fewest requests for a verdict."),
    "capacity": (0.0, "Good answers a second, as `breakpoint` found them."),
    "cap": (500, "Requests in flight; more are dropped and counted."),
    "patience": (20.0, "Seconds after which a client hangs up."),
    "pid": (0, "The service's process, whose resources `soak` looks at."),
}
_ROWS = ("route", "requests", "failed", "p50 s", "p95 s", "p99 s", "p99.9 s", "most s")
_PARTS = (
    "part",
    "offered/s",
    "good/s",
    "in flight",
    "failed",
    "p50 s",
    "p95 s",
    "p99 s",
    "verdict",
)
_SECONDS = "By the second in which requests were meant to begin. Dashed: a part begins."
_JUNIT = {Verdict.PASS: "", Verdict.FAIL: "failure"}


@click.command(
    "load",
    epilog="TOKEN is sent as a bearer token, TRAFFIC_KEY as X-Traffic-Key.",
    params=[
        click.Option([f"--{name}"], default=default, show_default=True, help=about)
        for name, (default, about) in _NUMBERS.items()
    ],
)
@click.option(
    "--url", required=True, help="Where the service is; this machine, or a host in LOAD_HOSTS."
)
@click.option(
    "--path", "paths", multiple=True, help="Of the service, asked for by GET; may be repeated."
)
@click.option("--mix", type=Path, help="A file of requests instead: YAML or JSON.")
@click.option("--profile", type=click.Choice(list(PROFILES)), default="expected", show_default=True)
@click.option("--failed", type=float, help="Largest share of failures; by default the profile's.")
@click.option("--against", help="The other service of the profile `ab`.")
@click.option("--report", "folder", type=Path, default=Path("build/load"), show_default=True)
def command(
    *,
    url: str,
    paths: tuple[str, ...],
    mix: Path | None,
    profile: str,
    against: str | None,
    folder: Path,
    **numbers: Any,
) -> Verdict:
    """Load a running service in open loop, and judge how its users fared.

    The moments of all arrivals are decided before they come, and a latency counts from the moment
    its request was meant to begin. It writes load.json, report.html and junit.xml.
    """
    chosen = PROFILES[profile]
    if numbers["failed"] is None:
        numbers["failed"] = chosen.failed
    limits = Limits(
        count=numbers.pop("min_count"),
        failed=numbers.pop("failed"),
        p95=numbers.pop("p95"),
        p99=numbers.pop("p99"),
    )
    rate = chosen.rate or numbers["rate"]
    numbers["rate"] = rate * numbers.pop("times")
    numbers["seconds"] = numbers["seconds"] or chosen.seconds
    for address in filter(None, (url, against)):
        refuse_strangers(address)
    plan = Plan(
        target=Target(url, credentials()),
        against=Target(against, credentials()) if against else None,
        asks=read_mix(paths, mix),
        limits=limits,
        **numbers,
    )
    parts = asyncio.run(run_profile(chosen, plan))
    settings = {
        "url": url,
        "profile": profile,
        "mix": mix or " ".join(paths),
        **numbers,
    }
    about = {name: str(value) for name, value in settings.items()}
    report = Report(parts, limits, about)
    report.write(folder)
    click.echo(report.as_text())
    return report.verdict


@dataclass(frozen=True)
class Report:
    """What a load test found, in all its forms.

    Its parts in order, what had to hold, and its settings by name.
    """

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
        return Run(
            samples=[sample for part in self.parts for sample in part.judged],
            planned=sum(part.planned for part in self.parts),
            dropped=[at for part in self.parts for at in part.lost],
            seconds=sum(part.seconds for part in self.parts),
        )

    def as_text(self) -> str:
        """Write tables for the terminal, and the verdict under them."""
        lines = [_line(_ROWS)]
        lines += [_line(astuple(row)) for row in self.whole.rows]
        lines += ["", _line(_PARTS)]
        for part in self.parts:
            cells = _cells(part)
            lines.append(_line((*cells, part.verdict.name)))
        achieved = min(part.achieved for part in self.parts)
        lines.append(f"dropped {len(self.whole.lost)}, {achieved:.1%} of the planned rate")
        lines.append(self.verdict.name)
        lines += [f"  {reason}" for reason in self.reasons]
        return "\n".join(lines)

    def as_json(self) -> dict[str, object]:
        return {
            "verdict": self.verdict.name.lower(),
            "exit_code": int(self.verdict),
            "reasons": self.reasons,
            "rows": [asdict(row) for row in self.whole.rows],
            "dropped": len(self.whole.lost),
            "errors": self.whole.errors,
            "parts": [part.as_json() for part in self.parts],
            "limits": asdict(self.limits),
            "run": dict(self.about),
            "machine": machine(),
        }

    def as_html(self) -> str:
        steps = sorted((part.offered, part.goodput) for part in self.parts)
        rates = {
            "offered": [(offered, offered) for offered, _ in steps],
            "good": steps,
        }
        parts: list[Sequence[object]] = []
        seconds: dict[int, list[Sample]] = {}
        for part in self.parts:
            verdict = badge(part.verdict.name.lower())
            parts.append((*_cells(part), verdict))
            for sample in part.samples:
                second = int(sample.intended)
                seconds.setdefault(second, []).append(sample)
        rows = [(second, row("all", samples)) for second, samples in sorted(seconds.items())]
        lines = {
            "p50": [(second, figures.p50) for second, figures in rows],
            "p99": [(second, figures.p99) for second, figures in rows],
        }
        marks = [part.start for part in self.parts[1:]]
        reasons = "".join(f"<li>{escape(reason)}</li>" for reason in self.reasons)
        routes = table(_ROWS, map(astuple, self.whole.rows))
        throughput = chart(rates, x="offered a second", y="a second")
        latency = chart(lines, x="seconds since the start", y="seconds", marks=marks)
        errors = table(("error", "requests"), self.whole.errors.items())
        settings = table(("setting", "value"), self.about.items())
        sections = [
            f"<ul>{reasons}</ul>",
            section("Routes", routes),
            section("Parts", table(_PARTS, parts)),
            section("Throughput against offered load", throughput),
            section("Latency", latency, about=_SECONDS),
            section("Errors", errors),
            section("The run", settings),
        ]
        dropped = len(self.whole.lost)
        lead = f"{self.whole.planned:,} arrivals planned, {dropped:,} dropped."
        return page("Load", self.verdict.name.lower(), sections, lead=lead)

    def write(self, folder: Path) -> None:
        """Store ``load.json``, ``report.html`` and ``junit.xml`` (a case for each part)."""
        cases = [
            Case(
                group="load",
                name=part.name,
                seconds=part.seconds,
                kind=_JUNIT.get(part.verdict, "error"),
                text="; ".join(part.reasons),
            )
            for part in self.parts
        ]
        folder.mkdir(parents=True, exist_ok=True)
        document = json.dumps(self.as_json(), indent=2)
        (folder / "load.json").write_text(document + "\n")
        (folder / "report.html").write_text(self.as_html())
        (folder / "junit.xml").write_text(suite("load", cases))


def _cells(part: Run) -> tuple[object, ...]:
    row = part.rows[0]
    return (
        part.name,
        part.offered,
        part.goodput,
        part.in_flight,
        row.failed,
        row.p50,
        row.p95,
        row.p99,
    )


def _line(cells: Sequence[object]) -> str:
    texts = [f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells]
    first, *figures = texts
    line = f"{first:<32}"
    for figure in figures:
        line += f"{figure:>10}"
    return line
