"""`make prr` as it is run: on a small checkout, and on a copy of this one that is broken."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pytest

from deploy.prr import running
from deploy.prr.__main__ import main
from deploy.prr.judge import Result
from deploy.prr.running import Review
from deploy.prr.table import Absent, Command, Proof, Report, Row, Suite, Tier
from tests.deploy.prr_saboteurs import SABOTEURS
from tests.kit.every import every

ROOT = Path(__file__).parents[2]
TODAY = date(2026, 11, 28)
SUITE = """
import pytest
def test_good(): pass
def test_bad(): assert 1 == 2
def test_skipped(): pytest.skip("no tool")
"""
# One of each kind: by tests, by a command, by a report. All of them take minutes: `make proofs`.
SOME = ("R03", "R05", "R64")

pytestmark = pytest.mark.usefixtures("programs")


def test_each_kind_of_proof_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_a.py").write_text(SUITE)
    (tmp_path / "tests/test_b.py").write_text("import nothing_of_this_name\n")
    (tmp_path / "page.md").write_text("Measured on 2026-11-28. All is well.\n")
    page = Report("page.md", "make page", holds=("All is well",))
    cases: dict[tuple[Proof, ...], tuple[Result, str]] = {
        (Suite(("tests/test_a.py::test_good",)),): (Result.PASS, "1 tests passed"),
        (Suite(("tests/test_a.py",)),): (Result.FAIL, "tests/test_a.py::test_bad: "),
        (Suite(("tests/test_a.py::test_skipped",)),): (Result.NOT_RUN, "no tool"),
        (Suite(("tests/test_b.py",)),): (Result.FAIL, "tests/test_b.py: "),
        (Suite(("tests/test_a.py::test_gone",)),): (Result.FAIL, "there is no such test"),
        (Suite(("tests/test_gone.py",)),): (Result.FAIL, "there is no such test"),
        (Command("echo said; exit 3"),): (Result.FAIL, "exit code 3: said"),
        (Command("no-such-program-here"),): (Result.NOT_RUN, "not found"),
        (Command("pwd >> runs; echo $PYTHONPATH > path"),): (Result.PASS, "exit code 0"),
        (Command("pwd >> runs; echo $PYTHONPATH > path"), page): (Result.PASS, "exit code 0; page.md of 2026-11-28"),
        (page,): (Result.PASS, "page.md of 2026-11-28"),
        (Report("gone.md", "make gone", holds=()),): (Result.NOT_RUN, "make gone"),
        (Absent("nobody looked"),): (Result.NOT_RUN, "nobody looked"),
    }  # fmt: skip
    rows = [
        Row(f"R{number}", "Is it so?", Tier.FAST, proofs) for number, proofs in enumerate(cases)
    ]
    later = [
        Row("late", "Is it so?", Tier.FULL, (Command("touch ran"),)),
        Row("read", "Is it so?", Tier.FULL, (page,)),
    ]
    found = Review(tmp_path, tier=Tier.FAST, today=TODAY).run([*rows, *later])
    with every() as case:
        for finding, (result, why) in zip(found, cases.values(), strict=False):
            with case(finding.row.proofs):
                assert finding.result is result
                assert why in finding.why
    assert [finding.result for finding in found[-2:]] == [Result.NOT_RUN, Result.PASS]
    assert "tier full: touch ran" in found[-2].why
    assert not (tmp_path / "ran").exists()
    # Once, though two rows rest on it; and on the sources of the checkout that is reviewed.
    assert (tmp_path / "runs").read_text() == f"{tmp_path}\n"
    assert (tmp_path / "path").read_text() == f"{tmp_path / 'src'}\n"


def test_a_command_that_does_not_end_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(running.WITHIN, Tier.FAST, 0.2)
    row = Row("R01", "Is it so?", Tier.FAST, (Command("exec sleep 60"),))
    (finding,) = Review(tmp_path, tier=Tier.FAST, today=TODAY).run([row])
    assert (finding.result, finding.why) == (
        Result.FAIL,
        "exit code 124: it had not ended after 0.2 s",
    )


def test_a_suite_that_cannot_start_fails_what_rests_on_it(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("import nothing_of_this_name\n")
    (tmp_path / "test_a.py").write_text(SUITE)
    row = Row("R01", "Is it so?", Tier.FAST, (Suite(("test_a.py",)),))
    (finding,) = Review(tmp_path, tier=Tier.FAST, today=TODAY).run([row])
    assert finding.result is Result.FAIL
    assert "nothing_of_this_name" in finding.why


def test_it_writes_its_report_and_ends_with_its_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["R73", "R64", "--out", str(tmp_path)]) == 2
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["verdict"] == "not run"
    assert [(row["id"], row["result"]) for row in document["rows"]] == [
        ("R73", "not run"),
        ("R64", "pass"),
    ]
    assert {file.name for file in tmp_path.iterdir()} == {"report.json", "report.md", "report.html"}
    assert main(["R64", "--out", str(tmp_path)]) == 0
    assert main(["R99", "--out", str(tmp_path)]) == 3
    printed = capsys.readouterr()
    assert "pass     R64 " in printed.out
    assert "no row R99" in printed.err


class Copy:
    """A copy of this checkout, which can be broken and mended."""

    def __init__(self, root: Path) -> None:
        self.root = root
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607 - git made this checkout
            cwd=ROOT, check=True, capture_output=True, text=True,
        ).stdout.split("\0")[:-1]  # fmt: skip
        for name in listed:
            if (ROOT / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, root / name)
        self._git("init", "-q")
        self.commit()

    def commit(self) -> None:
        """Write all down, as some rows look at the history."""
        self._git("add", "-A")
        self._git(
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@example.org",
            "commit",
            "-qm",
            "All of it",
            "--allow-empty",
        )

    def mend(self) -> None:
        """Return to the first commit."""
        first = self._git("rev-list", "--max-parents=0", "HEAD").strip()
        self._git("reset", "-q", "--hard", first)
        self._git("clean", "-qfd")

    def review(self, rows: Sequence[str]) -> dict[str, str]:
        """Review rows; return the result of each."""
        done = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-m", "deploy.prr", *rows], cwd=self.root, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(self.root / "src")}, timeout=3600,
        )  # fmt: skip
        assert done.returncode in {0, 1, 2}, done.stdout + done.stderr
        document = json.loads((self.root / "build/prr/report.json").read_text())
        return {row["id"]: row["result"] for row in document["rows"]}

    def _git(self, *words: str) -> str:
        command = ["git", "-c", "core.hooksPath=/dev/null", *words]
        return subprocess.run(  # noqa: S603 - git made this checkout
            command, cwd=self.root, check=True, capture_output=True, text=True, timeout=60
        ).stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory, programs: None) -> Copy:
    return Copy(tmp_path_factory.mktemp("copy"))


def test_some_rows_pass_and_fail_when_their_subjects_are_broken(copy: Copy) -> None:
    assert copy.review(SOME) == dict.fromkeys(SOME, "pass")
    for name in SOME:
        SABOTEURS[name].strike(copy.root)
    try:
        assert copy.review(SOME) == dict.fromkeys(SOME, "fail")
    finally:
        copy.mend()


@pytest.mark.long
@pytest.mark.parametrize("name", SABOTEURS)
def test_a_row_fails_when_its_subject_is_broken(name: str, copy: Copy) -> None:
    SABOTEURS[name].strike(copy.root)
    copy.commit()
    try:
        assert copy.review([name]) == {name: "fail"}
    finally:
        copy.mend()
