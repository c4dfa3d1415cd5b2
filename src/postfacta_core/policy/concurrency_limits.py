"""Find how many requests at once a service can serve, from what was measured.

Three strategies for an `AdaptiveLimiter`, which calls `resize` for each window of requests:

* `LatencyTarget`: additive increase, multiplicative decrease against a latency; the default.
* `Vegas`: keeps an estimated queue between two bounds.
* `Gradient`: follows the ratio of the best latency to the present one.

They share what they take for the latency without load. A long-term mean would learn an overload as normal: limit,
latency and mean then push each other up. So it falls at once to whatever better was measured. It rises only while
less than half of the limit is used, so that no queue of ours can be its cause, and by no more than twice in a minute.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Protocol

__all__ = ["Gradient", "LatencyTarget", "Measured", "Vegas"]

_DOUBLES_IN: Final = 60.0
_HALF, _QUARTER = 0.5, 0.25
# A loop that is later than this, as a multiple of what it may be, is sick whoever makes it so.
_MOST_LAG: Final = 4.0


class Measured(Protocol):
    """A `policy.concurrency.Window`: what the requests of a while had in common."""

    @property
    def latency(self) -> float:
        """Seconds from admission to the end, as the geometric mean."""
        ...

    @property
    def lag(self) -> float:
        """Seconds from admission until the event loop got to it, as the mean."""
        ...

    @property
    def rate(self) -> float:
        """Requests that ended a second; 0 if that is not known."""
        ...

    @property
    def dropped(self) -> float:
        """The share of requests that ran out of time."""
        ...

    @property
    def used(self) -> float:
        """The most requests at once, as a share of the limit."""
        ...


class _Baseline:
    """The latency without load."""

    def __init__(self) -> None:
        self.seconds = math.inf
        self._at = -math.inf

    def learn(self, window: Measured, now: float) -> None:
        if window.dropped < _HALF:
            if window.latency < self.seconds:
                self.seconds = window.latency
            elif window.used < _HALF:
                self.seconds = min(window.latency, self.seconds * 2 ** ((now - self._at) / _DOUBLES_IN))
        self._at = now


@dataclass(slots=True)
class _Series:
    """Cuts in a row.

    Attributes:
        origin: The limit before the first of them.
        limit: The limit under which `pressure` was measured.
        pressure: How far above the target; 1 is at it.
        rate: Requests a second that were served.
        windows: How many followed.
    """

    origin: float
    limit: float
    pressure: float
    rate: float
    windows: int = 0


class LatencyTarget:
    """Grow while latency and the loop's lag are within their targets, cut by what they are above them.

    Without a `target` of its own it takes `tolerance` times the latency without load, and never less than `floor`:
    a service whose requests take 2 seconds has a target of 4, one whose requests take 5 milliseconds has 100.

    A limit is cut only when it is used, and because its latency may come from a queue of our own. That is put to the
    test: if the limit was cut by two fifths, the latency is what it was, and a quarter less is served, then there was
    no queue to cut, and the latency comes from elsewhere, such as a dependency that became slow or requests of
    another kind. Then the limit goes back to what it was, and this latency counts as normal. That verdict holds for a
    minute, and is then put to the test again: it may have been chance.

    Additive increase and multiplicative decrease: Chiu and Jain, 1989; as a concurrency limit with a latency target:
    `AIMDLimit` of Netflix's concurrency-limits. That the cut is in proportion to the overshoot, and the test, are
    this library's.

    Args:
        target: Seconds; None to find one. A given one is never put to the test.
        floor: The least target that is found, in seconds.
        tolerance: The target that is found, as a multiple of the latency without load.
        lag: The most that the event loop may be late on average, in seconds. What is below it is not worth a
            refusal; a loop that is busy with requests for half of `floor` is 25 ms late on average.
    """

    def __init__(
        self,
        target: float | None = None,
        *,
        floor: float = 0.1,
        tolerance: float = 2.0,
        lag: float = 0.025,
    ) -> None:
        times = (floor, lag) if target is None else (target, floor, lag)
        if not all(0 < seconds < math.inf for seconds in times) or not 1 < tolerance < math.inf:
            msg = (
                "needs times above 0 and a tolerance above 1: "
                f"target={target}, floor={floor}, tolerance={tolerance}, lag={lag}"
            )
            raise ValueError(msg)
        self._given = target
        self._floor = floor
        self._tolerance = tolerance
        self._lag = self._strict_lag = lag
        self._baseline = _Baseline()
        self._strict_baseline = math.inf
        self._forgiven_until = math.inf
        self._series: _Series | None = None
        self._was_cut = False

    @property
    def target(self) -> float:
        """The latency aimed at now, in seconds; infinite before anything was measured."""
        if self._given is not None:
            return self._given
        return max(self._floor, self._tolerance * self._baseline.seconds)

    def resize(self, limit: float, window: Measured, now: float) -> float:
        """Return the next limit."""
        self._learn(window, now)
        # Who ran out of time had perhaps little of it, so that his latency does not say it all.
        slow = max(window.latency / self.target, 2 * window.dropped)
        late = window.lag / self._lag
        if (pressure := max(slow, late)) <= 1:
            self._series = None
            # Doubling finds the right order of magnitude; after that, it is a matter of steps.
            gain = 0.25 if self._was_cut else 1.0
            return limit + max(1.0, limit * gain * (1 - pressure))
        if late > 1:
            # What makes the loop late are those that it runs, however many more the limit allows.
            limit *= min(1.0, window.used)
        elif window.used < 0.8:  # noqa: PLR2004 - a cut would change nothing: nobody waits because of this limit
            return limit
        self._was_cut = True
        if self._is_futile(limit, window, pressure):
            return self._forgive(window, now)
        # A lag is in proportion to what runs, so the first cut may go all the way; a latency has other causes too.
        least = _QUARTER if late >= slow else _HALF
        return limit * min(max(1 / pressure, least), 0.95)

    def _learn(self, window: Measured, now: float) -> None:
        self._baseline.learn(window, now)
        if now < self._forgiven_until:
            return
        if window.used >= _HALF:
            self._baseline.seconds = min(self._baseline.seconds, self._strict_baseline)
        self._lag = self._strict_lag
        self._forgiven_until = math.inf

    def _is_futile(self, limit: float, window: Measured, pressure: float) -> bool:
        series = self._series
        if series is None or pressure > 1.1 * series.pressure:
            self._series = _Series(series.origin if series else limit, limit, pressure, rate=window.rate)
            return False
        series.windows += 1
        # At the minimum a limit cannot be cut any more: with so few requests at once, it is not their number.
        is_stuck = series.windows >= 10  # noqa: PLR2004 - a second or two
        if limit > 0.6 * series.limit and not is_stuck:
            return False
        # A queue of our own becomes shorter with the limit, and as much is served as before.
        cost = is_stuck or window.rate < 0.75 * series.rate
        if cost and self._given is None and pressure > 0.9 * series.pressure:
            return True
        # The cut helped. Whether the next one does is another question.
        self._series = _Series(limit, limit, pressure, rate=window.rate)
        return False

    def _forgive(self, window: Measured, now: float) -> float:
        if self._forgiven_until == math.inf:
            self._strict_baseline = self._baseline.seconds
        self._forgiven_until = now + _DOUBLES_IN
        self._baseline.seconds = max(self._baseline.seconds, window.latency)
        self._lag = min(max(self._lag, 1.5 * window.lag), _MOST_LAG * self._strict_lag)
        series, self._series = self._series, None
        if series is None:
            raise AssertionError("only a series can be futile")
        return series.origin


class Vegas:
    """Keep the queue that the latency tells of between two bounds, which grow with the limit's logarithm.

    After TCP Vegas (Brakmo and Peterson, 1995), with the bounds of `VegasLimit` in Netflix's concurrency-limits. It
    aims at a short queue and not at a latency, and knows nothing of the loop's lag.
    """

    def __init__(self) -> None:
        self._baseline = _Baseline()

    def resize(self, limit: float, window: Measured, now: float) -> float:
        """Return the next limit."""
        self._baseline.learn(window, now)
        step = max(1.0, math.log10(limit))
        if window.dropped > 0:
            return limit - step
        queue = limit * (1 - min(1.0, self._baseline.seconds / window.latency))
        if queue <= step:
            return limit + 6 * step
        if queue < 3 * step:
            return limit + step
        return limit - step if queue > 6 * step else limit


class Gradient:
    """Multiply the limit by how much worse the latency is than without load, and leave room for a small queue.

    After `Gradient2Limit` of Netflix's concurrency-limits and its constants, but with the latency without load where
    that has a long-term mean. Its bounds there would be `LimiterConfig(start=20, minimum=1, maximum=200)`.

    Args:
        tolerance: How many times the latency without load is still no reason to cut.
        queue: Requests by which the limit grows with each window in which it is not.
        smoothing: How much of the way to the new limit is gone at once.
    """

    def __init__(self, *, tolerance: float = 1.5, queue: float = 4.0, smoothing: float = 0.2) -> None:
        if not (1 <= tolerance < math.inf and 0 < queue < math.inf and 0 < smoothing <= 1):
            msg = f"needs tolerance >= 1, queue > 0, 0 < smoothing <= 1: {tolerance}, {queue}, {smoothing}"
            raise ValueError(msg)
        self._tolerance = tolerance
        self._queue = queue
        self._smoothing = smoothing
        self._baseline = _Baseline()

    def resize(self, limit: float, window: Measured, now: float) -> float:
        """Return the next limit."""
        self._baseline.learn(window, now)
        if window.dropped >= _HALF:
            return limit * _HALF
        # Nothing but windows of dropped requests so far leaves it infinite, and the gradient at 1.
        gradient = min(1.0, max(_HALF, self._tolerance * self._baseline.seconds / window.latency))
        wanted = limit * gradient + self._queue
        return limit + (wanted - limit) * self._smoothing
