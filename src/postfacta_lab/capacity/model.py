"""What measured runs tell about capacity: the Universal Scalability Law, pools by Little's law.

X(N) = rN / (1 + c(N - 1) + kN(N - 1)): N requests are under way on average, X are answered well a second; r is the
rate, c the contention (waiting for one another), k the coherence (what they cost one another). A parameter that is not
distinct from 0 is not identified, and then there is no peak to name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

__all__ = ["FEWEST_POINTS", "PLANNED_USE", "Scaling", "connections", "fit", "pool_for"]

FEWEST_POINTS = 6
PLANNED_USE = 0.65
"""Of a pool: a request waits twice as long as it is served there, nine times as long at 0.9 (M/M/1)."""

_THREE = range(3)
_LEAST = 1e-9  # of the cost: a fit is no law far from its points


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
        cost = 1 + self.contention * (under_way - 1) + self.coherence * under_way * (under_way - 1)
        return self.rate * under_way / max(cost, _LEAST)

    @property
    def residuals(self) -> list[float]:
        """Measured less computed, for each point."""
        return [measured - self.at(under_way) for under_way, measured in self.points]

    @property
    def most_under_way(self) -> float | None:
        """Requests under way above which throughput falls; None if that is not identified."""
        _, of_contention, of_coherence = self.errors
        is_distinct = self.contention > of_contention and self.coherence > of_coherence
        if len(self.points) < FEWEST_POINTS or not is_distinct or self.contention >= 1:
            return None
        return math.sqrt((1 - self.contention) / self.coherence)


def fit(points: Sequence[tuple[float, float]]) -> Scaling:
    """Fit the law by least squares, for N / X is linear: a + b(N - 1) + dN(N - 1), with r = 1 / a, c = b / a, k = d / a.

    Raises:
        ValueError: There are fewer than three points with something under way, or they are too much alike.
    """
    used = [(under_way, rate) for under_way, rate in points if under_way > 0 and rate > 0]
    if len(used) < 3:
        raise ValueError(
            f"{len(used)} usable points: three parameters need at least three, a verdict {FEWEST_POINTS}"
        )
    # The weight makes a residual of N / X, squared, one of X.
    rows = [(x**4 / n**2, (1.0, n - 1, n * (n - 1)), n / x) for n, x in used]
    inverse = _inverse(
        [[sum(weight * term[i] * term[j] for weight, term, _ in rows) for j in _THREE] for i in _THREE]
    )
    right = [sum(weight * term[i] * value for weight, term, value in rows) for i in _THREE]
    a, b, d = (sum(row[i] * right[i] for i in _THREE) for row in inverse)
    found = Scaling(1 / a, b / a, d / a, (math.inf,) * 3, used)
    if len(used) == 3:
        return found
    variance = sum(residual**2 for residual in found.residuals) / (len(used) - 3)
    slopes = ((-1 / a**2, 0.0, 0.0), (-b / a**2, 1 / a, 0.0), (-d / a**2, 0.0, 1 / a))
    squares = [sum(s[i] * s[j] * inverse[i][j] for i in _THREE for j in _THREE) for s in slopes]
    return replace(found, errors=[math.sqrt(variance * max(square, 0.0)) for square in squares])


def _inverse(matrix: list[list[float]]) -> list[list[float]]:
    """Invert a symmetric matrix of sums of squares, by Gauss and Jordan."""
    rows = [[*row, *(float(i == j) for j in _THREE)] for i, row in enumerate(matrix)]
    for k in _THREE:
        pivot = rows[k][k]
        if pivot <= 1e-13 * matrix[k][k]:
            raise ValueError("the points are too much alike: measure at more different loads")
        rows[k] = [cell / pivot for cell in rows[k]]
        for i in {*_THREE} - {k}:
            factor = rows[i][k]
            rows[i] = [cell - factor * other for cell, other in zip(rows[i], rows[k], strict=True)]
    return [row[3:] for row in rows]


def pool_for(rate: float, held: float) -> int:
    """Return the connections for a rate of requests that hold one for some seconds each (Little), at the planned use."""
    return max(math.ceil(rate * held / PLANNED_USE - 1e-9), 1)


def connections(replicas: int, pool: int) -> int:
    """Return what may be open while an instance is replaced: each has one for health, too, two are for other programs."""
    return (replicas + 1) * (pool + 1) + 2
