"""The exit codes of chaos, load, drain; what counts as having measured nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum

FEWEST = 100  # requests that a verdict can rest on

# An answer below 500 about load or time was given by the requested service.
_FROM_THE_SERVICE = {"408", "425", "429"}


class Verdict(IntEnum):
    """How a run ended; the number is the exit code."""

    PASS = 0  # all that was claimed held
    FAIL = 1
    INVALID = (
        2  # undecided: too few requests, the generator did not keep up, the fault was not confirmed
    )
    NOTHING = 3  # no answer, or what was asked for does not exist there; or the command was wrong


def nothing_measured(count: int, errors: Mapping[str, int]) -> str:
    """Return why requests that ended measured nothing, by their errors.

    A status, or an exception's name; else an empty text.
    """
    if not count:
        return "no request was measured"
    statuses = {error for error in errors if error.isdecimal()}
    is_answered = sum(errors.values()) < count
    has_failed = any(int(status) >= 500 for status in statuses)
    if is_answered or has_failed or statuses & _FROM_THE_SERVICE:
        return ""
    kinds = ", ".join(f"{error} {number} times" for error, number in errors.items())
    if statuses:
        return (
            f"what was asked for is not there: {kinds}; name paths of the service, and a token if"
            " it needs one"
        )
    return f"no answer: {kinds}; is the address right, and does the service run?"


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict of several parts: one that failed decides, then an undecided one."""
    kinds = set(verdicts)
    if kinds <= {Verdict.NOTHING}:
        return Verdict.NOTHING
    if Verdict.FAIL in kinds:
        return Verdict.FAIL
    return Verdict.PASS if kinds == {Verdict.PASS} else Verdict.INVALID
