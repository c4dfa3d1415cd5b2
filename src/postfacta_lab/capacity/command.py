"""The command `postfacta lab capacity`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..engine.page import Series, chart, page, section, table
from ..verdict import Verdict
from .model import FEWEST_POINTS, PLANNED_USE, Scaling, connections, fit, pool_for

__all__ = ["command"]

_UNKNOWN = f"not identified: {FEWEST_POINTS} points are needed, and contention and coherence that are distinct from 0"
_RESERVED = 3  # PostgreSQL's superuser_reserved_connections


@click.command("capacity")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
@click.option("--html", type=click.Path(path_type=Path), help="Draw the fit and its residuals there.")
@click.option("--held", type=float, help="Seconds for which a request holds a connection.")
@click.option("--pool", type=int, help="Connections of an instance's pool.")
@click.option("--replicas", default=1, show_default=True, help="Instances at most, of which one is replaced.")
@click.option("--max-connections", type=int, help="Of the database.")
@click.option("--price", type=float, help="Of an instance, an hour.")
def command(
    *,
    files: tuple[Path, ...],
    html: Path | None,
    held: float | None,
    pool: int | None,
    replicas: int,
    max_connections: int | None,
    price: float | None,
) -> Verdict:
    """Fit the scalability law to the load.json files of runs, and plan pools by them.

    Exit code 1: more connections may be opened than the database has. 2: the law is not identified.
    """
    try:
        scaling = fit(sorted(point for file in files for point in _points(file)))
    except (ValueError, KeyError, TypeError) as error:
        raise click.ClickException(f"{', '.join(map(str, files))}: {error}") from None
    best = max(rate for _, rate in scaling.points)
    verdict = Verdict.INVALID if scaling.most_under_way is None else Verdict.PASS
    lines = [f"best measured: {best:.1f} good answers a second", *_of_the_law(scaling)]
    if held is not None:
        lines.append(
            f"pool: {best:.0f}/s x {held:g} s = {best * held:.1f} connections busy; "
            f"{pool_for(best, held)} keep their use below {PLANNED_USE:.0%}"
        )
    if price is not None:
        lines.append(f"cost: {price / best / 3600 * 1_000_000:.3f} for a million requests, at {best:.0f}/s")
    if pool is not None and max_connections is not None:
        needed = connections(replicas, pool)
        free = max_connections - _RESERVED - needed
        lines.append(f"connections: {needed} may be open, {free} are free")
        verdict = Verdict.FAIL if free < 0 else verdict
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


def _of_the_law(found: Scaling) -> list[str]:
    values = {"rate": found.rate, "contention": found.contention, "coherence": found.coherence}
    named = zip(values.items(), found.errors, strict=True)
    most = found.most_under_way
    return [
        "; ".join(f"{name} = {value:.4g} ± {error:.2g}" for (name, value), error in named),
        "residuals: " + ", ".join(f"{residual:+.1f}" for residual in found.residuals),
        f"peak: {_UNKNOWN if most is None else f'{found.at(most):.1f} a second, with {most:.1f} under way'}",
    ]


def _page(found: Scaling, lines: Sequence[str], verdict: Verdict) -> str:
    loads = [n for n, _ in found.points]
    steps = [loads[0] + (loads[-1] - loads[0]) * step / 50 for step in range(51)]
    curves = [Series("measured", found.points), Series("fitted", [(n, found.at(n)) for n in steps])]
    residuals = [(n, abs(residual)) for n, residual in zip(loads, found.residuals, strict=True)]
    sections = [
        section(
            "Throughput by what is under way",
            chart(curves, x="requests", y="a second"),
        ),
        section("Residuals", chart([Series("size", residuals)], x="requests under way", y="a second")),
        section("In words", table(("finding",), [[line] for line in lines])),
    ]
    return page("Capacity", verdict.name.lower(), sections)
