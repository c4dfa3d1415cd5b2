"""Verify the recorded timeline digest of each post-mortem revision."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from .model import Facts
from .rules import RULES, build

__all__ = ["Revision", "Verified", "verify", "write_metrics"]


@dataclass(frozen=True, slots=True)
class Revision:
    """The timeline state recorded in a revision."""

    incident: str  # the incident's reference
    rev: int  # the number of the revision
    digest: str  # the digest of the timeline when the revision was written
    at: int  # the last instant of that timeline, in microseconds
    rules: int  # the version of the rules of the digest


@dataclass(frozen=True, slots=True)
class Verified:
    """The results: equal, different, or written under other rules and not compared."""

    equal: list[Revision] = field(default_factory=list[Revision])
    faults: list[Revision] = field(default_factory=list[Revision])
    other_rules: list[Revision] = field(default_factory=list[Revision])


async def verify(revised: AsyncIterator[tuple[Facts, Sequence[Revision]]]) -> Verified:
    """Rebuild the timeline of each revision from the facts of its incident and compare the digests."""
    result = Verified()
    async for facts, revisions in revised:
        for revision in revisions:
            if revision.rules != RULES:
                result.other_rules.append(revision)
            elif build(facts, as_of=revision.at).digest == revision.digest:
                result.equal.append(revision)
            else:
                result.faults.append(revision)
    return result


def write_metrics(result: Verified, file: Path, *, now: float) -> None:
    registry = CollectorRegistry()
    told = "Post-mortem revisions whose timeline was rebuilt, by result."
    revisions = Gauge("postfacta_timeline_revisions", told, ["result"], registry=registry)
    results = {"equal": result.equal, "fault": result.faults, "other_rules": result.other_rules}
    for name, found in results.items():
        revisions.labels(name).set(len(found))
    when = Gauge(
        "postfacta_timeline_verified_timestamp_seconds", "Time of the last verification.", registry=registry
    )
    when.set(now)
    write_to_textfile(str(file), registry)
