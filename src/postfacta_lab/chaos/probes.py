"""What Chaos Toolkit asks about the users of a service: each gives a number, or fails.

Those about a fault's course say "all is well" before the first fault, so that one hypothesis serves
before, during and after.
"""

from __future__ import annotations

from .control import current

_THREE_CHECKS = 20.0  # seconds: three waits of 5.5 at most, three checks of 1


def error_share() -> float:
    """Return which share of users' requests failed in the window."""
    return current().recent().error_share


def p99() -> float:
    """Return the 99th percentile of users' waits in the window, in seconds."""
    return current().recent().p99


def failures() -> int:
    """Count the users' requests that failed since the first fault."""
    return current().load.since(current().began).failed


def longest_answer() -> float:
    """Return the longest wait of a user since the first fault, in seconds."""
    return current().load.since(current().began).longest


def longest_recovery() -> float:
    """Return the longest time from the end of a fault until users were well again, in seconds."""
    return max(current().recoveries, default=0.0)


def slowest_live() -> float:
    """Return the longest time that an instance's liveness probe took, in seconds.

    Fail if none was ever answered.
    """
    if not (answers := current().answers("live")):
        raise RuntimeError("/healthz/live was never answered 200 to 299: there is nothing to tell")
    return max(answers)


def readiness_fell() -> int:
    """Return whether instances said that they were not ready, as they should during a long fault.

    1 for yes.

    Before they say so they look three times, every five seconds; a shorter fault says nothing about
    it.
    """
    lab = current()
    if lab.latest - lab.began < _THREE_CHECKS:
        return 1
    return int(bool(lab.answers("ready", "503")))
