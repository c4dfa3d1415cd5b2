"""Counts of latencies from a microsecond to hours, with three digits each, which can be merged (as HdrHistogram does).

Values below 2,048 µs have a bucket each; above, each doubling of the value has 1,024 of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["Histogram"]

_HALF_BITS = 10
_HALF = 1 << _HALF_BITS
_SHARES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999, 0.99999, 1.0)


class Histogram:
    """Latencies in seconds, counted.

    Args:
        counts: By the number of the bucket, such as `as_json` gives.
    """

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self._counts = Counter(counts or {})

    @classmethod
    def of(cls, values: Iterable[float]) -> Histogram:
        return cls(Counter(_bucket(value) for value in values))

    @property
    def count(self) -> int:
        return self._counts.total()

    def add(self, other: Histogram) -> None:
        self._counts += other._counts

    def percentile(self, share: float) -> float:
        """Return the smallest value that at least this share does not exceed, to three digits; 0 of none."""
        left = max(math.ceil(share * self.count), 1)
        for bucket, count in sorted(self._counts.items()):
            left -= count
            if left <= 0:
                return _highest(bucket)
        return 0.0

    def spectrum(self) -> Sequence[tuple[float, float]]:
        return [(share, self.percentile(share)) for share in _SHARES]

    def as_json(self) -> dict[str, int]:
        """Return it as plain data: bucket to count."""
        return {str(bucket): count for bucket, count in sorted(self._counts.items())}


def _bucket(seconds: float) -> int:
    value = max(int(seconds * 1_000_000), 0)
    shift = max(value.bit_length() - _HALF_BITS - 1, 0)
    return shift * _HALF + (value >> shift)


def _highest(bucket: int) -> float:
    """Return the largest value, in seconds, that a bucket counts."""
    shift = max(bucket // _HALF - 1, 0)
    return (((bucket - shift * _HALF + 1) << shift) - 1) / 1_000_000
