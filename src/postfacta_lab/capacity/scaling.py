"""The Universal Scalability Law, fitted to measured throughput: X(N) = rN / (1 + c(N - 1) + kN(N - 1)).

N requests are under way on average, X are answered well a second; r is the rate, c the contention (waiting for one
another), k the coherence (what they cost one another). A parameter that is not distinct from 0 is not identified, and then there is no peak to name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["FEWEST_POINTS", "Scaling", "fit"]

FEWEST_POINTS = 6
_ROUNDS = 200
_ENOUGH = 1e-12
_Row = list[float]


@dataclass(frozen=True, slots=True)
class Scaling:
    """A fit.

    Attributes:
        rate: Answers a second of a request that is alone.
        contention: The share of the work that is done one after the other.
        coherence: What each pair of requests costs.
        errors: Standard errors of the three; infinite if the points do not tell.
        points: What was fitted: requests under way, answers a second.
    """

    rate: float
    contention: float
    coherence: float
    errors: tuple[float, float, float]
    points: Sequence[tuple[float, float]]

    def at(self, under_way: float) -> float:
        """Return the answers a second that the law gives."""
        return _law((self.rate, self.contention, self.coherence), under_way)

    @property
    def residuals(self) -> list[float]:
        """Measured less computed, for each point."""
        return [measured - self.at(under_way) for under_way, measured in self.points]

    @property
    def is_identified(self) -> bool:
        """Whether contention and coherence are each more than a standard error above 0."""
        found = zip((self.contention, self.coherence), self.errors[1:], strict=True)
        return len(self.points) >= FEWEST_POINTS and all(value > error for value, error in found)

    @property
    def most_under_way(self) -> float | None:
        """Requests under way above which throughput falls; None if that is not identified."""
        if not self.is_identified or self.contention >= 1:
            return None
        return math.sqrt((1 - self.contention) / self.coherence)


def fit(points: Sequence[tuple[float, float]]) -> Scaling:
    """Fit the law by least squares, with no parameter below 0 (Levenberg-Marquardt).

    Raises:
        ValueError: There are fewer than three points with something under way.
    """
    used = [(under_way, rate) for under_way, rate in points if under_way > 0 and rate > 0]
    if len(used) < 3:
        raise ValueError(
            f"{len(used)} usable points: three parameters need at least three, a verdict {FEWEST_POINTS}"
        )
    # A start: requests that do not disturb one another.
    theta = [max(rate / under_way for under_way, rate in used), 0.01, 0.0001]
    damping, left = 1e-3, _squares(theta, used)
    for _ in range(_ROUNDS):
        gradient, normal = _normal(theta, used)
        damped = [
            [cell * (1 + damping * (i == j)) for j, cell in enumerate(row)] for i, row in enumerate(normal)
        ]
        step = _solve(damped, gradient)
        tried = [max(value + change, 0.0) for value, change in zip(theta, step, strict=True)]
        after = _squares(tried, used)
        if after < left:
            gain, theta, left, damping = left - after, tried, after, damping / 3
            if gain <= _ENOUGH * left:
                break
        else:
            damping *= 4
    freedom = len(used) - 3
    spread = left / freedom if freedom > 0 else math.inf
    _, normal = _normal(theta, used)
    errors = [math.sqrt(spread * max(_solve(normal, unit)[k], 0.0)) for k, unit in enumerate(_UNITS)]
    return Scaling(theta[0], theta[1], theta[2], (errors[0], errors[1], errors[2]), used)


_UNITS = ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0])


def _law(theta: Sequence[float], n: float) -> float:
    rate, contention, coherence = theta
    return rate * n / _cost(contention, coherence, n)


def _cost(contention: float, coherence: float, n: float) -> float:
    return max(1 + contention * (n - 1) + coherence * n * (n - 1), 1e-9)


def _squares(theta: Sequence[float], points: Sequence[tuple[float, float]]) -> float:
    return sum((measured - _law(theta, n)) ** 2 for n, measured in points)


def _normal(theta: Sequence[float], points: Sequence[tuple[float, float]]) -> tuple[_Row, list[_Row]]:
    """Return the right side and the matrix of the normal equations."""
    rate, contention, coherence = theta
    gradient, matrix = [0.0] * 3, [[0.0] * 3 for _ in range(3)]
    for n, measured in points:
        cost = _cost(contention, coherence, n)
        slopes = [n / cost, -rate * n * (n - 1) / cost**2, -rate * n * n * (n - 1) / cost**2]
        miss = measured - rate * n / cost
        for i in range(3):
            gradient[i] += slopes[i] * miss
            for j in range(3):
                matrix[i][j] += slopes[i] * slopes[j]
    return gradient, matrix


def _solve(matrix: Sequence[_Row], right: Sequence[float]) -> _Row:
    """Solve three equations by Cramer's rule; infinite where the points do not tell."""
    whole = _determinant(matrix)
    scale = math.prod(matrix[k][k] for k in range(3))
    if not scale or abs(whole) <= 1e-14 * scale:
        return [math.inf] * 3
    columns = range(3)
    return [
        _determinant([[right[i] if j == k else matrix[i][j] for j in columns] for i in columns]) / whole
        for k in columns
    ]


def _determinant(m: Sequence[_Row]) -> float:
    (a, b, c), (d, e, f), (g, h, i) = m
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
