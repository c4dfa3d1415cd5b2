"""The error-budget policy is what its page says, and is about objectives that exist."""

from __future__ import annotations

import re
from datetime import date, timedelta
from pathlib import Path

import yaml

from postfacta_slo.promise.openslo import read
from postfacta_slo.status.gate import Gate, read_policy
from tests.kit.due import overdue

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/error-budget-policy.md").read_text()
FILE = yaml.safe_load((ROOT / "deploy/slo/policy.yaml").read_text())
POLICY = read_policy(FILE)


def rows(heading: str) -> list[list[str]]:
    """The rows of the table below a heading, without its head."""
    section = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_its_review_is_overdue_from_the_day_after_its_last() -> None:
    def lines(today: date) -> list[str]:
        return [line for line in overdue(today) if line.startswith("error-budget policy")]

    assert lines(FILE["review_by"]) == []
    assert len(lines(FILE["review_by"] + timedelta(days=1))) == 1


def test_it_is_reviewed_twice_a_year() -> None:
    assert 0 < (FILE["review_by"] - FILE["reviewed"]).days <= 185


def test_the_page_names_the_same_owner_and_the_same_days() -> None:
    facts = dict(re.findall(r"^\| ([a-z ]+) \| ([^|]+) \|$", PAGE, re.MULTILINE))
    assert facts["owner"] == FILE["owner"]
    assert date.fromisoformat(facts["last reviewed"]) == FILE["reviewed"]
    assert date.fromisoformat(facts["next review by"]) == FILE["review_by"]


def test_the_page_says_of_each_level_what_the_file_says() -> None:
    told = {row[0]: row for row in rows("What happens")}
    floors = [level.floor for level in POLICY.levels]
    assert [*told] == [*(level.name for level in POLICY.levels), "no data"]
    assert floors == [0.5, 0.25, 0.0, None]
    assert [told[level.name][1] for level in POLICY.levels] == [
        "50 % or more", "from 25 % to 50 %", "more than 0, less than 25 %", "nothing",
    ]  # fmt: skip
    for level in POLICY.levels:
        assert told[level.name][2] == (
            "go ahead" if level.gate is Gate.OPEN else "stop, unless exempt"
        )
        assert told[level.name][3] == level.effect


def test_the_page_and_the_file_agree_on_shares_and_exemptions() -> None:
    assert PAGE.count(f"more than {FILE['incident_share']:.0%}".replace("%", " %")) == 2
    assert FILE["incident_share"] == FILE["outage_share"]
    assert all(f"`{label}`" in PAGE for label in FILE["exempt"])


def test_the_page_tells_the_exit_codes_of_the_gate() -> None:
    assert [int(row[0]) for row in rows("How to ask")] == sorted(Gate)


def test_each_objective_of_the_policy_exists_with_the_aim_that_the_page_tells() -> None:
    model = read(yaml.safe_load_all((ROOT / "deploy/slo/postfacta.openslo.yaml").read_text()))
    objectives = {one.name: one for one in model.objectives if one.service.name == POLICY.service}
    aims = {row[0]: row[1:] for row in rows("What counts")}
    assert {*POLICY.objectives} == {*aims}
    for name in POLICY.objectives:
        assert objectives[name].period == POLICY.window
        assert aims[name][0].startswith(f"{objectives[name].target:.0%}".replace("%", " % of "))
        assert "432 minutes" in aims[name][1]
        assert round(objectives[name].budget * POLICY.window / 60) == 432
