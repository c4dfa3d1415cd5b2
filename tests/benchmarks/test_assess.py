"""The pages of grades are those of the reports that are kept, and the original stays a D."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.assess.__main__ import PAGE, README, RESULTS, page, readme
from benchmarks.assess.original_service import FILES, write_project


def test_the_pages_show_the_reports_that_are_kept() -> None:
    assert PAGE.read_text() == page()
    assert README.read_text() == readme(README.read_text())


def test_a_readme_without_a_place_for_grades_stays_as_it_is() -> None:
    assert readme("# A project\n") == "# A project\n"


def test_the_original_is_a_d_and_what_is_hardened_an_a() -> None:
    found = {path.stem: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}
    ends = {
        name: (each["grade"]["lowest"][0], each["grade"]["highest"][0])
        for name, each in found.items()
    }
    assert ends["original"] == ends["fastapi-postgres"] == ("D", "D")
    assert ends["fastapi-postgres-harden"] == ("A", "A")
    assert ends["postfacta"][1] == "A"
    gates = [
        check["id"]
        for check in found["postfacta"]["checks"]
        if check["gate"] is not None and check["word"] == "fail"
    ]
    assert gates == []  # a busy machine may leave some not run, which makes a range


def test_the_original_has_files_to_judge(tmp_path: Path) -> None:
    write_project(tmp_path)
    assert all((tmp_path / name).is_file() for name in FILES)
