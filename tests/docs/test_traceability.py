"""The page on traceability: each item has a place and a proof, and what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

from deploy.prr.table import read_rows
from tests.kit.every import every

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "docs/reference"
ITEMS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (FOLDER / "traceability.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| item |")
]
REVIEWED = re.compile(r'`make prr ONLY="([^"]*)"`')
ROWS = {row.id for row in read_rows()}
FAULTS = set(
    re.findall(r"^\| (C\d\d) \|", (FOLDER / "chaos-catalogue.md").read_text(), re.MULTILINE)
)


def test_each_item_names_its_proof() -> None:
    assert len(ITEMS) > 60
    with every() as case:
        for item, _, proof in ITEMS:
            with case(item):
                rows = [row for found in REVIEWED.findall(proof) for row in found.split()]
                assert rows
                assert [row for row in rows if row not in ROWS] == []
                assert set(re.findall(r"\bC\d\d\b", proof)) <= FAULTS


def test_each_item_is_built_where_it_says() -> None:
    with every() as case:
        for item, built, _ in ITEMS:
            with case(item):
                paths = [ROOT / path for path in re.findall(r"`([^`]+)`", built)]
                pages = [FOLDER / link for link in re.findall(r"\]\(([^)#]+)", built)]
                assert paths or pages or built in {"above", "nothing yet"}
                assert [path for path in (*paths, *pages) if not path.exists()] == []


def test_each_row_of_the_review_proves_something() -> None:
    named = {
        row for *_, proof in ITEMS for found in REVIEWED.findall(proof) for row in found.split()
    }
    assert ROWS - named == set()


def test_each_item_of_the_assessment_has_a_line() -> None:
    items = " ".join(item for item, *_ in ITEMS)
    numbers = [f"4.{number} " for number in range(1, 15)]
    numbers += [f"P{(number - 1) // 5}-{number} " for number in range(1, 21)]
    assert [number for number in numbers if number not in items] == []
