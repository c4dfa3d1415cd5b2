"""Decide from the results of a check whether what it asks is up.

1. `up` is a verdict, not the last result. It falls after `fall` failures in a row, and rises after
   `rise` successes in a row. Before the first verdict one success counts at once, so that a start
   does not lag.
2. A result older than the bound counts as `fall` failures: whatever should have come since did not
   come.
3. A check whose verdict is in doubt, or not up, runs more often.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import InitVar, dataclass

from ..events import HealthChecked
from ..validation import validation

Check = Callable[[], Awaitable[object]]

STALE = "Stale"
"""What a report gives in place of an error's class when the last result is too old."""

_JITTER = 0.1  # To each side, which keeps a fleet's checks from falling into step.
_HURRY = 0.2  # The part of an interval after which a check that does not simply pass runs again.


@dataclass(frozen=True, slots=True)
class CheckReport:
    """A snapshot of a check; `critical` is whether it fails readiness.

    `up` is the verdict after hysteresis, false before the first, which has held for `since`
    seconds. `passed` is the last result, false if there is none or it is stale: of `age` seconds
    ago, None before the first, after a run of `latency` seconds. `error` is the class of its error,
    never its message, which may hold a secret.
    """

    name: str
    critical: bool
    up: bool
    passed: bool
    latency: float
    age: float | None
    since: float
    error: str


@dataclass(frozen=True, slots=True)
class HealthReport:
    """A snapshot of a service."""

    live: bool
    ready: bool
    started: bool
    draining: bool
    checks: tuple[CheckReport, ...]


@dataclass(eq=False, repr=False)
class Watched:
    """A check with the options of `HealthRegistry.add`, and what is remembered of its results."""

    name: str
    check: Check
    now: InitVar[float]
    critical: bool
    interval: float
    timeout: float
    fall: int
    rise: int

    def __post_init__(self, now: float) -> None:
        owner = "HealthRegistry.add"
        validation.flag(f"{owner}.critical", self.critical, example="critical=False")
        validation.seconds(f"{owner}.interval", self.interval, example="interval=5.0")
        validation.seconds(f"{owner}.timeout", self.timeout, example="timeout=1.0")
        validation.whole(f"{owner}.fall", self.fall, example="fall=3")
        validation.whole(f"{owner}.rise", self.rise, example="rise=2")
        # From this age on a result counts as failed: `fall` more, and at least two, should have
        # come by then.
        self.bound = max(2, self.fall) * (self.interval * (1 + _JITTER) + self.timeout)
        self.begin(now)

    def begin(self, now: float) -> None:
        self.since = now
        self.up: bool | None = None  # None before the first verdict.
        self.has_passed = False
        self._passes = self._failures = 0  # In a row.
        self._ended = math.inf  # When the last run did.
        self._last = HealthChecked(self.name, self.critical, passed=False, up=False, seconds=0.0)

    def count(self, now: float, seconds: float, error: str) -> HealthChecked:
        """Count the result of a run; `error` is the class of its error, empty if it passed."""
        self._settle(now)
        passed = not error
        was_up = self.up
        self._passes = self._passes + 1 if passed else 0
        self._failures = 0 if passed else self._failures + 1
        if self._failures >= self.fall:
            self.up = False
        elif self._passes >= (self.rise if self.up is False else 1):
            self.up = True
        if self.up is not was_up:
            self.since = now
        self.has_passed |= passed
        self._ended = now
        self._last = HealthChecked(
            self.name, self.critical, passed, self.up is True, seconds, error
        )
        return self._last

    def wait(self, luck: float) -> float:
        """Return the time to the next run, `luck` is from 0 up to 1."""
        is_well = self.up is True and self._failures == 0
        interval = self.interval if is_well else self.interval * _HURRY
        return interval * (1 - _JITTER + 2 * _JITTER * luck)

    def report(self, now: float) -> CheckReport:
        is_stale = self._settle(now)
        last = self._last
        return CheckReport(
            name=self.name,
            critical=self.critical,
            up=self.up is True,
            passed=last.passed and not is_stale,
            latency=last.seconds,
            age=now - self._ended if self._ended < math.inf else None,
            since=now - self.since,
            error=STALE if is_stale else last.error,
        )

    def _settle(self, now: float) -> bool:
        """Count a last result that is too old as failed, which ends a run of successes.

        Return whether it is.
        """
        is_stale = now >= self._ended + self.bound
        if is_stale:
            self.since = self.since if self.up is False else self._ended + self.bound
            self.up = False
            self._passes = 0
        return is_stale
