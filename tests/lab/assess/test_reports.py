"""Every format shows the same letter, and can be read by those that it is for."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from postfacta_lab.assess import Bench, check
from postfacta_lab.assess.cli import main
from postfacta_lab.assess.model import CheckResult, Group, Outcome, rubric
from postfacta_lab.assess.report import (
    badge,
    document_of,
    html,
    junit,
    line,
    markdown,
    sarif,
    summary,
)
from postfacta_lab.assess.runner import Run
from tests.lab.assess.test_cli import found

MIXED = found(
    SHUT_1=CheckResult.fails("0 of 8 <b>&\"'| in flight", around_sigterm=[(0.1, 200), (0.2, 0)]),
    SHUT_3=CheckResult.scored(0.5, "half"),
    SECU_3=CheckResult.not_applicable("no [auth]"),
    DEP_2=CheckResult.not_run("no [database]"),
)


def test_junit_skips_what_did_not_run() -> None:
    suite = ET.fromstring(junit(MIXED))  # noqa: S314 - our own
    counts = [suite.get(name) for name in ("tests", "failures", "skipped")]
    assert counts == [str(len(rubric().entries)), "1", "2"]
    failures = [case.get("name") for case in suite if case.find("failure") is not None]
    assert failures == ["SHUT-1 Requests in flight survive SIGTERM"]
    assert sum(case.find("skipped") is not None for case in suite) == 2


# Of OASIS's schema of SARIF 2.1.0, the part that we write; the whole of it found no fault either.
_TEXT = {
    "type": "object",
    "required": ["text"],
    "properties": {"text": {"type": "string"}},
    "additionalProperties": False,
}
_URI = {"type": "string", "format": "uri-reference"}
_PLACE = {
    "type": "object",
    "required": ["physicalLocation"],
    "additionalProperties": False,
    "properties": {
        "physicalLocation": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "artifactLocation": {
                    "type": "object",
                    "properties": {"uri": _URI},
                    "additionalProperties": False,
                },
                "region": {
                    "type": "object",
                    "properties": {"startLine": {"type": "integer", "minimum": 1}},
                    "additionalProperties": False,
                },
            },
        }
    },
}
_RULE = {
    "type": "object",
    "required": ["id"],
    "additionalProperties": False,
    "properties": {
        "id": {"type": "string"},
        "shortDescription": _TEXT,
        "help": _TEXT,
        "properties": {"type": "object"},
    },
}
_DRIVER = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string"},
        "version": {"type": "string"},
        "rules": {"type": "array", "uniqueItems": True, "items": _RULE},
    },
}
_RESULT = {
    "type": "object",
    "required": ["message"],
    "additionalProperties": False,
    "properties": {
        "ruleId": {"type": "string"},
        "level": {"enum": ["none", "note", "warning", "error"]},
        "message": _TEXT,
        "locations": {"type": "array", "items": _PLACE},
    },
}
_RUN = {
    "type": "object",
    "required": ["tool"],
    "additionalProperties": False,
    "properties": {
        "tool": {
            "type": "object",
            "required": ["driver"],
            "properties": {"driver": _DRIVER},
            "additionalProperties": False,
        },
        "results": {"type": "array", "items": _RESULT},
        "properties": {"type": "object"},
    },
}
SARIF = {
    "type": "object", "required": ["version", "runs"], "additionalProperties": False,
    "properties": {"$schema": {"type": "string", "format": "uri"}, "version": {"enum": ["2.1.0"]},
                   "runs": {"type": "array", "items": _RUN}},
}  # fmt: skip


@pytest.mark.parametrize("report", [MIXED, found()])
def test_sarif_is_as_its_schema_says(report: dict[str, Any]) -> None:
    jsonschema_rs.validate(SARIF, json.loads(sarif(report)))


def test_sarif_has_a_place_for_each_result() -> None:
    run = json.loads(sarif(MIXED))["runs"][0]
    assert [(result["ruleId"], result["level"]) for result in run["results"]] == [
        ("SHUT-1", "error"),
        ("SHUT-3", "warning"),
    ]
    assert len(run["tool"]["driver"]["rules"]) == len(rubric().entries)
    for result in run["results"]:
        assert (
            result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "assess.toml"
        )


def test_checks_of_your_own_stand_beside_the_grade(monkeypatch: pytest.MonkeyPatch) -> None:
    async def is_on(bench: Bench) -> CheckResult:
        raise AssertionError(bench)

    monkeypatch.setattr("postfacta_lab.assess.model.GROUPS", added := list[Group]())
    assert check("OWN-1", title="The printer is on")(is_on) is is_on
    run = Run("billing")
    assert added[0].own_entry is not None
    run.own_entries["OWN-1"] = added[0].own_entry
    run.results["OWN-1"] = CheckResult.fails("it is off")
    report = document_of(run)
    assert [(check["id"], check["word"]) for check in report["own"]] == [("OWN-1", "fail")]
    assert "OWN-1" not in {check["id"] for check in report["checks"]}
    assert "The printer is on" in html(report)
    assert "it is off" in markdown(report)


def test_a_terminal_gets_a_line_for_each_check_and_what_was_declared() -> None:
    assert line("SHUT-1", CheckResult.fails("0 of 8")).split() == [
        "-",
        "SHUT-1",
        "fail",
        "0",
        "of",
        "8",
    ]
    assert line("SHUT-1", CheckResult.not_run("busy")).startswith("  SHUT-1  not run ")
    gone = found(
        SECU_2=CheckResult(Outcome.DECLARED, evidence="behind a gateway"),
        DEP_2=CheckResult.not_run(""),
    )
    text = "\n".join(summary(gone))
    assert "declared as not applicable:\n  SECU-2  behind a gateway\n" in text
    assert "A range: some checks did not run" in text
    assert "The way up" not in "\n".join(summary(found()))
    assert "without: " in "\n".join(summary(found(SHUT_1=CheckResult.fails("none"))))
    assert "without: " not in "\n".join(
        summary(found(DATA_3=CheckResult.fails("two")))
    )  # its remedy is the same


def test_markdown_is_a_table() -> None:
    text = markdown(MIXED)
    assert (
        "| SHUT-1 Requests in flight survive SIGTERM | fail | 0 of 8 &lt;b>&\"'\\| in flight |"
        in text
    )
    assert "Passed: SHUT-2" in text


def test_a_name_in_markdown_stays_one_inert_line() -> None:
    named = found()
    named["service"] = "shop\n# <img src=x> [a](http://b.example) `c`"
    first, second, *_ = markdown(named).splitlines()
    assert first.startswith("## shop # &lt;img src=x> \\[a\\](http://b.example) \\`c\\`: ")
    assert second == ""


class Page(HTMLParser):
    """Collect tags, and refuse what is not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)
        if tag not in {"meta", "circle", "rect"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in {"circle", "rect"}:
            assert self.open.pop() == tag


def test_html_is_one_file_without_script() -> None:
    page = Page()
    page.feed(text := html(MIXED))
    assert page.open == []
    assert "script" not in page.seen
    assert "svg" in page.seen
    assert "<b>&" not in text
    assert "http" not in text


@pytest.mark.parametrize("make", [html, junit, sarif, markdown, badge])
@pytest.mark.parametrize(
    ("report", "letter"),
    [
        (found(), "A+"),
        (found(SHUT_1=CheckResult.fails("")), "D+"),
        (found(DEP_2=CheckResult.not_run("")), "B+ … A+"),
    ],
)
def test_every_format_shows_the_same_letter(make: Any, report: dict[str, Any], letter: str) -> None:
    text = make(report)
    assert letter in (json.loads(text)["runs"][0]["properties"]["grade"] if make is sarif else text)


def test_a_badge_is_grey_if_it_is_a_range() -> None:
    assert "range B+ … A+" in (text := badge(found(DEP_2=CheckResult.not_run(""))))
    assert "#616161" in text
    assert "#616161" not in badge(found())


def test_reports_are_made_of_an_old_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old.json").write_text(json.dumps(MIXED))
    options = [
        f"--{name}={tmp_path / name}"
        for name in ("html", "junit", "sarif", "markdown", "badge", "json")
    ]
    assert main(["render", str(tmp_path / "old.json"), *options]) == 0
    assert "The way up:" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {
        "old.json",
        "html",
        "junit",
        "sarif",
        "markdown",
        "badge",
        "json",
    }
    assert json.loads((tmp_path / "json").read_text()) == json.loads(
        (tmp_path / "old.json").read_text()
    )
