"""The checks: what `rubric.toml` says of each, its function, the answer, and the grade."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

from ..engine.values import Fields

if TYPE_CHECKING:
    from .bench import Bench

LETTERS = ("F", "D-", "D", "D+", "C-", "C", "C+", "B-", "B", "B+", "A-", "A", "A+")
CAPS = ("D+", "C+", "B+")  # by the level of a gate
_HALF = 0.5  # A gate below this score caps the grade.
_BEST = 97  # Points that an A+ needs.


class Outcome(StrEnum):
    """Whether a check measured anything, and why not."""

    MEASURED = "measured"
    NOT_RUN = "not run"
    NOT_APPLICABLE = "not applicable"
    DECLARED = "declared"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check found: a score in quarters, the evidence in a sentence, numbers for plots.

    And what it took.
    """

    outcome: Outcome
    score: float = 0.0
    evidence: str = ""
    facts: Fields = field(default_factory=dict[str, Any])
    seconds: float = 0.0
    repeats: int = 0

    @classmethod
    def scored(cls, score: float, evidence: str, **facts: Any) -> CheckResult:
        """Return what was measured, its score rounded down to quarters, from 0 to 1."""
        quarters = max(0, min(4, int(score * 4 + 1e-9)))
        return cls(Outcome.MEASURED, quarters / 4, evidence, facts)

    @classmethod
    def share(cls, good: int, total: int, evidence: str, **facts: Any) -> CheckResult:
        """Return the share of what was good; nothing of nothing is no pass."""
        return cls.scored(good / total if total else 0.0, evidence, **facts)

    @classmethod
    def parts(cls, parts: Mapping[str, bool]) -> CheckResult:
        """Return the share of the parts that are there, and name those that are not."""
        missing = [name for name, is_there in parts.items() if not is_there]
        evidence = f"found: {', '.join(parts)}"
        if missing:
            evidence = f"missing: {', '.join(missing)}"
        total = len(parts)
        return cls.share(total - len(missing), total, evidence)

    @classmethod
    def holds(cls, holds: bool, evidence: str, **facts: Any) -> CheckResult:  # noqa: FBT001 - it is the result
        """Return a pass or a failure."""
        return cls.scored(float(holds), evidence, **facts)

    @classmethod
    def passes(cls, evidence: str) -> CheckResult:
        return cls.scored(1.0, evidence)

    @classmethod
    def fails(cls, evidence: str, **facts: Any) -> CheckResult:
        return cls.scored(0.0, evidence, **facts)

    @classmethod
    def within(
        cls,
        value: float,
        evidence: str,
        *,
        full: float,
        half: float,
        sure: bool = False,
    ) -> CheckResult:
        """Return a pass up to `full`, half the points up to `half`, else a failure."""
        score = 0.5 if value <= half else 0.0
        if value <= full:
            score = 1.0
        return cls.scored(score, evidence, value=round(value, 3), sure=sure)

    @classmethod
    def not_run(cls, reason: str) -> CheckResult:
        """Return that this could not be measured here."""
        return cls(Outcome.NOT_RUN, evidence=reason)

    @classmethod
    def not_applicable(cls, reason: str) -> CheckResult:
        """Return that there is nothing to measure, which was itself measured."""
        return cls(Outcome.NOT_APPLICABLE, evidence=reason)

    @property
    def sure(self) -> bool:
        """Whether no lack of processor time can be its cause, as when a process ended."""
        return self.facts.get("sure") is True

    @property
    def word(self) -> str:
        """`pass`, `partial` or `fail` if it was measured; else why it was not."""
        if self.outcome is not Outcome.MEASURED:
            return str(self.outcome)
        if self.score == 1:
            return "pass"
        return "partial" if self.score >= 0.5 else "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A check of the catalogue, or of yours. `weight` is its part of the item's."""

    id: str
    title: str
    item: str
    harden: str
    without: str
    page: str
    does: str = ""
    weight: float = 0.0
    category: str = "Your own"
    gate: int | None = None
    timed: bool = False


@dataclass(frozen=True, slots=True)
class Rubric:
    """Entries by id, in the order of the catalogue."""

    version: int
    categories: Mapping[str, str]
    entries: Mapping[str, Entry]

    @classmethod
    def of(cls, data: Fields) -> Rubric:
        """Share the weight of each item among its checks; a gate counts twice."""
        parts: dict[str, int] = {}
        total_parts = Counter[str]()
        for name, check in data["checks"].items():
            parts[name] = 2 if "gate" in check else 1
            total_parts[check["item"]] += parts[name]
        entries: dict[str, Entry] = {}
        for name, check in data["checks"].items():
            item = data["items"][check["item"]]
            weight = item["weight"] * parts[name] / total_parts[check["item"]]
            prefix, _, _ = name.partition("-")
            category = data["categories"].get(prefix, "")
            fields = {**check, "item": item["title"]}
            entries[name] = Entry(
                id=name,
                category=category,
                weight=weight,
                **fields,
            )
        return cls(data["version"], data["categories"], entries)


@cache
def rubric() -> Rubric:
    file = files("postfacta_lab.assess").joinpath("rubric.toml")
    text = file.read_text(encoding="utf-8")
    return Rubric.of(tomllib.loads(text))


_Scores = Mapping[str, tuple[Entry, float | None]]  # of what applies; None if it was not measured


@dataclass(frozen=True, slots=True)
class Step:
    """Something that would raise the grade.

    A check, the points it gains, and the cap it lifts, if any.
    """

    check: str
    gain: float
    cap: str = ""


@dataclass(frozen=True, slots=True)
class Grade:
    """A letter, or a range of them; points in per cent; how much of the weight was measured."""

    lowest: str
    highest: str
    points: float
    measured: float
    declared: int
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        if self.lowest == self.highest:
            return self.lowest
        return f"{self.lowest} … {self.highest}"


def letter_of(points: float) -> str:
    """Return the letter of the fifth that the points fall into, and the sign of its third.

    A+ is not for points alone.
    """
    if points < 20:
        return "F"
    # Above it each letter has 20 points, a third of them with a minus and a third with a plus.
    place = 1 + int((points - 20) * 3 / 20)
    return LETTERS[min(place, LETTERS.index("A"))]


def is_below(letter: str, least: str) -> bool:
    """Whether a letter is worse than another; `B` as a limit admits B-."""
    floor = f"{least}-" if least in {"A", "B", "C", "D"} else least
    return LETTERS.index(letter) < LETTERS.index(floor)


def grade(catalogue: Rubric, results: Mapping[str, CheckResult]) -> Grade:
    """Grade the results of a catalogue; what is missing was not run."""
    scores: dict[str, tuple[Entry, float | None]] = {}
    for name, entry in catalogue.entries.items():
        result = results.get(name, CheckResult.not_run(""))
        if result.outcome not in {Outcome.NOT_APPLICABLE, Outcome.DECLARED}:
            is_measured = result.outcome is Outcome.MEASURED
            scores[name] = (entry, result.score if is_measured else None)
    total = 0.0
    measured = 0.0
    earned = 0.0
    for entry, score in scores.values():
        total += entry.weight
        if score is not None:
            measured += entry.weight
            earned += entry.weight * score
    total = total or 1.0
    declared = sum(result.outcome is Outcome.DECLARED for result in results.values())
    low = 100 * earned / total
    high = 100 * (earned + total - measured) / total
    lowest = _letter(scores, low, unknown=0.0, best=measured == total and not declared)
    return Grade(
        lowest=lowest,
        highest=_letter(scores, high, unknown=1.0, best=not declared),
        points=100 * earned / measured if measured else 0.0,
        measured=measured / total,
        declared=declared,
        steps=_steps(scores, lowest, total),
    )


def _letter(scores: _Scores, points: float, *, unknown: float, best: bool) -> str:
    letters = [letter_of(points)]
    for entry, measured in scores.values():
        score = unknown if measured is None else measured
        if entry.gate is not None and score < _HALF:
            letters.append(CAPS[entry.gate])
    letter = min(letters, key=LETTERS.index)
    if best and letter == "A" and points >= _BEST:
        return "A+"
    return letter


def _steps(scores: _Scores, letter: str, total: float) -> tuple[Step, ...]:
    """The gates that hold the letter down, then the rest by points gained."""
    steps: list[Step] = []
    for name, (entry, score) in scores.items():
        if score == 1:
            continue
        earned = score or 0.0
        cap = ""
        if entry.gate is not None and earned < _HALF:
            cap = CAPS[entry.gate]
        gain = 100 * entry.weight * (1 - earned) / total
        steps.append(Step(name, gain, cap))
    holding = [cap for cap in CAPS if LETTERS.index(cap) <= LETTERS.index(letter)]
    ranks = {cap: rank for rank, cap in enumerate(holding)}

    def order(step: Step) -> tuple[int, float]:
        return ranks.get(step.cap, len(ranks)), -step.gain

    return tuple(sorted(steps, key=order))


_Need = Literal["read", "write", "stream", "database", "auth", "metrics", "project", "proc"]
_Check = Callable[["Bench"], Awaitable[CheckResult | Mapping[str, CheckResult]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A function with the checks that it answers.

    `fresh` ones get an instance that nothing was done to.
    """

    ids: tuple[str, ...]
    run: _Check
    needs: tuple[_Need, ...] = ()
    fresh: bool = False
    quick: bool = True
    deployed: bool = False
    own_entry: Entry | None = None


GROUPS: list[Group] = []


def group(*ids: str, **options: Any) -> Callable[[_Check], _Check]:
    """Add a function that answers these checks of the catalogue."""

    def add(run: _Check) -> _Check:
        GROUPS.append(Group(ids=ids, run=run, **options))
        return run

    return add


def check(
    name: str,
    *,
    title: str,
    item: str = "Your own",
    remedy: str = "",
    page: str = "",
) -> Callable[[_Check], _Check]:
    """Add a check of your own. It stands beside the grade, and never moves it."""
    entry = Entry(
        id=name,
        title=title,
        item=item,
        harden=remedy,
        without=remedy,
        page=page,
    )
    return group(name, own_entry=entry)
