"""A plugin of pytest: write the outcome of each test of a peer's suite, one JSON line each."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

_WORST = ("passed", "skipped", "failed")


class Report:
    """Keep the worst outcome of a test's three phases, and write it when the test is over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note a phase of a test."""
        before = self._outcomes.get(report.nodeid, "passed")
        # An expected failure is an outcome of its own, so that one that ends in another way is
        # seen.
        outcome = "xfailed" if hasattr(report, "wasxfail") else report.outcome
        if outcome in _WORST and before in _WORST:
            outcome = max(before, outcome, key=_WORST.index)
        self._outcomes[report.nodeid] = outcome

    def pytest_sessionfinish(self) -> None:
        """Write all outcomes."""
        with self._path.open("w", encoding="utf-8") as file:
            for nodeid, outcome in self._outcomes.items():
                file.write(json.dumps([nodeid, outcome]) + "\n")


def pytest_configure(config: Any) -> None:
    """Begin, unless this is one of several workers, whose reports reach the process that started them."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Report(Path(os.environ["PEER_REPORT"])))
