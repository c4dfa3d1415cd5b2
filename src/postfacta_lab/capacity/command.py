"""The command `postfacta lab capacity`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..engine.page import Series, chart, facts, page, section, table
from ..verdict import Verdict
from .pools import PLANNED_USE, Connections, pool_for, waiting
from .scaling import FEWEST_POINTS, Scaling, fit

__all__ = ["command"]

_SHORT = "not identified"


@click.command("capacity")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
@click.option("--html", type=click.Path(path_type=Path), help="Draw the fit and its residuals there.")
@click.option("--held", type=float, help="Seconds for which a request holds a connection.")
@click.option("--pool", type=int, help="Connections of an instance's pool.")
@click.option("--replicas", default=1, show_default=True, help="Instances at most.")
@click.option("--surge", default=1, show_default=True, help="Instances more while they are replaced.")
@click.option("--max-connections", type=int, help="Of the database.")
@click.option("--price", type=float, help="Of an instance, an hour.")
def command(
    *,
    files: tuple[Path, ...],
    html: Path | None,
    held: float | None,
    pool: int | None,
    replicas: int,
    surge: int,
    max_connections: int | None,
    price: float | None,
) -> Verdict:
    """Fit the scalability law to the load.json files of runs, and plan pools by them.

    Exit code 1: more connections may be opened than the database has. 2: the law is not identified.
    """
    try:
        points = sorted(point for file in files for point in _points(file))
        best = max((rate for _, rate in points), default=0.0)
        scaling = fit(points)
    except (ValueError, KeyError, TypeError) as error:
        raise click.ClickException(f"{', '.join(map(str, files))}: {error}") from None
    lines = _scaling(scaling, best)
    if held is not None:
        size = pool_for(best, held)
        lines.append(
            f"pool: {best:.0f}/s x {held:g} s = {best * held:.1f} connections busy; {size} keep their use below "
            f"{PLANNED_USE:.0%}, at which a request waits {waiting(PLANNED_USE):.1f} times as long as it is served"
        )
    if price is not None:
        lines.append(f"cost: {price / best / 3600 * 1_000_000:.3f} for a million requests, at {best:.0f}/s")
    verdict = Verdict.PASS if scaling.is_identified else Verdict.INVALID
    if pool is not None and max_connections is not None:
        all_of_them = Connections(replicas=replicas, surge=surge, pool=pool, most=max_connections)
        lines.append(f"connections: {all_of_them.needed} may be open, {all_of_them.free} are free")
        verdict = Verdict.FAIL if all_of_them.free < 0 else verdict
    click.echo("\n".join(lines))
    if html:
        html.write_text(_page(scaling, lines, verdict))
    return verdict


def _points(file: Path) -> list[tuple[float, float]]:
    """Return requests under way and good answers a second, for each part that was offered a steady load."""
    data: dict[str, Any] = json.loads(file.read_text())
    return [
        (part["in_flight"], part["goodput"])
        for part in data["parts"]
        if part["name"].startswith(("step", "steady"))
    ]


def _scaling(found: Scaling, best: float) -> list[str]:
    named = zip(
        ("rate", "contention", "coherence"),
        (found.rate, found.contention, found.coherence),
        found.errors,
        strict=True,
    )
    peak = found.most_under_way
    lines = [
        f"best measured: {best:.1f} good answers a second",
        "; ".join(f"{name} = {value:.4g} ± {error:.2g}" for name, value, error in named),
        "residuals: " + ", ".join(f"{it:+.1f}" for it in found.residuals),
    ]
    if peak is None:
        why = (
            f"{len(found.points)} points, {FEWEST_POINTS} needed"
            if len(found.points) < FEWEST_POINTS
            else "contention or coherence is within a standard error of 0"
        )
        return [*lines, f"peak: {_SHORT} ({why})"]
    return [*lines, f"peak: {found.at(peak):.1f} a second, with {peak:.1f} under way"]


def _page(found: Scaling, lines: Sequence[str], verdict: Verdict) -> str:
    most = max(n for n, _ in found.points)
    curve = [(most * step / 50, found.at(most * step / 50)) for step in range(1, 51)]
    residuals = [(n, abs(it)) for (n, _), it in zip(found.points, found.residuals, strict=True)]
    sections = [
        facts(
            {
                "best measured": f"{max(rate for _, rate in found.points):.1f}/s",
                "points": str(len(found.points)),
            }
        ),
        section(
            "Throughput by what is under way",
            chart(
                [Series("measured", list(found.points)), Series("fitted", curve)], x="requests", y="a second"
            ),
            about="Universal Scalability Law, by least squares.",
        ),
        section("Residuals", chart([Series("size", residuals)], x="requests under way", y="a second")),
        section("In words", table(("finding",), [[line] for line in lines])),
    ]
    return page("Capacity", verdict.name.lower(), sections)
