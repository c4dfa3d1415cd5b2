"""How large a pool must be, and how many connections all instances may open."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["PLANNED_USE", "Connections", "pool_for", "waiting"]

PLANNED_USE = 0.65
"""Of a pool: waiting grows without bound towards 1."""


def pool_for(rate: float, held: float, use: float = PLANNED_USE) -> int:
    """Return the connections for a rate of requests that hold one for some seconds each (Little), at a planned use."""
    return max(math.ceil(rate * held / use - 1e-9), 1)


def waiting(use: float) -> float:
    """Return how long a request waits, in service times, at a use below 1 (M/M/1)."""
    return use / (1 - use) if use < 1 else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Connections:
    """Who connects to the database.

    Attributes:
        replicas: Instances at most.
        surge: Instances more while they are replaced.
        pool: Connections of each.
        probe: Connections of each beside its pool, such as one for health.
        others: Migrations, exporters, people.
        most: Its ``max_connections``.
        reserved: Its ``superuser_reserved_connections``.
    """

    replicas: int
    pool: int
    most: int
    surge: int = 1
    probe: int = 1
    others: int = 2
    reserved: int = 3

    @property
    def needed(self) -> int:
        """All that may be open at once."""
        return (self.replicas + self.surge) * (self.pool + self.probe) + self.others

    @property
    def free(self) -> int:
        """What is left; below 0, connections are refused."""
        return self.most - self.reserved - self.needed
