"""What a check answers, and what a run of them found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

__all__ = ["Outcome", "Result", "Verdict", "quarters"]


class Outcome(StrEnum):
    """Whether a check measured anything, and why not."""

    MEASURED = "measured"
    NOT_RUN = "not run"
    NOT_APPLICABLE = "not applicable"
    DECLARED = "declared"
    ERROR = "error"


def quarters(share: float) -> float:
    """Round a share down to quarters, from 0 to 1."""
    return max(0, min(4, int(share * 4 + 1e-9))) / 4


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found: a score from 0 to 1 in quarters, the evidence in a sentence, and numbers for plots."""

    outcome: Outcome
    score: float = 0.0
    evidence: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def scored(cls, score: float, evidence: str, **facts: Any) -> Verdict:
        """Return what was measured, its score rounded down to quarters."""
        return cls(Outcome.MEASURED, quarters(score), evidence, facts)

    @classmethod
    def share(cls, good: int, of: int, evidence: str, **facts: Any) -> Verdict:
        """Return the share of what was good; nothing of nothing is no pass."""
        return cls.scored(good / of if of else 0.0, evidence, **facts)

    @classmethod
    def holds(cls, holds: bool, evidence: str, **facts: Any) -> Verdict:  # noqa: FBT001 - it is the verdict
        """Return a pass or a failure."""
        return cls.scored(float(holds), evidence, **facts)

    @classmethod
    def passes(cls, evidence: str, **facts: Any) -> Verdict:
        return cls(Outcome.MEASURED, 1.0, evidence, facts)

    @classmethod
    def fails(cls, evidence: str, **facts: Any) -> Verdict:
        return cls(Outcome.MEASURED, 0.0, evidence, facts)

    @classmethod
    def within(cls, value: float, evidence: str, *, full: float, half: float, sure: bool = False) -> Verdict:
        """Return a pass up to `full`, half the points up to `half`, else a failure."""
        score = 1.0 if value <= full else 0.5 if value <= half else 0.0
        return cls.scored(score, evidence, value=round(value, 3), sure=sure)

    @classmethod
    def not_run(cls, why: str) -> Verdict:
        """Return that this could not be measured here."""
        return cls(Outcome.NOT_RUN, evidence=why)

    @classmethod
    def not_applicable(cls, why: str) -> Verdict:
        """Return that there is nothing to measure, which was itself measured."""
        return cls(Outcome.NOT_APPLICABLE, evidence=why)

    @property
    def sure(self) -> bool:
        """Whether no lack of processor time can have made it, as when a process ended or an answer was wrong."""
        return self.facts.get("sure") is True

    @property
    def word(self) -> str:
        """`pass`, `partial` or `fail` if it was measured; else why it was not."""
        if self.outcome is not Outcome.MEASURED:
            return str(self.outcome)
        return "pass" if self.score == 1 else "partial" if self.score >= 0.5 else "fail"


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict of one check, with what it took."""

    check: str
    verdict: Verdict
    seconds: float = 0.0
    repeats: int = 0
