"""The command `postfacta lab capacity`: the Universal Scalability Law, and pools by Little's law.

X(N) = rN / (1 + c(N - 1) + kN(N - 1)): N requests are under way on average, X are answered well a
second; r is the rate, c the contention (waiting for one another), k the coherence (what they cost
one another). A parameter that is not distinct from 0 is not identified, and then there is no peak
to name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from ..engine.page import chart, page, section, table
from ..verdict import Verdict

_FEWEST_POINTS = 6
_UNKNOWN = (
    f"not identified: {_FEWEST_POINTS} points are needed, and contention and coherence that are"
    " distinct from 0"
)
# Of a pool: a request waits twice its time of service, at 0.9 nine times (M/M/1).
_PLANNED_USE = 0.65
_RESERVED = 3  # PostgreSQL's superuser_reserved_connections
_HOUR = 3600  # seconds
_THREE = range(3)


@click.command("capacity")
@click.argument("files", nargs=-1, required=True, type=Path)
@click.option("--html", type=Path, help="Draw the fit and its residuals there.")
@click.option("--held", type=float, help="Seconds for which a request holds a connection.")
@click.option("--pool", type=int, help="Connections of an instance's pool.")
@click.option(
    "--replicas",
    default=1,
    show_default=True,
    help="Instances at most, of which one is replaced.",
)
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
        points = [point for file in files for point in _points(file)]
        scaling = fit(sorted(points))
    except (OSError, ValueError, KeyError, TypeError) as error:
        names = ", ".join(map(str, files))
        raise click.ClickException(f"{names}: {error}") from None
    best = max(rate for _, rate in scaling.points)
    verdict = Verdict.INVALID if scaling.most_under_way is None else Verdict.PASS
    lines = [f"best measured: {best:.1f} good answers a second", *scaling.in_words()]
    if held is not None:
        busy = best * held
        size = pool_for(best, held)
        lines.append(
            f"pool: {best:.0f}/s x {held:g} s = {busy:.1f} connections busy; "
            f"{size} keep their use below {_PLANNED_USE:.0%}"
        )
    if price is not None:
        cost = price / best / _HOUR * 1_000_000
        lines.append(f"cost: {cost:.3f} for a million requests, at {best:.0f}/s")
    if pool is not None and max_connections is not None:
        # While an instance is replaced. Each has one for health, too, and two are for other
        # programs.
        needed = (replicas + 1) * (pool + 1) + 2
        free = max_connections - _RESERVED - needed
        lines.append(f"connections: {needed} may be open, {free} are free")
        if free < 0:
            verdict = Verdict.FAIL
    click.echo("\n".join(lines))
    if html:
        html.write_text(_page(scaling, lines, verdict))
    return verdict


def _points(file: Path) -> list[tuple[float, float]]:
    """Return requests under way and good answers a second, for each part of steady load."""
    parts = json.loads(file.read_text())["parts"]
    steady = (part for part in parts if part["name"].startswith(("step", "steady")))
    return [(part["in_flight"], part["goodput"]) for part in steady]


def _page(scaling: Scaling, lines: Sequence[str], verdict: Verdict) -> str:
    loads = [under_way for under_way, _ in scaling.points]
    first = loads[0]
    length = loads[-1] - first
    steps = [first + length * step / 50 for step in range(51)]
    fitted = [(under_way, scaling.at(under_way)) for under_way in steps]
    curves = {"measured": scaling.points, "fitted": fitted}
    sizes = [abs(residual) for residual in scaling.residuals]
    residuals = list(zip(loads, sizes, strict=True))
    fit_chart = chart(curves, x="requests", y="a second")
    residual_chart = chart({"size": residuals}, x="requests under way", y="a second")
    findings = table(("finding",), [[line] for line in lines])
    sections = [
        section("Throughput by what is under way", fit_chart),
        section("Residuals", residual_chart),
        section("In words", findings),
    ]
    return page("Capacity", verdict.name.lower(), sections)


@dataclass(frozen=True, slots=True)
class Scaling:
    """A fit: the parameters, the standard errors of the three, and the points."""

    rate: float
    contention: float
    coherence: float
    errors: Sequence[float]
    points: Sequence[tuple[float, float]]

    def at(self, under_way: float) -> float:
        """Return the answers a second that the law gives."""
        waiting = self.contention * (under_way - 1)
        agreeing = self.coherence * under_way * (under_way - 1)
        cost = 1 + waiting + agreeing
        return self.rate * under_way / max(cost, 1e-9)

    @property
    def residuals(self) -> list[float]:
        """Measured less computed, for each point."""
        return [measured - self.at(under_way) for under_way, measured in self.points]

    @property
    def most_under_way(self) -> float | None:
        """Requests under way above which throughput falls; None if that is not identified."""
        _, of_contention, of_coherence = self.errors
        is_distinct = self.contention > of_contention and self.coherence > of_coherence
        if len(self.points) < _FEWEST_POINTS or not is_distinct or self.contention >= 1:
            return None
        return math.sqrt((1 - self.contention) / self.coherence)

    def in_words(self) -> list[str]:
        """Return three lines: the parameters with their errors, the residuals, the peak."""
        of_rate, of_contention, of_coherence = self.errors
        parameters = (
            f"rate = {self.rate:.4g} ± {of_rate:.2g}",
            f"contention = {self.contention:.4g} ± {of_contention:.2g}",
            f"coherence = {self.coherence:.4g} ± {of_coherence:.2g}",
        )
        residuals = ", ".join(f"{residual:+.1f}" for residual in self.residuals)
        most = self.most_under_way
        peak = _UNKNOWN
        if most is not None:
            peak = f"{self.at(most):.1f} a second, with {most:.1f} under way"
        return [
            "; ".join(parameters),
            f"residuals: {residuals}",
            f"peak: {peak}",
        ]


def fit(points: Sequence[tuple[float, float]]) -> Scaling:
    """Fit the law by least squares, for N / X is linear.

    A + b(N - 1) + dN(N - 1), with r = 1 / a, c = b / a, k = d / a.
    """
    used = [(under_way, rate) for under_way, rate in points if under_way > 0 and rate > 0]
    if len(used) < 3:
        raise ValueError(
            f"{len(used)} usable points: three parameters need at least three, a verdict"
            f" {_FEWEST_POINTS}"
        )
    rows: list[tuple[float, tuple[float, float, float], float]] = []
    for n, x in used:
        # It makes a residual of N / X, squared, one of X.
        weight = x**4 / n**2
        terms = (1.0, n - 1, n * (n - 1))
        rows.append((weight, terms, n / x))

    def product(i: int, j: int) -> float:
        return sum(weight * terms[i] * terms[j] for weight, terms, _ in rows)

    # The normal equations: the inverse of the terms' products, times their products with N / X.
    products = [[product(i, j) for j in _THREE] for i in _THREE]
    inverse = _inverse(products)
    right = [sum(weight * terms[i] * value for weight, terms, value in rows) for i in _THREE]
    a, b, d = (sum(row[i] * right[i] for i in _THREE) for row in inverse)
    unknown = (math.inf, math.inf, math.inf)
    scaling = Scaling(1 / a, b / a, d / a, unknown, used)
    if len(used) == 3:
        return scaling
    freedom = len(used) - 3
    variance = sum(residual**2 for residual in scaling.residuals) / freedom
    # How r, c and k change with a, b and d: the delta method.
    slopes = (
        (-1 / a**2, 0.0, 0.0),
        (-b / a**2, 1 / a, 0.0),
        (-d / a**2, 0.0, 1 / a),
    )
    errors: list[float] = []
    for slope in slopes:
        square = sum(slope[i] * slope[j] * inverse[i][j] for i in _THREE for j in _THREE)
        errors.append(math.sqrt(variance * max(square, 0.0)))
    return replace(scaling, errors=errors)


def _inverse(matrix: list[list[float]]) -> list[list[float]]:
    """Invert a symmetric matrix of sums of squares, by Gauss and Jordan."""
    rows: list[list[float]] = []
    for i, row in enumerate(matrix):
        identity = [float(i == j) for j in _THREE]
        rows.append([*row, *identity])
    for k in _THREE:
        pivot = rows[k][k]
        if pivot <= 1e-13 * matrix[k][k]:
            raise ValueError("the points are too much alike: measure at more different loads")
        rows[k] = [cell / pivot for cell in rows[k]]
        for i in {*_THREE} - {k}:
            factor = rows[i][k]
            pairs = zip(rows[i], rows[k], strict=True)
            rows[i] = [cell - factor * pivot_cell for cell, pivot_cell in pairs]
    return [row[3:] for row in rows]


def pool_for(rate: float, seconds: float) -> int:
    """Return the connections for a rate of requests that hold one for some seconds (Little)."""
    busy = rate * seconds
    return max(math.ceil(busy / _PLANNED_USE - 1e-9), 1)
