"""Compare the tests that are collected with those that the jobs of a CI run executed.

Each run of pytest leaves a file of lines `passed tests/x.py::test_y`. A collected test that is not `long` must be in one
of them; a test that proves a claim must have passed. Long tests that did not run are listed, unless the record
of `make proofs` has them from the last 14 days.

    python -m tests.kit.executed            compare; exit code 1 if anything is missing python -m
    tests.kit.executed --record   add the long tests that passed to the record, with today's date
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import chdir, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from docs.claims import list_tests

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / ".pytest_cache/executed"
RECORD = ROOT / "docs/reference/proofs.md"
KEPT = timedelta(days=14)
HEADING = """\
# Long tests: when each last passed

Written by `make proofs`; `tests/kit/executed.py` reads it. A row is a test function, and how many of its cases passed.

| date | test | cases |
|---|---|---:|
"""
_ROW = re.compile(r"^\| (\d{4}-\d\d-\d\d) \| `(\S+::\w+)` \| (\d+) \|$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Row:
    """The day on which cases of a test function last passed, and their number."""

    on: date
    cases: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What fails a CI run, and what it only lists."""

    not_run: list[str]
    unproven: list[str]
    skipped: list[str]
    long_not_run: list[str]

    @property
    def ok(self) -> bool:
        """Return whether each test that must run did, and each proof passed."""
        return not self.not_run and not self.unproven

    def __str__(self) -> str:
        parts = (
            ("FAILED: collected, but run by no job", self.not_run),
            ("FAILED: proofs of claims that did not pass", self.unproven),
            ("skipped by every job", self.skipped),
            ("long, and not run: make proofs", self.long_not_run),
        )
        lines = [
            line
            for title, tests in parts
            if tests
            for line in (f"{title} ({len(tests)}):", *(f"  {test}" for test in tests))
        ]
        return "\n".join(lines or ["each collected test ran, and each proof passed"])


def outcomes(texts: Iterable[str]) -> dict[str, set[str]]:
    """Return all outcomes of each test, from the contents of the files of all jobs."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for text in texts:
        for line in text.splitlines():
            outcome, _, test = line.partition(" ")
            if "::" in test:
                found[test].add(outcome)
    return dict(found)


def recorded(page: str) -> dict[str, Row]:
    """Return the rows of the record of long tests, by function."""
    return {name: Row(date.fromisoformat(on), int(cases)) for on, name, cases in _ROW.findall(page)}


def record(page: str, results: Mapping[str, set[str]], long: Iterable[str], today: date) -> str:
    """Return the record with the long tests that passed, and failed in no job, as of today."""
    ran = Counter(function(test) for test in long if results.get(test) == {"passed"})
    rows = recorded(page) | {name: Row(today, cases) for name, cases in ran.items()}
    return HEADING + "".join(
        f"| {row.on} | `{name}` | {row.cases} |\n" for name, row in sorted(rows.items())
    )


def function(test: str) -> str:
    """Return the id of a test without its parameters."""
    return test.partition("[")[0]


def compare(
    tests: Iterable[str],
    long: Iterable[str],
    results: Mapping[str, set[str]],
    *,
    named: Iterable[str],
    rows: Mapping[str, Row],
    today: date,
) -> Verdict:
    """Judge a run: by all tests that must run, the long ones, the outcomes, the proofs, and the record."""
    tests, long = list(tests), list(long)
    recent = _recent(long, rows, today)
    cases: defaultdict[str, list[str]] = defaultdict(list)
    for test in (*tests, *long):
        cases[function(test)].append(test)

    def passed(test: str) -> bool:
        return results.get(test, set()) - {"skipped"} == {"passed"} or (
            test in recent and test not in results
        )

    return Verdict(
        not_run=[test for test in tests if test not in results],
        unproven=[name for name in named if not (cases[name] and all(map(passed, cases[name])))],
        skipped=[test for test in tests if results.get(test) == {"skipped"}],
        long_not_run=[test for test in long if test not in results and test not in recent],
    )


def _recent(long: Iterable[str], rows: Mapping[str, Row], today: date) -> set[str]:
    """Return the long tests of functions whose record is recent and has all of their cases."""
    cases: defaultdict[str, list[str]] = defaultdict(list)
    for test in long:
        cases[function(test)].append(test)
    return {
        test
        for name, group in cases.items()
        if name in rows
        and rows[name].cases >= len(group)
        and today - KEPT <= rows[name].on <= today
        for test in group
    }


class Collected:
    """The ids of all tests, which pytest collects and does not run."""

    def __init__(self) -> None:
        self.tests: list[str] = []
        self.long: list[str] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Count a module that was skipped whole, for want of a package, as a test that no job ran."""
        if report.skipped:
            self.tests.append(report.nodeid)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Sort the tests by whether they are long."""
        for item in session.items:
            (self.long if item.get_closest_marker("long") else self.tests).append(item.nodeid)


def _collect() -> Collected:
    found, output = Collected(), io.StringIO()
    with chdir(ROOT), redirect_stdout(output):
        code = pytest.main(["--collect-only", "-q", "-m", ""], plugins=[found])
    if code:
        raise RuntimeError(f"pytest collects nothing:\n{output.getvalue()}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Compare, or record; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="of the files of executed tests"
    )
    parser.add_argument("--record", action="store_true", help="write docs/reference/proofs.md")
    options = parser.parse_args(arguments)
    results = outcomes(path.read_text() for path in sorted(options.folder.glob("*.txt")))
    page = RECORD.read_text() if RECORD.exists() else ""
    today = datetime.now(UTC).date()  # noqa: TID251 - the day of the run
    collected = _collect()
    if options.record:
        RECORD.write_text(record(page, results, collected.long, today))
        return 0
    verdict = compare(
        collected.tests,
        collected.long,
        results,
        named=list_tests(),
        rows=recorded(page),
        today=today,
    )
    print(verdict)  # noqa: T201 - its job
    return 0 if verdict.ok else 1


if __name__ == "__main__":
    sys.exit(main())
