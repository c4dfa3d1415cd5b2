"""What proofs ran is on record, an interrupted run goes on, and what is stale is said."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.kit import proofs
from tests.kit.proofs import RECORD, Proof, keep, read, report, since

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent
TEST = "tests/test_clock.py::test_ticks"
OTHER = "tests/test_words.py::test_words"
TREE = {
    "src/postfacta_core/clock.py": "TICK = 1\n",
    "src/postfacta_core/words.py": "WORD = 'one'\n",
    "tests/test_clock.py": "from postfacta_core.clock import TICK\n",
    "tests/test_words.py": "from postfacta_core.words import WORD\n",
}
SUITE = """
    import pytest
    def test_passes(): ...
    @pytest.mark.parametrize("number", [1, 2])
    def test_may_fail(number): assert number == 1
    def test_lacks_a_program(): pytest.skip("not installed")
    @pytest.fixture
    def broken():
        yield
        raise OSError
    def test_fails_at_its_end(broken): ...
"""


def a_proof(test: str = TEST, *, outcome: str = "passed", commit: str = "0" * 12) -> Proof:
    return Proof(test, "2026-03-15T12:00:00+00:00", commit, "2 cores", outcome, 1.5)


@pytest.fixture
def suite(
    programs: None, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> pytest.Pytester:
    # Locust and others take ten times as long to load as the suite takes.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest('pytest_plugins = ["tests.kit.proofs"]')
    pytester.makepyfile(test_suite=SUITE)
    (pytester.path / "tests").mkdir()
    return pytester


def outcomes(suite: pytest.Pytester) -> dict[str, str]:
    rows = read(suite.path / RECORD)
    return {name.partition("::")[2]: row.outcome for name, row in rows.items()}


def test_each_test_is_recorded_with_its_worst_phase(suite: pytest.Pytester) -> None:
    suite.runpytest_inprocess("--proofs", "-p", "no:cacheprovider")
    assert outcomes(suite) == {
        "test_passes": "passed",
        "test_may_fail[1]": "passed",
        "test_may_fail[2]": "failed",
        "test_lacks_a_program": "skipped",
        "test_fails_at_its_end": "failed",
    }


def test_a_run_that_is_killed_keeps_what_it_did(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.makepyfile(test_dies="import os\ndef test_first(): ...\ndef test_dies(): os._exit(9)\n")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    killed = suite.runpytest_subprocess("--proofs", "-p", "no:cacheprovider", "test_dies.py")
    assert killed.ret == 9
    assert outcomes(suite) == {"test_first": "passed"}


def test_without_the_option_nothing_is_recorded(suite: pytest.Pytester) -> None:
    suite.runpytest_inprocess("-p", "no:cacheprovider")
    assert not (suite.path / RECORD).exists()


def test_the_next_run_goes_on_with_what_is_not_fresh(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing_changed(_: Path, rows: Iterable[Proof]) -> dict[str, list[str]]:
        return {row.test: [] for row in rows}

    monkeypatch.setattr(proofs, "since", nothing_changed)
    suite.runpytest_inprocess("--proofs", "-p", "no:cacheprovider")
    again = suite.runpytest_inprocess("--proofs", "-p", "no:cacheprovider")
    again.assert_outcomes(passed=1, failed=1, skipped=1, errors=1)
    again.stdout.fnmatch_lines(["left out: 2 proofs that are fresh"])


def test_a_row_takes_the_place_of_the_last_of_its_test(tmp_path: Path) -> None:
    record = tmp_path / "proofs.jsonl"
    for proof in (a_proof(), a_proof(OTHER), a_proof(outcome="failed")):
        keep(record, proof)
    assert read(record) == {TEST: a_proof(outcome="failed"), OTHER: a_proof(OTHER)}
    assert [json.loads(line)["test"] for line in record.read_text().splitlines()] == [TEST, OTHER]


def git(root: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.example", *words]
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)  # noqa: S603 - of our own
    return done.stdout


def commit(root: Path) -> str:
    git(root, "add", "--all")
    git(root, "commit", "-qm", "A change")
    return git(root, "rev-parse", "--short=12", "HEAD").strip()


@pytest.fixture
def checkout(programs: None, tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_proof_is_stale_by_a_change_that_reaches_it_alone(checkout: Path) -> None:
    before = commit(checkout)
    clock = checkout / "src/postfacta_core/clock.py"
    rows = [a_proof(commit=before), a_proof(OTHER, commit=before)]
    clock.write_text("TICK = 1  # A comment changes nothing.\n")
    assert since(checkout, rows) == {TEST: [], OTHER: []}
    clock.write_text("TICK = 2\n")
    commit(checkout)
    assert since(checkout, rows) == {TEST: ["src/postfacta_core/clock.py"], OTHER: []}


def test_a_commit_that_the_clone_lacks_is_judged_by_its_time(checkout: Path) -> None:
    commit(checkout)
    (checkout / "src/postfacta_core/clock.py").write_text("TICK = 2\n")
    commit(checkout)
    long_ago = Proof(TEST, "2000-01-01T00:00:00+00:00", "f" * 12, "", "passed", 1.0)
    just_now = Proof(OTHER, "2100-01-01T00:00:00+00:00", "f" * 12, "", "passed", 1.0)
    assert since(checkout, [long_ago, just_now]) == {
        TEST: ["src/postfacta_core/clock.py"],
        OTHER: [],
    }


def test_the_report_says_what_is_not_fresh_and_why() -> None:
    tests = [f"{TEST}[{number}]" for number in range(3)] + [OTHER]
    rows = {
        tests[0]: a_proof(tests[0]),
        tests[1]: a_proof(tests[1]),
        tests[2]: a_proof(tests[2], outcome="failed"),
    }
    changed = {tests[1]: ["src/a.py", "src/b.py", "src/c.py", "src/d.py"]}
    numbers, lines = report(tests, rows, changed)
    assert numbers == "4 long tests: 1 failed, 1 never run, 1 stale, 1 fresh"
    at = "2026-03-15T12:00:00+00:00 at 000000000000"
    assert lines == [
        f"failed: {TEST}, {at}",
        f"never run: {OTHER}",
        f"stale: {TEST}, {at}; since then changed: src/a.py, src/b.py, src/c.py and 1 more",
    ]


def test_rows_are_of_tests_that_exist() -> None:
    rows = read(ROOT / RECORD)
    assert [name for name, row in rows.items() if not (ROOT / row.file).is_file()] == []
