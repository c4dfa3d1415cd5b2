"""What a check of a delivery found.

Passed, failed, or not run with the reason, which is never passed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Final

__all__ = ["NOT_RUN", "Outcome"]

NOT_RUN: Final = 77
"""The exit code if nothing failed, but something could not be looked at."""


class Outcome:
    """Gathers the results of one command, and prints a line for each."""

    def __init__(self) -> None:
        self._failed = 0
        self._not_run: list[str] = []

    def check(self, name: str, faults: Iterable[str]) -> None:
        """Report a check: it passed if it names no fault."""
        found = list(faults)
        self._failed += bool(found)
        self._say("FAIL" if found else "pass", name, *found)

    def not_run(self, name: str, why: str) -> None:
        """Report a check that could not look at its subject."""
        self._not_run.append(name)
        self._say("not run", name, why)

    def _say(self, how: str, name: str, *lines: str) -> None:
        sys.stdout.write(f"{how:8} {name}\n" + "".join(f"         {line}\n" for line in lines))
        sys.stdout.flush()

    def end(self) -> int:
        """Print what was not looked at, and return the exit code.

        0 if all passed, 1 if something failed, else 77.
        """
        if self._failed:
            return 1
        if not self._not_run:
            return 0
        sys.stdout.write(
            f"Nothing failed. Not looked at, and so not passed: {', '.join(self._not_run)}.\n"
        )
        return NOT_RUN
