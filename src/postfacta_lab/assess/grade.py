"""Points, letter, caps, range and the way up, from verdicts alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .model import Entry, Outcome, Rubric, Verdict

__all__ = ["CAPS", "LETTERS", "Grade", "Step", "grade", "is_below", "letter_of"]

LETTERS = ("F", "D-", "D", "D+", "C-", "C", "C+", "B-", "B", "B+", "A-", "A", "A+")
CAPS = ("D+", "C+", "B+")  # by the level of a gate
_HALF = 0.5
_BEST = 97
_Scores = Mapping[str, tuple[Entry, float | None]]  # of what applies; None if it was not measured


@dataclass(frozen=True, slots=True)
class Step:
    """Something that would raise the grade: a check, the points it gains, and the cap it lifts, if any."""

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
        return self.lowest if self.lowest == self.highest else f"{self.lowest} … {self.highest}"


def letter_of(points: float) -> str:
    """Return the letter of the fifth that the points fall into, and the sign of its third; A+ is not for points alone."""
    return "F" if points < 20 else LETTERS[min(1 + int((points - 20) * 3 / 20), LETTERS.index("A"))]


def is_below(letter: str, least: str) -> bool:
    """Whether a letter is worse than another; `B` as a limit admits B-."""
    floor = f"{least}-" if least in {"A", "B", "C", "D"} else least
    return LETTERS.index(letter) < LETTERS.index(floor)


def grade(rubric: Rubric, verdicts: Mapping[str, Verdict]) -> Grade:
    """Grade the verdicts of a catalogue; what is missing was not run."""
    scores: dict[str, tuple[Entry, float | None]] = {}
    for name, entry in rubric.entries.items():
        verdict = verdicts.get(name, Verdict.not_run(""))
        if verdict.outcome not in {Outcome.NOT_APPLICABLE, Outcome.DECLARED}:
            scores[name] = entry, verdict.score if verdict.outcome is Outcome.MEASURED else None
    total = sum(entry.weight for entry, _ in scores.values()) or 1.0
    known = sum(entry.weight for entry, score in scores.values() if score is not None)
    earned = sum(entry.weight * score for entry, score in scores.values() if score is not None)
    declared = sum(verdict.outcome is Outcome.DECLARED for verdict in verdicts.values())
    low, high = 100 * earned / total, 100 * (earned + total - known) / total
    lowest = _letter(scores, low, unknown=0.0, best=known == total and not declared)
    return Grade(
        lowest=lowest,
        highest=_letter(scores, high, unknown=1.0, best=not declared),
        points=100 * earned / known if known else 0.0,
        measured=known / total,
        declared=declared,
        steps=_steps(scores, lowest, total),
    )


def _letter(scores: _Scores, points: float, *, unknown: float, best: bool) -> str:
    caps = [
        CAPS[entry.gate]
        for entry, score in scores.values()
        if entry.gate is not None and (unknown if score is None else score) < _HALF
    ]
    letter = min([letter_of(points), *caps], key=LETTERS.index)
    return "A+" if best and letter == "A" and points >= _BEST else letter


def _steps(scores: _Scores, letter: str, total: float) -> tuple[Step, ...]:
    """The gates that hold the letter down, then the rest by points gained."""
    steps: list[Step] = []
    for name, (entry, score) in scores.items():
        if score != 1:
            cap = CAPS[entry.gate] if entry.gate is not None and (score or 0) < _HALF else ""
            steps.append(Step(name, 100 * entry.weight * (1 - (score or 0)) / total, cap))
    holding = [cap for cap in CAPS if LETTERS.index(cap) <= LETTERS.index(letter)]
    ranks = {cap: rank for rank, cap in enumerate(holding)}
    return tuple(sorted(steps, key=lambda step: (ranks.get(step.cap, len(ranks)), -step.gain)))
