"""See that each timeline is still what it was when a revision of its post-mortem was written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from .model import Facts
from .rules import RULES, build

__all__ = ["Revision", "Store", "Verified", "verify", "write_metrics"]


@dataclass(frozen=True, slots=True)
class Revision:
    """What a revision says about its timeline.

    Attributes:
        incident: What people call the incident.
        rev: Its number.
        digest: The timeline's digest when it was written.
        at: The last instant of the timeline then, in microseconds.
        rules: The version of the rules that made the digest.
    """

    incident: str
    rev: int
    digest: str
    at: int
    rules: int


class Store(Protocol):
    """Where facts and revisions are kept."""

    def revised(self) -> AsyncIterator[tuple[Facts, Sequence[Revision]]]:
        """Read every incident that has a post-mortem: its facts and all revisions, as they are at one moment."""
        ...


@dataclass(frozen=True, slots=True)
class Verified:
    """What came out: equal, different, or made under other rules and so not compared."""

    equal: list[Revision] = field(default_factory=list[Revision])
    faults: list[Revision] = field(default_factory=list[Revision])
    other_rules: list[Revision] = field(default_factory=list[Revision])


async def verify(store: Store) -> Verified:
    """Rebuild the timeline that each revision saw from today's facts, and compare the digests."""
    result = Verified()
    async for facts, revisions in store.revised():
        for revision in revisions:
            if revision.rules != RULES:
                result.other_rules.append(revision)
            elif build(facts, as_of=revision.at).digest == revision.digest:
                result.equal.append(revision)
            else:
                result.faults.append(revision)
    return result


def write_metrics(result: Verified, file: Path, *, now: float) -> None:
    """Write the numbers for node_exporter's textfile collector, which reads a whole file or none."""
    registry = CollectorRegistry()
    revisions = Gauge(
        "postfacta_timeline_revisions",
        "Revisions of post-mortems whose timeline was rebuilt, by what came of it.",
        ["result"],
        registry=registry,
    )
    for name, found in (
        ("equal", result.equal),
        ("fault", result.faults),
        ("other_rules", result.other_rules),
    ):
        revisions.labels(name).set(len(found))
    when = Gauge(
        "postfacta_timeline_verified_timestamp_seconds", "When they were rebuilt last.", registry=registry
    )
    when.set(now)
    write_to_textfile(str(file), registry)
