"""Points, letter, caps, range and the way up, from verdicts alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .model import Outcome, Verdict
from .rubric import Entry, Rubric

__all__ = ["LETTERS", "Grade", "Step", "grade", "is_below", "letter_of"]

LETTERS = ("F", "D-", "D", "D+", "C-", "C", "C+", "B-", "B", "B+", "A-", "A", "A+")
_CAPS = ("D+", "C+", "B+")
_HALF = 0.5
_BEST = 97


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

    @property
    def is_range(self) -> bool:
        """Whether what did not run could change the letter."""
        return self.lowest != self.highest

    def __str__(self) -> str:
        return f"{self.lowest} … {self.highest}" if self.is_range else self.lowest


def letter_of(points: float) -> str:
    """Return the letter of the fifth that the points fall into, and the sign of its third; A+ is not for points alone."""
    fifth = min(int(points // 20), 4)
    if fifth == 0:
        return "F"
    third = min(int((points - fifth * 20) // (20 / 3)), 2)
    letter = "FDCBA"[fifth] + ("-", "", "+")[third]
    return "A" if letter == "A+" else letter


def is_below(letter: str, least: str) -> bool:
    """Whether a letter is worse than another; `B` as a limit admits B-."""
    floor = f"{least}-" if least in {"A", "B", "C", "D"} else least
    return LETTERS.index(letter) < LETTERS.index(floor)


def grade(rubric: Rubric, verdicts: Mapping[str, Verdict]) -> Grade:
    """Grade the verdicts of a catalogue; what is missing was not run."""
    relevant = {
        name: (entry, _score(verdicts.get(name)))
        for name, entry in rubric.entries.items()
        if verdicts.get(name, Verdict.not_run("")).outcome not in {Outcome.NOT_APPLICABLE, Outcome.DECLARED}
    }
    total = sum(entry.weight for entry, _ in relevant.values()) or 1.0
    known = sum(entry.weight for entry, score in relevant.values() if score is not None)
    earned = sum(entry.weight * score for entry, score in relevant.values() if score is not None)
    declared = sum(verdict.outcome is Outcome.DECLARED for verdict in verdicts.values())
    complete = known == total and not declared
    low, high = (
        _end(relevant, 100 * (earned + missing) / total, unknown)
        for missing, unknown in ((0.0, 0.0), (total - known, 1.0))
    )
    return Grade(
        lowest=_plus(low, 100 * earned / total, may=complete),
        highest=_plus(high, 100 * (earned + total - known) / total, may=not declared),
        points=100 * earned / known if known else 0.0,
        measured=known / total,
        declared=declared,
        steps=_steps(relevant, low, total),
    )


def _score(verdict: Verdict | None) -> float | None:
    return verdict.score if verdict is not None and verdict.outcome is Outcome.MEASURED else None


def _end(relevant: Mapping[str, tuple[Entry, float | None]], points: float, unknown: float) -> str:
    letter = letter_of(points)
    for entry, score in relevant.values():
        if entry.gate is not None and (unknown if score is None else score) < _HALF:
            letter = min(letter, _CAPS[entry.gate], key=LETTERS.index)
    return letter


def _plus(letter: str, points: float, *, may: bool) -> str:
    return "A+" if may and letter == "A" and points >= _BEST else letter


def _steps(relevant: Mapping[str, tuple[Entry, float | None]], letter: str, total: float) -> tuple[Step, ...]:
    """The gates that hold the letter down, then the rest by points gained."""
    steps = [
        Step(
            name,
            100 * entry.weight * (1 - (score or 0)) / total,
            _CAPS[entry.gate] if entry.gate is not None and (score or 0) < _HALF else "",
        )
        for name, (entry, score) in relevant.items()
        if score != 1
    ]
    holding = {cap for cap in _CAPS if LETTERS.index(cap) <= LETTERS.index(letter)}
    return tuple(sorted(steps, key=lambda step: (_rank(step, holding), -step.gain)))


def _rank(step: Step, holding: set[str]) -> int:
    return _CAPS.index(step.cap) if step.cap in holding else len(_CAPS)
