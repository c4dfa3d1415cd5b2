"""Judges a history of incidents: the lab's set model, and what may follow what in one incident.

A write records an incident, moves it to another state, or changes its description. The title, which
no two incidents share, is its subject.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from postfacta_lab import durability
from postfacta_lab.durability import Findings, Write

__all__ = ["MOVES", "Action", "Stored", "judge"]

MOVES: Mapping[str, frozenset[str]] = {
    "OPEN": frozenset({"IN_PROGRESS", "RESOLVED", "CLOSED"}),
    "IN_PROGRESS": frozenset({"RESOLVED", "CLOSED"}),
    "RESOLVED": frozenset({"IN_PROGRESS", "CLOSED"}),
    "CLOSED": frozenset({"IN_PROGRESS"}),
}
"""What may follow a state, as the service's documentation says."""


class Action(StrEnum):
    """What a write wants.

    Its content is ``<severity> <description>``, ``<from>><to>``, or the new description.
    """

    CREATE = "create"
    MOVE = "move"
    CHANGE = "change"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored(durability.Stored):
    """An incident as it is read back: where it stands, and its description.

    Its facts are those of the audit log.
    """

    status: str
    description: str


def judge(
    writes: Iterable[Write], stored: Sequence[Stored], *, minimum: int, orphans: Sequence[str] = ()
) -> Findings:
    """Compare the answers of clients with what is there.

    Args:
        writes: The whole history.
        stored: Everything that was read back.
        minimum: How many writes must have been acknowledged before silence means that all is well.
        orphans: Facts whose incident is not there.
    """
    torn = [f"{orphan}: has facts, and no incident" for orphan in orphans]
    torn += [f"{row.subject}: {flaw}" for row in stored for flaw in _flaws(row)]
    return durability.judge(writes, stored, minimum=minimum, torn=torn)


def _flaws(row: Stored) -> Iterator[str]:
    """Check whether an incident agrees with its own facts."""
    if not row.facts or row.facts[0].action != Action.CREATE:
        yield "does not begin with its creation"
        return
    status = "OPEN"
    description = row.facts[0].content.partition(" ")[2]
    for fact in row.facts[1:]:
        if fact.action == Action.CHANGE:
            description = fact.content
        elif fact.action == Action.MOVE:
            before, _, after = fact.content.partition(">")
            if before != status or after not in MOVES.get(before, ()):
                yield f"moved {fact.content} while {status}"
            status = after
        else:
            yield "was created twice"
    if (status, description) != (row.status, row.description):
        yield f"is {row.status} {row.description!r}; its facts say {status} {description!r}"
