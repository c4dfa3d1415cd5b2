"""A journal of single statements is judged by what is stored."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from chaos.statements import StatementFindings, judge_journal


def judged(outcomes: Mapping[str, str], stored: Mapping[str, int]) -> StatementFindings:
    lines: list[object] = [
        {
            "key": key,
            "way": "statement",
            "outcome": outcome,
            "error": "" if outcome == "ok" else "AnError",
        }
        for key, outcome in outcomes.items()
    ]
    lines.append({"stored": stored, "lost_answers": 3})
    return judge_journal(map(json.dumps, lines), minimum=1)


def test_what_agrees_passes() -> None:
    found = judged({"a": "ok", "b": "fail", "c": "info", "d": "info"}, {"a": 1, "c": 1})
    assert found.findings.verdict == "pass"
    assert (found.findings.unknown, found.findings.unknown_done, found.lost_answers) == (2, 1, 3)
    assert found.told == {"statement: ok": 1, "statement: fail": 1, "statement: info": 2}


@pytest.mark.parametrize(
    ("outcome", "stored", "wrong"),
    [
        ("ok", 0, {"lost"}),
        ("ok", 2, {"doubled"}),
        ("info", 2, {"doubled"}),
        ("fail", 1, {"phantom"}),
    ],
)
def test_what_does_not_agree_is_found(outcome: str, stored: int, wrong: set[str]) -> None:
    found = judged({"a": "ok", "b": outcome}, {"a": 1} | ({"b": stored} if stored else {}))
    assert found.findings.verdict == "fail"
    assert {name for name, texts in found.findings.wrong.items() if texts} == wrong


def test_a_journal_without_an_end_is_no_verdict() -> None:
    with pytest.raises(RuntimeError, match="what is stored"):
        judge_journal(
            [json.dumps({"key": "a", "way": "statement", "outcome": "ok", "error": ""})], minimum=1
        )
