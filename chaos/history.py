"""Judges a history of writes against what is stored afterwards: lost, invented, doubled, torn?

Jepsen's set model, made a little larger. A *write* is what one client wanted: to record an incident, to move it to
another state, to change its description. A *fact* is what the store says has happened. Each incident has one client,
which waits for an outcome before the next write, so the n-th fact of an incident is its version n.

* OK    -- acknowledged: its fact must be there, once, at the acknowledged version, with the same content.
* FAIL  -- certainly not done: no fact of it may be there.
* INFO  -- unknown (time-out, reset, 5xx): at most one fact of it may be there.

Nothing here does any I/O.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

__all__ = [
    "MOVES",
    "Action",
    "Fact",
    "Findings",
    "Outcome",
    "Stored",
    "Write",
    "judge",
]

MOVES: Mapping[str, frozenset[str]] = {
    "OPEN": frozenset({"IN_PROGRESS", "RESOLVED", "CLOSED"}),
    "IN_PROGRESS": frozenset({"RESOLVED", "CLOSED"}),
    "RESOLVED": frozenset({"IN_PROGRESS", "CLOSED"}),
    "CLOSED": frozenset({"IN_PROGRESS"}),
}
"""What may follow a state, as the service's documentation says."""


class Action(StrEnum):
    """What a write wants."""

    CREATE = "create"
    MOVE = "move"
    CHANGE = "change"


class Outcome(StrEnum):
    """What its client knows."""

    OK = "ok"
    FAIL = "fail"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Fact:
    """What happened, or was to happen.

    Attributes:
        action: What was done.
        content: ``<severity> <description>``, ``<from>><to>``, or the new description.
    """

    action: Action
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One write, from its first attempt to what its client knew in the end.

    Attributes:
        incident: The title, which no two incidents share.
        fact: What it wants to be true.
        outcome: What its client knows.
        version: As acknowledged; 0 without an acknowledgement.
        attempts: How often it was sent.
        unknown: Why the outcome of each unclear attempt was not known, such as ``ReadTimeout`` or ``503``.
        resolved: How the client found out after an unclear attempt: ``replayed`` (it had been done), ``repeated``
            (it had not), ``read``; empty if the first attempt was clear.
        fault: What was going on when the outcome was first unknown; empty for nothing.
    """

    incident: str
    fact: Fact
    outcome: Outcome
    version: int = 0
    attempts: int = 1
    unknown: tuple[str, ...] = ()
    resolved: str = ""
    fault: str = ""

    def __str__(self) -> str:
        return f"{self.incident}: {self.fact.action} {self.fact.content!r} (version {self.version})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An incident as it is read back.

    Attributes:
        incident: The title.
        status: Where it stands.
        description: The present one.
        version: As the incident itself says.
        facts: As the audit log says, oldest first.
    """

    incident: str
    status: str
    description: str
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
        torn: Halves that do not fit: a version that is not the number of facts, an illegal or unconnected move,
            a fact without an incident.
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
        """Return it as plain data."""
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
    writes: Iterable[Write], stored: Iterable[Stored], *, minimum: int, orphans: Sequence[str] = ()
) -> Findings:
    """Compare the answers of clients with what is there.

    Args:
        writes: The whole history.
        stored: Everything that was read back.
        minimum: How many writes must have been acknowledged before silence means that all is well.
        orphans: Facts whose incident is not there.
    """
    findings = Findings(minimum=minimum, torn=[f"{orphan}: has facts, and no incident" for orphan in orphans])
    wanted: dict[str, list[Write]] = {}
    for write in writes:
        wanted.setdefault(write.incident, []).append(write)
        _count(findings, write)
    there: dict[str, list[Stored]] = {}
    for found in stored:
        there.setdefault(found.incident, []).append(found)
        _look_at(findings, found)
    for incident, rows in there.items():
        findings.doubled.extend(f"{incident}: {len(rows)} incidents" for _ in rows[1:])
        _compare(findings, wanted.get(incident, ()), rows[0])
    for incident in wanted.keys() - there.keys():
        findings.lost.extend(str(write) for write in wanted[incident] if write.outcome is Outcome.OK)
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
            kind.append(f"{row.incident}: {fact.action} {fact.content!r} at version {at + 1}")


def _look_at(findings: Findings, row: Stored) -> None:
    """Check whether an incident agrees with its own facts."""
    said = f"{row.incident}: "
    if row.version != len(row.facts):
        findings.torn.append(f"{said}version {row.version} after {len(row.facts)} facts")
    if not row.facts or row.facts[0].action is not Action.CREATE:
        findings.torn.append(f"{said}does not begin with its creation")
        return
    status, description = "OPEN", row.facts[0].content.partition(" ")[2]
    for fact in row.facts[1:]:
        if fact.action is Action.CHANGE:
            description = fact.content
        elif fact.action is Action.MOVE:
            before, _, after = fact.content.partition(">")
            if before != status or after not in MOVES.get(before, ()):
                findings.torn.append(f"{said}moved {fact.content} while {status}")
            status = after
        else:
            findings.torn.append(f"{said}was created twice")
    if (status, description) != (row.status, row.description):
        findings.torn.append(
            f"{said}is {row.status} {row.description!r}; its facts say {status} {description!r}"
        )
