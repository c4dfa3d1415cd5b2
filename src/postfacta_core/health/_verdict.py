"""Decide from the results of checks whether a service is live, ready and started.

1. `up` is a verdict, not the last result. It falls after `fall` failures in a row, and rises after `rise`
   successes in a row. Before the first verdict one success counts at once, so that a start does not lag.
2. A result older than the bound counts as `fall` failures: whatever should have come since did not come.
3. A check whose verdict is in doubt, or not up, runs more often.
4. Draining is never ready. A critical check that passed once has started for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..validation import validation

STALE = "Stale"
"""What a report gives in place of an error's class when the last result is too old."""

_JITTER = 0.1  # To each side, which keeps a fleet's checks from falling into step.
_HURRY = 0.2  # The part of an interval after which a check that does not simply pass runs again.


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckConfig:
    """How often a check runs, and what its results mean: the options of `HealthRegistry.add`."""

    critical: bool = True
    interval: float = 2.0
    timeout: float = 1.0
    fall: int = 3
    rise: int = 2

    def __post_init__(self) -> None:
        validation.flag("CheckConfig.critical", self.critical, example="critical=False")
        validation.seconds("CheckConfig.interval", self.interval, example="interval=5.0")
        validation.seconds("CheckConfig.timeout", self.timeout, example="timeout=1.0")
        validation.whole("CheckConfig.fall", self.fall, example="fall=3")
        validation.whole("CheckConfig.rise", self.rise, example="rise=2")

    @property
    def bound(self) -> float:
        """The age from which a result counts as failed: `fall` results, and at least two, should have come by then."""
        return max(2, self.fall) * (self.interval * (1 + _JITTER) + self.timeout)

    def wait(self, state: CheckState, luck: float) -> float:
        """Return the time to the next run, `luck` is from 0 up to 1."""
        is_well = state.up is True and state.failures == 0
        interval = self.interval if is_well else self.interval * _HURRY
        return interval * (1 - _JITTER + 2 * _JITTER * luck)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one run of a check; `error` is the class of its error."""

    at: float
    passed: bool
    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class CheckState:
    """What is remembered of a check: its verdict `up`, None before the first, since when, and the passes or failures."""

    since: float
    up: bool | None = None
    passes: int = 0
    failures: int = 0
    has_passed: bool = False
    last: CheckResult | None = None


@dataclass(frozen=True, slots=True)
class CheckReport:
    """A snapshot of a check.

    Attributes:
        name: Its name.
        critical: Whether it fails readiness.
        up: The verdict after hysteresis; false before the first.
        passed: The last result; false if there is none, or it is stale.
        latency: Seconds that the last run took.
        age: Seconds since the last run ended, or None before that.
        since: Seconds for which the verdict has held.
        error: The class of the last error. Never its message, which may hold a secret.
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


def fold(state: CheckState, result: CheckResult, config: CheckConfig) -> CheckState:
    before = _settled(state, config, result.at)
    passes = before.passes + 1 if result.passed else 0
    failures = 0 if result.passed else before.failures + 1
    up = before.up
    if failures >= config.fall:
        up = False
    elif passes >= (config.rise if up is False else 1):
        up = True
    return CheckState(
        since=before.since if up is before.up else result.at,
        up=up,
        passes=passes,
        failures=failures,
        has_passed=before.has_passed or result.passed,
        last=result,
    )


def inspect(name: str, state: CheckState, config: CheckConfig, *, now: float) -> CheckReport:
    settled = _settled(state, config, now)
    last = settled.last
    stale = last is not None and _is_stale(last, config, now)
    return CheckReport(
        name=name,
        critical=config.critical,
        up=settled.up is True,
        passed=last is not None and last.passed and not stale,
        latency=last.seconds if last is not None else 0.0,
        age=now - last.at if last is not None else None,
        since=now - settled.since,
        error=STALE if stale else last.error if last is not None else "",
    )


def summarize(
    checks: Sequence[CheckReport], *, entered: bool, draining: bool, has_started: bool
) -> HealthReport:
    """Combine the checks into one report; `has_started` is whether every critical check passed once."""
    return HealthReport(
        live=True,  # Any answer shows that the process and its loop are alive.
        ready=entered and not draining and all(check.up for check in checks if check.critical),
        started=entered and has_started,
        draining=draining,
        checks=tuple(checks),
    )


def _is_stale(result: CheckResult, config: CheckConfig, now: float) -> bool:
    return now >= result.at + config.bound


def _settled(state: CheckState, config: CheckConfig, now: float) -> CheckState:
    """Count a last result that is too old as failed: the check is down, and its run of successes ends."""
    if state.last is None or not _is_stale(state.last, config, now):
        return state
    since = state.since if state.up is False else state.last.at + config.bound
    return replace(state, up=False, since=since, passes=0)
