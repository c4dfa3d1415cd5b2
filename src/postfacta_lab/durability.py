"""Judges a history of writes against what is stored afterwards: what was lost, invented, doubled or torn.

Jepsen's set model, made a little larger. A *write* is what one client wanted; a *fact* is what the store says has
happened. Each subject, such as an invoice, has one client, which waits for an outcome before the next write, so the n-th
fact of a subject is its version n.

* OK    -- acknowledged: its fact must be there, once, at the acknowledged version, with the same content.
* FAIL  -- certainly not done: no fact of it may be there.
* INFO  -- unknown (time-out, reset, 5xx): at most one fact of it may be there.

Nothing here does any I/O.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

__all__ = ["Fact", "Findings", "Outcome", "Stored", "Write", "judge"]


class Outcome(StrEnum):
    """What the client of a write knows."""

    OK = "ok"
    FAIL = "fail"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Fact:
    """What happened, or was to happen: an action such as ``create``, and its content."""

    action: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One write, from its first attempt to what its client knew in the end.

    Attributes:
        subject: What it is about, such as the number of an invoice.
        fact: What it wants to be true.
        outcome: What its client knows.
        version: As acknowledged; 0 without an acknowledgement.
        attempts: How often it was sent.
        unknown: Why the outcome of each unclear attempt was not known, such as ``ReadTimeout`` or ``503``.
        resolved: How the client found out after an unclear attempt: ``replayed`` (it had been done), ``repeated``
            (it had not), ``read``; empty if the first attempt was clear.
        fault: What was going on when the outcome was first unknown; empty for nothing.
    """

    subject: str
    fact: Fact
    outcome: Outcome
    version: int = 0
    attempts: int = 1
    unknown: tuple[str, ...] = ()
    resolved: str = ""
    fault: str = ""

    def __str__(self) -> str:
        return f"{self.subject}: {self.fact.action} {self.fact.content!r} (version {self.version})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What is read back of a subject: its version, as it says itself, and its facts, oldest first."""

    subject: str
    version: int
    facts: tuple[Fact, ...]


@dataclass(slots=True, kw_only=True)
class Findings:
    """What is wrong, and what the figures rest on; all five lists are empty in a good run.

    Attributes:
        lost: Acknowledged, and not there.
        phantom: There, but never sent, or certainly refused.
        doubled: There twice.
        mismatched: There with other content than was acknowledged.
        torn: Halves that do not fit: a version that is not the number of facts, and what the caller found by its own rules.
    """

    minimum: int
    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0
    unknown_done: int = 0
    attempts: int = 0
    unclear_attempts: int = 0
    lost: list[str] = field(default_factory=list[str])
    phantom: list[str] = field(default_factory=list[str])
    doubled: list[str] = field(default_factory=list[str])
    mismatched: list[str] = field(default_factory=list[str])
    torn: list[str] = field(default_factory=list[str])
    resolved: Counter[str] = field(default_factory=Counter[str])
    explained: Counter[str] = field(default_factory=Counter[str])

    @property
    def wrong(self) -> dict[str, list[str]]:
        """All that must not be."""
        return {
            "lost": self.lost,
            "phantom": self.phantom,
            "doubled": self.doubled,
            "mismatched": self.mismatched,
            "torn": self.torn,
        }

    def as_json(self) -> dict[str, object]:
        figures = (
            "minimum",
            "acknowledged",
            "refused",
            "unknown",
            "unknown_done",
            "attempts",
            "unclear_attempts",
        )
        return {
            **{name: getattr(self, name) for name in figures},
            **self.wrong,
            "resolved": dict(self.resolved.most_common()),
            "explained": dict(self.explained.most_common()),
        }

    @property
    def verdict(self) -> str:
        """``fail``, ``pass``, or ``unknown`` if too little was acknowledged to tell."""
        if any(self.wrong.values()):
            return "fail"
        return "pass" if self.acknowledged >= self.minimum else "unknown"


def judge(
    writes: Iterable[Write], stored: Iterable[Stored], *, minimum: int, torn: Iterable[str] = ()
) -> Findings:
    """Compare the answers of clients with what is there.

    Args:
        writes: The whole history.
        stored: Everything that was read back.
        minimum: How many writes must have been acknowledged before silence means that all is well.
        torn: What does not fit together by the service's own rules.
    """
    findings = Findings(minimum=minimum, torn=[*torn])
    wanted: dict[str, list[Write]] = {}
    for write in writes:
        wanted.setdefault(write.subject, []).append(write)
        _count(findings, write)
    there: dict[str, list[Stored]] = {}
    for found in stored:
        there.setdefault(found.subject, []).append(found)
        if found.version != len(found.facts):
            findings.torn.append(f"{found.subject}: version {found.version} after {len(found.facts)} facts")
    for subject, rows in there.items():
        findings.doubled.extend(f"{subject}: stored {len(rows)} times" for _ in rows[1:])
        _compare(findings, wanted.get(subject, ()), rows[0])
    for subject in wanted.keys() - there.keys():
        findings.lost.extend(str(write) for write in wanted[subject] if write.outcome is Outcome.OK)
    return findings


def _count(findings: Findings, write: Write) -> None:
    findings.attempts += write.attempts
    findings.unclear_attempts += len(write.unknown)
    findings.acknowledged += write.outcome is Outcome.OK
    findings.refused += write.outcome is Outcome.FAIL
    findings.unknown += write.outcome is Outcome.INFO
    if write.unknown:
        findings.resolved[write.resolved or "by the final reading"] += 1
        findings.explained[f"{write.fault or 'no fault'}: {write.unknown[0]}"] += 1


def _compare(findings: Findings, writes: Sequence[Write], row: Stored) -> None:
    """Assign each fact to the write that made it; what is left over on either side is wrong."""
    claimed: set[int] = set()
    for write in writes:
        if write.outcome is not Outcome.OK:
            continue
        at = write.version - 1
        if not 0 <= at < len(row.facts) or at in claimed:
            findings.lost.append(str(write))
            continue
        claimed.add(at)
        if row.facts[at] != write.fact:
            findings.mismatched.append(f"{write}, but stored is {row.facts[at]}")
    open_ends = [write.fact for write in writes if write.outcome is Outcome.INFO]
    known = {write.fact for write in writes if write.outcome is not Outcome.FAIL}
    for at, fact in enumerate(row.facts):
        if at in claimed:
            continue
        if fact in open_ends:
            open_ends.remove(fact)
            findings.unknown_done += 1
        else:
            kind = findings.doubled if fact in known else findings.phantom
            kind.append(f"{row.subject}: {fact.action} {fact.content!r} at version {at + 1}")
