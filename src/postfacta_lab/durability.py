"""Judges a history of writes against what is stored afterwards.

What was lost, invented, doubled or torn.

Jepsen's set model, made a little larger. A *write* is what one client wanted; a *fact* is what the
store says has happened. Each subject, such as an invoice, has one client, which waits for an
outcome before the next write, so the n-th fact of a subject is its version n.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

_KINDS = ("lost", "phantom", "doubled", "mismatched", "torn")


class Outcome(StrEnum):
    """What the client of a write knows."""

    OK = "ok"  # acknowledged: its fact must be there, once, at this version, with the same content
    FAIL = "fail"  # certainly not done: no fact of it may be there
    INFO = "info"  # unknown (time-out, reset, 5xx): at most one fact of it may be there


@dataclass(frozen=True, slots=True)
class Fact:
    """What happened, or was to happen: an action such as ``create``, and its content."""

    action: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One write, from its first attempt to what its client knew in the end."""

    subject: str  # what it is about, such as the number of an invoice
    fact: Fact
    outcome: Outcome
    version: int = 0  # as acknowledged
    attempts: int = 1
    # Why the outcome of each unclear attempt was not known: `ReadTimeout`, `503`.
    unknown: tuple[str, ...] = ()
    resolved: str = (
        ""  # how the client found out then: `replayed` (it was done), `repeated` (not), `read`
    )
    fault: str = ""  # what was going on when the outcome was first unknown

    def __str__(self) -> str:
        return f"{self.subject}: {self.fact.action} {self.fact.content!r} (version {self.version})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What is read back of a subject.

    Its version, as it says itself, and its facts, oldest first.
    """

    subject: str
    version: int
    facts: tuple[Fact, ...]


@dataclass(kw_only=True)
class Findings:
    """What is wrong, by kind, and what the figures rest on.

    Torn is a version that is not the number of facts, and what the caller found by its own rules.
    """

    minimum: int
    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0
    unknown_done: int = 0  # of the unknown ones
    attempts: int = 0
    unclear_attempts: int = 0
    wrong: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in _KINDS})
    resolved: Counter[str] = field(
        default_factory=Counter[str]
    )  # unclear ones, by how clients found out
    explained: Counter[str] = field(default_factory=Counter[str])  # likewise, by what was going on

    def as_json(self) -> dict[str, object]:
        figures = {name: value for name, value in vars(self).items() if name != "wrong"}
        return {**figures, **self.wrong}

    @property
    def verdict(self) -> str:
        """``fail``, ``pass``, or ``unknown`` if too little was acknowledged to tell."""
        if any(self.wrong.values()):
            return "fail"
        return "pass" if self.acknowledged >= self.minimum else "unknown"


def judge(
    writes: Iterable[Write],
    stored: Iterable[Stored],
    *,
    minimum: int,
    torn: Iterable[str] = (),
) -> Findings:
    """Compare the whole history of writes with everything that was read back.

    Fewer acknowledged writes than the minimum say nothing; `torn` is what does not fit by the
    service's own rules.
    """
    history = list(writes)
    outcomes = Counter(write.outcome for write in history)
    unclear = [write for write in history if write.unknown]
    findings = Findings(
        minimum=minimum,
        acknowledged=outcomes[Outcome.OK],
        refused=outcomes[Outcome.FAIL],
        unknown=outcomes[Outcome.INFO],
        attempts=sum(write.attempts for write in history),
        unclear_attempts=sum(len(write.unknown) for write in unclear),
        resolved=Counter(write.resolved or "by the final reading" for write in unclear),
        explained=Counter(f"{write.fault or 'no fault'}: {write.unknown[0]}" for write in unclear),
    )
    findings.wrong["torn"] += torn
    writes_by_subject: dict[str, list[Write]] = {}
    for write in history:
        writes_by_subject.setdefault(write.subject, []).append(write)
    stored_by_subject: dict[str, Stored] = {}
    for row in stored:
        if row.version != len(row.facts):
            flaw = f"{row.subject}: version {row.version} after {len(row.facts)} facts"
            findings.wrong["torn"].append(flaw)
        if row.subject in stored_by_subject:
            findings.wrong["doubled"].append(f"{row.subject}: stored once more")
        stored_by_subject.setdefault(row.subject, row)
    for subject in {**writes_by_subject, **stored_by_subject}:
        row = stored_by_subject.get(subject, Stored(subject=subject, version=0, facts=()))
        _compare(findings, writes_by_subject.get(subject, ()), row)
    return findings


def _compare(findings: Findings, writes: Sequence[Write], row: Stored) -> None:
    """Assign each fact to the write that made it; what is left over on either side is wrong."""
    left = dict(enumerate(row.facts, 1))
    for write in writes:
        if write.outcome is Outcome.OK:
            fact = left.pop(write.version, None)
            if fact is None:
                findings.wrong["lost"].append(str(write))
            elif fact != write.fact:
                findings.wrong["mismatched"].append(f"{write}, but stored is {fact}")
    open_ends = [write.fact for write in writes if write.outcome is Outcome.INFO]
    possible = {write.fact for write in writes if write.outcome is not Outcome.FAIL}
    for version, fact in left.items():
        if fact in open_ends:
            open_ends.remove(fact)
            findings.unknown_done += 1
        else:
            kind = "doubled" if fact in possible else "phantom"
            findings.wrong[kind].append(
                f"{row.subject}: {fact.action} {fact.content!r} at version {version}"
            )
