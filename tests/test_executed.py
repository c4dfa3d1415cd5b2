"""A test that no job ran, and a proof that did not pass, make the CI run fail."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta

import pytest

from tests.kit import executed
from tests.kit.executed import Row, Verdict

pytest_plugins = ["pytester"]

TODAY = date(2026, 3, 15)
LONG = ["tests/ops/test_b.py::test_slow[1]", "tests/ops/test_b.py::test_slow[2]"]
COLLECTED = ["tests/app/test_a.py::test_one", "tests/app/test_a.py::test_two[x y]"]
GREEN = "".join(f"passed {test}\n" for test in COLLECTED)


def verdict(*jobs: str, rows: dict[str, Row] | None = None, named: Sequence[str] = ()) -> Verdict:
    return executed.compare(
        COLLECTED,
        LONG,
        executed.outcomes(jobs),
        named=named,
        rows=rows or {},
        today=TODAY,
    )


def test_a_test_that_no_job_ran_fails_the_run() -> None:
    missing = verdict("passed tests/app/test_a.py::test_one\n")
    assert missing.not_run == ["tests/app/test_a.py::test_two[x y]"]
    assert not missing.ok
    assert "FAILED: collected, but run by no job (1):\n  tests/app/test_a.py::test_two[x y]" in str(
        missing
    )


def test_jobs_add_up() -> None:
    first, second = GREEN.splitlines()
    both = verdict(first, second)
    assert both.ok
    assert both.not_run == []


def test_no_file_at_all_is_not_a_green_run() -> None:
    assert verdict().not_run == COLLECTED


def test_a_skipped_test_is_listed() -> None:
    skipped = verdict(
        GREEN.replace(
            "passed tests/app/test_a.py::test_one", "skipped tests/app/test_a.py::test_one"
        )
    )
    assert skipped.ok
    assert skipped.skipped == ["tests/app/test_a.py::test_one"]
    assert "skipped by every job (1):" in str(skipped)
    # Another job had what it needs.
    assert verdict("skipped tests/app/test_a.py::test_one\n", GREEN).skipped == []


def test_a_proof_passes_in_a_job_and_fails_in_none() -> None:
    first, second, absent = (
        f"tests/app/test_a.py::{name}" for name in ("test_one", "test_two", "test_none")
    )
    assert verdict(GREEN, named=[first, second]).ok
    assert verdict(GREEN, named=[absent]).unproven == [absent]
    failed = verdict(GREEN, "failed tests/app/test_a.py::test_two[x y]", named=[second])
    assert failed.unproven == [second]
    assert verdict(GREEN, "skipped tests/app/test_a.py::test_one", named=[first]).ok
    skipped = verdict(GREEN.replace("passed", "skipped"), named=[first])
    assert skipped.unproven == [first]
    assert not skipped.ok


def test_a_proof_that_never_ran_is_named() -> None:
    proof = COLLECTED[0]
    assert verdict(named=[proof]).unproven == [proof]


def test_long_tests_are_listed_unless_a_recent_record_has_them() -> None:
    def left(on: date, cases: int = 2) -> list[str]:
        return verdict(GREEN, rows={"tests/ops/test_b.py::test_slow": Row(on, cases)}).long_not_run

    assert verdict(GREEN).long_not_run == LONG
    assert verdict(GREEN).ok
    assert left(TODAY) == left(TODAY - timedelta(days=14)) == []
    assert left(TODAY - timedelta(days=15)) == left(TODAY + timedelta(days=1)) == LONG
    # A case was added since.
    assert left(TODAY, cases=1) == LONG


def test_a_proof_may_be_in_the_record_but_not_against_a_failure() -> None:
    rows = {"tests/app/test_l.py::test_long": Row(TODAY, 1)}
    test = "tests/app/test_l.py::test_long"

    def unproven(*jobs: str) -> list[str]:
        results = executed.outcomes(jobs)
        return executed.compare([], [test], results, named=[test], rows=rows, today=TODAY).unproven

    assert unproven() == []
    assert unproven(f"failed {test}") == [test]


def test_a_module_that_is_skipped_whole_fails_the_run(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_here="def test_one(): ...",
        test_away="import pytest\npytest.skip('no package', allow_module_level=True)",
    )
    found = executed.Collected()
    pytest.main(["--collect-only", "-p", "no:cacheprovider", str(pytester.path)], [found])
    assert found.tests == ["test_away.py", "test_here.py::test_one"]


def test_the_record_keeps_what_passed_with_its_day() -> None:
    passed = executed.outcomes([f"passed {LONG[0]}\npassed {LONG[1]}\n{GREEN}"])
    page = executed.record("", passed, LONG, TODAY)
    assert executed.recorded(page) == {"tests/ops/test_b.py::test_slow": Row(TODAY, 2)}
    # What did not run again keeps its day; of what failed in part, the rest counts.
    later = TODAY + timedelta(days=3)
    assert executed.record(page, {}, LONG, later) == page
    failed = executed.outcomes([f"passed {LONG[0]}\nfailed {LONG[1]}"])
    assert executed.recorded(executed.record(page, failed, LONG, later)) == {
        "tests/ops/test_b.py::test_slow": Row(later, 1)
    }
