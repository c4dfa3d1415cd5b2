"""A test that no job ran, and a proof that did not pass, make the CI run fail."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest

from tests.kit import executed
from tests.kit.executed import Verdict
from tests.kit.proofs import Collected, Proof

pytest_plugins = ["pytester"]

LONG = ["tests/ops/test_b.py::test_slow[1]", "tests/ops/test_b.py::test_slow[2]"]
COLLECTED = ["tests/app/test_a.py::test_one", "tests/app/test_a.py::test_two[x y]"]
GREEN = "".join(f"passed {test}\n" for test in COLLECTED)


def verdict(*jobs: str, recorded: Iterable[Proof] = (), named: Sequence[str] = ()) -> Verdict:
    return executed.compare(
        COLLECTED,
        LONG,
        executed.outcomes(jobs),
        named=named,
        record={proof.test: proof for proof in recorded},
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


def a_proof(test: str, outcome: str) -> Proof:
    return Proof(test, "2001-01-01T00:00:00+00:00", "0" * 12, "2 cores", outcome, 1.0)


def test_long_tests_are_listed_unless_the_record_has_them() -> None:
    first, second = LONG
    assert verdict(GREEN).long_not_passed == LONG
    assert verdict(GREEN).ok
    rows = [a_proof(first, "passed"), a_proof(second, "failed")]
    assert verdict(GREEN, recorded=rows).long_not_passed == [second]
    assert verdict(GREEN, f"passed {second}", recorded=rows).long_not_passed == []


def test_evidence_that_did_not_run_fails_no_run() -> None:
    test = "tests/app/test_l.py::test_long"

    def unproven(*jobs: str) -> list[str]:
        results = executed.outcomes(jobs)
        return executed.compare([], [test], results, named=[test], record={}).unproven

    assert unproven() == []
    assert unproven(f"failed {test}") == [test]


def test_a_module_that_is_skipped_whole_fails_the_run(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_here="def test_one(): ...",
        test_away="import pytest\npytest.skip('no package', allow_module_level=True)",
    )
    found = Collected()
    pytest.main(["--collect-only", "-p", "no:cacheprovider", str(pytester.path)], [found])
    assert found.tests == ["test_away.py", "test_here.py::test_one"]
