"""The page about adding an alert: promtool runs its rule, and the tests of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.ops.alerting.rules import ROOT, needs_promtool, ran

PAGE = ROOT / "docs/how-to/add-an-alert.md"
BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@needs_promtool
@pytest.mark.usefixtures("programs")
def test_the_rule_of_the_page_fires_and_is_silent_as_it_says(tmp_path: Path) -> None:
    rule, tests = BLOCK.findall(PAGE.read_text())
    (tmp_path / "page.yml").write_text(f"groups:\n  - name: page\n    rules:\n{rule}")
    head = "rule_files: [page.yml]\nevaluation_interval: 15s\ntests:\n"
    (tmp_path / "page.test.yml").write_text(head + tests)
    lint = ("--lint=all", "--lint-fatal")
    checked = ran("promtool", "check", "rules", *lint, str(tmp_path / "page.yml"))
    assert checked.returncode == 0, checked.stderr
    tested = ran("promtool", "test", "rules", str(tmp_path / "page.test.yml"))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_the_page_names_places_that_are_there() -> None:
    places = set(re.findall(r"`((?:chaos|deploy|docs)/[\w/.-]+)`", PAGE.read_text()))
    places.remove("docs/runbooks/PostfactaLoopBlocked.md")  # It would be the new one's.
    assert len(places) >= 6
    assert [place for place in sorted(places) if not (ROOT / place).exists()] == []
