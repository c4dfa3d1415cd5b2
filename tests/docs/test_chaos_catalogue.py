"""The catalogue of faults has each fault once, with proofs that are there, or the reason why it does not run."""

from __future__ import annotations

import re
from pathlib import Path

from tests.kit.every import every

ROOT = Path(__file__).parents[2]
ROWS = [
    line.strip("|").split("|")
    for line in (ROOT / "docs/reference/chaos-catalogue.md").read_text().splitlines()
    if line.startswith("| C")
]


def test_each_fault_has_its_row() -> None:
    assert [row[0].strip() for row in ROWS] == [f"C{number:02}" for number in range(1, 35)]


def test_each_proof_is_there() -> None:
    with every() as case:
        for name, _, proof, tier in ROWS:
            with case(name):
                assert re.fullmatch(r" [ABRK](, [ABRK])* ", tier)
                paths = re.findall(r"`([a-z]+/[\w/.-]+)`", proof)
                assert paths or "not run: needs" in proof
                assert [path for path in paths if not (ROOT / path).is_file()] == []


def test_each_experiment_is_in_it() -> None:
    text = "".join(row[2] for row in ROWS)
    assert [
        path.name
        for path in (ROOT / "chaos/experiments").glob("*.yaml")
        if f"/{path.name}`" not in text
    ] == []
