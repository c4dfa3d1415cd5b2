"""The readiness review: its table, and what it makes of what was seen."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from deploy.prr.judge import (
    Answer,
    Finding,
    Result,
    judge_command,
    judge_report,
    judge_tests,
    verdict,
    waived,
    worst,
)
from deploy.prr.running import outcomes
from deploy.prr.table import (
    Absent,
    Command,
    Report,
    Row,
    Suite,
    TableError,
    Tier,
    Waiver,
    read_rows,
    read_waivers,
)
from postfacta_lab.verdict import Verdict
from tests.deploy.prr_saboteurs import SABOTEURS
from tests.kit.every import every

ROOT = Path(__file__).parents[2]
ROWS = read_rows()
TODAY = date(2026, 11, 28)
ROW = Row("R01", "Is it so?", Tier.FAST, (Command("true"),))
REPORT = Report("docs/a.md", "make a", holds=("0 failed",), lacks=(r"\*\*no\*\*",), days=30)
PASS, FAIL, NOT_RUN = (
    Answer(result, f"{result}") for result in (Result.PASS, Result.FAIL, Result.NOT_RUN)
)


# The table


def test_each_row_names_what_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    with every() as case:
        for row in ROWS:
            for proof in row.proofs:
                with case(row.id, proof.shown):
                    if isinstance(proof, Suite):
                        for name in proof.names:
                            file, _, function = name.partition("::")
                            text = (ROOT / file).read_text()
                            assert not function or f"def {function}(" in text
                    elif isinstance(proof, Report):
                        # Drills that are still to come have neither a page nor a target.
                        assert not (ROOT / proof.page).exists() or re.search(
                            rf"^(define )?(drill-)?{proof.renew.split()[-1].removeprefix('ONLY=')}[:\s]",
                            makefile,
                            re.MULTILINE,
                        )
                        for pattern in (*proof.holds, *proof.lacks, proof.dated):
                            re.compile(pattern)


def test_each_row_has_a_saboteur_that_finds_what_it_breaks(tmp_path: Path) -> None:
    answered = {
        row.id for row in ROWS if not any(isinstance(proof, Absent) for proof in row.proofs)
    }
    assert SABOTEURS.keys() == answered
    with every() as case:
        for name, saboteur in SABOTEURS.items():
            with case(name, saboteur.file):
                file = tmp_path / saboteur.file
                file.parent.mkdir(parents=True, exist_ok=True)
                if saboteur.old:
                    file.write_text((ROOT / saboteur.file).read_text())
                saboteur.strike(tmp_path)


def test_a_report_whose_subject_is_broken_fails() -> None:
    reports = [(row, proof) for row in ROWS for proof in row.proofs if isinstance(proof, Report)]
    assert len(reports) > 10
    with every() as case:
        for row, proof in reports:
            with case(row.id):
                saboteur = SABOTEURS[row.id]
                assert saboteur.file == proof.page
                page = ROOT / proof.page
                sound = page.read_text() if page.is_file() else ""
                broken = sound.replace(saboteur.old, saboteur.new) if saboteur.old else saboteur.new
                assert judge_report(proof, broken, TODAY).result is Result.FAIL
                # Drills that are still to come have no page.
                assert not sound or judge_report(proof, sound, TODAY).result is not Result.FAIL


def test_a_row_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    file = tmp_path / "checks.yaml"
    sound = "R01:\n  question: Is it so?\n  command: 'true'\n"
    file.write_text(sound)
    assert read_rows(file) == [ROW]
    broken = {
        "its question": sound.replace("?", ""),
        "its tier": f"{sound}  tier: slow\n",
        "nothing answers it": sound.replace("  command: 'true'\n", ""),
        "there is no line": sound.replace("'true'", "{run: a, line: b}"),
        "it lacks run": sound.replace("'true'", "{lines: [b]}"),
        "proof cannot": sound.replace("command", "proof"),
        "tests cannot": sound.replace("command: 'true'", "tests: []"),
        "no mapping": "R01: 3",
        "checks.yaml:": "R01: [",
    }
    with every() as case:
        for said, text in broken.items():
            with case(said):
                file.write_text(text)
                with pytest.raises(TableError, match=said):
                    read_rows(file)


def test_a_waiver_has_a_row_a_reason_an_owner_and_an_end(tmp_path: Path) -> None:
    file = tmp_path / "waivers.yaml"
    sound = "- {row: R01, reason: It is booked, owner: Ada, until: 2026-12-31}\n"
    file.write_text(sound)
    assert read_waivers(file, rows=[ROW]) == [
        Waiver("R01", "It is booked", "Ada", date(2026, 12, 31))
    ]
    broken = {
        "of R02, which": sound.replace("R01", "R02"),
        "lacks owner": sound.replace("owner: Ada, ", ""),
        "lacks reason": sound.replace("It is booked", "''"),
        "until is a day": sound.replace("2026-12-31", "soon"),
        "no mapping": "- R01\n",
    }
    with every() as case:
        for said, text in broken.items():
            with case(said):
                file.write_text(text)
                with pytest.raises(TableError, match=said):
                    read_waivers(file, rows=[ROW])


# What it makes of what was seen


def test_tests_pass_if_each_of_them_ran_and_passed() -> None:
    ran = {
        "tests/a.py::test_one": PASS,
        "tests/a.py::test_two[1]": PASS,
        "tests/a.py::test_two[2]": FAIL,
        "tests/b.py::test_three": NOT_RUN,
        "tests/ab.py::test_four": FAIL,
    }
    expected = {
        ("tests/a.py::test_one",): Result.PASS,
        ("tests/a.py",): Result.FAIL,
        ("tests/a.py::test_two",): Result.FAIL,
        ("tests/b.py",): Result.NOT_RUN,
        ("tests/a.py::test_one", "tests/b.py"): Result.NOT_RUN,
        ("tests/a.py", "tests/b.py"): Result.FAIL,
        ("tests/a.py::test_on",): Result.FAIL,
        ("tests/c.py",): Result.FAIL,
    }
    with every() as case:
        for names, result in expected.items():
            with case(names):
                assert judge_tests(names, ran).result is result


def test_a_report_of_pytest_is_read_with_its_skips_and_its_errors_of_import() -> None:
    text = """<testsuites><testsuite>
        <testcase classname="tests.a.test_b" name="test_one[x]"/>
        <testcase classname="tests.a.test_b" name="test_two"><failure message="assert  1 == 2"/></testcase>
        <testcase classname="tests.a.test_b" name="test_three"><skipped message="no promtool"/></testcase>
        <testcase classname="" name="tests.a.test_c"><error message="collection failure">no module</error></testcase>
    </testsuite></testsuites>"""
    assert outcomes(text) == {
        "tests/a/test_b.py::test_one[x]": Answer(Result.PASS, ""),
        "tests/a/test_b.py::test_two": Answer(Result.FAIL, "assert 1 == 2"),
        "tests/a/test_b.py::test_three": Answer(Result.NOT_RUN, "no promtool"),
        "tests/a/test_c.py": Answer(Result.FAIL, "collection failure"),
    }


OUTPUT = """pass     licences: 70
FAIL     bill of materials
         anyio: 4.16 is locked
not run  advisories
         no index
"""


def test_a_command_is_judged_by_its_code_or_by_its_lines() -> None:
    assert judge_command(0, OUTPUT) == Answer(Result.PASS, "exit code 0")
    assert judge_command(77, OUTPUT) == Answer(Result.NOT_RUN, "exit code 77: advisories no index")
    # The lines that failed, and not the last ones of many.
    assert judge_command(1, OUTPUT) == Answer(
        Result.FAIL, "exit code 1: bill of materials anyio: 4.16 is locked"
    )
    assert judge_command(127, "sh: 1: promtool: not found") == Answer(
        Result.NOT_RUN, "sh: 1: promtool: not found"
    )
    assert judge_command(2, "") == Answer(Result.FAIL, "exit code 2: it said nothing")
    assert judge_command(1, OUTPUT, ["licences"]).result is Result.PASS
    assert judge_command(1, OUTPUT, ["advisories"]) == Answer(Result.NOT_RUN, "advisories no index")
    assert judge_command(1, OUTPUT, ["licences", "bill of materials"]) == Answer(
        Result.FAIL, "bill of materials anyio: 4.16 is locked"
    )
    assert judge_command(0, OUTPUT, ["secrets"]).result is Result.FAIL


def test_a_report_counts_for_its_days_and_is_then_not_run() -> None:
    text = "Measured on 2026-11-01.\n\n10 requests, 0 failed\n"
    expected = {
        text: Result.PASS,
        text.replace("11-01", "10-29"): Result.PASS,
        text.replace("11-01", "10-28"): Result.NOT_RUN,
        text.replace("11-01", "11-29"): Result.NOT_RUN,
        text.replace("Measured", "Written"): Result.NOT_RUN,
        f"{text}Measured on 2026-01-01": Result.NOT_RUN,
        text.replace("0 failed", "1 failed"): Result.FAIL,
        f"{text}| a | **no** |": Result.FAIL,
        # A failure is one, however old it is.
        text.replace("11-01", "10-01").replace("0 failed", "1 failed"): Result.FAIL,
    }
    with every() as case:
        for page, result in expected.items():
            with case(page):
                assert judge_report(REPORT, page, TODAY).result is result
    assert judge_report(REPORT, None, TODAY) == Answer(
        Result.NOT_RUN, "there is no docs/a.md: make a"
    )


def test_the_worst_answer_decides() -> None:
    assert worst([PASS, NOT_RUN, FAIL, FAIL]) == Answer(Result.FAIL, "fail (and 1 more)")
    assert worst([PASS, NOT_RUN]) == NOT_RUN
    assert worst([PASS, PASS]) == Answer(Result.PASS, "pass; pass")


def test_a_waiver_holds_until_its_day_and_fails_after_it() -> None:
    waiver = Waiver("R01", "It is booked", "Ada", TODAY)
    failed, passed = (Finding(ROW, result, "seen") for result in (Result.FAIL, Result.PASS))
    found = waived(failed, [waiver], TODAY)
    assert (found.result, found.why) == (
        Result.WAIVED,
        "It is booked (Ada, until 2026-11-28); fail: seen",
    )
    assert waived(passed, [waiver], TODAY) == passed
    assert waived(failed, [replace(waiver, row="R02")], TODAY) == failed
    ended = replace(waiver, until=date(2026, 11, 27))
    for finding in (failed, passed):
        found = waived(finding, [ended], TODAY)
        assert (found.result, found.why) == (
            Result.FAIL,
            "the waiver of Ada ended on 2026-11-27: It is booked",
        )


def test_the_exit_code_tells_failed_from_not_run() -> None:
    fast, full = ROW, replace(ROW, tier=Tier.FULL)
    cases: list[tuple[list[tuple[Row, Result]], Tier, Verdict]] = [
        ([(fast, Result.PASS), (fast, Result.WAIVED)], Tier.FAST, Verdict.PASS),
        ([(fast, Result.PASS), (full, Result.NOT_RUN)], Tier.FAST, Verdict.PASS),
        ([(fast, Result.PASS), (full, Result.NOT_RUN)], Tier.FULL, Verdict.INVALID),
        ([(fast, Result.NOT_RUN)], Tier.FAST, Verdict.INVALID),
        ([(fast, Result.NOT_RUN), (full, Result.FAIL)], Tier.FAST, Verdict.FAIL),
        ([(full, Result.PASS)], Tier.FAST, Verdict.NOTHING),
        ([], Tier.MANUAL, Verdict.NOTHING),
    ]
    with every() as case:
        for rows, tier, expected in cases:
            with case(rows, tier):
                assert verdict([Finding(row, result, "") for row, result in rows], tier) is expected
