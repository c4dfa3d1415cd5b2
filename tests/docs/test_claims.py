"""What PostFacta claims has a proof each, and what a claim names is there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from docs.claims import Claim, as_table, list_tests, read_claims
from docs.generate import documented, page_text
from pydantic import ValidationError

from deploy.prr.table import read_rows
from tests.kit.every import every

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "docs/reference"
ROWS = {row.id for row in read_rows()}
FAULTS = set(
    re.findall(r"^\| (C\d\d) \|", (FOLDER / "chaos-catalogue.md").read_text(), re.MULTILINE)
)


def claims(page: str) -> Sequence[Claim]:
    return [claim for section in read_claims()[page].values() for claim in section]


def routes() -> set[str]:
    return {re.sub(r":\w+", "", f"{rule.method} {rule.path}") for rule in documented()}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tests": ["test_a.py::test_b"], "rows": ["R01"]},
        {"tests": ["test_a.py::test_b"], "faults": ["C01"]},
        {"command": "make drain"},
        {"rows": ["R01"], "takes": "about 5 s"},
        {"rows": ["R01"], "needs": ["chromium"]},
        {"rows": ["R01"], "proof": "none"},
    ],
    ids=lambda fields: " ".join(fields) or "none",
)
def test_a_claim_has_one_kind_of_proof(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Claim.model_validate({"claim": "it holds", "where": "here", **fields})


def test_each_page_shows_each_of_its_claims() -> None:
    for page, sections in read_claims().items():
        text = page_text(f"docs/reference/{page}.md")
        for section in sections:
            assert as_table(page, section) in text


def test_each_test_that_proves_a_claim_is_there() -> None:
    assert len(list_tests()) > 60
    with every() as case:
        for test in list_tests():
            with case(test):
                file, _, name = test.partition("::")
                text = (ROOT / file).read_text()
                assert re.search(rf"^(async )?def {name}\(", text, re.MULTILINE)


def test_each_route_of_the_api_is_asked_for_and_there() -> None:
    named = re.compile(r"`((?:GET|POST|PUT|PATCH|DELETE) /[^`]*)`")
    asked = {route for claim in claims("specification") for route in named.findall(claim.where)}
    assert asked == routes()


def test_each_route_stands_once_on_the_page_of_the_api() -> None:
    page = page_text("docs/reference/api.md")
    listed = re.findall(r"^\| (\w+) \| `(.+?)` \|", page, re.MULTILINE)
    assert sorted(f"{method} {path}" for method, path in listed) == sorted(routes())


def test_each_row_and_fault_that_proves_a_claim_is_there() -> None:
    named = {row for claim in claims("traceability") for row in claim.rows}
    faults = {fault for claim in claims("traceability") for fault in claim.faults}
    assert named == ROWS  # No row of the review proves nothing.
    assert faults <= FAULTS


def test_each_item_is_built_where_it_says() -> None:
    with every() as case:
        for claim in claims("traceability"):
            with case(claim.claim):
                paths = [ROOT / path for path in re.findall(r"`([^`]+)`", claim.where)]
                pages = [FOLDER / link for link in re.findall(r"\]\(([^)#]+)", claim.where)]
                assert paths or pages or claim.where == "above"
                assert [path for path in (*paths, *pages) if not path.exists()] == []


def test_each_item_of_the_assessment_has_a_line() -> None:
    items = " ".join(claim.claim for claim in claims("traceability"))
    numbers = [f"4.{number} " for number in range(1, 15)]
    numbers += [f"P{(number - 1) // 5}-{number} " for number in range(1, 21)]
    assert [number for number in numbers if number not in items] == []


def test_each_protection_has_its_command_and_duration() -> None:
    assert len(claims("protection")) > 20
    with every() as case:
        for claim in claims("protection"):
            with case(claim.claim):
                assert re.fullmatch(r"(make|pytest) .+", claim.command)
                assert re.fullmatch(r"(about )?\d+ (s|min)", claim.takes)
