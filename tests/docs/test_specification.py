"""What the page on the specification names is there: routes, and tests that can be run."""

from __future__ import annotations

import re
from pathlib import Path

from docs.generate import documented, page_text

from tests.kit.every import every

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/reference/specification.md").read_text()
NAMED = sorted(set(re.findall(r"`([\w./]+\.py)::(\w+)`", PAGE)))


def routes() -> set[str]:
    return {re.sub(r":\w+", "", f"{rule.method} {rule.path}") for rule in documented()}


def test_each_proof_can_be_run() -> None:
    with every() as case:
        for file, name in NAMED:
            with case(file, name):
                text = (ROOT / "tests/app" / file).read_text()
                assert re.search(rf"^(async )?def {name}\(", text, re.MULTILINE)


def test_each_row_names_a_proof() -> None:
    rows = [
        line
        for line in PAGE.splitlines()
        if line.startswith("| ") and not line.startswith("| requirement")
    ]
    assert len(rows) > 50
    assert [row for row in rows if "::test_" not in row] == []


def test_each_route_of_the_api_is_asked_for_and_there() -> None:
    assert set(re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) /[^`]*)`", PAGE)) == routes()


def test_each_route_stands_once_on_the_page_of_the_api() -> None:
    page = page_text("docs/reference/api.md")
    told = re.findall(r"^\| (\w+) \| `(.+?)` \|", page, re.MULTILINE)
    assert sorted(f"{method} {path}" for method, path in told) == sorted(routes())
