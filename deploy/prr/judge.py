"""Decides what a row's answer is, from what was seen: pass, fail, not run, or waived.

It runs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum

from deploy.outcome import NOT_RUN
from deploy.prr.table import Report, Row, Tier, Waiver
from postfacta_lab.verdict import Verdict

__all__ = [
    "Answer", "Finding", "Result", "judge_command", "judge_report", "judge_tests", "verdict", "waived", "worst",
]  # fmt: skip

_NO_SUCH_PROGRAM = 127
_SHOWN = 200


class Result(StrEnum):
    """The answer of a row; only the first of them is a yes."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    NOT_RUN = "not run"
    WAIVED = "waived"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one proof tells, with what it rests on or what was wrong."""

    result: Result
    why: str


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer of a row."""

    row: Row
    result: Result
    why: str
    seconds: float = 0.0


def judge_tests(names: Iterable[str], outcomes: Mapping[str, Answer]) -> Answer:
    """Judge tests by their outcomes, which stand under their ids.

    Each name must have one that ran.
    """
    found: dict[str, Answer] = {}
    for name in names:
        own = {
            test: answer
            for test, answer in outcomes.items()
            if test == name or test.startswith((f"{name}::", f"{name}[", f"{name.rstrip('/')}/"))
        }
        found |= own or {name: Answer(Result.FAIL, "there is no such test")}
    one = worst(
        Answer(answer.result, f"{test}: {answer.why}" if answer.why else test)
        for test, answer in found.items()
    )
    return (
        one if one.result is not Result.PASS else Answer(Result.PASS, f"{len(found)} tests passed")
    )


def judge_command(code: int, output: str, lines: Sequence[str] = ()) -> Answer:
    """Judge a command by its exit code, or by some lines of what a check of a delivery printed."""
    if code == _NO_SUCH_PROGRAM:
        return Answer(Result.NOT_RUN, _last(output))
    if lines:
        return worst(_line(line, output) for line in lines)
    if code == 0:
        return Answer(Result.PASS, "exit code 0")
    result, how = (Result.NOT_RUN, "not run") if code == NOT_RUN else (Result.FAIL, "FAIL")
    said = "; ".join(f"{name} {below}".strip() for name, below in _printed(how, output)) or _last(
        output
    )
    return Answer(result, f"exit code {code}: {said}")


def _line(line: str, output: str) -> Answer:
    for result, word in ((Result.FAIL, "FAIL"), (Result.NOT_RUN, "not run"), (Result.PASS, "pass")):
        for name, said in _printed(word, output):
            if name.startswith(line):
                return Answer(result, f"{name} {said}".strip())
    return Answer(Result.FAIL, f"it printed no line {line!r}: {_last(output)}")


def _printed(how: str, output: str) -> list[tuple[str, str]]:
    """Return the lines of `deploy.outcome` of one result: the name, and what stands below it."""
    found = re.findall(rf"^{how:8} (.*)\n?((?: {{9}}.*\n?)*)", output, re.MULTILINE)
    return [(name, " ".join(below.split())) for name, below in found]


def _last(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    return " ".join(" ".join(lines[-3:]).split())[-300:] or "it said nothing"


def judge_report(report: Report, text: str | None, today: date) -> Answer:
    """Judge the report of a drill by its text and its date; None if there is no such page."""
    if text is None:
        return Answer(Result.NOT_RUN, f"there is no {report.page}: {report.renew}")
    wrong = [
        f"does not say {pattern}"
        for pattern in report.holds
        if not re.search(pattern, text, re.MULTILINE)
    ]
    bad = (re.search(pattern, text, re.MULTILINE) for pattern in report.lacks)
    wrong += [f"says {' '.join(said[0].split())[-_SHOWN:]}" for said in bad if said]
    if wrong:
        return Answer(Result.FAIL, f"{report.page} {wrong[0]}")
    days = [date.fromisoformat(day) for day in re.findall(report.dated, text)]
    if not days:
        return Answer(
            Result.NOT_RUN, f"{report.page} says not when it was measured: {report.renew}"
        )
    # Of several tables, the one that is the oldest counts.
    if not 0 <= (today - min(days)).days <= report.days:
        why = f"{report.page} is of {min(days)}, and may be {report.days} days old: {report.renew}"
        return Answer(Result.NOT_RUN, why)
    return Answer(Result.PASS, f"{report.page} of {min(days)}")


def worst(answers: Iterable[Answer]) -> Answer:
    """Return the answer of several: a failure before what was not run, and that before a pass."""
    found = list(answers)
    for result in (Result.FAIL, Result.NOT_RUN):
        if wrong := [answer.why for answer in found if answer.result is result]:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            return Answer(result, f"{wrong[0]}{more}")
    return Answer(Result.PASS, "; ".join(answer.why for answer in found))


def waived(finding: Finding, waivers: Sequence[Waiver], today: date) -> Finding:
    """Apply the waivers: one in time takes the place of a failure.

    One that ended is a failure by itself.
    """
    for waiver in waivers:
        if waiver.row != finding.row.id:
            continue
        if waiver.until < today:
            why = f"the waiver of {waiver.owner} ended on {waiver.until}: {waiver.reason}"
            return replace(finding, result=Result.FAIL, why=why)
        if finding.result is not Result.PASS:
            why = (
                f"{waiver.reason} ({waiver.owner}, until {waiver.until}); {finding.result}:"
                f" {finding.why}"
            )
            return replace(finding, result=Result.WAIVED, why=why)
    return finding


def verdict(findings: Iterable[Finding], tier: Tier) -> Verdict:
    """Return the verdict of a review, whose value is the exit code.

    A failure of any row decides. What was not run leaves it undecided if the row is of this tier or
    of one before.
    """
    found = list(findings)
    if any(one.result is Result.FAIL for one in found):
        return Verdict.FAIL
    required = [one for one in found if one.row.tier <= tier]
    if not required:
        return Verdict.NOTHING
    return (
        Verdict.INVALID if any(one.result is Result.NOT_RUN for one in required) else Verdict.PASS
    )
