"""Compare the tests that are collected with those that the jobs of a CI run executed.

Each run of pytest leaves a file of lines `passed tests/x.py::test_y`. A collected test that is not
`long` must be in one of them; a test that proves a claim must have passed. Long tests are evidence:
they are listed if the record (`proofs.py`) lacks them, and fail nothing unless one that proves a
claim failed in this very run.

    python -m tests.kit.executed    compare; exit code 1 if anything is missing
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from docs.claims import list_tests

from tests.kit.proofs import RECORD, Proof, collect, read

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / ".pytest_cache/executed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What fails a CI run, and what it only lists."""

    not_run: list[str]
    unproven: list[str]
    skipped: list[str]
    long_not_passed: list[str]

    @property
    def ok(self) -> bool:
        """Return whether each test that must run did, and each proof passed."""
        return not self.not_run and not self.unproven

    def __str__(self) -> str:
        parts = (
            ("FAILED: collected, but run by no job", self.not_run),
            ("FAILED: proofs of claims that did not pass", self.unproven),
            ("skipped by every job", self.skipped),
            ("long, and not passed by the record: make proofs", self.long_not_passed),
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


def function(test: str) -> str:
    """Return the id of a test without its parameters."""
    return test.partition("[")[0]


def compare(
    tests: Iterable[str],
    long: Iterable[str],
    results: Mapping[str, set[str]],
    *,
    named: Iterable[str],
    record: Mapping[str, Proof],
) -> Verdict:
    """Judge a run: by all tests that must run, the long ones, the outcomes, the proofs, and the record."""
    tests, long = list(tests), list(long)
    evidence = set(long)
    cases: defaultdict[str, list[str]] = defaultdict(list)
    for test in (*tests, *long):
        cases[function(test)].append(test)

    def passed(test: str) -> bool:
        outcomes = results.get(test, set()) - {"skipped", "void"}
        return outcomes == {"passed"} or (test in evidence and not outcomes)

    return Verdict(
        not_run=[test for test in tests if test not in results],
        unproven=[name for name in named if not (cases[name] and all(map(passed, cases[name])))],
        skipped=[test for test in tests if results.get(test) == {"skipped"}],
        long_not_passed=[
            test
            for test in long
            if results.get(test) != {"passed"}
            and not (test in record and record[test].outcome == "passed")
        ],
    )


def main(arguments: list[str] | None = None) -> int:
    """Compare; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="of the files of executed tests"
    )
    options = parser.parse_args(arguments)
    results = outcomes(path.read_text() for path in sorted(options.folder.glob("*.txt")))
    collected = collect()
    verdict = compare(
        collected.tests,
        collected.long,
        results,
        named=list_tests(),
        record=read(ROOT / RECORD),
    )
    print(verdict)  # noqa: T201 - its job
    return 0 if verdict.ok else 1


if __name__ == "__main__":
    sys.exit(main())
